//! Knows when nothing is in flight on an HTTP/1.1 connection, from what passes over it.
//!
//! HTTP/1.1 has no GOAWAY: what a client understands is that the other end has closed. A client that reads the end of the
//! stream between two responses leaves the connection and makes a new one for its next request, without an error;
//! in the middle of a response it is one. So the stream has to tell the two apart (RFC 9112 §6).
//!
//! Whatever it cannot follow (an upgrade, a body that lasts until the close, a response that is odd) counts as in flight
//! for ever: such a connection ends with its credentials, not before.

/// The longest line of a response's head.
const MAX_LINE: usize = 64 * 1024;

/// Where in its requests and responses a client's connection is.
#[derive(Debug, Default)]
pub(super) struct Exchange {
    state: State,
    /// The line that is being read.
    line: Vec<u8>,
    /// The first bytes of the request in flight.
    method: Vec<u8>,
}

#[derive(Clone, Copy, Debug, Default)]
enum State {
    /// Nothing is in flight.
    #[default]
    Idle,
    /// A request has begun; the response's first line is next.
    Status,
    /// Within the head of a response.
    Head(Head),
    /// So many bytes of the body are to come, at least one.
    Body(u64),
    /// The size of the next chunk is next.
    ChunkSize,
    /// So many bytes of a chunk and the line end behind it are to come.
    Chunk(u64),
    /// Behind the last chunk.
    Trailers,
    /// Cannot be followed any more.
    Lost,
}

#[derive(Clone, Copy, Debug)]
struct Head {
    status: u16,
    length: Option<u64>,
    chunked: bool,
}

impl Exchange {
    /// Whether the last response is complete and no request has begun after it.
    pub(super) fn is_idle(&self) -> bool {
        matches!(self.state, State::Idle)
    }

    /// The client has sent these.
    pub(super) fn sent(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        if self.is_idle() {
            self.state = State::Status;
            self.method.clear();
        }
        // As much as tells HEAD and CONNECT from the others.
        let missing = "CONNECT ".len().saturating_sub(self.method.len());
        self.method.extend(bytes.iter().take(missing));
    }

    /// The server has sent these.
    pub(super) fn received(&mut self, mut bytes: &[u8]) {
        while let Some((first, rest)) = bytes.split_first() {
            match self.state {
                State::Lost => return,
                State::Idle => self.state = State::Lost,
                State::Body(left) | State::Chunk(left) => {
                    let now = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
                    let left = left.saturating_sub(now as u64);
                    self.state = match self.state {
                        State::Chunk(_) if left == 0 => State::ChunkSize,
                        State::Chunk(_) => State::Chunk(left),
                        _ if left == 0 => State::Idle,
                        _ => State::Body(left),
                    };
                    bytes = bytes.get(now..).unwrap_or_default();
                }
                State::Status | State::Head(_) | State::ChunkSize | State::Trailers => {
                    bytes = rest;
                    if *first != b'\n' {
                        self.line.push(*first);
                        if self.line.len() > MAX_LINE {
                            self.state = State::Lost;
                        }
                        continue;
                    }
                    let line = std::mem::take(&mut self.line);
                    self.state = self.after_line(line.strip_suffix(b"\r").unwrap_or(&line));
                }
            }
        }
    }

    fn after_line(&self, line: &[u8]) -> State {
        let next = match self.state {
            State::Status => status(line).map(|status| State::Head(Head { status, length: None, chunked: false })),
            State::Head(head) if line.is_empty() => Some(self.after_head(head)),
            State::Head(head) => header(head, line).map(State::Head),
            State::ChunkSize => chunk_size(line).map(|size| match size {
                0 => State::Trailers,
                size => State::Chunk(size.saturating_add(2)),
            }),
            State::Trailers if line.is_empty() => Some(State::Idle),
            other => Some(other),
        };
        next.unwrap_or(State::Lost)
    }

    fn after_head(&self, head: Head) -> State {
        match head {
            Head { status: 101, .. } => State::Lost,
            Head { status: 100..200, .. } => State::Status,
            _ if self.method.starts_with(b"CONNECT ") => State::Lost,
            _ if self.method.starts_with(b"HEAD ") => State::Idle,
            Head { status: 204 | 304, .. } => State::Idle,
            Head { chunked: true, length: None, .. } => State::ChunkSize,
            Head { chunked: false, length: Some(0), .. } => State::Idle,
            Head { chunked: false, length: Some(length), .. } => State::Body(length),
            // Until the close, or two framings at once.
            Head { chunked: false, length: None, .. } | Head { chunked: true, length: Some(_), .. } => State::Lost,
        }
    }
}

/// `HTTP/1.1 200 OK`.
fn status(line: &[u8]) -> Option<u16> {
    let code = line.strip_prefix(b"HTTP/1.1 ")?.get(..3)?;
    number(code, 10)?.try_into().ok().filter(|code| (100..600).contains(code))
}

/// Takes over what a header says of the body's length; none when that is odd.
fn header(head: Head, line: &[u8]) -> Option<Head> {
    let colon = line.iter().position(|byte| *byte == b':')?;
    let (name, value) = line.split_at_checked(colon)?;
    let value = value.get(1..)?.trim_ascii();
    if name.eq_ignore_ascii_case(b"content-length") {
        let length = number(value, 10)?;
        let same = head.length.is_none_or(|earlier| earlier == length);
        return same.then_some(Head { length: Some(length), ..head });
    }
    if name.eq_ignore_ascii_case(b"transfer-encoding") {
        return value.eq_ignore_ascii_case(b"chunked").then_some(Head { chunked: true, ..head });
    }
    Some(head)
}

/// The number at the start of the line, up to its extensions.
fn chunk_size(line: &[u8]) -> Option<u64> {
    number(line.split(|byte| *byte == b';').next()?.trim_ascii(), 16)
}

/// Digits and nothing else.
fn number(text: &[u8], base: u32) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0_u64, |number, byte| {
        let digit = char::from(*byte).to_digit(base)?;
        number.checked_mul(base.into())?.checked_add(digit.into())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The request is sent, the response comes in pieces of each size; when was it idle for the first time?
    fn idle_after(request: &str, response: &str) -> Option<usize> {
        let mut found = None;
        for (turn, size) in [1, 2, 3, 7, 64, 4096].into_iter().enumerate() {
            let mut exchange = Exchange::default();
            assert!(exchange.is_idle());
            exchange.sent(request.as_bytes());
            let mut idle = None;
            let mut read = 0;
            for part in response.as_bytes().chunks(size) {
                assert!(idle.is_none_or(|_| read == response.len()), "idle, and more came");
                exchange.received(part);
                read += part.len();
                idle = exchange.is_idle().then_some(read);
            }
            assert!(turn == 0 || found == idle, "in pieces of {size}: {idle:?}, byte by byte {found:?}");
            found = idle;
        }
        found
    }

    #[test]
    fn a_connection_is_idle_when_its_response_is_complete() {
        const OK: &str = "HTTP/1.1 200 OK\r\n";
        let cases = [
            ("GET", "content-length: 5\r\n\r\nhello", true),
            ("GET", "Content-Length:5\r\n\r\nhello", true),
            ("GET", "content-length: 5\r\n\r\nhell", false),
            ("GET", "content-length: 0\r\n\r\n", true),
            ("GET", "content-length: 0\r\n", false),
            ("GET", "content-length: 5\r\ncontent-length: 5\r\n\r\nhello", true),
            ("GET", "content-length: 5\r\ncontent-length: 6\r\n\r\nhello", false),
            ("GET", "content-length: +5\r\n\r\nhello", false),
            ("GET", "content-length: 99999999999999999999\r\n\r\nhello", false),
            ("GET", "\r\nuntil the close", false),
            ("HEAD", "content-length: 5\r\n\r\n", true),
            ("HEAD", "transfer-encoding: chunked\r\n\r\n", true),
            ("CONNECT", "content-length: 0\r\n\r\n", false),
            ("GET", "transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", true),
            (
                "GET",
                "Transfer-Encoding: Chunked\r\n\r\n1a;x=y\r\n0\r\n\r\n7890123456789012345678\r\n\r\n0\r\n\r\n",
                false,
            ),
            ("GET", "transfer-encoding: chunked\r\n\r\nA\r\n0\r\n\r\n56789\r\n0\r\nx: y\r\n\r\n", true),
            ("GET", "transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n", false),
            ("GET", "transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n", false),
            ("GET", "transfer-encoding: chunked\r\n\r\n-5\r\n0\r\n\r\n", false),
            ("GET", "transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n", false),
            ("GET", "transfer-encoding: chunked\r\ncontent-length: 0\r\n\r\n0\r\n\r\n", false),
            ("GET", "no colon\r\ncontent-length: 0\r\n\r\n", false),
        ];
        for (method, rest, complete) in cases {
            let response = format!("{OK}{rest}");
            let expected = complete.then_some(response.len());
            assert_eq!(idle_after(&format!("{method} / HTTP/1.1\r\n\r\n"), &response), expected, "{method} {rest:?}");
        }
        let whole = [
            ("HTTP/1.1 204 No Content\r\n\r\n", true),
            ("HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n\r\n", true),
            ("HTTP/1.1 100 Continue\r\n\r\n", false),
            ("HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nx", true),
            ("HTTP/1.1 101 Switching Protocols\r\n\r\n", false),
            ("HTTP/1.0 200 OK\r\ncontent-length: 0\r\n\r\n", false),
            ("HTTP/1.1 99 OK\r\ncontent-length: 0\r\n\r\n", false),
            ("HTTP/1.1\r\n\r\n", false),
            ("SSH-2.0-x\r\n\r\n", false),
        ];
        for (response, complete) in whole {
            assert_eq!(
                idle_after("GET / HTTP/1.1\r\n\r\n", response),
                complete.then_some(response.len()),
                "{response:?}"
            );
        }
    }

    #[test]
    fn one_exchange_after_the_other_and_what_comes_unasked() {
        let mut exchange = Exchange::default();
        for (request, response) in [
            ("HEAD / HTTP/1.1\r\n\r\n", "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n"),
            ("GET / HTTP/1.1\r\n\r\n", "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n123456789"),
            ("POST / HTTP/1.1\r\n\r\nHEAD", "HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nx"),
        ] {
            for byte in request.as_bytes().chunks(1) {
                exchange.sent(byte);
                assert!(!exchange.is_idle());
            }
            exchange.received(response.as_bytes());
            assert!(exchange.is_idle(), "{request:?}");
        }
        exchange.received(b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\n\r\n");
        assert!(!exchange.is_idle(), "nobody asked");
        let mut endless = Exchange::default();
        endless.sent(b"GET / HTTP/1.1\r\n\r\n");
        endless.received(&vec![b'a'; 10 * MAX_LINE]);
        assert!(!endless.is_idle() && endless.line.len() <= MAX_LINE + 1);
    }
}
