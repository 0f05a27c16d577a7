//! Until when a connection may live.
//!
//! A connection never outlives the credentials it was made with. Its end comes in two steps: first it is *closing* (it is
//! asked to finish: GOAWAY, `Connection: close`, a signal to whoever holds a raw stream), then it *ended* and is cut.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Why a connection has to end.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum EndReason {
    /// The own SVID it was made with expires.
    OwnSvidExpires,
    /// A certificate in the peer's chain expires.
    PeerExpires,
    /// The authority that the peer's chain ended at is no longer in the trust bundle.
    AuthorityWithdrawn,
    /// The own SVID was taken back, or is now another identity's.
    OwnSvidWithdrawn,
    /// Something else that the connection was bound to came to its end; the word is a stable code.
    Other(&'static str),
}

impl EndReason {
    /// A stable word for logs.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::OwnSvidExpires => "own-svid-expires",
            Self::PeerExpires => "peer-expires",
            Self::AuthorityWithdrawn => "authority-withdrawn",
            Self::OwnSvidWithdrawn => "own-svid-withdrawn",
            Self::Other(code) => code,
        }
    }
}

impl fmt::Display for EndReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

/// Where a connection stands.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Phase {
    /// Nothing is known against it.
    Open,
    /// It shall finish what it is doing and take on nothing new.
    Closing(EndReason),
    /// It shall be cut now.
    Ended(EndReason),
}

/// The end of a connection, awaited.
///
/// Nothing happens unless it is polled: [`serve`](crate::serve) and [`SecuredStream`](crate::tls::SecuredStream) do so.
pub struct Lifetime(Stage);

enum Stage {
    Unbounded,
    Open(Boxed<(EndReason, Boxed<EndReason>)>),
    Closing(EndReason, Boxed<EndReason>),
    Ended(EndReason),
}

impl Lifetime {
    /// Bound to nothing: for connections whose peer is not known by a credential that ends.
    #[must_use]
    pub fn unbounded() -> Self {
        Self(Stage::Unbounded)
    }

    /// Asked to finish when `closing` is done, cut when the future it returns is.
    pub fn new<C, E>(closing: C) -> Self
    where
        C: Future<Output = (EndReason, E)> + Send + 'static,
        E: Future<Output = EndReason> + Send + 'static,
    {
        Self(Stage::Open(Box::pin(async move {
            let (reason, end) = closing.await;
            (reason, Box::pin(end) as Boxed<EndReason>)
        })))
    }

    /// Cut, without being asked first, when `end` is done.
    pub fn ends_with(end: impl Future<Output = EndReason> + Send + 'static) -> Self {
        Self::new(async move {
            let reason = end.await;
            (reason, std::future::ready(reason))
        })
    }

    /// Where the connection stands now. Unless it ended, the task is woken when that changes.
    pub fn poll_phase(&mut self, cx: &mut Context<'_>) -> Phase {
        if let Stage::Open(closing) = &mut self.0
            && let Poll::Ready((reason, end)) = closing.as_mut().poll(cx)
        {
            self.0 = Stage::Closing(reason, end);
        }
        if let Stage::Closing(_, end) = &mut self.0
            && let Poll::Ready(reason) = end.as_mut().poll(cx)
        {
            self.0 = Stage::Ended(reason);
        }
        self.phase()
    }

    /// Where the connection stood when last polled.
    #[must_use]
    pub fn phase(&self) -> Phase {
        match &self.0 {
            Stage::Unbounded | Stage::Open(_) => Phase::Open,
            Stage::Closing(reason, _) => Phase::Closing(*reason),
            Stage::Ended(reason) => Phase::Ended(*reason),
        }
    }

    /// Waits until the phase is another than `seen`. May be dropped at any time.
    pub async fn changed_from(&mut self, seen: Phase) -> Phase {
        std::future::poll_fn(|cx| {
            let phase = self.poll_phase(cx);
            if phase == seen { Poll::Pending } else { Poll::Ready(phase) }
        })
        .await
    }
}

impl fmt::Debug for Lifetime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Lifetime").field(&self.phase()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, task::Waker, time::Duration};

    use super::*;
    use crate::clock::{Clock, ManualClock};

    #[test]
    fn a_lifetime_closes_then_ends() {
        let clock = ManualClock::default();
        let shared: Arc<dyn Clock> = Arc::new(clock.clone());
        let mut lifetime = Lifetime::new(async move {
            shared.sleep_for(Duration::from_secs(10)).await;
            (EndReason::PeerExpires, async move {
                shared.sleep_for(Duration::from_secs(5)).await;
                EndReason::PeerExpires
            })
        });
        let mut cx = Context::from_waker(Waker::noop());
        assert_eq!(lifetime.poll_phase(&mut cx), Phase::Open);
        clock.advance(Duration::from_secs(10));
        assert_eq!(lifetime.poll_phase(&mut cx), Phase::Closing(EndReason::PeerExpires));
        clock.advance(Duration::from_secs(5));
        assert_eq!(lifetime.poll_phase(&mut cx), Phase::Ended(EndReason::PeerExpires));
        assert_eq!(lifetime.poll_phase(&mut cx), Phase::Ended(EndReason::PeerExpires), "it stays ended");
    }

    #[test]
    fn an_abrupt_end_is_seen_at_once() {
        let mut cx = Context::from_waker(Waker::noop());
        let mut lifetime = Lifetime::ends_with(std::future::ready(EndReason::Other("process-ended")));
        assert_eq!(lifetime.poll_phase(&mut cx), Phase::Ended(EndReason::Other("process-ended")));
        assert_eq!(Lifetime::unbounded().poll_phase(&mut cx), Phase::Open);
    }
}
