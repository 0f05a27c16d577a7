//! Free space: told while there is still some, and issuance stopped before an administrator cannot act any more (F-03).

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bonafide_verifier::clock::Clock;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::{Limits, StoreError};

/// How much space there is for the database.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Disk {
    /// Enough.
    Enough,
    /// Below the first threshold: health is degraded.
    Low { free: u64, threshold: u64 },
    /// Below the second: nothing is issued.
    Exhausted { free: u64, threshold: u64 },
}

/// Looks at the file system of the database. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct DiskWatch {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    directory: PathBuf,
    low: u64,
    exhausted: u64,
    free: AtomicU64,
    size: AtomicU64,
}

impl DiskWatch {
    pub(super) fn new(directory: &Path, limits: &Limits) -> Self {
        let watch = Self {
            inner: Arc::new(Inner {
                directory: directory.to_owned(),
                low: limits.disk_low,
                exhausted: limits.disk_exhausted,
                free: AtomicU64::new(u64::MAX),
                size: AtomicU64::new(u64::MAX),
            }),
        };
        watch.look();
        watch
    }

    /// Asks the file system; the free bytes.
    pub(super) fn look(&self) -> u64 {
        if let Ok(found) = nix::sys::statvfs::statvfs(&self.inner.directory) {
            let unit = found.fragment_size();
            self.inner.free.store(found.blocks_available().saturating_mul(unit), Ordering::Relaxed);
            self.inner.size.store(found.blocks().saturating_mul(unit), Ordering::Relaxed);
        }
        self.inner.free.load(Ordering::Relaxed)
    }

    /// As of the last look.
    pub(super) fn state(&self) -> Disk {
        let (free, size) = (self.inner.free.load(Ordering::Relaxed), self.inner.size.load(Ordering::Relaxed));
        let (low, exhausted) = (self.inner.low.min(size / 5), self.inner.exhausted.min(size / 20));
        if free < exhausted {
            Disk::Exhausted { free, threshold: exhausted }
        } else if free < low {
            Disk::Low { free, threshold: low }
        } else {
            Disk::Enough
        }
    }

    /// Why nothing is issued now, if so.
    pub(super) fn refusal(&self) -> Option<StoreError> {
        if let Disk::Exhausted { .. } = self.state() {
            self.look();
        }
        match self.state() {
            Disk::Exhausted { free, .. } => Some(StoreError::DiskFull { path: self.inner.directory.clone(), free }),
            Disk::Low { .. } | Disk::Enough => None,
        }
    }

    pub(super) async fn run(&self, clock: Arc<dyn Clock>, stop: CancellationToken) {
        let mut before = Disk::Enough;
        loop {
            let watch = self.clone();
            // A network file system may take its time.
            let _ = tokio::task::spawn_blocking(move || watch.look()).await;
            let state = self.state();
            if std::mem::discriminant(&state) != std::mem::discriminant(&before) {
                let directory = self.inner.directory.display();
                match state {
                    Disk::Enough => info!(%directory, "enough free space again"),
                    Disk::Low { free, threshold } => {
                        warn!(%directory, free_bytes = free, threshold_bytes = threshold, "free space is low");
                    }
                    Disk::Exhausted { free, threshold } => error!(
                        %directory, free_bytes = free, threshold_bytes = threshold,
                        "free space is exhausted, nothing is issued; free some"
                    ),
                }
                before = state;
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = clock.sleep_until(clock.now().saturating_add(PERIOD)) => {}
            }
        }
    }
}

const PERIOD: Duration = Duration::from_secs(2);
