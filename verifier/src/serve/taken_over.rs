//! Connections that a handler takes over: after an `Upgrade` it speaks another protocol on them, a WebSocket's for one.
//!
//! hyper hands such a connection to the handler, and would let it go. Here it is followed until it is closed, and cut when its time
//! comes: at the end of a credential, and when whoever allowed it says so.

use std::{
    fmt,
    future::{Future, pending},
    io,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Waker},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::Notify,
};

type Until = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What the server and the one who took a connection over share. Stands in the extensions of each request that asks for another protocol.
#[derive(Clone, Debug, Default)]
pub(crate) struct TakenOver(Arc<Shared>);

#[derive(Default)]
struct Shared {
    /// A request asked for another protocol. Before that the server owns the stream, and dropping it is enough.
    may_be: AtomicBool,
    is_cut: AtomicBool,
    is_gone: AtomicBool,
    gone: Notify,
    /// Of the reader and of the writer.
    waiting: Mutex<[Option<Waker>; 2]>,
    until: Mutex<Option<Until>>,
}

impl TakenOver {
    /// It is allowed until `until` is over. A later request on the same connection takes the place of an earlier one.
    #[cfg_attr(not(feature = "tower"), allow(dead_code, reason = "the authorization layer says it"))]
    pub(crate) fn until(&self, until: impl Future<Output = ()> + Send + 'static) {
        *self.0.until.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::pin(until));
    }

    pub(super) fn may_be(&self) {
        self.0.may_be.store(true, Ordering::Release);
    }

    pub(super) fn can_be(&self) -> bool {
        self.0.may_be.load(Ordering::Acquire)
    }

    /// Returns when it is allowed no longer; never if nobody said how long it is.
    pub(super) async fn no_longer_allowed(&self) {
        let until = self.0.until.lock().unwrap_or_else(PoisonError::into_inner).take();
        match until {
            Some(until) => until.await,
            None => pending().await,
        }
    }

    /// Returns when the stream is closed.
    pub(super) async fn gone(&self) {
        loop {
            let gone = self.0.gone.notified();
            if self.0.is_gone.load(Ordering::Acquire) {
                return;
            }
            gone.await;
        }
    }

    pub(super) fn cut_on_drop(&self) -> CutOnDrop {
        CutOnDrop(self.clone())
    }
}

/// Cuts the stream, whoever has it.
pub(super) struct CutOnDrop(TakenOver);

impl Drop for CutOnDrop {
    fn drop(&mut self) {
        let shared = &self.0.0;
        shared.is_cut.store(true, Ordering::Release);
        let waiting = std::mem::take(&mut *shared.waiting());
        waiting.into_iter().flatten().for_each(Waker::wake);
    }
}

impl Shared {
    fn waiting(&self) -> MutexGuard<'_, [Option<Waker>; 2]> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An error once it is cut; until then the task in this place is woken by that.
    fn check(&self, place: usize, cx: &mut Context<'_>) -> io::Result<()> {
        if self.may_be.load(Ordering::Acquire)
            && let Some(slot) = self.waiting().get_mut(place)
        {
            *slot = Some(cx.waker().clone());
        }
        if self.is_cut.load(Ordering::Acquire) {
            return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the connection may no longer be used"));
        }
        Ok(())
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TakenOver")
            .field("is_cut", &self.is_cut)
            .field("is_gone", &self.is_gone)
            .finish_non_exhaustive()
    }
}

/// A stream that is followed.
#[derive(Debug)]
pub(super) struct Watched<T> {
    io: T,
    shared: Arc<Shared>,
}

impl<T> Watched<T> {
    pub(super) fn new(io: T, taken_over: &TakenOver) -> Self {
        Self { io, shared: Arc::clone(&taken_over.0) }
    }
}

impl<T> Drop for Watched<T> {
    fn drop(&mut self) {
        self.shared.is_gone.store(true, Ordering::Release);
        self.shared.gone.notify_waiters();
    }
}

const READER: usize = 0;
const WRITER: usize = 1;

impl<T: AsyncRead + Unpin> AsyncRead for Watched<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.shared.check(READER, cx)?;
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Watched<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.shared.check(WRITER, cx)?;
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.shared.check(WRITER, cx)?;
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.shared.check(WRITER, cx)?;
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.shared.check(WRITER, cx)?;
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
