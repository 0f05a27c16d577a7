//! Delegations: by the registry alone, known to every node before they are used, ended with what they were given for; and the collection of
//! what was minted under them.

use std::time::Duration;

use bonafide_ca_api::{
    MintChain, Reason,
    generated::node::{
        CollectMintsRequest, DelegateRequest, Hello, LookAtIssuerRequest, MintRecord, SyncResponse, TokenKeys,
    },
    token_keys_digest,
};
use bonafide_verifier::{
    clock::Clock,
    jwt::delegation::{DelegatedEdge, Delegation},
    spiffe::JwtAuthority,
};
use tonic::Status;

use super::rig::{ADMIN, Rig, TestNode, TestStream, eventually, name, new_spki, reason, spki, trust_domain};
use crate::{audit::Kind, registry::ServiceUpdate, user_issuers::tests::Provider};

/// What an agent keeps of token keys.
fn apply(held: &mut TokenKeys, update: &SyncResponse) {
    let Some(change) = update.token_keys.clone() else { return };
    if change.whole {
        *held = TokenKeys::default();
    }
    held.service = change.service.or(held.service.take());
    held.issuers = change.issuers.or(held.issuers.take());
    let key_id = |statement: &str| verified_with(held.service.as_ref().unwrap(), statement).key.key_id().to_owned();
    held.delegations = std::mem::take(&mut held.delegations)
        .into_iter()
        .filter(|one| !change.ended.contains(&key_id(one)))
        .chain(change.delegations)
        .collect();
}

fn verified_with(keys: &bonafide_ca_api::generated::node::TokenServiceKeys, statement: &str) -> Delegation {
    let keys: Vec<_> = keys.keys.iter().map(|key| JwtAuthority::new(&key.key_id, &key.public_key).unwrap()).collect();
    Delegation::verify(statement, &keys, &trust_domain()).unwrap()
}

fn verified(rig: &Rig, statement: &str) -> Delegation {
    Delegation::verify(statement, &rig.opened.authorities.token_keys(), &trust_domain()).unwrap()
}

fn takes_keys(rig: &Rig) -> Hello {
    Hello { agent: Some(rig.agent()), takes_token_keys: true, ..Hello::default() }
}

/// A stream whose first update is applied.
async fn synced(node: &mut TestNode, hello: Hello) -> (TestStream, SyncResponse) {
    let mut stream = node.sync(hello).await.unwrap();
    let first = stream.next().await.unwrap();
    stream.apply(&first).await;
    (stream, first)
}

async fn delegate(node: &TestNode) -> Result<String, Status> {
    let request = DelegateRequest { public_key: new_spki() };
    node.client.clone().delegate(request).await.map(|answer| answer.into_inner().delegation)
}

fn held(rig: &Rig) -> Vec<String> {
    rig.opened.registry.load().token_keys().delegations.keys().map(ToString::to_string).collect()
}

#[tokio::test]
async fn t_13_a_delegation_says_what_the_registry_says_and_nothing_of_the_node_s() {
    let rig = Rig::start().await;
    let node = rig.node("web-1", &[("group", "web")]).await;
    let other = rig.node("db-1", &[]).await;
    rig.edge("web", &["group=web"], &["photo.read", "photo.write"], &["corp"]).await;
    rig.edge("export", &["web-1"], &["export.run"], &[]).await;
    rig.edge("elsewhere", &["n9"], &["all"], &["corp"]).await;
    rig.service("photo", &["any"]).await;
    assert_eq!(reason(&delegate(&other).await.unwrap_err()), Reason::NotAnEdge);

    let key = rcgen::KeyPair::generate().unwrap();
    let request = DelegateRequest { public_key: spki(&key) };
    let answer = node.client.clone().delegate(request.clone()).await.unwrap().into_inner();
    let delegation = verified(&rig, &answer.delegation);
    let mut edges = delegation.edges.clone();
    edges.sort_by(|one, other| one.id.as_str().cmp(other.id.as_str()));
    let edge = |path: &str, scopes: &[&str], issuers: &[&str]| DelegatedEdge {
        id: bonafide_verifier::spiffe::SpiffeId::parse(&format!("spiffe://example.org/{path}")).unwrap(),
        scopes: scopes.iter().map(ToString::to_string).collect(),
        issuers: issuers.iter().map(ToString::to_string).collect(),
    };
    assert_eq!(edges, [edge("export", &["export.run"], &[]), edge("web", &["photo.read", "photo.write"], &["corp"])]);
    assert_eq!((delegation.node.as_str(), delegation.key.public_key().spki()), ("web-1", &*spki(&key)));
    assert_eq!(delegation.expires_at.since(delegation.issued_at), Duration::from_secs(3600));
    assert_eq!(rig.records(Kind::DelegationIssued).await, 1, "written down before it leaves");
    // A key is delegated to once; neither a node's nor an authority's is.
    assert_eq!(reason(&node.client.clone().delegate(request).await.unwrap_err()), Reason::KeyReserved);
    let authority = rig.opened.authorities.token_keys()[0].public_key().spki().to_vec();
    for (public_key, expected) in
        [(spki(&node.key), Reason::KeyReserved), (authority, Reason::KeyReserved), (vec![1; 91], Reason::KeyInvalid)]
    {
        let refused = node.client.clone().delegate(DelegateRequest { public_key }).await.unwrap_err();
        assert_eq!(reason(&refused), expected);
    }
    rig.finish().await;
}

#[tokio::test]
async fn a_delegation_leaves_when_every_connected_node_can_verify_by_it() {
    let rig = Rig::start().await;
    let mut edge = rig.node("web-1", &[]).await;
    let mut other = rig.node("db-1", &[]).await;
    let mut old = rig.node("old-1", &[]).await;
    rig.edge("web", &["web-1"], &["photo.read"], &["corp"]).await;
    let (mut own, _) = synced(&mut edge, takes_keys(&rig)).await;
    let (mut others, first) = synced(&mut other, takes_keys(&rig)).await;
    // An older agent is not told, and not waited for.
    let (_old, told) = synced(&mut old, Hello { agent: Some(rig.agent()), ..Hello::default() }).await;
    assert_eq!(told.token_keys, None);
    let mut known = TokenKeys::default();
    apply(&mut known, &first);
    assert!(first.token_keys.unwrap().whole && known.delegations.is_empty());
    assert_eq!(known.service.as_ref().unwrap().keys.len(), 1);

    let client = TestNode {
        key: rcgen::KeyPair::generate().unwrap(),
        credential: edge.credential.clone(),
        client: edge.client.clone(),
    };
    let asking = tokio::spawn(async move { delegate(&client).await });
    let own_update = own.next().await.unwrap();
    own.apply(&own_update).await;
    let update = others.next().await.unwrap();
    apply(&mut known, &update);
    assert_eq!((known.delegations.len(), update.services.len(), update.bundles.len()), (1, 0, 0));
    assert!(!asking.is_finished(), "one has not said that it applied it");
    others.apply(&update).await;
    let statement = asking.await.unwrap().unwrap();
    assert_eq!(known.delegations, [statement]);

    // A node that says nothing holds it back for a minute, and no longer.
    let client = TestNode {
        key: rcgen::KeyPair::generate().unwrap(),
        credential: edge.credential.clone(),
        client: edge.client.clone(),
    };
    let asking = tokio::spawn(async move { delegate(&client).await });
    let own_update = own.next().await.unwrap();
    own.apply(&own_update).await;
    let second = others.next().await.unwrap();
    eventually("the second is written", || held(&rig).len() == 2).await;
    rig.clock.advance(Duration::from_secs(59));
    tokio::task::yield_now().await;
    assert!(!asking.is_finished());
    let ended = tokio::spawn(async move { asking.await.unwrap().unwrap() });
    while !ended.is_finished() {
        rig.clock.advance(Duration::from_millis(500));
        tokio::task::yield_now().await;
    }
    let statement = ended.await.unwrap();
    assert_eq!(second.token_keys.unwrap().delegations, [statement], "a change, not the whole");
    rig.finish().await;
}

#[tokio::test]
async fn a_node_that_was_away_is_told_all_or_nothing_by_a_digest() {
    let rig = Rig::start().await;
    let node = rig.node("web-1", &[]).await;
    let mut other = rig.node("db-1", &[]).await;
    rig.edge("web", &["web-1"], &["photo.read"], &[]).await;
    delegate(&node).await.unwrap();
    let (_, first) = synced(&mut other, takes_keys(&rig)).await;
    let mut known = TokenKeys::default();
    apply(&mut known, &first);
    assert_eq!(known.delegations.len(), 1);
    let hello = |known: &TokenKeys| Hello {
        applied: first.position.clone(),
        bundle_sequence: rig.opened.registry.load().bundle().sequence().unwrap(),
        token_keys_digest: token_keys_digest(known).to_vec(),
        ..takes_keys(&rig)
    };
    let (_, same) = synced(&mut other, hello(&known)).await;
    assert_eq!(same.token_keys, None);
    delegate(&node).await.unwrap();
    let (_, more) = synced(&mut other, hello(&known)).await;
    assert!(more.token_keys.as_ref().is_some_and(|keys| keys.whole && keys.delegations.len() == 2));
    rig.finish().await;
}

#[tokio::test]
async fn a_delegation_ends_with_its_node_and_with_what_it_was_given_for() {
    type Change = fn(&Rig) -> std::pin::Pin<Box<dyn Future<Output = ()> + Send + '_>>;
    let cases: Vec<(&str, Change, bool)> = vec![
        (
            "the node is removed",
            |rig| Box::pin(async { rig.opened.registry.remove_node(name("web-1"), ADMIN).await.unwrap() }),
            true,
        ),
        (
            "the service is removed",
            |rig| Box::pin(async { drop(rig.opened.registry.remove_service("web".into(), ADMIN).await.unwrap()) }),
            true,
        ),
        (
            "it is no edge any more",
            |rig| Box::pin(update(rig, ServiceUpdate { edge_scopes: Some(vec![]), ..Default::default() })),
            true,
        ),
        (
            "a scope less",
            |rig| Box::pin(update(rig, ServiceUpdate { edge_scopes: Some(vec!["a".into()]), ..Default::default() })),
            true,
        ),
        (
            "an issuer less",
            |rig| Box::pin(update(rig, ServiceUpdate { edge_issuers: Some(vec![]), ..Default::default() })),
            true,
        ),
        (
            "it runs elsewhere",
            |rig| {
                Box::pin(update(
                    rig,
                    ServiceUpdate {
                        placements: Some(vec![bonafide_ca_api::Placement::parse("n9").unwrap()]),
                        ..Default::default()
                    },
                ))
            },
            true,
        ),
        (
            "a scope more",
            |rig| {
                Box::pin(update(
                    rig,
                    ServiceUpdate { edge_scopes: Some(vec!["a".into(), "b".into(), "c".into()]), ..Default::default() },
                ))
            },
            false,
        ),
        (
            "a name more",
            |rig| {
                Box::pin(update(
                    rig,
                    ServiceUpdate { dns_names: Some(vec!["web.example.org".into()]), ..Default::default() },
                ))
            },
            false,
        ),
        (
            "the node joins anew",
            |rig| {
                Box::pin(async {
                    let secret = rig.invite("web-1", &[], true).await;
                    rig.join(&rcgen::KeyPair::generate().unwrap(), &secret).await.unwrap();
                })
            },
            true,
        ),
    ];
    for (what, change, ends) in cases {
        let rig = Rig::start().await;
        let node = rig.node("web-1", &[]).await;
        let mut other = rig.node("db-1", &[]).await;
        rig.edge("web", &["web-1"], &["a", "b"], &["corp"]).await;
        let statement = delegate(&node).await.unwrap();
        let key_id = verified(&rig, &statement).key.key_id().to_owned();
        let (mut stream, _) = synced(&mut other, takes_keys(&rig)).await;
        change(&rig).await;
        if ends {
            let update = stream.next().await.unwrap();
            assert_eq!(update.token_keys.unwrap().ended, [key_id], "{what}");
            assert_eq!((held(&rig).len(), rig.records(Kind::DelegationEnded).await), (0, 1), "{what}");
        } else {
            assert_eq!(held(&rig), [key_id], "{what}");
        }
        let everything = rig.opened.store.read(|reader| reader.everything()).await.unwrap();
        assert_eq!(rig.opened.registry.load().difference(&everything), None, "{what}");
        rig.finish().await;
    }
}

async fn update(rig: &Rig, update: ServiceUpdate) {
    rig.opened.registry.update_service("web".into(), update, ADMIN).await.unwrap();
}

#[tokio::test]
async fn a_node_has_few_delegations_and_asks_for_few() {
    let rig = Rig::start().await;
    let node = rig.node("web-1", &[]).await;
    rig.edge("web", &["web-1"], &["a"], &[]).await;
    let mut statements = Vec::new();
    let refused = loop {
        match delegate(&node).await {
            Ok(statement) => statements.push(statement),
            Err(refused) => break refused,
        }
        // So that the oldest are known.
        rig.clock.advance(Duration::from_secs(1));
    };
    assert_eq!((reason(&refused), statements.len()), (Reason::Quota, 30));
    let newest: std::collections::BTreeSet<String> =
        statements[26..].iter().map(|one| verified(&rig, one).key.key_id().to_owned()).collect();
    assert_eq!(held(&rig), newest.into_iter().collect::<Vec<_>>());
    // What is over is dropped when the next one comes, whoever asks for that.
    rig.pass(Duration::from_secs(3600)).await;
    rig.pass(Duration::from_secs(60)).await;
    delegate(&node).await.unwrap();
    assert_eq!(held(&rig).len(), 1);
    rig.finish().await;
}

#[tokio::test]
async fn issuers_of_users_are_told_to_every_node_and_looked_at_when_a_key_is_new() {
    let rig = Rig::start().await;
    let mut node = rig.node("web-1", &[]).await;
    let (mut stream, first) = synced(&mut node, takes_keys(&rig)).await;
    assert!(first.token_keys.unwrap().issuers.unwrap().issuers.is_empty());
    let provider = Provider::start().await;
    rig.opened.registry.add_issuer(provider.new_issuer("corp"), ADMIN).await.unwrap();
    let told = stream.next().await.unwrap().token_keys.unwrap();
    let issuers = told.issuers.unwrap().issuers;
    assert_eq!((issuers[0].name.as_str(), issuers[0].url.as_str(), issuers[0].jwks.len()), ("corp", &*provider.url, 0));
    assert_eq!((told.service, told.whole), (None, false));
    let look = async |issuer: &str| {
        let answer = node.client.clone().look_at_issuer(LookAtIssuerRequest { issuer: issuer.into() }).await;
        answer.map(|answer| answer.into_inner().looked)
    };
    assert!(look("corp").await.unwrap());
    let told = stream.next().await.unwrap().token_keys.unwrap().issuers.unwrap().issuers.remove(0);
    assert!(!told.jwks.is_empty() && told.keys_until_ms > rig.clock.now().unix_millis());
    // Not again within a minute, whoever asks; and nobody is asked who is not registered.
    provider.new_key("k2");
    assert!(!look("corp").await.unwrap());
    assert!(!look("unknown").await.unwrap());
    assert_eq!(reason(&look("No Name").await.unwrap_err()), Reason::InvalidMessage);
    rig.clock.advance(Duration::from_secs(61));
    assert!(look("corp").await.unwrap());
    let told = stream.next().await.unwrap().token_keys.unwrap().issuers.unwrap().issuers.remove(0);
    assert!(String::from_utf8(told.jwks).unwrap().contains("k2"));
    rig.finish().await;
}

/// The log of a node from one record to another.
fn stretch(node: &str, word: &str, from: u64, to: u64) -> CollectMintsRequest {
    let mut place = MintChain::begin(&name(node), "log-1");
    let (mut previous, mut records) = (place.hash, Vec::new());
    for seq in 1..=to {
        if seq == from {
            previous = place.hash;
        }
        let body = format!("{{\"txn\":\"{word}-{seq}\",\"sub\":\"corp:charlie\"}}").into_bytes();
        place.advance(7, &body);
        if seq >= from {
            records.push(MintRecord { seq, at_ms: 7, body });
        }
    }
    CollectMintsRequest { log: place.log, previous: previous.to_vec(), records }
}

#[tokio::test]
async fn what_was_minted_is_in_the_audit_log_once_and_gaps_are_alarmed() {
    let rig = Rig::start().await;
    let node = rig.node("web-1", &[]).await;
    let collect =
        async |request| node.client.clone().collect_mints(request).await.map(|answer| answer.into_inner().collected);
    assert_eq!(collect(stretch("web-1", "a", 1, 3)).await.unwrap(), 3);
    assert_eq!(collect(stretch("web-1", "a", 1, 3)).await.unwrap(), 3, "the same again");
    assert_eq!(collect(stretch("web-1", "a", 2, 5)).await.unwrap(), 5, "an answer was lost");
    assert_eq!(rig.records(Kind::TokenMinted).await, 5);
    assert_eq!((rig.records(Kind::MintsCollected).await, rig.records(Kind::MintLogBroken).await), (2, 0));
    assert_eq!(collect(stretch("web-1", "a", 8, 9)).await.unwrap(), 9, "followed on behind the gap");
    assert_eq!(rig.records(Kind::MintLogBroken).await, 1);
    assert_eq!(collect(stretch("web-1", "b", 10, 10)).await.unwrap(), 10, "and behind a fork");
    assert_eq!((rig.records(Kind::TokenMinted).await, rig.records(Kind::MintLogBroken).await), (8, 2));
    let filter = crate::audit::Filter { kinds: vec![Kind::TokenMinted], limit: 1, ..Default::default() };
    let newest = crate::fixtures::list(&rig.opened.store, filter).await.unwrap().entries.remove(0);
    let shown = format!("{newest:?}");
    assert!(shown.contains("corp:charlie") && shown.contains("node web-1"), "{shown}");

    let broken = |change: fn(&mut CollectMintsRequest)| {
        let mut request = stretch("web-1", "b", 11, 12);
        change(&mut request);
        request
    };
    let cases: Vec<(&str, CollectMintsRequest)> = vec![
        ("no records", broken(|request| request.records.clear())),
        ("a record left out", broken(|request| drop(request.records.remove(0))).with_gap()),
        ("a record before the first", broken(|request| request.records[0].seq = 0)),
        ("a short hash", broken(|request| request.previous.truncate(31))),
        ("no name", broken(|request| request.log.clear())),
        ("a name with a control character", broken(|request| request.log.push('\n'))),
        ("no JSON", broken(|request| request.records[1].body = b"x".to_vec())),
        ("no object", broken(|request| request.records[1].body = b"[]".to_vec())),
        ("not text", broken(|request| request.records[1].body = vec![0xff])),
        ("too large", broken(|request| request.records[1].body = vec![b' '; 8193])),
        ("too many", stretch("web-1", "b", 11, 11 + 512)),
    ];
    for (flaw, request) in cases {
        assert_eq!(reason(&collect(request).await.unwrap_err()), Reason::MintLogInvalid, "{flaw}");
    }
    assert_eq!(rig.records(Kind::TokenMinted).await, 8);
    rig.finish().await;
}

trait WithGap {
    fn with_gap(self) -> Self;
}

impl WithGap for CollectMintsRequest {
    /// Two records that do not follow one another.
    fn with_gap(mut self) -> Self {
        let again = MintRecord { seq: 14, ..self.records[0].clone() };
        self.records.push(again);
        self
    }
}
