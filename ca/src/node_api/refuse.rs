//! What a stranger or a node is told, and what stays in the log: the one edge between our errors and the wire.

use std::{convert::Infallible, time::Duration};

use bonafide_ca_api::{Reason, generated::node as wire, refusal};
use tonic::Status;
use tracing::{error, warn};

use crate::{
    issuance::IssueError,
    registry::NodeError,
    store::{StoreError, WriteError},
};

/// A refusal as it goes out: reason code, one line for the operator, and whether asking again helps.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Refused {
    pub(super) reason: Reason,
    pub(super) message: String,
    pub(super) retry_after: Option<Duration>,
}

impl Refused {
    /// Asking again will not help.
    pub(super) fn because(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into(), retry_after: None }
    }

    /// Asking again helps after that time.
    pub(super) fn for_now(reason: Reason, message: impl Into<String>, retry_after: Duration) -> Self {
        Self { reason, message: message.into(), retry_after: Some(retry_after) }
    }

    /// A fault of ours, already logged. Says nothing of it.
    pub(super) fn internal() -> Self {
        Self::for_now(
            Reason::Internal,
            "the CA could not do it by a fault of its own; its log has the reason",
            FAULT_RETRY,
        )
    }

    /// For one item of a batch.
    pub(super) fn into_item(self) -> wire::Refusal {
        wire::Refusal {
            reason: self.reason.code().to_owned(),
            message: self.message,
            retry_after_ms: self
                .retry_after
                .map_or(0, |after| u32::try_from(after.as_millis().max(1)).unwrap_or(u32::MAX)),
        }
    }
}

impl From<Refused> for Status {
    fn from(refused: Refused) -> Self {
        refusal(refused.reason, refused.message, refused.retry_after)
    }
}

impl From<IssueError> for Refused {
    /// Faults of ours are logged where they are found, in issuance; here they only lose their details.
    fn from(fault: IssueError) -> Self {
        match fault {
            IssueError::Clock(refusal) => {
                warn!(reason = Reason::ClockUntrusted.code(), error = %refusal, "issued nothing");
                Self::for_now(
                    Reason::ClockUntrusted,
                    "the CA's clock cannot be trusted, so it issues nothing until an operator looks at it \
                     (`bonafide-ca status` there says how)",
                    CLOCK_RETRY,
                )
            }
            IssueError::Store(fault) => fault.into(),
            IssueError::AuthorityTooShort { .. } => {
                warn!(error = %fault, "issued nothing");
                Self::for_now(
                    Reason::AuthorityTooShort,
                    "the authority that signs ends now; the next one is active soon",
                    AUTHORITY_RETRY,
                )
            }
            IssueError::TooManyEdges { .. } => Self::because(Reason::BatchTooLarge, fault.to_string()),
            IssueError::Rule(_) | IssueError::Jwt { .. } => Self::because(
                Reason::ProfileRule,
                "what was about to be signed breaks a rule of its profile, so nothing was signed; the CA's log names the rule",
            ),
            IssueError::Authority(_)
            | IssueError::Build { .. }
            | IssueError::Time { .. }
            | IssueError::Sign { .. }
            | IssueError::ReadAgain
            | IssueError::ForeignRecord
            | IssueError::Randomness
            | IssueError::Thread => Self::internal(),
        }
    }
}

impl From<StoreError> for Refused {
    fn from(fault: StoreError) -> Self {
        match fault {
            StoreError::Closed => Self::for_now(Reason::Stopping, "the CA is stopping", AUTHORITY_RETRY),
            StoreError::DiskFull { .. } => {
                error!(error = %fault, "nothing can be recorded, so nothing is issued or changed");
                Self::for_now(Reason::DiskFull, "the CA's disk is full, so it records and issues nothing", STORE_RETRY)
            }
            StoreError::Unavailable { .. } | StoreError::OutcomeUnknown { .. } => {
                warn!(error = %fault, "nothing could be recorded");
                Self::for_now(Reason::StoreUnavailable, "the CA's database had no time; ask again", STORE_RETRY)
            }
            StoreError::Failed { .. } | StoreError::Damaged { .. } | StoreError::Internal { .. } => {
                error!(error = %fault, "the database failed");
                Self::for_now(
                    Reason::StoreUnavailable,
                    "the CA cannot write its records, so it issues and changes nothing; its log has the reason",
                    STORE_RETRY,
                )
            }
        }
    }
}

impl From<WriteError<NodeError>> for Refused {
    fn from(refused: WriteError<NodeError>) -> Self {
        match refused {
            WriteError::Store(fault) => fault.into(),
            WriteError::Refused(refused) => {
                let reason = match &refused {
                    NodeError::Unknown { .. } => Reason::NodeRemoved,
                    // The key was replaced between the look at the registry and the change of it.
                    NodeError::NotItsKey { .. } => Reason::KeyStale,
                    NodeError::KeyNotNew { .. } => Reason::KeyRefused,
                };
                Self::because(reason, refused.to_string())
            }
        }
    }
}

impl From<WriteError<Infallible>> for Refused {
    fn from(refused: WriteError<Infallible>) -> Self {
        match refused {
            WriteError::Store(fault) => fault.into(),
            WriteError::Refused(never) => match never {},
        }
    }
}

/// The refusal of a service that a node may not hold: the same text whether there is such a service or not (T-16).
pub(super) fn service_not_held() -> Refused {
    Refused::because(
        Reason::ServiceNotHeld,
        "this node may not hold such a service, or there is none; `bonafide-ca service list` shows which run where",
    )
}

const CLOCK_RETRY: Duration = Duration::from_secs(30);
const AUTHORITY_RETRY: Duration = Duration::from_secs(2);
const STORE_RETRY: Duration = Duration::from_secs(5);
const FAULT_RETRY: Duration = Duration::from_secs(30);
