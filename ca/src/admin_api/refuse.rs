//! From what the registry refuses to what the operator's command is told.

use std::convert::Infallible;
use std::fmt::Display;
use std::time::Duration;

use bonafide_ca_api::{NodeName, Reason, refusal};
use tonic::Status;
use tracing::error;

use crate::registry::{InviteError, IssuerError, NodeError, ServiceError};
use crate::store::{StoreError, WriteError};
use crate::user_issuers::RefreshError;

pub(super) fn invite(error: WriteError<InviteError>) -> Status {
    decide(error, |refused| match refused {
        InviteError::Live { .. } => Reason::NodeLive,
        InviteError::Lifetime { .. } => Reason::LifetimeBounds,
        InviteError::TooMany { .. } => Reason::RegistryFull,
    })
}

pub(super) fn node(error: WriteError<NodeError>) -> Status {
    decide(error, |refused| match refused {
        NodeError::Unknown { .. } => Reason::NodeUnknown,
        NodeError::NotItsKey { .. } | NodeError::KeyNotNew { .. } => Reason::KeyRefused,
    })
}

pub(super) fn service(error: WriteError<ServiceError>) -> Status {
    decide(error, |refused| match refused {
        ServiceError::Unknown { .. } => Reason::ServiceUnknown,
        ServiceError::Exists { .. } => Reason::ServiceExists,
        ServiceError::Reserved { .. } => Reason::PathReserved,
        ServiceError::NoUser => Reason::UserMissing,
        ServiceError::NoPlacement => Reason::PlacementMissing,
        ServiceError::Lifetime { .. } => Reason::LifetimeBounds,
        ServiceError::TooManyServices { .. } => Reason::RegistryFull,
        ServiceError::Path { .. }
        | ServiceError::TrustDomain { .. }
        | ServiceError::NoPath
        | ServiceError::NoSelector
        | ServiceError::Contradiction { .. }
        | ServiceError::TooMany { .. }
        | ServiceError::AnyAndMore
        | ServiceError::DnsName { .. }
        | ServiceError::HintLength { .. }
        | ServiceError::HintCharacter { .. }
        | ServiceError::HintTaken { .. }
        | ServiceError::EdgeScope { .. }
        | ServiceError::EdgeIssuer { .. }
        | ServiceError::EdgeWithoutScope => Reason::InvalidValue,
    })
}

pub(super) fn issuer(error: WriteError<IssuerError>) -> Status {
    decide(error, |refused| match refused {
        IssuerError::Unknown { .. } => Reason::IssuerUnknown,
        IssuerError::Exists { .. } | IssuerError::UrlTaken { .. } => Reason::IssuerExists,
        IssuerError::NoUsableKey { .. } | IssuerError::KeySet { .. } => Reason::IssuerKeys,
        IssuerError::TooMany { .. } => Reason::RegistryFull,
        IssuerError::Settings(_) | IssuerError::Jwks(_) | IssuerError::Roots { .. } => Reason::InvalidValue,
    })
}

pub(super) fn refresh(error: RefreshError) -> Status {
    match error {
        RefreshError::Issuer(refused) => issuer(WriteError::Refused(refused)),
        RefreshError::Store(error) => issuer(WriteError::Store(error)),
        RefreshError::Fetch { .. } | RefreshError::FromFile { .. } => {
            refusal(Reason::IssuerKeys, error.to_string(), None)
        }
    }
}

pub(super) fn issuer_unknown(name: &str) -> Status {
    let name: String = name.chars().take(64).collect();
    let unknown = IssuerError::Unknown { name: name.escape_debug().to_string() };
    refusal(Reason::IssuerUnknown, unknown.to_string(), None)
}

/// An edge is to have users of an issuer that is not registered.
pub(super) fn edge_issuer_unknown(name: &str, registered: &[&str]) -> Status {
    let name: String = name.chars().take(64).collect();
    let name = name.escape_debug();
    let registered = match registered {
        [] => "none is registered".to_owned(),
        names => format!("registered are `{}`", names.join("`, `")),
    };
    let add = format!("`bonafide-ca issuer add {name} URL --audience CLIENT-ID` adds it");
    refusal(Reason::IssuerUnknown, format!("there is no issuer `{name}` of users: {registered}; {add}"), None)
}

pub(super) fn impossible(error: WriteError<Infallible>) -> Status {
    decide(error, |refused| match *refused {})
}

pub(super) fn node_unknown(name: &NodeName) -> Status {
    let unknown = NodeError::Unknown { node: name.clone() };
    refusal(Reason::NodeUnknown, unknown.to_string(), None)
}

pub(super) fn service_unknown(path: &str) -> Status {
    let path: String = path.chars().take(256).collect();
    let unknown = ServiceError::Unknown { path: path.escape_debug().to_string() };
    refusal(Reason::ServiceUnknown, unknown.to_string(), None)
}

/// A fault of ours: the log gets it, the command is told where to look.
pub(super) fn internal(cause: &dyn Display) -> Status {
    error!(error = %cause, "a command failed");
    refusal(Reason::Internal, format!("the CA could not do it: {cause}"), None)
}

fn decide<E: Display>(error: WriteError<E>, reason: impl FnOnce(&E) -> Reason) -> Status {
    match error {
        WriteError::Refused(refused) => refusal(reason(&refused), refused.to_string(), None),
        WriteError::Store(error) => {
            let (reason, retry_after) = match &error {
                StoreError::Unavailable { .. } => (Reason::StoreUnavailable, Some(Duration::from_secs(1))),
                StoreError::OutcomeUnknown { .. } => (Reason::StoreUnavailable, None),
                StoreError::DiskFull { .. } => (Reason::DiskFull, Some(Duration::from_secs(10))),
                StoreError::Failed { .. } | StoreError::Closed => (Reason::Stopping, None),
                StoreError::Damaged { .. } | StoreError::Internal { .. } => return internal(&error),
            };
            refusal(reason, error.to_string(), retry_after)
        }
    }
}
