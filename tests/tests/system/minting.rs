//! Transaction tokens with the real programs: minted at the agent of an edge, verified beside another agent, in the CA's audit log whatever
//! is killed in between.

use std::{sync::Arc, time::Duration};

use bonafide_tests::site::{Node, SOON, Site, TRUST_DOMAIN, eventually};
use bonafide_verifier::{
    agent_tokens::{AgentTokens, ExchangeRefused, WantedToken},
    clock::{Clock, SystemClock},
    identity::{
        Identity,
        workload_api::{Endpoint, WorkloadApi},
    },
    spiffe::TrustDomain,
    txn_tokens::TxnTokenError,
};
use serde_json::Value;

/// The edge's side of a node.
struct Edge {
    identity: Identity,
    tokens: AgentTokens,
}

async fn tokens(node: &Node) -> AgentTokens {
    let api = WorkloadApi::at(Endpoint::Unix(node.socket()));
    let tokens = AgentTokens::spawn(&api, TrustDomain::parse(TRUST_DOMAIN).unwrap(), Arc::new(SystemClock));
    tokens.ready(SOON).await.unwrap();
    tokens
}

impl Edge {
    async fn at(node: &Node) -> Self {
        let identity = Identity::spawn(&WorkloadApi::at(Endpoint::Unix(node.socket())), Arc::new(SystemClock));
        identity.ready(SOON).await.unwrap();
        Self { identity, tokens: tokens(node).await }
    }

    async fn mint(&self) -> Result<String, ExchangeRefused> {
        let minted = self.tokens.begin_own(&self.identity, &WantedToken::default()).await?;
        Ok(minted.expose_token().to_owned())
    }

    /// Once there is a delegation.
    async fn mint_soon(&self) -> String {
        let minting = async {
            loop {
                match self.mint().await {
                    Ok(token) => return token,
                    Err(ExchangeRefused::Unavailable { .. } | ExchangeRefused::NoAnswer { .. }) => {
                        let _ = tokio::time::timeout(Duration::from_millis(100), std::future::pending::<()>()).await;
                    }
                    Err(other) => panic!("{other}"),
                }
            }
        };
        tokio::time::timeout(SOON, minting).await.expect("a token in time")
    }
}

fn records(site: &Site, kind: &str) -> Vec<Value> {
    let listed = site.ca(&["audit", "list", "--kind", kind, "--limit", "1000", "--output", "json"]).success().json();
    listed["records"].as_array().unwrap_or_else(|| panic!("{listed}")).clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn t_26_a_minted_token_is_recorded_whatever_is_killed() {
    let mut site = Site::started();
    site.add_service("export", &["--on", "n1", "--edge-scope", "export.run"]);
    site.add_service("photo", &["--on", "n2"]);
    let (mut n1, n2) = (site.join("n1"), site.join("n2"));
    let edge = Edge::at(&n1).await;
    let photo = tokens(&n2).await;
    let first = edge.mint_soon().await;
    let user = photo.txn_tokens().verify(&first, SystemClock.now()).unwrap();
    assert_eq!((user.sub(), user.scope()), ("spiffe://example.org/export", "export.run"));
    let minted = eventually("it is in the audit log", || records(&site, "token-minted").pop());
    assert!(minted.to_string().contains(user.txn()), "{minted}");
    assert!(!minted.to_string().contains(first.rsplit('.').next().unwrap()), "never the token itself");
    let status = n1.agent(&["status", "--output", "json"]).success().json();
    assert_eq!(status["token_service"]["edges"][0], "spiffe://example.org/export");

    // Without the CA it goes on; a kill of the agent loses none of the records.
    site.kill_ca();
    for _ in 0..20 {
        edge.mint().await.unwrap();
    }
    n1.kill();
    drop(edge);
    site.start_ca();
    n1.start();
    let edge = Edge::at(&n1).await;
    let last = edge.mint_soon().await;
    let user = photo.txn_tokens().verify(&last, SystemClock.now());
    // A key that is a moment old is looked up by the layer in front of a service.
    assert!(user.is_ok() || matches!(user, Err(TxnTokenError::Token(_))));
    eventually("all are in the audit log", || (records(&site, "token-minted").len() == 22).then_some(()));
    assert!(records(&site, "mint-log-broken").is_empty());
    site.ca(&["audit", "verify"]).success();

    // What was given is taken away at once.
    site.ca(&["service", "update", "export", "--no-edge"]).success();
    eventually("the token counts no more", || {
        photo
            .txn_tokens()
            .verify(&first, SystemClock.now())
            .is_err_and(|error| error.code() == "txn-token-key")
            .then_some(())
    });
    let refused = edge.mint().await.unwrap_err();
    assert!(["not-an-edge", "no-delegation"].contains(&refused.code()), "{refused}");
    assert_eq!(records(&site, "delegation-ended").len(), 2);
    n1.stop();
    site.stop_ca();
}
