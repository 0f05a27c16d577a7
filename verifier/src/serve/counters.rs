//! What a server counts. A program turns these numbers into metrics of its own kind.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Numbers of one server, from its start on; [`open`](Self::open) and [`unfinished`](Self::unfinished) as they are now.
#[derive(Debug, Default)]
pub struct ServeCounters {
    accepted: AtomicU64,
    accept_errors: AtomicU64,
    refused_at_limit: AtomicU64,
    not_prepared: AtomicU64,
    ended_by_lifetime: AtomicU64,
    panics: AtomicU64,
    open: AtomicUsize,
    unfinished: AtomicUsize,
}

macro_rules! getters {
    ($($(#[$doc:meta])* $name:ident: $type:ty),* $(,)?) => {
        $($(#[$doc])*
        #[must_use]
        pub fn $name(&self) -> $type {
            self.$name.load(Ordering::Relaxed)
        })*
    };
}

impl ServeCounters {
    getters! {
        /// Connections that were prepared and then served.
        accepted: u64,
        /// Times that accepting failed.
        accept_errors: u64,
        /// Connections refused because their origin had its number already, or dropped unfinished for a newer one.
        refused_at_limit: u64,
        /// Connections that did not get through preparation: refused handshakes, deadlines, junk.
        not_prepared: u64,
        /// Connections cut because a credential came to its end before they had finished.
        ended_by_lifetime: u64,
        /// Panics in handlers.
        panics: u64,
        /// Connections being served now.
        open: usize,
        /// Connections being prepared now.
        unfinished: usize,
    }

    pub(super) fn accept_failed(&self) {
        self.accept_errors.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn refused(&self) {
        self.refused_at_limit.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn failed_to_prepare(&self) {
        self.not_prepared.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn cut(&self) {
        self.ended_by_lifetime.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn panicked(&self) {
        self.panics.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn began(&self) {
        self.unfinished.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn given_up(&self) {
        self.unfinished.fetch_sub(1, Ordering::Relaxed);
    }

    pub(super) fn opened(&self) {
        self.unfinished.fetch_sub(1, Ordering::Relaxed);
        self.open.fetch_add(1, Ordering::Relaxed);
        self.accepted.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn closed(&self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }
}
