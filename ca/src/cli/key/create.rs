//! `bonafide-ca key create`.

use std::{fs, path::PathBuf, sync::Arc, time::Duration};

use bonafide_verifier::{
    api_key::ApiKey,
    caller::RoleName,
    clock::{Clock as _, SystemClock, Timestamp},
    key_records::{CallerKey, KeyKind, KeyRecord, KeyRecords, Keyed, MAX_SECRETS, MOST_LIFETIME, Secrets},
    shared_secret::SharedSecret,
    spiffe::SpiffeId,
};
use clap::Args;
use serde::Serialize;

use super::{
    In,
    file::{KeyFile, write_secret},
};
use crate::cli::Failure;
use crate::cli::output::Output;
use crate::settings::duration;

/// Create a key: the record goes into the service's file, the secret into a file for the caller
///
/// The secret is made here, of 256 random bits, and is shown nowhere: give the caller its file. For an API key the record holds
/// SHA-256 of it alone; a shared secret is wrapped there under a key that lies in a file of its own, which the service needs too.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  bonafide-ca key create --file keys.toml --rotate export-3f9a1c --secret-file export.new.key

A first key of /export for the service /config:
  bonafide-ca key create --file keys.toml --secret-file export.key --kind api-key --owner \\
    spiffe://example.org/export --audience spiffe://example.org/config --role reader

Both secrets of a rotated key are good until the old one is revoked.")]
pub(crate) struct Create {
    #[command(flatten)]
    records: In,
    /// The new file that the caller gets, with mode 0600; it must not be there yet
    #[arg(long, value_name = "FILE")]
    secret_file: PathBuf,
    /// Make a second secret for this record instead of a new record
    #[arg(long, value_name = "ID", conflicts_with_all = ["kind", "owner", "audience", "subject", "role", "max_lifetime", "id"])]
    rotate: Option<String>,
    /// `api-key`, or `shared-secret` for HS256 tokens
    #[arg(long, value_name = "KIND", value_parser = parse_kind, required_unless_present = "rotate")]
    kind: Option<KeyKind>,
    /// Whom the key proves
    #[arg(long, value_name = "SPIFFE-ID", value_parser = parse_owner, required_unless_present = "rotate")]
    owner: Option<SpiffeId>,
    /// The service that takes the key, by the name that it goes by
    #[arg(long, value_name = "NAME", required_unless_present = "rotate")]
    audience: Option<String>,
    /// The `sub` of the caller's tokens, if it is not the owner's SPIFFE ID (shared secrets)
    #[arg(long, value_name = "TEXT")]
    subject: Option<String>,
    /// A role that the caller has; may be given several times
    #[arg(long, value_name = "ROLE", value_parser = parse_role)]
    role: Vec<RoleName>,
    /// The longest that a token may live, at most 10m (shared secrets; default 10m)
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    max_lifetime: Option<Duration>,
    /// The file of the key that shared secrets are wrapped under in the file of records; made if it is not there (default: FILE.wrap)
    #[arg(long, value_name = "FILE")]
    wrapping_key: Option<PathBuf>,
    /// When the key ends (default: 90d from now; for a rotated one as before)
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    expires_in: Option<Duration>,
    /// The record's ID (default: the last part of the owner's and six random digits)
    #[arg(long, value_name = "ID")]
    id: Option<String>,
    #[command(flatten)]
    output: Output,
}

const DEFAULT_LIFE: Duration = Duration::from_secs(90 * 24 * 3600);

#[derive(Serialize)]
struct Created {
    id: String,
    key_id: String,
    kind: &'static str,
    owner: String,
    expires_at: String,
    secret_file: PathBuf,
    /// Other keys of the record that are still good.
    replaced: Vec<String>,
}

impl Create {
    pub(crate) fn run(self) -> Result<(), Failure> {
        let mut file = KeyFile::open(&self.records.file)?;
        let now = whole_seconds(SystemClock.now());
        let mut records: Vec<KeyRecord> = file.records().map(|records| records.records().to_vec()).unwrap_or_default();
        let (index, caller_key) = match &self.rotate {
            Some(id) => rotate(&mut records, id, self.expires_in, now)?,
            None => {
                let (record, caller_key) = self.record(now)?;
                records.push(record);
                (records.len() - 1, caller_key)
            }
        };
        let record = records.get(index).ok_or_else(no_randomness)?.clone();
        let trust_domain = match file.records() {
            Some(records) => records.trust_domain().clone(),
            None => record.owner.trust_domain().clone(),
        };
        let records = KeyRecords::new(trust_domain, records).map_err(|(_, flaw)| Failure::Usage(flaw.to_string()))?;
        if record.kind() == KeyKind::SharedSecret {
            file.wrap_secrets(self.wrapping_key.as_deref())?;
        } else if self.wrapping_key.is_some() {
            return Err(Failure::Usage(
                "--wrapping-key is for shared secrets; of an API key only a hash is kept".to_owned(),
            ));
        }
        // The caller's first: a record whose secret nobody has would be of no use, and would have to be found and revoked.
        write_secret(&self.secret_file, &caller_key.expose_secret_file())?;
        if let Err(failure) = file.replace(&records) {
            let _ = fs::remove_file(&self.secret_file);
            return Err(failure);
        }
        let key_id = caller_key.key_id().to_owned();
        let created = Created {
            id: record.id.to_string(),
            kind: record.kind().as_str(),
            owner: record.owner.to_string(),
            expires_at: record.expires_at.to_string(),
            secret_file: self.secret_file,
            replaced: record.keys().map(|(key_id, _)| key_id.to_string()).filter(|other| *other != key_id).collect(),
            key_id,
        };
        self.output.print(&created, |created| {
            let old = match created.replaced.first() {
                Some(old) => format!("\nwhen nobody uses it any more: bonafide-ca key revoke {old} --file ..."),
                None => String::new(),
            };
            format!(
                "{} {} for {}, good until {}; its secret is in {}{old}",
                created.kind,
                created.key_id,
                created.owner,
                created.expires_at,
                created.secret_file.display()
            )
        })
    }

    fn record(&self, now: Timestamp) -> Result<(KeyRecord, CallerKey), Failure> {
        let (Some(kind), Some(owner), Some(audience)) = (self.kind, self.owner.clone(), self.audience.as_deref())
        else {
            return Err(Failure::Usage("name --kind, --owner and --audience".to_owned()));
        };
        if kind == KeyKind::ApiKey && (self.subject.is_some() || self.max_lifetime.is_some()) {
            return Err(Failure::Usage(
                "--subject and --max-lifetime are for shared secrets; an API key has neither".to_owned(),
            ));
        }
        let id: Arc<str> = match &self.id {
            Some(id) => id.as_str().into(),
            None => default_id(&owner)?.into(),
        };
        let key_id: Arc<str> = format!("{id}.1").into();
        let (secrets, api_key) = match kind {
            KeyKind::ApiKey => {
                let (keyed, key) = api_key(key_id, now)?;
                (Secrets::ApiKey(vec![keyed]), Some(key))
            }
            KeyKind::SharedSecret => (Secrets::Shared(vec![shared_secret(key_id, now)?]), None),
        };
        let record = KeyRecord {
            id,
            audience: audience.into(),
            subject: self.subject.as_deref().unwrap_or(owner.as_str()).into(),
            roles: self.role.iter().cloned().collect(),
            most_lifetime: self.max_lifetime.unwrap_or(MOST_LIFETIME),
            expires_at: now.saturating_add(self.expires_in.unwrap_or(DEFAULT_LIFE)),
            secrets,
            owner,
        };
        let caller_key = api_key.map(CallerKey::ApiKey).or_else(|| CallerKey::of_shared_secret(&record));
        Ok((record, caller_key.ok_or_else(no_randomness)?))
    }
}

/// Gives the record a second secret.
fn rotate(
    records: &mut [KeyRecord],
    id: &str,
    expires_in: Option<Duration>,
    now: Timestamp,
) -> Result<(usize, CallerKey), Failure> {
    let Some((index, record)) = records.iter_mut().enumerate().find(|(_, record)| *record.id == *id) else {
        return Err(super::revoke::unknown(id));
    };
    let keys: Vec<_> = record.keys().map(|(key_id, _)| key_id.to_string()).collect();
    if keys.len() >= MAX_SECRETS {
        return Err(Failure::Refused {
            message: format!("`{id}` has two secrets already; revoke the old one, `{}`, first", keys.join("` or `")),
            code: "two-secrets".to_owned(),
        });
    }
    if let Some(expires_in) = expires_in {
        record.expires_at = now.saturating_add(expires_in);
    }
    let last = keys.iter().filter_map(|key_id| key_id.rsplit('.').next()?.parse::<u32>().ok()).max().unwrap_or(0);
    let key_id: Arc<str> = format!("{id}.{}", last.saturating_add(1)).into();
    let caller_key = match &mut record.secrets {
        Secrets::ApiKey(secrets) => {
            let (keyed, key) = api_key(key_id, now)?;
            secrets.push(keyed);
            CallerKey::ApiKey(key)
        }
        Secrets::Shared(secrets) => {
            secrets.push(shared_secret(key_id, now)?);
            CallerKey::of_shared_secret(record).ok_or_else(no_randomness)?
        }
    };
    Ok((index, caller_key))
}

fn api_key(
    key_id: Arc<str>,
    created_at: Timestamp,
) -> Result<(Keyed<bonafide_verifier::api_key::SecretHash>, ApiKey), Failure> {
    let key = ApiKey::generate(&key_id).ok_or_else(|| {
        Failure::Usage(format!("`{key_id}` cannot be the ID of a key: letters, digits, `.`, `_` and `-` can"))
    })?;
    Ok((Keyed { key_id, secret: key.hash(), created_at }, key))
}

fn shared_secret(key_id: Arc<str>, created_at: Timestamp) -> Result<Keyed<SharedSecret>, Failure> {
    Ok(Keyed { key_id, secret: SharedSecret::generate().ok_or_else(no_randomness)?, created_at })
}

/// `export-3f9a1c`
fn default_id(owner: &SpiffeId) -> Result<String, Failure> {
    let mut random = [0_u8; 3];
    aws_lc_rs::rand::fill(&mut random).map_err(|_| no_randomness())?;
    let name: String = owner.segments().last().unwrap_or_default().chars().take(32).collect();
    Ok(format!("{name}-{}", data_encoding::HEXLOWER.encode(&random)))
}

pub(super) fn no_randomness() -> Failure {
    Failure::Failed("the operating system gives no random numbers".to_owned())
}

/// As the file can say it.
fn whole_seconds(at: Timestamp) -> Timestamp {
    Timestamp::from_unix_seconds(at.unix_seconds())
}

fn parse_kind(text: &str) -> Result<KeyKind, String> {
    KeyKind::parse(text).ok_or_else(|| "it is `api-key` or `shared-secret`".to_owned())
}

fn parse_owner(text: &str) -> Result<SpiffeId, String> {
    SpiffeId::parse(text).map_err(|error| error.to_string())
}

fn parse_role(text: &str) -> Result<RoleName, String> {
    RoleName::parse(text).map_err(|error| error.to_string())
}
