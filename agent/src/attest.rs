//! Attestation: who is at the other end of the agent's socket.
//!
//! What is guaranteed at each message: the process that called `connect` is alive and has these facts. What is not: who
//! else holds the connection (a process may hand it on, and then speaks for whoever uses it, W-05), or what else runs under
//! that user. Transaction tokens alone go by what was found out up to a second ago over the same connection, so that a process that becomes
//! another program or user has them for that long: it could as well take along the tokens of the moment before, which live for minutes.
//! Whether it lives is asked each time. So the user is the boundary, and path and hash only narrow it. The kernel's *effective* user counts: a
//! setuid-root program that anybody may start is attested as root (W-09), so do not register services for root.
//!
//! [`Peer`] takes hold of the process when a connection is accepted, [`Attestor::attest`] reads its facts before each
//! message, [`matching`] finds its services.

mod executable;
mod facts;
mod matching;
mod names;
mod peer;
pub(crate) mod proc_text;

use std::sync::Arc;

use bonafide_verifier::clock::Clock;

pub(crate) use self::{
    executable::{ExecutableIdentity, ExecutableLimits},
    facts::{Facts, Needs},
    matching::{Difference, matching, nearest_miss, registration},
    names::{HostNames, NameLimits, NameOf, NameService},
    peer::{Binding, Credentials, Peer, PeerError},
};
use self::{
    executable::{Executables, NoExecutable, NoHash},
    names::Names,
};
use crate::view::View;

/// Finds the facts of processes.
#[derive(Debug)]
pub(crate) struct Attestor {
    executables: Executables,
    names: Names,
}

impl Attestor {
    pub(crate) fn new(
        executables: ExecutableLimits,
        names: NameLimits,
        service: Arc<dyn NameService>,
        clock: Arc<dyn Clock>,
    ) -> Attestor {
        Attestor { executables: Executables::new(executables, clock.clone()), names: Names::new(names, clock, service) }
    }

    /// The facts that tell apart the services of this peer's user in `view`.
    ///
    /// # Errors
    /// The process has ended, has changed its user, or cannot be read. Then nothing may be sent to it.
    pub(crate) async fn attest(&self, peer: &Peer, view: &View) -> Result<Facts, PeerError> {
        let uid = peer.credentials().uid;
        let needs = Needs::of(view, uid, None);
        if !needs.user {
            return self.attest_with(peer, needs).await;
        }
        // With the name known, services of other users ask for nothing more.
        let user = self.names.of(NameOf::User(uid)).await.ok().flatten();
        let narrowed = Needs::of(view, uid, Some(user.as_deref().unwrap_or_default()));
        let mut facts = self.attest_with(peer, Needs { user: true, ..narrowed }).await?;
        facts.needs = Needs { user: true, ..narrowed };
        Ok(facts)
    }

    /// The name of a user or group, as far as the name service knows it and answers.
    pub(crate) async fn name_of(&self, name_of: NameOf) -> Option<Arc<str>> {
        self.names.of(name_of).await.ok().flatten()
    }

    /// The facts in `needs`. May be dropped at any time.
    ///
    /// # Errors
    /// As for [`attest`](Self::attest).
    pub(crate) async fn attest_with(&self, peer: &Peer, needs: Needs) -> Result<Facts, PeerError> {
        peer.check_alive()?;
        let Credentials { uid, gid, pid } = peer.credentials();
        let mut facts = Facts {
            pid,
            uid,
            gid,
            user: None,
            group: None,
            supplementary_gids: Vec::new(),
            shown_path: None,
            path: None,
            sha256: None,
            executable: None,
            notes: Vec::new(),
            unsure: false,
            needs,
        };
        if needs.user {
            match self.names.of(NameOf::User(uid)).await {
                Ok(name) => facts.user = name,
                Err(error) => facts.unknown("unix:user", &error),
            }
        }
        if needs.group {
            match self.names.of(NameOf::Group(gid)).await {
                Ok(name) => facts.group = name,
                Err(error) => facts.unknown("unix:group", &error),
            }
        }
        let Some(process) = peer.process() else {
            facts.notes.push(USER_ONLY.to_owned());
            return Ok(facts);
        };
        match self.executables.of(process, uid, needs.sha256).await {
            Ok(executable) => {
                facts.executable = Some(executable.identity);
                facts.shown_path = Some(executable.shown_path);
                match executable.path {
                    Ok(path) => facts.path = Some(path),
                    Err(reason) => facts.notes.push(format!("unix:path is unknown: {reason}")),
                }
                match executable.sha256 {
                    Some(Ok(hash)) => facts.sha256 = Some(hash),
                    Some(Err(NoHash::Exhausted { error })) => return Err(PeerError::Exhausted { pid, error }),
                    Some(Err(reason)) => facts.notes.push(format!("unix:sha256 is unknown: {reason}")),
                    None => {}
                }
            }
            Err(NoExecutable::Exhausted { error }) => return Err(PeerError::Exhausted { pid, error }),
            Err(reason) => facts.without_executable(&reason),
        }
        // What could wait comes first, so that the user, the group and the life of the process are those of now.
        facts.supplementary_gids = peer.status(process)?.groups;
        peer.check_alive()?;
        Ok(facts)
    }
}

/// What is said where the kernel does not name the process.
pub(crate) const USER_ONLY: &str = "only uid, gid and their names are attested: this kernel does not name the process \
     that connected (SO_PEERPIDFD, Linux 6.5); `--attest-by-pid` attests the rest by PID, which is racy";

/// What is said where the operator took the racy way.
pub(crate) const BY_PID: &str = "processes are attested by PID (`--attest-by-pid`), which is racy: a process that ends \
     between connecting and being accepted can be taken for another one of its user and group";

#[cfg(test)]
pub(crate) mod tests;
