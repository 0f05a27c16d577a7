//! Transaction tokens through two nodes and a real CA: minted at the agent of an edge, verified by a service beside another agent.

use std::{sync::Arc, time::Duration};

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair},
};
use base64ct::{Base64UrlUnpadded, Encoding};
use bonafide_ca_api::generated::admin::{AddIssuerRequest, AddServiceRequest, StringList, UpdateServiceRequest};
use bonafide_verifier::{
    agent_tokens::{AgentTokens, ExchangeRefused, SubjectTokenType, WantedToken},
    clock::Clock,
    identity::workload_api::{Endpoint, WorkloadApi},
    jwt::{Algorithm, self_signed},
    spiffe::{SpiffeId, TrustDomain},
    txn_tokens::TxnTokenError,
};
use tokio::time::timeout;

use super::site::{Home, SOON, Site, fetch_all, health, stop, until};
use crate::health::{Part, State};

const MINUTE: Duration = Duration::from_secs(60);

async fn add_edge(site: &Site, path: &str, on: &str, scopes: &[&str], issuers: &[&str]) {
    let request = AddServiceRequest {
        path: path.into(),
        selectors: vec![format!("unix:uid:{}", rustix::process::geteuid().as_raw())],
        on: vec![on.into()],
        edge_scopes: scopes.iter().map(ToString::to_string).collect(),
        edge_issuers: issuers.iter().map(ToString::to_string).collect(),
        // Longer than any test lets the CA be away.
        x509_ttl_s: 6 * 3600,
        ..AddServiceRequest::default()
    };
    site.admin().await.add_service(request).await.unwrap();
}

fn trust_domain() -> TrustDomain {
    TrustDomain::parse("example.org").unwrap()
}

async fn tokens(site: &Site, home: &Home) -> AgentTokens {
    let api = WorkloadApi::at(Endpoint::Unix(home.socket()));
    let tokens = AgentTokens::spawn(&api, trust_domain(), site.clock());
    tokens.ready(SOON).await.unwrap();
    tokens
}

/// What a service signs about itself.
async fn statement(site: &Site, home: &Home, id: &str) -> String {
    let svids = fetch_all(&home.socket()).await.unwrap().svids;
    let svid = svids.into_iter().find(|svid| svid.spiffe_id == id).unwrap();
    let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &svid.x509_svid_key).unwrap();
    let (now, id) = (site.clock.now(), SpiffeId::parse(id).unwrap());
    let ends = now.saturating_add(MINUTE * 5);
    let input = self_signed::signing_input(Algorithm::Es256, &id, &trust_domain(), now, ends);
    let signature = pair.sign(&SystemRandom::new(), input.as_bytes()).unwrap();
    input.with_signature(signature.as_ref())
}

const EXPORT: &str = "spiffe://example.org/export";

/// The edge's node and the other one, with their agents, and a delegation.
struct Pair {
    site: Site,
    edge: Home,
    other: Home,
    agents: Vec<crate::running::Running>,
}

impl Pair {
    async fn start() -> Self {
        let site = Site::start().await;
        let (edge, other) = (site.home("n1"), site.home("n2"));
        add_edge(&site, "export", "n1", &["export.run", "photo.read"], &[]).await;
        site.add_service("/photo", "n2").await;
        let mut agents = Vec::new();
        for (name, home) in [("n1", &edge), ("n2", &other)] {
            let invitation = site.invite(name, false).await;
            agents.push(site.agent(home, Some(&invitation)).await);
        }
        delegated(&agents[0]).await;
        Self { site, edge, other, agents }
    }

    async fn mint(&self, from: &AgentTokens) -> Result<String, ExchangeRefused> {
        let statement = statement(&self.site, &self.edge, EXPORT).await;
        let wanted = WantedToken::default();
        let token = from.exchange(&statement, SubjectTokenType::SelfSigned, &wanted).await?;
        Ok(token.expose_token().to_owned())
    }

    async fn finish(self) {
        for agent in self.agents {
            stop(agent).await;
        }
    }
}

/// Waits until the agent of an edge has its delegation.
async fn delegated(agent: &crate::running::Running) {
    health(agent, Part::Sync, |part| part.state == State::Ready).await;
    let metric = |agent: &crate::running::Running| agent.health().part(Part::Delegation);
    until("the agent has a delegation", async || metric(agent).state == State::Ready && agent.has_delegation()).await;
}

#[tokio::test]
async fn a_token_minted_at_one_node_is_verified_at_another() {
    let pair = Pair::start().await;
    let edge = tokens(&pair.site, &pair.edge).await;
    let photo = tokens(&pair.site, &pair.other).await;
    let statement = statement(&pair.site, &pair.edge, EXPORT).await;
    let mut wanted = WantedToken::default();
    wanted.scope = "export.run".into();
    wanted.details.insert("rows".into(), 3000.into());
    let token = edge.exchange(&statement, SubjectTokenType::SelfSigned, &wanted).await.unwrap();
    let user = photo.txn_tokens().verify(token.expose_token(), pair.site.clock.now()).unwrap();
    assert_eq!((user.sub(), user.requester().as_str(), user.scope()), (EXPORT, EXPORT, "export.run"));
    assert_eq!(user.tctx()["rows"], 3000);
    assert_eq!(token.expires_at().since(pair.site.clock.now()), MINUTE * 5);
    assert!(!format!("{token:?}").contains(token.expose_token()));
    // It may be narrowed, by its own edge, and never widened.
    wanted.details.clear();
    let narrower = edge.exchange(token.expose_token(), SubjectTokenType::TxnToken, &wanted).await.unwrap();
    let narrower = photo.txn_tokens().verify(narrower.expose_token(), pair.site.clock.now()).unwrap();
    assert_eq!((narrower.txn(), narrower.earlier_requesters().len()), (user.txn(), 1));
    wanted.scope = "export.run photo.read".into();
    let refused = edge.exchange(token.expose_token(), SubjectTokenType::TxnToken, &wanted).await.unwrap_err();
    assert_eq!(refused.code(), "scope-wider");
    // What another service may ask, and what no statement can say.
    let code = async |tokens: &AgentTokens, subject: &str, kind, scope: &str| {
        let mut wanted = WantedToken::default();
        wanted.scope = scope.into();
        tokens.exchange(subject, kind, &wanted).await.map_or_else(|error| error.code().to_owned(), |_| "good".into())
    };
    let own = SubjectTokenType::SelfSigned;
    assert_eq!(code(&photo, &statement, own, "").await, "not-an-edge");
    assert_eq!(code(&edge, &statement, own, "photo.delete").await, "scope-not-granted");
    assert_eq!(code(&edge, &statement, SubjectTokenType::IdToken, "").await, "user-token-issuer");
    assert_eq!(code(&edge, "x", own, "").await, "self-signed-refused");
    until("the CA has collected what was minted", async || {
        pair.site.clock.advance(Duration::from_secs(1));
        pair.agents[0].mints_waiting() == Some(0)
    })
    .await;
    pair.finish().await;
}

#[tokio::test]
async fn minting_goes_on_without_the_ca_until_the_delegation_ends() {
    let mut pair = Pair::start().await;
    let edge = tokens(&pair.site, &pair.edge).await;
    let photo = tokens(&pair.site, &pair.other).await;
    pair.mint(&edge).await.unwrap();
    pair.site.stop_ca().await;
    pair.site.clock.advance(MINUTE * 20);
    let token = pair.mint(&edge).await.unwrap();
    photo.txn_tokens().verify(&token, pair.site.clock.now()).unwrap();
    pair.site.clock.advance(MINUTE * 15);
    health(&pair.agents[0], Part::Delegation, |part| {
        part.state == State::Degraded && part.reason.contains("could not be renewed and ends at")
    })
    .await;
    let token = pair.mint(&edge).await.unwrap();
    photo.txn_tokens().verify(&token, pair.site.clock.now()).unwrap();
    // The last token ends with the delegation, not five minutes later.
    pair.site.clock.advance(MINUTE * 23);
    let last = pair.mint(&edge).await.unwrap();
    let last = photo.txn_tokens().verify(&last, pair.site.clock.now()).unwrap();
    assert!(last.expires_at().since(pair.site.clock.now()) <= MINUTE * 2);
    pair.site.clock.advance(MINUTE * 3);
    let refused = pair.mint(&edge).await.unwrap_err();
    assert_eq!(refused.code(), "no-delegation");
    assert!(matches!(refused, ExchangeRefused::Unavailable { .. }));
    pair.site.start_ca().await;
    let moving = async {
        while pair.mint(&edge).await.is_err() {
            pair.site.clock.advance(Duration::from_secs(1));
            let _ = timeout(Duration::from_millis(20), std::future::pending::<()>()).await;
        }
    };
    timeout(SOON, moving).await.expect("minted again");
    pair.finish().await;
}

#[tokio::test]
async fn what_an_edge_loses_ends_at_once_everywhere() {
    let pair = Pair::start().await;
    let edge = tokens(&pair.site, &pair.edge).await;
    let photo = tokens(&pair.site, &pair.other).await;
    let token = pair.mint(&edge).await.unwrap();
    photo.txn_tokens().verify(&token, pair.site.clock.now()).unwrap();
    let request = UpdateServiceRequest {
        path: "export".into(),
        edge_scopes: Some(StringList { values: vec!["photo.read".into()] }),
        ..UpdateServiceRequest::default()
    };
    pair.site.admin().await.update_service(request).await.unwrap();
    let refused = async |at| photo.txn_tokens().verify(&token, at).err().map(|error| error.code());
    until("the token counts no more", async || refused(pair.site.clock.now()).await == Some("txn-token-key")).await;
    until("the agent has another delegation", async || pair.mint(&edge).await.is_ok()).await;
    let token = pair.mint(&edge).await.unwrap();
    let narrower = photo.txn_tokens().verify(&token, pair.site.clock.now()).unwrap();
    assert_eq!(narrower.scope(), "photo.read");
    // A node that was removed signs nothing that counts any more.
    pair.site.remove_node("n1").await;
    let gone = async |at| matches!(photo.txn_tokens().verify(&token, at), Err(TxnTokenError::Token(_)));
    until("the removed node's token counts no more", async || gone(pair.site.clock.now()).await).await;
    pair.finish().await;
}

#[tokio::test]
async fn a_restarted_agent_goes_on_with_its_log_under_a_new_delegation() {
    let mut pair = Pair::start().await;
    let photo = tokens(&pair.site, &pair.other).await;
    let edge = tokens(&pair.site, &pair.edge).await;
    let before = pair.mint(&edge).await.unwrap();
    drop(edge);
    stop(pair.agents.remove(0)).await;
    let agent = pair.site.agent(&pair.edge, None).await;
    delegated(&agent).await;
    let edge = tokens(&pair.site, &pair.edge).await;
    let after = pair.mint(&edge).await.unwrap();
    let now = pair.site.clock.now();
    let [before, after] = [before, after].map(|token| photo.txn_tokens().verify(&token, now).unwrap());
    assert_ne!(before.key_id(), after.key_id(), "the key was never on a disk");
    until("all is collected", async || {
        // A few records at once are sent once in a second.
        pair.site.clock.advance(Duration::from_secs(1));
        agent.mints_waiting() == Some(0)
    })
    .await;
    drop(edge);
    stop(agent).await;
    // A log that is not whole is never gone on with.
    let path = pair.edge.data().join("mint.log");
    let mut content = std::fs::read(&path).unwrap();
    let last = content.len() - 1;
    content[last] ^= 1;
    std::fs::write(&path, content).unwrap();
    let agent = pair.site.agent(&pair.edge, None).await;
    health(&agent, Part::MintLog, |part| part.state == State::Degraded && part.reason.contains("is damaged at byte"))
        .await;
    let edge = tokens(&pair.site, &pair.edge).await;
    until("nothing is minted", async || {
        pair.mint(&edge).await.is_err_and(|refused| refused.code() == "mint-log-unusable")
    })
    .await;
    stop(agent).await;
    pair.finish().await;
}

#[tokio::test]
async fn a_key_that_nobody_knows_is_looked_up_once() {
    let pair = Pair::start().await;
    let photo = tokens(&pair.site, &pair.other).await;
    let pairs = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
    let claims = serde_json::json!({ "sub": "x" });
    let input = bonafide_verifier::jwt::SigningInput::typed(
        "txntoken+jwt",
        Algorithm::Es256,
        "made-up",
        claims.as_object().unwrap(),
    );
    let signature = pairs.sign(&SystemRandom::new(), input.as_bytes()).unwrap();
    let token = input.with_signature(signature.as_ref());
    let headers = http::HeaderMap::from_iter([(
        http::HeaderName::from_static("txn-token"),
        http::HeaderValue::from_str(&token).unwrap(),
    )]);
    let look = photo.txn_tokens().look_up(&headers).expect("it is looked up");
    let same = photo.txn_tokens().look_up(&headers).expect("who needs it too waits for the same answer");
    timeout(SOON, async { tokio::join!(look, same) }).await.unwrap();
    assert!(photo.txn_tokens().look_up(&headers).is_none(), "not again for a while");
    pair.site.clock.advance(Duration::from_secs(11));
    assert!(photo.txn_tokens().look_up(&headers).is_some());
    let _: Arc<dyn Clock> = pair.site.clock();
    pair.finish().await;
}

/// Who signs tokens about users, and whose keys an administrator gave.
struct Issuer {
    url: String,
    pair: EcdsaKeyPair,
}

impl Issuer {
    async fn registered(site: &Site, name: &str) -> Self {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        let (x, y) = pair.public_key().as_ref()[1..].split_at(32);
        let [x, y] = [x, y].map(Base64UrlUnpadded::encode_string);
        let jwks = serde_json::json!({ "keys": [{
            "kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": "k1", "x": x, "y": y,
        }] });
        let url = format!("https://{name}.example.com");
        let request = AddIssuerRequest {
            name: name.into(),
            url: url.clone(),
            audiences: vec!["web".into()],
            algorithms: vec!["ES256".into()],
            jwks: jwks.to_string().into_bytes(),
            ..AddIssuerRequest::default()
        };
        site.admin().await.add_issuer(request).await.unwrap();
        Self { url, pair }
    }

    fn sign(&self, site: &Site, key_id: &str, aud: &str, life: i64) -> String {
        let now = site.clock.now().unix_seconds();
        let claims =
            serde_json::json!({ "iss": self.url, "sub": "charlie", "aud": aud, "iat": now - 60, "exp": now + life });
        let claims = claims.as_object().unwrap();
        let input = bonafide_verifier::jwt::SigningInput::typed("JWT", Algorithm::Es256, key_id, claims);
        let signature = self.pair.sign(&SystemRandom::new(), input.as_bytes()).unwrap();
        input.with_signature(signature.as_ref())
    }
}

#[tokio::test]
async fn a_user_s_token_becomes_a_transaction_token_of_that_user() {
    let pair = Pair::start().await;
    let (corp, other) = (Issuer::registered(&pair.site, "corp").await, Issuer::registered(&pair.site, "other").await);
    let request = UpdateServiceRequest {
        path: "export".into(),
        edge_issuers: Some(StringList { values: vec!["corp".into()] }),
        ..UpdateServiceRequest::default()
    };
    pair.site.admin().await.update_service(request).await.unwrap();
    let (edge, photo) = (tokens(&pair.site, &pair.edge).await, tokens(&pair.site, &pair.other).await);
    let mut wanted = WantedToken::default();
    wanted.scope = "photo.read".into();
    let id_token = SubjectTokenType::IdToken;
    let good = corp.sign(&pair.site, "k1", "web", 3600);
    until("the agent knows the issuers", async || edge.exchange(&good, id_token, &wanted).await.is_ok()).await;
    until("so does the service", async || photo.user_issuers().named("other").is_some()).await;
    // Seen before, and new for each request all the same.
    let [one, another] = [edge.exchange(&good, id_token, &wanted).await, edge.exchange(&good, id_token, &wanted).await]
        .map(|token| photo.txn_tokens().verify(token.unwrap().expose_token(), pair.site.clock.now()).unwrap());
    assert_eq!((one.sub(), one.requester().as_str(), one.scope()), ("corp:charlie", EXPORT, "photo.read"));
    assert_eq!(one.rctx()["authn"], "id_token");
    assert_ne!(one.txn(), another.txn());
    let code = async |token: &str, kind| {
        edge.exchange(token, kind, &wanted).await.map_or_else(|error| error.code().to_owned(), |_| "good".into())
    };
    let short = corp.sign(&pair.site, "k1", "web", 20);
    let ended = corp.sign(&pair.site, "k1", "web", -1);
    for (what, token, kind, expected) in [
        ("another issuer's user", other.sign(&pair.site, "k1", "web", 60), id_token, "issuer-not-allowed"),
        (
            "signed by another issuer",
            Issuer { url: corp.url.clone(), ..other }.sign(&pair.site, "k1", "web", 60),
            id_token,
            "user-token-signature",
        ),
        ("for another audience", corp.sign(&pair.site, "k1", "app", 60), id_token, "user-token-audience"),
        ("ended, if only just", ended, id_token, "subject-token-expired"),
        ("by a key that nobody knows", corp.sign(&pair.site, "k9", "web", 60), id_token, "user-token-key"),
        ("the same again, at once", corp.sign(&pair.site, "k9", "web", 60), id_token, "user-token-key"),
        ("as an access token", good.clone(), SubjectTokenType::AccessToken, "subject-token-other-type"),
        ("as a statement of the edge's own", good.clone(), SubjectTokenType::SelfSigned, "self-signed-refused"),
        ("about to end", short.clone(), id_token, "good"),
    ] {
        assert_eq!(code(&token, kind).await, expected, "{what}");
    }
    let last = edge.exchange(&short, id_token, &wanted).await.unwrap();
    assert!(
        last.expires_at().since(pair.site.clock.now()) <= Duration::from_secs(20),
        "never later than the user's own"
    );
    pair.finish().await;
}
