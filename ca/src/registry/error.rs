//! Why the registry refuses, with the command that mends it.

use std::time::Duration;

use bonafide_ca_api::NodeName;
use bonafide_verifier::{clock::Timestamp, spiffe::SpiffeIdError};

/// Why no invitation was made.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum InviteError {
    /// The name is taken.
    #[error(
        "`{node}` is a live node since {joined_at}; to put another machine in its place: `bonafide-ca node invite {node} --replace`"
    )]
    Live { node: NodeName, joined_at: Timestamp },
    /// The lifetime is out of bounds.
    #[error("an invitation can live from {shortest:?} to {longest:?}, not {ttl:?}")]
    Lifetime { ttl: Duration, shortest: Duration, longest: Duration },
    /// No more invitations.
    #[error("{limit} invitations are open, which is the limit; wait until some are used or expire")]
    TooMany { limit: u64 },
}

/// Why an invitation was not redeemed.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum JoinRefusal {
    /// No invitation has this secret.
    #[error("the CA does not know this invitation; create a new one with `bonafide-ca node invite NAME`")]
    Unknown,
    /// Too late.
    #[error(
        "the invitation for `{node}` expired at {expired_at}; create a new one with `bonafide-ca node invite {node}`"
    )]
    Expired { node: NodeName, expired_at: Timestamp },
    /// Another key was first.
    #[error(
        "the invitation for `{node}` was used at {at} from {from} by another key; if that was not your machine, run \
         `bonafide-ca node remove {node}`, then create a new one with `bonafide-ca node invite {node}`"
    )]
    Bound { node: NodeName, at: Timestamp, from: String },
    /// Its node has synced, or it gave way.
    #[error(
        "the invitation for `{node}` was closed at {at}: its node has joined or was removed, or a newer invitation took its place; \
         create a new one with `bonafide-ca node invite {node} --replace`"
    )]
    Closed { node: NodeName, at: Timestamp },
    /// The name was taken meanwhile.
    #[error("`{node}` is a live node; to put this machine in its place: `bonafide-ca node invite {node} --replace`")]
    NameLive { node: NodeName },
    /// The key is not new.
    #[error(
        "this key is or was the key of node `{node}`; remove the agent's data directory, so that it makes a new one"
    )]
    KeyInUse { node: NodeName },
    /// No more nodes.
    #[error("there are {limit} nodes, which is the limit; remove some with `bonafide-ca node remove NAME`")]
    TooManyNodes { limit: u64 },
}

/// Why something was not done to a node.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum NodeError {
    /// No node of that name.
    #[error("there is no node `{node}`; `bonafide-ca node list` shows all")]
    Unknown { node: NodeName },
    /// The key is neither its current nor its pending one.
    #[error("the key is not that of node `{node}`")]
    NotItsKey { node: NodeName },
    /// A renewal needs a new key.
    #[error("node `{node}` asked to renew with a key that is not new; every renewal needs a new key")]
    KeyNotNew { node: NodeName },
}

/// Why a node was not recovered.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum RecoverRefusal {
    /// No live node has this key.
    #[error(
        "no node has this key: it was removed, or never joined; create an invitation with `bonafide-ca node invite NAME`"
    )]
    Unknown,
    /// The key was replaced: a copy of the node's disk is in use.
    #[error(
        "this key of node `{node}` was replaced at {retired_at}; a copy of its disk is in use; if this is the right machine: \
         `bonafide-ca node invite {node} --replace`"
    )]
    Stale { node: NodeName, retired_at: Timestamp },
    /// It slept too long.
    #[error(
        "node `{node}` was last seen at {last_seen}, longer ago than {window:?}; let it join again: \
         `bonafide-ca node invite {node} --replace`"
    )]
    TooLate { node: NodeName, last_seen: Timestamp, window: Duration },
}

/// Why a service was not added or changed.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum ServiceError {
    /// No such service.
    #[error("there is no service `{path}`; `bonafide-ca service list` shows all")]
    Unknown { path: String },
    /// The path is taken.
    #[error("`{path}` is registered already; change it with `bonafide-ca service update {path}`")]
    Exists { path: String },
    /// No path of a SPIFFE ID.
    #[error("`{path}` is not the path of a SPIFFE ID: {reason}; write one like `photo` or `shop/photo`")]
    Path { path: String, reason: SpiffeIdError },
    /// A whole SPIFFE ID of another trust domain.
    #[error("`{given}` is not in the trust domain `{trust_domain}`; give the path alone")]
    TrustDomain { given: String, trust_domain: String },
    /// Nothing after the trust domain.
    #[error("a service needs a path, such as `photo`")]
    NoPath,
    /// Our own paths.
    #[error("`{path}` starts with `bonafide`, which is reserved; choose another path")]
    Reserved { path: String },
    /// It would match every process.
    #[error("a service needs at least one selector, for example `--selector unix:user:photo`")]
    NoSelector,
    /// No selector says which user.
    #[error(
        "a service needs a selector for its user (`unix:user:NAME` or `unix:uid:NUMBER`): the user is the boundary between processes"
    )]
    NoUser,
    /// Two values of a fact that a process has once.
    #[error("no process matches both `{first}` and `{second}`; register a service for each")]
    Contradiction { first: String, second: String },
    /// More than a service can have.
    #[error("{count} {what} are given, a service can have {limit}")]
    TooMany { what: &'static str, count: usize, limit: usize },
    /// Nowhere to run.
    #[error(
        "say where it may run: `--on NODE`, `--on LABEL=VALUE` or `--on any`; a node can give away what it may hold"
    )]
    NoPlacement,
    /// `any` makes the others pointless.
    #[error("`--on any` includes every other `--on`; give it alone, or leave it out")]
    AnyAndMore,
    /// A lifetime out of bounds.
    #[error(
        "the {kind} lifetime of a service can be from {shortest} s to {longest} s (a third of its authority's life), not {ttl} s"
    )]
    Lifetime { kind: &'static str, ttl: u64, shortest: u64, longest: u64 },
    /// Not a DNS name.
    #[error("`{name}` is not a DNS name: {problem}")]
    DnsName { name: String, problem: &'static str },
    /// Too long a hint.
    #[error("the hint is {length} bytes long, at most {limit} are allowed")]
    HintLength { length: usize, limit: usize },
    /// A byte that would garble a terminal or a log.
    #[error("the hint has a control character at position {at}")]
    HintCharacter { at: usize },
    /// Two services that one process could have.
    #[error("`{other}` has the hint `{hint}`, and one process could have both services; choose another hint")]
    HintTaken { hint: String, other: String },
    /// Not a scope.
    #[error(
        "`{scope}` is not a scope: one word of at most {limit} printable ASCII characters without blanks, `\"` and `\\`, such as `photo.read`"
    )]
    EdgeScope { scope: String, limit: usize },
    /// Not the name of an issuer.
    #[error(
        "`{name}` is not the name of an issuer: 1 to 32 of `a-z`, `0-9` and `-`, first a letter, and not `spiffe`; \
         `bonafide-ca issuer list` shows all"
    )]
    EdgeIssuer { name: String },
    /// Issuers of what is no edge.
    #[error("an edge needs at least one scope: `--edge-scope WORD` says what its issuers' users may be there for")]
    EdgeWithoutScope,
    /// No more services.
    #[error("there are {limit} services, which is the limit; remove some with `bonafide-ca service remove PATH`")]
    TooManyServices { limit: u64 },
}
