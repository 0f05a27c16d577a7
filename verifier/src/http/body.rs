//! Bodies that end when their permission does.

use std::{
    fmt, io,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::Grant;

/// The body of an answer: the service's own, or a refusal. One that lasts is cut when [`Grant::ended`] says so.
pub struct GuardedBody<B>(Kind<B>);

enum Kind<B> {
    Refused(Option<Bytes>),
    Inside { body: B, watch: Option<Watch>, begun: bool },
}

/// Follows the permission of a body that lasts.
pub(super) struct Watch {
    grant: Grant,
    /// Made when the body first waits: most never do.
    ended: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl Watch {
    pub(super) fn new(grant: Grant) -> Self {
        Self { grant, ended: None }
    }

    /// Ready when the permission is gone.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let grant = &self.grant;
        let ended = self.ended.get_or_insert_with(|| {
            let grant = grant.clone();
            Box::pin(async move { grant.ended().await })
        });
        ended.as_mut().poll(cx)
    }
}

impl<B> GuardedBody<B> {
    pub(super) fn refused(text: Bytes) -> Self {
        Self(Kind::Refused(Some(text)))
    }

    pub(super) fn inside(body: B, watch: Watch) -> Self {
        Self(Kind::Inside { body, watch: Some(watch), begun: false })
    }

    pub(super) fn unwatched(body: B) -> Self {
        Self(Kind::Inside { body, watch: None, begun: false })
    }
}

/// What a body that was cut ends with.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the caller may no longer have this")]
struct NoLongerAllowed;

impl<B> Body for GuardedBody<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match &mut self.0 {
            Kind::Refused(text) => {
                Poll::Ready(text.take().filter(|text| !text.is_empty()).map(|text| Ok(Frame::data(text))))
            }
            Kind::Inside { body, watch, begun } => {
                let polled = match watch {
                    Some(watch) => watch.grant.within(|| Pin::new(&mut *body).poll_frame(cx)),
                    None => Pin::new(&mut *body).poll_frame(cx),
                };
                // Whatever waits, or has more than one frame, may last; also what always has the next one at hand.
                let lasts = match &polled {
                    Poll::Pending => true,
                    Poll::Ready(Some(_)) => std::mem::replace(begun, true),
                    Poll::Ready(None) => false,
                };
                if let Some(present) = watch
                    && lasts
                    && present.poll(cx).is_ready()
                {
                    self.0 = Kind::Refused(None);
                    let cut = io::Error::new(io::ErrorKind::PermissionDenied, NoLongerAllowed);
                    return Poll::Ready(Some(Err(cut.into())));
                }
                polled.map(|frame| frame.map(|frame| frame.map_err(Into::into)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Refused(text) => text.as_ref().is_none_or(Bytes::is_empty),
            Kind::Inside { body, .. } => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Refused(text) => SizeHint::with_exact(text.as_ref().map_or(0, |text| text.len() as u64)),
            Kind::Inside { body, .. } => body.size_hint(),
        }
    }
}

impl<B> fmt::Debug for GuardedBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Kind::Refused(_) => "GuardedBody(refused)",
            Kind::Inside { .. } => "GuardedBody(inside)",
        })
    }
}
