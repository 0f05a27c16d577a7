//! Follows the two streams of a Workload API, for as long as there is any use in it.

use std::{sync::Mutex, sync::PoisonError, time::Duration};

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use tonic::{Code, Status};
use tracing::{info, warn};

use super::{
    WorkloadApi, WorkloadApiOptions,
    messages::{self, Bundles, Problem, X509State},
    with_header,
};
use crate::{
    clock::Clock,
    generated::workload::{JwtBundlesRequest, X509svidRequest},
    identity::Publisher,
    spiffe::TrustBundle,
    x509::X509Svid,
};

/// Why an identity no longer follows its Workload API.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Ended {
    /// It holds our requests for wrong, and would again (WEP-15).
    #[error("the Workload API refuses our requests as invalid: {message}")]
    InvalidArgument {
        /// What it says.
        message: String,
    },
    /// It does not offer X.509-SVIDs.
    #[error("what answers there is no SPIFFE Workload API: {message}")]
    Unimplemented {
        /// What it says.
        message: String,
    },
}

pub(super) async fn run(api: WorkloadApi, publisher: Publisher) -> Ended {
    let follower = Follower { api, publisher, state: Mutex::default() };
    let jwt = async {
        if follower.api.options.jwt_bundles {
            follower.jwt_bundles().await;
        }
        std::future::pending::<Ended>().await
    };
    tokio::select! {
        ended = follower.x509_svids() => ended,
        ended = jwt => ended,
    }
}

struct Follower {
    api: WorkloadApi,
    publisher: Publisher,
    state: Mutex<State>,
}

/// What the two streams said last.
#[derive(Default)]
struct State {
    svid: Option<X509Svid>,
    x509: Bundles,
    jwt: Bundles,
}

/// What an error of a stream means for what was received.
enum Verdict {
    Keep,
    Redact,
    Stop(Ended),
}

impl Follower {
    async fn x509_svids(&self) -> Ended {
        let mut retry = Retry::new(&self.api.options);
        let mut client = self.api.client();
        loop {
            retry.starts(self.clock().as_ref());
            let status = match client.fetch_x509svid(with_header(X509svidRequest {})).await {
                Err(status) => status,
                Ok(response) => {
                    let mut stream = response.into_inner();
                    loop {
                        match stream.message().await {
                            Ok(Some(message)) => {
                                retry.works();
                                let (last, now) = (self.last(), self.clock().now());
                                match messages::x509(message, &self.api.options.pick, last.as_ref(), now) {
                                    Ok(state) => self.take_x509(state),
                                    Err(error) => self.report(&error),
                                }
                            }
                            Ok(None) => break Status::unavailable("the stream was ended"),
                            Err(status) => break status,
                        }
                    }
                }
            };
            match self.judge("FetchX509SVID", &status) {
                Verdict::Stop(ended) => return ended,
                Verdict::Keep => (),
                Verdict::Redact => self.change(|state| {
                    (state.svid, state.x509) = (None, Bundles::new());
                }),
            }
            retry.wait(self.clock().as_ref()).await;
        }
    }

    async fn jwt_bundles(&self) {
        let mut retry = Retry::new(&self.api.options);
        let mut client = self.api.client();
        loop {
            retry.starts(self.clock().as_ref());
            let status = match client.fetch_jwt_bundles(with_header(JwtBundlesRequest {})).await {
                Err(status) => status,
                Ok(response) => {
                    let mut stream = response.into_inner();
                    loop {
                        match stream.message().await {
                            Ok(Some(message)) => {
                                retry.works();
                                match messages::jwt(message) {
                                    Ok((bundles, problems)) => {
                                        problems.iter().for_each(|problem| self.report(problem));
                                        bundles.values().for_each(TrustBundle::log_skipped);
                                        self.change(|state| state.jwt = bundles);
                                    }
                                    Err(error) => self.report(&error),
                                }
                            }
                            Ok(None) => break Status::unavailable("the stream was ended"),
                            Err(status) => break status,
                        }
                    }
                }
            };
            match self.judge("FetchJWTBundles", &status) {
                // An API without JWT-SVIDs is one for X.509-SVIDs all the same.
                Verdict::Stop(_) => return self.change(|state| state.jwt = Bundles::new()),
                Verdict::Keep => (),
                Verdict::Redact => self.change(|state| state.jwt = Bundles::new()),
            }
            retry.wait(self.clock().as_ref()).await;
        }
    }

    fn take_x509(&self, update: X509State) {
        let X509State { svid, bundles, problems } = update;
        if problems.is_empty() {
            self.publisher.source().went_well();
        }
        problems.iter().for_each(|problem: &Problem| self.report(problem));
        bundles.values().for_each(TrustBundle::log_skipped);
        match &svid {
            Some(svid) => {
                info!(spiffe_id = %svid.id(), serial = %svid.serial(), not_after = %svid.not_after(), "X.509-SVID from the Workload API");
            }
            None => warn!("the Workload API no longer lists our identity"),
        }
        self.change(|state| (state.svid, state.x509) = (svid, bundles));
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        // Held over the publication, so that the two streams do not publish past each other.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut state);
        self.publisher.publish(state.svid.clone(), messages::merged(&state.x509, &state.jwt));
    }

    fn last(&self) -> Option<X509Svid> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).svid.clone()
    }

    fn judge(&self, call: &'static str, status: &Status) -> Verdict {
        let message: String = status.message().chars().take(1024).collect();
        let error = format!("{call}: {} ({message})", status.code().description());
        self.publisher.source().failed(self.clock().now(), &error);
        match status.code() {
            Code::InvalidArgument => Verdict::Stop(Ended::InvalidArgument { message }),
            Code::Unimplemented => Verdict::Stop(Ended::Unimplemented { message }),
            Code::PermissionDenied => {
                warn!(call, error = ?message, "the Workload API refuses us an identity; what it gave before is dropped");
                Verdict::Redact
            }
            _ => {
                info!(call, code = ?status.code(), error = ?message, "the Workload API is not there; what it gave is kept until it expires");
                Verdict::Keep
            }
        }
    }

    fn report(&self, error: &dyn std::error::Error) {
        self.publisher.source().failed(self.clock().now(), &error);
        warn!(%error, "the Workload API sent something unusable");
    }

    fn clock(&self) -> &std::sync::Arc<dyn Clock> {
        self.publisher.clock()
    }
}

/// When to ask again: at once after a stream that worked (WAPI-03), else after ever longer waits with jitter.
pub(crate) struct Retry {
    waits: ExponentialBuilder,
    next: ExponentialBackoff,
    longest: Duration,
    started: Duration,
    worked: bool,
}

impl Retry {
    /// A stream that worked but lived no longer than this counts as an error: no spinning with a server that ends them all.
    const SHORT_LIVED: Duration = Duration::from_secs(1);

    pub(crate) fn new(options: &WorkloadApiOptions) -> Self {
        let waits = ExponentialBuilder::default()
            .with_min_delay(options.shortest_wait)
            .with_max_delay(options.longest_wait)
            .without_max_times()
            .with_jitter();
        Self { waits, next: waits.build(), longest: options.longest_wait, started: Duration::ZERO, worked: false }
    }

    pub(crate) fn starts(&mut self, clock: &dyn Clock) {
        (self.started, self.worked) = (clock.boot(), false);
    }

    pub(crate) fn works(&mut self) {
        self.worked = true;
    }

    pub(crate) async fn wait(&mut self, clock: &dyn Clock) {
        let lived = clock.boot().saturating_sub(self.started);
        if self.worked && lived > Self::SHORT_LIVED {
            self.next = self.waits.build();
            return;
        }
        // The builder's jitter comes on top of the cap.
        let wait = self.next.next().unwrap_or(self.longest).min(self.longest);
        clock.sleep_for(wait).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::clock::ManualClock;

    #[tokio::test]
    async fn wep_16_waits_grow_to_the_cap_and_a_stream_that_worked_is_tried_again_at_once() {
        let clock = ManualClock::default();
        let options = WorkloadApiOptions::default();
        let mut retry = Retry::new(&options);
        let mut waits = Vec::new();
        for _ in 0..12 {
            let before = clock.boot();
            retry.starts(&clock);
            let mut waiting = std::pin::pin!(retry.wait(&clock));
            while tokio::time::timeout(Duration::ZERO, waiting.as_mut()).await.is_err() {
                clock.advance(Duration::from_millis(50));
            }
            waits.push(clock.boot() - before);
        }
        assert!(waits[0] >= options.shortest_wait && waits[0] <= options.shortest_wait * 2 + Duration::from_millis(50));
        assert!(waits.iter().all(|wait| *wait <= options.longest_wait + Duration::from_millis(50)));
        assert!(waits[11] >= options.longest_wait, "{waits:?}");
        retry.starts(&clock);
        retry.works();
        clock.advance(Duration::from_secs(2));
        let before = clock.boot();
        retry.wait(&clock).await;
        assert_eq!(clock.boot(), before, "at once");
        drop(Arc::new(clock));
    }
}
