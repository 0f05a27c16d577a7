//! Users' own credentials at an edge: who the caller is, for whom a service acts, and what contradicts.

use super::*;
use crate::{
    authenticate::SessionUser,
    caller::CallerId,
    jwt::{
        Algorithm,
        user_issuers::{IssuerKeys, UserIssuer, UserIssuerSettings},
        user_token,
    },
    spiffe::PublicKey,
    user::IssuerName,
};

const CORP: &str = "https://login.example.com";

/// An edge with every kind of credential, and the key of an issuer of users.
struct EdgeWorld {
    world: World,
    issuers: UserIssuers,
    corp: Key,
}

fn sign(key: &Key, input: &str) -> Vec<u8> {
    let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &key.pkcs8()).unwrap();
    pair.sign(&SystemRandom::new(), input.as_bytes()).unwrap().as_ref().to_vec()
}

fn issuer(name: &str, url: &str, key: &Key) -> UserIssuer {
    let mut jwk = PublicKey::from_spki(&key.spki()).unwrap().to_jwk();
    // Its own name for its key, which is also the name of a key record here.
    jwk.insert("kid".into(), "export.1".into());
    let keys = json!({ "keys": [Value::Object(jwk)] }).to_string();
    let settings = UserIssuerSettings {
        name: IssuerName::parse(name).unwrap(),
        url: url.into(),
        audiences: vec!["photo".into()],
        algorithms: vec![Algorithm::Es256],
        roles_claim: Some("groups".into()),
    };
    UserIssuer::new(settings, &IssuerKeys::parse_jwks(keys.as_bytes()).unwrap()).unwrap()
}

impl EdgeWorld {
    fn new() -> Self {
        Self::with(|builder| builder)
    }

    fn with(change: impl FnOnce(Builder) -> Builder) -> Self {
        let corp = Key::p256();
        let issuers = UserIssuers::new(vec![issuer("corp", CORP, &corp)]).unwrap();
        let world = World::with(|builder| change(builder.users_from(issuers.clone())));
        Self { world, issuers, corp }
    }

    fn token(&self, more: Value) -> String {
        let mut claims = json!({
            "iss": CORP, "sub": "charlie", "aud": "photo", "iat": NOW.unix_seconds(), "exp": at(60).unix_seconds(),
            "groups": ["editor"],
        });
        for (claim, value) in more.as_object().unwrap() {
            claims[claim] = value.clone();
        }
        let header = json!({ "alg": "ES256", "kid": "export.1", "x5t": "a" }).to_string();
        let input =
            [header, claims.to_string()].map(|text| Base64UrlUnpadded::encode_string(text.as_bytes())).join(".");
        let signature = sign(&self.corp, &input);
        format!("{input}.{}", Base64UrlUnpadded::encode_string(&signature))
    }

    fn session(&self, ends: i64) -> SessionUser {
        let user = user_token::verify(&self.token(json!({})), &self.issuers, NOW).unwrap();
        SessionUser::new(&user, at(ends))
    }

    fn ask(
        &self,
        connection: Option<&VerifiedPeer>,
        session: Option<&SessionUser>,
        headers: &[(&str, &[u8])],
    ) -> Result<Option<Caller>, AuthenticateError> {
        let headers = Headers(headers);
        let presented = Presented { connection, session, headers: &headers, address: None, at: NOW };
        self.world.authenticators.authenticate(&presented)
    }
}

/// Who calls, by what, and for whom.
fn told(found: Result<Option<Caller>, AuthenticateError>) -> String {
    match found {
        Ok(Some(caller)) => {
            // Nobody is both, and nothing that is of a user is of a service.
            assert_ne!(caller.service().is_some(), caller.user().is_some());
            assert_eq!(caller.user().is_some(), caller.proof().kind.is_of_users());
            let id = match caller.id() {
                CallerId::Service(id) => id.path().to_owned(),
                CallerId::User(id) => id.to_string(),
            };
            let via = caller.via().map_or(String::new(), |via| format!(" via {}", via.path()));
            let user = caller.presented_user().map_or(String::new(), |user| format!(" for {}", user.id()));
            format!("{id} {}{via}{user}", caller.proof().kind)
        }
        Ok(None) => "nobody".to_owned(),
        Err(error) => {
            assert!(!error.to_string().contains('\n') && error.refusal() != Refusal::Unavailable);
            error.code().to_owned()
        }
    }
}

#[test]
fn trap_7_a_users_credential_alone_beside_a_service_and_beside_another() {
    let edge = EdgeWorld::new();
    let (export, proxy) = (edge.world.peer("/export"), edge.world.peer("/edge"));
    let user = bearer(&edge.token(json!({})));
    let access = bearer(&edge.token(json!({ "scope": "photo.read", "azp": "spa" })));
    let bad = bearer(&edge.token(json!({ "aud": "other" })));
    let svid = bearer(&edge.world.svid());
    let key = api_key("legacy");
    type Row<'r> = (&'r str, Option<&'r VerifiedPeer>, Option<&'r str>, Option<&'r str>, &'r str);
    let cases: &[Row<'_>] = &[
        ("a user", None, Some(&user), None, "corp:charlie id-token for corp:charlie"),
        ("by an access token", None, Some(&access), None, "corp:charlie user-access-token for corp:charlie"),
        ("a service for a user", Some(&export), Some(&user), None, "/export x509 for corp:charlie"),
        ("a service for itself", Some(&export), None, None, "/export x509"),
        ("a service by two credentials", Some(&export), Some(&svid), None, "/export x509"),
        ("a service with a bad user", Some(&export), Some(&bad), None, "user-token-audience"),
        ("a user behind a proxy", Some(&proxy), Some(&user), None, "corp:charlie id-token via /edge for corp:charlie"),
        ("a bad one behind a proxy", Some(&proxy), Some(&bad), None, "user-token-audience"),
        ("a proxy with two", Some(&proxy), Some(&user), Some(&key), "via-without-one-credential"),
        ("an API key does not act for users", None, Some(&user), Some(&key), "callers-disagree"),
        ("not beside a certificate either", Some(&export), Some(&user), Some(&key), "callers-disagree"),
    ];
    for (what, connection, authorization, key, expected) in cases {
        let mut headers: Vec<(&str, &[u8])> = Vec::new();
        headers.extend(authorization.map(|value| ("authorization", value.as_bytes())));
        headers.extend(key.map(|value| ("x-api-key", value.as_bytes())));
        // Twice: verified, and remembered.
        for _ in 0..2 {
            assert_eq!(told(edge.ask(*connection, None, &headers)), *expected, "{what}");
        }
    }
    let caller = edge.ask(None, None, &[("authorization", access.as_bytes())]).unwrap().unwrap();
    assert_eq!((caller.granted_roles(), caller.asserted_roles()), (&roles(&["editor"]), None));
    assert_eq!(caller.presented_user().unwrap().scope(), Some("photo.read"));
    assert_eq!(caller.valid_until(), at(90));
    assert!(!format!("{:?}", caller.presented_user()).contains("charlie"));
    // The roles of the user are not those of the service that acts for them.
    let caller = edge.ask(Some(&export), None, &[("authorization", user.as_bytes())]).unwrap().unwrap();
    assert!(caller.granted_roles().is_empty());
}

/// Issue 5 §3: each refused with a reason of its own in the record.
#[test]
fn bad_tokens_of_users() {
    let edge = EdgeWorld::new();
    let now = NOW.unix_seconds();
    let stranger = EdgeWorld::new();
    for (what, token, expected) in [
        ("expired", edge.token(json!({ "iat": now - 100, "exp": now - 30 })), "user-token-expired"),
        ("to come", edge.token(json!({ "iat": now + 31 })), "user-token-not-yet-valid"),
        ("for another audience", edge.token(json!({ "aud": "other" })), "user-token-audience"),
        ("a claim of the wrong type", edge.token(json!({ "exp": "soon" })), "user-token-claim"),
        ("of another's key", stranger.token(json!({})), "user-token-signature"),
        ("about a service", edge.token(json!({ "sub": "spiffe://example.org/export" })), "user-token-subject"),
        ("bound to a key", edge.token(json!({ "cnf": {} })), "user-token-bound-to-key"),
    ] {
        let value = bearer(&token);
        assert_eq!(told(edge.ask(None, None, &[("authorization", value.as_bytes())])), expected, "{what}");
    }
}

#[test]
fn an_issuer_of_no_one_is_told_as_such() {
    let edge = EdgeWorld::new();
    let claims =
        json!({ "iss": "https://evil.example", "sub": "charlie", "aud": "photo", "exp": at(60).unix_seconds() });
    let header = json!({ "alg": "ES256", "kid": "unheard-of" }).to_string();
    let input = [header, claims.to_string()].map(|text| Base64UrlUnpadded::encode_string(text.as_bytes())).join(".");
    let signature = sign(&edge.corp, &input);
    let value = bearer(&format!("{input}.{}", Base64UrlUnpadded::encode_string(&signature)));
    let (identity, _publisher) = Identity::published(Arc::new(ManualClock::at(NOW)));
    let users_only =
        Authenticators::builder(domain("example.org"), identity).users_from(edge.issuers.clone()).build().unwrap();
    let headers: [(&str, &[u8]); 1] = [("authorization", value.as_bytes())];
    let headers = Headers(&headers);
    let presented = Presented { connection: None, session: None, headers: &headers, address: None, at: NOW };
    assert_eq!(told(users_only.authenticate(&presented)), "user-token-issuer");
}

/// Only a server declared an edge takes users, and only what it was told of.
#[test]
fn who_is_no_edge_takes_no_user() {
    let (edge, inside) = (EdgeWorld::new(), World::new());
    let value = bearer(&edge.token(json!({})));
    assert_ne!(
        told(inside.ask(None, &[("authorization", value.as_bytes())])),
        "corp:charlie id-token for corp:charlie"
    );
    let session = edge.session(600);
    assert_eq!(told(edge.ask(None, Some(&session), &[])), "session-not-taken");
    // Keys go, and with them what they had signed.
    assert!(edge.ask(None, None, &[("authorization", value.as_bytes())]).is_ok());
    edge.world.authenticators.replace_user_issuers(UserIssuers::default()).unwrap();
    assert!(edge.ask(None, None, &[("authorization", value.as_bytes())]).is_err());
    edge.world.authenticators.replace_user_issuers(edge.issuers.clone()).unwrap();
    assert!(edge.ask(None, None, &[("authorization", value.as_bytes())]).is_ok());
    // The own token service is no issuer of users (trap 10).
    let own = UserIssuers::new(vec![issuer("own", ISSUER, &edge.corp)]).unwrap();
    let error = edge.world.authenticators.replace_user_issuers(own).unwrap_err();
    assert_eq!(error, AuthenticatorsError::UserIssuerIsOwn { name: IssuerName::parse("own").unwrap() });
}

#[test]
fn sessions_are_of_the_program_and_end() {
    let edge = EdgeWorld::with(Builder::sessions);
    let (session, export, proxy) = (edge.session(600), edge.world.peer("/export"), edge.world.peer("/edge"));
    let user = bearer(&edge.token(json!({})));
    let header: [(&str, &[u8]); 1] = [("authorization", user.as_bytes())];
    assert_eq!(told(edge.ask(None, Some(&session), &[])), "corp:charlie session for corp:charlie");
    assert_eq!(told(edge.ask(Some(&proxy), Some(&session), &[])), "corp:charlie session via /edge for corp:charlie");
    assert_eq!(told(edge.ask(Some(&export), Some(&session), &[])), "/export x509 for corp:charlie");
    assert_eq!(told(edge.ask(None, Some(&session), &header)), "users-disagree");
    assert_eq!(told(edge.ask(None, Some(&edge.session(0)), &[])), "session-ended");
    let caller = edge.ask(None, Some(&session), &[]).unwrap().unwrap();
    assert_eq!((caller.valid_until(), caller.granted_roles()), (at(600), &roles(&["editor"])));
    let shown = format!("{:?}", session.clone().with_token("secret", user_token::UserTokenKind::IdToken));
    assert!(!shown.contains("secret") && !shown.contains("charlie"), "{shown}");
}

/// A user's token is for many requests, whatever is said of the services'.
#[test]
fn single_use_is_not_for_users() {
    let edge = EdgeWorld::with(|builder| builder.single_use(8));
    let value = bearer(&edge.token(json!({})));
    for _ in 0..10 {
        assert!(edge.ask(None, None, &[("authorization", value.as_bytes())]).is_ok());
    }
    // What is looked at before the request is decided uses nothing up.
    let value = bearer(&edge.world.svid());
    let headers: [(&str, &[u8]); 1] = [("authorization", value.as_bytes())];
    let presented = Presented { connection: None, session: None, headers: &Headers(&headers), address: None, at: NOW };
    assert!(edge.world.authenticators.foresee(&presented).is_some());
    assert_eq!(told(edge.world.authenticators.authenticate(&presented)), "/export jwt-svid");
    assert_eq!(told(edge.world.authenticators.authenticate(&presented)), "token-replayed");
}
