//! Brings what was minted to the CA, stretch by stretch; what it has taken, the log forgets.

use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::{TokenService, mint_log::MintLog};
use crate::renewal::random;

/// The task that does it.
pub(super) struct Collector {
    pub(super) service: TokenService,
    pub(super) opened: watch::Receiver<Option<MintLog>>,
}

impl Collector {
    pub(super) async fn run(mut self, stop: &CancellationToken) {
        let opened = stop.run_until_cancelled(self.opened.wait_for(Option::is_some)).await;
        let Some(Ok(Some(log))) = opened.map(|opened| opened.map(|log| log.clone())) else {
            return stop.cancelled().await;
        };
        let clock = self.service.0.parts.clock.clone();
        let mut failures: u32 = 0;
        loop {
            let pause = match self.stretch(&log).await {
                Ok(Some(records)) => {
                    failures = 0;
                    // A few are sent with those that come in the next moment.
                    if records < FEW { BETWEEN } else { Duration::ZERO }
                }
                Ok(None) => {
                    tokio::select! {
                        () = stop.cancelled() => return,
                        () = log.durable() => {}
                    }
                    Duration::ZERO
                }
                Err(hint) => {
                    failures = failures.saturating_add(1);
                    let own = BETWEEN.saturating_mul(1 << failures.min(6)).min(LONGEST).mul_f64(0.5 + random() / 2.0);
                    hint.unwrap_or_default().max(own)
                }
            };
            self.service.tell_log();
            if !pause.is_zero() {
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = clock.sleep_for(pause) => {}
                }
            }
        }
    }

    /// One message; how many records it had. An error is the pause that the CA asks for, if it does.
    async fn stretch(&self, log: &MintLog) -> Result<Option<usize>, Option<Duration>> {
        let waiting = match log.waiting().await {
            Ok(Some(waiting)) => waiting,
            Ok(None) => return Ok(None),
            Err(trouble) => {
                warn!(error = %trouble, "the mint log cannot be read for the CA");
                return Err(None);
            }
        };
        let (records, last) = (waiting.request.records.len(), waiting.last);
        match self.service.0.parts.ca.collect_mints(waiting.request).await {
            Ok(collected) => {
                debug!(records, collected, last, "the CA collected what was minted");
                log.collected(collected.min(last)).await;
                if collected < last { Err(None) } else { Ok(Some(records)) }
            }
            Err(error) => {
                if !error.is_unreachable() {
                    warn!(reason = error.code(), error = %error, "the CA does not take what was minted");
                }
                Err(error.retry_after())
            }
        }
    }
}

/// So many records are sent alone only once in a moment.
const FEW: usize = 64;
const BETWEEN: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(30);
