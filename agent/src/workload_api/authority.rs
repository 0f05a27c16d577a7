//! Takes what the C core of gRPC says to a Unix socket: it sends the socket's path, percent-encoded, as `:authority`
//! (`run%2Fbonafide%2Fagent.sock`), which is no authority to our HTTP library, and the request would be reset. Programs in
//! Python, C++ and whatever else is built on that core could not ask at all (WEP-02).
//!
//! Nothing here looks at the authority, so the `%` in it becomes a `-` on the way in. Everything else passes as it is: the
//! frames of HTTP/2 are counted, and only in header blocks the one literal header is looked for.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::UnixStream,
};

/// A connection whose `:authority` has no `%`.
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

impl AsyncWrite for PlainAuthority {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
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
    /// Bytes of the present frame's header seen, its length so far, whether it holds headers.
    header: usize,
    length: usize,
    is_headers: bool,
    /// How much of [`NAME`] was just seen.
    matched: usize,
    /// What follows the name: `None` nothing, `Some(None)` the length of the value, `Some(Some(n))` n bytes of it.
    value: Option<Option<u8>>,
}

const PREFACE: usize = 24;
const FRAME_HEADER: usize = 9;
/// The header's name as a literal: its length, then itself.
const NAME: &[u8] = b"\x0a:authority";

impl Reader {
    fn pass(&mut self, bytes: &mut [u8]) {
        let mut rest = bytes;
        while let Some((byte, after)) = rest.split_first_mut() {
            if self.preface < PREFACE {
                self.preface += 1;
            } else if self.header < FRAME_HEADER {
                self.frame_header(*byte);
            } else if self.is_headers {
                self.header_block(byte);
                self.length -= 1;
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
            // HEADERS and CONTINUATION.
            3 => self.is_headers = matches!(byte, 0x1 | 0x9),
            _ => {}
        }
        self.header += 1;
    }

    fn header_block(&mut self, byte: &mut u8) {
        match &mut self.value {
            Some(Some(left)) => {
                if *byte == b'%' {
                    *byte = b'-';
                }
                *left -= 1;
                if *left == 0 {
                    self.value = None;
                }
            }
            // Longer than 126 bytes, empty, or in Huffman's code: not what is meant here.
            Some(none) => match *byte {
                length @ 1..=126 => *none = Some(length),
                _ => self.value = None,
            },
            None => {
                self.matched = match NAME.get(self.matched) {
                    Some(expected) if expected == byte => self.matched + 1,
                    _ => usize::from(NAME.first() == Some(byte)),
                };
                if self.matched == NAME.len() {
                    self.matched = 0;
                    self.value = Some(None);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What gRPC's C core sent to `/tmp/a.sock`, with a body after it that only looks like headers.
    fn sent() -> Vec<u8> {
        let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        let mut frame = |kind: u8, payload: &[u8]| {
            bytes.extend([0, 0, u8::try_from(payload.len()).unwrap(), kind, 0, 0, 0, 0, 1]);
            bytes.extend(payload);
        };
        frame(4, b"\0\x02\0\0\0\0");
        frame(4, b"");
        frame(1, b"@\x05:path\x04/a%2@\x0a:authority\x0ctmp%2Fa.sock@\x01a\x03%2F");
        frame(0, b"\x0a:authority\x0ctmp%2Fa.sock");
        frame(9, b"@\x0a:authority\x04%2F%");
        bytes
    }

    #[test]
    fn wep_02_only_the_authority_changes_however_the_bytes_come() {
        let text = String::from_utf8(sent()).unwrap();
        let changed = text.replacen("tmp%2Fa.sock", "tmp-2Fa.sock", 1).replacen("\x04%2F%", "\x04-2F-", 1).into_bytes();
        for size in 1..=text.len() {
            let (mut bytes, mut reader) = (sent(), Reader::default());
            bytes.chunks_mut(size).for_each(|chunk| reader.pass(chunk));
            assert_eq!(bytes, changed, "in pieces of {size}");
        }
    }
}
