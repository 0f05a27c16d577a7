//! The issuers of users that are believed, and what of their tokens is.
//!
//! Plain data: who fetches the keys, and how often, is elsewhere. An issuer is known by a short name in policies and records, and by its URL,
//! compared byte for byte, in tokens.

mod keys;

use std::{fmt, sync::Arc};

pub use self::keys::{IssuerKeyError, IssuerKeys, IssuerKeysError, SkippedKey};
use super::{Algorithm, MAX_AUDIENCES};
use crate::{spiffe::PublicKey, user::IssuerName};

/// What an operator says of an issuer.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct UserIssuerSettings {
    /// Its name here.
    pub name: IssuerName,
    /// Its `iss`: an `https` URL without query and fragment, exactly as the issuer writes it.
    pub url: String,
    /// Whom its tokens must be for: one of these, byte for byte. At least one.
    pub audiences: Vec<String>,
    /// The algorithms that are taken, in order of preference: a key that does not say its algorithm signs with the first that fits it. At
    /// least one.
    pub algorithms: Vec<Algorithm>,
    /// The claim with the users' roles: its name, or, beginning with `/`, a JSON pointer (RFC 6901) such as `/realm_access/roles`. None:
    /// its users have no roles.
    pub roles_claim: Option<String>,
}

/// An issuer with the keys of the day.
#[derive(Clone, Debug)]
pub struct UserIssuer {
    settings: UserIssuerSettings,
    // INVARIANT: each with one algorithm, out of the settings'.
    keys: Vec<PinnedKey>,
}

/// A key and the one algorithm it signs with (RFC 8725 §3.1).
#[derive(Clone, Debug)]
pub(super) struct PinnedKey {
    pub(super) key_id: Box<str>,
    pub(super) key: PublicKey,
    pub(super) algorithm: Algorithm,
}

/// Settings that no issuer can have.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum UserIssuerError {
    /// Not the URL of an issuer.
    #[error("`{}` is no issuer's URL: `https://HOST[:PORT][/PATH]` is, of at most {} visible ASCII characters, without user, query and fragment", .url.escape_debug(), UserIssuer::MAX_URL_BYTES)]
    Url {
        /// What was given, cut to 300 characters.
        url: String,
    },
    /// Nobody could be told its tokens are for them.
    #[error("the issuer `{name}` has {count} audiences; 1 to {} are possible", MAX_AUDIENCES)]
    Audiences {
        /// Whose.
        name: IssuerName,
        /// How many.
        count: usize,
    },
    /// An audience that is empty or too long.
    #[error("an audience of the issuer `{name}` has {bytes} bytes; 1 to {} are possible", UserIssuer::MAX_TEXT_BYTES)]
    Audience {
        /// Whose.
        name: IssuerName,
        /// Its length.
        bytes: usize,
    },
    /// Nothing to sign with.
    #[error("the issuer `{name}` has no algorithm; most sign with RS256 or ES256")]
    NoAlgorithm {
        /// Whose.
        name: IssuerName,
    },
    /// One algorithm twice, so that nobody can tell the order.
    #[error("the issuer `{name}` has the algorithm {algorithm} twice")]
    AlgorithmTwice {
        /// Whose.
        name: IssuerName,
        /// Which.
        algorithm: Algorithm,
    },
    /// A claim that is empty or too long, or a pointer with a bad escape.
    #[error("`{}` names no claim for roles: a name, or a JSON pointer such as `/realm_access/roles`, of at most {} bytes", .claim.escape_debug(), UserIssuer::MAX_TEXT_BYTES)]
    RolesClaim {
        /// What was given, cut to 300 characters.
        claim: String,
    },
}

impl UserIssuer {
    /// The longest URL.
    pub const MAX_URL_BYTES: usize = 256;
    /// The longest audience, and name of a claim.
    pub const MAX_TEXT_BYTES: usize = 256;

    /// An issuer, its settings checked, with these keys. None of them is used with an algorithm that the settings do not have.
    ///
    /// # Errors
    /// When the settings cannot be those of an issuer.
    pub fn new(settings: UserIssuerSettings, keys: &IssuerKeys) -> Result<Self, UserIssuerError> {
        let name = || settings.name.clone();
        if !is_issuer_url(&settings.url) {
            return Err(UserIssuerError::Url { url: settings.url.chars().take(300).collect() });
        }
        if !(1..=MAX_AUDIENCES).contains(&settings.audiences.len()) {
            return Err(UserIssuerError::Audiences { name: name(), count: settings.audiences.len() });
        }
        let fits = |text: &str| (1..=Self::MAX_TEXT_BYTES).contains(&text.len());
        if let Some(audience) = settings.audiences.iter().find(|audience| !fits(audience)) {
            return Err(UserIssuerError::Audience { name: name(), bytes: audience.len() });
        }
        if settings.algorithms.is_empty() {
            return Err(UserIssuerError::NoAlgorithm { name: name() });
        }
        let twice = |at, algorithm: &Algorithm| settings.algorithms.iter().take(at).any(|earlier| earlier == algorithm);
        if let Some((_, algorithm)) = settings.algorithms.iter().enumerate().find(|(at, found)| twice(*at, found)) {
            return Err(UserIssuerError::AlgorithmTwice { name: name(), algorithm: *algorithm });
        }
        if let Some(claim) = settings.roles_claim.as_ref().filter(|claim| !fits(claim) || !is_claim(claim)) {
            return Err(UserIssuerError::RolesClaim { claim: claim.chars().take(300).collect() });
        }
        let keys = keys.pinned(&settings.algorithms);
        Ok(Self { settings, keys })
    }

    /// What was said of it.
    #[must_use]
    pub fn settings(&self) -> &UserIssuerSettings {
        &self.settings
    }

    /// Its name here.
    #[must_use]
    pub fn name(&self) -> &IssuerName {
        &self.settings.name
    }

    /// Whether it has a key of this ID that is used.
    #[must_use]
    pub fn has_key(&self, key_id: &str) -> bool {
        self.key(key_id).is_some()
    }

    /// How many of its keys are used.
    #[must_use]
    pub fn key_count(&self) -> usize {
        self.keys.len()
    }

    pub(super) fn key(&self, key_id: &str) -> Option<&PinnedKey> {
        self.keys.iter().find(|key| *key.key_id == *key_id)
    }
}

/// OpenID Connect Discovery §3: `https`, no query, no fragment.
fn is_issuer_url(url: &str) -> bool {
    let Some(rest) = url.strip_prefix("https://") else { return false };
    let authority = rest.split('/').next().unwrap_or_default();
    url.len() <= UserIssuer::MAX_URL_BYTES
        && url.bytes().all(|byte| matches!(byte, b'!'..=b'~') && !matches!(byte, b'?' | b'#' | b'"' | b'\\'))
        && !authority.is_empty()
        && !authority.starts_with(':')
        && !authority.contains('@')
}

fn is_claim(claim: &str) -> bool {
    let mut parts = claim.split('~');
    parts.next();
    !claim.starts_with('/') || parts.all(|after| after.starts_with(['0', '1']))
}

/// All issuers of users that are believed, each once. Cheap to clone.
#[derive(Clone, Default)]
pub struct UserIssuers(Arc<[UserIssuer]>);

/// Issuers that cannot be told apart, or are too many.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum UserIssuersError {
    /// Two under one name.
    #[error("two issuers are named `{name}`")]
    NameTwice {
        /// The name.
        name: IssuerName,
    },
    /// Two with one URL.
    #[error("the issuers `{one}` and `{other}` have one URL")]
    UrlTwice {
        /// The one.
        one: IssuerName,
        /// The other.
        other: IssuerName,
    },
    /// More than are looked after.
    #[error("{count} issuers are more than {}", UserIssuers::MOST)]
    TooMany {
        /// How many.
        count: usize,
    },
}

impl UserIssuers {
    /// The most issuers.
    pub const MOST: usize = 64;

    /// These issuers.
    ///
    /// # Errors
    /// When two have one name or one URL, or there are too many.
    pub fn new(issuers: Vec<UserIssuer>) -> Result<Self, UserIssuersError> {
        if issuers.len() > Self::MOST {
            return Err(UserIssuersError::TooMany { count: issuers.len() });
        }
        for (at, issuer) in issuers.iter().enumerate() {
            for earlier in issuers.iter().take(at) {
                if earlier.name() == issuer.name() {
                    return Err(UserIssuersError::NameTwice { name: issuer.name().clone() });
                }
                if earlier.settings.url == issuer.settings.url {
                    let (one, other) = (earlier.name().clone(), issuer.name().clone());
                    return Err(UserIssuersError::UrlTwice { one, other });
                }
            }
        }
        Ok(Self(issuers.into()))
    }

    /// The one of this name.
    #[must_use]
    pub fn named(&self, name: &str) -> Option<&UserIssuer> {
        self.0.iter().find(|issuer| issuer.name().as_str() == name)
    }

    /// The one whose `iss` this is.
    #[must_use]
    pub fn of_url(&self, url: &str) -> Option<&UserIssuer> {
        self.0.iter().find(|issuer| issuer.settings.url == url)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &UserIssuer> {
        self.0.iter()
    }

    /// Whether nobody is believed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Those of these names alone: what an edge is given may be fewer than the trust domain has.
    #[must_use]
    pub fn only(&self, names: &[IssuerName]) -> Self {
        Self(self.0.iter().filter(|issuer| names.contains(issuer.name())).cloned().collect())
    }
}

impl fmt::Debug for UserIssuers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = self.0.iter().map(|issuer| (issuer.name().as_str(), issuer.keys.len()));
        f.debug_map().entries(shown).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> UserIssuerSettings {
        UserIssuerSettings {
            name: IssuerName::parse("corp").unwrap(),
            url: "https://login.example.com".into(),
            audiences: vec!["photo".into()],
            algorithms: vec![Algorithm::Rs256],
            roles_claim: None,
        }
    }

    fn code(change: impl FnOnce(&mut UserIssuerSettings)) -> String {
        let mut settings = settings();
        change(&mut settings);
        match UserIssuer::new(settings, &IssuerKeys::default()) {
            Ok(issuer) => format!("ok {}", issuer.key_count()),
            Err(error) => error.to_string().chars().take(40).collect(),
        }
    }

    #[test]
    fn urls_of_issuers() {
        let of_length = |length: usize| format!("https://a/{}", "b".repeat(length - 10));
        for (url, valid) in [
            ("https://login.example.com", true),
            ("https://login.example.com/", true),
            ("https://login.example.com:5556/dex", true),
            ("https://[::1]:5556/dex", true),
            ("http://login.example.com", false),
            ("HTTPS://login.example.com", false),
            ("login.example.com", false),
            ("https://", false),
            ("https:///dex", false),
            ("https://:5556/dex", false),
            ("https://user@login.example.com", false),
            ("https://login.example.com?a", false),
            ("https://login.example.com#a", false),
            ("https://login.example.com/a b", false),
            ("https://lögin.example.com", false),
            (&of_length(256), true),
            (&of_length(257), false),
        ] {
            assert_eq!(code(|settings| settings.url = url.into()) == "ok 0", valid, "{url}");
        }
    }

    #[test]
    fn settings_by_what_is_wrong_with_them() {
        let text = |length| "a".repeat(length);
        assert_eq!(code(|settings| settings.audiences.clear()), "the issuer `corp` has 0 audiences; 1 to ");
        assert_eq!(
            code(|settings| settings.audiences = vec!["a".into(); 33]),
            "the issuer `corp` has 33 audiences; 1 to"
        );
        assert_eq!(code(|settings| settings.audiences.push(String::new())), "an audience of the issuer `corp` has 0 b");
        assert_eq!(code(|settings| settings.audiences.push(text(257))), "an audience of the issuer `corp` has 257");
        assert_eq!(code(|settings| settings.algorithms.clear()), "the issuer `corp` has no algorithm; most");
        assert_eq!(
            code(|settings| settings.algorithms.push(Algorithm::Rs256)),
            "the issuer `corp` has the algorithm RS25"
        );
        for (claim, valid) in [
            ("groups", true),
            ("https://example.com/roles", true),
            ("/realm_access/roles", true),
            ("/a~1b~0c", true),
            ("a~b", true),
            ("/a~b", false),
            ("/a~", false),
            ("", false),
            (&text(257), false),
        ] {
            assert_eq!(code(|settings| settings.roles_claim = Some(claim.into())) == "ok 0", valid, "{claim}");
        }
    }

    #[test]
    fn issuers_are_told_apart_by_name_and_url_and_bounded() {
        let issuer = |name: &str, url: &str| {
            let settings = UserIssuerSettings { name: IssuerName::parse(name).unwrap(), url: url.into(), ..settings() };
            UserIssuer::new(settings, &IssuerKeys::default()).unwrap()
        };
        let (a, b) = (issuer("a", "https://a"), issuer("b", "https://b"));
        let both = UserIssuers::new(vec![a.clone(), b.clone()]).unwrap();
        assert_eq!(both.named("b").map(|issuer| issuer.settings().url.as_str()), Some("https://b"));
        assert_eq!(both.of_url("https://a").map(|issuer| issuer.name().as_str()), Some("a"));
        assert!(both.of_url("https://a/").is_none() && both.named("c").is_none());
        assert!(both.only(std::slice::from_ref(b.name())).named("a").is_none());
        assert_eq!(format!("{both:?}"), r#"{"a": 0, "b": 0}"#);
        let twice = UserIssuers::new(vec![a.clone(), issuer("a", "https://c")]).unwrap_err();
        assert_eq!(twice, UserIssuersError::NameTwice { name: a.name().clone() });
        let twice = UserIssuers::new(vec![a.clone(), issuer("c", "https://a")]).unwrap_err();
        assert_eq!(twice.to_string(), "the issuers `a` and `c` have one URL");
        let many = |count: usize| {
            UserIssuers::new((0..count).map(|at| issuer(&format!("i{at}"), &format!("https://i{at}"))).collect())
        };
        assert!(many(64).is_ok());
        assert_eq!(many(65).unwrap_err(), UserIssuersError::TooMany { count: 65 });
    }
}
