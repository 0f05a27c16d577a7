//! What a record can tell of: a closed list, so that a reader can rely on the names.

use std::fmt;

/// What a record tells of. The names are a contract: scripts filter by them.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) enum Kind {
    TrustDomainCreated,
    EpochStarted,
    ClockAccepted,
    AuthorityCreated,
    AuthorityActivated,
    AuthorityRetired,
    AuthorityWithdrawn,
    BundleChanged,
    InvitationCreated,
    InvitationBound,
    InvitationRetried,
    InvitationRefused,
    InvitationClosed,
    NodeJoined,
    NodeRecovered,
    NodeRenewed,
    NodeKeyActivated,
    NodeStaleKeyRefused,
    NodeRemoved,
    ServiceAdded,
    ServiceUpdated,
    ServiceRemoved,
    IssuerAdded,
    IssuerKeysChanged,
    IssuerRemoved,
    TokenIssued,
    X509Issued,
    JwtIssued,
    DelegationIssued,
    DelegationEnded,
    MintsCollected,
    TokenMinted,
    MintLogBroken,
}

impl Kind {
    /// Every kind.
    pub(crate) const ALL: [Self; 33] = [
        Self::TrustDomainCreated,
        Self::EpochStarted,
        Self::ClockAccepted,
        Self::AuthorityCreated,
        Self::AuthorityActivated,
        Self::AuthorityRetired,
        Self::AuthorityWithdrawn,
        Self::BundleChanged,
        Self::InvitationCreated,
        Self::InvitationBound,
        Self::InvitationRetried,
        Self::InvitationRefused,
        Self::InvitationClosed,
        Self::NodeJoined,
        Self::NodeRecovered,
        Self::NodeRenewed,
        Self::NodeKeyActivated,
        Self::NodeStaleKeyRefused,
        Self::NodeRemoved,
        Self::ServiceAdded,
        Self::ServiceUpdated,
        Self::ServiceRemoved,
        Self::IssuerAdded,
        Self::IssuerKeysChanged,
        Self::IssuerRemoved,
        Self::TokenIssued,
        Self::X509Issued,
        Self::JwtIssued,
        Self::DelegationIssued,
        Self::DelegationEnded,
        Self::MintsCollected,
        Self::TokenMinted,
        Self::MintLogBroken,
    ];

    /// The name in the log.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::TrustDomainCreated => "trust-domain-created",
            Self::EpochStarted => "epoch-started",
            Self::ClockAccepted => "clock-accepted",
            Self::AuthorityCreated => "authority-created",
            Self::AuthorityActivated => "authority-activated",
            Self::AuthorityRetired => "authority-retired",
            Self::AuthorityWithdrawn => "authority-withdrawn",
            Self::BundleChanged => "bundle-changed",
            Self::InvitationCreated => "invitation-created",
            Self::InvitationBound => "invitation-bound",
            Self::InvitationRetried => "invitation-retried",
            Self::InvitationRefused => "invitation-refused",
            Self::InvitationClosed => "invitation-closed",
            Self::NodeJoined => "node-joined",
            Self::NodeRecovered => "node-recovered",
            Self::NodeRenewed => "node-renewed",
            Self::NodeKeyActivated => "node-key-activated",
            Self::NodeStaleKeyRefused => "node-stale-key-refused",
            Self::NodeRemoved => "node-removed",
            Self::ServiceAdded => "service-added",
            Self::ServiceUpdated => "service-updated",
            Self::ServiceRemoved => "service-removed",
            Self::IssuerAdded => "issuer-added",
            Self::IssuerKeysChanged => "issuer-keys-changed",
            Self::IssuerRemoved => "issuer-removed",
            Self::TokenIssued => "token-issued",
            Self::X509Issued => "x509-issued",
            Self::JwtIssued => "jwt-issued",
            Self::DelegationIssued => "delegation-issued",
            Self::DelegationEnded => "delegation-ended",
            Self::MintsCollected => "mints-collected",
            Self::TokenMinted => "token-minted",
            Self::MintLogBroken => "mint-log-broken",
        }
    }

    /// The kind of that name.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
