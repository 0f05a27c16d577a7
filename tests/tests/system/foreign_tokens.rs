//! Tokens that another library has signed (PyJWT), accepted and refused as they should be; and ours, as that library reads them.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use aws_lc_rs::{
    encoding::AsDer,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair},
};
use base64ct::{Base64, Base64UrlUnpadded, Encoding};
use bonafide_tests::repository;
use bonafide_verifier::{
    authenticate::{Authenticators, Found, HeaderView, Presented},
    caller::{RoleName, Roles},
    clock::{Clock as _, SystemClock},
    identity::Identity,
    jwt::{Claimed, mint_shared_secret_token},
    key_records::KeyRecords,
    shared_secret::SharedSecret,
    spiffe::{JwtAuthority, TrustBundle, TrustDomain},
};
use serde_json::{Value, json};

const OWN: &str = "spiffe://example.org/config";
const EXPORT: &str = "spiffe://example.org/export";
const ISSUER: &str = "https://tokens.example.org";
/// As PyJWT takes it: its letters are the secret.
const SECRET: &str = "a secret of 32 bytes, or of more";

/// The Python program, which answers line by line.
struct PyJwt {
    child: Child,
    asks: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl PyJwt {
    fn start() -> Self {
        let root = repository::root();
        let python = root.join("target/foreign/python/bin/python");
        assert!(python.exists(), "the Python package is installed by tests/run");
        let mut child = Command::new(python)
            .arg(root.join("tests/foreign/python/tokens.py"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (asks, answers) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        Self { child, asks, answers }
    }

    fn ask(&mut self, question: &Value) -> Value {
        writeln!(self.asks, "{question}").unwrap();
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?} to {question}"))
    }

    fn sign(&mut self, algorithm: &str, key: &str, headers: &Value, claims: &Value) -> String {
        let question = json!({ "sign": claims, "headers": headers, "algorithm": algorithm, "key": key });
        self.ask(&question).as_str().unwrap().to_owned()
    }
}

impl Drop for PyJwt {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

struct Header<'v>(&'v [u8]);

impl HeaderView for Header<'_> {
    fn find(&self, name: &str) -> Found<'_> {
        if name == "authorization" { Found::Once(self.0) } else { Found::Absent }
    }
}

/// A P-256 key: as PEM, and its public half.
fn key() -> (String, Vec<u8>) {
    let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
    let pem = Base64::encode_string(pair.to_pkcs8v1().unwrap().as_ref());
    let lines: Vec<_> = pem.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    let pem = format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", lines.join("\n"));
    (pem, pair.public_key().as_der().unwrap().as_ref().to_vec())
}

fn authenticators(jwt: &[u8], tokens: &[u8]) -> Authenticators {
    let domain = TrustDomain::parse("example.org").unwrap();
    let bundle =
        TrustBundle::new::<&[u8]>(domain.clone(), [], [JwtAuthority::new("jwt-1", jwt).unwrap()], None, None).unwrap();
    let (identity, publisher) = Identity::published(Arc::new(SystemClock));
    publisher.publish(None, bundle.into());
    let secret = Base64UrlUnpadded::encode_string(SECRET.as_bytes());
    let records = format!(
        "version = 1\n[[key]]\nid = \"export\"\nkind = \"shared-secret\"\nowner = \"{EXPORT}\"\nsubject = \"export\"\naudience = \"{OWN}\"\n\
         roles = [\"reader\"]\nexpires = 2099-01-01T00:00:00Z\n[[key.secret]]\nid = \"export.1\"\nvalue = \"{secret}\"\n\
         created = 2026-01-01T00:00:00Z\n"
    );
    Authenticators::builder(domain.clone(), identity)
        .audience(OWN)
        .jwt_svids()
        .key_records(KeyRecords::parse(&records, &domain).unwrap())
        .access_tokens(ISSUER, vec![JwtAuthority::new("at-1", tokens).unwrap()])
        .build()
        .unwrap()
}

/// JWT-21, T-09, T-10: three kinds of tokens, as a library of the Python world writes them by its own habits.
#[test]
fn tokens_that_pyjwt_signed() {
    let mut python = PyJwt::start();
    let ((jwt, jwt_public), (tokens, tokens_public)) = (key(), key());
    let (other, _) = key();
    let service = authenticators(&jwt_public, &tokens_public);
    let now = SystemClock.now().unix_seconds();
    let with = |mut claims: Value, name: &str, value: Value| {
        claims[name] = value;
        claims
    };
    let shared = json!({ "sub": "export", "aud": OWN, "exp": now + 300, "roles": ["reader"] });
    let svid = json!({ "sub": EXPORT, "aud": [OWN], "exp": now + 300, "iat": now });
    let access = json!({
        "iss": ISSUER, "sub": EXPORT, "client_id": EXPORT, "aud": OWN, "exp": now + 300, "iat": now, "jti": "a",
    });
    let kid = |key_id: &str| json!({ "kid": key_id });
    let typed = |key_id: &str, typ: &str| json!({ "kid": key_id, "typ": typ });
    let cases = [
        ("HS256", "HS256", SECRET, kid("export.1"), shared.clone(), "shared-secret"),
        ("HS256 without kid", "HS256", SECRET, json!({}), shared.clone(), "shared-secret"),
        (
            "with jti and iat",
            "HS256",
            SECRET,
            kid("export.1"),
            with(with(shared.clone(), "jti", json!("1")), "iat", json!(now)),
            "shared-secret",
        ),
        (
            "another secret",
            "HS256",
            "another secret of 32 bytes, yes.",
            kid("export.1"),
            shared.clone(),
            "bad-signature",
        ),
        ("HS512", "HS512", &SECRET.repeat(2), kid("export.1"), shared.clone(), "algorithm-not-accepted"),
        ("no signature", "none", "", kid("export.1"), shared.clone(), "algorithm-not-accepted"),
        (
            "expired beyond the leeway",
            "HS256",
            SECRET,
            kid("export.1"),
            with(shared.clone(), "exp", json!(now - 45)),
            "expired",
        ),
        (
            "T-10 exp as text",
            "HS256",
            SECRET,
            kid("export.1"),
            with(shared.clone(), "exp", json!((now + 300).to_string())),
            "bad-claim",
        ),
        ("T-10 aud as number", "HS256", SECRET, kid("export.1"), with(shared.clone(), "aud", json!(1)), "bad-claim"),
        (
            "T-10 roles as text",
            "HS256",
            SECRET,
            kid("export.1"),
            with(shared.clone(), "roles", json!("reader")),
            "bad-claim",
        ),
        ("nbf", "HS256", SECRET, kid("export.1"), with(shared, "nbf", json!(now)), "unknown-claim"),
        ("JWT-SVID", "ES256", &jwt, kid("jwt-1"), svid.clone(), "jwt-svid"),
        ("JWT-SVID typ JOSE", "ES256", &jwt, typed("jwt-1", "JOSE"), svid.clone(), "jwt-svid"),
        ("under another key", "ES256", &other, kid("jwt-1"), svid.clone(), "bad-signature"),
        ("under the token service's", "ES256", &tokens, kid("at-1"), svid.clone(), "wrong-token-type"),
        (
            "a further header",
            "ES256",
            &jwt,
            json!({ "kid": "jwt-1", "jku": "https://evil.example/keys" }),
            svid.clone(),
            "unknown-token-header",
        ),
        ("of another audience", "ES256", &jwt, kid("jwt-1"), with(svid.clone(), "aud", json!(["x"])), "wrong-audience"),
        ("without kid", "ES256", &jwt, json!({}), svid.clone(), "bad-token-header"),
        ("T-10 exp as text", "ES256", &jwt, kid("jwt-1"), with(svid, "exp", json!("soon")), "bad-claim"),
        ("access token", "ES256", &tokens, typed("at-1", "at+jwt"), access.clone(), "access-token"),
        ("typ JWT", "ES256", &tokens, kid("at-1"), access.clone(), "wrong-token-type"),
        ("under the authority's key", "ES256", &jwt, typed("jwt-1", "at+jwt"), access.clone(), "wrong-token-type"),
        (
            "of another issuer",
            "ES256",
            &tokens,
            typed("at-1", "at+jwt"),
            with(access, "iss", json!("https://evil.example")),
            "other-issuer",
        ),
    ];
    let mut wrong = Vec::new();
    for (what, algorithm, key, headers, claims, expected) in cases {
        let token = python.sign(algorithm, key, &headers, &claims);
        let value = format!("Bearer {token}");
        let headers = Header(value.as_bytes());
        let presented =
            Presented { connection: None, session: None, headers: &headers, address: None, at: SystemClock.now() };
        let found = match service.authenticate(&presented) {
            Ok(Some(caller)) => {
                assert_eq!(caller.id().as_str(), EXPORT, "{what}");
                caller.proof().kind.to_string()
            }
            Ok(None) => "nobody".to_owned(),
            Err(error) => error.code().to_owned(),
        };
        if found != expected {
            wrong.push(format!("{what}: {found}, expected is {expected}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// What we mint, another library reads; and it refuses what is not for it.
#[test]
fn tokens_that_we_minted() {
    let mut python = PyJwt::start();
    let secret = SharedSecret::parse(&Base64UrlUnpadded::encode_string(SECRET.as_bytes())).unwrap();
    let roles: Roles = [RoleName::parse("reader").unwrap()].into_iter().collect();
    let lifetime = Duration::from_secs(300);
    let claimed = Claimed { key_id: "export.1", subject: "export", audience: OWN, roles: &roles, lifetime };
    let token = mint_shared_secret_token(&secret, &claimed, SystemClock.now()).unwrap().to_string();
    let mut check = |audience: &str, key: &str| {
        python.ask(&json!({ "check": token, "algorithm": "HS256", "key": key, "audience": audience }))
    };
    let claims = check(OWN, SECRET);
    assert_eq!((&claims["sub"], &claims["roles"]), (&json!("export"), &json!(["reader"])), "{claims}");
    assert_eq!(check("spiffe://example.org/other", SECRET), json!("InvalidAudienceError"));
    assert_eq!(check(OWN, "another secret of 32 bytes, yes."), json!("InvalidSignatureError"));
}
