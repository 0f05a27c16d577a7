//! Sync: the registry and the bundle as one node may see them, for as long as its stream is open.
//!
//! The node says where it stands; it gets what differs, or the whole state, at once, and from then on each change of what
//! it may see. What to send is worked out when the connection takes it, from the newest snapshot: a slow reader holds no
//! queue and skips what is already out of date. An idle stream costs a place in the [hub](super::hub) and one pointer for
//! each service that the node holds.

mod token_keys;
mod update;

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bonafide_ca_api::{
    Reason,
    generated::node::{SyncRequest, SyncResponse, sync_request::Message},
};
use tokio_stream::Stream;
use tonic::{Status, Streaming};
use tracing::{debug, info, warn};

use self::{
    token_keys::HeldKeys,
    update::{Held, Standing},
};
use super::{
    NodeApi, clocks,
    hub::{Applied, Arrival, Open, Woken},
    peer::NodeCaller,
    refuse::Refused,
};
use crate::registry::Position;

/// Opens the stream of a node: reads its hello, takes the node's place in the hub.
///
/// # Errors
/// No hello in time, another message first, or a position that this CA never gave.
pub(super) async fn open(
    api: &Arc<NodeApi>,
    caller: NodeCaller,
    mut incoming: Streaming<SyncRequest>,
) -> Result<SyncStream, Refused> {
    let first = tokio::time::timeout(api.limits.hello, incoming.message())
        .await
        .map_err(|_| hello_expected("no hello came in time"))?
        .map_err(|_| hello_expected("the stream broke before its hello"))?;
    let hello = match first.and_then(|request| request.message) {
        Some(Message::Hello(hello)) => hello,
        Some(Message::Applied(_)) => return Err(hello_expected("an acknowledgement came before the hello")),
        None => return Err(hello_expected("the first message is empty or of an unknown kind")),
    };
    let snapshot = api.registry.load();
    let standing = Standing::of_hello(&hello, &snapshot.position()).map_err(|ahead| {
        // Either this CA lost history that it has given out, or the node makes it up. Both want a person.
        tracing::error!(node = %caller.name(), error = %ahead, reason = Reason::PositionAhead.code(),
                        "a node is ahead of this CA's history");
        Refused::because(Reason::PositionAhead, ahead.to_string())
    })?;
    let now = api.clock.now();
    let agent = hello.agent.as_ref();
    let clock_ahead_ms = clocks::compare(agent, now, caller.name(), &api.limits);
    let (open, replaced) = api.hub.open(
        caller.name(),
        Arrival {
            key: caller.key(),
            remote: caller.remote(),
            agent_version: clocks::version_of(agent),
            clock_ahead_ms,
            takes_token_keys: hello.takes_token_keys,
            at: now,
        },
    );
    if let Some(older) = replaced {
        info!(node = %caller.name(), peer = %caller.remote(), replaced = %older,
              "a newer stream of a node takes the place of an older one");
    }
    api.hub.note_seen(caller.name(), now);
    debug!(node = %caller.name(), peer = %caller.remote(), ?standing, "a node syncs");
    Ok(SyncStream {
        api: Arc::clone(api),
        incoming,
        open,
        keys: HeldKeys::of_hello(&hello),
        held: Held::of_hello(hello, standing),
        sent: None,
        parked: false,
        over: false,
    })
}

/// What a node's stream sends.
pub(super) struct SyncStream {
    api: Arc<NodeApi>,
    incoming: Streaming<SyncRequest>,
    open: Open,
    held: Held,
    keys: HeldKeys,
    /// The position of the last update that was sent.
    sent: Option<Applied>,
    /// The node refused an update, so what it holds is not known any more: nothing is sent until it says hello anew.
    parked: bool,
    over: bool,
}

impl SyncStream {
    /// Reads what the node has to say. `Ready` when the stream is over.
    fn poll_incoming(&mut self, context: &mut Context<'_>) -> Poll<Option<Refused>> {
        for _ in 0..MESSAGES_AT_ONCE {
            match Pin::new(&mut self.incoming).poll_next(context) {
                Poll::Pending => return Poll::Pending,
                // The node closed its side, or the connection broke: there is nobody to tell.
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Ready(Some(Err(broken))) => {
                    debug!(node = %self.open.node(), error = %broken, "a node's stream broke");
                    return Poll::Ready(None);
                }
                Poll::Ready(Some(Ok(request))) => {
                    if let Err(refused) = self.take(request) {
                        return Poll::Ready(Some(refused));
                    }
                }
            }
        }
        // More is there; others go first.
        context.waker().wake_by_ref();
        Poll::Pending
    }

    fn take(&mut self, request: SyncRequest) -> Result<(), Refused> {
        let acknowledgement = match request.message {
            Some(Message::Applied(acknowledgement)) => acknowledgement,
            Some(Message::Hello(_)) => return Err(hello_expected("a stream has one hello")),
            None => return Err(hello_expected("a message is empty or of an unknown kind")),
        };
        if !acknowledgement.refused.is_empty() {
            let reason = Reason::from_code(&acknowledgement.refused).map_or("unknown", Reason::code);
            warn!(node = %self.open.node(), reason, "a node refused an update; it gets no more until it connects again");
            self.open.refused(reason.to_owned());
            self.parked = true;
            return Ok(());
        }
        let position = acknowledgement.position.ok_or_else(|| hello_expected("an acknowledgement has no position"))?;
        let given =
            self.sent.as_ref().filter(|sent| *sent.epoch == *position.epoch && position.version <= sent.version);
        let Some(sent) = given else {
            return Err(hello_expected("an acknowledgement of an update that was never sent"));
        };
        let applied = Applied { epoch: Arc::clone(&sent.epoch), version: position.version };
        self.open.applied(applied, self.api.clock.now());
        Ok(())
    }

    /// What there is to send now, if anything.
    fn update(&mut self) -> Result<Option<SyncResponse>, Refused> {
        let snapshot = self.api.registry.load();
        let Some(node) = snapshot.node(self.open.node()) else {
            return Err(super::ended(super::hub::EndReason::Removed, self.open.node()));
        };
        // INVARIANT: nothing is sent to a key that is not the node's, however the stream came to live on.
        if node.key_state(self.open.key().as_bytes()).is_none() {
            return Err(super::ended(super::hub::EndReason::Replaced, self.open.node()));
        }
        if self.parked {
            return Ok(None);
        }
        let update = self.held.advance(&snapshot, node, &mut self.keys, self.api.clock.now());
        if update.is_some() {
            let position = snapshot.position();
            self.sent = Some(Applied { epoch: position.epoch, version: position.version });
        }
        Ok(update)
    }

    fn end(&mut self, refused: Option<Refused>) -> Poll<Option<Result<SyncResponse, Status>>> {
        self.over = true;
        match refused {
            None => Poll::Ready(None),
            Some(refused) => {
                info!(node = %self.open.node(), reason = refused.reason.code(), "ended a node's stream");
                Poll::Ready(Some(Err(refused.into())))
            }
        }
    }
}

impl Stream for SyncStream {
    type Item = Result<SyncResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.over {
            return Poll::Ready(None);
        }
        if let Poll::Ready(over) = self.poll_incoming(context) {
            return self.end(over);
        }
        loop {
            match self.open.poll_woken(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Woken::End(reason)) => {
                    let refused = super::ended(reason, self.open.node());
                    return self.end(Some(refused));
                }
                Poll::Ready(Woken::Changed) => match self.update() {
                    Ok(Some(update)) => return Poll::Ready(Some(Ok(update))),
                    // Nothing of it was for this node.
                    Ok(None) => {}
                    Err(refused) => return self.end(Some(refused)),
                },
            }
        }
    }
}

impl Drop for SyncStream {
    fn drop(&mut self) {
        self.open.close(self.api.clock.now());
    }
}

/// For fuzzing: takes a request as far as that needs no stream.
pub(super) fn read_request(request: SyncRequest) {
    let Some(Message::Hello(hello)) = request.message else { return };
    assert!(clocks::version_of(hello.agent.as_ref()).chars().all(|c| c.is_ascii_graphic()));
    let here = Position { epoch: "here".into(), version: 7 };
    if let Ok(standing) = Standing::of_hello(&hello, &here) {
        let _ = HeldKeys::of_hello(&hello);
        let _ = Held::of_hello(hello, standing);
    }
}

fn hello_expected(what: &str) -> Refused {
    Refused::because(
        Reason::HelloExpected,
        format!("{what}; a stream starts with one hello, then acknowledges updates"),
    )
}

/// Messages of one node that are read before others get their turn.
const MESSAGES_AT_ONCE: usize = 16;
