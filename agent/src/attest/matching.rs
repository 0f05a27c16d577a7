//! Which services a process is, and for the one who can mend it: which service it nearly is, what differs, and the
//! command that would change that.

use std::sync::Arc;

use bonafide_ca_api::{Selector, SelectorKind};

use super::facts::Facts;
use crate::view::{Service, View};

/// The services whose every selector is a fact of the process, the default identity first.
pub(crate) fn matching(view: &View, facts: &Facts) -> Vec<Arc<Service>> {
    let matches = |service: &&Arc<Service>| {
        // The CA registers no service without a user; one that came from elsewhere matches nothing.
        service.selectors.iter().any(Selector::is_user) && service.selectors.iter().all(|selector| facts.has(selector))
    };
    view.services().iter().filter(matches).cloned().collect()
}

/// The service that a process came closest to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct NearestMiss {
    pub(crate) service: Arc<Service>,
    pub(crate) differences: Vec<Difference>,
    /// What an operator would type to make it match.
    pub(crate) command: String,
}

/// A selector that is not a fact of the process.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Difference {
    pub(crate) wanted: Selector,
    /// What the process has instead; empty if it has nothing of the kind.
    pub(crate) found: Vec<Selector>,
}

/// The service with the fewest selectors that differ; among equals one of the same user, then the one with more that
/// agree, then the first. `None` if there is no service at all. `facts` should be complete.
pub(crate) fn nearest_miss(view: &View, facts: &Facts) -> Option<NearestMiss> {
    let own = facts.selectors();
    let rank = |service: &Service| {
        let differing = service.selectors.iter().filter(|selector| !facts.has(selector)).count();
        let other_user = service.selectors.iter().any(|selector| selector.is_user() && !facts.has(selector));
        (differing, other_user, std::cmp::Reverse(service.selectors.len() - differing))
    };
    let service = view.services().iter().filter(|service| rank(service).0 > 0).min_by_key(|service| rank(service))?;
    let differences: Vec<Difference> = service
        .selectors
        .iter()
        .filter(|selector| !facts.has(selector))
        .map(|wanted| Difference {
            wanted: wanted.clone(),
            found: own.iter().filter(|fact| fact.kind() == wanted.kind()).cloned().collect(),
        })
        .collect();
    let mended = service.selectors.iter().filter_map(|selector| mend(selector, facts, &own));
    let mut command = format!("bonafide-ca service update {}", quoted(service.spiffe_id.path()));
    for selector in mended {
        command.push_str(&format!(" --selector {}", quoted(&selector.to_string())));
    }
    Some(NearestMiss { service: service.clone(), differences, command })
}

/// The command that registers this process as a service of its own.
pub(crate) fn registration(facts: &Facts, node: Option<&str>) -> String {
    let name = facts
        .path
        .as_deref()
        .and_then(|path| path.rsplit('/').next())
        .map(|name| {
            name.chars().filter(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')).collect::<String>()
        })
        .filter(|name| name.contains(|c: char| c.is_ascii_alphanumeric()))
        .unwrap_or_else(|| "NAME".to_owned());
    let user = match &facts.user {
        Some(user) => format!("{}:{user}", SelectorKind::UnixUser),
        None => format!("{}:{}", SelectorKind::UnixUid, facts.uid),
    };
    format!("bonafide-ca service add /{name} --selector {} --on {}", quoted(&user), node.unwrap_or("NODE"))
}

/// The selector that would match: itself, or what the process has of the kind. One of which the process has nothing
/// is left out, unless it names the user, without which there is no service.
fn mend(selector: &Selector, facts: &Facts, own: &[Selector]) -> Option<Selector> {
    if facts.has(selector) {
        return Some(selector.clone());
    }
    let same_kind = own.iter().find(|fact| fact.kind() == selector.kind());
    let instead = match selector.kind() {
        // Any one group is as good as another: nothing says which was meant.
        SelectorKind::UnixSupplementaryGid => None,
        SelectorKind::UnixUser => same_kind.or_else(|| own.iter().find(|fact| fact.kind() == SelectorKind::UnixUid)),
        SelectorKind::UnixUid
        | SelectorKind::UnixGid
        | SelectorKind::UnixGroup
        | SelectorKind::UnixPath
        | SelectorKind::UnixSha256 => same_kind,
    };
    instead.cloned()
}

/// As a shell takes it for one word.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | ':' | '.' | '_' | '-' | '@' | '=' | '+' | ',');
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        attest::facts::Needs,
        view::tests::{service, view},
    };

    fn photo() -> Facts {
        Facts {
            pid: 7,
            uid: 1000,
            gid: 100,
            user: Some("photo".into()),
            group: Some("users".into()),
            supplementary_gids: vec![24, 27],
            shown_path: Some("/usr/bin/photo".into()),
            path: Some("/usr/bin/photo".into()),
            sha256: Some("ab".repeat(32).into()),
            executable: None,
            notes: Vec::new(),
            unsure: false,
            needs: Needs::ALL,
        }
    }

    #[test]
    fn every_selector_must_be_a_fact() {
        let hash = format!("unix:sha256:{}", "ab".repeat(32));
        let other_hash = format!("unix:sha256:{}", "ac".repeat(32));
        let cases: &[(&[&str], bool)] = &[
            (&["unix:uid:1000"], true),
            (&["unix:uid:1001"], false),
            (&["unix:user:photo"], true),
            (&["unix:user:Photo"], false),
            (&["unix:uid:1000", "unix:gid:100"], true),
            (&["unix:uid:1000", "unix:gid:24"], false),
            (&["unix:uid:1000", "unix:group:users"], true),
            (&["unix:uid:1000", "unix:group:user"], false),
            (&["unix:uid:1000", "unix:supplementary-gid:27"], true),
            (&["unix:uid:1000", "unix:supplementary-gid:24", "unix:supplementary-gid:27"], true),
            (&["unix:uid:1000", "unix:supplementary-gid:24", "unix:supplementary-gid:28"], false),
            (&["unix:uid:1000", "unix:supplementary-gid:100"], false),
            (&["unix:uid:1000", "unix:path:/usr/bin/photo"], true),
            (&["unix:uid:1000", "unix:path:/usr/bin/photo2"], false),
            (&["unix:uid:1000", "unix:path:/usr/bin"], false),
            (&["unix:uid:1000", &hash], true),
            (&["unix:uid:1000", &other_hash], false),
            (&["unix:uid:1001", "unix:user:photo"], false),
            (&["unix:path:/usr/bin/photo"], false), // no user: matches nothing
            (&[], false),
        ];
        for (selectors, expected) in cases {
            let view = view(vec![service("1", "/photo", selectors)]);
            assert_eq!(matching(&view, &photo()).len() == 1, *expected, "{selectors:?}");
        }
    }

    #[test]
    fn facts_that_were_not_found_match_nothing() {
        let bare = Facts { user: None, group: None, supplementary_gids: vec![], path: None, sha256: None, ..photo() };
        for selector in photo().selectors() {
            let known = matches!(selector.kind(), SelectorKind::UnixUid | SelectorKind::UnixGid);
            assert_eq!(bare.has(&selector), known, "{selector}");
            assert!(photo().has(&selector), "{selector}");
        }
    }

    #[test]
    fn nearest_miss_names_what_differs_and_the_command() {
        let services = vec![
            service("1", "/other", &["unix:uid:1001", "unix:path:/usr/bin/other"]),
            service("2", "/photo", &["unix:uid:1000", "unix:path:/opt/photo", "unix:gid:100"]),
            service("3", "/thumb", &["unix:uid:1002"]),
        ];
        let miss = nearest_miss(&view(services.clone()), &photo()).unwrap();
        assert_eq!(miss.service.spiffe_id.path(), "/photo", "one difference, and of the same user");
        assert_eq!(miss.differences.len(), 1);
        assert_eq!(miss.differences[0].wanted.to_string(), "unix:path:/opt/photo");
        assert_eq!(miss.differences[0].found[0].to_string(), "unix:path:/usr/bin/photo");
        assert_eq!(
            miss.command,
            "bonafide-ca service update /photo --selector unix:uid:1000 --selector unix:path:/usr/bin/photo --selector unix:gid:100"
        );
        // The command does what it says.
        let mended = service("2", "/photo", &["unix:uid:1000", "unix:path:/usr/bin/photo", "unix:gid:100"]);
        assert_eq!(matching(&view(vec![mended]), &photo()).len(), 1);
        assert!(nearest_miss(&view(vec![]), &photo()).is_none());
    }

    #[test]
    fn commands_survive_a_shell() {
        let facts = Facts { path: Some("/opt/a b's".into()), ..photo() };
        let services = vec![service("1", "/photo", &["unix:uid:1000", "unix:path:/x"])];
        let miss = nearest_miss(&view(services), &facts).unwrap();
        assert!(miss.command.ends_with(r"--selector 'unix:path:/opt/a b'\''s'"), "{}", miss.command);
        assert_eq!(
            registration(&facts, Some("web-1")),
            "bonafide-ca service add /abs --selector unix:user:photo --on web-1"
        );
        let facts = Facts { path: None, user: None, ..photo() };
        assert_eq!(registration(&facts, None), "bonafide-ca service add /NAME --selector unix:uid:1000 --on NODE");
    }

    #[test]
    fn only_what_services_of_the_user_name_is_looked_up() {
        let hash = format!("unix:sha256:{}", "ab".repeat(32));
        let of =
            |selectors: &[&str], user: Option<&str>| Needs::of(&view(vec![service("1", "/a", selectors)]), 1000, user);
        let none = Needs::default();
        assert_eq!(of(&["unix:uid:1000"], None), none);
        assert_eq!(of(&["unix:uid:1001", &hash], None), none, "another user's");
        assert_eq!(of(&["unix:uid:1000", &hash], None), Needs { sha256: true, ..none });
        assert_eq!(of(&["unix:uid:1000", "unix:group:a"], None), Needs { group: true, ..none });
        assert_eq!(of(&["unix:user:photo", &hash], None), Needs { user: true, sha256: true, ..none });
        assert_eq!(of(&["unix:user:other", &hash], Some("photo")), none, "its name is known by now");
        assert!(Needs::ALL.cover(of(&["unix:user:photo"], None)) && !none.cover(of(&["unix:user:photo"], None)));
    }
}
