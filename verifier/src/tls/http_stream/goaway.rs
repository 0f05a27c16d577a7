//! Tells an HTTP client that its connection takes no more requests.
//!
//! At the closing moment an HTTP/2 client gets a GOAWAY frame in between the server's frames, as the server itself would send
//! it (RFC 9113 §6.8: the highest stream there can be, no error): requests in flight finish, new ones go elsewhere.
//! An HTTP/1.1 client reads the end of the stream as soon as no response is under way, as if the server had closed a
//! connection at rest (RFC 9112 §9.5).

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{super::SecuredStream, http1::Exchange};
use crate::lifetime::Phase;

/// GOAWAY on stream 0, eight bytes: last stream 2^31 - 1, NO_ERROR.
const GOAWAY: [u8; 17] = [0, 0, 8, 7, 0, 0, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0];

/// A secured stream that says goodbye to an HTTP client.
#[derive(Debug)]
pub(super) struct Goodbye<T> {
    stream: SecuredStream<T>,
    state: State,
}

#[derive(Debug)]
enum State {
    /// Follows the server's frames.
    Waiting(Frames),
    /// So many bytes of [`GOAWAY`] have been handed out.
    Saying(usize),
    /// Said.
    Silent,
    /// HTTP/1.1: follows requests and responses.
    Http1(Exchange),
}

impl<T> Goodbye<T> {
    pub(super) fn new(stream: SecuredStream<T>, http2: bool) -> Self {
        Self {
            stream,
            state: if http2 { State::Waiting(Frames::default()) } else { State::Http1(Exchange::default()) },
        }
    }

    /// So many bytes of these were written.
    fn wrote<'a>(&mut self, parts: impl IntoIterator<Item = &'a [u8]>, mut count: usize) {
        let State::Http1(exchange) = &mut self.state else { return };
        for part in parts {
            let (now, _) = part.split_at(part.len().min(count));
            exchange.sent(now);
            count -= now.len();
        }
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncRead for Goodbye<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            match &mut this.state {
                State::Silent => return Pin::new(&mut this.stream).poll_read(cx, buf),
                State::Saying(said) => {
                    let rest = GOAWAY.get(*said..).unwrap_or_default();
                    let (now, _) = rest.split_at(rest.len().min(buf.remaining()));
                    buf.put_slice(now);
                    *said += now.len();
                    if *said == GOAWAY.len() {
                        this.state = State::Silent;
                    }
                    return Poll::Ready(Ok(()));
                }
                State::Http1(exchange) => {
                    let closing = matches!(this.stream.poll_phase(cx), Phase::Closing(_));
                    if closing && exchange.is_idle() {
                        return Poll::Ready(Ok(()));
                    }
                    let before = buf.filled().len();
                    ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
                    exchange.received(buf.filled().get(before..).unwrap_or_default());
                    return Poll::Ready(Ok(()));
                }
                State::Waiting(frames) => {
                    let closing = matches!(this.stream.poll_phase(cx), Phase::Closing(_));
                    if closing && frames.between() {
                        this.state = State::Saying(0);
                        continue;
                    }
                    if closing {
                        // Only to the end of the frame that has begun.
                        let limit = frames.to_next_border().min(buf.remaining());
                        let mut part = ReadBuf::new(buf.initialize_unfilled_to(limit));
                        ready!(Pin::new(&mut this.stream).poll_read(cx, &mut part))?;
                        frames.advance(part.filled());
                        let read = part.filled().len();
                        buf.advance(read);
                    } else {
                        let before = buf.filled().len();
                        ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
                        frames.advance(buf.filled().get(before..).unwrap_or_default());
                    }
                    return Poll::Ready(Ok(()));
                }
            }
        }
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Goodbye<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, buf))?;
        self.wrote([buf], written);
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, bufs))?;
        self.wrote(bufs.iter().map(|part| &**part), written);
        Poll::Ready(Ok(written))
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

/// Where in the server's frames the stream is.
#[derive(Debug, Default)]
struct Frames {
    header: [u8; HEADER],
    /// So many bytes of the header have come; none when a frame is yet to begin.
    have: usize,
    /// So many bytes of the payload are to come.
    payload: usize,
    /// A header block has begun and not ended: only its CONTINUATION may follow.
    in_header_block: bool,
    /// The server's first frame, SETTINGS, has come.
    begun: bool,
}

/// Length (3), type, flags, stream (4): RFC 9113 §4.1.
const HEADER: usize = 9;

impl Frames {
    /// Whether another frame may be put in here.
    fn between(&self) -> bool {
        self.begun && self.have == 0 && !self.in_header_block
    }

    /// So many bytes, at least one, until a place where [`between`](Self::between) can be true.
    fn to_next_border(&self) -> usize {
        match self.have {
            HEADER => self.payload.max(1),
            have => HEADER - have,
        }
    }

    fn advance(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.have < HEADER {
                let (now, rest) = bytes.split_at(bytes.len().min(HEADER - self.have));
                if let Some(place) = self.header.get_mut(self.have..self.have + now.len()) {
                    place.copy_from_slice(now);
                }
                self.have += now.len();
                bytes = rest;
                if self.have == HEADER {
                    self.payload =
                        self.header.iter().take(3).fold(0, |length, byte| (length << 8) | usize::from(*byte));
                }
            } else {
                let (now, rest) = bytes.split_at(bytes.len().min(self.payload));
                self.payload -= now.len();
                bytes = rest;
            }
            if self.have == HEADER && self.payload == 0 {
                self.frame_ended();
            }
        }
    }

    fn frame_ended(&mut self) {
        const HEADERS: u8 = 1;
        const PUSH_PROMISE: u8 = 5;
        const CONTINUATION: u8 = 9;
        const END_HEADERS: u8 = 4;
        let [_, _, _, kind, flags, ..] = self.header;
        if matches!(kind, HEADERS | PUSH_PROMISE | CONTINUATION) {
            self.in_header_block = flags & END_HEADERS == 0;
        }
        self.begun = true;
        self.have = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, payload: usize) -> Vec<u8> {
        let [_, high, middle, low] = u32::try_from(payload).unwrap().to_be_bytes();
        let mut frame = vec![high, middle, low, kind, flags, 0, 0, 0, 1];
        frame.resize(HEADER + payload, 0xff);
        frame
    }

    #[test]
    fn borders_are_found_however_the_bytes_are_cut() {
        // SETTINGS, HEADERS without end, CONTINUATION with end, DATA of 70,000 bytes, an empty DATA.
        let frames = [frame(4, 0, 6), frame(1, 0, 20), frame(9, 4, 3), frame(0, 0, 70_000), frame(0, 1, 0)];
        let may_follow = [true, false, true, true, true];
        for step in [1, 2, 7, 9, 10, 4096, 100_000] {
            let mut state = Frames::default();
            assert!(!state.between(), "nothing goes before the server's SETTINGS");
            for (frame, may_follow) in frames.iter().zip(may_follow) {
                for part in frame.chunks(step) {
                    state.advance(part);
                }
                assert_eq!(state.between(), may_follow, "in steps of {step}");
            }
        }
    }

    #[test]
    fn reading_to_the_border_gets_there() {
        let bytes = [frame(4, 0, 6), frame(0, 0, 100), frame(6, 0, 8)].concat();
        let (mut state, mut at, mut reads) = (Frames::default(), 0, 0);
        while at < bytes.len() {
            let part = state.to_next_border();
            state.advance(&bytes[at..at + part]);
            at += part;
            reads += 1;
            assert_eq!(state.between(), reads % 2 == 0, "a header, then its payload");
        }
    }
}
