//! How much of the socket one user or process may take, so that none of them can keep the others from it (W-08).

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use crate::{
    attest::Credentials,
    rate::{Bucket, Rate},
};

/// What one user or process may hold. The total of connections is the server's own limit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AdmissionLimits {
    /// Open connections of one process; further ones are closed at once. Default 1,024.
    pub(crate) connections_per_process: usize,
    /// Open connections of one user whom no service here names; further ones are closed at once. Default 64.
    pub(crate) connections_per_stranger: usize,
    /// The same of all such users together, who may be many (subordinate uids). Default 512.
    pub(crate) connections_of_strangers: usize,
    /// Calls and streams under way of one user; one more is answered `Unavailable`. Default 4,096.
    pub(crate) calls_per_user: usize,
    /// The same of one process. Default 2,048.
    pub(crate) calls_per_process: usize,
    /// Calls begun by one user; more are answered `Unavailable`. Default 5,000 a second, 10,000 at once.
    pub(crate) rate_per_user: Rate,
}

impl Default for AdmissionLimits {
    fn default() -> Self {
        AdmissionLimits {
            connections_per_process: 1024,
            connections_per_stranger: 64,
            connections_of_strangers: 512,
            calls_per_user: 4096,
            calls_per_process: 2048,
            rate_per_user: Rate { per_second: 5000, burst: 10_000 },
        }
    }
}

/// What is full.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum Full {
    #[error("process {pid} has {limit} connections open, the most that one may have")]
    ProcessConnections { pid: i32, limit: usize },
    #[error("uid {uid}, whom no service names, has {limit} connections open, the most that such a user may have")]
    StrangerConnections { uid: u32, limit: usize },
    #[error("users whom no service names have {limit} connections open, the most that they may have together")]
    StrangersConnections { limit: usize },
    #[error("uid {uid} has {limit} calls under way, the most that one user may have")]
    UserCalls { uid: u32, limit: usize },
    #[error("process {pid} has {limit} calls under way, the most that one may have")]
    ProcessCalls { pid: i32, limit: usize },
    #[error("uid {uid} makes more than {per_second} calls a second")]
    Rate { uid: u32, per_second: u32 },
}

/// Counts what is held. Clones count together.
#[derive(Clone, Debug)]
pub(crate) struct Admission {
    limits: AdmissionLimits,
    held: Arc<Mutex<Held>>,
}

#[derive(Debug, Default)]
struct Held {
    users: HashMap<u32, User>,
    processes: HashMap<i32, Process>,
    strangers: usize,
    calls: usize,
}

#[derive(Debug)]
struct User {
    /// Connections from when no service named the user.
    strange: usize,
    calls: usize,
    rate: Bucket,
    used_at: Duration,
}

#[derive(Debug, Default)]
struct Process {
    connections: usize,
    calls: usize,
}

/// A connection that counts.
#[derive(Debug)]
pub(crate) struct ConnectionSlot {
    admission: Admission,
    who: Credentials,
    stranger: bool,
}

/// A call that counts.
#[derive(Debug)]
pub(crate) struct CallSlot {
    admission: Admission,
    who: Credentials,
}

impl Admission {
    pub(crate) fn new(limits: AdmissionLimits) -> Admission {
        Admission { limits, held: Arc::default() }
    }

    /// One more connection. `stranger`: no service names the user.
    pub(crate) fn connection(&self, who: Credentials, stranger: bool, boot: Duration) -> Result<ConnectionSlot, Full> {
        let mut held = self.lock();
        let limit = self.limits.connections_per_process;
        if held.processes.get(&who.pid).is_some_and(|process| process.connections >= limit) {
            return Err(Full::ProcessConnections { pid: who.pid, limit });
        }
        if stranger {
            let limit = self.limits.connections_of_strangers;
            if held.strangers >= limit {
                return Err(Full::StrangersConnections { limit });
            }
            let limit = self.limits.connections_per_stranger;
            let user = held.user(who.uid, &self.limits, boot);
            if user.strange >= limit {
                return Err(Full::StrangerConnections { uid: who.uid, limit });
            }
            user.strange += 1;
            held.strangers += 1;
        }
        held.processes.entry(who.pid).or_default().connections += 1;
        Ok(ConnectionSlot { admission: self.clone(), who, stranger })
    }

    /// One more call, which counts for the rate even if it is refused.
    pub(crate) fn call(&self, who: Credentials, boot: Duration) -> Result<CallSlot, Full> {
        let mut held = self.lock();
        let limits = &self.limits;
        let user = held.user(who.uid, limits, boot);
        if !user.rate.take(boot) {
            return Err(Full::Rate { uid: who.uid, per_second: limits.rate_per_user.per_second });
        }
        if user.calls >= limits.calls_per_user {
            return Err(Full::UserCalls { uid: who.uid, limit: limits.calls_per_user });
        }
        let process = held.processes.entry(who.pid).or_default();
        if process.calls >= limits.calls_per_process {
            return Err(Full::ProcessCalls { pid: who.pid, limit: limits.calls_per_process });
        }
        process.calls += 1;
        held.user(who.uid, limits, boot).calls += 1;
        held.calls += 1;
        Ok(CallSlot { admission: self.clone(), who })
    }

    /// Calls and streams under way.
    pub(crate) fn calls(&self) -> usize {
        self.lock().calls
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        // Nothing panics under the lock but an arithmetic fault, after which the counts are as good as before.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    fn user(&mut self, uid: u32, limits: &AdmissionLimits, boot: Duration) -> &mut User {
        // A user who left has his rate remembered for a while, so that connecting anew does not renew it.
        if self.users.len() >= MANY_USERS && !self.users.contains_key(&uid) {
            self.users
                .retain(|_, user| user.calls > 0 || user.strange > 0 || boot.saturating_sub(user.used_at) < REMEMBERED);
        }
        let user = self.users.entry(uid).or_insert_with(|| User {
            strange: 0,
            calls: 0,
            rate: Bucket::full(limits.rate_per_user),
            used_at: boot,
        });
        user.used_at = boot;
        user
    }

    fn release(&mut self, pid: i32, release: impl FnOnce(&mut Process)) {
        if let Some(process) = self.processes.get_mut(&pid) {
            release(process);
            if process.connections == 0 && process.calls == 0 {
                self.processes.remove(&pid);
            }
        }
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        let mut held = self.admission.lock();
        held.release(self.who.pid, |process| process.connections = process.connections.saturating_sub(1));
        if self.stranger {
            held.strangers = held.strangers.saturating_sub(1);
            if let Some(user) = held.users.get_mut(&self.who.uid) {
                user.strange = user.strange.saturating_sub(1);
            }
        }
    }
}

impl Drop for CallSlot {
    fn drop(&mut self) {
        let mut held = self.admission.lock();
        held.release(self.who.pid, |process| process.calls = process.calls.saturating_sub(1));
        held.calls = held.calls.saturating_sub(1);
        if let Some(user) = held.users.get_mut(&self.who.uid) {
            user.calls = user.calls.saturating_sub(1);
        }
    }
}

const MANY_USERS: usize = 1024;
const REMEMBERED: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: AdmissionLimits = AdmissionLimits {
        connections_per_process: 2,
        connections_per_stranger: 2,
        connections_of_strangers: 3,
        calls_per_user: 3,
        calls_per_process: 2,
        rate_per_user: Rate { per_second: 1, burst: 4 },
    };

    fn who(uid: u32, pid: i32) -> Credentials {
        Credentials { uid, gid: uid, pid }
    }

    #[test]
    fn w_08_connections_by_process_and_stranger() {
        let admission = Admission::new(LIMITS);
        let connect = |uid, pid, stranger| admission.connection(who(uid, pid), stranger, Duration::ZERO);
        let first = (connect(1, 10, false).unwrap(), connect(1, 10, false).unwrap());
        assert_eq!(connect(1, 10, false).unwrap_err(), Full::ProcessConnections { pid: 10, limit: 2 });
        let _other = connect(1, 11, false).unwrap();
        drop(first);
        let _again = connect(1, 10, false).unwrap();

        let strange = (connect(7, 20, true).unwrap(), connect(7, 21, true).unwrap());
        assert_eq!(connect(7, 22, true).unwrap_err(), Full::StrangerConnections { uid: 7, limit: 2 });
        let _third = connect(8, 30, true).unwrap();
        assert_eq!(connect(9, 40, true).unwrap_err(), Full::StrangersConnections { limit: 3 });
        assert!(connect(2, 50, false).is_ok(), "whom a service names is not kept out by strangers");
        drop(strange);
        assert!(connect(9, 40, true).is_ok());
    }

    #[test]
    fn w_08_calls_by_user_process_and_rate() {
        let admission = Admission::new(LIMITS);
        let call = |uid, pid, s| admission.call(who(uid, pid), Duration::from_secs(s));
        let held = (call(1, 10, 0).unwrap(), call(1, 10, 0).unwrap());
        assert_eq!(call(1, 10, 0).unwrap_err(), Full::ProcessCalls { pid: 10, limit: 2 });
        let third = call(1, 11, 0).unwrap();
        assert_eq!(call(1, 12, 0).unwrap_err(), Full::Rate { uid: 1, per_second: 1 });
        assert_eq!(call(1, 12, 1).unwrap_err(), Full::UserCalls { uid: 1, limit: 3 });
        assert!(call(2, 20, 1).is_ok(), "another user");
        drop((held, third));
        assert!(call(1, 10, 2).is_ok());
        assert_eq!(admission.calls(), 0);
    }

    #[test]
    fn w_08_what_is_remembered_is_bounded() {
        let admission = Admission::new(AdmissionLimits { connections_of_strangers: usize::MAX, ..LIMITS });
        for uid in 0..10_000 {
            drop(admission.connection(who(uid, 1), true, Duration::from_secs(uid.into())).unwrap());
            drop(admission.call(who(uid, 1), Duration::from_secs(uid.into())).unwrap());
        }
        let held = admission.lock();
        assert!(held.users.len() <= MANY_USERS && held.processes.is_empty() && held.strangers == 0);
    }
}
