//! The caller's side of a key: the file that `bonafide-ca key create` writes for it, and what it sends with it.
//!
//! An API key is one line, `<key-id>.<secret>`. A shared secret comes with what its tokens have to say, as TOML.

use std::{fmt, sync::Arc, time::Duration};

use toml::de::DeTable;
use zeroize::Zeroizing;

use super::{
    KeyRecord, KeyRecordFlaw, KeyRecordsError, Keyed, MOST_LIFETIME, Position, Secrets,
    syntax::{Members, Wrong, read_roles, whole},
};
use crate::{
    api_key::ApiKey,
    caller::{RoleName, Roles},
    clock::Timestamp,
    jwt::{Claimed, mint_shared_secret_token},
    shared_secret::SharedSecret,
};

/// What a caller holds. `Debug` shows the key's ID alone.
pub enum CallerKey {
    /// Sent as it is.
    ApiKey(ApiKey),
    /// Signs tokens, and is never sent.
    SharedSecret(Box<TokenKey>),
}

/// A shared secret and what its tokens say.
pub struct TokenKey {
    key_id: Arc<str>,
    secret: SharedSecret,
    subject: Arc<str>,
    audience: Arc<str>,
    roles: Roles,
    most_lifetime: Duration,
    expires_at: Timestamp,
}

/// Why a caller cannot use its key.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum CallerKeyError {
    /// The key has ended.
    #[error("the key `{key_id}` ended at {expires_at}; get a new one, made with `bonafide-ca key create`")]
    Expired {
        /// Its ID.
        key_id: Arc<str>,
        /// When.
        expires_at: Timestamp,
    },
    /// The operating system has no random numbers.
    #[error("the operating system gives no random numbers")]
    NoRandomness,
}

impl CallerKey {
    /// The caller's side of the newest secret of a record.
    #[must_use]
    pub fn of_shared_secret(record: &KeyRecord) -> Option<Self> {
        let Secrets::Shared(secrets) = &record.secrets else { return None };
        let Keyed { key_id, secret, .. } = secrets.last()?.clone();
        Some(Self::SharedSecret(Box::new(TokenKey {
            key_id,
            secret,
            subject: Arc::clone(&record.subject),
            audience: Arc::clone(&record.audience),
            roles: record.roles.clone(),
            most_lifetime: record.most_lifetime,
            expires_at: record.expires_at,
        })))
    }

    /// Reads the file.
    ///
    /// # Errors
    /// When it is neither an API key nor a shared secret of this form.
    pub fn parse(text: &str) -> Result<Self, KeyRecordsError> {
        if let Ok(key) = ApiKey::parse(text.strip_suffix('\n').unwrap_or(text)) {
            return Ok(Self::ApiKey(key));
        }
        let wrong = |(offset, flaw)| KeyRecordsError { at: Position::of(text, offset), flaw };
        if text.len() > super::MAX_FILE_BYTES {
            return Err(wrong((0, KeyRecordFlaw::TooLarge { bytes: text.len() })));
        }
        // What the parser says is left out: it could quote a line that holds a secret.
        let file = DeTable::parse(text)
            .map_err(|error| wrong((error.span().map_or(0, |span| span.start), KeyRecordFlaw::Syntax)))?;
        let members = Members { start: file.span().start, table: file.get_ref() };
        read(&members).map(|key| Self::SharedSecret(Box::new(key))).map_err(wrong)
    }

    /// The file, which is the secret: it goes into a file that its owner alone can read.
    #[must_use]
    pub fn expose_secret_file(&self) -> Zeroizing<String> {
        match self {
            Self::ApiKey(key) => Zeroizing::new(format!("{}\n", key.expose_secret().as_str())),
            Self::SharedSecret(key) => {
                let text = |text: &str| toml::Value::String(text.to_owned()).to_string();
                let roles: Vec<_> = key.roles.iter().map(|role| text(role.as_str())).collect();
                Zeroizing::new(format!(
                    "# A secret to sign tokens with. Written by `bonafide-ca key`; keep it readable by its owner alone (mode 0600).\n\
                     version = 1\nkey-id = {}\nsecret = \"{}\"\nsubject = {}\naudience = {}\nroles = [{}]\n\
                     max-lifetime-s = {}\nexpires = {}\n",
                    text(&key.key_id),
                    key.secret.expose_secret().as_str(),
                    text(&key.subject),
                    text(&key.audience),
                    roles.join(", "),
                    key.most_lifetime.as_secs(),
                    key.expires_at,
                ))
            }
        }
    }

    /// Its ID.
    #[must_use]
    pub fn key_id(&self) -> &str {
        match self {
            Self::ApiKey(key) => key.key_id(),
            Self::SharedSecret(key) => &key.key_id,
        }
    }

    /// The value of `authorization` for a request at this time: the API key, or a new token, good for at most `lifetime`, that asserts
    /// all roles of the key.
    ///
    /// # Errors
    /// When the key has ended, or there is no randomness.
    pub fn authorization(&self, lifetime: Duration, now: Timestamp) -> Result<Zeroizing<String>, CallerKeyError> {
        match self {
            Self::ApiKey(key) => Ok(Zeroizing::new(format!("ApiKey {}", key.expose_secret().as_str()))),
            Self::SharedSecret(key) if key.expires_at <= now => {
                Err(CallerKeyError::Expired { key_id: Arc::clone(&key.key_id), expires_at: key.expires_at })
            }
            Self::SharedSecret(key) => {
                let claimed = Claimed {
                    key_id: &key.key_id,
                    subject: &key.subject,
                    audience: &key.audience,
                    roles: &key.roles,
                    lifetime: lifetime.min(key.most_lifetime),
                };
                let token = mint_shared_secret_token(&key.secret, &claimed, now).ok_or(CallerKeyError::NoRandomness)?;
                Ok(Zeroizing::new(format!("Bearer {}", token.as_str())))
            }
        }
    }
}

fn read(file: &Members<'_, '_>) -> Result<TokenKey, Wrong> {
    file.only(&["version", "key-id", "secret", "subject", "audience", "roles", "max-lifetime-s", "expires"])?;
    let version = file.required("version")?;
    if whole(version) != Some(1) {
        return Err((version.span().start, KeyRecordFlaw::Version));
    }
    let (key_id_at, key_id) = file.text("key-id")?;
    if !crate::api_key::is_key_id(key_id) {
        return Err((key_id_at, KeyRecordFlaw::KeyId { key_id: key_id.chars().take(64).collect() }));
    }
    let (secret_at, secret) = file.text("secret")?;
    let lifetime_at = file.required("max-lifetime-s")?;
    let seconds = whole(lifetime_at).unwrap_or_default();
    if seconds == 0 || seconds > MOST_LIFETIME.as_secs() {
        return Err((lifetime_at.span().start, KeyRecordFlaw::Lifetime { seconds }));
    }
    Ok(TokenKey {
        key_id: key_id.into(),
        secret: SharedSecret::parse(secret).map_err(|error| (secret_at, KeyRecordFlaw::Secret(error)))?,
        subject: file.text("subject")?.1.into(),
        audience: file.text("audience")?.1.into(),
        roles: read_roles(file)?,
        most_lifetime: Duration::from_secs(seconds),
        expires_at: file.date("expires")?,
    })
}

impl fmt::Debug for CallerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("CallerKey").field(&self.key_id()).finish()
    }
}

impl fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let roles: Vec<_> = self.roles.iter().map(RoleName::as_str).collect();
        f.debug_struct("TokenKey").field("key_id", &self.key_id).field("roles", &roles).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{key_records::KeyRecords, spiffe::TrustDomain};

    #[test]
    fn the_file_of_a_caller_is_read_back_and_good_for_a_request() {
        let records = KeyRecords::parse(
            r#"
            version = 1
            [[key]]
            id = "export"
            kind = "shared-secret"
            owner = "spiffe://example.org/export"
            audience = "spiffe://example.org/config"
            roles = ["reader"]
            max-lifetime-s = 120
            expires = 2027-03-31T00:00:00Z
            [[key.secret]]
            id = "export.1"
            value = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"
            created = 2026-11-24T00:00:00Z
            "#,
            &TrustDomain::parse("example.org").unwrap(),
        )
        .unwrap();
        let key = CallerKey::of_shared_secret(&records.records()[0]).unwrap();
        let file = key.expose_secret_file();
        let again = CallerKey::parse(&file).unwrap();
        assert_eq!(*again.expose_secret_file(), *file);
        let CallerKey::SharedSecret(token_key) = &again else { panic!("a shared secret") };
        assert!(!format!("{again:?} {token_key:?}").contains("AAEC"));
        let now = Timestamp::from_unix_seconds(1_795_424_400);
        assert!(again.authorization(Duration::from_secs(600), now).unwrap().starts_with("Bearer "));
        let late = again.authorization(Duration::from_secs(600), Timestamp::MAX);
        assert!(matches!(late, Err(CallerKeyError::Expired { .. })));

        let key = CallerKey::ApiKey(ApiKey::generate("export.1").unwrap());
        let file = key.expose_secret_file();
        let again = CallerKey::parse(&file).unwrap();
        assert_eq!(*again.authorization(Duration::ZERO, now).unwrap(), format!("ApiKey {}", file.trim_end()));
        assert!(!format!("{again:?}").contains(file.rsplit('.').next().unwrap().trim_end()));
    }

    #[test]
    fn what_is_no_key_of_a_caller_and_quotes_no_secret() {
        let secret = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8";
        for text in [
            secret.to_owned(),
            format!("a b.{secret}"),
            format!("version = 1\nsecret = \"{secret}"),
            format!("secret = \"{secret}\""),
        ] {
            let error = CallerKey::parse(&text).unwrap_err();
            assert!(!format!("{error} {error:?}").contains("AAEC"), "{error}");
        }
    }
}
