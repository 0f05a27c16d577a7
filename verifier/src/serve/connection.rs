//! One connection, from what the listener gave to its end.

use std::{
    fmt,
    future::{Future, pending},
    pin::{Pin, pin},
    sync::Arc,
    time::Duration,
};

use http::{Request, Response};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::conn::auto::Builder,
};
use tokio::time::timeout;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::debug;

use super::{
    Incoming, PrepareError, Prepared, Protocol, ServeCounters, ServeOptions,
    admission::Slot,
    io::WriteDeadline,
    request::{Activity, PerRequest, with_room},
    standing::Standing,
    taken_over::{TakenOver, Watched},
};
use crate::lifetime::{Lifetime, Phase};

/// What all connections of a server share.
#[derive(Debug)]
pub(super) struct Connections<I> {
    pub(super) incoming: I,
    options: ServeOptions,
    stop: CancellationToken,
    either: Builder<Streams>,
    http1: http1::Builder,
    http2: Builder<Streams>,
}

/// Where HTTP/2 streams run: tasks that the server knows of, whose panics are counted.
#[derive(Clone, Debug)]
pub(super) struct Streams {
    tasks: TaskTracker,
    counters: Arc<ServeCounters>,
}

impl Streams {
    pub(super) fn new(tasks: TaskTracker, counters: Arc<ServeCounters>) -> Self {
        Self { tasks, counters }
    }

    /// Waits until all are gone, at most `limit`.
    pub(super) async fn finished(&self, limit: Duration) {
        self.tasks.close();
        let _ = timeout(limit, self.tasks.wait()).await;
    }
}

impl<F> hyper::rt::Executor<F> for Streams
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, stream: F) {
        let counted = CountPanic(Arc::clone(&self.counters));
        drop(self.tasks.spawn(async move {
            let _counted = counted;
            stream.await
        }));
    }
}

/// Counts when it is dropped by a panic. tokio ends the panic at the task.
struct CountPanic(Arc<ServeCounters>);

impl Drop for CountPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.panicked();
            tracing::error!("a request's handler panicked; its stream is reset, the others are not affected");
        }
    }
}

impl<I> Connections<I> {
    pub(super) fn new(incoming: I, options: ServeOptions, streams: Streams, stop: CancellationToken) -> Self {
        let either = either(&options, streams);
        let (http1, http2) = (http1(&options), either.clone().http2_only());
        Self { incoming, options, stop, either, http1, http2 }
    }
}

impl<I: Incoming> Connections<I> {
    /// Prepares `raw`, serves it to its end.
    pub(super) async fn run<S, B>(self: Arc<Self>, raw: I::Raw, mut slot: Slot, service: S)
    where
        S: tower_service::Service<Request<hyper::body::Incoming>, Response = Response<B>> + Clone + Send + 'static,
        S::Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send + 'static,
        S::Future: Send + 'static,
        B: http_body::Body + Send + Unpin + 'static,
        B::Data: Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let Some(mut prepared) = self.prepare(raw, &slot).await else { return };
        if !prepared.stranger {
            if slot.opened() {
                self.serve(prepared, service).await;
            }
            return;
        }
        if !slot.serves_stranger() {
            return;
        }
        let standing = Standing::stranger();
        prepared.extensions.insert(standing.clone());
        let mut served = pin!(self.serve(prepared, service));
        tokio::select! {
            () = slot.dropped().cancelled() => return,
            () = served.as_mut() => return,
            () = standing.is_known() => {}
        }
        if slot.opened() {
            served.await;
        }
    }

    async fn prepare(&self, raw: I::Raw, slot: &Slot) -> Option<Prepared<I::Io>> {
        // Boxed: its size shall not stay with the connection for its whole life.
        let preparing = Box::pin(timeout(self.options.prepare_deadline, self.incoming.prepare(raw)));
        let prepared = tokio::select! {
            biased;
            () = slot.dropped().cancelled() => return None,
            prepared = preparing => prepared,
        };
        match prepared {
            Ok(Ok(prepared)) => return Some(prepared),
            Ok(Err(error)) => error.log(),
            Err(late) => PrepareError::broken("not-prepared-in-time", late).log(),
        }
        self.options.counters.failed_to_prepare();
        None
    }

    async fn serve<S, B>(&self, prepared: Prepared<I::Io>, service: S)
    where
        S: tower_service::Service<Request<hyper::body::Incoming>, Response = Response<B>> + Clone + Send + 'static,
        S::Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send + 'static,
        S::Future: Send + 'static,
        B: http_body::Body + Send + Unpin + 'static,
        B::Data: Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let Prepared { io, extensions, mut lifetime, protocol, stranger: _ } = prepared;
        let activity = Arc::new(Activity::default());
        let taken_over = TakenOver::default();
        let extensions = with_room(extensions);
        let service =
            PerRequest { service, extensions, activity: Arc::clone(&activity), taken_over: taken_over.clone() };
        let io = TokioIo::new(Watched::new(WriteDeadline::new(io, self.options.write_stall), &taken_over));
        // The builder for either knows its protocol only from the client's first bytes, whatever it was told: where the protocol is agreed on,
        // nothing else is understood, and in HTTP/2 the server speaks first. No handler can take an HTTP/2 connection over.
        let phase = match protocol {
            None => {
                let connection = self.either.serve_connection_with_upgrades(io, service);
                self.drive(connection, |connection| connection.graceful_shutdown(), &activity, &mut lifetime).await
            }
            Some(Protocol::Http1) => {
                let connection = self.http1.serve_connection(io, service).with_upgrades();
                self.drive(connection, |connection| connection.graceful_shutdown(), &activity, &mut lifetime).await
            }
            Some(Protocol::Http2) => {
                let connection = self.http2.serve_connection(io, service);
                self.drive(connection, |connection| connection.graceful_shutdown(), &activity, &mut lifetime).await
            }
        };
        if let Some(phase) = phase.filter(|_| taken_over.can_be()) {
            self.follow(&taken_over, &mut lifetime, phase).await;
        }
    }

    /// Serves a connection until it has ended by itself, or its time has come. In the first case the phase that it was in: a handler may have
    /// taken it over.
    async fn drive<C, E>(
        &self,
        connection: C,
        finish: impl Fn(Pin<&mut C>),
        activity: &Activity,
        lifetime: &mut Lifetime,
    ) -> Option<Phase>
    where
        C: Future<Output = Result<(), E>>,
        E: fmt::Display,
    {
        let mut connection = pin!(connection);
        let mut idle = pin!(activity.idle_for(self.options.idle));
        let (mut phase, mut finishing, mut rested) = (lifetime.phase(), false, false);
        let mut goodbye = pin!(async {
            let _ = timeout(GOODBYE, pending::<()>()).await;
        });
        loop {
            let time_to_finish = tokio::select! {
                biased;
                next = lifetime.changed_from(phase) => {
                    phase = next;
                    match next {
                        Phase::Open => false,
                        Phase::Closing(reason) => {
                            debug!(reason = reason.code(), "asking a connection to finish");
                            true
                        }
                        Phase::Ended(reason) => {
                            debug!(reason = reason.code(), "cut a connection");
                            self.options.counters.cut();
                            return None;
                        }
                    }
                }
                ended = connection.as_mut() => {
                    if let Err(error) = ended {
                        debug!(%error, "connection ended with an error");
                    }
                    return Some(phase);
                }
                () = self.stop.cancelled(), if !finishing => true,
                () = idle.as_mut(), if !finishing => {
                    rested = true;
                    true
                }
                // One that rested and does not even say goodbye.
                () = goodbye.as_mut(), if rested => return None,
            };
            if time_to_finish && !finishing {
                finishing = true;
                finish(connection.as_mut());
            }
        }
    }

    /// A connection that a handler took over, if one did, to its end: it stays in its place, and is bound as before. Dropping this cuts it.
    async fn follow(&self, taken_over: &TakenOver, lifetime: &mut Lifetime, mut phase: Phase) {
        let cut = taken_over.cut_on_drop();
        let mut not_allowed = pin!(taken_over.no_longer_allowed());
        let mut gone = pin!(taken_over.gone());
        loop {
            tokio::select! {
                biased;
                () = gone.as_mut() => return,
                () = not_allowed.as_mut() => debug!("cut a connection whose caller may no longer have it"),
                next = lifetime.changed_from(phase) => match next {
                    Phase::Open | Phase::Closing(_) => {
                        phase = next;
                        continue;
                    }
                    Phase::Ended(reason) => debug!(reason = reason.code(), "cut a connection"),
                },
            }
            self.options.counters.cut();
            drop(cut);
            return;
        }
    }
}

/// How long a connection at rest may take to say goodbye.
const GOODBYE: Duration = Duration::from_secs(5);
/// The most headers of an HTTP/1.1 request, and the most bytes of all of them.
const MOST_HEADERS: usize = 100;
const MOST_HEAD_BYTES: usize = 64 * 1024;

fn http1(options: &ServeOptions) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(options.header_deadline)
        .max_headers(MOST_HEADERS)
        .max_buf_size(MOST_HEAD_BYTES)
        .half_close(false)
        .keep_alive(true);
    builder
}

fn either(options: &ServeOptions, streams: Streams) -> Builder<Streams> {
    let mut builder = Builder::new(streams);
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(options.header_deadline)
        .max_headers(MOST_HEADERS)
        .max_buf_size(MOST_HEAD_BYTES)
        .half_close(false)
        .keep_alive(true);
    let http2 = &options.http2;
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(http2.concurrent_streams)
        .max_header_list_size(http2.header_list_bytes)
        .max_pending_accept_reset_streams(http2.pending_resets)
        .max_local_error_reset_streams(http2.local_resets)
        .initial_stream_window_size(http2.stream_window)
        .initial_connection_window_size(http2.connection_window)
        .max_send_buf_size(http2.send_buffer)
        .keep_alive_interval(http2.ping_interval)
        .keep_alive_timeout(http2.ping_timeout);
    builder
}
