//! Odd requests, byte by byte: what is not right is refused, nothing panics, and a good call works afterwards.

use std::{convert::Infallible, time::Duration};

use bonafide_ca_api::{
    Reason,
    generated::node::{IssueX509Request, X509Item},
};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::{body::Frame, client::conn::http2::SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::{Message, bytes::Bytes};
use tokio_stream::Pending;
use tonic::{Code, Status};

use super::rig::{DEADLINE, Rig, TestNode, new_spki, reason};
use crate::node_api::Limits;

type Client = SendRequest<Full<Bytes>>;

async fn connect<B>(rig: &Rig, node: &TestNode) -> SendRequest<B>
where
    B: http_body::Body<Data = Bytes, Error = Infallible> + Send + Unpin + 'static,
{
    let stream = {
        let connector = rig.connector(node.svid());
        let tcp = tokio::net::TcpStream::connect(rig.address).await.unwrap();
        connector.connect_over(tcp, "127.0.0.1").await.unwrap()
    };
    let (client, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    client
}

fn frame(message: &[u8]) -> Vec<u8> {
    let mut frame = vec![0];
    frame.extend_from_slice(&u32::try_from(message.len()).unwrap().to_be_bytes());
    frame.extend_from_slice(message);
    frame
}

/// Sends bytes to a method; gives the gRPC status that came back, or the HTTP status of what is no gRPC.
async fn send(client: &mut Client, path: &str, content_type: &str, body: Vec<u8>) -> Result<Status, u16> {
    client.ready().await.unwrap();
    let request = http::Request::post(format!("https://ca{path}"))
        .header("content-type", content_type)
        .header("te", "trailers")
        .body(Full::new(Bytes::from(body)))
        .unwrap();
    let response = client.send_request(request).await.unwrap();
    let http_status = response.status().as_u16();
    let headers = response.headers().clone();
    let trailers = response.into_body().collect().await.unwrap().trailers().cloned().unwrap_or_default();
    Status::from_header_map(&headers).or_else(|| Status::from_header_map(&trailers)).ok_or(http_status)
}

const ISSUE: &str = "/bonafide.node.v1.NodeApi/IssueX509";
const GRPC: &str = "application/grpc";

#[tokio::test]
async fn t_10_t_11_odd_messages_are_refused_and_harm_nobody() {
    let rig = Rig::start().await;
    let node = rig.node("n1", &[]).await;
    let service = rig.service("a", &["n1"]).await;
    let mut client: Client = connect(&rig, &node).await;
    let good =
        IssueX509Request { items: vec![X509Item { service_id: service.id.to_string(), public_key: new_spki() }] }
            .encode_to_vec();

    let mut with_unknown_field = good.clone();
    with_unknown_field.extend_from_slice(&[0x9a, 0x06, 3, 1, 2, 3]); // field 99, length-delimited
    let deep: Vec<u8> = std::iter::repeat_n(0x0b, 100_000).collect(); // groups of field 1
    let many: Vec<u8> = std::iter::repeat_n([0x0a, 0x00], 300).flatten().collect();
    let compressed = {
        let mut frame = frame(&good);
        frame[0] = 1;
        frame
    };
    let trailing = [frame(&good), vec![0]].concat();
    let two = [frame(&good), frame(&good)].concat();
    let cases: Vec<(&str, Vec<u8>, &[Code])> = vec![
        ("good", frame(&good), &[Code::Ok]),
        ("an empty message", frame(&[]), &[Code::Ok]),
        ("an unknown field is ignored", frame(&with_unknown_field), &[Code::Ok]),
        ("nothing", vec![], &[Code::Internal, Code::InvalidArgument, Code::Unknown, Code::Unimplemented]),
        (
            "T-11 a length of 4 GiB and five bytes",
            [vec![0, 0xff, 0xff, 0xff, 0xff], vec![0; 5]].concat(),
            &[Code::OutOfRange],
        ),
        ("F-16 one byte more than a message may have", frame(&vec![0; 1024 * 1024 + 1]), &[Code::OutOfRange]),
        ("cut in its length", vec![0, 0, 0], &[Code::Internal, Code::Unknown]),
        ("cut in its message", frame(&good)[..20].to_vec(), &[Code::Internal, Code::Unknown]),
        ("said to be compressed", compressed, &[Code::Internal, Code::Unimplemented]),
        (
            "an unknown flag",
            {
                let mut f = frame(&good);
                f[0] = 7;
                f
            },
            &[Code::Internal],
        ),
        ("bytes behind the message", trailing, &[Code::Internal, Code::Unknown, Code::Ok]),
        ("two messages", two, &[Code::Ok, Code::Internal, Code::InvalidArgument]),
        ("T-10 a number where a message must be", frame(&[0x08, 1]), &[Code::Internal]),
        ("a length beyond the end", frame(&[0x0a, 0x7f, 1]), &[Code::Internal]),
        (
            "a length of 2^64 - 1",
            frame(&[0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]),
            &[Code::Internal],
        ),
        (
            "a number without an end",
            frame(&[0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]),
            &[Code::Internal],
        ),
        ("T-32 groups, 100,000 deep", frame(&deep), &[Code::Internal]),
        ("field number 0", frame(&[0x02, 0]), &[Code::Internal]),
        ("invalid UTF-8 in a string", frame(&[0x0a, 4, 0x0a, 2, 0xff, 0xfe]), &[Code::Internal]),
        ("300 empty items", frame(&many), &[Code::InvalidArgument]),
    ];
    for (what, body, expected) in cases {
        let got = send(&mut client, ISSUE, GRPC, body).await;
        let got = got.unwrap_or_else(|http| panic!("{what}: HTTP {http}"));
        assert!(expected.contains(&got.code()), "{what}: {got:?}");
    }
    // After all that a good call works, on the same connection.
    assert_eq!(send(&mut client, ISSUE, GRPC, frame(&good)).await.unwrap().code(), Code::Ok);

    for (what, path) in [
        ("an unknown method", "/bonafide.node.v1.NodeApi/Nothing"),
        ("an unknown service", "/bonafide.node.v2.NodeApi/Join"),
        ("reflection is off", "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"),
        ("health is elsewhere", "/grpc.health.v1.Health/Check"),
        ("the admin API", "/bonafide.admin.v1.AdminApi/ListNodes"),
        ("nothing", "/"),
    ] {
        assert_eq!(send(&mut client, path, GRPC, frame(&[])).await.unwrap().code(), Code::Unimplemented, "{what}");
    }
    for content_type in ["application/json", "application/grpc-web", "application/grpc+json", "text/plain", ""] {
        let got = send(&mut client, ISSUE, content_type, frame(&good)).await;
        assert_eq!(got.err(), Some(415), "{content_type}");
    }
    rig.finish().await;
}

/// A peer that has proved nothing but a key has a small message, read after the gate has let it in.
#[tokio::test]
async fn a_bare_key_sends_small_messages_only() {
    let rig = Rig::start().await;
    let mut client = rig.with_key(&rcgen::KeyPair::generate().unwrap()).await;
    let request = bonafide_ca_api::generated::node::JoinRequest { secret: vec![0; 5000], agent: None };
    let refused = client.join(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::OutOfRange);
    let request = bonafide_ca_api::generated::node::JoinRequest { secret: vec![0; 3000], agent: None };
    assert_eq!(reason(&client.join(request).await.unwrap_err()), Reason::InvitationUnknown);
    rig.finish().await;
}

/// A message that never comes.
type Silent = StreamBody<Pending<Result<Frame<Bytes>, Infallible>>>;

/// Whoever holds back its message once held its place for as long as it liked: only what came after the message was timed.
#[tokio::test]
async fn f_12_a_message_that_never_comes_ends_its_call() {
    let limits = Limits { call: Duration::from_millis(300), ..Limits::default() };
    let rig = Rig::start_with(limits).await;
    let node = rig.node("n1", &[]).await;
    let mut client: SendRequest<Silent> = connect(&rig, &node).await;
    client.ready().await.unwrap();
    let request = http::Request::post(format!("https://ca{ISSUE}"))
        .header("content-type", GRPC)
        .body(StreamBody::new(tokio_stream::pending()))
        .unwrap();
    let answered = tokio::time::timeout(DEADLINE, client.send_request(request)).await.expect("an end").unwrap();
    let status = Status::from_header_map(answered.headers()).unwrap();
    assert_eq!(reason(&status), Reason::Overloaded);
    assert!(status.message().contains("its message included"), "{status}");
    rig.finish().await;
}
