//! One request: it gets the connection's facts, and the connection learns that it is busy.

use std::{
    future::{Future, pending, poll_fn},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use http::{Extensions, Request, Response, header};
use http_body::{Body, Frame, SizeHint};
use tokio::{sync::Notify, time::timeout};

use super::taken_over::TakenOver;

/// How many requests of a connection are in flight, their answers' bodies included. A request wakes nobody by its begin and its end, which would
/// cost it a turn of the scheduler and often another thread: whoever waits for the connection to rest looks now and then.
#[derive(Debug, Default)]
pub(super) struct Activity {
    active: AtomicUsize,
    /// Requests until now; it may wrap around.
    begun: AtomicUsize,
    /// Whether the end of the last one in flight is waited for.
    awaited: AtomicBool,
    ended: Notify,
}

impl Activity {
    fn begin(self: &Arc<Self>) -> InFlight {
        self.active.fetch_add(1, Ordering::SeqCst);
        self.begun.fetch_add(1, Ordering::Release);
        InFlight(Arc::clone(self))
    }

    /// Returns once nothing has been in flight for `limit`, or up to a quarter longer.
    pub(super) async fn idle_for(&self, limit: Duration) {
        let (mut begun, mut looks) = (self.begun.load(Ordering::Acquire), 0);
        while looks < LOOKS {
            self.none_in_flight().await;
            let _ = timeout(limit / LOOKS, pending::<()>()).await;
            let before = std::mem::replace(&mut begun, self.begun.load(Ordering::Acquire));
            let rested = begun == before && self.active.load(Ordering::Acquire) == 0;
            looks = if rested { looks + 1 } else { 0 };
        }
    }

    async fn none_in_flight(&self) {
        loop {
            // In this order, and the other way round at the end of a request, so that one of the two sees the other.
            self.awaited.store(true, Ordering::SeqCst);
            if self.active.load(Ordering::SeqCst) == 0 {
                self.awaited.store(false, Ordering::SeqCst);
                return;
            }
            self.ended.notified().await;
        }
    }
}

/// How often it is looked within the time that a connection may rest.
const LOOKS: u32 = 4;

/// One request in flight.
#[derive(Debug)]
struct InFlight(Arc<Activity>);

impl Drop for InFlight {
    fn drop(&mut self) {
        if self.0.active.fetch_sub(1, Ordering::SeqCst) == 1 && self.0.awaited.load(Ordering::SeqCst) {
            self.0.ended.notify_one();
        }
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

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    /// F-12: a connection rests when no request is in flight, however long the one before took, and not a moment before its time.
    #[tokio::test(start_paused = true)]
    #[expect(clippy::disallowed_methods, reason = "the time that tokio's timers go by, which stands still here")]
    async fn a_connection_rests_between_its_requests_and_not_in_them() {
        const LIMIT: Duration = Duration::from_secs(60);
        let seconds = |seconds| tokio::time::sleep(Duration::from_secs(seconds));
        // (requests as pauses before and lengths, in seconds)
        for requests in [&[][..], &[(0, 0)], &[(59, 1)], &[(10, 600), (59, 0), (0, 61), (30, 5)], &[(1, 1); 90]] {
            let activity = Arc::new(Activity::default());
            let idle = async {
                activity.idle_for(LIMIT).await;
                Instant::now()
            };
            let busy = async {
                for (pause, length) in requests {
                    seconds(*pause).await;
                    let in_flight = activity.begin();
                    seconds(*length).await;
                    drop(in_flight);
                }
                Instant::now()
            };
            let (idle, rests_since) = tokio::join!(idle, busy);
            let rested = idle - rests_since;
            assert!((LIMIT..=LIMIT + LIMIT / LOOKS).contains(&rested), "{requests:?}: {rested:?}");
        }
    }

    /// What another thread ends is seen, whatever it meets.
    #[tokio::test(flavor = "multi_thread")]
    async fn an_end_on_another_thread_is_seen() {
        for _ in 0..2_000 {
            let activity = Arc::new(Activity::default());
            let in_flight = activity.begin();
            let ends = tokio::spawn(async move { drop(in_flight) });
            timeout(Duration::from_secs(30), activity.none_in_flight()).await.expect("it is seen");
            ends.await.unwrap();
        }
    }
}
