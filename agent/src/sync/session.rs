//! The connection to the CA and the stream on it: opened, followed, opened again, until the CA refuses this node itself.
//!
//! A newer connection is opened before the older one is let go, so that nothing that asks the CA meanwhile notices a renewal
//! of the node's SVID or the end of a credential.

use std::{sync::Arc, time::Duration};

use bonafide_ca_api::{
    Reason, Refusal,
    generated::node::{SyncRequest, SyncResponse, sync_request},
};
use bonafide_verifier::{clock::Timestamp, identity::Identity};
use tokio::{
    sync::{mpsc, watch},
    time::timeout,
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Streaming;
use tracing::{debug, error, info, warn};

use super::Follower;
use crate::{
    ca_client::{
        CaError, classify,
        connection::Live,
        dial::{Dialer, Pauses},
        tls::{self, NodeConnector},
    },
    health::{Part, State},
    metrics::{ByOutcome, Outcome},
    node_status::AcceptEpoch,
};

/// What a session needs beside what it follows.
#[derive(Debug)]
pub(crate) struct Session<'a> {
    pub(crate) follower: &'a mut Follower,
    pub(crate) dialer: &'a mut Dialer,
    pub(crate) identity: Identity,
    pub(crate) connector: NodeConnector,
    pub(crate) live: &'a watch::Sender<Option<Arc<Live>>>,
    pub(crate) accepts: &'a mut mpsc::Receiver<AcceptEpoch>,
    pub(crate) stop: CancellationToken,
}

/// Why following ended. A CA that is away ends nothing.
#[derive(Debug)]
pub(crate) enum Ended {
    /// The agent stops.
    Stopped,
    /// The CA refuses this node: removed, an older key, a key it does not know.
    Refused(Refusal),
    /// The CA's TLS does not take this node's certificate.
    CertificateRefused(String),
}

/// An open stream.
struct Open {
    live: Arc<Live>,
    updates: Streaming<SyncResponse>,
    acknowledge: mpsc::Sender<SyncRequest>,
    /// Set once this stream's update was refused: the CA sends nothing more on it, and another try comes later.
    refused: bool,
}

enum OpenError {
    Ended(Ended),
    /// For the log and health.
    Unreachable(String),
}

/// Why a stream is left.
enum Left {
    Ended(Ended),
    /// The node has a newer SVID, or an operator's word calls for a new hello: the old stream stays until the new one stands.
    Superseded,
    Lost {
        address: String,
        reason: String,
        pause: bool,
    },
}

impl Session<'_> {
    /// Runs until [`Ended`]. Dropping it closes the connection; an update is then applied or not, never half.
    pub(crate) async fn run(mut self) -> Ended {
        let mut pauses = Pauses::new(self.dialer.limits().longest_pause);
        let mut current: Option<Open> = None;
        let mut away_since: Option<Timestamp> = None;
        let ended = loop {
            match self.open().await {
                Ok(open) => {
                    let address = open.live.address().to_owned();
                    if current.is_none() {
                        info!(address, "connected to the CA");
                    }
                    away_since = None;
                    self.follower.metrics.ca_connected.set(1);
                    self.follower.health.set(Part::CaConnection, State::Ready, "");
                    self.live.send_replace(Some(Arc::clone(&open.live)));
                    // The older stream and, once its requests are answered, its connection end here.
                    current = Some(open);
                }
                Err(OpenError::Ended(ended)) => break ended,
                Err(OpenError::Unreachable(reason)) => {
                    let since = *away_since.get_or_insert_with(|| self.follower.clock.now());
                    self.unreachable(&reason, since, current.is_some());
                    if self.pause(pauses.next()).await.is_err() {
                        break Ended::Stopped;
                    }
                    if current.is_none() {
                        continue;
                    }
                }
            }
            let Some(open) = current.as_mut() else { continue };
            let opened = self.follower.clock.boot();
            match self.follow(open).await {
                Left::Ended(ended) => break ended,
                Left::Superseded => {}
                Left::Lost { address, reason, pause } => {
                    current = None;
                    self.disconnected();
                    debug!(address, reason, "the stream from the CA ended");
                    self.dialer.give_up_on(&address);
                    let lived = self.follower.clock.boot().saturating_sub(opened);
                    if lived >= SETTLED && !pause {
                        pauses.reset();
                    }
                    if self.pause(pauses.next()).await.is_err() {
                        break Ended::Stopped;
                    }
                }
            }
        };
        self.disconnected();
        ended
    }

    async fn open(&mut self) -> Result<Open, OpenError> {
        let stop = self.stop.clone();
        let opened = stop.run_until_cancelled(self.try_open()).await;
        let outcome = match &opened {
            Some(Ok(_)) => Some(Outcome::ok),
            Some(Err(OpenError::Ended(_))) => Some(Outcome::refused),
            Some(Err(OpenError::Unreachable(_))) => Some(Outcome::failed),
            None => None,
        };
        if let Some(outcome) = outcome {
            self.follower.metrics.ca_connections.get_or_create(&ByOutcome { outcome }).inc();
        }
        opened.unwrap_or(Err(OpenError::Ended(Ended::Stopped)))
    }

    async fn try_open(&mut self) -> Result<Open, OpenError> {
        let key = self
            .identity
            .snapshot()
            .svid()
            .map(|svid| *svid.spki_sha256())
            .ok_or_else(|| OpenError::Ended(Ended::CertificateRefused("this node has no SVID".into())))?;
        let (address, channel) =
            self.dialer.dial(&self.connector).await.map_err(|error| OpenError::Unreachable(error.to_string()))?;
        let address = address.to_string();
        let limits = Arc::clone(self.dialer.limits());
        let live = Arc::new(Live::new(address.clone(), self.follower.clock.now(), channel, key, limits.message_bytes));
        let (acknowledge, requests) = mpsc::channel(ACKNOWLEDGEMENTS);
        let hello = sync_request::Message::Hello(self.follower.hello());
        // There is room for it: the channel is new.
        let _ = acknowledge.send(SyncRequest { message: Some(hello) }).await;
        let mut api = live.api();
        let sync = api.sync(ReceiverStream::new(requests));
        match timeout(limits.identity, sync).await {
            Ok(Ok(answer)) => Ok(Open { live, updates: answer.into_inner(), acknowledge, refused: false }),
            Ok(Err(status)) => {
                self.dialer.give_up_on(&address);
                self.alarm(&classify(&address, &status));
                Err(match self.ended_by(&address, &status) {
                    Some(ended) => OpenError::Ended(ended),
                    None => OpenError::Unreachable(classify(&address, &status).to_string()),
                })
            }
            Err(_) => {
                self.dialer.give_up_on(&address);
                Err(OpenError::Unreachable(CaError::NoAnswer { address, waited: limits.identity }.to_string()))
            }
        }
    }

    /// Follows one stream until it is left.
    async fn follow(&mut self, open: &mut Open) -> Left {
        let mut changes = self.identity.changes();
        if self.has_newer_svid(&open.live) {
            return Left::Superseded;
        }
        loop {
            tokio::select! {
                () = self.stop.cancelled() => return Left::Ended(Ended::Stopped),
                _ = changes.next() => {
                    if self.has_newer_svid(&open.live) {
                        return Left::Superseded;
                    }
                }
                word = self.accepts.recv() => {
                    let Some(word) = word else { continue };
                    let accepted = self.follower.accept(&word.epoch).await;
                    let again = accepted.is_ok();
                    let _ = word.answer.send(accepted);
                    if again {
                        return Left::Superseded;
                    }
                }
                // A stream whose update was refused says nothing more: in a while the CA may offer something better.
                () = self.follower.clock.sleep_for(AFTER_REFUSAL), if open.refused => return Left::Superseded,
                message = open.updates.message() => {
                    let address = open.live.address();
                    let update = match message {
                        Ok(Some(update)) => update,
                        Ok(None) => {
                            let reason = "the CA closed the stream".to_owned();
                            return Left::Lost { address: address.to_owned(), reason, pause: false };
                        }
                        Err(status) => return self.left_by(address, &status),
                    };
                    if open.refused {
                        continue;
                    }
                    let acknowledgement = self.follower.take(update).await;
                    open.refused = !acknowledgement.refused.is_empty();
                    let message = sync_request::Message::Applied(acknowledgement);
                    // Full or closed: the CA does not read, and the stream is about to say so itself.
                    let _ = open.acknowledge.try_send(SyncRequest { message: Some(message) });
                }
            }
        }
    }

    fn left_by(&self, address: &str, status: &tonic::Status) -> Left {
        if let Some(ended) = self.ended_by(address, status) {
            return Left::Ended(ended);
        }
        let error = classify(address, status);
        self.alarm(&error);
        let replaced = matches!(&error, CaError::Refused(refusal) if refusal.reason == Some(Reason::StreamReplaced));
        if replaced {
            warn!(
                address,
                "the CA says that this node opened a newer stream elsewhere; if another agent runs on a copy of this data \
                 directory, stop one of them"
            );
        }
        Left::Lost { address: address.to_owned(), reason: error.to_string(), pause: replaced }
    }

    /// A CA that knows less than this node has lost its history, or is not the one it was.
    fn alarm(&self, error: &CaError) {
        let CaError::Refused(refusal) = error else { return };
        if refusal.reason == Some(Reason::PositionAhead) {
            let text = format!(
                "the CA has gone back behind what this node has applied: {refusal}; if it was restored from a backup, that must \
                 begin a new epoch; until then this node serves what it had"
            );
            if self.follower.health.part(Part::Sync).reason != text {
                error!(reason = refusal.code, "{text}");
                self.follower.metrics.sync_updates.get_or_create(&ByOutcome { outcome: Outcome::refused }).inc();
            }
            self.follower.health.set(Part::Sync, State::Degraded, text);
        }
    }

    /// Is it this node that the CA refuses?
    fn ended_by(&self, address: &str, status: &tonic::Status) -> Option<Ended> {
        match classify(address, status) {
            CaError::Refused(refusal) => {
                let final_word = refusal.reason.is_some_and(concerns_the_node);
                final_word.then_some(Ended::Refused(refusal))
            }
            CaError::Broken { reason, .. } => {
                tls::certificate_was_refused(status).then_some(Ended::CertificateRefused(reason))
            }
            CaError::NotConnected { .. } | CaError::NoAnswer { .. } | CaError::Unusable { .. } => None,
        }
    }

    fn has_newer_svid(&self, live: &Live) -> bool {
        self.identity.snapshot().svid().is_some_and(|svid| *svid.spki_sha256() != live.key())
    }

    fn unreachable(&self, reason: &str, since: Timestamp, still_connected: bool) {
        if still_connected {
            debug!(reason, "no newer connection to the CA yet; the older one goes on");
            return;
        }
        let text = format!("no CA answers since {since}: {reason}");
        let before = self.follower.health.part(Part::CaConnection);
        if before.state == State::Ready || before.reason == NOT_YET || !before.reason.contains(reason) {
            warn!(error = reason, "waiting for the CA; what is held is served meanwhile");
        }
        self.follower.health.set(Part::CaConnection, State::Degraded, text);
    }

    fn disconnected(&self) {
        self.live.send_replace(None);
        self.follower.metrics.ca_connected.set(0);
        self.follower.health.set(Part::CaConnection, State::Degraded, "the connection to the CA ended");
    }

    /// Waits, unless the agent stops. An operator's word is heard meanwhile.
    async fn pause(&mut self, pause: Duration) -> Result<(), ()> {
        let stop = self.stop.clone();
        let heard = async {
            while let Some(word) = self.accepts.recv().await {
                let accepted = self.follower.accept(&word.epoch).await;
                let again = accepted.is_ok();
                let _ = word.answer.send(accepted);
                if again {
                    return;
                }
            }
            std::future::pending().await
        };
        // Real time, not the wall clock: how long to leave a network alone.
        let waited = timeout(pause, heard);
        tokio::select! {
            () = stop.cancelled() => Err(()),
            _ = waited => Ok(()),
        }
    }
}

/// Reasons that mean the node itself, whichever connection it comes over.
fn concerns_the_node(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::NodeRemoved
            | Reason::KeyStale
            | Reason::KeyUnknown
            | Reason::KeyRefused
            | Reason::RecoveryTooLate
            | Reason::PeerKind
    )
}

/// A stream that lived this long was a good one: the pause after it is short.
const SETTLED: Duration = Duration::from_secs(10);
/// After a refused update the CA is asked again this late, or when an operator says so.
const AFTER_REFUSAL: Duration = Duration::from_secs(30);
/// Updates whose acknowledgement the CA has not taken yet.
const ACKNOWLEDGEMENTS: usize = 64;
const NOT_YET: &str = "not connected yet";
