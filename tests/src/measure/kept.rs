//! A connection over which one request goes after the other, by a client that does next to nothing: what is measured is the server.

use std::net::SocketAddr;

use bonafide_verifier::{
    identity::Identity,
    tls::{Connector, ConnectorOptions, PeerSet, SecuredStream},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// A connection that is kept.
pub struct Kept {
    stream: Box<SecuredStream<TcpStream>>,
    buffer: Vec<u8>,
    /// Of all answers, once there was one.
    length: Option<usize>,
}

/// For HTTP/1.1, of which both sides need the least.
pub fn connector(identity: &Identity, expected: PeerSet) -> Connector {
    let mut options = ConnectorOptions::default();
    options.alpn = vec![b"http/1.1".to_vec()];
    Connector::new(identity, expected, options).expect("a connector")
}

impl Kept {
    /// A new one.
    pub async fn open(connector: &Connector, address: SocketAddr) -> Self {
        let tcp = TcpStream::connect(address).await.expect("a connection");
        tcp.set_nodelay(true).expect("a socket");
        let stream = connector.connect_over(tcp, "localhost").await.expect("a handshake");
        Self { stream: Box::new(stream), buffer: vec![0; 16 * 1024], length: None }
    }

    /// Sends a whole request and gives the whole answer, which must be 200. All answers that are read in this way are as long as the first.
    pub async fn ask(&mut self, request: &[u8]) -> &[u8] {
        match self.length {
            Some(length) => {
                self.stream.write_all(request).await.expect("a request");
                self.stream.read_exact(&mut self.buffer[..length]).await.expect("an answer");
                checked(&self.buffer[..length])
            }
            None => {
                let length = self.read_whole(request).await;
                self.length = Some(length);
                checked(&self.buffer[..length])
            }
        }
    }

    /// The same where answers have different lengths.
    pub async fn ask_any(&mut self, request: &[u8]) -> &[u8] {
        let length = self.read_whole(request).await;
        checked(&self.buffer[..length])
    }

    async fn read_whole(&mut self, request: &[u8]) -> usize {
        self.stream.write_all(request).await.expect("a request");
        let mut read = 0;
        loop {
            let more = self.stream.read(&mut self.buffer[read..]).await.expect("an answer");
            assert_ne!(more, 0, "the connection ended: {}", String::from_utf8_lossy(&self.buffer[..read]));
            read += more;
            if whole_length(&self.buffer[..read]) == Some(read) {
                return read;
            }
        }
    }

    /// The stream, after a request whose answer does not end.
    pub async fn begin(mut self, request: &[u8]) -> Box<SecuredStream<TcpStream>> {
        self.stream.write_all(request).await.expect("a request");
        self.stream
    }
}

fn checked(answer: &[u8]) -> &[u8] {
    assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(answer));
    answer
}

/// Of head and body, once the head is there.
fn whole_length(read: &[u8]) -> Option<usize> {
    let head = read.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    let text = std::str::from_utf8(&read[..head]).expect("a head in text").to_ascii_lowercase();
    let length = text.lines().find_map(|line| line.strip_prefix("content-length:")).expect("an answer with a length");
    Some(head + length.trim().parse::<usize>().expect("a number"))
}
