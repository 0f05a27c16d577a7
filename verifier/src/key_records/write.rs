//! The file of key records, written so that it reads back as the same.

use std::fmt::Write;

use zeroize::Zeroizing;

use super::{
    KeyKind, KeyRecords, Secrets,
    wrapping::{MEMBER, Wrapping},
};
use crate::x509::Hex;

impl KeyRecords {
    /// The file, which holds the shared secrets: it goes into a file that its owner alone can read.
    #[must_use]
    pub fn expose_secret_toml(&self) -> Zeroizing<String> {
        // Without a key nothing can fail.
        self.toml(None).unwrap_or_default()
    }

    /// The file, with shared secrets wrapped. None if there is no randomness.
    #[must_use]
    pub fn wrapped_toml(&self, wrapping: &Wrapping) -> Option<Zeroizing<String>> {
        self.toml(Some(wrapping))
    }

    fn toml(&self, wrapping: Option<&Wrapping>) -> Option<Zeroizing<String>> {
        // As large as it can get, so that no copy is left behind by growing.
        let mut file = Zeroizing::new(String::with_capacity(8192 + self.records().iter().map(room_for).sum::<usize>()));
        file.push_str("# Keys of callers. Written by `bonafide-ca key`; keep it readable by its owner alone (mode 0600).\nversion = 1\n");
        if let Some(wrapping) = wrapping {
            // Writing to a string cannot fail.
            let _ = writeln!(file, "{MEMBER} = {}", toml::Value::String(wrapping.file.to_string()));
        }
        for record in self.records() {
            let text = |text: &str| toml::Value::String(text.to_owned()).to_string();
            let mut line = |member: &str, value: &dyn std::fmt::Display| {
                // Writing to a string cannot fail.
                let _ = writeln!(file, "{member} = {value}");
            };
            line("\n[[key]]\nid", &text(&record.id));
            line("kind", &text(record.kind().as_str()));
            line("owner", &text(record.owner.as_str()));
            line("audience", &text(&record.audience));
            if record.kind() == KeyKind::SharedSecret {
                line("subject", &text(&record.subject));
                line("max-lifetime-s", &record.most_lifetime.as_secs());
            }
            let roles: Vec<_> = record.roles.iter().map(|role| text(role.as_str())).collect();
            line("roles", &format_args!("[{}]", roles.join(", ")));
            line("expires", &record.expires_at);
            match &record.secrets {
                Secrets::Shared(secrets) => {
                    for keyed in secrets {
                        line("\n[[key.secret]]\nid", &text(&keyed.key_id));
                        match wrapping {
                            Some(wrapping) => {
                                let wrapped = wrapping.key.wrap(&keyed.key_id, &keyed.secret)?;
                                line("wrapped", &format_args!("\"{wrapped}\""));
                            }
                            None => line("value", &format_args!("\"{}\"", keyed.secret.expose_secret().as_str())),
                        }
                        line("created", &keyed.created_at);
                    }
                }
                Secrets::ApiKey(secrets) => {
                    for keyed in secrets {
                        line("\n[[key.secret]]\nid", &text(&keyed.key_id));
                        line("sha256", &format_args!("\"{}\"", Hex(keyed.secret.as_bytes())));
                        line("created", &keyed.created_at);
                    }
                }
            }
        }
        Some(file)
    }
}

/// More than a record takes, with every character of its texts escaped.
fn room_for(record: &super::KeyRecord) -> usize {
    let texts = record.id.len() + record.owner.as_str().len() + record.audience.len() + record.subject.len();
    let roles: usize = record.roles.iter().map(|role| role.as_str().len() + 8).sum();
    1024 + 6 * texts + roles + super::MAX_SECRETS * 1024
}
