//! What survives a restart of the agent: the workloads' SVIDs with their keys, in memory that reaches no disk.
//!
//! One file per service in `--runtime-dir`, which must be tmpfs or ramfs and never swapped; else nothing is kept, and
//! `status` says why. A file counts only for this boot, for this node's key, and for a service that the view still
//! holds exactly as it was when the SVID was made. What fails any of this is deleted without a look at the rest. What passes is
//! given out only to a process that has been attested afresh, like everything else.

mod place;
pub(crate) mod stored;

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bonafide_verifier::{
    clock::Timestamp,
    spiffe::SpiffeId,
    x509::{self, PresentedChain, X509Svid},
};
use data_encoding::HEXLOWER;
use rustls::pki_types::CertificateDer;
use tracing::{debug, info, warn};
use zeroize::Zeroizing;

pub(crate) use self::place::NotKept;
use crate::{
    health::{Health, Part, State},
    node_state::key::sha256,
    state_file::{Kind, StateDir, StateError},
    view::View,
};

/// A workload's SVID as it is kept.
#[derive(Clone)]
pub(crate) struct KeptSvid {
    /// The service it is for.
    pub(crate) service_id: Arc<str>,
    /// [`crate::view::Service::digest`] of the service it was made for.
    pub(crate) service_digest: [u8; 32],
    pub(crate) spiffe_id: SpiffeId,
    /// DER, leaf first.
    pub(crate) chain: Vec<Vec<u8>>,
    /// PKCS#8 DER.
    pub(crate) key_pkcs8: Zeroizing<Vec<u8>>,
    pub(crate) not_before: Timestamp,
    pub(crate) not_after: Timestamp,
    /// When it is due for renewal.
    pub(crate) renew_at: Timestamp,
}

impl std::fmt::Debug for KeptSvid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "KeptSvid({}, until {})", self.spiffe_id, self.not_after)
    }
}

/// The kept state of one agent. Cheap to clone; every method does small file work and blocks for its time.
#[derive(Clone, Debug)]
pub(crate) struct RuntimeState(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// `None`: nothing is kept, for the reason.
    dir: Result<StateDir, String>,
    boot_id: String,
    /// The node key that new files are bound to, and the one before it.
    keys: Mutex<Keys>,
    health: Health,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Keys {
    current: [u8; 32],
    replaced: Option<[u8; 32]>,
}

impl RuntimeState {
    /// Looks whether `path` is a place for keys. Says in the log and in health when it is not.
    pub(crate) fn open(path: &Path, key: [u8; 32], replaced: Option<[u8; 32]>, health: Health) -> Self {
        let opened = place::boot_id().and_then(|boot_id| Ok((open_directory(path)?, boot_id)));
        let (dir, boot_id) = match opened {
            Ok((dir, boot_id)) => {
                health.set(Part::RuntimeState, State::Ready, "");
                (Ok(dir), boot_id)
            }
            Err(why) => {
                let text = describe(&why);
                warn!(error = %text, "workload keys are not kept over a restart of the agent");
                health.set(
                    Part::RuntimeState,
                    State::Degraded,
                    format!("workload keys are not kept over a restart of the agent: {text}"),
                );
                (Err(text), String::new())
            }
        };
        Self(Arc::new(Inner { dir, boot_id, keys: Mutex::new(Keys { current: key, replaced }), health }))
    }

    /// Whether keys could be kept there, without creating or changing anything.
    pub(crate) fn examine(path: &Path) -> Result<(), String> {
        let existing = place::nearest_existing(path);
        let checked = std::fs::File::open(&existing)
            .map_err(|source| NotKept::Look { path: existing, source })
            .and_then(|fd| place::check(path, std::os::fd::AsFd::as_fd(&fd)));
        checked.map_err(|why| describe(&why))
    }

    /// Why nothing is kept, if so: for `status`.
    pub(crate) fn note(&self) -> Option<String> {
        self.0.dir.as_ref().err().map(|why| format!("workload keys are not kept over a restart of the agent: {why}"))
    }

    /// Keeps an SVID in the place of the one before it.
    pub(crate) fn keep(&self, svid: &KeptSvid) {
        let Ok(dir) = &self.0.dir else { return };
        let keys = self.lock();
        let body = stored::encode(svid, &self.0.boot_id, &keys.current);
        self.said(dir.write(&file_name(&svid.service_id), &KIND.enclose(&body)));
    }

    /// Forgets the SVID of a service.
    pub(crate) fn forget(&self, service_id: &str) {
        let Ok(dir) = &self.0.dir else { return };
        let _keys = self.lock();
        self.said(dir.remove(&file_name(service_id)));
    }

    /// Forgets everything: the node was removed.
    pub(crate) fn forget_all(&self) {
        let Ok(dir) = &self.0.dir else { return };
        let _keys = self.lock();
        self.said(delete_all(dir));
    }

    /// Binds what is kept to the node's next key, now that it is the one in use.
    pub(crate) fn rebind(&self, key: [u8; 32]) {
        let mut keys = self.lock();
        if keys.current == key {
            return;
        }
        *keys = Keys { current: key, replaced: Some(keys.current) };
        let Ok(dir) = &self.0.dir else { return };
        let Ok(names) = dir.names() else { return };
        for name in names.iter().filter(|name| name.ends_with(SUFFIX)) {
            let again = dir.read(name, KIND.file_limit()).and_then(|whole| {
                let Some(whole) = whole else { return Ok(()) };
                let body = KIND.open(&dir.path_of(name), &whole)?;
                match stored::rebind(body, &key) {
                    Some(body) => dir.write(name, &KIND.enclose(&body)),
                    None => dir.remove(name),
                }
            });
            self.said(again);
        }
    }

    /// Takes back what an agent before this one kept, as far as it is still good under `view`; deletes the rest.
    pub(crate) fn load(&self, view: &View, at: Timestamp) -> Vec<KeptSvid> {
        let Ok(dir) = &self.0.dir else { return Vec::new() };
        let keys = self.lock();
        let names = match dir.names() {
            Ok(names) => names,
            Err(error) => {
                self.said(Err(error));
                return Vec::new();
            }
        };
        let mut kept = Vec::new();
        for name in names {
            match self.load_one(dir, &name, *keys, view, at) {
                Ok(svid) => kept.push(svid),
                Err(reason) => {
                    info!(file = %dir.path_of(&name).display(), reason, "deleted kept state that does not count any more");
                    self.said(dir.remove(&name));
                }
            }
        }
        debug!(count = kept.len(), "took back kept SVIDs");
        kept
    }

    fn load_one(&self, dir: &StateDir, name: &str, keys: Keys, view: &View, at: Timestamp) -> Result<KeptSvid, String> {
        if !name.ends_with(SUFFIX) || name.starts_with('.') {
            return Err("not a file of this agent".into());
        }
        let whole = dir.read(name, KIND.file_limit()).map_err(|error| describe(&error))?.ok_or("it is gone")?;
        let body = KIND.open(&dir.path_of(name), &whole).map_err(|error| describe(&error))?;
        let svid = stored::decode(body, |boot_id, key| {
            if boot_id != self.0.boot_id {
                Err("it is from another boot")
            } else if *key != keys.current && Some(*key) != keys.replaced {
                Err("it belongs to another node key")
            } else {
                Ok(())
            }
        })?;
        if file_name(&svid.service_id) != name {
            return Err("it stands under another service's name".into());
        }
        let service = view.service(&svid.service_id).ok_or("the service is not this node's any more")?;
        if service.digest() != svid.service_digest || service.spiffe_id != svid.spiffe_id {
            return Err("the service has changed since".into());
        }
        check_svid(&svid, view, at)?;
        Ok(svid)
    }

    fn said(&self, outcome: Result<(), StateError>) {
        match outcome {
            Ok(()) => self.0.health.set(Part::RuntimeState, State::Ready, ""),
            Err(error) => {
                let text = describe(&error);
                warn!(error = %text, "kept state could not be changed");
                self.0.health.set(Part::RuntimeState, State::Degraded, text);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Keys> {
        self.0.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The certificate must still be good, and the key its own.
fn check_svid(svid: &KeptSvid, view: &View, at: Timestamp) -> Result<(), String> {
    let chain: Vec<CertificateDer<'static>> = svid.chain.iter().cloned().map(CertificateDer::from).collect();
    let own = X509Svid::new(chain, svid.key_pkcs8.clone()).map_err(|error| error.to_string())?;
    let presented = PresentedChain::leaf_first(own.chain()).map_err(|error| error.to_string())?;
    let peer = x509::verify(&presented, view.bundles(), at).map_err(|error| error.to_string())?;
    if *peer.id() != svid.spiffe_id {
        return Err("its certificate is for another SPIFFE ID".into());
    }
    Ok(())
}

/// Opens or creates the directory, unless it would lie on a disk.
fn open_directory(path: &Path) -> Result<StateDir, NotKept> {
    if std::fs::symlink_metadata(path).is_err() {
        // Nothing is created where nothing would be kept.
        let parent = place::nearest_existing(path);
        let fd = std::fs::File::open(&parent).map_err(|source| NotKept::Look { path: parent.clone(), source })?;
        place::check(path, std::os::fd::AsFd::as_fd(&fd))?;
    }
    let dir = match StateDir::open_or_create(path) {
        Err(StateError::TooOpen { .. }) => reclaim(path)?,
        other => other?,
    };
    place::check(path, dir.as_fd())?;
    Ok(dir)
}

/// Others could get at what lies in a directory of ours: deleted unread, and the directory closed.
fn reclaim(path: &Path) -> Result<StateDir, StateError> {
    use std::os::unix::fs::PermissionsExt;
    let closed = std::fs::Permissions::from_mode(0o700);
    std::fs::set_permissions(path, closed).map_err(|source| StateError::Io {
        doing: "close to others",
        path: PathBuf::from(path),
        source,
    })?;
    let dir = StateDir::open_or_create(path)?;
    warn!(path = %path.display(), "others could get at the kept state; deleted it unread");
    delete_all(&dir)?;
    Ok(dir)
}

fn delete_all(dir: &StateDir) -> Result<(), StateError> {
    for name in dir.names()? {
        if name.ends_with(SUFFIX) || name.ends_with(ASIDE) {
            dir.remove(&name)?;
        }
    }
    Ok(())
}

fn file_name(service_id: &str) -> String {
    let hash = HEXLOWER.encode(&sha256(service_id.as_bytes()));
    format!("{hash}{SUFFIX}")
}

/// An error with its causes, in one line.
fn describe(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

const SUFFIX: &str = ".svid";
const ASIDE: &str = ".svid.new";

const KIND: Kind = Kind { word: "svid", version: 1, limit: 256 << 10, remedy: "remove it" };

#[cfg(test)]
mod tests;
