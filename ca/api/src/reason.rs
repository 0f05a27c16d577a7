//! The closed list of reason codes with which the CA and its agents refuse.

use std::fmt;

use tonic::Code;

/// Which conversation a reason belongs to.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Area {
    /// Any conversation.
    General,
    /// Join, recovery and renewal of a node.
    Join,
    /// The stream of registry and bundles.
    Sync,
    /// Issuance of SVIDs.
    Issue,
    /// An operator's commands.
    Admin,
    /// A workload and the agent on its node.
    Attest,
}

impl Area {
    /// The word for it in the contract.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::General => "general",
            Self::Join => "join",
            Self::Sync => "sync",
            Self::Issue => "issue",
            Self::Admin => "admin",
            Self::Attest => "attest",
        }
    }
}

macro_rules! reasons {
    ($( $area:ident $code:ident { $( $(#[doc = $doc:literal])+ $variant:ident = $text:literal, )+ } )+) => {
        /// Why the CA or an agent refused. The code is stable and part of the contract; the sentence beside it is for people.
        #[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
        pub enum Reason {
            $( $( $(#[doc = $doc])+ $variant, )+ )+
        }

        impl Reason {
            /// Every reason, in the order of the contract.
            pub const ALL: &'static [Self] = &[ $( $( Self::$variant, )+ )+ ];

            /// The code on the wire, in logs and in JSON: `invitation-expired`.
            #[must_use]
            pub fn code(self) -> &'static str {
                match self { $( $( Self::$variant => $text, )+ )+ }
            }

            /// What it means, in a sentence or two.
            #[must_use]
            pub fn meaning(self) -> &'static str {
                match self { $( $( Self::$variant => concat!($($doc),+).trim_ascii(), )+ )+ }
            }

            /// The conversation it belongs to.
            #[must_use]
            pub fn area(self) -> Area {
                reasons!(@area self $( $area { $( $variant )+ } )+)
            }

            /// The gRPC status that carries it.
            #[must_use]
            pub fn status_code(self) -> Code {
                match self { $( $( Self::$variant => reasons!(@status $code $variant), )+ )+ }
            }
        }
    };
    (@area $self:ident $( $area:ident { $( $variant:ident )+ } )+) => {
        match $self { $( $( Self::$variant )|+ => Area::$area, )+ }
    };
    (@status $code:ident $variant:ident) => { Code::$code };
}

reasons! {
    General InvalidArgument {
        /// The message does not follow the contract.
        InvalidMessage = "invalid-message",
    }
    General Unavailable {
        /// The CA is stopping; another one, or the same a moment later, answers.
        Stopping = "stopping",
        /// More requests at once than the CA takes; ask again after the time given.
        Overloaded = "overloaded",
        /// The CA's clock cannot be trusted, so it signs nothing until an operator looks at it.
        ClockUntrusted = "clock-untrusted",
        /// The CA cannot write its records, so it hands out nothing.
        StoreUnavailable = "store-unavailable",
        /// The CA's disk is nearly full, so it writes nothing that can wait.
        DiskFull = "disk-full",
    }
    General Internal {
        /// A fault of the CA; its log has the reason.
        Internal = "internal",
    }
    General PermissionDenied {
        /// This kind of peer may not call this method.
        PeerKind = "peer-kind",
    }
    Join PermissionDenied {
        /// No invitation has this secret.
        InvitationUnknown = "invitation-unknown",
        /// The invitation's time is over.
        InvitationExpired = "invitation-expired",
        /// Another key has redeemed the invitation.
        InvitationUsed = "invitation-used",
        /// The node has joined with it, or a newer invitation took its place.
        InvitationClosed = "invitation-closed",
        /// The key is not P-256, or is an authority's, another node's or one that was used before.
        KeyRefused = "key-refused",
        /// No node has this key.
        KeyUnknown = "key-unknown",
        /// An older key of a node: a copy of its state is in use somewhere.
        KeyStale = "key-stale",
        /// The node was away for longer than a node may recover by itself; it needs a new invitation.
        RecoveryTooLate = "recovery-too-late",
        /// The node was removed.
        NodeRemoved = "node-removed",
    }
    Join ResourceExhausted {
        /// Too many attempts from this address; ask again after the time given.
        JoinRate = "join-rate",
    }
    Sync InvalidArgument {
        /// A stream starts with one hello, and acknowledgements follow.
        HelloExpected = "hello-expected",
    }
    Sync Aborted {
        /// The node opened a newer stream, which takes the place of this one.
        StreamReplaced = "stream-replaced",
        /// The node did not read what was sent in time; it connects again and goes on from its position.
        SlowReader = "slow-reader",
        /// A position that this CA never gave: the node's version lies ahead of the CA's history.
        PositionAhead = "position-ahead",
    }
    Sync FailedPrecondition {
        /// An update with a lower version than the node has, in the same epoch.
        VersionLowered = "version-lowered",
        /// A new epoch that removes services: held until an operator confirms.
        EpochRemovesServices = "epoch-removes-services",
        /// A trust bundle with a lower sequence than the node has.
        BundleSequenceLowered = "bundle-sequence-lowered",
        /// An update that the node cannot read.
        UpdateUnreadable = "update-unreadable",
    }
    Issue PermissionDenied {
        /// No such service, or none that this node may hold; which of both is not told.
        ServiceNotHeld = "service-not-held",
    }
    Issue FailedPrecondition {
        /// No service that this node may hold is an edge.
        NotAnEdge = "not-an-edge",
    }
    Issue Aborted {
        /// What the node may hold has changed while it was being answered; ask again.
        RegistryChanged = "registry-changed",
    }
    Issue InvalidArgument {
        /// A stretch of a node's mint log whose records do not follow one another.
        MintLogInvalid = "mint-log-invalid",
        /// Not a P-256 public key on the curve, as SubjectPublicKeyInfo.
        KeyInvalid = "key-invalid",
        /// The same key twice in one request.
        KeyDuplicate = "key-duplicate",
        /// The key of an authority or of a node.
        KeyReserved = "key-reserved",
        /// More items than one request may have.
        BatchTooLarge = "batch-too-large",
        /// No audience, too many, one that is too long, or one that is empty.
        AudienceInvalid = "audience-invalid",
    }
    Issue ResourceExhausted {
        /// The node used up its share of issuances; ask again after the time given.
        Quota = "quota",
    }
    Issue Unavailable {
        /// No authority has enough life left for this lifetime; the next one is active soon.
        AuthorityTooShort = "authority-too-short",
    }
    Issue Internal {
        /// What was about to be signed breaks a rule of its profile; nothing was signed.
        ProfileRule = "profile-rule",
    }
    Admin InvalidArgument {
        /// A value that is not valid; the sentence says which and why.
        InvalidValue = "invalid-value",
        /// A path under `/bonafide`, which is reserved.
        PathReserved = "path-reserved",
        /// A service whose selectors name no user.
        UserMissing = "user-missing",
        /// A service without a place to run on.
        PlacementMissing = "placement-missing",
        /// A lifetime outside its bounds.
        LifetimeBounds = "lifetime-bounds",
    }
    Admin NotFound {
        /// No node of that name.
        NodeUnknown = "node-unknown",
        /// No service of that path.
        ServiceUnknown = "service-unknown",
        /// No issuer of that name.
        IssuerUnknown = "issuer-unknown",
    }
    Admin AlreadyExists {
        /// A node of that name is live.
        NodeLive = "node-live",
        /// A service of that path is registered.
        ServiceExists = "service-exists",
        /// An issuer of that name, or with that URL, is registered.
        IssuerExists = "issuer-exists",
    }
    Admin FailedPrecondition {
        /// The issuer did not give keys that can be used; the sentence says why.
        IssuerKeys = "issuer-keys",
    }
    Admin ResourceExhausted {
        /// As many nodes, services, issuers or open invitations as this CA takes.
        RegistryFull = "registry-full",
    }
    Admin PermissionDenied {
        /// Only the owner of the CA process and root may give commands.
        NotAdministrator = "not-administrator",
    }
    Attest InvalidArgument {
        /// The metadata that every request on the agent's socket carries is missing or not exactly as it must be.
        SecurityHeader = "security-header",
        /// A field of the request is missing or not valid.
        RequestInvalid = "request-invalid",
        /// The token to be validated is not valid; the message has the verifier's reason.
        TokenInvalid = "token-invalid",
    }
    Attest PermissionDenied {
        /// The subject token is not exchanged; a code beside it says by which rule.
        SubjectRefused = "subject-refused",
        /// No service on this node matches the process.
        NoIdentity = "no-identity",
        /// The SPIFFE ID asked for is not one of the process's.
        NotYourIdentity = "not-your-identity",
        /// The process that connected has ended.
        ProcessEnded = "process-ended",
        /// The process that connected is not visible to the agent.
        ProcessInvisible = "process-invisible",
        /// The agent cannot read what the kernel says about the process.
        ProcessUnreadable = "process-unreadable",
        /// The process runs as another user or group than it connected as.
        UserChanged = "user-changed",
        /// The process runs another executable than when the stream began.
        ExecutableChanged = "executable-changed",
        /// Only root and the agent's own user may ask this.
        NotOperator = "not-operator",
    }
    Attest FailedPrecondition {
        /// The epoch is not the one that is held.
        EpochNotHeld = "epoch-not-held",
    }
    Attest Unavailable {
        /// Nothing is delegated to this agent at the moment, so it mints no transaction tokens.
        NoDelegation = "no-delegation",
        /// The agent cannot record what it mints, so it mints nothing.
        MintLogUnusable = "mint-log-unusable",
        /// The agent has no state from its CA yet.
        AgentNotReady = "agent-not-ready",
        /// The agent has no file descriptors or memory left to look at the process.
        AgentExhausted = "agent-exhausted",
        /// The CA has not issued what is asked for, and there is none from before.
        NotIssued = "not-issued",
        /// The user or process makes too many calls, or too many at once.
        TooManyCalls = "too-many-calls",
    }
    Attest Unimplemented {
        /// The agent does not serve this profile.
        ProfileNotServed = "profile-not-served",
    }
}

impl Reason {
    /// The reason of that code.
    #[must_use]
    pub fn from_code(code: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|reason| reason.code() == code)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn codes_are_unique_stable_words() {
        let mut seen = BTreeSet::new();
        for reason in Reason::ALL {
            let code = reason.code();
            assert!(code.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-'), "{code}");
            assert!(seen.insert(code), "{code} stands twice");
            assert_eq!(Reason::from_code(code), Some(*reason));
            assert!(reason.meaning().ends_with('.') && !reason.meaning().starts_with(' '), "{code}");
            assert_ne!(reason.status_code(), Code::Ok, "{code}");
        }
        assert_eq!(Reason::from_code("no-such-code"), None);
    }
}
