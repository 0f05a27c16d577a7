//! One request: it gets the connection's facts, and the connection learns that it is busy.

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use http::{Extensions, Request, Response, header};
use http_body::{Body, Frame, SizeHint};
use tokio::{sync::Notify, time::timeout};

use super::taken_over::TakenOver;

/// How many requests of a connection are in flight, their answers' bodies included.
#[derive(Debug, Default)]
pub(super) struct Activity {
    active: AtomicUsize,
    changed: Notify,
}

impl Activity {
    fn begin(self: &Arc<Self>) -> InFlight {
        self.active.fetch_add(1, Ordering::AcqRel);
        self.changed.notify_one();
        InFlight(Arc::clone(self))
    }

    /// Returns once nothing has been in flight for `limit`.
    pub(super) async fn idle_for(&self, limit: Duration) {
        loop {
            if self.active.load(Ordering::Acquire) > 0 {
                self.changed.notified().await;
            } else if timeout(limit, self.changed.notified()).await.is_err() && self.active.load(Ordering::Acquire) == 0
            {
                return;
            }
        }
    }
}

/// One request in flight.
#[derive(Debug)]
struct InFlight(Arc<Activity>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Ordering::AcqRel);
        self.0.changed.notify_one();
    }
}

/// The service as one connection calls it.
#[derive(Debug)]
pub(super) struct PerRequest<S> {
    pub(super) service: S,
    pub(super) extensions: Extensions,
    pub(super) activity: Arc<Activity>,
    pub(super) taken_over: TakenOver,
}

/// The facts of a connection, with room beside them for what layers add to a request: each request begins with a clone, and that it
/// has to grow would be an allocation more.
pub(super) fn with_room(mut facts: Extensions) -> Extensions {
    #[derive(Clone)]
    struct Room<const N: usize>;
    facts.insert(Room::<0>);
    facts.insert(Room::<1>);
    facts.insert(Room::<2>);
    facts.insert(Room::<3>);
    facts.remove::<Room<0>>();
    facts.remove::<Room<1>>();
    facts.remove::<Room<2>>();
    facts.remove::<Room<3>>();
    facts
}

impl<S, B> hyper::service::Service<Request<hyper::body::Incoming>> for PerRequest<S>
where
    S: tower_service::Service<Request<hyper::body::Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
    B: Body + Unpin,
{
    type Response = Response<InFlightBody<B>>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn call(&self, mut request: Request<hyper::body::Incoming>) -> Self::Future {
        let in_flight = self.activity.begin();
        request.extensions_mut().extend(self.extensions.clone());
        if request.headers().contains_key(header::UPGRADE) {
            self.taken_over.may_be();
            request.extensions_mut().insert(self.taken_over.clone());
        }
        let mut service = self.service.clone();
        Box::pin(async move {
            poll_fn(|cx| service.poll_ready(cx)).await?;
            let response = service.call(request).await?;
            Ok(response.map(|body| InFlightBody { body, _in_flight: in_flight }))
        })
    }
}

/// An answer's body, in flight until it is dropped.
#[derive(Debug)]
pub(super) struct InFlightBody<B> {
    body: B,
    _in_flight: InFlight,
}

impl<B: Body + Unpin> Body for InFlightBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
