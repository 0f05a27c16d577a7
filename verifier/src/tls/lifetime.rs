//! The end of a connection, from the credentials it was made with.
//!
//! It ends with the first of: the own leaf's end, the end of any certificate in the peer's chain, and, within
//! [`WITHDRAWAL_GRACE`], the peer's authority leaving the bundle or the own SVID being taken back.

use std::{sync::Arc, time::Duration};

use super::Peer;
use crate::{
    clock::{Clock, Timestamp},
    identity::{Identity, Snapshot},
    lifetime::{EndReason, Lifetime},
    spiffe::{SpiffeId, TrustDomain},
    x509::VerifiedPeer,
};

/// Between asking a connection to finish and cutting it, when a credential was withdrawn. The promise is 5 s.
pub(super) const WITHDRAWAL_GRACE: Duration = Duration::from_secs(3);

/// The longest time before the end at which a connection is asked to finish; short-lived credentials get a tenth of what
/// they have left.
const LONGEST_GRACE: Duration = Duration::from_secs(30);

/// What a connection's life is bound to.
#[derive(Debug)]
pub(super) struct Bounds {
    clock: Arc<dyn Clock>,
    /// Followed for withdrawals; a client without an identity of its own has nothing to follow.
    identity: Option<Identity>,
    own: Own,
    authority: Option<(TrustDomain, [u8; 32])>,
    closing_at: Timestamp,
    ends_at: Timestamp,
    expiry: EndReason,
}

/// What this side presented.
#[derive(Debug)]
enum Own {
    /// The SVID of this ID; none when it was withdrawn during the handshake.
    Svid(Option<SpiffeId>),
    /// Nothing, or what has no end.
    Nothing,
}

/// The own SVID as it was right before a handshake. rustls does not say which one it presented, so the earlier end of this
/// one and the one after counts.
pub(super) struct Before(Option<(SpiffeId, Timestamp)>);

impl Before {
    pub(super) fn handshake(identity: &Identity) -> Self {
        Self(own(&identity.snapshot()))
    }
}

fn own(snapshot: &Snapshot) -> Option<(SpiffeId, Timestamp)> {
    snapshot.svid().map(|svid| (svid.id().clone(), svid.not_after()))
}

impl Bounds {
    /// For a connection that an identity made, right after its handshake.
    pub(super) fn of_identity(identity: &Identity, before: Before, peer: &Peer) -> Self {
        let after = own(&identity.snapshot());
        // Without an SVID after the handshake the presented one was withdrawn: keep its ID, which no snapshot has now.
        let (own_id, own_end) = match (before.0, after) {
            (Some((id, earlier)), Some((_, later))) => (Some(id), earlier.min(later)),
            (Some((id, end)), None) | (None, Some((id, end))) => (Some(id), end),
            (None, None) => (None, Timestamp::default()),
        };
        let peer = match peer {
            Peer::Svid(peer) => Some(peer),
            Peer::Key(_) | Peer::Anonymous => None,
        };
        Self::new(Arc::clone(identity.clock()), Some(identity.clone()), Own::Svid(own_id), own_end, peer)
    }

    /// For a connection on which this side presented nothing, right after its handshake.
    pub(super) fn of_anonymous(identity: &Identity, server: &VerifiedPeer) -> Self {
        let clock = Arc::clone(identity.clock());
        Self::new(clock, Some(identity.clone()), Own::Nothing, Timestamp::MAX, Some(server))
    }

    /// For a connection made with a bare key, right after its handshake.
    pub(super) fn of_key(clock: &Arc<dyn Clock>, server: &VerifiedPeer) -> Self {
        Self::new(Arc::clone(clock), None, Own::Nothing, Timestamp::MAX, Some(server))
    }

    fn new(
        clock: Arc<dyn Clock>,
        identity: Option<Identity>,
        own: Own,
        own_end: Timestamp,
        peer: Option<&VerifiedPeer>,
    ) -> Self {
        let peer_end = peer.map_or(Timestamp::MAX, VerifiedPeer::not_after);
        let ends_at = own_end.min(peer_end);
        let expiry = if own_end <= peer_end { EndReason::OwnSvidExpires } else { EndReason::PeerExpires };
        let grace = (ends_at.since(clock.now()) / 10).min(LONGEST_GRACE);
        let authority = peer.map(|peer| (peer.id().trust_domain().clone(), *peer.authority_sha256()));
        Self { clock, identity, own, authority, closing_at: ends_at.saturating_sub(grace), ends_at, expiry }
    }

    /// When the connection ends at the latest.
    pub(super) fn ends_at(&self) -> Timestamp {
        self.ends_at
    }

    /// The connection's end, to be polled.
    pub(super) fn lifetime(self: &Arc<Self>) -> Lifetime {
        let bounds = Arc::clone(self);
        Lifetime::new(async move {
            let reason = bounds.closing().await;
            (reason, async move { bounds.end(reason).await })
        })
    }

    /// Waits for the closing moment.
    pub(super) async fn closing(&self) -> EndReason {
        tokio::select! {
            biased;
            reason = self.withdrawn() => reason,
            () = self.clock.sleep_until(self.closing_at) => self.expiry,
        }
    }

    async fn end(&self, closing_for: EndReason) -> EndReason {
        if closing_for == self.expiry {
            tokio::select! {
                biased;
                reason = self.withdrawn_and_waited() => reason,
                () = self.clock.sleep_until(self.ends_at) => self.expiry,
            }
        } else {
            tokio::select! {
                biased;
                () = self.clock.sleep_until(self.ends_at) => self.expiry,
                () = self.clock.sleep_for(WITHDRAWAL_GRACE) => closing_for,
            }
        }
    }

    async fn withdrawn_and_waited(&self) -> EndReason {
        let reason = self.withdrawn().await;
        self.clock.sleep_for(WITHDRAWAL_GRACE).await;
        reason
    }

    /// Waits until a credential is withdrawn.
    async fn withdrawn(&self) -> EndReason {
        let Some(identity) = &self.identity else { return std::future::pending().await };
        let mut snapshot = identity.snapshot();
        let mut changes = identity.changes_since(snapshot.generation());
        loop {
            if let Some(reason) = self.withdrawn_in(&snapshot) {
                return reason;
            }
            snapshot = changes.next().await;
        }
    }

    fn withdrawn_in(&self, snapshot: &Snapshot) -> Option<EndReason> {
        if let Own::Svid(own) = &self.own
            && snapshot.svid().map(|svid| svid.id()) != own.as_ref()
        {
            return Some(EndReason::OwnSvidWithdrawn);
        }
        let (trust_domain, authority) = self.authority.as_ref()?;
        let known =
            snapshot.bundles().get(trust_domain).is_some_and(|bundle| bundle.x509_authority(authority).is_some());
        (!known).then_some(EndReason::AuthorityWithdrawn)
    }
}
