//! Tokens: what is in them, and what the verifier says. Shown claims are not believed.

use base64ct::{Base64UrlUnpadded, Encoding};
use bonafide_verifier::{clock::Timestamp, jwt};
use serde_json::Value;

use super::{Judge, Report, Verdict};

/// Three parts of base64url, as a JWS in compact form has.
pub(super) fn looks_like_one(text: &str) -> bool {
    let alphabet = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    text.bytes().all(alphabet) && text.bytes().filter(|byte| *byte == b'.').count() == 2 && text.starts_with("ey")
}

pub(super) fn examine(token: &str, judge: &Judge) -> Report {
    let mut report = Report { kind: "jwt-svid", ..Report::default() };
    let mut parts = token.split('.');
    let (header, claims) = (parts.next().and_then(part), parts.next().and_then(part));
    if let Some(header) = header {
        for name in ["alg", "kid", "typ"] {
            if let Some(value) = header.get(name) {
                report.rows.push((name, plain(value)));
            }
        }
        report.json.insert("header".into(), header);
    }
    if let Some(claims) = claims {
        for (name, value) in claims.as_object().into_iter().flatten() {
            let value = match (name.as_str(), value.as_i64()) {
                ("exp" | "iat" | "nbf", Some(seconds)) => {
                    format!("{seconds} ({})", Timestamp::from_unix_seconds(seconds))
                }
                _ => plain(value),
            };
            report.rows.push((label(name), if label(name).is_empty() { format!("{name}: {value}") } else { value }));
        }
        report.json.insert("claims".into(), claims);
    }
    report.verdict = match &judge.bundles {
        None => jwt::UnverifiedJwt::parse(token).err().map(|error| Verdict::refused(error.code(), error)),
        Some(bundles) => {
            let audience: Vec<&str> = judge.audience.iter().map(String::as_str).collect();
            Some(match jwt::verify(token, &audience, bundles, judge.at) {
                Ok(verified) => Verdict::Accepted {
                    rows: vec![("identity", verified.id().to_string()), ("until", verified.expires_at().to_string())],
                },
                Err(error) => Verdict::refused(error.code(), error),
            })
        }
    };
    report
}

fn part(text: &str) -> Option<Value> {
    let bytes = Base64UrlUnpadded::decode_vec(text).ok()?;
    serde_json::from_slice(&bytes).ok()
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn label(claim: &str) -> &'static str {
    match claim {
        "sub" => "sub",
        "aud" => "aud",
        "exp" => "exp",
        "iat" => "iat",
        "nbf" => "nbf",
        "iss" => "iss",
        "jti" => "jti",
        _ => "",
    }
}
