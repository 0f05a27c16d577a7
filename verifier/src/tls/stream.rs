//! A TLS stream that knows its peer and ends with the credentials it was made with.

use std::{
    fmt,
    future::Future,
    io,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, Wake, Waker},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::TlsStream;

use super::{Peer, lifetime::Bounds};
use crate::{
    clock::Timestamp,
    lifetime::{EndReason, Lifetime, Phase},
};

/// A connection whose peer is known, and that does not outlive the credentials of either side.
///
/// At its closing moment, a tenth of its life and at most 30 s before its end, [`closing`](Self::closing) tells who holds it to
/// finish. At its end (or 3 s after a credential was withdrawn) it is cut: reads and writes fail with
/// [`ConnectionAborted`](io::ErrorKind::ConnectionAborted), whose inner error is [`CredentialEnded`], and the transport is dropped.
#[must_use]
pub struct SecuredStream<T> {
    /// None once it was cut.
    tls: Option<Box<TlsStream<T>>>,
    peer: Peer,
    bounds: Arc<Bounds>,
    lifetime: Lifetime,
    waiting: Arc<Waiting>,
}

/// Who waits on a stream. Its reader, its writer and whoever follows its phase may be three tasks (`tokio::io::split`), and
/// its end is for all of them, not for the last that looked.
#[derive(Debug, Default)]
struct Waiting(Mutex<[Option<Waker>; 3]>);

/// A place in [`Waiting`].
#[derive(Clone, Copy)]
enum For {
    Read,
    Write,
    Phase,
}

impl Waiting {
    fn register(&self, place: For, waker: &Waker) {
        let mut wakers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = wakers.get_mut(place as usize) {
            match slot {
                Some(present) => present.clone_from(waker),
                None => *slot = Some(waker.clone()),
            }
        }
    }
}

impl Wake for Waiting {
    fn wake(self: Arc<Self>) {
        let woken = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        woken.into_iter().flatten().for_each(Waker::wake);
    }
}

/// A connection was cut because a credential ended.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the connection was ended, because a credential that it was made with did ({reason})")]
pub struct CredentialEnded {
    reason: EndReason,
}

impl CredentialEnded {
    /// Which.
    #[must_use]
    pub fn reason(&self) -> EndReason {
        self.reason
    }
}

impl<T> SecuredStream<T> {
    pub(super) fn new(tls: TlsStream<T>, peer: Peer, bounds: Bounds) -> Self {
        let bounds = Arc::new(bounds);
        let lifetime = bounds.lifetime();
        Self { tls: Some(Box::new(tls)), peer, bounds, lifetime, waiting: Arc::default() }
    }

    /// Who is at the other end.
    #[must_use]
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    /// When it ends at the latest.
    #[must_use]
    pub fn ends_at(&self) -> Timestamp {
        self.bounds.ends_at()
    }

    /// The application protocol that was agreed on.
    #[must_use]
    pub fn alpn(&self) -> Option<&[u8]> {
        self.tls.as_ref()?.get_ref().1.alpn_protocol()
    }

    /// What the TLS runs on; none once the connection was cut.
    #[must_use]
    pub fn transport(&self) -> Option<&T> {
        self.tls.as_ref().map(|tls| tls.get_ref().0)
    }

    /// Waits for the moment to finish, and says why. Runs by itself, beside reads and writes.
    pub fn closing(&self) -> impl Future<Output = EndReason> + Send + 'static {
        let bounds = Arc::clone(&self.bounds);
        async move { bounds.closing().await }
    }

    /// Where the connection stands; wakes the task when that changes.
    pub fn poll_phase(&mut self, cx: &mut Context<'_>) -> Phase {
        self.poll_phase_for(For::Phase, cx)
    }

    fn poll_phase_for(&mut self, place: For, cx: &mut Context<'_>) -> Phase {
        self.waiting.register(place, cx.waker());
        let all = Waker::from(Arc::clone(&self.waiting));
        let phase = self.lifetime.poll_phase(&mut Context::from_waker(&all));
        if matches!(phase, Phase::Ended(_)) {
            self.tls = None;
        }
        phase
    }

    /// Takes it apart: whoever takes the stream has to end it when the lifetime does.
    #[cfg(feature = "serve")]
    pub(crate) fn into_parts(self) -> Option<(Box<TlsStream<T>>, Peer, Lifetime)> {
        self.tls.map(|tls| (tls, self.peer, self.lifetime))
    }

    /// The TLS stream, unless the end has come.
    fn live(&mut self, place: For, cx: &mut Context<'_>) -> io::Result<&mut TlsStream<T>> {
        match (self.poll_phase_for(place, cx), self.tls.as_mut()) {
            (Phase::Open | Phase::Closing(_), Some(tls)) => Ok(tls),
            (Phase::Ended(reason), _) | (Phase::Closing(reason), None) => {
                Err(io::Error::new(io::ErrorKind::ConnectionAborted, CredentialEnded { reason }))
            }
            (Phase::Open, None) => Err(io::ErrorKind::NotConnected.into()),
        }
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncRead for SecuredStream<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.live(For::Read, cx)?).poll_read(cx, buf)
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for SecuredStream<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(self.live(For::Write, cx)?).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(self.live(For::Write, cx)?).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.live(For::Write, cx)?).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.live(For::Write, cx)?).poll_shutdown(cx)
    }
}

impl<T> fmt::Debug for SecuredStream<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecuredStream")
            .field("peer", &self.peer)
            .field("ends_at", &format_args!("{}", self.ends_at()))
            .field("phase", &self.lifetime.phase())
            .finish_non_exhaustive()
    }
}
