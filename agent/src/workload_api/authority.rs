//! Takes the `:authority` that some clients send to a Unix socket: its path (`/run/bonafide/agent.sock` from gRPC for Java,
//! `run%2Fbonafide%2Fagent.sock` from the C core under Python, C++, Ruby and PHP, `%2Frun%2F…` from gRPC for Go with a dialer of its
//! own). To our HTTP library that is no authority, and the request would be reset: such programs could not ask at all (WEP-02).
//!
//! Nothing here looks at the authority, so whatever it is, it becomes a word of as many `X` on the way in. Everything else passes as
//! it is: of HTTP/2 the frames are counted, and of header compression (RFC 7541 §6) no more is read than where each field ends.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::UnixStream,
};

/// A connection whose `:authority` is always one.
#[derive(Debug)]
pub(crate) struct PlainAuthority {
    stream: UnixStream,
    reader: Reader,
}

impl PlainAuthority {
    pub(crate) fn new(stream: UnixStream) -> Self {
        Self { stream, reader: Reader::default() }
    }
}

impl AsyncRead for PlainAuthority {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if let Poll::Ready(Ok(())) = read {
            self.reader.pass(buffer.filled_mut().get_mut(before..).unwrap_or_default());
        }
        read
    }
}

/// It takes one buffer at a time, and says so: then HTTP/2 copies an answer of up to 1 KiB, such as a token, behind its headers, and all of it with the
/// trailers leaves at once. With several buffers the trailers would follow in a write of their own, which wakes the client twice.
impl AsyncWrite for PlainAuthority {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Where in the client's bytes we are. Holds no bytes: they are changed in place as they come by.
#[derive(Debug, Default)]
struct Reader {
    /// Bytes of the connection's preface seen.
    preface: usize,
    /// The present frame: bytes of its header seen, its length so far, and then what is left of it.
    header: usize,
    length: usize,
    kind: u8,
    flags: u8,
    /// Of a frame of headers: what stands before the fields, and what fills it up behind them.
    ahead: usize,
    padding: usize,
    fields: Fields,
}

const PREFACE: usize = 24;
const FRAME_HEADER: usize = 9;
const HEADERS: u8 = 0x1;
const CONTINUATION: u8 = 0x9;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;

impl Reader {
    fn pass(&mut self, bytes: &mut [u8]) {
        let mut rest = bytes;
        while let Some((byte, after)) = rest.split_first_mut() {
            if self.preface < PREFACE {
                self.preface += 1;
            } else if self.header < FRAME_HEADER {
                self.frame_header(*byte);
            } else if matches!(self.kind, HEADERS | CONTINUATION) {
                self.frame_of_headers(byte);
            } else {
                // A body passes whole.
                let now = self.length.min(after.len() + 1);
                self.length -= now;
                if self.length == 0 {
                    self.header = 0;
                }
                rest = after.get_mut(now - 1..).unwrap_or_default();
                continue;
            }
            if self.header == FRAME_HEADER && self.length == 0 {
                self.header = 0;
            }
            rest = after;
        }
    }

    fn frame_header(&mut self, byte: u8) {
        match self.header {
            0 => self.length = usize::from(byte),
            1 | 2 => self.length = self.length << 8 | usize::from(byte),
            3 => self.kind = byte,
            4 => self.flags = byte,
            _ => {}
        }
        self.header += 1;
        if self.header == FRAME_HEADER && self.kind == HEADERS {
            // A continuation goes on where the frame before it ended.
            self.fields = Fields::default();
            let priority = if self.flags & PRIORITY == 0 { 0 } else { 5 };
            self.ahead = priority + usize::from(self.flags & PADDED != 0);
        }
        if self.header == FRAME_HEADER {
            self.padding = 0;
        }
    }

    fn frame_of_headers(&mut self, byte: &mut u8) {
        self.length -= 1;
        if self.ahead > 0 {
            if self.flags & PADDED != 0 {
                self.flags &= !PADDED;
                self.padding = usize::from(*byte);
            }
            self.ahead -= 1;
        } else if self.length >= self.padding {
            self.fields.pass(byte);
        }
    }
}

/// Where in a block of header fields we are (RFC 7541 §6).
#[derive(Debug, Default)]
struct Fields {
    step: Step,
    is_authority: bool,
    /// The string under way: whether it is in Huffman's code, how much of it is to come, how much of [`NAME`] it matched.
    huffman: bool,
    left: u64,
    matched: usize,
}

#[derive(Clone, Copy, Debug, Default)]
enum Step {
    /// A field begins.
    #[default]
    Begin,
    /// The rest of an index.
    Index {
        is_literal: bool,
    },
    /// The length of a string begins.
    Length(Text),
    /// The rest of it, from this bit on.
    MoreLength(Text, u32),
    Text(Text),
}

#[derive(Clone, Copy, Debug)]
enum Text {
    Name,
    Value,
}

const NAME: &[u8] = b":authority";
/// Its place in the table that every encoder begins with (RFC 7541, Appendix A).
const NAME_INDEX: u8 = 1;
/// `X`, and what it is in Huffman's code: one of the few letters that take eight bits there (RFC 7541, Appendix B), so that as many
/// bytes as there were are as many letters, wherever the bytes are cut.
const PLAIN: u8 = b'X';
const CODED: u8 = 0xfc;

impl Fields {
    fn pass(&mut self, byte: &mut u8) {
        match self.step {
            Step::Begin => {
                let (mask, is_literal) = match *byte {
                    0x80.. => (0x7f, false),      // a whole field from the table
                    0x40..=0x7f => (0x3f, true),  // a literal, from now on in the table
                    0x20..=0x3f => (0x1f, false), // the table's size
                    0x00..=0x1f => (0x0f, true),  // a literal, not for the table
                };
                let index = *byte & mask;
                self.is_authority = is_literal && index == NAME_INDEX;
                self.step = match (index, is_literal) {
                    (index, _) if index == mask => Step::Index { is_literal },
                    (_, false) => Step::Begin,
                    (0, true) => Step::Length(Text::Name),
                    (_, true) => Step::Length(Text::Value),
                };
            }
            Step::Index { .. } if *byte & 0x80 != 0 => {}
            Step::Index { is_literal: true } => self.step = Step::Length(Text::Value),
            Step::Index { is_literal: false } => self.step = Step::Begin,
            Step::Length(text) => {
                self.huffman = *byte & 0x80 != 0;
                self.left = u64::from(*byte & 0x7f);
                self.matched = 0;
                if self.left == 0x7f { self.step = Step::MoreLength(text, 0) } else { self.goes_on(text) }
            }
            Step::MoreLength(text, shift) => {
                let more = u64::from(*byte & 0x7f).checked_shl(shift).unwrap_or(u64::MAX);
                self.left = self.left.saturating_add(more);
                if *byte & 0x80 == 0 {
                    self.goes_on(text)
                } else {
                    self.step = Step::MoreLength(text, shift.saturating_add(7))
                }
            }
            Step::Text(text) => {
                self.left -= 1;
                match text {
                    Text::Name if NAME.get(self.matched) == Some(byte) => self.matched += 1,
                    Text::Name => self.matched = usize::MAX,
                    Text::Value if self.is_authority => *byte = if self.huffman { CODED } else { PLAIN },
                    Text::Value => {}
                }
                self.goes_on(text);
            }
        }
    }

    fn goes_on(&mut self, text: Text) {
        self.step = match text {
            _ if self.left > 0 => Step::Text(text),
            Text::Name => {
                self.is_authority = self.matched == NAME.len();
                Step::Length(Text::Value)
            }
            Text::Value => Step::Begin,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let [high, low] = u16::try_from(payload.len()).unwrap().to_be_bytes();
        [&[0, high, low, kind, flags, 0, 0, 0, 1], payload].concat()
    }

    /// A connection with these frames, in pieces of every size.
    fn passes(requirement: &str, sent: &[Vec<u8>], expected: &[Vec<u8>]) {
        let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        let whole = |frames: &[Vec<u8>]| [&preface, frames.concat().as_slice()].concat();
        let expected = whole(expected);
        for size in 1..=expected.len() {
            let (mut bytes, mut reader) = (whole(sent), Reader::default());
            bytes.chunks_mut(size).for_each(|chunk| reader.pass(chunk));
            assert_eq!(bytes.escape_ascii().to_string(), expected.escape_ascii().to_string(), "{requirement}: {size}");
        }
    }

    /// One field that becomes another, among fields and frames that only look like it.
    fn field(requirement: &str, sent: &[u8], expected: &[u8]) {
        let around = |field: &[u8]| {
            let ahead = b"\x3f\xe1\x1f\x83@\x05:path\x0bA\x01\x07A\x01\x02/%a%2\xff\x80\x01\x0f\x80\x01\x01A";
            let behind = b"\x86@\x01a\x03%2F@\x0b:authoritys\x02/%\x0f\x2f\x02/%";
            [ahead, field, behind].concat()
        };
        let frames = |field: &[u8]| {
            let block = around(field);
            let (first, second) = block.split_at(block.len() / 2);
            vec![
                frame(4, 0, b"\0\x02\0\0\0\0"),
                frame(4, 1, b""),
                frame(HEADERS, 4, &block),
                frame(0, 0, &around(sent)),
                frame(HEADERS, 0, first),
                frame(CONTINUATION, 4, second),
                frame(HEADERS, 4 | PADDED | PRIORITY, &[b"\x03\0\0\0\0A", block.as_slice(), b"A\x01/"].concat()),
                frame(HEADERS, 4 | PRIORITY, &[b"A\x01\0\0A", block.as_slice()].concat()),
                frame(0, 1, b"A\x01/"),
                frame(HEADERS, 4, &block),
            ]
        };
        passes(requirement, &frames(sent), &frames(expected));
    }

    #[test]
    fn wep_02_only_the_authority_changes_however_it_is_written() {
        let path = b"/run/bonafide/agent.sock";
        let huffman: &[u8] = b"\x41\x03\x56\x9d\xc7";
        let long = [b'%'; 200];
        let long_is = [b'X'; 200];
        let joined = |head: &[u8], value: &[u8]| [head, value].concat();
        let cases: &[(&str, Vec<u8>, Vec<u8>)] = &[
            (
                "C core, a literal name",
                b"@\x0a:authority\x0ctmp%2Fa.sock".into(),
                b"@\x0a:authority\x0cXXXXXXXXXXXX".into(),
            ),
            ("not for the table", b"\0\x0a:authority\x02%2".into(), b"\0\x0a:authority\x02XX".into()),
            ("never for a table", b"\x10\x0a:authority\x02%2".into(), b"\x10\x0a:authority\x02XX".into()),
            ("Java, an indexed name", joined(b"A\x18", path), joined(b"A\x18", &[b'X'; 24])),
            ("indexed, not for the table", joined(b"\x01\x18", path), joined(b"\x01\x18", &[b'X'; 24])),
            ("indexed, never for a table", joined(b"\x11\x18", path), joined(b"\x11\x18", &[b'X'; 24])),
            ("Go, in Huffman's code", joined(b"A\x85", huffman), b"A\x85\xfc\xfc\xfc\xfc\xfc".into()),
            ("longer than 126", joined(b"A\x7f\x49", &long), joined(b"A\x7f\x49", &long_is)),
            ("empty", b"A\0".into(), b"A\0".into()),
            ("another name", b"@\x0a:authoritx\x02%2".into(), b"@\x0a:authoritx\x02%2".into()),
            ("another index", b"D\x02/%".into(), b"D\x02/%".into()),
        ];
        for (requirement, sent, expected) in cases {
            field(requirement, sent, expected);
        }
    }

    /// What changes the bytes must leave a field of the same length, or everything behind it would be read as something else.
    #[test]
    fn wep_02_an_x_in_huffmans_code_is_eight_bits() {
        assert_eq!(CODED, 0xfc, "RFC 7541 Appendix B: `X` is |11111100, 8 bits");
        assert_eq!(PLAIN, b'X');
    }

    proptest::proptest! {
        #[test]
        fn never_panics_and_counts_alike(bytes: Vec<u8>, size in 1..64_usize) {
            let (mut whole, mut pieces) = (bytes.clone(), bytes);
            Reader { preface: PREFACE, ..Reader::default() }.pass(&mut whole);
            let mut reader = Reader { preface: PREFACE, ..Reader::default() };
            pieces.chunks_mut(size).for_each(|chunk| reader.pass(chunk));
            proptest::prop_assert_eq!(whole, pieces);
        }
    }
}
