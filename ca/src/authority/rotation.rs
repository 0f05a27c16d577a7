//! The change of authorities: what is due at a time, as a plain function, and the driver that does it.
//!
//! A new authority is prepared (for JWT and token: published) long before its first use, takes over while the old one has more than half of
//! its life left, and the old one is withdrawn after the last document it signed has expired. Each step is one transaction
//! with its record; the key file is durable before the row that names it, so that a kill at any write leaves either a key
//! nobody uses, which the next start deletes, or the whole step.

use std::{collections::HashMap, future::pending, sync::Arc, time::Duration};

use bonafide_verifier::clock::Timestamp;
use serde_json::json;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::{
    Authorities, Authority, AuthorityError, AuthorityKind, AuthorityState, Lifetimes, NewAuthority, State, bundle,
    new_issuing, new_jwt, new_token, signing, signing::AuthorityKey,
};
use crate::{
    audit::{Kind, Record, Who},
    clock_guard::ClockGuard,
    store::{Abort, StoreError, Tx, TxError, WriteError},
};

/// One thing to do.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Step {
    /// Make the next authority, to be used from then on.
    Prepare { kind: AuthorityKind, active_from: Timestamp },
    /// Let a prepared one sign; the one before it retires.
    Activate { id: Arc<str> },
    /// There is none that could sign: make one that signs at once.
    Replace { kind: AuthorityKind },
    /// Let nothing that one signed count any more.
    Withdraw { id: Arc<str> },
}

/// The next step, and when it is due.
pub(crate) fn next_step(rows: &[Authority], lifetimes: &Lifetimes, now: Timestamp) -> (Timestamp, Step) {
    let withdrawals = rows.iter().filter_map(|row| match (row.state(), row.withdraw_at) {
        (AuthorityState::Retired, Some(at)) => Some((at, Step::Withdraw { id: row.id.clone() })),
        _ => None,
    });
    [AuthorityKind::Issuing, AuthorityKind::Jwt, AuthorityKind::Token]
        .into_iter()
        .map(|kind| next_of_kind(rows, kind, lifetimes, now))
        .chain(withdrawals)
        .min_by_key(|(at, _)| *at)
        .unwrap_or((Timestamp::MAX, Step::Replace { kind: AuthorityKind::Issuing }))
}

fn next_of_kind(rows: &[Authority], kind: AuthorityKind, lifetimes: &Lifetimes, now: Timestamp) -> (Timestamp, Step) {
    let of_state = |state: AuthorityState| {
        rows.iter().filter(move |row| row.kind == kind && row.state() == state).max_by_key(|row| row.active_from)
    };
    // What has not enough life left for a document is of no use, prepared or not.
    let usable = |row: &Authority| now < row.not_after.saturating_sub(row.life() / 3);
    let prepared = of_state(AuthorityState::Prepared);
    if let Some(overslept) = prepared.filter(|row| !usable(row)) {
        return (now, Step::Withdraw { id: overslept.id.clone() });
    }
    let active = of_state(AuthorityState::Active).filter(|row| now < row.not_after);
    match (active, prepared) {
        (None, None) => (now, Step::Replace { kind }),
        (None, Some(prepared)) => (now, Step::Activate { id: prepared.id.clone() }),
        (Some(active), Some(prepared)) => {
            let latest = active.not_after.saturating_sub(active.life() / 3);
            (prepared.active_from.min(latest), Step::Activate { id: prepared.id.clone() })
        }
        (Some(active), None) => {
            // By the end of its life, so that a CA that was off for days does not sign with too little left.
            let planned = active.not_after.saturating_sub(active.life() * 4 / 7);
            let lead = active.life() * 2 / 7;
            let prepare_at = planned.saturating_sub(lead);
            // Verifiers learn of a key before it is used, as long as the old one can still sign.
            let latest = active.not_after.saturating_sub(active.life() / 3);
            let notice = match kind {
                AuthorityKind::Jwt | AuthorityKind::Token => lead.min(lifetimes.jwt * 2 / 7),
                AuthorityKind::Root | AuthorityKind::Issuing => Duration::ZERO,
            };
            let start = prepare_at.max(now);
            let active_from = planned.max(start.saturating_add(notice).min(latest)).max(start);
            (prepare_at, Step::Prepare { kind, active_from })
        }
    }
}

/// When an authority that stops signing at `at` can be withdrawn: its last document has expired, also for those whose clocks
/// are behind.
pub(crate) fn withdraw_at(row: &Authority, at: Timestamp) -> Timestamp {
    at.saturating_add(row.life() / 3).min(row.not_after).max(at).saturating_add(SLACK)
}

impl Authorities {
    /// Does what is due, now and later, until `stop`. While the clock is doubted nothing is made. May be dropped.
    pub(crate) async fn rotate(&self, guard: ClockGuard, stop: CancellationToken) {
        let clock = self.inner.clock.clone();
        loop {
            let wait = match guard.check() {
                // The guard says so by itself.
                Err(_) => RETRY,
                Ok(_) => match self.rotate_due().await {
                    Ok(next) => {
                        self.inner.failure.store(None);
                        next.since(clock.now()).clamp(SHORTEST_WAIT, LONGEST_WAIT)
                    }
                    Err(AuthorityError::Store(StoreError::Failed { .. } | StoreError::Closed)) => pending().await,
                    Err(failure) => {
                        error!(error = %failure, "could not change authorities; trying again");
                        self.inner.failure.store(Some(Arc::new(failure.to_string())));
                        RETRY
                    }
                },
            };
            let until = clock.now().saturating_add(wait);
            tokio::select! {
                () = stop.cancelled() => return,
                () = clock.sleep_until(until) => {}
                // A clock that was set back must not stop the rotation.
                () = clock.sleep_for(wait) => {}
            }
        }
    }

    /// Does what is due now; when to come again.
    ///
    /// # Errors
    /// [`AuthorityError`]; the steps before the failed one stand.
    pub(crate) async fn rotate_due(&self) -> Result<Timestamp, AuthorityError> {
        let _turn = self.inner.turn.lock().await;
        // INVARIANT: each step makes progress; there are never more than a few.
        for _ in 0..MOST_STEPS {
            let now = self.inner.clock.now();
            let (at, step) = next_step(&self.inner.state.load().rows, &self.inner.lifetimes, now);
            if at > now {
                return Ok(at);
            }
            self.run_step(step, now).await?;
        }
        Ok(self.inner.clock.now())
    }

    async fn run_step(&self, step: Step, now: Timestamp) -> Result<(), AuthorityError> {
        match step {
            Step::Prepare { kind, active_from } => {
                let new = self.make(kind, now, active_from)?;
                info!(kind = kind.as_str(), authority = %new.row.id, active_from = %active_from, "prepared the next authority");
                self.commit(Some(new), None, Vec::new()).await
            }
            Step::Replace { kind } => {
                let new = self.make(kind, now, now)?;
                let id = new.row.id.clone();
                warn!(kind = kind.as_str(), authority = %id, "the authority has expired; a new one signs at once");
                self.commit(Some(new), Some((kind, id)), Vec::new()).await
            }
            Step::Activate { id } => {
                let kind = self.inner.state.load().rows.iter().find(|row| row.id == id).map(|row| row.kind);
                let Some(kind) = kind else { return Ok(()) };
                info!(kind = kind.as_str(), authority = %id, "the next authority signs");
                self.commit(None, Some((kind, id)), Vec::new()).await
            }
            Step::Withdraw { id } => {
                info!(authority = %id, "withdrew an authority: nothing it signed is valid any more");
                self.commit(None, None, vec![id]).await
            }
        }
    }

    fn make(
        &self,
        kind: AuthorityKind,
        now: Timestamp,
        active_from: Timestamp,
    ) -> Result<NewAuthority, AuthorityError> {
        let inner = &self.inner;
        let new = match kind {
            AuthorityKind::Jwt => new_jwt(now, active_from, inner.lifetimes.jwt)?,
            AuthorityKind::Token => new_token(now, active_from, inner.lifetimes.jwt)?,
            AuthorityKind::Root | AuthorityKind::Issuing => {
                new_issuing(&inner.trust_domain, &inner.root, now, active_from, inner.lifetimes.issuing)?
            }
        };
        inner.keystore.save(&new.row.id, &new.pkcs8)?;
        inner.keystore.sync()?;
        Ok(new)
    }

    /// One transaction: inserts, activates (and retires the one before), withdraws; with records, bundle and what is in memory.
    async fn commit(
        &self,
        new: Option<NewAuthority>,
        activate: Option<(AuthorityKind, Arc<str>)>,
        withdraw: Vec<Arc<str>>,
    ) -> Result<(), AuthorityError> {
        let authorities = self.clone();
        let outcome = self
            .inner
            .store
            .write(move |tx| -> Result<(), Abort<AuthorityError>> {
                let mut bundle_changes = false;
                let mut keys = authorities.inner.keys.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
                if let Some(new) = &new {
                    tx.insert_authority(&new.row)?;
                    tx.record(&created(&new.row))?;
                    keys.insert(new.row.id.clone(), new.key.clone());
                    bundle_changes |= new.row.kind == AuthorityKind::Jwt;
                }
                if let Some((kind, id)) = &activate {
                    activate_in(tx, *kind, id)?;
                }
                for id in &withdraw {
                    if tx.withdraw_authority(id, tx.at())? {
                        let row = tx.authorities()?.into_iter().find(|row| row.id == *id);
                        let kind = row.map_or(AuthorityKind::Jwt, |row| row.kind);
                        bundle_changes |= matches!(kind, AuthorityKind::Root | AuthorityKind::Jwt);
                        let body = json!({ "authority": &**id, "kind": kind.as_str() });
                        tx.record(&Record::change(Kind::AuthorityWithdrawn, &Who::Ca, body))?;
                    }
                }
                authorities.publish(tx, keys, bundle_changes)
            })
            .await;
        match outcome {
            Ok(()) => {
                self.sweep_keys();
                Ok(())
            }
            Err(WriteError::Refused(error)) => Err(error),
            Err(WriteError::Store(error)) => Err(error.into()),
        }
    }

    /// Makes what is in memory follow this transaction.
    fn publish(
        &self,
        tx: &mut Tx<'_>,
        keys: HashMap<Arc<str>, AuthorityKey>,
        bundle_changes: bool,
    ) -> Result<(), Abort<AuthorityError>> {
        let rows = tx.authorities()?;
        if bundle_changes {
            let trust_domain = self.inner.trust_domain.clone();
            let row_error = |error: AuthorityError| TxError::Row {
                table: "authority",
                row: "?".to_owned(),
                column: "public_key",
                problem: error.to_string(),
            };
            self.inner.registry.publish_bundle(tx, &Who::Ca, |sequence, _| {
                bundle(&trust_domain, &rows, sequence).map(Arc::new).map_err(row_error)
            })?;
        }
        self.inner.registry.publish_token_service_keys(tx, &rows)?;
        let signing = Arc::new(signing(&rows, &keys, &self.inner.root).map_err(Abort::Refused)?);
        let inner = self.inner.clone();
        tx.on_commit(move || {
            *inner.keys.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = keys;
            inner.store.sign_heads_with(signing.issuing.head_signer());
            inner.state.store(Arc::new(State::new(rows, signing)));
            inner.changes.send_modify(|generation| *generation += 1);
        });
        Ok(())
    }
}

fn activate_in(tx: &mut Tx<'_>, kind: AuthorityKind, id: &Arc<str>) -> Result<(), TxError> {
    let at = tx.at();
    let before: Vec<Authority> = tx
        .authorities()?
        .into_iter()
        .filter(|row| row.kind == kind && row.id != *id && row.state() == AuthorityState::Active)
        .collect();
    if !tx.activate_authority(id, at)? {
        return Ok(());
    }
    let body = json!({ "authority": &**id, "kind": kind.as_str() });
    tx.record(&Record::change(Kind::AuthorityActivated, &Who::Ca, body))?;
    for row in before {
        let withdraw_at = withdraw_at(&row, at);
        if tx.retire_authority(&row.id, at, withdraw_at)? {
            let body = json!({
                "authority": &*row.id, "kind": kind.as_str(), "withdraw_at": withdraw_at.unix_millis(),
            });
            tx.record(&Record::change(Kind::AuthorityRetired, &Who::Ca, body))?;
        }
    }
    Ok(())
}

/// The record of a new authority.
pub(crate) fn created(row: &Authority) -> Record {
    let body = json!({
        "authority": &*row.id, "kind": row.kind.as_str(), "not_before": row.not_before.unix_millis(),
        "not_after": row.not_after.unix_millis(), "active_from": row.active_from.unix_millis(),
        "public_key": data_encoding::HEXLOWER.encode(&super::sha256(&row.public_key)),
        "certificate": row.certificate.as_deref().map(|der| data_encoding::HEXLOWER.encode(&super::sha256(der))),
    });
    Record::change(Kind::AuthorityCreated, &Who::Ca, body)
}

/// More than the leeway for JWT (30 s).
const SLACK: Duration = Duration::from_secs(60);
const RETRY: Duration = Duration::from_secs(1);
const SHORTEST_WAIT: Duration = Duration::from_millis(50);
const LONGEST_WAIT: Duration = Duration::from_secs(600);
const MOST_STEPS: usize = 16;
