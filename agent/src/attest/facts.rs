//! What attestation proved of a process, and which of it is needed.

use std::sync::Arc;

use bonafide_ca_api::{Selector, SelectorKind};

use super::{
    executable::{ExecutableIdentity, NoExecutable},
    names::NoAnswer,
};
use crate::view::View;

/// The facts of one process at one moment. What was not asked for is not there.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Facts {
    pub(crate) pid: i32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) user: Option<Arc<str>>,
    pub(crate) group: Option<Arc<str>>,
    pub(crate) supplementary_gids: Vec<u32>,
    /// As the kernel prints it; for people only.
    pub(crate) shown_path: Option<String>,
    pub(crate) path: Option<String>,
    pub(crate) sha256: Option<Arc<str>>,
    /// `None` where the process cannot be told from another of its user, or its executable cannot be looked at.
    pub(crate) executable: Option<ExecutableIdentity>,
    /// What was not attested, and why.
    pub(crate) notes: Vec<String>,
    /// Some of it may be known a moment later: a file system or the name service did not answer. Nothing new is sent on such
    /// facts, and nothing taken back.
    pub(crate) unsure: bool,
    /// What was asked for.
    pub(crate) needs: Needs,
}

/// Which facts are worth their cost: those that a service of this user names.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Needs {
    pub(crate) user: bool,
    pub(crate) group: bool,
    pub(crate) sha256: bool,
}

impl Needs {
    /// Everything, for `whoami`.
    pub(crate) const ALL: Needs = Needs { user: true, group: true, sha256: true };

    /// Whether facts found for `self` answer for `other` as well.
    pub(crate) fn cover(self, other: Needs) -> bool {
        (self.user || !other.user) && (self.group || !other.group) && (self.sha256 || !other.sha256)
    }

    /// What telling the services of this user apart takes. `user` is its name where that is known already.
    pub(crate) fn of(view: &View, uid: u32, user: Option<&str>) -> Needs {
        let uid = uid.to_string();
        let mut needs = Needs::default();
        for service in view.services() {
            let mut named = false;
            let of_another = service.selectors.iter().any(|selector| match selector.kind() {
                SelectorKind::UnixUid => selector.value() != uid,
                SelectorKind::UnixUser => {
                    named = true;
                    user.is_some_and(|user| selector.value() != user)
                }
                SelectorKind::UnixGid
                | SelectorKind::UnixGroup
                | SelectorKind::UnixSupplementaryGid
                | SelectorKind::UnixPath
                | SelectorKind::UnixSha256 => false,
            });
            if of_another {
                continue;
            }
            needs.user |= named;
            for selector in &service.selectors {
                match selector.kind() {
                    SelectorKind::UnixGroup => needs.group = true,
                    SelectorKind::UnixSha256 => needs.sha256 = true,
                    SelectorKind::UnixUid
                    | SelectorKind::UnixGid
                    | SelectorKind::UnixUser
                    | SelectorKind::UnixSupplementaryGid
                    | SelectorKind::UnixPath => {}
                }
            }
        }
        needs
    }
}

impl Facts {
    /// Whether this is a fact of the process.
    pub(crate) fn has(&self, selector: &Selector) -> bool {
        let is_number = |number: u32| selector.value().parse() == Ok(number);
        match selector.kind() {
            SelectorKind::UnixUid => is_number(self.uid),
            SelectorKind::UnixGid => is_number(self.gid),
            SelectorKind::UnixUser => self.user.as_deref() == Some(selector.value()),
            SelectorKind::UnixGroup => self.group.as_deref() == Some(selector.value()),
            SelectorKind::UnixSupplementaryGid => self.supplementary_gids.iter().any(|gid| is_number(*gid)),
            SelectorKind::UnixPath => self.path.as_deref() == Some(selector.value()),
            SelectorKind::UnixSha256 => self.sha256.as_deref() == Some(selector.value()),
        }
    }

    /// The facts as selectors, sorted: what a service could demand of this process.
    pub(crate) fn selectors(&self) -> Vec<Selector> {
        let mut selectors = Vec::new();
        // What is no valid selector, such as a path with a line end in it, can be demanded by no service.
        let mut add = |kind, value: &str| selectors.extend(Selector::new(kind, value).ok());
        add(SelectorKind::UnixUid, &self.uid.to_string());
        add(SelectorKind::UnixGid, &self.gid.to_string());
        self.user.iter().for_each(|user| add(SelectorKind::UnixUser, user));
        self.group.iter().for_each(|group| add(SelectorKind::UnixGroup, group));
        self.supplementary_gids.iter().for_each(|gid| add(SelectorKind::UnixSupplementaryGid, &gid.to_string()));
        self.path.iter().for_each(|path| add(SelectorKind::UnixPath, path));
        self.sha256.iter().for_each(|hash| add(SelectorKind::UnixSha256, hash));
        selectors.sort();
        selectors.dedup();
        selectors
    }

    /// One line for the process itself and for the log: what was seen of it.
    pub(crate) fn summary(&self) -> String {
        let name = |name: &Option<Arc<str>>| name.as_ref().map(|name| format!(" `{name}`")).unwrap_or_default();
        let mut text =
            format!("pid {}, uid {}{}, gid {}{}", self.pid, self.uid, name(&self.user), self.gid, name(&self.group));
        if let Some(path) = &self.shown_path {
            // A process chooses its path, so nothing of it reaches a terminal or a log unescaped.
            text.push_str(&format!(", executable `{}`", path.escape_debug()));
        }
        text
    }

    /// The name service did not answer.
    pub(super) fn unknown(&mut self, selector: &str, error: &NoAnswer) {
        self.notes.push(format!("{selector} is unknown: {error}"));
        self.unsure = true;
    }

    pub(super) fn without_executable(&mut self, reason: &NoExecutable) {
        self.unsure |= match reason {
            NoExecutable::TooSlow { .. } | NoExecutable::TooMany { .. } | NoExecutable::Exhausted { .. } => true,
            NoExecutable::Unreadable { .. } => false,
        };
        self.notes.push(format!("unix:path and unix:sha256 are unknown: {reason}"));
    }
}
