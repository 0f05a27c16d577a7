//! HTTP/2 by hand: one request of any header fields, however odd, and the status of its answer.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// What came of a request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Outcome {
    Status(u16),
    /// The stream or the whole connection was ended instead: no HTTP at all (RFC 9113 §8.1.1).
    Reset,
}

/// The header fields of a good request.
pub(super) fn fields<'f>(method: &'f str, path: &'f str, more: &[(&'f str, &'f [u8])]) -> Vec<(&'f str, &'f [u8])> {
    let pseudo: [(&str, &[u8]); 4] =
        [(":method", method.as_bytes()), (":scheme", b"http"), (":authority", b"config"), (":path", path.as_bytes())];
    [&pseudo[..], more].concat()
}

/// Sends one request on a new connection.
pub(super) async fn ask(mut stream: impl AsyncRead + AsyncWrite + Unpin, fields: &[(&str, &[u8])]) -> Outcome {
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(frame(SETTINGS, 0, 0, &[]));
    let mut block = Vec::new();
    for (name, value) in fields {
        // A literal that is never indexed, neither name nor value compressed (RFC 7541 §6.2.3).
        block.push(0x10);
        text(&mut block, name.as_bytes());
        text(&mut block, value);
    }
    bytes.extend(frame(HEADERS, END_STREAM | END_HEADERS, 1, &block));
    stream.write_all(&bytes).await.unwrap();
    let read = tokio::time::timeout(Duration::from_secs(20), outcome(&mut stream)).await;
    read.expect("an answer in time")
}

const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A text behind its length, a number of seven bits and more (RFC 7541 §5.1).
fn text(block: &mut Vec<u8>, text: &[u8]) {
    match u8::try_from(text.len()) {
        Ok(length @ 0..127) => block.push(length),
        _ => {
            let mut left = text.len() - 127;
            block.push(127);
            while left >= 128 {
                block.push(u8::try_from(left % 128).unwrap() | 128);
                left /= 128;
            }
            block.push(u8::try_from(left).unwrap());
        }
    }
    block.extend(text);
}

async fn outcome(stream: &mut (impl AsyncRead + Unpin)) -> Outcome {
    loop {
        let mut head = [0; 9];
        if stream.read_exact(&mut head).await.is_err() {
            return Outcome::Reset;
        }
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; usize::try_from(length).unwrap()];
        stream.read_exact(&mut payload).await.unwrap();
        match head[3] {
            HEADERS => return Outcome::Status(status(&payload)),
            RST_STREAM | GOAWAY => return Outcome::Reset,
            _ => {}
        }
    }
}

/// `:status` is the first field of an answer: from the static table, or its value in digits.
fn status(block: &[u8]) -> u16 {
    const INDEXED: [u16; 7] = [200, 204, 206, 304, 400, 404, 500];
    // An update of the table's size may stand before it.
    let block = &block[block.iter().take_while(|byte| **byte & 0xe0 == 0x20).count()..];
    match *block {
        [first, ..] if first & 0x80 != 0 => INDEXED[usize::from(first & 0x7f) - 8],
        [first, length, ref value @ ..] if matches!(first & 0x3f, 8..15) || first & 0x0f == 8 => {
            let value = &value[..usize::from(length & 0x7f)];
            let digits = if length & 0x80 == 0 { String::from_utf8(value.to_vec()).unwrap() } else { huffman(value) };
            digits.parse().unwrap()
        }
        _ => panic!("no status: {block:?}"),
    }
}

/// Digits in the code of RFC 7541, appendix B.
fn huffman(bytes: &[u8]) -> String {
    let bits: Vec<bool> = bytes.iter().flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1 == 1)).collect();
    let mut bits = bits.as_slice();
    let mut digits = String::new();
    let number = |bits: &[bool]| bits.iter().fold(0_u8, |number, bit| number << 1 | u8::from(*bit));
    while bits.len() >= 5 {
        let (five, six) = (number(&bits[..5]), bits.get(..6).map_or(63, number));
        let (digit, length) = match (five, six) {
            (0..=2, _) => (five, 5),
            (_, 25..=31) => (six - 25 + 3, 6),
            _ => break,
        };
        digits.push(char::from(b'0' + digit));
        bits = &bits[length..];
    }
    digits
}
