//! Names of users and groups, from the host's name service. That may ask a directory server and may hang, so it runs
//! on few threads of its own, is waited for a bounded time, and its answers are kept for a while (W-12). Numbers are
//! what counts; a name is looked up only where some service names a user or group by name.

use std::{sync::Arc, time::Duration};

use bonafide_verifier::clock::Clock;
use nix::unistd::{Gid, Group, Uid, User};
use quick_cache::sync::Cache;
use tokio::sync::Semaphore;
use tracing::warn;

/// How long names are waited for and believed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NameLimits {
    /// The longest wait for the name service; then the last answer counts, or there is no name. Default 1 s.
    pub(crate) wait: Duration,
    /// How long an answer is not asked for again. Default 30 s.
    pub(crate) fresh: Duration,
    /// How long the last answer counts while the name service does not answer. Default 1 h.
    pub(crate) stale: Duration,
    /// Threads that may wait for the name service at once. Default 4.
    pub(crate) threads: usize,
    /// Names remembered of each kind; the least used is forgotten. Default 4,096.
    pub(crate) entries: usize,
}

impl Default for NameLimits {
    fn default() -> Self {
        NameLimits {
            wait: Duration::from_secs(1),
            fresh: Duration::from_secs(30),
            stale: Duration::from_secs(3600),
            threads: 4,
            entries: 4096,
        }
    }
}

/// What is asked for.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) enum NameOf {
    User(u32),
    Group(u32),
}

/// Where names come from: the host's name service, or a table in a test.
pub(crate) trait NameService: Send + Sync + std::fmt::Debug {
    /// `Ok(None)`: there is no such user or group. May block.
    fn look_up(&self, name_of: NameOf) -> std::io::Result<Option<String>>;
}

/// `getpwuid` and `getgrgid` of the C library.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HostNames;

impl NameService for HostNames {
    fn look_up(&self, name_of: NameOf) -> std::io::Result<Option<String>> {
        Ok(match name_of {
            NameOf::User(uid) => User::from_uid(Uid::from_raw(uid))?.map(|user| user.name),
            NameOf::Group(gid) => Group::from_gid(Gid::from_raw(gid))?.map(|group| group.name),
        })
    }
}

/// Answers, some remembered.
#[derive(Debug)]
pub(crate) struct Names {
    limits: NameLimits,
    clock: Arc<dyn Clock>,
    service: Arc<dyn NameService>,
    answers: Cache<NameOf, Answer>,
    threads: Arc<Semaphore>,
}

#[derive(Clone, Debug)]
struct Answer {
    name: Option<Arc<str>>,
    /// When the name service said so, on the boot clock, which no one sets.
    at: Duration,
    /// When it is asked again.
    again: Duration,
}

/// The name service did not answer, and nothing is remembered.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the name service did not answer: {reason}")]
pub(crate) struct NoAnswer {
    reason: String,
}

impl Names {
    pub(crate) fn new(limits: NameLimits, clock: Arc<dyn Clock>, service: Arc<dyn NameService>) -> Names {
        let (answers, threads) = (Cache::new(limits.entries), Arc::new(Semaphore::new(limits.threads)));
        Names { limits, clock, service, answers, threads }
    }

    /// The name, `None` if there is none.
    pub(crate) async fn of(&self, name_of: NameOf) -> Result<Option<Arc<str>>, NoAnswer> {
        let known = self.answers.get(&name_of);
        if let Some(answer) = &known
            && self.clock.boot() < answer.again
        {
            return Ok(answer.name.clone());
        }
        let asked = self.ask(name_of).await;
        let now = self.clock.boot();
        match (asked, known) {
            (Ok(name), _) => {
                let name: Option<Arc<str>> = name.map(Into::into);
                self.answers.insert(name_of, Answer { name: name.clone(), at: now, again: now + self.limits.fresh });
                Ok(name)
            }
            (Err(reason), Some(answer)) if now < answer.at + self.limits.stale => {
                warn!(?name_of, error = %reason, "name service does not answer, going on with its last answer");
                // Asked again in a while, so that not every message waits for what does not answer.
                self.answers.insert(name_of, Answer { again: now + self.limits.fresh, ..answer.clone() });
                Ok(answer.name)
            }
            (Err(reason), _) => Err(NoAnswer { reason }),
        }
    }

    async fn ask(&self, name_of: NameOf) -> Result<Option<String>, String> {
        let look_up = async {
            let permit = self.threads.clone().acquire_owned().await.map_err(|error| error.to_string())?;
            let service = self.service.clone();
            let asking = tokio::task::spawn_blocking(move || {
                let _permit = permit; // held until the thread is free again, not until it is given up
                service.look_up(name_of)
            });
            asking.await.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
        };
        let late = |_| format!("nothing within {:?}", self.limits.wait);
        tokio::time::timeout(self.limits.wait, look_up).await.map_err(late)?
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use bonafide_verifier::clock::{ManualClock, Timestamp};

    use super::*;

    /// A name service that says what the test wants, or hangs until the test ends.
    #[derive(Debug)]
    struct Scripted(Mutex<Script>);

    #[derive(Clone, Debug)]
    enum Script {
        Says(Option<&'static str>),
        Fails,
        Hangs(Arc<Mutex<()>>),
    }

    impl NameService for Scripted {
        fn look_up(&self, _: NameOf) -> std::io::Result<Option<String>> {
            let script = self.0.lock().unwrap().clone();
            match script {
                Script::Says(name) => Ok(name.map(Into::into)),
                Script::Fails => Err(std::io::Error::other("no directory")),
                Script::Hangs(until) => {
                    drop(until.lock());
                    Ok(None)
                }
            }
        }
    }

    #[tokio::test]
    #[expect(clippy::await_holding_lock, reason = "held to make another thread hang")]
    async fn w_12_names_that_change_vanish_and_hang() {
        let clock = ManualClock::at(Timestamp::from_unix_seconds(1_800_000_000));
        let limits = NameLimits { wait: Duration::from_millis(50), ..NameLimits::default() };
        let service = Arc::new(Scripted(Mutex::new(Script::Says(Some("photo")))));
        let names = Names::new(limits, Arc::new(clock.clone()), service.clone());
        let says = |script| *service.0.lock().unwrap() = script;
        let user = NameOf::User(1000);

        assert_eq!(names.of(user).await.unwrap().as_deref(), Some("photo"));
        says(Script::Says(Some("pictures")));
        assert_eq!(names.of(user).await.unwrap().as_deref(), Some("photo"), "believed for a while");
        clock.advance(limits.fresh);
        assert_eq!(names.of(user).await.unwrap().as_deref(), Some("pictures"), "renamed");

        let lock = Arc::new(Mutex::new(()));
        let held = lock.lock().unwrap();
        says(Script::Hangs(lock.clone()));
        clock.advance(limits.fresh);
        assert_eq!(names.of(user).await.unwrap().as_deref(), Some("pictures"), "hangs: last answer");
        assert!(names.of(NameOf::User(1001)).await.is_err(), "hangs: nothing known");
        says(Script::Fails);
        clock.advance(limits.stale);
        assert!(names.of(user).await.is_err(), "the last answer does not count for ever");
        says(Script::Says(None));
        assert_eq!(names.of(user).await.unwrap(), None, "removed");
        drop(held);
    }

    #[tokio::test]
    #[expect(clippy::await_holding_lock, reason = "held to make other threads hang")]
    async fn w_12_a_hanging_name_service_holds_few_threads() {
        let clock = ManualClock::at(Timestamp::from_unix_seconds(1_800_000_000));
        let limits = NameLimits { wait: Duration::from_millis(5), threads: 2, ..NameLimits::default() };
        let lock = Arc::new(Mutex::new(()));
        let held = lock.lock().unwrap();
        let service = Arc::new(Scripted(Mutex::new(Script::Hangs(lock.clone()))));
        let names = Names::new(limits, Arc::new(clock), service.clone());
        for uid in 0..20 {
            assert!(names.of(NameOf::User(uid)).await.is_err());
        }
        assert!(Arc::strong_count(&lock) <= 2 + 2, "two threads, the test and the script");
        drop(held);
    }

    #[test]
    fn host_knows_root() {
        assert_eq!(HostNames.look_up(NameOf::User(0)).unwrap().as_deref(), Some("root"));
        assert_eq!(HostNames.look_up(NameOf::Group(0)).unwrap().as_deref(), Some("root"));
        assert_eq!(HostNames.look_up(NameOf::User(4_294_000_000)).unwrap(), None);
    }
}
