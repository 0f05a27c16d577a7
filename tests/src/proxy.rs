//! A TCP proxy that can be told to lose things: for partitions, lost replies and cut connections.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU8, Ordering},
    },
    thread,
    time::Duration,
};

/// What happens to the bytes that come by.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum Weather {
    /// They pass.
    Fair,
    /// They vanish in both directions; connections stay open. A partition.
    Lost,
    /// What the server says vanishes: requests are carried out and nobody hears of it.
    RepliesLost,
    /// Connections are closed at once.
    Cut,
}

/// A proxy before one server. It ends with this value.
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    target: Mutex<String>,
    weather: AtomicU8,
    stopped: AtomicBool,
    open: Mutex<Vec<TcpStream>>,
}

impl Proxy {
    /// Listens on a port of its own; the target may be set later.
    ///
    /// # Errors
    /// No port is to be had.
    pub fn start() -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            target: Mutex::default(),
            weather: AtomicU8::new(Weather::Fair as u8),
            stopped: AtomicBool::new(false),
            open: Mutex::default(),
        });
        let accepting = shared.clone();
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if accepting.stopped.load(Ordering::Acquire) {
                    break;
                }
                accepting.carry(client);
            }
        });
        Ok(Self { address, shared })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where new connections go.
    pub fn set_target(&self, target: &str) {
        target.clone_into(&mut self.shared.target.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Changes what happens from now on, to open connections too.
    pub fn set(&self, weather: Weather) {
        self.shared.weather.store(weather as u8, Ordering::Release);
        if weather == Weather::Cut {
            self.shared.cut();
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::Release);
        self.shared.cut();
        // Wakes the accepting thread, so that it sees the flag.
        let _ = TcpStream::connect_timeout(&self.address, Duration::from_secs(1));
    }
}

impl Shared {
    fn carry(self: &Arc<Self>, client: TcpStream) {
        let target = self.target.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let weather = self.weather.load(Ordering::Acquire);
        if weather == Weather::Cut as u8 {
            return;
        }
        let Ok(server) = TcpStream::connect(target) else { return };
        let ends = [client.try_clone(), server.try_clone(), client.try_clone(), server.try_clone()];
        let [Ok(client_in), Ok(server_in), Ok(kept_client), Ok(kept_server)] = ends else { return };
        self.open.lock().unwrap_or_else(PoisonError::into_inner).extend([kept_client, kept_server]);
        for (from, to, reply) in [(client_in, server, false), (server_in, client, true)] {
            let shared = self.clone();
            thread::spawn(move || shared.copy(from, to, reply));
        }
    }

    fn copy(&self, mut from: TcpStream, mut to: TcpStream, reply: bool) {
        let mut buffer = [0; 16 * 1024];
        while let Ok(length @ 1..) = from.read(&mut buffer) {
            let weather = self.weather.load(Ordering::Acquire);
            if weather == Weather::Lost as u8 || (reply && weather == Weather::RepliesLost as u8) {
                continue;
            }
            if to.write_all(buffer.get(..length).unwrap_or_default()).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Both);
        let _ = from.shutdown(Shutdown::Both);
    }

    fn cut(&self) {
        for stream in self.open.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}
