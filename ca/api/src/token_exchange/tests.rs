//! What is exchanged and what is not, by kind of subject token.

use aws_lc_rs::{
    encoding::{AsDer, PublicKeyX509Der},
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair},
};
use bonafide_verifier::{
    jwt::{
        Algorithm, SigningInput, self_signed,
        txn_token::TYPE,
        user_issuers::{IssuerKeys, UserIssuer, UserIssuerSettings, UserIssuers},
    },
    spiffe::{JwtAuthority, PublicKey},
    txn_tokens::TxnTokens,
    user::IssuerName,
};
use serde_json::json;

use super::*;

const NOW: i64 = 1_800_000_000;
const URL: &str = "https://login.example.com";

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_unix_seconds(NOW + seconds)
}

fn id(path: &str) -> SpiffeId {
    SpiffeId::parse(&format!("spiffe://example.org/{path}")).unwrap()
}

struct Key(EcdsaKeyPair);

impl Key {
    fn new() -> Self {
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new()).unwrap();
        Self(EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, document.as_ref()).unwrap())
    }

    fn spki(&self) -> Vec<u8> {
        AsDer::<PublicKeyX509Der<'_>>::as_der(self.0.public_key()).unwrap().as_ref().to_vec()
    }

    fn jwk(&self, kid: &str) -> Value {
        use base64ct::{Base64UrlUnpadded, Encoding};
        let (x, y) = self.0.public_key().as_ref()[1..].split_at(32);
        let text = Base64UrlUnpadded::encode_string;
        json!({ "kty": "EC", "crv": "P-256", "x": text(x), "y": text(y), "kid": kid, "alg": "ES256", "use": "sig" })
    }

    fn sign(&self, input: SigningInput) -> String {
        let signature = self.0.sign(&SystemRandom::new(), input.as_bytes()).unwrap();
        input.with_signature(signature.as_ref())
    }

    fn token(&self, token_type: &str, kid: &str, claims: &Value) -> String {
        self.sign(SigningInput::typed(token_type, Algorithm::Es256, kid, claims.as_object().unwrap()))
    }
}

struct World {
    provider: Key,
    service: Key,
    svid: Key,
    trust_domain: TrustDomain,
    users: UserIssuers,
    txn_tokens: TxnTokens,
    web_keys: Vec<PublicKey>,
}

impl World {
    fn new() -> Self {
        let (provider, service, svid) = (Key::new(), Key::new(), Key::new());
        let keys = IssuerKeys::parse_jwks(json!({ "keys": [provider.jwk("p")] }).to_string().as_bytes()).unwrap();
        let settings = UserIssuerSettings {
            name: IssuerName::parse("corp").unwrap(),
            url: URL.into(),
            audiences: vec!["web".into()],
            algorithms: vec![Algorithm::Es256],
            roles_claim: None,
        };
        let trust_domain = TrustDomain::parse("example.org").unwrap();
        let authority = JwtAuthority::new("t", &service.spki()).unwrap();
        Self {
            users: UserIssuers::new(vec![UserIssuer::new(settings, &keys).unwrap()]).unwrap(),
            txn_tokens: TxnTokens::new(trust_domain.clone(), vec![authority]).unwrap(),
            web_keys: vec![PublicKey::from_spki(&svid.spki()).unwrap()],
            trust_domain,
            provider,
            service,
            svid,
        }
    }

    fn subject(&self, token: &str, kind: SubjectTokenType, seconds: i64) -> Result<Subject, ExchangeError> {
        let believed = Believed { trust_domain: &self.trust_domain, users: &self.users, txn_tokens: &self.txn_tokens };
        let web = id("web");
        Subject::verify(token, kind, &Requester { id: &web, keys: &self.web_keys }, &believed, at(seconds))
    }

    fn id_token(&self, change: impl FnOnce(&mut Value)) -> String {
        let mut claims = json!({ "iss": URL, "sub": "charlie", "aud": "web", "iat": NOW, "exp": NOW + 3600 });
        change(&mut claims);
        self.provider.token("JWT", "p", &claims)
    }

    fn access_token(&self, scope: &str) -> String {
        let claims = json!({
            "iss": URL, "sub": "charlie", "aud": "web", "client_id": "browser", "iat": NOW, "exp": NOW + 3600,
            "jti": "1", "scope": scope,
        });
        self.provider.token("at+jwt", "p", &claims)
    }

    fn txn_token(&self, claims: &TxnClaims) -> String {
        self.service.sign(claims.signing_input(&self.trust_domain, "t").unwrap())
    }
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// A request of `web`, which is registered for reading and writing photos of corp's users.
struct Ask<'a> {
    subject: &'a Subject,
    scope: &'a str,
    audience: &'a str,
    details: Value,
    context: Value,
    words: Vec<String>,
    registered: Vec<String>,
    issuers: Vec<String>,
    seconds: i64,
}

impl<'a> Ask<'a> {
    fn of(subject: &'a Subject) -> Self {
        Self {
            subject,
            scope: "photo.read",
            audience: "example.org",
            details: json!({}),
            context: json!({}),
            words: words(&["photo.read", "photo.write"]),
            registered: words(&["photo.read", "photo.write"]),
            issuers: vec!["corp".to_owned()],
            seconds: 0,
        }
    }

    fn exchange(self) -> Result<TxnClaims, ExchangeError> {
        let object = |value: Value| value.as_object().unwrap().clone();
        let wanted = Wanted {
            audience: self.audience,
            scope: self.scope,
            details: object(self.details),
            context: object(self.context),
        };
        let grant = Grant {
            words: &self.words,
            registered: &self.registered,
            subjects: Subjects::OfIssuers(&self.issuers),
            most_lifetime: Duration::from_secs(300),
        };
        let trust_domain = TrustDomain::parse("example.org").unwrap();
        exchange(&id("web"), self.subject, wanted, &grant, &trust_domain, "new", at(self.seconds))
    }

    fn code(self) -> &'static str {
        self.exchange().map_or_else(|error| error.code(), |_| "exchanged")
    }
}

#[test]
fn a_users_token_begins_a_transaction() {
    let world = World::new();
    let subject = world.subject(&world.id_token(|_| {}), SubjectTokenType::IdToken, 0).unwrap();
    assert_eq!((subject.sub(), subject.issuer().unwrap().as_str(), subject.scope()), ("corp:charlie", "corp", None));
    let ask = Ask { details: json!({ "album": 7 }), context: json!({ "req_ip": "192.0.2.1" }), ..Ask::of(&subject) };
    let claims = ask.exchange().unwrap();
    assert_eq!(
        (claims.sub.as_str(), claims.txn.as_str(), claims.scope.as_str()),
        ("corp:charlie", "new", "photo.read")
    );
    assert_eq!((claims.requester, claims.earlier_requesters.len()), (id("web"), 0));
    assert_eq!((claims.issued_at, claims.expires_at), (at(0), at(300)));
    assert_eq!(
        (Value::Object(claims.tctx), Value::Object(claims.rctx)),
        (json!({ "album": 7 }), json!({ "req_ip": "192.0.2.1", "authn": "id_token" }))
    );
    // It ends with the user's token.
    let claims = Ask { seconds: 3590, ..Ask::of(&subject) }.exchange().unwrap();
    assert_eq!((claims.issued_at, claims.expires_at), (at(3590), at(3600)));
}

/// Issue 5 §3, RFC 8693 §2.2.2, T-10: each with the reason for the record, and one word on the wire.
#[test]
fn subject_tokens_that_begin_nothing() {
    let world = World::new();
    let other = World::new();
    let rsa_named = |claims: &Value| {
        world.provider.sign(SigningInput::typed("JWT", Algorithm::Rs256, "p", claims.as_object().unwrap()))
    };
    let good = json!({ "iss": URL, "sub": "charlie", "aud": "web", "iat": NOW, "exp": NOW + 3600 });
    let earlier = TxnClaims {
        sub: "corp:charlie".into(),
        txn: "t".into(),
        scope: "photo.read".into(),
        requester: id("web"),
        earlier_requesters: vec![],
        tctx: Map::new(),
        rctx: Map::new(),
        issued_at: at(0),
        expires_at: at(300),
    };
    let own = |signer: &str, seconds: i64| {
        let input = self_signed::signing_input(
            Algorithm::Es256,
            &id(signer),
            &world.trust_domain,
            at(seconds),
            at(seconds + 60),
        );
        world.svid.sign(input)
    };
    use SubjectTokenType::{AccessToken, IdToken, SelfSigned, TxnToken};
    let cases: Vec<(&str, String, SubjectTokenType, i64, &str)> = vec![
        ("good", world.id_token(|_| {}), IdToken, 0, "good"),
        ("the last second", world.id_token(|_| {}), IdToken, 3599, "good"),
        ("expired, leeway or not", world.id_token(|_| {}), IdToken, 3600, "subject-token-expired"),
        ("long expired", world.id_token(|_| {}), IdToken, 3700, "user-token-expired"),
        ("another audience", world.id_token(|c| c["aud"] = json!("shop")), IdToken, 0, "user-token-audience"),
        (
            "an unknown issuer",
            world.id_token(|c| c["iss"] = json!("https://evil.example")),
            IdToken,
            0,
            "user-token-issuer",
        ),
        (
            "an issuer with a slash more",
            world.id_token(|c| c["iss"] = json!(format!("{URL}/"))),
            IdToken,
            0,
            "user-token-issuer",
        ),
        ("a date as text", world.id_token(|c| c["exp"] = json!("soon")), IdToken, 0, "user-token-claim"),
        ("a subject as number", world.id_token(|c| c["sub"] = json!(1)), IdToken, 0, "user-token-claim"),
        (
            "a service as user",
            world.id_token(|c| c["sub"] = json!("spiffe://example.org/web")),
            IdToken,
            0,
            "user-token-subject",
        ),
        ("a key of another kind", rsa_named(&good), IdToken, 0, "user-token-algorithm"),
        ("another key", other.provider.token("JWT", "p", &good), IdToken, 0, "user-token-signature"),
        ("an unknown key", world.provider.token("JWT", "q", &good), IdToken, 0, "user-token-key"),
        ("a transaction token as a user's", world.txn_token(&earlier), IdToken, 0, "user-token-type"),
        ("an ID token as access token", world.id_token(|_| {}), AccessToken, 0, "subject-token-other-type"),
        ("an access token as ID token", world.access_token("photo.read"), IdToken, 0, "subject-token-other-type"),
        ("an access token", world.access_token("photo.read"), AccessToken, 0, "good"),
        ("a user's as a transaction token", world.id_token(|_| {}), TxnToken, 0, "txn-token-key"),
        (
            "by the right key, and of another type",
            world.service.token("at+jwt", "t", &good),
            TxnToken,
            0,
            "txn-token-type",
        ),
        ("a transaction token", world.txn_token(&earlier), TxnToken, 0, "good"),
        ("a transaction token within the leeway", world.txn_token(&earlier), TxnToken, 300, "subject-token-expired"),
        ("one expired", world.txn_token(&earlier), TxnToken, 331, "txn-token-expired"),
        ("one of another token service", other.txn_token(&earlier), TxnToken, 0, "txn-token-signature"),
        ("about itself", own("web", 0), SelfSigned, 0, "good"),
        ("about another service", own("photo", 0), SelfSigned, 0, "self-signed-refused"),
        ("about itself, over", own("web", 0), SelfSigned, 60, "self-signed-refused"),
        ("signed with another key", world.provider.token("JWT", "x", &good), SelfSigned, 0, "self-signed-refused"),
        ("no token", "x".into(), TxnToken, 0, "txn-token-malformed"),
        ("nothing", String::new(), IdToken, 0, "user-token-malformed"),
    ];
    for (what, token, kind, seconds, expected) in cases {
        let found = world.subject(&token, kind, seconds);
        assert_eq!(found.as_ref().map_or_else(ExchangeError::code, |_| "good"), expected, "{what}: {found:?}");
        if let Err(error) = found {
            assert_eq!(error.oauth_code(), "invalid_request", "{what}");
            assert!(token.len() < 2 || !format!("{error} {error:?}").contains(&token), "{what}: a token in an error");
        }
    }
    // An earlier one of another trust domain is signed by nobody whom this one knows, and says so, too.
    let elsewhere = TrustDomain::parse("example.com").unwrap();
    let photo = SpiffeId::parse("spiffe://example.com/photo").unwrap();
    let foreign = TxnClaims { requester: photo, ..earlier }.signing_input(&elsewhere, "t").unwrap();
    let found = world.subject(&world.service.sign(foreign), TxnToken, 0);
    assert_eq!(found.unwrap_err().code(), "txn-token-audience");
}

#[test]
fn types_of_subject_tokens() {
    for kind in SubjectTokenType::ALL {
        assert_eq!(SubjectTokenType::parse(kind.urn()), Ok(kind));
    }
    for urn in [
        "urn:ietf:params:oauth:token-type:refresh_token",
        "urn:ietf:params:oauth:token-type:unsigned_json",
        "urn:ietf:params:oauth:token-type:jwt",
        "URN:ietf:params:oauth:token-type:id_token",
        "id_token",
        "",
    ] {
        let error = SubjectTokenType::parse(urn).unwrap_err();
        assert_eq!((error.code(), error.oauth_code()), ("subject-token-type", "invalid_request"), "{urn}");
    }
}

/// `authorization.md` §1.1: the scope is at most that of the subject token; unknown is not unlimited.
#[test]
fn scopes() {
    let world = World::new();
    let unknown = world.subject(&world.id_token(|_| {}), SubjectTokenType::IdToken, 0).unwrap();
    let read = world.subject(&world.access_token("photo.read openid"), SubjectTokenType::AccessToken, 0).unwrap();
    let none: &[&str] = &[];
    let both: &[&str] = &["photo.read", "photo.write"];
    let only: &[&str] = &["photo.read"];
    let many = (0..33).map(|at| format!("w{at}")).collect::<Vec<_>>().join(" ");
    for (what, subject, scope, granted, registered, expected) in [
        ("one word", &unknown, "photo.read", both, both, "exchanged"),
        ("both", &unknown, "photo.write photo.read", both, both, "exchanged"),
        ("not granted", &unknown, "photo.delete", both, both, "scope-not-granted"),
        ("one of two not granted", &unknown, "photo.read photo.delete", both, both, "scope-not-granted"),
        ("unknown, and no edge", &unknown, "photo.read", both, none, "scope-unknown"),
        ("unknown, and an edge for less", &unknown, "photo.write", both, only, "scope-unknown"),
        ("within the token's scope", &read, "photo.read", both, none, "exchanged"),
        ("wider than the token's scope", &read, "photo.write", both, both, "scope-wider"),
        ("in the token's scope alone", &read, "openid", both, both, "scope-not-granted"),
        ("no scope", &unknown, "", both, both, "scope-malformed"),
        ("two blanks", &unknown, "photo.read  photo.write", both, both, "scope-malformed"),
        ("a blank at the end", &unknown, "photo.read ", both, both, "scope-malformed"),
        ("a word twice", &unknown, "photo.read photo.read", both, both, "scope-malformed"),
        ("no word of OAuth", &unknown, "photo\"read", both, both, "scope-malformed"),
        ("more words than possible", &unknown, &many, both, both, "scope-malformed"),
        ("another case", &unknown, "Photo.read", both, both, "scope-not-granted"),
        ("a part of a word", &read, "photo", &["photo"], none, "scope-wider"),
    ] {
        let ask = Ask { scope, words: words(granted), registered: words(registered), ..Ask::of(subject) };
        assert_eq!(ask.code(), expected, "{what}");
    }
    let empty = world.subject(&world.access_token(""), SubjectTokenType::AccessToken, 0).unwrap();
    assert_eq!(Ask::of(&empty).code(), "scope-wider", "a token for nothing");
}

#[test]
fn whose_subjects() {
    let world = World::new();
    let user = world.subject(&world.id_token(|_| {}), SubjectTokenType::IdToken, 0).unwrap();
    let own = self_signed::signing_input(Algorithm::Es256, &id("web"), &world.trust_domain, at(0), at(60));
    let own = world.subject(&world.svid.sign(own), SubjectTokenType::SelfSigned, 0).unwrap();
    let photos =
        TxnClaims { sub: id("photo").as_str().into(), requester: id("photo"), ..Ask::of(&user).exchange().unwrap() };
    let photos = world.subject(&world.txn_token(&photos), SubjectTokenType::TxnToken, 0).unwrap();
    assert_eq!(Ask::of(&user).code(), "exchanged");
    assert_eq!(Ask { issuers: vec![], ..Ask::of(&user) }.code(), "issuer-not-allowed");
    assert_eq!(Ask { issuers: vec!["shop".to_owned()], ..Ask::of(&user) }.code(), "issuer-not-allowed");
    // An edge without issuers begins transactions of its own.
    let claims = Ask { issuers: vec![], ..Ask::of(&own) }.exchange().unwrap();
    assert_eq!((claims.sub.as_str(), claims.expires_at), (id("web").as_str(), at(60)));
    assert_eq!(Ask { registered: vec![], ..Ask::of(&own) }.code(), "scope-unknown");
    assert_eq!(Ask::of(&photos).code(), "subject-other-service");
}

/// `authorization.md` §1.1, replacement: narrower, and never anything else.
#[test]
fn tokens_that_replace_another() {
    let world = World::new();
    let first = TxnClaims {
        sub: "corp:charlie".into(),
        txn: "t-1".into(),
        scope: "photo.read photo.write".into(),
        requester: id("photo"),
        earlier_requesters: vec![],
        tctx: json!({ "album": 7 }).as_object().unwrap().clone(),
        rctx: json!({ "req_ip": "192.0.2.1", "authn": "id_token" }).as_object().unwrap().clone(),
        issued_at: at(0),
        expires_at: at(120),
    };
    let subject = |claims: &TxnClaims, seconds| {
        world.subject(&world.txn_token(claims), SubjectTokenType::TxnToken, seconds).unwrap()
    };
    let earlier = subject(&first, 0);
    let ask =
        Ask { details: json!({ "album": 7, "size": "small" }), context: json!({ "job": "x" }), ..Ask::of(&earlier) };
    let claims = Ask { seconds: 60, ..ask }.exchange().unwrap();
    assert_eq!(
        (claims.sub.as_str(), claims.txn.as_str(), claims.scope.as_str()),
        ("corp:charlie", "t-1", "photo.read")
    );
    assert_eq!((&claims.requester, &claims.earlier_requesters), (&id("web"), &vec![id("photo")]));
    assert_eq!((claims.issued_at, claims.expires_at), (at(60), at(120)), "never later than the earlier one");
    assert_eq!(Value::Object(claims.tctx.clone()), json!({ "album": 7, "size": "small" }));
    assert_eq!(Value::Object(claims.rctx.clone()), json!({ "req_ip": "192.0.2.1", "authn": "id_token", "job": "x" }));
    // A second time: the chain grows, and what was narrowed stays so.
    let second = subject(&claims, 60);
    assert_eq!(Ask { scope: "photo.write", seconds: 60, ..Ask::of(&second) }.code(), "scope-wider");
    let claims = Ask { seconds: 60, ..Ask::of(&second) }.exchange().unwrap();
    assert_eq!(claims.earlier_requesters, [id("web"), id("photo")]);

    for (what, ask, expected) in [
        ("wider", Ask { scope: "photo.delete", words: words(&["photo.delete"]), ..Ask::of(&earlier) }, "scope-wider"),
        ("another fact", Ask { details: json!({ "album": 8 }), ..Ask::of(&earlier) }, "fact-not-allowed"),
        ("another address", Ask { context: json!({ "req_ip": "x" }), ..Ask::of(&earlier) }, "fact-not-allowed"),
        ("how it was proved", Ask { context: json!({ "authn": "id_token" }), ..Ask::of(&earlier) }, "fact-not-allowed"),
        ("another trust domain", Ask { audience: "example.com", ..Ask::of(&earlier) }, "exchange-audience"),
        (
            "the trust domain as an ID",
            Ask { audience: "spiffe://example.org", ..Ask::of(&earlier) },
            "exchange-audience",
        ),
        ("expired since", Ask { seconds: 120, ..Ask::of(&earlier) }, "subject-token-expired"),
        ("a user of another issuer", Ask { issuers: vec![], ..Ask::of(&earlier) }, "issuer-not-allowed"),
    ] {
        assert_eq!(ask.code(), expected, "{what}");
    }
    let chain: Vec<SpiffeId> = (0..MOST_REQUESTERS - 1).map(|at| id(&format!("s{at}"))).collect();
    let long = subject(&TxnClaims { earlier_requesters: chain, ..first }, 0);
    assert_eq!(Ask::of(&long).code(), "too-many-replacements");
}

#[test]
fn every_code_is_listed_once_and_every_refusal_has_a_word_of_oauth() {
    let mut codes = ExchangeError::CODES.to_vec();
    codes.sort_unstable();
    codes.dedup();
    assert_eq!(codes.len(), ExchangeError::CODES.len());
    let fits = |code: &&str| code.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-');
    assert!(codes.iter().all(fits));
    let error = ExchangeError::Audience { trust_domain: TrustDomain::parse("example.org").unwrap() };
    assert_eq!(error.oauth_code(), "invalid_target", "RFC 8693 §2.2.2");
    assert_eq!(ExchangeError::Scope { most: 1 }.oauth_code(), "invalid_scope");
    assert_eq!(TYPE, "txntoken+jwt");
}
