//! Properties of everything that parses what a stranger sends, as plain functions over bytes.
//!
//! The property tests and the fuzz targets call the same functions. Each panics when its property does not hold, and
//! none may panic otherwise, whatever the bytes.

use rustls::pki_types::CertificateDer;

use crate::clock::Timestamp;
use crate::spiffe::{BundleSet, SpiffeId, TrustBundle, TrustDomain};
use crate::x509::{
    CertificateView, GeneralName, PresentedChain, ProfileError, SubjectAltName, VerifiedChains, VerifyError, profile,
    split_der, verify,
};

/// The time that all properties go by.
const NOW: Timestamp = Timestamp::from_unix_seconds(1_795_424_400);

/// What parses prints as it was, is made of the parts it says, and is in the alphabet.
pub fn spiffe_id(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(id) = SpiffeId::parse(text) else { return };
    assert_eq!(id.as_str(), text);
    assert_eq!(SpiffeId::new(id.trust_domain(), id.path()).as_ref(), Ok(&id));
    assert_eq!(TrustDomain::parse(id.trust_domain().as_str()).as_ref(), Ok(id.trust_domain()));
    assert!(text.len() <= SpiffeId::MAX_LENGTH && text.is_ascii());
    assert!(!text.ends_with('/') && !text.contains("/../") && !text.contains('%'));
    assert!(id.segments().all(|segment| !segment.is_empty() && segment != "." && segment != ".."));
}

fn example() -> Option<TrustDomain> {
    TrustDomain::parse("example.org").ok()
}

/// A bundle that can be read is written so that it reads back as the same, with nothing skipped.
pub fn trust_bundle_json(data: &[u8]) {
    let Some(example) = example() else { return };
    for read in [TrustBundle::parse_spiffe_json, TrustBundle::parse_jwks] {
        let Ok(bundle) = read(example.clone(), data) else { continue };
        let again = TrustBundle::parse_spiffe_json(example.clone(), bundle.to_spiffe_json().as_bytes());
        assert!(again.is_ok_and(|again| again.same_keys(&bundle) && again.skipped().is_empty()));
        let keys = TrustBundle::parse_jwks(example.clone(), bundle.to_jwks().as_bytes());
        assert!(keys.is_ok_and(|keys| keys.jwt_authorities() == bundle.jwt_authorities()));
    }
}

/// The same of roots in PEM, and in DER.
pub fn trust_bundle_pem(data: &[u8]) {
    let Some(example) = example() else { return };
    for read in [TrustBundle::parse_pem, TrustBundle::parse_der] {
        let Ok(bundle) = read(example.clone(), data) else { continue };
        let der = TrustBundle::parse_der(example.clone(), &bundle.x509_der_concatenated());
        assert!(der.is_ok_and(|again| again.same_keys(&bundle) && again.skipped().is_empty()));
        let pem = TrustBundle::parse_pem(example.clone(), bundle.to_pem().as_bytes());
        assert!(bundle.x509_authorities().is_empty() || pem.is_ok_and(|again| again.same_keys(&bundle)));
    }
}

/// Names that can be read are all seen again, and no URI is lost.
pub fn subject_alt_name(data: &[u8]) {
    let Ok(names) = SubjectAltName::parse(true, data) else { return };
    let uris: Vec<_> = names.names().filter(|name| matches!(name, GeneralName::Uri(_))).collect();
    assert_eq!(uris.len(), names.uri_count());
    assert_eq!(uris.first().copied(), names.first_uri().map(GeneralName::Uri));
    assert!(names.names().count() > 0);
}

/// Certificates one behind the other, as a peer's chain whose last is also the one root of the bundle: with and without the cache
/// the verdict is the same, its reason has a listed code, and an identity is what the leaf says.
pub fn x509_chain(data: &[u8]) {
    let Ok(chain) = split_der(data) else { return };
    let chain: Vec<CertificateDer<'_>> = chain.into_iter().map(CertificateDer::from).collect();
    let (Ok(presented), Some(root)) = (PresentedChain::leaf_first(&chain), chain.last()) else { return };
    let leaf = chain.first().and_then(|leaf| CertificateView::parse(leaf).ok());
    let named = leaf.as_ref().and_then(|leaf| profile::peer(leaf).ok());
    let domain = named.as_ref().map(|id| id.trust_domain().clone()).or_else(example);
    let bundle = domain.and_then(|domain| TrustBundle::new(domain, [root], [], None, None).ok());
    let bundles = bundle.map_or_else(BundleSet::empty, BundleSet::from);
    let verdict = verify(&presented, &bundles, NOW);
    let cache = VerifiedChains::new(4);
    assert_eq!(cache.verify(&presented, 1, &bundles, NOW), verdict);
    assert_eq!(cache.verify(&presented, 1, &bundles, NOW), verdict);
    match verdict {
        Ok(peer) => {
            assert_eq!(Some(peer.id()), named.as_ref());
            assert!(peer.is_valid_at(NOW) && !peer.id().path().is_empty());
        }
        Err(error) => {
            assert!(VerifyError::CODES.contains(&error.code()) || ProfileError::CODES.contains(&error.code()));
            assert!(!error.to_string().contains('\n'));
        }
    }
}

/// What passes as a token is written in the one way there is: no two texts are the same token.
#[cfg(feature = "jwt")]
pub fn jwt(data: &[u8]) {
    use crate::jwt::{JwtError, UnverifiedJwt};
    let Ok(token) = std::str::from_utf8(data) else { return };
    match UnverifiedJwt::parse(token) {
        Ok(jwt) => {
            assert_eq!(token.split('.').count(), 3);
            assert!(jwt.unverified_claims().contains_key("exp") && !jwt.key_id().is_empty());
            let refused = jwt.verify(&["a"], &BundleSet::empty(), NOW);
            assert!(matches!(refused, Err(JwtError::UnknownTrustDomain { .. })));
        }
        Err(error) => {
            assert!(JwtError::CODES.contains(&error.code()));
            assert!(!error.to_string().contains('\n'));
        }
    }
}

/// The header alone, given in clear: what is taken has three known members at most.
#[cfg(feature = "jwt")]
pub fn jwt_header(data: &[u8]) {
    use base64ct::{Base64UrlUnpadded, Encoding};
    let claims = br#"{"sub":"spiffe://example.org/a","aud":"a","exp":1}"#;
    let token = [data, claims, &[]].map(Base64UrlUnpadded::encode_string).join(".");
    if crate::jwt::UnverifiedJwt::parse(&token).is_ok() {
        let members: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(data).unwrap_or_default();
        assert!(members.contains_key("alg") && members.contains_key("kid") && members.len() <= 3);
    }
}

/// A set of peers, one entry a line: what parses prints so that it parses to the same, and none but a literal ID under
/// `/bonafide` holds one of these.
pub fn peer_set(data: &[u8]) {
    use crate::tls::PeerSet;
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(set) = PeerSet::parse(text.lines()) else { return };
    let printed = set.to_string();
    let again = PeerSet::parse(printed.split(", "));
    assert_eq!(again.map(|again| again.to_string()), Ok(printed));
    for line in text.lines() {
        let literal = SpiffeId::parse(line);
        assert!(literal.is_err() || literal.is_ok_and(|id| set.contains(&id)));
        let Some(domain) = line.strip_prefix("spiffe://").and_then(|rest| rest.split('/').next()) else { continue };
        let reserved = format!("spiffe://{domain}/bonafide/node/n1");
        let Ok(id) = SpiffeId::parse(&reserved) else { continue };
        assert_eq!(set.contains(&id), text.lines().any(|line| line == reserved));
    }
}

/// A certificate presented as a bare key: what proves a key has no name, and is as small as promised.
pub fn bare_key(data: &[u8]) {
    use crate::tls::BareKey;
    if let Some(Ok(key)) = BareKey::of_presented(&CertificateDer::from(data), &[]) {
        assert!(data.len() <= BareKey::MAX_CERTIFICATE);
        assert!(data.windows(key.spki_der().len()).any(|part| part == key.spki_der()));
        assert!(CertificateView::parse(data).map_or(true, |view| view.names().is_none()));
    }
}

/// A message of either stream of the Workload API: it is understood or dropped, and what is kept is for its own trust domain.
#[cfg(feature = "workload-api")]
pub fn workload_api_message(data: &[u8]) {
    crate::identity::workload_api::understand(data, NOW);
}

/// What parses prints in a form that parses to the same, and is an absolute path or an IP address.
#[cfg(feature = "workload-api")]
pub fn endpoint(data: &[u8]) {
    use crate::identity::workload_api::Endpoint;
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(endpoint) = Endpoint::parse(text) else { return };
    assert_eq!(Endpoint::parse(&endpoint.to_string()).as_ref(), Ok(&endpoint));
    assert!(endpoint.path().is_none_or(|path| path.is_absolute() && path.as_os_str().len() <= Endpoint::MAX_PATH));
}

/// Key records that are taken are of the own trust domain and none of Bonafide's own IDs, and are written so that they read back as
/// the same.
#[cfg(feature = "policy-file")]
pub fn key_records(data: &[u8]) {
    use crate::key_records::{KeyRecords, MAX_SECRETS, MOST_LIFETIME};
    let (Ok(text), Some(example)) = (std::str::from_utf8(data), example()) else { return };
    match KeyRecords::parse(text, &example) {
        Ok(records) => {
            for record in records.records() {
                assert!(*record.owner.trust_domain() == example && !record.owner.is_reserved());
                assert!(!record.owner.path().is_empty() && record.most_lifetime <= MOST_LIFETIME);
                assert!((1..=MAX_SECRETS).contains(&record.keys().count()));
            }
            let written = records.expose_secret_toml();
            let again = KeyRecords::parse(&written, &example);
            assert!(again.is_ok_and(|again| again.expose_secret_toml() == written));
        }
        Err(error) => assert!(!error.to_string().contains('\n')),
    }
}

/// What a caller holds is written so that it reads back as the same.
#[cfg(all(feature = "policy-file", feature = "jwt"))]
pub fn caller_key(data: &[u8]) {
    use crate::key_records::CallerKey;
    let Ok(text) = std::str::from_utf8(data) else { return };
    match CallerKey::parse(text) {
        Ok(key) => {
            let written = key.expose_secret_file();
            assert!(CallerKey::parse(&written).is_ok_and(|again| again.expose_secret_file() == written));
            if let Ok(value) = key.authorization(std::time::Duration::from_secs(60), NOW) {
                assert!(value.bytes().all(|byte| matches!(byte, b' '..=b'~')));
            }
        }
        Err(error) => assert!(!error.to_string().contains('\n')),
    }
}

/// What parses as an API key prints as it was.
pub fn api_key(data: &[u8]) {
    use crate::api_key::ApiKey;
    let Ok(text) = std::str::from_utf8(data) else { return };
    match ApiKey::parse(text) {
        Ok(key) => assert_eq!(*key.expose_secret(), text),
        Err(error) => assert!(!error.to_string().contains('\n')),
    }
}

/// The value of `authorization`, whatever it is: without a key nobody is anybody, each refusal has a listed code, and none quotes
/// a secret's worth of what was sent.
#[cfg(all(feature = "policy-file", feature = "jwt"))]
pub fn authorization(data: &[u8]) {
    use crate::{api_key::ApiKeyError, authenticate::AuthenticateError, jwt::JwtError};
    let Some(service) = service::get() else { return };
    match service.ask(data) {
        Ok(caller) => assert!(caller.is_none()),
        Err(error) => {
            let codes = [AuthenticateError::CODES, ApiKeyError::CODES, JwtError::CODES];
            assert!(codes.iter().any(|codes| codes.contains(&error.code())));
            assert!(!error.to_string().contains('\n'));
        }
    }
}

/// Claims under a good shared secret: what is taken has the known claims and no other, ends in time, and makes its owner the caller.
#[cfg(all(feature = "policy-file", feature = "jwt"))]
pub fn shared_secret_claims(data: &[u8]) {
    let Some(service) = service::get() else { return };
    let Ok(Some(caller)) = service.ask_with_shared_secret(data) else { return };
    assert!(caller.service().is_some_and(|id| id.path() == "/export"));
    let claims: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(data).unwrap_or_default();
    for claim in ["exp", "aud", "sub", "roles"] {
        assert!(claims.contains_key(claim));
    }
    assert!(claims.keys().all(|claim| matches!(claim.as_str(), "exp" | "aud" | "sub" | "roles" | "jti" | "iat")));
    assert_eq!(claims.get("sub").and_then(serde_json::Value::as_str), Some("export"));
    let left = caller.valid_until().unix_seconds() - NOW.unix_seconds();
    assert!((1..=630).contains(&left));
}

/// Claims signed by the token service: what is taken has all that is required, and makes a service of the own trust domain the caller.
#[cfg(all(feature = "policy-file", feature = "jwt"))]
pub fn access_token_claims(data: &[u8]) {
    let Some(service) = service::get() else { return };
    let Ok(Some(caller)) = service.ask_with_access_token(data) else { return };
    assert!(caller.service().is_some_and(|id| id.trust_domain().as_str() == "example.org" && !id.is_reserved()));
    let claims: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(data).unwrap_or_default();
    for claim in ["iss", "exp", "aud", "sub", "client_id", "iat", "jti"] {
        assert!(claims.contains_key(claim));
    }
    assert_eq!(claims.get("client_id").and_then(serde_json::Value::as_str), Some(caller.id().as_str()));
}

/// A key set that can be read is written so that it reads back as the same, with nothing skipped.
#[cfg(feature = "jwt")]
pub fn issuer_keys(data: &[u8]) {
    use crate::jwt::user_issuers::IssuerKeys;
    match IssuerKeys::parse_jwks(data) {
        Ok(keys) => {
            let again = IssuerKeys::parse_jwks(keys.to_jwks().as_bytes());
            assert!(again.is_ok_and(|again| again.key_ids().eq(keys.key_ids()) && again.skipped().is_empty()));
        }
        Err(error) => assert!(!error.to_string().contains('\n')),
    }
}

/// Claims of a delegation: what is taken is written back as the same, lasts an hour at most, and lets nobody speak for a service but itself.
#[cfg(feature = "jwt")]
pub fn delegation_claims(data: &[u8]) {
    use crate::jwt::delegation::{self, Delegation};
    let Ok(domain) = TrustDomain::parse("example.org") else { return };
    let delegation = match delegation::read_json(data, &domain) {
        Ok(delegation) => delegation,
        Err(error) => return assert!(!error.to_string().contains('\n')),
    };
    let life = delegation.expires_at.since(delegation.issued_at);
    assert!(life <= delegation::MOST_LIFETIME && delegation.token_lifetime <= delegation::MOST_TOKEN_LIFETIME);
    assert!((1..=delegation::MOST_EDGES).contains(&delegation.edges.len()));
    for edge in &delegation.edges {
        assert!(edge.id.trust_domain() == &domain && !edge.id.is_reserved());
        assert!(edge.issuers.iter().all(|issuer| SpiffeId::parse(&format!("{issuer}://example.org/a")).is_err()));
        let permits = |sub: &str| {
            let scope = edge.scopes.join(" ");
            let (issued_at, expires_at) = (delegation.issued_at, delegation.issued_at);
            delegation
                .permits(&delegation::Minted { requester: &edge.id, sub, scope: &scope, issued_at, expires_at })
                .is_ok()
        };
        assert!(!permits("spiffe://example.org/somebody-else"));
        assert_eq!(permits(edge.id.as_str()), delegation.issued_at <= delegation.expires_at);
    }
    // One that is too large for a statement is none that anybody signs.
    if let Ok(input) = delegation.signing_input(&domain, "txn-1") {
        let text = std::str::from_utf8(input.as_bytes()).unwrap_or_default();
        let payload = text.split('.').nth(1).unwrap_or_default();
        let written = <base64ct::Base64UrlUnpadded as base64ct::Encoding>::decode_vec(payload).unwrap_or_default();
        assert_eq!(delegation::read_json(&written, &domain).as_ref(), Ok::<&Delegation, _>(&delegation));
    }
}

/// Claims signed by an issuer of users: what is taken has all that is required, lives a day at most, and makes nobody a service.
#[cfg(feature = "jwt")]
pub fn user_token_claims(data: &[u8]) {
    use crate::jwt::user_token::{UserTokenError, UserTokenKind};
    let Some(issuer) = user_issuer::get() else { return };
    for token_type in ["JWT", "at+jwt"] {
        let user = match issuer.ask(token_type, data) {
            Ok(user) => user,
            Err(error) => {
                assert!(UserTokenError::CODES.contains(&error.code()));
                assert!(!error.to_string().contains('\n'));
                continue;
            }
        };
        assert!(SpiffeId::parse(user.subject()).is_err() && SpiffeId::parse(user.user().as_str()).is_err());
        assert_eq!(crate::user::UserId::parse(user.user().as_str()).as_ref(), Ok(user.user()));
        let claims: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(data).unwrap_or_default();
        for claim in ["iss", "sub", "aud", "iat", "exp"] {
            assert!(claims.contains_key(claim));
        }
        assert_eq!(claims.get("sub").and_then(serde_json::Value::as_str), Some(user.subject()));
        assert!(!claims.contains_key("cnf") && !claims.contains_key("events"));
        assert!(user.scope().is_none() || user.kind() == UserTokenKind::AccessToken);
        let life = user.expires_at().unix_seconds() - user.issued_at().unix_seconds();
        assert!((1..=86_400).contains(&life) && user.expires_at().unix_seconds() + 30 > NOW.unix_seconds());
    }
}

/// Claims that a service has signed about itself: what is taken names that service and no other, for the own trust domain, and lives five minutes at most.
#[cfg(feature = "jwt")]
pub fn self_signed_claims(data: &[u8]) {
    use crate::jwt::{JwtError, self_signed};
    let (Some(signer), Some(domain)) = (signer::get(), example()) else { return };
    let [Ok(own), Ok(other)] = ["spiffe://example.org/a", "spiffe://example.org/b"].map(SpiffeId::parse) else {
        return;
    };
    let Some(token) = signer.token("JWT", data) else { return };
    let keys = std::slice::from_ref(&signer.public);
    let statement = match self_signed::verify(&token, &own, keys, &domain, NOW) {
        Ok(statement) => statement,
        Err(error) => {
            assert!(JwtError::CODES.contains(&error.code()));
            return assert!(!error.to_string().contains('\n'));
        }
    };
    let claims: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(data).unwrap_or_default();
    for claim in ["iss", "sub"] {
        assert_eq!(claims.get(claim).and_then(serde_json::Value::as_str), Some(own.as_str()));
    }
    assert!(claims.get("aud").is_some_and(|aud| *aud == "example.org" || *aud == serde_json::json!(["example.org"])));
    assert!(statement.expires_at().since(statement.issued_at()) <= self_signed::MOST_LIFETIME);
    assert!(NOW < statement.expires_at() && statement.issued_at() <= NOW.saturating_add(crate::jwt::LEEWAY));
    assert!(self_signed::verify(&token, &other, keys, &domain, NOW).is_err(), "about nobody else");
    assert!(self_signed::verify(&token, &own, &[], &domain, NOW).is_err(), "by nobody else");
}

/// Claims of a transaction token, signed by the token service: what is taken has all that is required, for the own trust domain alone, asked for by a service of
/// it, lives ten minutes at most, and says the same when it is seen again.
#[cfg(feature = "jwt")]
pub fn txn_token_claims(data: &[u8]) {
    use crate::{jwt::txn_token, txn_tokens::TxnTokenError};
    let Some(signer) = signer::get() else { return };
    let Some(token) = signer.token(txn_token::TYPE, data) else { return };
    let user = match signer.tokens.verify(&token, NOW) {
        Ok(user) => user,
        Err(error) => {
            assert!(TxnTokenError::CODES.contains(&error.code()));
            return assert!(!error.to_string().contains('\n'));
        }
    };
    let claims: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(data).unwrap_or_default();
    for (claim, said) in [("sub", user.sub()), ("txn", user.txn()), ("scope", user.scope())] {
        assert_eq!(claims.get(claim).and_then(serde_json::Value::as_str), Some(said));
        assert!(!said.is_empty() && !said.contains(char::is_control));
    }
    assert!(claims.contains_key("iat") && claims.contains_key("exp") && !claims.contains_key("iss"));
    for requester in user.earlier_requesters().iter().chain([user.requester()]) {
        assert!(requester.trust_domain().as_str() == "example.org" && !requester.path().is_empty());
    }
    assert!(user.earlier_requesters().len() < txn_token::MOST_REQUESTERS);
    assert!(user.expires_at().since(user.issued_at()) <= txn_token::MOST_LIFETIME && NOW < user.valid_until());
    let again = signer.tokens.verify(&token, NOW);
    assert!(again.is_ok_and(|again| again.tctx() == user.tctx() && again.expose_token() == token));
    // Of no use as anything else that this key could have signed.
    assert!(signer.token("JWT", data).is_some_and(|other| signer.tokens.verify(&other, NOW).is_err()));
}

/// The facts that a requester states: what is taken is an object within its bounds, no member twice, and reads back.
#[cfg(feature = "jwt")]
pub fn facts(data: &[u8]) {
    use crate::jwt::txn_token::{FactsError, MAX_FACTS_BYTES, read_facts};
    let Ok(text) = std::str::from_utf8(data) else { return };
    match read_facts(text) {
        Ok(facts) => {
            assert!(text.len() <= MAX_FACTS_BYTES);
            match read_facts(&serde_json::Value::Object(facts.clone()).to_string()) {
                Ok(again) => assert!(again.keys().eq(facts.keys())),
                // Some numbers are longer when they are written out.
                Err(error) => assert!(matches!(error, FactsError::TooLarge { .. })),
            }
        }
        Err(error) => assert!(!error.to_string().contains('\n')),
    }
}

/// A key that signs whatever it is given, so that a signature is no obstacle.
#[cfg(feature = "jwt")]
mod signer {
    use std::sync::LazyLock;

    use aws_lc_rs::{
        encoding::AsDer,
        rand::SystemRandom,
        signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair},
    };
    use base64ct::{Base64UrlUnpadded, Encoding};

    use super::example;
    use crate::{
        spiffe::{JwtAuthority, PublicKey},
        txn_tokens::TxnTokens,
    };

    pub(super) struct Signer {
        key: EcdsaKeyPair,
        pub(super) public: PublicKey,
        /// By which the key is the token service's.
        pub(super) tokens: TxnTokens,
    }

    pub(super) fn get() -> Option<&'static Signer> {
        static SIGNER: LazyLock<Option<Signer>> = LazyLock::new(make);
        SIGNER.as_ref()
    }

    fn make() -> Option<Signer> {
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).ok()?;
        let spki = key.public_key().as_der().ok()?;
        let public = PublicKey::from_spki(spki.as_ref()).ok()?;
        let tokens = TxnTokens::new(example()?, vec![JwtAuthority::new("k", spki.as_ref()).ok()?]).ok()?;
        Some(Signer { key, public, tokens })
    }

    impl Signer {
        pub(super) fn token(&self, token_type: &str, claims: &[u8]) -> Option<String> {
            let header = format!(r#"{{"alg":"ES256","kid":"k","typ":"{token_type}"}}"#);
            let input = [header.as_bytes(), claims].map(Base64UrlUnpadded::encode_string).join(".");
            let signature = self.key.sign(&SystemRandom::new(), input.as_bytes()).ok()?;
            Some(format!("{input}.{}", Base64UrlUnpadded::encode_string(signature.as_ref())))
        }
    }
}

/// An issuer of users whose key is at hand, so that a signature is no obstacle.
#[cfg(feature = "jwt")]
mod user_issuer {
    use std::sync::LazyLock;

    use aws_lc_rs::{
        encoding::AsDer,
        rand::SystemRandom,
        signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair},
    };
    use base64ct::{Base64UrlUnpadded, Encoding};
    use serde_json::{Value, json};

    use super::NOW;
    use crate::{
        jwt::{
            Algorithm, JwtError,
            user_issuers::{IssuerKeys, UserIssuer, UserIssuerSettings, UserIssuers},
            user_token::{self, UserTokenError, VerifiedUser},
        },
        spiffe::PublicKey,
        user::IssuerName,
    };

    pub(super) struct Issuer {
        issuers: UserIssuers,
        key: EcdsaKeyPair,
    }

    pub(super) fn get() -> Option<&'static Issuer> {
        static ISSUER: LazyLock<Option<Issuer>> = LazyLock::new(make);
        ISSUER.as_ref()
    }

    fn make() -> Option<Issuer> {
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).ok()?;
        let mut jwk = PublicKey::from_spki(key.public_key().as_der().ok()?.as_ref()).ok()?.to_jwk();
        jwk.insert("kid".into(), "k".into());
        let keys = IssuerKeys::parse_jwks(json!({ "keys": [Value::Object(jwk)] }).to_string().as_bytes()).ok()?;
        let settings = UserIssuerSettings {
            name: IssuerName::parse("i").ok()?,
            url: "https://i".into(),
            audiences: vec!["a".into()],
            algorithms: vec![Algorithm::Es256],
            roles_claim: Some("/r/r".into()),
        };
        let issuers = UserIssuers::new(vec![UserIssuer::new(settings, &keys).ok()?]).ok()?;
        Some(Issuer { issuers, key })
    }

    impl Issuer {
        pub(super) fn ask(&self, token_type: &str, claims: &[u8]) -> Result<VerifiedUser, UserTokenError> {
            let header = format!(r#"{{"alg":"ES256","kid":"k","typ":"{token_type}"}}"#);
            let input = [header.as_bytes(), claims].map(Base64UrlUnpadded::encode_string).join(".");
            let signature =
                self.key.sign(&SystemRandom::new(), input.as_bytes()).map_err(|_| JwtError::BadSignature)?;
            let signature = Base64UrlUnpadded::encode_string(signature.as_ref());
            user_token::verify(&format!("{input}.{signature}"), &self.issuers, NOW)
        }
    }
}

/// A service with keys that are known here, so that a signature is no obstacle.
#[cfg(all(feature = "policy-file", feature = "jwt"))]
mod service {
    use std::sync::{Arc, LazyLock};

    use aws_lc_rs::{
        rand::SystemRandom,
        signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair},
    };
    use base64ct::{Base64UrlUnpadded, Encoding};

    use super::{NOW, example};
    use crate::{
        authenticate::{AddressRate, AuthenticateError, Authenticators, Found, HeaderView, Presented},
        caller::Caller,
        clock::ManualClock,
        identity::Identity,
        key_records::KeyRecords,
        shared_secret::SharedSecret,
        spiffe::JwtAuthority,
    };

    const RECORDS: &str = r#"
        version = 1
        [[key]]
        id = "export"
        kind = "shared-secret"
        owner = "spiffe://example.org/export"
        audience = "a"
        subject = "export"
        roles = ["reader"]
        expires = 2030-01-01T00:00:00Z
        [[key.secret]]
        id = "export.1"
        value = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"
        created = 2026-01-01T00:00:00Z
    "#;

    pub(super) struct Service {
        authenticators: Authenticators,
        secret: SharedSecret,
        key: EcdsaKeyPair,
    }

    struct Authorization<'v>(&'v [u8]);

    impl HeaderView for Authorization<'_> {
        fn find(&self, name: &str) -> Found<'_> {
            if name == "authorization" { Found::Once(self.0) } else { Found::Absent }
        }
    }

    pub(super) fn get() -> Option<&'static Service> {
        static SERVICE: LazyLock<Option<Service>> = LazyLock::new(make);
        SERVICE.as_ref()
    }

    fn make() -> Option<Service> {
        use aws_lc_rs::{encoding::AsDer, signature::KeyPair};
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).ok()?;
        let authority = JwtAuthority::new("at", key.public_key().as_der().ok()?.as_ref()).ok()?;
        let (identity, _publisher) = Identity::published(Arc::new(ManualClock::at(NOW)));
        let authenticators = Authenticators::builder(example()?, identity)
            .audience("a")
            .jwt_svids()
            .key_records(KeyRecords::parse(RECORDS, &example()?).ok()?)
            .access_tokens("i", vec![authority])
            .address_rate(AddressRate { per_second: u32::MAX, burst: u32::MAX })
            .build()
            .ok()?;
        let secret = SharedSecret::parse("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8").ok()?;
        Some(Service { authenticators, secret, key })
    }

    impl Service {
        pub(super) fn ask(&self, authorization: &[u8]) -> Result<Option<Caller>, AuthenticateError> {
            let headers = Authorization(authorization);
            self.authenticators.authenticate(&Presented {
                connection: None,
                session: None,
                headers: &headers,
                address: None,
                at: NOW,
            })
        }

        pub(super) fn ask_with_shared_secret(&self, claims: &[u8]) -> Result<Option<Caller>, AuthenticateError> {
            let header = br#"{"alg":"HS256","kid":"export.1"}"#;
            let input = [header, claims].map(Base64UrlUnpadded::encode_string).join(".");
            let tag = Base64UrlUnpadded::encode_string(self.secret.sign(input.as_bytes()).as_ref());
            self.ask(format!("Bearer {input}.{tag}").as_bytes())
        }

        pub(super) fn ask_with_access_token(&self, claims: &[u8]) -> Result<Option<Caller>, AuthenticateError> {
            let header = br#"{"alg":"ES256","kid":"at","typ":"at+jwt"}"#;
            let input = [header, claims].map(Base64UrlUnpadded::encode_string).join(".");
            let Ok(signature) = self.key.sign(&SystemRandom::new(), input.as_bytes()) else { return Ok(None) };
            let signature = Base64UrlUnpadded::encode_string(signature.as_ref());
            self.ask(format!("Bearer {input}.{signature}").as_bytes())
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use crate::x509::fixtures::*;

    fn bytes(most: usize) -> impl Strategy<Value = Vec<u8>> {
        proptest::collection::vec(any::<u8>(), 0..most)
    }

    /// Something good with a few bytes changed, cut out or put in.
    fn damaged(good: Vec<u8>) -> impl Strategy<Value = Vec<u8>> {
        let change = (any::<proptest::sample::Index>(), any::<u8>(), 0..4_u8);
        proptest::collection::vec(change, 0..4).prop_map(move |changes| {
            let mut bytes = good.clone();
            for (at, byte, how) in changes.into_iter().filter(|_| !good.is_empty()) {
                let at = at.index(good.len()).min(bytes.len().saturating_sub(1));
                match how {
                    0 => bytes[at] = byte,
                    1 => bytes[at] ^= 1 << (byte % 8),
                    2 => drop(bytes.remove(at)),
                    _ => bytes.insert(at, byte),
                }
            }
            bytes
        })
    }

    fn good_chain() -> Vec<u8> {
        let realm = Realm::new("example.org");
        let mut chain = realm.chain(|_| {});
        chain.push(realm.root.der);
        chain.iter().flat_map(|certificate| certificate.to_vec()).collect()
    }

    fn good_bundle() -> crate::spiffe::TrustBundle {
        let jwt = crate::spiffe::JwtAuthority::new("1", &Key::p256().spki()).unwrap();
        crate::spiffe::TrustBundle::new(
            domain("example.org"),
            [Authority::root("example.org").der],
            [jwt],
            Some(1),
            None,
        )
        .unwrap()
    }

    proptest! {
        #[test]
        fn peer_set_of_nearly_right_text(text in "((spiffe://)?(td|[a-z*]{0,3})(/([ab*]{0,3}|bonafide|node|n1)){0,4}\\n?){0,3}") {
            super::peer_set(text.as_bytes());
        }

        #[test]
        fn bare_key_of_any_bytes(data in bytes(256)) {
            super::bare_key(&data);
        }
    }

    #[cfg(feature = "tokio")]
    proptest! {
        #[test]
        fn bare_key_of_a_damaged_certificate(
            data in damaged(crate::tls::fixtures::bare_certificate(&rcgen::PKCS_ECDSA_P256_SHA256, &[]).0)
        ) {
            super::bare_key(&data);
        }
    }

    #[cfg(feature = "workload-api")]
    proptest! {
        #[test]
        fn workload_api_message_of_any_bytes(data in bytes(256)) {
            super::workload_api_message(&data);
        }

        #[test]
        fn workload_api_message_of_a_damaged_one(data in damaged(crate::identity::workload_api::sample_message())) {
            super::workload_api_message(&data);
        }
    }

    proptest! {
        #[test]
        fn spiffe_id_of_any_bytes(data in bytes(64)) {
            super::spiffe_id(&data);
        }

        #[test]
        fn spiffe_id_of_nearly_right_text(
            text in "(spiffe|SPIFFE|http):?/?/?[a-z0-9.A_%@:-]{0,12}(/[a-zA-Z.%_ -]{0,4}){0,4}[?#/]?"
        ) {
            super::spiffe_id(text.as_bytes());
        }

        #[test]
        fn subject_alt_name_of_any_bytes(data in bytes(64)) {
            super::subject_alt_name(&data);
        }

        #[test]
        fn subject_alt_name_of_damaged_names(
            data in damaged(names(&[uri(ID), dns("a"), tlv(0x87, &[1, 2, 3, 4]), tlv(0xa4, &name("a"))]).value)
        ) {
            super::subject_alt_name(&data);
        }

        #[test]
        fn x509_chain_of_any_bytes(data in bytes(256)) {
            super::x509_chain(&data);
        }

        #[test]
        fn x509_chain_of_damaged_certificates(data in damaged(good_chain())) {
            super::x509_chain(&data);
        }

        #[test]
        fn trust_bundle_json_of_any_bytes(data in bytes(128)) {
            super::trust_bundle_json(&data);
        }

        #[test]
        fn trust_bundle_json_of_a_damaged_document(data in damaged(good_bundle().to_spiffe_json().into_bytes())) {
            super::trust_bundle_json(&data);
        }

        #[test]
        fn trust_bundle_pem_of_a_damaged_text(data in damaged(good_bundle().to_pem().into_bytes())) {
            super::trust_bundle_pem(&data);
        }

        #[test]
        fn trust_bundle_der_of_damaged_bytes(data in damaged(good_bundle().x509_der_concatenated())) {
            super::trust_bundle_pem(&data);
        }
    }

    #[cfg(all(feature = "policy-file", feature = "jwt"))]
    const RECORDS: &str = r#"version = 1
[[key]]
id = "a"
kind = "api-key"
owner = "spiffe://example.org/a"
audience = "b"
roles = ["r"]
expires = 2030-01-01T00:00:00Z
[[key.secret]]
id = "a.1"
sha256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
created = 2026-01-01T00:00:00Z
[[key]]
id = "b"
kind = "shared-secret"
owner = "spiffe://example.org/b"
audience = "b"
expires = 2030-01-01T00:00:00Z
[[key.secret]]
id = "b.1"
value = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"
created = 2026-01-01T00:00:00Z
"#;

    #[cfg(all(feature = "policy-file", feature = "jwt"))]
    const CALLER_KEY: &str = r#"version = 1
key-id = "b.1"
secret = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"
subject = "b"
audience = "b"
roles = ["r"]
max-lifetime-s = 600
expires = 2030-01-01T00:00:00Z
"#;

    #[cfg(all(feature = "policy-file", feature = "jwt"))]
    proptest! {
        #[test]
        fn key_records_of_a_damaged_file(data in damaged(RECORDS.into())) {
            super::key_records(&data);
        }

        #[test]
        fn caller_key_of_a_damaged_file(data in damaged(CALLER_KEY.into())) {
            super::caller_key(&data);
        }

        #[test]
        fn api_key_of_nearly_right_text(text in "[a-zA-Z0-9._ -]{0,8}\\.?[A-Za-z0-9_-]{42,44}\n?") {
            super::api_key(text.as_bytes());
            super::caller_key(text.as_bytes());
        }

        #[test]
        fn authorization_of_any_bytes(data in bytes(128)) {
            super::authorization(&data);
        }

        #[test]
        fn authorization_of_nearly_right_text(text in "(Bearer|ApiKey|basic) ?[A-Za-z0-9_.-]{0,64}") {
            super::authorization(text.as_bytes());
        }

        #[test]
        fn shared_secret_claims_that_are_damaged(
            data in damaged(br#"{"sub":"export","aud":["a"],"exp":1795424700,"roles":["reader"],"iat":1795424400}"#.to_vec())
        ) {
            super::shared_secret_claims(&data);
        }

        #[test]
        fn access_token_claims_that_are_damaged(
            data in damaged(
                br#"{"iss":"i","sub":"spiffe://example.org/a","client_id":"spiffe://example.org/a","aud":"a","exp":1795424700,"iat":1795424400,"jti":"1"}"#
                    .to_vec()
            )
        ) {
            super::access_token_claims(&data);
        }
    }

    #[cfg(all(feature = "policy-file", feature = "jwt"))]
    #[test]
    fn what_the_properties_begin_with_is_good() {
        let claims = br#"{"sub":"export","aud":["a"],"exp":1795424700,"roles":["reader"],"iat":1795424400}"#;
        let service = super::service::get().unwrap();
        assert!(service.ask_with_shared_secret(claims).unwrap().is_some());
        let claims = br#"{"iss":"i","sub":"spiffe://example.org/a","client_id":"spiffe://example.org/a","aud":"a","exp":1795424700,"iat":1795424400,"jti":"1"}"#;
        assert!(service.ask_with_access_token(claims).unwrap().is_some());
        assert!(crate::key_records::KeyRecords::parse(RECORDS, &domain("example.org")).is_ok());
        assert!(crate::key_records::CallerKey::parse(CALLER_KEY).is_ok());
    }

    #[cfg(feature = "jwt")]
    const SELF_SIGNED: &[u8] = br#"{"iss":"spiffe://example.org/a","sub":"spiffe://example.org/a","aud":"example.org","iat":1795424400,"exp":1795424700}"#;
    #[cfg(feature = "jwt")]
    const TXN_TOKEN: &[u8] = br#"{"sub":"corp:charlie","aud":"example.org","txn":"t-1","scope":"a b","req_wl":"spiffe://example.org/a","iat":1795424400,"exp":1795424700,"tctx":{"a":[1]},"rctx":{"req_ip":"::1"},"act":{"sub":"spiffe://example.org/a","act":{"sub":"spiffe://example.org/b"}}}"#;

    #[cfg(feature = "jwt")]
    #[test]
    fn what_the_properties_of_transactions_begin_with_is_good() {
        use crate::jwt::{self_signed, txn_token};
        let (signer, own) =
            (super::signer::get().unwrap(), crate::spiffe::SpiffeId::parse("spiffe://example.org/a").unwrap());
        let token = signer.token("JWT", SELF_SIGNED).unwrap();
        let keys = std::slice::from_ref(&signer.public);
        self_signed::verify(&token, &own, keys, &domain("example.org"), super::NOW).unwrap();
        let user = signer.tokens.verify(&signer.token(txn_token::TYPE, TXN_TOKEN).unwrap(), super::NOW).unwrap();
        assert_eq!(user.earlier_requesters().len(), 1);
        for (claims, property) in
            [(SELF_SIGNED, super::self_signed_claims as fn(&[u8])), (TXN_TOKEN, super::txn_token_claims)]
        {
            property(claims);
        }
    }

    #[cfg(feature = "jwt")]
    proptest! {
        #![proptest_config(ProptestConfig { cases: 10_000, ..ProptestConfig::default() })]

        #[test]
        fn self_signed_claims_that_are_damaged(data in damaged(SELF_SIGNED.to_vec())) {
            super::self_signed_claims(&data);
        }

        #[test]
        fn txn_token_claims_that_are_damaged(data in damaged(TXN_TOKEN.to_vec())) {
            super::txn_token_claims(&data);
        }

        #[test]
        fn facts_that_are_damaged(data in damaged(br#"{"a":{"b":[1,-2.5e3,"\u00e9",null,true]},"c":""}"#.to_vec())) {
            super::facts(&data);
        }

        #[test]
        fn facts_of_nearly_right_text(text in "\\{?(\"[ab]\":(\\[|\\{|[0-9.e-]{1,4}|\"\\PC{0,4}\"){1,6}[\\]},]{0,6}){0,4}\\}?") {
            super::facts(text.as_bytes());
        }
    }

    #[cfg(feature = "jwt")]
    proptest! {
        #[test]
        fn jwt_of_any_text(text in "[A-Za-z0-9_.-]{0,64}|\\PC{0,64}") {
            super::jwt(text.as_bytes());
        }

        #[test]
        fn jwt_of_damaged_parts(
            header in damaged(br#"{"alg":"ES256","kid":"1","typ":"JWT"}"#.to_vec()),
            claims in damaged(br#"{"sub":"spiffe://example.org/a","aud":["a"],"exp":1795424400,"nbf":1}"#.to_vec()),
            signature in bytes(70),
        ) {
            use base64ct::{Base64UrlUnpadded, Encoding};
            super::jwt_header(&header);
            let token = [header, claims, signature].map(|part| Base64UrlUnpadded::encode_string(&part)).join(".");
            super::jwt(token.as_bytes());
        }
    }
}
