//! One exchange: from a subject token to a transaction token that is signed, recorded, and may leave.

use std::{sync::Arc, time::Duration};

use aws_lc_rs::{
    digest::{Context, SHA256, digest},
    rand::SystemRandom,
};
use bonafide_ca_api::{
    generated::node,
    token_exchange::{self, ExchangeError, Grant, Requester, Subject, SubjectTokenType, Subjects as Allowed, Wanted},
};
use bonafide_verifier::{
    clock::Timestamp,
    jwt::{
        Algorithm, JwtError,
        delegation::{BeyondDelegation, Minted as Claimed},
        user_issuers::{IssuerKeys, UserIssuer, UserIssuerSettings, UserIssuers},
        user_token::UserTokenError,
    },
    spiffe::{PublicKey, SpiffeId, TrustDomain},
    txn_tokens::{TxnKey, TxnTokens},
    user::IssuerName,
};
use quick_cache::sync::Cache;
use serde::Serialize;
use serde_json::{Map, Value};
use tracing::warn;

use super::{Believed, TokenService, mint_log::MintLogError};

/// What an edge asks for.
#[derive(Debug)]
pub(crate) struct Asked<'a> {
    /// The edge, attested.
    pub(crate) requester: &'a SpiffeId,
    /// The public keys of its SVIDs.
    pub(crate) keys: &'a [PublicKey],
    pub(crate) subject_token: &'a str,
    pub(crate) subject_token_type: &'a str,
    /// Empty: all that it may have for this subject.
    pub(crate) scope: &'a str,
    pub(crate) details: Map<String, Value>,
    pub(crate) context: Map<String, Value>,
}

/// A token that is recorded.
pub(crate) struct Minted {
    /// A bearer token.
    pub(crate) token: String,
    pub(crate) expires_at: Timestamp,
    pub(crate) scope: String,
}

impl std::fmt::Debug for Minted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Minted").field("expires_at", &self.expires_at).finish_non_exhaustive()
    }
}

/// Why nothing was minted.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum MintError {
    /// By the rules, which are the same at the CA.
    #[error(transparent)]
    Exchange(#[from] ExchangeError),
    /// The requester is not among the edges of the delegation.
    #[error(
        "`{requester}` is no edge: nothing is delegated to this node for it; `bonafide-ca service update PATH --edge-scope WORD` makes one"
    )]
    NotAnEdge { requester: SpiffeId },
    /// Nothing is delegated to this node at the moment.
    #[error("this agent has no delegation of the CA; `bonafide-agent status` says why")]
    NoDelegation,
    /// It would go beyond what is delegated.
    #[error(transparent)]
    Beyond(#[from] BeyondDelegation),
    /// No receiver would take it: its facts are too large, or nested too deeply.
    #[error("the token would not be taken: {0}")]
    Claims(#[from] JwtError),
    /// It cannot be recorded.
    #[error(transparent)]
    Log(#[from] MintLogError),
    /// It cannot be written down.
    #[error("the record of a token cannot be written")]
    Record,
    /// The key does not sign.
    #[error("the cryptographic library failed to sign")]
    Sign,
}

/// What the log has of a token, and the CA's audit log after it.
#[derive(Serialize)]
struct Record<'r> {
    key_id: &'r str,
    txn: &'r str,
    sub: &'r str,
    scope: &'r str,
    req_wl: &'r str,
    /// What kind of token it was minted for.
    subject: &'r str,
    iat: i64,
    exp: i64,
    token: &'r str,
}

/// Subjects that were verified, so that the same user's next request costs a hash.
pub(super) struct Subjects {
    txn_tokens: TxnTokens,
    /// By the SHA-256 of kind and token, and the generation of what is believed.
    remembered: Cache<([u8; 32], u64), Arc<Subject>>,
}

impl std::fmt::Debug for Subjects {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Subjects").field("remembered", &self.remembered.len()).finish_non_exhaustive()
    }
}

impl Subjects {
    /// So many are remembered; beyond it those that were not used.
    const REMEMBERED: usize = 4096;

    pub(super) fn new(trust_domain: TrustDomain) -> Self {
        Self { txn_tokens: TxnTokens::empty(trust_domain), remembered: Cache::new(Self::REMEMBERED) }
    }

    pub(super) fn replace_keys(&self, keys: Vec<TxnKey>) {
        if let Err(error) = self.txn_tokens.replace(keys) {
            warn!(%error, "the keys for transaction tokens cannot be used; the earlier ones stay");
        }
    }

    fn verify(
        &self,
        asked: &Asked<'_>,
        believed: &Believed,
        trust_domain: &TrustDomain,
        now: Timestamp,
    ) -> Result<Arc<Subject>, ExchangeError> {
        let kind = SubjectTokenType::parse(asked.subject_token_type)?;
        let requester = Requester { id: asked.requester, keys: asked.keys };
        let believed_by =
            token_exchange::Believed { trust_domain, users: &believed.users, txn_tokens: &self.txn_tokens };
        let verify = || Subject::verify(asked.subject_token, kind, &requester, &believed_by, now).map(Arc::new);
        // The others depend on who asks, or are remembered elsewhere.
        if !matches!(kind, SubjectTokenType::IdToken | SubjectTokenType::AccessToken) {
            return verify();
        }
        let mut context = Context::new(&SHA256);
        context.update(kind.word().as_bytes());
        context.update(&[0]);
        context.update(asked.subject_token.as_bytes());
        let mut name = [0; 32];
        name.copy_from_slice(context.finish().as_ref());
        let name = (name, believed.generation);
        if let Some(found) = self.remembered.get(&name)
            && found.holds_at(now)
        {
            return Ok(found);
        }
        let subject = verify()?;
        self.remembered.insert(name, Arc::clone(&subject));
        Ok(subject)
    }
}

impl TokenService {
    /// Mints a transaction token. Its record is written when this returns.
    ///
    /// # Errors
    /// When a rule does not hold, nothing is delegated, or it cannot be recorded.
    pub(crate) async fn exchange(&self, asked: Asked<'_>) -> Result<Minted, MintError> {
        let shared = &self.0;
        let now = shared.parts.clock.now();
        let held = shared.held.load_full().filter(|held| now < held.delegation.expires_at);
        let (Some(held), Some(log)) = (held, shared.log.get()) else { return Err(MintError::NoDelegation) };
        let delegation = &held.delegation;
        let edge = delegation.edges.iter().find(|edge| edge.id == *asked.requester);
        let edge = edge.ok_or_else(|| MintError::NotAnEdge { requester: asked.requester.clone() })?;
        let subject = self.subject(&asked, now).await?;
        let scope = match asked.scope {
            "" => all_scopes(&edge.scopes, subject.scope()),
            scope => scope.to_owned(),
        };
        let grant = Grant {
            words: &edge.scopes,
            registered: &edge.scopes,
            subjects: Allowed::OfIssuers(&edge.issuers),
            most_lifetime: delegation.token_lifetime.min(whole_seconds(delegation.expires_at.since(now))),
        };
        let wanted = Wanted {
            audience: shared.trust_domain.as_str(),
            scope: &scope,
            details: asked.details,
            context: asked.context,
        };
        let txn = uuid::Uuid::now_v7().to_string();
        let claims =
            token_exchange::exchange(asked.requester, &subject, wanted, &grant, &shared.trust_domain, &txn, now)?;
        // What no verifier would take does not leave.
        delegation.permits(&Claimed {
            requester: &claims.requester,
            sub: &claims.sub,
            scope: &claims.scope,
            issued_at: claims.issued_at,
            expires_at: claims.expires_at,
        })?;
        let key_id = delegation.key.key_id();
        let input = claims.signing_input(&shared.trust_domain, key_id)?;
        let signature = held.pair.sign(&SystemRandom::new(), input.as_bytes()).map_err(|_| MintError::Sign)?;
        let token = input.with_signature(signature.as_ref());
        let hash = digest(&SHA256, token.as_bytes());
        let token_hash = data_encoding::HEXLOWER.encode(hash.as_ref().get(..TOKEN_HASH).unwrap_or_default());
        let record = Record {
            key_id,
            txn: &claims.txn,
            sub: &claims.sub,
            scope: &claims.scope,
            req_wl: claims.requester.as_str(),
            subject: subject.kind().word(),
            iat: claims.issued_at.unix_seconds(),
            exp: claims.expires_at.unix_seconds(),
            token: &token_hash,
        };
        // It has nothing but texts and numbers.
        let record = serde_json::to_vec(&record).map_err(|_| MintError::Record)?;
        log.append(now.unix_millis(), &record).await?;
        Ok(Minted { token, expires_at: claims.expires_at, scope: claims.scope })
    }
}

impl TokenService {
    /// The verified subject. A user's token whose key is not known is looked at once more after the CA has asked its issuer.
    async fn subject(&self, asked: &Asked<'_>, now: Timestamp) -> Result<Arc<Subject>, ExchangeError> {
        let shared = &self.0;
        let verify = || shared.subjects.verify(asked, &self.believed(now), &shared.trust_domain, now);
        let first = verify();
        let Err(ExchangeError::User(UserTokenError::UnknownKey { issuer, .. })) = &first else { return first };
        if self.look_at(issuer, now).await { verify() } else { first }
    }
}

/// The words that the edge has and the subject token does not lack.
fn all_scopes(registered: &[String], subject: Option<&str>) -> String {
    let has = |word: &&str| subject.is_none_or(|scope| scope.split(' ').any(|known| known == *word));
    registered.iter().map(String::as_str).filter(has).collect::<Vec<_>>().join(" ")
}

fn whole_seconds(time: Duration) -> Duration {
    Duration::from_secs(time.as_secs())
}

/// The issuers that the CA told of, as they count now, and until when they do. One that cannot be used is left out: its users are refused, the others' are not.
pub(super) fn user_issuers(sent: &[node::UserIssuer], now: Timestamp) -> (UserIssuers, Timestamp) {
    let mut issuers = Vec::new();
    let mut until = Timestamp::MAX;
    for one in sent {
        if one.keys_until_ms != 0 {
            let ends = Timestamp::from_unix_millis(one.keys_until_ms);
            if ends <= now {
                // Too old to count: the provider was not reached for too long.
                continue;
            }
            until = until.min(ends);
        }
        match user_issuer(one) {
            Ok(issuer) => issuers.push(issuer),
            Err(error) => {
                warn!(issuer = one.name.escape_debug().to_string(), error, "an issuer of users cannot be used here")
            }
        }
    }
    let issuers = UserIssuers::new(issuers).unwrap_or_else(|error| {
        warn!(%error, "the issuers of users cannot be used together; no user's token is taken");
        UserIssuers::default()
    });
    (issuers, until)
}

fn user_issuer(sent: &node::UserIssuer) -> Result<UserIssuer, String> {
    let algorithm = |name: &String| {
        let known = Algorithm::ALL.into_iter().find(|algorithm| algorithm.name() == name);
        known.ok_or_else(|| format!("the algorithm `{}` is not known", name.escape_debug()))
    };
    let settings = UserIssuerSettings {
        name: IssuerName::parse(&sent.name).map_err(|error| error.to_string())?,
        url: sent.url.clone(),
        audiences: sent.audiences.clone(),
        algorithms: sent.algorithms.iter().map(algorithm).collect::<Result<_, _>>()?,
        roles_claim: (!sent.roles_claim.is_empty()).then(|| sent.roles_claim.clone()),
    };
    let keys = match sent.jwks.as_slice() {
        [] => IssuerKeys::default(),
        jwks => IssuerKeys::parse_jwks(jwks).map_err(|error| error.to_string())?,
    };
    UserIssuer::new(settings, &keys).map_err(|error| error.to_string())
}

/// Of the SHA-256 in a record: enough to find a token, and of no use to make one.
const TOKEN_HASH: usize = 8;
