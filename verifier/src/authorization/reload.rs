//! Policies from files, read again when they change.

use std::{
    fs,
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::{Authorization, ShadowPolicy};
use crate::{
    caller::ProofKind,
    clock::Timestamp,
    policy::{Loaded, Policy, PolicyErrors},
    spiffe::TrustDomain,
};

/// Keeps an [`Authorization`]'s policy as its file says.
///
/// What a server shows of it in its readiness and its metrics is in [`PolicyFiles::state`]:
///
/// ```
/// use std::sync::{Arc, Mutex, PoisonError};
///
/// use bonafide_verifier::authorization::{Authorization, ReloadState};
///
/// /// Ready means: there is a policy, and it is the one in the file. The numbers of files taken and refused are metrics.
/// fn readiness(authorization: &Authorization, state: &Arc<Mutex<ReloadState>>) -> Result<(), String> {
///     let state = state.lock().unwrap_or_else(PoisonError::into_inner).clone();
///     match state.problem {
///         Some(problem) => Err(problem),
///         None if !authorization.has_policy() => Err("no policy yet".to_owned()),
///         None => Ok(()),
///     }
/// }
/// ```
#[derive(Debug)]
pub struct PolicyFiles {
    trust_domain: TrustDomain,
    policy: Followed,
    candidate: Option<Followed>,
    state: Arc<Mutex<ReloadState>>,
    /// The day, since 1970, of which it was last said what is soon accepted no more.
    said: Option<i64>,
}

/// How the last reading went. A server that shows it in its readiness tells when a file was changed to something that cannot be read.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct ReloadState {
    /// Files read and taken.
    pub taken: u64,
    /// Files read and refused; the policy before stays.
    pub refused: u64,
    /// Why the file as it is now was refused. None: what decides is what stands in the file.
    pub problem: Option<String>,
    /// The same of the candidate: the one before is tried on.
    pub candidate_problem: Option<String>,
    /// Kinds of credentials that the policy accepts for 30 days more at most, or no longer, each with its end.
    pub ending: Vec<(ProofKind, Timestamp)>,
}

#[derive(Debug)]
struct Followed {
    path: PathBuf,
    seen: Option<Mark>,
}

/// What of a file changes when it does.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Mark {
    inode: (u64, u64),
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

#[derive(Debug, thiserror::Error)]
enum ReadError {
    #[error("`{}` cannot be read: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("`{}` has more than {} bytes", path.display(), Policy::MAX_BYTES)]
    TooLarge { path: PathBuf },
    #[error("`{}` is no UTF-8", path.display())]
    NotUtf8 { path: PathBuf },
    #[error("`{}`: {errors}", path.display())]
    Policy { path: PathBuf, errors: PolicyErrors },
    #[error("`{}`: {source}", path.display())]
    Shadow { path: PathBuf, source: ShadowPolicy },
}

/// How often files are looked at.
const PERIOD: Duration = Duration::from_secs(1);

impl PolicyFiles {
    /// The policy of a service of this trust domain is in `policy`.
    #[must_use]
    pub fn new(trust_domain: TrustDomain, policy: impl Into<PathBuf>) -> Self {
        let policy = Followed { path: policy.into(), seen: None };
        Self { trust_domain, policy, candidate: None, state: Arc::default(), said: None }
    }

    /// With a candidate that is tried beside it. A file that is not there is no candidate.
    #[must_use]
    pub fn with_candidate(mut self, candidate: impl Into<PathBuf>) -> Self {
        self.candidate = Some(Followed { path: candidate.into(), seen: None });
        self
    }

    /// How the last reading went; shared with the task that reads.
    #[must_use]
    pub fn state(&self) -> Arc<Mutex<ReloadState>> {
        Arc::clone(&self.state)
    }

    /// Looks at the files each second, until `stop` fires. What is refused is logged and leaves the policy as it was; without one, every request is refused.
    pub async fn run(mut self, authorization: Authorization, stop: CancellationToken) {
        let clock = Arc::clone(authorization.clock());
        loop {
            self.look(&authorization).await;
            tokio::select! {
                () = stop.cancelled() => return,
                () = clock.sleep_for(PERIOD) => {}
            }
        }
    }

    /// Looks at the files once, now.
    pub async fn look(&mut self, authorization: &Authorization) {
        let now = authorization.clock().now();
        if let Some(read) = self.policy.if_changed(true).await {
            let taken = parsed(read, &self.policy.path, &self.trust_domain, now).and_then(|loaded| {
                let (version, rules) = (*loaded.policy.version(), loaded.policy.rules().count());
                for warning in &loaded.warnings {
                    warn!(path = %self.policy.path.display(), %warning, "policy");
                }
                let taken = authorization.replace_policy(loaded.policy);
                taken.map_err(|source| ReadError::Shadow { path: self.policy.path.clone(), source })?;
                info!(path = %self.policy.path.display(), %version, rules, "took the policy");
                Ok(())
            });
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            match taken {
                Ok(()) => (state.taken, state.problem) = (state.taken + 1, None),
                Err(problem) => {
                    let problem = problem.to_string();
                    // A file that stays away is a problem each second, and news once.
                    if state.problem.as_ref() != Some(&problem) {
                        error!(error = %problem, "the policy was refused; the one before stays");
                        (state.refused, state.problem) = (state.refused + 1, Some(problem));
                    }
                }
            }
        }
        self.look_at_dates(authorization, now);
        let Some(candidate) = &mut self.candidate else { return };
        let problem = match candidate.if_changed(false).await {
            None => return,
            Some(Err(error)) if error.kind() == io::ErrorKind::NotFound => {
                authorization.try_beside(None);
                None
            }
            Some(read) => match parsed(read, &candidate.path, &self.trust_domain, now) {
                Ok(loaded) => {
                    authorization.try_beside(Some(loaded.policy));
                    None
                }
                Err(problem) => {
                    warn!(error = %problem, "the candidate was refused; the one before is tried on");
                    Some(problem.to_string())
                }
            },
        };
        self.state.lock().unwrap_or_else(PoisonError::into_inner).candidate_problem = problem;
    }

    /// A service runs for months: that an `[accept]` date comes near is said once a day, not only when the file is read.
    fn look_at_dates(&mut self, authorization: &Authorization, now: Timestamp) {
        let ending: Vec<_> = authorization.policy().iter().flat_map(|policy| policy.ending(now)).collect();
        let day = now.unix_seconds().div_euclid(86_400);
        if self.said != Some(day) {
            self.said = Some(day);
            for (kind, until) in &ending {
                let path = self.policy.path.display();
                if now < *until {
                    warn!(%path, %kind, %until, "credentials of this kind are soon refused; the edges tell who still uses them");
                } else {
                    warn!(%path, %kind, %until, "credentials of this kind are refused since then");
                }
            }
        }
        self.state.lock().unwrap_or_else(PoisonError::into_inner).ending = ending;
    }
}

fn parsed(
    read: io::Result<Vec<u8>>,
    path: &Path,
    trust_domain: &TrustDomain,
    now: Timestamp,
) -> Result<Loaded, ReadError> {
    let path = || path.to_owned();
    let bytes = read.map_err(|source| ReadError::Io { path: path(), source })?;
    if bytes.len() > Policy::MAX_BYTES {
        return Err(ReadError::TooLarge { path: path() });
    }
    let text = String::from_utf8(bytes).map_err(|_| ReadError::NotUtf8 { path: path() })?;
    Policy::parse(&text, trust_domain, now).map_err(|errors| ReadError::Policy { path: path(), errors })
}

impl Followed {
    /// What is in the file, if that may be something else than the last time. `insist`: a file that is gone is a change each time.
    async fn if_changed(&mut self, insist: bool) -> Option<io::Result<Vec<u8>>> {
        let (path, seen) = (self.path.clone(), self.seen);
        let read = tokio::task::spawn_blocking(move || read_if_changed(&path, seen)).await;
        match read {
            Ok(Ok(None)) => None,
            Ok(Ok(Some((mark, bytes)))) => {
                self.seen = Some(mark);
                Some(Ok(bytes))
            }
            Ok(Err(error)) => {
                let told = self.seen.is_none() && !insist;
                self.seen = None;
                (!told).then_some(Err(error))
            }
            Err(panicked) => Some(Err(io::Error::other(panicked))),
        }
    }
}

fn read_if_changed(path: &Path, seen: Option<Mark>) -> io::Result<Option<(Mark, Vec<u8>)>> {
    let mut file = fs::File::open(path)?;
    let found = file.metadata()?;
    let mark = Mark {
        inode: (found.dev(), found.ino()),
        size: found.size(),
        modified: (found.mtime(), found.mtime_nsec()),
        changed: (found.ctime(), found.ctime_nsec()),
    };
    if seen == Some(mark) {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    let most = u64::try_from(Policy::MAX_BYTES).unwrap_or(u64::MAX);
    (&mut file).take(most.saturating_add(1)).read_to_end(&mut bytes)?;
    Ok(Some((mark, bytes)))
}

#[cfg(test)]
#[cfg(feature = "policy-file")]
mod tests {
    use super::*;
    use crate::{
        authenticate::Authenticators,
        clock::{Clock, ManualClock},
        identity::Identity,
        key_records::KeyRecords,
        limits::{Limits, Quotas},
    };

    fn authorization() -> Authorization {
        authorization_by(Arc::new(ManualClock::at(Timestamp::from_unix_seconds(1_800_000_000))))
    }

    fn authorization_by(clock: Arc<dyn Clock>) -> Authorization {
        let domain = TrustDomain::parse("example.org").unwrap();
        let (identity, _publisher) = Identity::published(Arc::clone(&clock));
        let authenticators = Authenticators::builder(domain.clone(), identity)
            .key_records(KeyRecords::empty(domain))
            .audience("x")
            .build();
        Authorization::builder(authenticators.unwrap(), Limits::new(Quotas::in_memory(), Arc::clone(&clock)), clock)
            .build()
    }

    /// T-27: a file that says what we do not understand changes nothing, and readiness can tell.
    #[tokio::test]
    async fn t_27_a_bad_file_keeps_the_policy_before() {
        let folder = tempfile::tempdir().unwrap();
        let (path, beside) = (folder.path().join("policy.toml"), folder.path().join("candidate.toml"));
        let authorization = authorization();
        let mut files = PolicyFiles::new(TrustDomain::parse("example.org").unwrap(), &path).with_candidate(&beside);
        let state = files.state();
        let good = "version = 1\n[[allow]]\nname = \"a\"\ncallers = [\"/a\"]\nhttp = [\"GET /a\"]\n";
        let steps: [(&str, Option<&str>, bool, bool); 7] = [
            ("no file", None, false, true),
            ("a good one", Some(good), true, false),
            ("an unknown field", Some("version = 1\nsurprise = 1\n"), true, true),
            ("an empty one", Some(""), true, true),
            ("one that must not decide", Some("version = 1\nmode = \"shadow\"\n"), true, true),
            ("gone again", None, true, true),
            ("a good one again", Some(good), true, false),
        ];
        for (what, text, has_policy, has_problem) in steps {
            match text {
                Some(text) => fs::write(&path, text).unwrap(),
                None => drop(fs::remove_file(&path)),
            }
            files.look(&authorization).await;
            assert_eq!(authorization.has_policy(), has_policy, "{what}");
            assert_eq!(state.lock().unwrap().problem.is_some(), has_problem, "{what}");
        }
        let before = state.lock().unwrap().clone();
        files.look(&authorization).await;
        assert_eq!(*state.lock().unwrap(), before, "an unchanged file is not read again");
    }

    /// A candidate that cannot be read is told, too, and the one before is tried on.
    #[tokio::test]
    async fn t_27_a_bad_candidate_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let (path, beside) = (folder.path().join("policy.toml"), folder.path().join("candidate.toml"));
        fs::write(&path, "version = 1\n").unwrap();
        let authorization = authorization();
        let mut files = PolicyFiles::new(TrustDomain::parse("example.org").unwrap(), &path).with_candidate(&beside);
        let state = files.state();
        for (text, has_problem) in
            [(None, false), (Some("version = 2\n"), true), (Some("version = 1\n"), false), (None, false)]
        {
            match text {
                Some(text) => fs::write(&beside, text).unwrap(),
                None => drop(fs::remove_file(&beside)),
            }
            files.look(&authorization).await;
            assert_eq!(state.lock().unwrap().candidate_problem.is_some(), has_problem, "{text:?}");
            assert_eq!(state.lock().unwrap().problem, None);
        }
    }

    /// A file that nobody touches: the notice comes when the date is 30 days away, stays when it has passed, and goes with the line.
    #[tokio::test]
    async fn that_a_date_comes_near_is_said_while_the_service_runs() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("policy.toml");
        // The day that is named is the last one: the end is 2027-04-01T00:00:00Z.
        fs::write(&path, "version = 1\n[accept]\napi-key = { until = 2027-03-31 }\n").unwrap();
        let end = Timestamp::from_unix_seconds(1_806_537_600);
        let clock = Arc::new(ManualClock::at(Timestamp::from_unix_seconds(1_800_000_000)));
        let authorization = authorization_by(clock.clone());
        let mut files = PolicyFiles::new(TrustDomain::parse("example.org").unwrap(), &path);
        let state = files.state();
        let month = Duration::from_secs(30 * 86_400);
        let before = |time: Duration| end.saturating_sub(time);
        for (now, ending) in [
            (Timestamp::from_unix_seconds(1_800_000_000), false),
            (before(month + Duration::from_secs(1)), false),
            (before(month), true),
            (before(Duration::from_secs(1)), true),
            (end.saturating_add(month), true),
        ] {
            clock.set(now);
            files.look(&authorization).await;
            let expected = if ending { vec![(ProofKind::ApiKey, end)] } else { vec![] };
            assert_eq!(state.lock().unwrap().ending, expected, "{now}");
        }
        fs::write(&path, "version = 1\n").unwrap();
        files.look(&authorization).await;
        assert_eq!(state.lock().unwrap().ending, []);
    }
}
