use bonafide_ca_api::Refusal;
use bonafide_ca_api::generated::admin::StringList;
use bonafide_verifier::clock::ManualClock;
use bonafide_verifier::spiffe::{SpiffeId, TrustDomain};
use tonic::Code;

use super::*;
use crate::audit::{Record, SvidKind, X509Issued};
use crate::data_dir::{self, Opened};

/// The API over a fresh directory.
struct Fixture {
    api: AdminApi,
    clock: ManualClock,
    opened: Opened,
    _directory: tempfile::TempDir,
}

async fn fixture() -> Fixture {
    let directory = tempfile::tempdir().unwrap();
    let clock = ManualClock::at(Timestamp::from_unix_seconds(1_800_000_000));
    let options = data_dir::Options {
        directory: directory.path().join("ca"),
        trust_domain: Some(TrustDomain::parse("example.org").unwrap()),
        expect_root: None,
        accept_clock: false,
        lifetimes: crate::authority::Lifetimes::default(),
        rules: registry::Rules::default(),
        store: crate::store::Limits::default(),
    };
    let opened = data_dir::open_or_create(options, Arc::new(clock.clone())).await.unwrap();
    let api = AdminApi {
        registry: opened.registry.clone(),
        store: opened.store.clone(),
        authorities: opened.authorities.clone(),
        hub: Arc::default(),
        health: Health::new(),
        issuers: IssuerKeeper::new(
            opened.registry.clone(),
            Arc::new(clock.clone()),
            crate::user_issuers::Limits::default(),
        ),
        clock: Arc::new(clock.clone()),
        root_sha256: opened.root_hash,
        advertised: vec![CaAddress::parse("ca.example.org:8443").unwrap()],
        node_address: "127.0.0.1:8443".parse().unwrap(),
        started_at: clock.now(),
    };
    Fixture { api, clock, opened, _directory: directory }
}

/// A request of the administrator `root`.
fn by_root<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.extensions_mut().insert(Administrator::for_test());
    request
}

fn photo(path: &str) -> AddServiceRequest {
    AddServiceRequest {
        path: path.to_owned(),
        selectors: vec!["unix:user:photo".to_owned()],
        on: vec!["any".to_owned()],
        ..AddServiceRequest::default()
    }
}

fn invite(name: &str) -> InviteNodeRequest {
    InviteNodeRequest { name: name.to_owned(), ..InviteNodeRequest::default() }
}

fn code<T: std::fmt::Debug>(result: Result<T, Status>) -> (Code, String) {
    let status = result.unwrap_err();
    (status.code(), Refusal::from_status(&status).map(|refusal| refusal.code).unwrap_or_default())
}

#[tokio::test(flavor = "multi_thread")]
async fn t13_without_an_administrator_nothing_is_answered() {
    let Fixture { api, _directory, .. } = fixture().await;
    let denied = (Code::PermissionDenied, "not-administrator".to_owned());
    macro_rules! each {
        ($($method:ident($message:expr)),+ $(,)?) => {
            $( assert_eq!(code(api.$method(Request::new($message)).await), denied, stringify!($method)); )+
        };
    }
    each!(
        invite_node(invite("n1")),
        list_nodes(ListNodesRequest::default()),
        show_node(ShowNodeRequest { name: "n1".into() }),
        remove_node(RemoveNodeRequest { name: "n1".into() }),
        add_service(photo("photo")),
        list_services(ListServicesRequest::default()),
        show_service(ShowServiceRequest { path: "photo".into() }),
        update_service(UpdateServiceRequest { path: "photo".into(), ..UpdateServiceRequest::default() }),
        remove_service(RemoveServiceRequest { path: "photo".into() }),
        add_issuer(AddIssuerRequest::default()),
        list_issuers(ListIssuersRequest {}),
        show_issuer(ShowIssuerRequest { name: "corp".into() }),
        remove_issuer(RemoveIssuerRequest { name: "corp".into() }),
        refresh_issuer(RefreshIssuerRequest { name: "corp".into() }),
        show_bundle(ShowBundleRequest {}),
        list_authorities(ListAuthoritiesRequest {}),
        status(StatusRequest {}),
    );
    let contract =
        include_str!("../../api/proto/admin.proto").lines().filter(|line| line.trim().starts_with("rpc ")).count();
    assert_eq!(contract, 17, "a new method needs a row above");
    assert_eq!(api.registry.load().service_count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn t11_pages_are_bounded_whatever_is_asked_for() {
    let Fixture { api, _directory, .. } = fixture().await;
    for n in 0..5 {
        api.add_service(by_root(photo(&format!("s{n}")))).await.unwrap();
        api.invite_node(by_root(invite(&format!("n{n}")))).await.unwrap();
    }
    for asked in [0, 1000, 1001, u32::MAX] {
        let page =
            api.list_services(by_root(ListServicesRequest { page_size: asked, after: String::new() })).await.unwrap();
        assert_eq!((page.get_ref().services.len(), page.get_ref().more), (5, false), "{asked}");
    }
    let mut seen = Vec::new();
    let mut after = String::new();
    loop {
        let request = ListNodesRequest { page_size: 2, after: after.clone() };
        let page = api.list_nodes(by_root(request)).await.unwrap().into_inner();
        assert!(page.nodes.len() <= 2);
        seen.extend(page.nodes.iter().map(|node| node.name.clone()));
        if !page.more {
            break;
        }
        after = seen.last().unwrap().clone();
    }
    assert_eq!(seen, ["n0", "n1", "n2", "n3", "n4"], "each node once");
    assert_eq!(
        [page_size(0), page_size(1), page_size(1000), page_size(1001), page_size(u32::MAX)],
        [1000, 1, 1000, 1000, 1000]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_carry_their_reason() {
    let Fixture { api, _directory, .. } = fixture().await;
    api.add_service(by_root(photo("photo"))).await.unwrap();
    let many = vec!["unix:uid:1".to_owned(); 33];
    let cases: Vec<(AddServiceRequest, Code, &str)> = vec![
        (photo("photo"), Code::AlreadyExists, "service-exists"),
        (photo("bonafide/x"), Code::InvalidArgument, "path-reserved"),
        (photo("a//b"), Code::InvalidArgument, "invalid-value"),
        (photo(""), Code::InvalidArgument, "invalid-value"),
        (AddServiceRequest { on: vec![], ..photo("a") }, Code::InvalidArgument, "placement-missing"),
        (AddServiceRequest { on: vec!["*".into()], ..photo("a") }, Code::InvalidArgument, "invalid-value"),
        (
            AddServiceRequest { selectors: vec!["unix:gid:1".into()], ..photo("a") },
            Code::InvalidArgument,
            "user-missing",
        ),
        (AddServiceRequest { selectors: vec!["x".into()], ..photo("a") }, Code::InvalidArgument, "invalid-value"),
        (AddServiceRequest { selectors: many, ..photo("a") }, Code::InvalidArgument, "invalid-value"),
        (AddServiceRequest { x509_ttl_s: 1, ..photo("a") }, Code::InvalidArgument, "lifetime-bounds"),
        (AddServiceRequest { jwt_ttl_s: u32::MAX, ..photo("a") }, Code::InvalidArgument, "lifetime-bounds"),
        (AddServiceRequest { hint: "a\x1b".into(), ..photo("a") }, Code::InvalidArgument, "invalid-value"),
        (AddServiceRequest { edge_scopes: vec!["a b".into()], ..photo("a") }, Code::InvalidArgument, "invalid-value"),
        (AddServiceRequest { edge_issuers: vec!["corp".into()], ..photo("a") }, Code::InvalidArgument, "invalid-value"),
    ];
    for (request, status, reason) in cases {
        let shown = format!("{request:?}");
        assert_eq!(code(api.add_service(by_root(request)).await), (status, reason.to_owned()), "{shown}");
    }
    assert_eq!(code(api.invite_node(by_root(invite("Web"))).await), (Code::InvalidArgument, "invalid-value".into()));
    let unknown = ShowNodeRequest { name: "nothing".into() };
    assert_eq!(code(api.show_node(by_root(unknown)).await), (Code::NotFound, "node-unknown".into()));
    let unknown = ShowServiceRequest { path: "\x1b[2J".into() };
    let status = api.show_service(by_root(unknown)).await.unwrap_err();
    assert!(!status.message().contains('\x1b'), "T-31: {status:?}");
    let empty = UpdateServiceRequest {
        path: "photo".into(),
        selectors: Some(StringList::default()),
        ..UpdateServiceRequest::default()
    };
    assert_eq!(
        code(api.update_service(by_root(empty)).await).0,
        Code::InvalidArgument,
        "a list that is present is the list"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invitation_is_shown_until_it_expires_and_can_be_revoked() {
    let Fixture { api, clock, _directory, .. } = fixture().await;
    let invited = api.invite_node(by_root(invite("n1"))).await.unwrap().into_inner();
    let invitation = Invitation::parse(&invited.invitation).unwrap();
    assert_eq!(invitation.addresses(), api.advertised);
    assert_eq!(invitation.expires_at().unix_millis(), invited.expires_at_ms);
    assert_eq!(invitation.root_sha256(), &api.root_sha256);
    let show = || api.show_node(by_root(ShowNodeRequest { name: "n1".into() }));
    assert_eq!(show().await.unwrap().get_ref().state, "invited");
    clock.advance(Duration::from_secs(600));
    assert_eq!(code(show().await).1, "node-unknown", "an expired invitation is no node");
    api.invite_node(by_root(invite("n1"))).await.unwrap();
    let removed = api.remove_node(by_root(RemoveNodeRequest { name: "n1".into() })).await.unwrap();
    assert_eq!(removed.get_ref().last_svid_expires_ms, 0);
    let again = api.remove_node(by_root(RemoveNodeRequest { name: "n1".into() })).await;
    assert_eq!(code(again).1, "node-unknown");
}

/// What was said was the present lifetime from now on: too early where it had been an hour until a moment ago.
#[tokio::test(flavor = "multi_thread")]
async fn a_removal_says_when_the_last_svid_that_was_issued_ends() {
    let Fixture { api, opened, clock, _directory, .. } = fixture().await;
    let now = clock.now();
    let issued = |spiffe_id: &str, node: &str, kind: SvidKind, minutes: u64| {
        Record::x509_issued(&X509Issued {
            who: &Who::Ca,
            node: Some(&node.parse().unwrap()),
            kind,
            spiffe_id: &SpiffeId::parse(spiffe_id).unwrap(),
            serial: &[1],
            key_hash: &[2; 32],
            tbs_hash: &[3; 32],
            issuer: "issuer",
            not_before: now,
            not_after: now.saturating_add(Duration::from_secs(60 * minutes)),
            dns_names: &[],
        })
    };
    let photo_id = "spiffe://example.org/photo";
    let records = vec![
        issued(photo_id, "n1", SvidKind::Service, 60),
        issued(photo_id, "n2", SvidKind::Service, 50),
        issued("spiffe://example.org/photos", "n2", SvidKind::Service, 90),
        issued("spiffe://example.org/bonafide/node/n1", "n1", SvidKind::Node, 1440),
    ];
    opened.store.record_group(records).await.unwrap();
    let about = |spiffe_id: Option<&str>, node: Option<&str>| audit::Filter {
        spiffe_id: spiffe_id.map(str::to_owned),
        node: node.map(str::to_owned),
        ..audit::Filter::default()
    };
    let in_minutes = |minutes: u64| now.saturating_add(Duration::from_secs(60 * minutes)).unix_millis();
    assert_eq!(api.last_expiry(about(None, Some("n1"))).await, in_minutes(60), "not its own SVID's");
    assert_eq!(api.last_expiry(about(None, Some("n2"))).await, in_minutes(90));
    assert_eq!(api.last_expiry(about(None, Some("n3"))).await, 0);
    api.add_service(by_root(photo("photo"))).await.unwrap();
    let shorter = UpdateServiceRequest {
        path: "photo".into(),
        x509_ttl_s: Some(60),
        jwt_ttl_s: Some(60),
        ..UpdateServiceRequest::default()
    };
    api.update_service(by_root(shorter)).await.unwrap();
    let removed = api.remove_service(by_root(RemoveServiceRequest { path: "photo".into() })).await.unwrap();
    assert_eq!(removed.get_ref().last_svid_expires_ms, in_minutes(60));
    clock.advance(Duration::from_secs(3600));
    assert_eq!(api.last_expiry(about(Some(photo_id), None)).await, 0, "all have ended");
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_are_recorded_under_the_administrator_s_name() {
    let Fixture { api, opened, _directory, .. } = fixture().await;
    api.add_service(by_root(photo("photo"))).await.unwrap();
    let removed = api.remove_service(by_root(RemoveServiceRequest { path: "photo".into() })).await.unwrap();
    assert_eq!(removed.get_ref().last_svid_expires_ms, 0, "nothing was issued");
    let filter = crate::audit::Filter { limit: 2, ..crate::audit::Filter::default() };
    let page = opened.store.read(move |reader| crate::audit::page(reader, &filter)).await.unwrap();
    let kinds: Vec<&str> = page.entries.iter().map(|entry| entry.kind.as_str()).collect();
    assert_eq!(kinds, ["service-removed", "service-added"]);
    assert!(page.entries.iter().all(|entry| entry.body.contains(r#""who":"uid 0 (root)""#)), "{page:?}");
}
