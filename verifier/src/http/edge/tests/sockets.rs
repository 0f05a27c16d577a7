//! The edge over real connections: users without a certificate and services with one, on one listener.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{
    serve::{ServeOptions, TlsIncoming, serve},
    tls::{Acceptor, AcceptorOptions, Connector, ConnectorOptions, PeerSet, fixtures},
};

async fn ask(connector: &Connector, address: &str, headers: &[String]) -> (u16, String) {
    let stream = TcpStream::connect(address).await.unwrap();
    let mut stream = connector.connect_over(stream, "localhost").await.unwrap();
    let headers: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
    let request = format!("GET /look HTTP/1.1\r\nHost: photo\r\nConnection: close\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut text)).await;
    read.expect("an answer in time").unwrap();
    let text = String::from_utf8(text).unwrap();
    let status = text.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_else(|| panic!("{text}"));
    (status, text)
}

#[tokio::test]
async fn users_and_services_at_one_listener() {
    let rig = Rig::at(fixtures::START);
    let authority = Arc::new(fixtures::Authority::new("example.org"));
    let clock: Arc<dyn Clock> = rig.clock.clone();
    let identity = |path: &str| {
        let bundles = fixtures::Authority::bundles(&[&authority]);
        Identity::fixed(authority.svid(path, 3600), bundles, Arc::clone(&clock))
    };
    let options = AcceptorOptions { dangerously_admit_anonymous: true, ..AcceptorOptions::default() };
    let callers = PeerSet::parse(["spiffe://example.org/**"]).unwrap();
    let acceptor = Acceptor::new(&identity("/photo"), callers, options).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let stop = CancellationToken::new();
    let served = tokio::spawn(serve(
        TlsIncoming::new(listener, &acceptor),
        rig.edge.clone(),
        ServeOptions::default(),
        stop.clone(),
    ));
    let server = || PeerSet::parse(["spiffe://example.org/photo"]).unwrap();
    let export = Connector::new(&identity("/export"), server(), ConnectorOptions::default()).unwrap();
    let browser = Connector::anonymous(&identity("/none"), server(), ConnectorOptions::default()).unwrap();

    let token = rig.token(&json!({}));
    let user = format!("Authorization: Bearer {token}");
    let txn = rig.service.txn_token(&json!({}));
    let (carried, named) = (format!("Txn-Token: {txn}"), "X-User: root".to_owned());
    let good = "corp:charlie with photo.read photo.write";
    for (what, connector, headers, expected, body) in [
        ("a user", &browser, vec![user.clone(), named.clone()], 200, format!("corp:charlie t-1 {good}")),
        ("a service for a user", &export, vec![user.clone()], 200, format!("spiffe://example.org/export t-1 {good}")),
        (
            "a service for itself",
            &export,
            vec![named.clone()],
            200,
            "spiffe://example.org/export - nobody NAMED".into(),
        ),
        ("nobody", &browser, vec![named], 401, String::new()),
        ("from outside", &browser, vec![user.clone(), carried.clone()], 403, String::new()),
        ("only that, from outside", &browser, vec![carried.clone()], 401, String::new()),
        ("two users", &export, vec![user.clone(), carried.clone()], 400, String::new()),
        (
            "passed on",
            &export,
            vec![carried.clone()],
            200,
            "spiffe://example.org/export t-1 corp:charlie with photo.read".into(),
        ),
        ("a second one", &export, vec![carried.clone(), carried], 400, String::new()),
        ("as a credential", &browser, vec![format!("Authorization: Bearer {txn}")], 401, String::new()),
        ("two of a user", &browser, vec![user.clone(), user], 400, String::new()),
        ("one as the other", &export, vec![format!("Txn-Token: {token}")], 400, String::new()),
    ] {
        let (status, text) = ask(connector, &address, &headers).await;
        assert_eq!(status, expected, "{what}: {text}");
        assert!(text.ends_with(&body), "{what}: {text}");
        assert!(!text.contains(&token) && !text.contains(&txn), "{what}: {text}");
    }
    let records = rig.lines.0.lock().unwrap().join("\n");
    assert!(!records.contains(&token) && !records.contains(&txn), "{records}");
    stop.cancel();
    served.await.unwrap();
}
