//! Issuance: from what the registry says of an identity to a signed document that may be handed out.
//!
//! The steps are types, so that none can be left out: [`prepare`] builds the to-be-signed bytes and runs every
//! [profile rule](rules) on them, which gives a [`CheckedTbs`]; [`CheckedTbs::sign`] signs exactly those bytes, which
//! gives an [`UnreleasedSvid`] that shows nothing; [`UnreleasedSvid::release`] lets the certificate go against the proof
//! that its record is durable. JWT-SVIDs go the same way ([`jwt`]).
//!
//! [`Issuer`] is the shell around it: it asks the [clock guard](crate::clock_guard) first, queues the records, signs
//! while they are being written, and keeps work that takes long off the async runtime. The node API calls it for
//! services and nodes, and this process for its own leaf.

mod authority;
mod cpu;
pub(crate) mod delegation;
mod der;
mod frame;
pub(crate) mod jwt;
mod own_key;
mod public_key;
mod request;
pub(crate) mod rules;
mod sign;
mod tbs;
#[cfg(test)]
pub(crate) mod tests;

use std::{error::Error, fmt, future, pin::Pin, sync::Arc, time::Duration};

use aws_lc_rs::rand;
use bonafide_ca_api::NodeName;
use bonafide_verifier::{clock::Timestamp, spiffe::TrustDomain};
use tokio::sync::watch;
use tracing::error;

pub(crate) use self::{
    authority::{AuthorityError, IssuingAuthority},
    jwt::IssuedJwt,
    own_key::{OwnKey, OwnKeyError},
    public_key::{KeyHash, PublicKey},
    request::{LeafRequest, Validity},
    rules::RuleViolation,
    sign::{CheckedTbs, IssuedSvid, UnreleasedSvid},
};
use self::{cpu::CpuPool, jwt::JwtRequest, tbs::TbsBuilder};
use crate::{
    audit::{SvidKind, Who, sha256},
    authority::{Authorities, SigningError},
    clock_guard::{ClockGuard, ClockRefusal},
    registry::{NewDelegation, Service},
    store::{Recorded, Store, StoreError},
};

/// How long the leaves live whose lifetime is not in the registry.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SvidLifetimes {
    /// A node's.
    pub(crate) node: Duration,
    /// This CA process's own. Connections to the node API end with it.
    pub(crate) own: Duration,
}

impl Default for SvidLifetimes {
    fn default() -> Self {
        let day = Duration::from_secs(24 * 60 * 60);
        Self { node: day, own: day }
    }
}

/// For whom something is issued, as the records name it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Recipient<'a> {
    /// Who asked.
    pub(crate) who: &'a Who,
    /// The node it goes to; `None` for this CA's own leaf.
    pub(crate) node: Option<&'a NodeName>,
}

/// Issues documents. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Issuer {
    shared: Arc<Shared>,
}

struct Shared {
    trust_domain: TrustDomain,
    store: Store,
    authorities: Authorities,
    clock_guard: ClockGuard,
    cpu: CpuPool,
    /// The authority that signed last, with what was read from its certificate.
    current: arc_swap::ArcSwapOption<IssuingAuthority>,
}

impl Issuer {
    /// An issuer that signs with the authorities' current keys.
    pub(crate) fn new(
        trust_domain: TrustDomain,
        store: Store,
        authorities: Authorities,
        clock_guard: ClockGuard,
    ) -> Self {
        Self {
            shared: Arc::new(Shared {
                trust_domain,
                store,
                authorities,
                clock_guard,
                cpu: CpuPool::over_all_cores(),
                current: arc_swap::ArcSwapOption::empty(),
            }),
        }
    }

    /// The trust domain in which it issues.
    pub(crate) fn trust_domain(&self) -> &TrustDomain {
        &self.shared.trust_domain
    }

    /// The time at which something may be issued: now, if the clock can be trusted.
    ///
    /// # Errors
    /// It cannot.
    pub(crate) fn time(&self) -> Result<Timestamp, IssueError> {
        Ok(self.shared.clock_guard.check()?)
    }

    /// The authority that signs X.509-SVIDs now.
    ///
    /// # Errors
    /// Its certificate lacks what a leaf needs of it.
    pub(crate) fn authority(&self) -> Result<Arc<IssuingAuthority>, IssueError> {
        let signing = self.shared.authorities.current();
        if let Some(known) = self.shared.current.load_full()
            && Arc::ptr_eq(known.signing(), &signing)
        {
            return Ok(known);
        }
        let read = Arc::new(IssuingAuthority::new(signing, &self.shared.trust_domain)?);
        self.shared.current.store(Some(Arc::clone(&read)));
        Ok(read)
    }

    /// Issues leaves, each decided by itself, in the order of `requests`. All are signed by one authority.
    ///
    /// The records are queued before the first signature and written while signing goes on; nothing comes back before
    /// both are done. Dropping the future loses nothing but the certificates: a record may then tell of one that was
    /// never handed out.
    ///
    /// # Errors
    /// What keeps all of them from being issued: the clock, the authority, the store. What keeps one, stands in its
    /// place.
    pub(crate) async fn issue(
        &self,
        recipient: Recipient<'_>,
        requests: Vec<LeafRequest>,
    ) -> Result<Vec<Result<IssuedSvid, IssueError>>, IssueError> {
        let issued = self.issue_all(recipient, requests).await.inspect_err(report)?;
        issued.iter().filter_map(|one| one.as_ref().err()).for_each(report);
        Ok(issued)
    }

    async fn issue_all(
        &self,
        recipient: Recipient<'_>,
        requests: Vec<LeafRequest>,
    ) -> Result<Vec<Result<IssuedSvid, IssueError>>, IssueError> {
        let at = self.time()?;
        let authority = self.authority()?;
        let (who, node) = (recipient.who.clone(), recipient.node.cloned());
        let store = self.shared.store.clone();
        let parts = self.shared.cpu.run(requests, move |requests| {
            let recipient = Recipient { who: &who, node: node.as_ref() };
            sign_part(requests, &authority, at, recipient, &store)
        });
        let mut issued = Vec::new();
        for part in parts.await? {
            issued.extend(part?.release().await?);
        }
        Ok(issued)
    }

    /// Issues one leaf.
    ///
    /// # Errors
    /// As [`Issuer::issue`].
    pub(crate) async fn issue_one(
        &self,
        recipient: Recipient<'_>,
        request: LeafRequest,
    ) -> Result<IssuedSvid, IssueError> {
        let mut issued = self.issue(recipient, vec![request]).await?;
        issued.pop().unwrap_or(Err(IssueError::ForeignRecord))
    }

    /// Issues a JWT-SVID to a node.
    ///
    /// # Errors
    /// As [`Issuer::issue`].
    pub(crate) async fn issue_jwt(
        &self,
        who: &Who,
        node: &NodeName,
        request: JwtRequest,
    ) -> Result<IssuedJwt, IssueError> {
        self.issue_token(who, node, request).await.inspect_err(report)
    }

    async fn issue_token(&self, who: &Who, node: &NodeName, request: JwtRequest) -> Result<IssuedJwt, IssueError> {
        let at = self.time()?;
        let checked = jwt::prepare(request, self.shared.authorities.current(), at)?;
        // Queued here, written while the signature is made.
        let durable = self.shared.store.record_group(vec![checked.record(who, node)]);
        let signed = checked.sign()?;
        signed.release(durable.await?.pop().ok_or(IssueError::ForeignRecord)?)
    }

    /// Signs a delegation for the agent of `node`. It is the caller's to have it written down before it leaves.
    ///
    /// # Errors
    /// The clock cannot be trusted, or as [`delegation::sign`].
    pub(crate) fn sign_delegation(
        &self,
        node: &NodeName,
        key: &PublicKey,
        edges: Vec<Arc<Service>>,
    ) -> Result<NewDelegation, IssueError> {
        let signing = self.shared.authorities.current();
        let signed =
            self.time().and_then(|at| delegation::sign(&self.shared.trust_domain, node, key, edges, &signing, at));
        signed.inspect_err(report)
    }

    /// Wakes when the keys that sign, or the bundle, have changed.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.shared.authorities.changes()
    }
}

/// Builds the to-be-signed bytes and runs every profile rule on them. Touches no key. `builder` is one of the authority's.
///
/// # Errors
/// The authority has no life left, no randomness, or a rule does not hold.
fn prepare(
    builder: &TbsBuilder,
    request: LeafRequest,
    authority: &Arc<IssuingAuthority>,
    at: Timestamp,
) -> Result<CheckedTbs, IssueError> {
    let validity = Validity::of(request.ttl(), at, authority.facts())
        .ok_or(IssueError::AuthorityTooShort { not_after: authority.facts().not_after(), at })?;
    let serial = new_serial()?;
    let framed = authority.frames().fill(&request, validity, &serial);
    let is_framed = framed.is_some();
    let bytes = match framed {
        Some(bytes) => bytes,
        None => {
            let bytes = builder.build(&request, validity, serial)?;
            rules::check_as_verifier(&bytes, &request)?;
            bytes
        }
    };
    rules::check(&bytes, &request, validity, &serial, authority.facts(), at)?;
    // Nodes and this CA itself ask rarely, each for names of its own.
    if !is_framed && request.kind() == SvidKind::Service {
        authority.frames().keep(&request, &bytes);
    }
    Ok(CheckedTbs { hash: sha256(&bytes), bytes, serial, request, validity, authority: Arc::clone(authority) })
}

/// Leaves that are signed, while their records are being written.
struct SignedPart {
    durable: Pin<Box<dyn Future<Output = Result<Vec<Recorded>, StoreError>> + Send>>,
    /// In the order of the records.
    signed: Vec<Result<UnreleasedSvid, IssueError>>,
    /// In the order of the requests: what was signed, or why it was not.
    places: Vec<Result<(), IssueError>>,
}

/// Checks each request, queues the records of those that may be signed, and signs while they are being written. Keeps a core busy.
fn sign_part(
    requests: Vec<LeafRequest>,
    authority: &Arc<IssuingAuthority>,
    at: Timestamp,
    recipient: Recipient<'_>,
    store: &Store,
) -> Result<SignedPart, IssueError> {
    let builder = TbsBuilder::new(authority.facts())?;
    let mut records = Vec::with_capacity(requests.len());
    let mut checked = Vec::with_capacity(requests.len());
    let places = requests
        .into_iter()
        .map(|request| {
            let tbs = prepare(&builder, request, authority, at)?;
            records.push(tbs.record(recipient));
            checked.push(tbs);
            Ok(())
        })
        .collect();
    let durable: Pin<Box<dyn Future<Output = _> + Send>> = if records.is_empty() {
        Box::pin(future::ready(Ok(Vec::new())))
    } else {
        Box::pin(store.record_group(records))
    };
    let signed = checked.into_iter().map(CheckedTbs::sign).collect();
    Ok(SignedPart { durable, signed, places })
}

impl SignedPart {
    /// Waits for the records, and lets go what was signed, each against the proof of its own.
    async fn release(self) -> Result<Vec<Result<IssuedSvid, IssueError>>, IssueError> {
        let mut released =
            self.durable.await?.into_iter().zip(self.signed).map(|(recorded, signed)| signed?.release(recorded));
        let take = |place: Result<(), IssueError>| {
            place.and_then(|()| released.next().unwrap_or(Err(IssueError::ForeignRecord)))
        };
        Ok(self.places.into_iter().map(take).collect())
    }
}

/// Tells what a person must look at, once.
fn report(fault: &IssueError) {
    if fault.is_ours() {
        error!(error = %Causes(fault), "issued nothing");
    }
}

/// An error with what caused it, in one line.
struct Causes<'a>(&'a dyn Error);

impl fmt::Display for Causes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        match self.0.source() {
            Some(source) => write!(f, ": {}", Causes(source)),
            None => Ok(()),
        }
    }
}

fn new_serial() -> Result<[u8; request::SERIAL_LENGTH], IssueError> {
    let mut serial = [0; request::SERIAL_LENGTH];
    rand::fill(&mut serial).map_err(|_| IssueError::Randomness)?;
    // Positive, and the same length always: see `rules/serial_number.rs`.
    serial[0] = (serial[0] & 0x7f) | 0x40;
    Ok(serial)
}

/// Why something was not issued.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum IssueError {
    /// The clock cannot be trusted.
    #[error(transparent)]
    Clock(#[from] ClockRefusal),
    /// The record could not be made durable.
    #[error("the record of the issuance could not be written, so nothing was issued")]
    Store(#[from] StoreError),
    /// The authority that signs now has no life left.
    #[error("the authority that signs ends at {not_after}, and it is {at}; the next one is active soon")]
    AuthorityTooShort {
        /// The authority's end.
        not_after: Timestamp,
        /// The CA's time.
        at: Timestamp,
    },
    /// The authority's certificate cannot issue.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// A rule of the profile does not hold on what was about to be signed.
    #[error(transparent)]
    Rule(#[from] RuleViolation),
    /// The JWT about to be signed is not what it should be.
    #[error("the token that was about to be signed does not follow its profile: {finding}")]
    Jwt {
        /// What was found.
        finding: String,
    },
    /// A delegation for more edges than one statement holds.
    #[error(
        "the edge services of this node make a delegation of {bytes} bytes, which is too large; place fewer of them on one node"
    )]
    TooManyEdges {
        /// Of the statement.
        bytes: usize,
    },
    /// The bytes could not be built.
    #[error("the certificate could not be built")]
    Build {
        /// Why.
        #[source]
        source: rcgen::Error,
    },
    /// A time that no certificate can hold.
    #[error("no certificate can hold the time {unix_seconds} s after 1970")]
    Time {
        /// The time.
        unix_seconds: i64,
    },
    /// The key did not sign.
    #[error("the authority's key did not sign")]
    Sign {
        /// Why.
        #[source]
        source: SigningError,
    },
    /// What was put together reads differently.
    #[error("the signed certificate does not read as what was checked")]
    ReadAgain,
    /// The proof is of another record.
    #[error("the proof of a durable record belongs to something else than what was signed")]
    ForeignRecord,
    /// The system gives no random numbers.
    #[error("the system gives no random numbers")]
    Randomness,
    /// A thread that was signing panicked.
    #[error("a signing thread ended early")]
    Thread,
}

impl IssueError {
    /// Whether a person must look at this CA: nothing that an asker does, and no passing state, causes it.
    pub(crate) fn is_ours(&self) -> bool {
        match self {
            Self::Clock(_) | Self::Store(_) | Self::AuthorityTooShort { .. } | Self::TooManyEdges { .. } => false,
            Self::Authority(_)
            | Self::Rule(_)
            | Self::Jwt { .. }
            | Self::Build { .. }
            | Self::Time { .. }
            | Self::Sign { .. }
            | Self::ReadAgain
            | Self::ForeignRecord
            | Self::Randomness
            | Self::Thread => true,
        }
    }
}
