//! T-21: frames that cost the sender little and shall cost the agent no more. Written by hand, since no client sends them.

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    time::Duration,
};

use super::{next, own, start, x509};

/// A connection on which the preface and the settings have been sent.
fn raw(socket: &std::path::Path) -> UnixStream {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_write_timeout(Some(Duration::from_secs(5))).unwrap();
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap();
    stream.write_all(&frame(SETTINGS, 0, 0, &[])).unwrap();
    stream
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// HPACK: literals without indexing.
fn headers() -> Vec<u8> {
    headers_with(b"\0\x0a:authority\x05agent")
}

/// The same with the authority written in another way.
fn headers_with(authority: &[u8]) -> Vec<u8> {
    let fields = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", "/SpiffeWorkloadAPI/FetchX509SVID"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
        ("workload.spiffe.io", "true"),
    ];
    let mut block = authority.to_vec();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            block.push(u8::try_from(text.len()).unwrap());
            block.extend(text.as_bytes());
        }
    }
    block
}

/// The kind of the first frame on stream 1.
fn answer(stream: &mut UnixStream) -> u8 {
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).unwrap();
        let mut payload = vec![0; usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2])];
        stream.read_exact(&mut payload).unwrap();
        if head[8] == 1 {
            return head[3];
        }
    }
}

/// Java's gRPC named the socket in the authority, Go's with a dialer of its own and the C core likewise with `%2F`: each got
/// RST_STREAM for its first request.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wep_02_whatever_authority_a_grpc_library_sends_is_served() {
    let agent = start().await;
    agent.ca.publish(vec![own("a")]);
    let authorities: &[(&str, &[u8])] = &[
        ("Java", b"A\x18/run/bonafide/agent.sock"),
        ("Go with a dialer of its own, in Huffman's code", b"A\x83\x54\x58\x47"),
        ("C core", b"@\x0a:authority\x0crun%2Fa.sock"),
        ("Envoy with an odd name of the cluster", b"\x01\x05a||:b"),
        ("none", b""),
        ("as it should be", b"A\x09localhost"),
    ];
    for (library, authority) in authorities {
        let mut stream = raw(&agent.socket());
        stream.write_all(&frame(HEADERS, 4, 1, &headers_with(authority))).unwrap();
        stream.write_all(&frame(DATA, 1, 1, &[0; 5])).unwrap();
        let kind = tokio::task::spawn_blocking(move || answer(&mut stream)).await.unwrap();
        assert_eq!(kind, HEADERS, "{library}: frame {kind}, of which 3 is a reset");
    }
}

/// Writes until the other side hangs up or the flood is over, and reads nothing.
fn pour(stream: &mut UnixStream, frames: impl Iterator<Item = Vec<u8>>) -> bool {
    let mut buffer = Vec::new();
    for frame in frames {
        buffer.extend(frame);
        if buffer.len() > 16 * 1024 {
            if stream.write_all(&buffer).is_err() {
                return false;
            }
            buffer.clear();
        }
    }
    stream.write_all(&buffer).is_ok()
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t_21_floods_of_frames_are_bounded() {
    if !crate::testing::is_alone("workload_api::tests::flood::t_21_floods_of_frames_are_bounded") {
        return;
    }
    let agent = start().await;
    agent.ca.publish(vec![own("a")]);
    let client = agent.client().await;
    next(&mut x509(&client).await.unwrap()).await.unwrap();
    type Flood = fn(&mut UnixStream) -> bool;
    let floods: &[(&str, Flood)] = &[
        ("T-21 rapid reset", |stream| {
            let streams = (0..50_000_u32).map(|number| {
                let id = 2 * number + 1;
                let mut frames = frame(HEADERS, END_HEADERS, id, &headers());
                frames.extend(frame(RST_STREAM, 0, id, &8_u32.to_be_bytes()));
                frames
            });
            pour(stream, streams)
        }),
        ("T-21 CONTINUATION without end", |stream| {
            let first = std::iter::once(frame(HEADERS, 0, 1, &headers()));
            let more = (0..50_000).map(|_| frame(CONTINUATION, 0, 1, &[0, 1, b'a', 1, b'b']));
            pour(stream, first.chain(more))
        }),
        ("T-21 empty DATA", |stream| {
            let first = std::iter::once(frame(HEADERS, END_HEADERS, 1, &headers()));
            pour(stream, first.chain((0..200_000).map(|_| frame(DATA, 0, 1, &[]))))
        }),
        ("T-21 SETTINGS", |stream| pour(stream, (0..200_000).map(|_| frame(SETTINGS, 0, 0, &[])))),
        ("T-21 PING", |stream| pour(stream, (0..200_000).map(|_| frame(PING, 0, 0, &[7; 8])))),
        ("T-21 streams never read", |stream| {
            // Windows of nothing: whatever is answered cannot be sent.
            let settings = std::iter::once(frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]));
            let streams = (0..20_000_u32).map(|number| {
                let id = 2 * number + 1;
                let mut frames = frame(HEADERS, END_HEADERS, id, &headers());
                frames.extend(frame(DATA, END_STREAM, id, &[0; 5]));
                frames
            });
            pour(stream, settings.chain(streams))
        }),
    ];
    for (name, flood) in floods {
        let before = resident_kib();
        let socket = agent.socket();
        let flood = *flood;
        let flooding = tokio::task::spawn_blocking(move || {
            let mut stream = raw(&socket);
            let took_all = flood(&mut stream);
            // Whatever it has to say; it may hang up.
            stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
            while stream.read(&mut [0; 4096]).is_ok_and(|read| read > 0) {}
            took_all
        });
        // Others are served meanwhile and afterwards.
        let other = agent.client().await;
        for _ in 0..5 {
            let served =
                tokio::time::timeout(Duration::from_secs(10), async { next(&mut x509(&other).await.unwrap()).await });
            assert!(served.await.is_ok_and(|message| message.is_ok()), "{name}: others are kept out");
        }
        flooding.await.unwrap();
        let grown = resident_kib().saturating_sub(before);
        assert!(grown < 24 * 1024, "{name}: memory grew by {grown} KiB");
    }
    agent.end().await;
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
