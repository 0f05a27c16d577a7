//! The current SVID and trust bundles, kept up to date.
//!
//! An [`Identity`] is a snapshot that is swapped whole: what reads it (handshakes, mostly) never waits, and what has it open
//! sees one consistent state. It is filled by one of these sources:
//!
//! | source | what for |
//! | --- | --- |
//! | [`Identity::connect`], [`Identity::spawn`] | the SPIFFE Workload API: how a workload gets its identity |
//! | [`Identity::from_files`] | files that something else renews |
//! | [`Identity::published`] | a program that makes its own, as our CA and agent do |
//! | [`Identity::fixed`], [`Identity::bundles_only`] | values that never change: tests, tools, callers without a certificate |

#[cfg(feature = "tokio")]
pub mod files;
mod fixed;
mod published;
#[cfg(feature = "workload-api")]
pub mod workload_api;

use std::{
    fmt,
    future::{Future, poll_fn},
    pin::pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::Poll,
    time::Duration,
};

use arc_swap::ArcSwap;
use rustls::{CommonState, crypto::CryptoProvider, sign::CertifiedKey};

pub use self::published::Publisher;
use crate::{
    clock::{Clock, Timestamp, WaiterKey, Waiters},
    spiffe::{BundleSet, SpiffeId},
    tls::PeerError,
    x509::{PresentedChain, VerifiedChains, VerifiedPeer, X509Svid},
};

/// Who we are and whom we can verify, now and after every renewal. Cheap to clone; clones are the same identity.
#[derive(Clone)]
pub struct Identity {
    shared: Arc<Shared>,
    /// The task that keeps it up to date, when it was spawned here; it ends with the last clone.
    driver: Option<Arc<Driver>>,
}

struct Shared {
    snapshot: ArcSwap<Snapshot>,
    waiters: Waiters,
    publishing: Mutex<()>,
    chains: VerifiedChains,
    clock: Arc<dyn Clock>,
    provider: Arc<CryptoProvider>,
    source: SourceLog,
}

struct Driver {
    #[cfg(feature = "tokio")]
    task: tokio::task::AbortHandle,
}

impl Drop for Driver {
    fn drop(&mut self) {
        #[cfg(feature = "tokio")]
        self.task.abort();
    }
}

/// One consistent state of an [`Identity`].
pub struct Snapshot {
    generation: u64,
    svid: Option<X509Svid>,
    bundles: BundleSet,
}

impl Snapshot {
    /// Grows with each publication.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The own SVID, if there is one. It may have expired: whoever uses it looks.
    #[must_use]
    pub fn svid(&self) -> Option<&X509Svid> {
        self.svid.as_ref()
    }

    /// The trust bundles, by trust domain.
    #[must_use]
    pub fn bundles(&self) -> &BundleSet {
        &self.bundles
    }

    fn valid_at(&self, at: Timestamp) -> Option<&X509Svid> {
        self.svid.as_ref().filter(|svid| svid.not_before() <= at && at < svid.not_after())
    }
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshot")
            .field("generation", &self.generation)
            .field("svid", &self.svid().map(|svid| svid.id()))
            .field("bundles", &self.bundles.len())
            .finish()
    }
}

impl Identity {
    /// So many verified chains are remembered, which is the number of distinct peers whose next handshake is cheap.
    pub const VERIFIED_CHAINS: usize = 4096;

    fn new(clock: Arc<dyn Clock>) -> Self {
        let empty = Snapshot { generation: 0, svid: None, bundles: BundleSet::empty() };
        let shared = Shared {
            snapshot: ArcSwap::from_pointee(empty),
            waiters: Waiters::default(),
            publishing: Mutex::new(()),
            chains: VerifiedChains::new(Self::VERIFIED_CHAINS),
            clock,
            provider: Arc::new(crate::tls::provider()),
            source: SourceLog::default(),
        };
        Self { shared: Arc::new(shared), driver: None }
    }

    /// What holds now.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.shared.snapshot.load_full()
    }

    /// Which snapshot holds now.
    #[cfg(feature = "jwt")]
    pub(crate) fn generation(&self) -> u64 {
        self.shared.snapshot.load().generation
    }

    /// The own SPIFFE ID, if there is an SVID.
    #[must_use]
    pub fn id(&self) -> Option<SpiffeId> {
        self.shared.snapshot.load().svid().map(|svid| svid.id().clone())
    }

    /// Tells of every publication from now on.
    #[must_use]
    pub fn changes(&self) -> Changes {
        self.changes_since(self.shared.snapshot.load().generation)
    }

    /// Tells of every publication after `generation`, at once if there was one.
    #[must_use]
    pub fn changes_since(&self, generation: u64) -> Changes {
        Changes { shared: Arc::clone(&self.shared), seen: generation, key: WaiterKey::default() }
    }

    /// Waits until there is an SVID that is valid now, at most `deadline`. May be dropped at any time.
    ///
    /// # Errors
    /// When there was none in time; the error says what the source last complained of, or that the SVID there is out of its time.
    pub async fn ready(&self, deadline: Duration) -> Result<Arc<Snapshot>, NotReady> {
        let mut changes = self.changes();
        let found = async {
            loop {
                let (snapshot, now) = (self.snapshot(), self.clock().now());
                if snapshot.valid_at(now).is_some() {
                    return snapshot;
                }
                // One that is yet to begin, since our clock is behind its issuer's, needs no publication to be good.
                let begins = snapshot.svid().map(X509Svid::not_before).filter(|begins| now < *begins);
                let mut begun = self.clock().sleep_until(begins.unwrap_or(Timestamp::MAX));
                let mut changed = pin!(changes.next());
                poll_fn(|cx| match changed.as_mut().poll(cx) {
                    Poll::Ready(_) => Poll::Ready(()),
                    Poll::Pending => begun.as_mut().poll(cx),
                })
                .await;
            }
        };
        let (mut found, mut late) = (pin!(found), self.clock().sleep_for(deadline));
        poll_fn(|cx| match found.as_mut().poll(cx) {
            Poll::Ready(snapshot) => Poll::Ready(Ok(snapshot)),
            Poll::Pending => late.as_mut().poll(cx).map(|()| Err(NotReady { waited: deadline, why: self.not_ready() })),
        })
        .await
    }

    fn not_ready(&self) -> Option<Arc<str>> {
        let out_of_time = |svid: &X509Svid| {
            let (from, to, now) = (svid.not_before(), svid.not_after(), self.clock().now());
            format!("the SVID of `{}` is valid from {from} to {to}, and now is {now}", svid.id()).into()
        };
        let failure = self.source().last_failure().map(|(_, text)| text);
        failure.or_else(|| self.snapshot().svid().map(out_of_time))
    }

    /// Who is at the other end of a connection that this identity's configurations made: the one way from a connection to an identity.
    ///
    /// Looks the presented bytes up among the verified chains, where the handshake has just put them, and verifies again
    /// when they are not there. So a connection whose peer has expired meanwhile, or whose authority is gone, has no
    /// peer any more.
    ///
    /// It says who the peer is, not whether it is wanted: that was checked in the handshake.
    ///
    /// # Errors
    /// When the peer presented nothing, or what it presented does not verify now.
    pub fn peer(&self, connection: &CommonState) -> Result<VerifiedPeer, PeerError> {
        let (leaf, intermediates) =
            connection.peer_certificates().and_then(<[_]>::split_first).ok_or(PeerError::NoCertificate)?;
        let chain = PresentedChain::new(leaf, intermediates);
        self.verify(&chain, self.clock().now())
    }

    /// How the source is doing.
    #[must_use]
    pub fn source(&self) -> &SourceLog {
        &self.shared.source
    }

    /// The chains verified lately.
    #[must_use]
    pub fn verified_chains(&self) -> &VerifiedChains {
        &self.shared.chains
    }

    /// Has a task of its own keep it up to date, until the last clone is gone.
    #[cfg(feature = "tokio")]
    fn driven_by(self, driver: impl Future<Output = ()> + Send + 'static) -> Self {
        let task = tokio::spawn(driver).abort_handle();
        Self { driver: Some(Arc::new(Driver { task })), ..self }
    }

    pub(crate) fn verify(&self, chain: &PresentedChain<'_>, at: Timestamp) -> Result<VerifiedPeer, PeerError> {
        let snapshot = self.shared.snapshot.load();
        self.shared.chains.verify(chain, snapshot.generation, &snapshot.bundles, at).map_err(PeerError::Refused)
    }

    /// What to present in a handshake: nothing when there is no SVID or it is not valid now.
    pub(crate) fn certified(&self) -> Option<Arc<CertifiedKey>> {
        let snapshot = self.shared.snapshot.load();
        snapshot.valid_at(self.clock().now()).map(|svid| Arc::clone(svid.certified_key()))
    }

    pub(crate) fn clock(&self) -> &Arc<dyn Clock> {
        &self.shared.clock
    }

    pub(crate) fn provider(&self) -> &Arc<CryptoProvider> {
        &self.shared.provider
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("snapshot", &*self.shared.snapshot.load())
            .field("driven", &self.driver.is_some())
            .finish()
    }
}

/// Tells of each new [`Snapshot`]; see [`Identity::changes`].
pub struct Changes {
    shared: Arc<Shared>,
    seen: u64,
    key: WaiterKey,
}

impl Changes {
    /// Waits for a snapshot newer than the last one told of. Of several publications in between only the last is seen. May be
    /// dropped at any time.
    pub async fn next(&mut self) -> Arc<Snapshot> {
        poll_fn(|cx| {
            if let Some(newer) = self.newer() {
                return Poll::Ready(newer);
            }
            self.shared.waiters.register(&mut self.key, cx.waker());
            // Again: something may have been published between the look and the registration.
            self.newer().map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }

    fn newer(&mut self) -> Option<Arc<Snapshot>> {
        let snapshot = self.shared.snapshot.load();
        (snapshot.generation > self.seen).then(|| {
            self.seen = snapshot.generation;
            Arc::clone(&snapshot)
        })
    }
}

impl Drop for Changes {
    fn drop(&mut self) {
        self.shared.waiters.remove(&mut self.key);
    }
}

impl fmt::Debug for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Changes").field("seen", &self.seen).finish_non_exhaustive()
    }
}

/// How a source is doing: numbers and the last complaint, for a program's own metrics and health.
#[derive(Debug, Default)]
pub struct SourceLog {
    updates: AtomicU64,
    failures: AtomicU64,
    last_failure: Mutex<Option<(Timestamp, Arc<str>)>>,
}

impl SourceLog {
    /// Snapshots published.
    #[must_use]
    pub fn updates(&self) -> u64 {
        self.updates.load(Ordering::Relaxed)
    }

    /// Times that the source could not be read, or gave something unusable.
    #[must_use]
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    /// When it last failed since it last went well, and why.
    #[must_use]
    pub fn last_failure(&self) -> Option<(Timestamp, Arc<str>)> {
        self.last_failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    #[cfg_attr(not(feature = "tokio"), expect(dead_code, reason = "only sources that read something can fail"))]
    pub(crate) fn failed(&self, at: Timestamp, error: &dyn fmt::Display) {
        self.failures.fetch_add(1, Ordering::Relaxed);
        *self.last_failure.lock().unwrap_or_else(PoisonError::into_inner) = Some((at, error.to_string().into()));
    }

    #[cfg_attr(not(feature = "tokio"), expect(dead_code, reason = "only sources that read something can fail"))]
    pub(crate) fn went_well(&self) {
        self.last_failure.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

/// No valid SVID came in time.
#[derive(Clone, Debug, thiserror::Error)]
#[error("no valid SVID within {waited:?}{}", .why.as_ref().map(|why| format!(": {why}")).unwrap_or_default())]
pub struct NotReady {
    waited: Duration,
    why: Option<Arc<str>>,
}
