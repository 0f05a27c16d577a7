//! Transaction tokens with the real programs: minted at the agent of an edge, verified beside another agent, in the CA's audit log whatever
//! is killed in between.

use std::{process::Command, sync::Arc, time::Duration};

use bonafide_examples::process::Process;
use bonafide_tests::site::{Node, SOON, Site, TRUST_DOMAIN, eventually};
use bonafide_verifier::{
    agent_tokens::{AgentTokens, ExchangeRefused, SubjectTokenType, WantedToken},
    clock::{Clock, SystemClock},
    identity::{
        Identity,
        workload_api::{Endpoint, WorkloadApi},
    },
    spiffe::TrustDomain,
    txn_tokens::TxnTokenError,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use tokio::time::timeout;

use crate::tokens::{answer, claims, curl, site_with_tokens};

/// The edge's side of a node.
pub(crate) struct Edge {
    identity: Identity,
    tokens: AgentTokens,
}

fn identity(node: &Node) -> Identity {
    Identity::spawn(&WorkloadApi::at(Endpoint::Unix(node.socket())), Arc::new(SystemClock))
}

async fn tokens(node: &Node) -> AgentTokens {
    let api = WorkloadApi::at(Endpoint::Unix(node.socket()));
    let tokens = AgentTokens::spawn(&api, TrustDomain::parse(TRUST_DOMAIN).unwrap(), Arc::new(SystemClock));
    tokens.ready(SOON).await.unwrap();
    tokens
}

impl Edge {
    pub(crate) async fn at(node: &Node) -> Self {
        let identity = identity(node);
        identity.ready(SOON).await.unwrap();
        Self { identity, tokens: tokens(node).await }
    }

    pub(crate) async fn mint(&self) -> Result<String, ExchangeRefused> {
        let minted = self.tokens.begin_own(&self.identity, &WantedToken::default()).await?;
        Ok(minted.expose_token().to_owned())
    }

    /// Once there is a delegation.
    pub(crate) async fn mint_soon(&self) -> String {
        let minting = async {
            loop {
                match self.mint().await {
                    Ok(token) => return token,
                    Err(ExchangeRefused::Unavailable { .. } | ExchangeRefused::NoAnswer { .. }) => {
                        let _ = timeout(Duration::from_millis(100), std::future::pending::<()>()).await;
                    }
                    Err(other) => panic!("{other}"),
                }
            }
        };
        timeout(SOON, minting).await.expect("a token in time")
    }
}

pub(crate) fn records(site: &Site, kind: &str) -> Vec<Value> {
    let listed = site.ca(&["audit", "list", "--kind", kind, "--limit", "1000", "--output", "json"]).success().json();
    listed["records"].as_array().unwrap_or_else(|| panic!("{listed}")).clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn i_01_a_minted_token_is_recorded_whatever_is_killed() {
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

/// RFC 8693 as the draft has it, with the real programs: a transaction that an agent has begun goes on at the CA's token endpoint, saying less and never
/// more.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_of_an_agent_is_narrowed_at_the_token_endpoint_and_never_widened() {
    let (site, node, address) = tokio::task::block_in_place(site_with_tokens);
    let svid = node.path("svid");
    std::fs::create_dir(&svid).unwrap();
    node.agent(&["fetch", "x509", "--write", svid.to_str().unwrap()]).success();
    let edge = Edge::at(&node).await;
    let own = edge.mint_soon().await;
    let begun = claims(&own);
    assert_eq!(begun["scope"], "photo.read photo.write", "{begun}");
    let exchange = |subject: &str, scope: &str| {
        let (token, scope) = (format!("subject_token={subject}"), format!("scope={scope}"));
        let urn = "urn:ietf:params:oauth";
        let grant = format!("grant_type={urn}:grant-type:token-exchange");
        let wanted = format!("requested_token_type={urn}:token-type:txn_token");
        let kind = format!("subject_token_type={urn}:token-type:txn_token");
        let form = [&grant, &wanted, &kind, "audience=example.org", &token, &scope].map(|field: &str| field);
        answer(&curl(&svid, &address, true, "/token", &form))
    };
    let (status, narrower) = exchange(&own, "photo.read");
    assert_eq!((status, &narrower["scope"]), (200, &"photo.read".into()), "{narrower}");
    let narrower = narrower["access_token"].as_str().unwrap();
    let said = claims(narrower);
    assert_eq!([&said["txn"], &said["sub"], &said["aud"]], [&begun["txn"], &begun["sub"], &begun["aud"]]);
    assert_eq!(said["act"]["sub"], "spiffe://example.org/export", "who asked for both: {said}");
    for (what, subject, scope) in [
        ("a word more than the agent's token says", own.as_str(), "photo.read photo.delete"),
        ("a word that was given up", narrower, "photo.read photo.write"),
        ("another word", narrower, "photo.write"),
    ] {
        let (status, refused) = exchange(subject, scope);
        assert_eq!((status, &refused["error"]), (400, &"invalid_scope".into()), "{what}: {refused}");
    }
    // The agent itself narrows what the CA has signed, and goes by the same rule.
    let mut wanted = WantedToken::default();
    wanted.scope = "photo.read photo.write".into();
    let wider = edge.tokens.exchange(narrower, SubjectTokenType::TxnToken, &wanted).await.unwrap_err();
    assert_eq!(wider.code(), "scope-wider");
    wanted.scope = "photo.read".into();
    edge.tokens.exchange(narrower, SubjectTokenType::TxnToken, &wanted).await.unwrap();
    site.ca(&["audit", "verify"]).success();
}

/// An agent is killed before the record of a token is written, when it is written and nobody has the token, and when the token has left and its record is on
/// its way to the disk. No token is without a record, and the records go on in one chain. While the disk takes nothing, no further token leaves, and
/// everything else goes on.
#[tokio::test(flavor = "multi_thread")]
async fn i_01_an_agent_killed_around_the_record_of_a_token() {
    let site = Site::started();
    site.add_service("export", &["--on", "n1", "--edge-scope", "export.run"]);
    let mut n1 = site.join("n1");
    let mut answered = vec![Edge::at(&n1).await.mint_soon().await];
    n1.stop();
    let (mut unanswered, log) = (0, n1.path("data/mint.log"));
    let length = || std::fs::metadata(&log).unwrap().len();
    // The log alone writes and syncs so. strace counts for each thread.
    for (moment, fault) in [
        ("unwritten", "pwrite64:signal=SIGKILL:when=3"),
        ("written", "pwrite64:delay_exit=600000000:when=3"),
        ("on its way", "fdatasync:delay_enter=600000000:when=2"),
    ] {
        let run = n1.agent_run();
        let mut strace = Command::new("strace");
        strace.args(["-D", "-f", "-qq", "-o", "/dev/null", "-e", &format!("inject={fault}")]);
        strace.arg(run.get_program()).args(run.get_args());
        let mut agent =
            Process::start("bonafide-agent under strace", &mut strace).expect("strace is needed: see tests/run");
        agent.ready("node", SOON).unwrap_or_else(|error| panic!("{moment}: {error}"));
        let edge = Edge::at(&n1).await;
        answered.push(edge.mint_soon().await);
        let (before, refused) = loop {
            let before = length();
            match edge.mint().await {
                Ok(token) => answered.push(token),
                Err(refused) => break (before, refused),
            }
        };
        match refused {
            ExchangeRefused::Unavailable { .. } => assert_eq!(moment, "unwritten"),
            ExchangeRefused::NoAnswer { .. } => {
                let lives = identity(&n1).ready(SOON).await;
                // strace holds the thread at its call, and would do so long after.
                let status = std::fs::read_to_string(format!("/proc/{}/status", agent.id())).unwrap();
                let tracer = status.lines().find_map(|line| line.strip_prefix("TracerPid:")).unwrap();
                agent.signal(Signal::SIGKILL).unwrap();
                kill(Pid::from_raw(tracer.trim().parse().unwrap()), Signal::SIGKILL).unwrap();
                lives.unwrap_or_else(|error| panic!("{moment}, the agent does nothing else: {error}"));
            }
            other => panic!("{moment}: {other}"),
        }
        agent.ended(SOON).unwrap_or_else(|error| panic!("{moment}: {error}"));
        assert_eq!(length() > before, moment == "written", "{moment}");
        unanswered += usize::from(moment == "written");
    }
    n1.start();
    let edge = Edge::at(&n1).await;
    answered.push(edge.mint_soon().await);
    let minted = eventually("all are in the audit log", || {
        Some(records(&site, "token-minted")).filter(|records| records.len() >= answered.len() + unanswered)
    });
    let minted: Vec<String> = minted.iter().map(ToString::to_string).collect();
    assert_eq!(minted.len(), answered.len() + unanswered, "the one that nobody got is recorded, too");
    for token in &answered {
        let txn = claims(token)["txn"].as_str().unwrap().to_owned();
        assert!(minted.iter().any(|record| record.contains(&txn)), "a token without a record");
    }
    assert!(records(&site, "mint-log-broken").is_empty());
    site.ca(&["audit", "verify"]).success();
    n1.stop();
}
