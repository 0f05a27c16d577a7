//! Keys of issuers, fetched over real TLS from a provider that can do everything wrong.

use std::sync::{
    Mutex,
    atomic::{AtomicUsize, Ordering},
};

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _},
};
use base64ct::{Base64UrlUnpadded, Encoding};
use bonafide_verifier::jwt::{
    Algorithm, SigningInput,
    user_issuers::UserIssuerSettings,
    user_token::{self, UserTokenError},
};
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivatePkcs8KeyDer},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    task::JoinHandle,
};

use super::*;
use crate::{
    fixtures::{self, Home, admin},
    registry::NewIssuer,
};

/// What the provider does.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Manner {
    Good,
    /// Discovery sends elsewhere.
    Redirects,
    /// The key set does.
    RedirectsKeys,
    /// It takes the request and says nothing.
    Silent,
    /// A byte now and then, for ever.
    Drips,
    Huge,
    HugeWithoutEnd,
    /// It speaks for another issuer.
    OtherIssuer,
    KeysElsewhere(String),
    Fails,
    NoJson,
    /// With a private key in the key set.
    Private,
    NoKeys,
}

/// An OpenID Connect provider on a port of its own. Dropping it takes it down.
pub(crate) struct Provider {
    pub(crate) url: String,
    pub(crate) roots: String,
    pub(crate) asked: Arc<AtomicUsize>,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

struct Shared {
    manner: Mutex<Manner>,
    keys: Mutex<Vec<(String, EcdsaKeyPair)>>,
    url: String,
    asked: Arc<AtomicUsize>,
}

impl Drop for Provider {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Provider {
    pub(crate) async fn start() -> Self {
        let root_key = KeyPair::generate().unwrap();
        let mut root = CertificateParams::new(vec![]).unwrap();
        root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root_certificate = root.self_signed(&root_key).unwrap();
        let issuer = rcgen::Issuer::new(root, root_key);
        let key = KeyPair::generate().unwrap();
        let mut leaf = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        // The tests' clock stands in 2027.
        (leaf.not_before, leaf.not_after) = (rcgen::date_time_ymd(2020, 1, 1), rcgen::date_time_ymd(2040, 1, 1));
        let leaf = leaf.signed_by(&key, &issuer).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let key = PrivatePkcs8KeyDer::from(key.serialize_der()).into();
        let chain = vec![CertificateDer::from(leaf.der().to_vec())];
        let config = Arc::new(config.with_no_client_auth().with_single_cert(chain, key).unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://localhost:{}", listener.local_addr().unwrap().port());
        let asked = Arc::new(AtomicUsize::new(0));
        let shared = Arc::new(Shared {
            manner: Mutex::new(Manner::Good),
            keys: Mutex::default(),
            url: url.clone(),
            asked: asked.clone(),
        });
        let task = tokio::spawn({
            let shared = shared.clone();
            async move {
                let acceptor = tokio_rustls::TlsAcceptor::from(config);
                let mut open = JoinSet::new();
                while let Ok((stream, _)) = listener.accept().await {
                    let (acceptor, shared) = (acceptor.clone(), shared.clone());
                    open.spawn(async move {
                        if let Ok(stream) = acceptor.accept(stream).await {
                            let _ = shared.answer(stream).await;
                        }
                    });
                }
            }
        });
        let provider = Self { url, roots: root_certificate.pem(), asked, shared, task };
        provider.new_key("k1");
        provider
    }

    pub(crate) fn behaves(&self, manner: Manner) {
        *self.shared.manner.lock().unwrap() = manner;
    }

    /// From now on it signs with this one; the earlier ones stay in its key set.
    pub(crate) fn new_key(&self, kid: &str) {
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new()).unwrap();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, document.as_ref()).unwrap();
        self.shared.keys.lock().unwrap().push((kid.to_owned(), pair));
    }

    pub(crate) fn sign(&self, claims: &Value) -> String {
        let keys = self.shared.keys.lock().unwrap();
        let (kid, pair) = keys.last().unwrap();
        let input = SigningInput::typed("JWT", Algorithm::Es256, kid, claims.as_object().unwrap());
        let signature = pair.sign(&SystemRandom::new(), input.as_bytes()).unwrap();
        input.with_signature(signature.as_ref())
    }

    pub(crate) fn id_token(&self, now: Timestamp) -> String {
        let now = now.unix_seconds();
        self.sign(&json!({ "iss": self.url, "sub": "charlie", "aud": "web", "iat": now, "exp": now + 3600 }))
    }

    pub(crate) fn new_issuer(&self, name: &str) -> NewIssuer {
        NewIssuer {
            settings: UserIssuerSettings {
                name: IssuerName::parse(name).unwrap(),
                url: self.url.clone(),
                audiences: vec!["web".into()],
                algorithms: vec![Algorithm::Es256],
                roles_claim: None,
            },
            roots: Some(self.roots.clone()),
            jwks: None,
        }
    }

    pub(crate) fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

impl Shared {
    fn jwks(&self, private: bool) -> String {
        let keys = self.keys.lock().unwrap();
        let keys = keys.iter().map(|(kid, pair)| {
            let (x, y) = pair.public_key().as_ref()[1..].split_at(32);
            let text = Base64UrlUnpadded::encode_string;
            let mut jwk = json!({ "kty": "EC", "crv": "P-256", "x": text(x), "y": text(y), "kid": kid, "use": "sig" });
            if private {
                jwk["d"] = json!("AAAA");
            }
            jwk
        });
        json!({ "keys": keys.collect::<Vec<_>>() }).to_string()
    }

    async fn answer(&self, mut stream: impl AsyncReadExt + AsyncWriteExt + Unpin) -> std::io::Result<()> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await?);
        }
        let head = String::from_utf8(head).unwrap();
        let is_discovery = head.starts_with("GET /.well-known/openid-configuration HTTP/1.1\r\n");
        assert!(is_discovery || head.starts_with("GET /keys HTTP/1.1\r\n"), "{head}");
        if is_discovery {
            self.asked.fetch_add(1, Ordering::SeqCst);
        }
        let manner = self.manner.lock().unwrap().clone();
        let discovery = |issuer: &str, keys: &str| json!({ "issuer": issuer, "jwks_uri": keys, "x": 1 }).to_string();
        let own_keys = format!("{}/keys", self.url);
        let ok = |body: String| format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        let away = "HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n".to_owned();
        let answer = match (manner, is_discovery) {
            (Manner::Redirects, true) | (Manner::RedirectsKeys, false) => away,
            (Manner::Silent, _) => std::future::pending().await,
            (Manner::Drips, _) => {
                stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await?;
                loop {
                    stream.write_all(b" ").await?;
                    stream.flush().await?;
                    tokio::task::yield_now().await;
                }
            }
            (Manner::Huge, true) => {
                "HTTP/1.1 200 OK\r\ncontent-length: 99999999\r\n\r\n".to_owned() + &"x".repeat(300_000)
            }
            (Manner::HugeWithoutEnd, false) => "HTTP/1.1 200 OK\r\n\r\n".to_owned() + &" ".repeat(300_000),
            (Manner::OtherIssuer, true) => ok(discovery("https://evil.example", &own_keys)),
            (Manner::KeysElsewhere(url), true) => ok(discovery(&self.url, &url)),
            (Manner::Fails, _) => "HTTP/1.1 500 Oops\r\ncontent-length: 0\r\n\r\n".to_owned(),
            (Manner::NoJson, true) => ok("<html>".to_owned()),
            (Manner::Private, false) => ok(self.jwks(true)),
            (Manner::NoKeys, false) => ok(r#"{"keys":[]}"#.to_owned()),
            (_, true) => ok(discovery(&self.url, &own_keys)),
            (_, false) => ok(self.jwks(false)),
        };
        stream.write_all(answer.as_bytes()).await?;
        stream.shutdown().await
    }
}

/// Short waits where something is meant to fail by them.
fn impatient() -> Limits {
    Limits { wait: Duration::from_millis(500), ..Limits::default() }
}

fn corp() -> IssuerName {
    IssuerName::parse("corp").unwrap()
}

async fn home_with(provider: &Provider) -> (Home, IssuerKeeper) {
    let home = Home::new().await;
    home.opened.registry.add_issuer(provider.new_issuer("corp"), admin()).await.unwrap();
    let keeper = IssuerKeeper::new(home.opened.registry.clone(), home.clock.clone(), Limits::default());
    (home, keeper)
}

/// Issue 5 §3: redirects, huge documents, slow answers, another issuer: refused by name, and what was known stays.
#[tokio::test]
async fn what_a_provider_does_wrong_is_refused_by_name() {
    let provider = Provider::start().await;
    let home = Home::new().await;
    home.opened.registry.add_issuer(provider.new_issuer("corp"), admin()).await.unwrap();
    let keeper = IssuerKeeper::new(home.opened.registry.clone(), home.clock.clone(), impatient());
    keeper.refresh(&corp(), admin()).await.unwrap();
    let token = provider.id_token(home.clock.now());
    for (manner, expected) in [
        (Manner::Redirects, "issuer-redirects"),
        (Manner::RedirectsKeys, "issuer-redirects"),
        (Manner::Silent, "issuer-timed-out"),
        (Manner::Drips, "issuer-timed-out|issuer-too-large"),
        (Manner::Huge, "issuer-too-large"),
        (Manner::HugeWithoutEnd, "issuer-too-large"),
        (Manner::OtherIssuer, "issuer-other"),
        (Manner::KeysElsewhere("http://localhost/keys".into()), "issuer-url"),
        (Manner::KeysElsewhere("https://user@localhost/keys".into()), "issuer-url"),
        (Manner::KeysElsewhere("https://127.0.0.1:1/keys".into()), "issuer-unreachable"),
        (Manner::Fails, "issuer-status"),
        (Manner::NoJson, "issuer-discovery"),
        (Manner::Private, "issuer-keys"),
        (Manner::NoKeys, "issuer-keys-not-kept"),
    ] {
        provider.behaves(manner.clone());
        assert!(keeper.refresh(&corp(), admin()).await.is_err(), "{manner:?}");
        let failure = keeper.failure(&corp()).unwrap();
        assert!(expected.split('|').any(|code| code == failure.code()), "{manner:?}: {} {failure}", failure.code());
        assert!(!failure.to_string().contains('\n') && keeper.troubled().unwrap().contains("`corp`"), "{failure}");
        user_token::verify(&token, &keeper.believed().issuers, home.clock.now()).unwrap();
    }
    provider.behaves(Manner::Good);
    keeper.refresh(&corp(), admin()).await.unwrap();
    assert!(keeper.failure(&corp()).is_none() && keeper.troubled().is_none());
}

#[tokio::test]
async fn a_provider_with_another_root_is_not_asked() {
    let (provider, other) = (Provider::start().await, Provider::start().await);
    let home = Home::new().await;
    let new = NewIssuer { roots: Some(other.roots.clone()), ..provider.new_issuer("corp") };
    home.opened.registry.add_issuer(new, admin()).await.unwrap();
    let keeper = IssuerKeeper::new(home.opened.registry.clone(), home.clock.clone(), Limits::default());
    let refused = keeper.refresh(&corp(), admin()).await.unwrap_err();
    assert!(matches!(&refused, RefreshError::Fetch { source, .. } if source.code() == "issuer-tls"), "{refused}");
    assert_eq!(provider.asked(), 0);
}

/// The provider is down: its cached keys serve, also after a restart, until they are too old.
#[tokio::test]
async fn keys_outlive_the_provider_for_a_day_and_a_restart() {
    let provider = Provider::start().await;
    let (home, keeper) = home_with(&provider).await;
    let told = |home: &Home| home.opened.registry.load().token_keys().issuers[0].clone();
    assert!(told(&home).jwks.is_empty(), "nodes know of an issuer before it has keys");
    keeper.refresh(&corp(), admin()).await.unwrap();
    let jwks = provider.shared.jwks(false);
    assert_eq!(IssuerKeys::parse_jwks(&told(&home).jwks), IssuerKeys::parse_jwks(jwks.as_bytes()));
    // The same keys an hour later are no news to nodes.
    let version = home.opened.registry.load().version();
    keeper.refresh(&corp(), admin()).await.unwrap();
    assert_eq!(home.opened.registry.load().version(), version);
    let url = provider.url.clone();
    let long = |now: Timestamp| json!({ "iss": url, "sub": "charlie", "aud": "web", "iat": now.unix_seconds(), "exp": now.unix_seconds() + 600 });
    let home = home.stop().await.start().await;
    let keeper = IssuerKeeper::new(home.opened.registry.clone(), home.clock.clone(), impatient());
    let verdict = |keeper: &IssuerKeeper, token: &str| {
        user_token::verify(token, &keeper.believed().issuers, home.clock.now()).map(|user| user.user().to_string())
    };
    let token = provider.sign(&long(home.clock.now()));
    assert_eq!(verdict(&keeper, &token).unwrap(), "corp:charlie");
    home.clock.advance(Duration::from_secs(24 * 3600 - 1));
    let token = provider.sign(&long(home.clock.now()));
    provider.behaves(Manner::Fails);
    keeper.refresh(&corp(), Who::Ca).await.unwrap_err();
    assert_eq!(verdict(&keeper, &token).unwrap(), "corp:charlie");
    home.clock.advance(Duration::from_secs(1));
    assert!(matches!(verdict(&keeper, &token), Err(UserTokenError::UnknownKey { .. })), "too old");
    assert!(keeper.troubled().unwrap().contains("too old to count"));
    assert!(!told(&home).jwks.is_empty());
    keeper.withdraw_old().await;
    assert!(told(&home).jwks.is_empty(), "nodes forget them, too");
    provider.behaves(Manner::Good);
    keeper.refresh(&corp(), Who::Ca).await.unwrap();
    assert_eq!(verdict(&keeper, &token).unwrap(), "corp:charlie");
}

/// A key unknown to the cache is looked up once, bounded, not per request.
#[tokio::test]
async fn an_unknown_key_has_the_issuer_asked_once_a_minute() {
    let provider = Provider::start().await;
    let (home, keeper) = home_with(&provider).await;
    keeper.refresh(&corp(), admin()).await.unwrap();
    assert_eq!(provider.asked(), 1);
    provider.new_key("k2");
    let token = provider.id_token(home.clock.now());
    let verify = || user_token::verify(&token, &keeper.believed().issuers, home.clock.now());
    assert!(verify().is_err());
    assert!(!keeper.look_again(&corp()).await, "it was asked this minute");
    home.clock.advance(Duration::from_secs(60));
    // A thousand at once are one question.
    let mut open = JoinSet::new();
    for _ in 0..1000 {
        let keeper = keeper.clone();
        open.spawn(async move { keeper.look_again(&corp()).await });
    }
    let fresh = open.join_all().await;
    assert!(fresh.iter().filter(|fresh| **fresh).count() >= 1);
    assert_eq!(provider.asked(), 2);
    verify().unwrap();
    for _ in 0..10 {
        keeper.look_again(&corp()).await;
    }
    assert_eq!(provider.asked(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_fetched_by_themselves_every_hour_and_again_after_a_failure() {
    let provider = Provider::start().await;
    let (home, keeper) = home_with(&provider).await;
    let stop = CancellationToken::new();
    let running = tokio::spawn({
        let (keeper, stop) = (keeper.clone(), stop.clone());
        async move { keeper.run(stop).await }
    });
    let until = async |asked: usize| {
        let waiting = async {
            while provider.asked() < asked {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), waiting)
            .await
            .unwrap_or_else(|_| panic!("not asked {asked} times"));
    };
    let settled = async |good: bool| {
        let waiting = async {
            while keeper.failure(&corp()).is_none() != good || keeper.believed().issuers.named("corp").is_none() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), waiting).await.unwrap();
    };
    until(1).await;
    // Its keys are believed a moment before it is noted when they came, which is what the next fetch goes by.
    let noted = async {
        while keeper.asked(&corp()).last().at.is_none() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), noted).await.expect("the first answer is noted");
    assert!(keeper.believed().issuers.named("corp").is_some_and(|issuer| issuer.key_count() > 0));
    provider.behaves(Manner::Fails);
    home.clock.advance(Duration::from_secs(3600));
    until(2).await;
    settled(false).await;
    provider.behaves(Manner::Good);
    home.clock.advance(Duration::from_secs(31));
    until(3).await;
    settled(true).await;
    stop.cancel();
    running.await.unwrap();
}

/// Names, URLs, bounds, and what is recorded.
#[tokio::test]
async fn issuers_are_registered_once_and_recorded() {
    let provider = Provider::start().await;
    let (home, keeper) = home_with(&provider).await;
    let registry = &home.opened.registry;
    let jwks = provider.shared.jwks(false).into_bytes();
    let of = |name: &str, url: &str| {
        let mut new = provider.new_issuer(name);
        new.settings.url = url.to_owned();
        NewIssuer { jwks: Some(jwks.clone()), ..new }
    };
    let refused = async |new: NewIssuer| match registry.add_issuer(new, admin()).await {
        Err(WriteError::Refused(refused)) => refused.to_string(),
        other => panic!("{other:?}"),
    };
    assert!(refused(of("corp", "https://a")).await.contains("registered already"));
    assert!(refused(of("other", &provider.url)).await.contains("a user has one name"));
    assert!(refused(of("plain", "http://a")).await.contains("is no issuer's URL"));
    let rsa = |new: NewIssuer| {
        let settings = UserIssuerSettings { algorithms: vec![Algorithm::Rs256], ..new.settings };
        NewIssuer { settings, ..new }
    };
    assert!(refused(rsa(of("rsa", "https://rsa"))).await.contains("no key for the algorithms RS256"));
    assert!(refused(NewIssuer { roots: Some("x".into()), ..of("pem", "https://pem") }).await.contains("--ca-file"));
    let file = registry.add_issuer(of("file", "https://file"), admin()).await.unwrap();
    assert_eq!((file.source, file.keys_until()), (KeySource::File, None));
    assert!(matches!(keeper.refresh(file.name(), admin()).await, Err(RefreshError::FromFile { .. })));
    keeper.refresh(&corp(), admin()).await.unwrap();
    home.clock.advance(Duration::from_secs(60));
    keeper.refresh(&corp(), Who::Ca).await.unwrap();
    registry.remove_issuer("file", admin()).await.unwrap();
    assert!(matches!(
        registry.remove_issuer("file", admin()).await,
        Err(WriteError::Refused(IssuerError::Unknown { .. }))
    ));
    assert!(keeper.believed().issuers.named("corp").is_some() && keeper.believed().issuers.named("file").is_none());
    let kinds =
        vec![crate::audit::Kind::IssuerAdded, crate::audit::Kind::IssuerKeysChanged, crate::audit::Kind::IssuerRemoved];
    let filter = crate::audit::Filter { kinds, limit: 100, ..Default::default() };
    let page = fixtures::list(&home.opened.store, filter).await.unwrap();
    let told: Vec<(&str, bool)> =
        page.entries.iter().map(|entry| (entry.kind.as_str(), entry.body.contains("\"corp\""))).collect();
    // The same keys a second time change nothing.
    let expected =
        [("issuer-removed", false), ("issuer-keys-changed", true), ("issuer-added", false), ("issuer-added", true)];
    assert_eq!(told, expected);
    let agrees = home.opened.store.read(|reader| reader.everything()).await.unwrap();
    assert_eq!(registry.load().difference(&agrees), None);
    let many = (0..64).map(|at| of(&format!("i{at}"), &format!("https://i{at}")));
    let mut last = Ok(());
    for new in many {
        last = registry.add_issuer(new, admin()).await.map(drop);
    }
    assert!(matches!(last, Err(WriteError::Refused(IssuerError::TooMany { limit: 64 }))));
}
