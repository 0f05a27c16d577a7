//! Reaching a CA: the addresses one after the other, each with a short deadline, each failure named.

use std::{error::Error, fmt, sync::Arc, time::Duration};

use bonafide_ca_api::CaAddress;
use http::Uri;
use tokio::time::timeout;
use tonic::transport::{Channel, Endpoint};
use tower_service::Service;

use super::{Limits, printable};

/// The way to the CA. Remembers which address answered last, and begins with it.
#[derive(Debug)]
pub(crate) struct Dialer {
    addresses: Vec<CaAddress>,
    first: usize,
    limits: Arc<Limits>,
}

/// Why one address did not do.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    pub(crate) address: CaAddress,
    pub(crate) kind: FailureKind,
    pub(crate) reason: String,
}

/// Whose fault it was.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum FailureKind {
    /// Nothing answered, or the network broke.
    Unreachable,
    /// Something answered that is not our CA.
    NotOurCa,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`: {}", self.address, self.reason)
    }
}

/// Every address failed.
#[derive(Clone, Debug)]
pub(crate) struct DialError(pub(crate) Vec<Failure>);

impl fmt::Display for DialError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, failure) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("; ")?;
            }
            write!(f, "{failure}")?;
        }
        Ok(())
    }
}

impl DialError {
    /// Did something answer that is not our CA?
    pub(crate) fn impostor(&self) -> Option<&Failure> {
        self.0.iter().find(|failure| failure.kind == FailureKind::NotOurCa)
    }
}

impl Dialer {
    pub(crate) fn new(addresses: Vec<CaAddress>, limits: Arc<Limits>) -> Self {
        Self { addresses, first: 0, limits }
    }

    pub(crate) fn limits(&self) -> &Arc<Limits> {
        &self.limits
    }

    /// Replaces the addresses.
    pub(crate) fn set_addresses(&mut self, addresses: Vec<CaAddress>) {
        self.addresses = addresses;
        self.first = 0;
    }

    /// The next attempt begins with another address: this one took the connection and was of no use.
    pub(crate) fn give_up_on(&mut self, address: &str) {
        if let Some(at) = self.addresses.iter().position(|known| known.to_string() == address) {
            self.first = (at + 1) % self.addresses.len();
        }
    }

    /// Connects: name, TCP, TLS. The first address that does all three wins. May be dropped at any time.
    pub(crate) async fn dial<C>(&mut self, connector: &C) -> Result<(CaAddress, Channel), DialError>
    where
        C: Service<Uri> + Clone + Send + 'static,
        C::Response: hyper::rt::Read + hyper::rt::Write + Send + Unpin + 'static,
        C::Future: Send + 'static,
        Box<dyn Error + Send + Sync>: From<C::Error> + Send,
    {
        let mut failures = Vec::new();
        for offset in 0..self.addresses.len() {
            let at = (self.first + offset) % self.addresses.len();
            let Some(address) = self.addresses.get(at).cloned() else { continue };
            let failed = |kind, reason: String| Failure { address: address.clone(), kind, reason };
            let endpoint = match self.endpoint(&address) {
                Ok(endpoint) => endpoint,
                Err(reason) => {
                    failures.push(failed(FailureKind::Unreachable, reason));
                    continue;
                }
            };
            match timeout(self.limits.connect, endpoint.connect_with_connector(connector.clone())).await {
                Ok(Ok(channel)) => {
                    self.first = at;
                    return Ok((address, channel));
                }
                Ok(Err(error)) => failures.push(failed(kind_of(&error), describe(&error))),
                Err(_) => failures.push(failed(
                    FailureKind::Unreachable,
                    format!("no answer within {:?}; is `bonafide-ca run` listening there?", self.limits.connect),
                )),
            }
        }
        Err(DialError(failures))
    }

    fn endpoint(&self, address: &CaAddress) -> Result<Endpoint, String> {
        let endpoint = Endpoint::from_shared(format!("https://{address}")).map_err(|error| error.to_string())?;
        Ok(endpoint
            .http2_keep_alive_interval(self.limits.ping_every)
            .keep_alive_timeout(self.limits.ping_timeout)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .tcp_nodelay(true))
    }
}

/// Pauses between attempts: they grow, with jitter, up to the bound; a fleet that returns spreads out.
#[derive(Debug)]
pub(crate) struct Pauses {
    longest: Duration,
    delays: backon::ExponentialBackoff,
}

impl Pauses {
    pub(crate) fn new(longest: Duration) -> Self {
        Self { longest, delays: Self::delays(longest) }
    }

    /// The next pause.
    pub(crate) fn next(&mut self) -> Duration {
        self.delays.next().unwrap_or(self.longest).min(self.longest)
    }

    /// All is well: the next pause is a short one again.
    pub(crate) fn reset(&mut self) {
        self.delays = Self::delays(self.longest);
    }

    fn delays(longest: Duration) -> backon::ExponentialBackoff {
        use backon::BackoffBuilder;
        backon::ExponentialBuilder::default()
            .with_min_delay(SHORTEST_PAUSE)
            .with_factor(2.0)
            // Jitter adds up to as much again.
            .with_max_delay(longest / 2)
            .with_jitter()
            .without_max_times()
            .build()
    }
}

/// Everything an error says, in one line.
pub(crate) fn describe(error: &(dyn Error + 'static)) -> String {
    let mut text = String::new();
    let mut next = Some(error);
    while let Some(cause) = next {
        let said = printable(&cause.to_string());
        if !text.contains(&said) {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(&said);
        }
        next = cause.source();
    }
    // tonic's own word for any failure to connect says nothing.
    text.strip_prefix("transport error: ").map(str::to_owned).unwrap_or(text)
}

fn kind_of(error: &(dyn Error + 'static)) -> FailureKind {
    let mut next = Some(error);
    while let Some(cause) = next {
        if super::tls::is_not_our_ca(cause) {
            return FailureKind::NotOurCa;
        }
        next = cause.source();
    }
    FailureKind::Unreachable
}

const SHORTEST_PAUSE: Duration = Duration::from_millis(400);
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 4 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_with_jitter_to_a_bound_and_start_again() {
        let longest = Duration::from_secs(15);
        let mut pauses = Pauses::new(longest);
        let all: Vec<Duration> = (0..64).map(|_| pauses.next()).collect();
        assert!(all[0] >= SHORTEST_PAUSE && all[0] <= 2 * SHORTEST_PAUSE, "{all:?}");
        assert!(all.iter().all(|pause| *pause <= longest), "{all:?}");
        assert!(all[20..].iter().all(|pause| *pause >= longest / 2), "{all:?}");
        let distinct: std::collections::BTreeSet<_> = all[20..].iter().collect();
        assert!(distinct.len() > 10, "no jitter: {all:?}");
        pauses.reset();
        assert!(pauses.next() <= 2 * SHORTEST_PAUSE);
    }
}
