//! `inspect`: what a chain, token, bundle or live server is, and with bundles what the verifier says of it. No agent and no CA
//! is asked.
//!
//! Exit code 0: shown, and accepted if there was a verdict. 3: refused, or not to be parsed; `reason` has the code.

mod bundle;
mod chain;
mod jwt;
pub(super) mod live;

use std::{
    io::Read,
    path::{Path, PathBuf},
    sync::Arc,
};

use bonafide_ca_api::CaAddress;
use bonafide_verifier::{
    clock::{Clock, SystemClock, Timestamp},
    spiffe::{BundleSet, TrustBundle, TrustDomain},
};
use serde_json::{Map, Value};

pub(super) use self::live::{DEADLINE, Presented, presented};
use super::{
    Failure,
    output::{OutputArguments, printable, table},
};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// A file with a certificate chain (PEM or DER), a token or a bundle (SPIFFE JSON or PEM); `-` for standard input;
    /// or HOST:PORT of a live TLS server.
    what: String,

    /// Give the verifier's verdict by this trust bundle, in PEM or SPIFFE JSON; may be given several times.
    #[arg(long = "bundle", value_name = "TRUST-DOMAIN=FILE")]
    bundles: Vec<String>,

    /// Whom a token must be for; may be given several times. A verdict on a token needs one.
    #[arg(long, value_name = "AUDIENCE")]
    audience: Vec<String>,

    /// The time of the verdict, RFC 3339 or seconds since 1970. [default: now]
    #[arg(long, value_name = "TIME")]
    at: Option<String>,

    #[command(flatten)]
    output: OutputArguments,
}

/// What was found out.
#[derive(Debug, Default)]
struct Report {
    kind: &'static str,
    rows: Vec<(&'static str, String)>,
    json: Map<String, Value>,
    verdict: Option<Verdict>,
}

/// Accepted, or refused with a code and a sentence.
#[derive(Debug)]
enum Verdict {
    Accepted { rows: Vec<(&'static str, String)> },
    Refused { reason: String, message: String },
}

impl Verdict {
    fn refused(reason: impl Into<String>, message: impl std::fmt::Display) -> Self {
        Self::Refused { reason: reason.into(), message: message.to_string() }
    }
}

/// By what is judged.
struct Judge {
    bundles: Option<BundleSet>,
    audience: Vec<String>,
    at: Timestamp,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let at = match &arguments.at {
        Some(text) => parse_time(text).map_err(|why| Failure::Usage(format!("--at=`{}`: {why}", printable(text))))?,
        None => SystemClock.now(),
    };
    let judge = Judge { bundles: read_bundles(&arguments.bundles)?, audience: arguments.audience.clone(), at };
    let report = match source(&arguments.what)? {
        Source::Bytes(bytes) => examine(&bytes, &judge),
        Source::Server(address) => live::examine(&address, &judge)?,
    };
    say(report, arguments.output)
}

fn say(report: Report, output: OutputArguments) -> Result<(), Failure> {
    let refused = matches!(report.verdict, Some(Verdict::Refused { .. }));
    output.print(|| text(&report), || json(&report))?;
    if refused { Err(Failure::RefusedAndSaid) } else { Ok(()) }
}

fn text(report: &Report) -> String {
    let mut rows = vec![("kind", report.kind.to_owned())];
    rows.extend(report.rows.iter().cloned());
    match &report.verdict {
        None => {
            let verdict = match report.kind {
                "spiffe-bundle" | "x509-authorities" => {
                    "none: a bundle says itself what it is; compare it with its source"
                }
                _ => "none: nothing was verified; give --bundle TRUST-DOMAIN=FILE",
            };
            rows.push(("verdict", verdict.to_owned()));
        }
        Some(Verdict::Accepted { rows: accepted }) => {
            rows.push(("verdict", "accepted".to_owned()));
            rows.extend(accepted.iter().cloned());
        }
        Some(Verdict::Refused { reason, message }) => {
            rows.push(("verdict", format!("refused ({reason})")));
            rows.push(("", message.clone()));
        }
    }
    let rows: Vec<(&str, String)> = rows.into_iter().map(|(name, value)| (name, printable(&value))).collect();
    table(&rows)
}

fn json(report: &Report) -> Value {
    let mut json = report.json.clone();
    json.insert("kind".into(), report.kind.into());
    let (verdict, reason, message) = match &report.verdict {
        None => (Value::Null, Value::Null, Value::Null),
        Some(Verdict::Accepted { .. }) => ("accepted".into(), Value::Null, Value::Null),
        Some(Verdict::Refused { reason, message }) => {
            ("refused".into(), reason.as_str().into(), message.as_str().into())
        }
    };
    json.insert("verdict".into(), verdict);
    json.insert("reason".into(), reason);
    json.insert("message".into(), message);
    Value::Object(json)
}

/// What `inspect` says of some bytes without bundles, for people and for programs: for the property that it says it of any.
pub(crate) fn describe(bytes: &[u8]) -> (String, Value) {
    let judge = Judge { bundles: None, audience: Vec::new(), at: Timestamp::from_unix_seconds(1_800_000_000) };
    let report = examine(bytes, &judge);
    (text(&report), json(&report))
}

/// Tells by the first bytes what it is. Anything is taken; what is nothing that we know is refused by code.
fn examine(bytes: &[u8], judge: &Judge) -> Report {
    let text = std::str::from_utf8(bytes).ok().map(str::trim);
    match text {
        Some(text) if text.contains("-----BEGIN ") => chain::examine_pem(bytes, judge),
        Some(text) if text.starts_with('{') => bundle::examine_json(text.as_bytes()),
        Some(text) if jwt::looks_like_one(text) => jwt::examine(text, judge),
        _ if bytes.first() == Some(&0x30) => chain::examine_der(bytes, judge),
        _ => Report {
            kind: "unknown",
            verdict: Some(Verdict::refused(
                "unknown-format",
                "this is no certificate in PEM or DER, no token and no SPIFFE bundle",
            )),
            ..Report::default()
        },
    }
}

enum Source {
    Bytes(Vec<u8>),
    Server(CaAddress),
}

fn source(what: &str) -> Result<Source, Failure> {
    if what == "-" {
        return read(std::io::stdin().lock(), "standard input").map(Source::Bytes);
    }
    match std::fs::File::open(what) {
        Ok(file) => read(file, what).map(Source::Bytes),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let address = what.strip_prefix("https://").unwrap_or(what).trim_end_matches('/');
            match CaAddress::parse(address) {
                Ok(address) => Ok(Source::Server(address)),
                Err(_) => Err(Failure::Usage(format!(
                    "`{}` is neither a file nor HOST:PORT; `-` reads standard input",
                    printable(what)
                ))),
            }
        }
        Err(error) => Err(Failure::Failed(format!("cannot read `{}`: {error}", printable(what)))),
    }
}

fn read(reader: impl Read, name: &str) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    reader
        .take(LIMIT + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| Failure::Failed(format!("cannot read `{}`: {error}", printable(name))))?;
    if bytes.len() as u64 > LIMIT {
        return Err(Failure::Failed(format!("`{}` is larger than {LIMIT} bytes", printable(name))));
    }
    Ok(bytes)
}

fn read_bundles(given: &[String]) -> Result<Option<BundleSet>, Failure> {
    if given.is_empty() {
        return Ok(None);
    }
    let mut bundles = BundleSet::empty();
    for text in given {
        let usage = |why: String| Failure::Usage(format!("--bundle=`{}`: {why}", printable(text)));
        let (name, file) = text.split_once('=').ok_or_else(|| usage("must be TRUST-DOMAIN=FILE".into()))?;
        let trust_domain = TrustDomain::parse(name).map_err(|error| usage(error.to_string()))?;
        if bundles.get(&trust_domain).is_some() {
            return Err(usage(format!("there are two bundles of `{trust_domain}`")));
        }
        let file = PathBuf::from(file);
        let bundle = read_bundle(&trust_domain, &file).map_err(usage)?;
        bundles = bundles.with(Arc::new(bundle));
    }
    Ok(Some(bundles))
}

/// A bundle in PEM or SPIFFE JSON.
pub(super) fn read_bundle(trust_domain: &TrustDomain, path: &Path) -> Result<TrustBundle, String> {
    let file = std::fs::File::open(path).map_err(|error| format!("cannot read it: {error}"))?;
    let bytes = read(file, &path.display().to_string()).map_err(|failure| failure.to_string())?;
    let is_json = bytes.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'{');
    let parsed = if is_json {
        TrustBundle::parse_spiffe_json(trust_domain.clone(), &bytes)
    } else {
        TrustBundle::parse_pem(trust_domain.clone(), &bytes)
    };
    parsed.map_err(|error| error.to_string())
}

pub(super) fn parse_time(text: &str) -> Result<Timestamp, String> {
    if let Ok(seconds) = text.parse::<i64>() {
        return Ok(Timestamp::from_unix_seconds(seconds));
    }
    let parsed = time::OffsetDateTime::parse(text, &time::format_description::well_known::Rfc3339)
        .map_err(|_| "must be a time such as `2026-11-23T09:00:00Z`, or seconds since 1970".to_owned())?;
    i64::try_from(parsed.unix_timestamp_nanos() / 1_000_000)
        .map(Timestamp::from_unix_millis)
        .map_err(|_| "is out of range".into())
}

/// Bundles of many roots are the largest; tokens and chains are far smaller, and bounded by the verifier.
const LIMIT: u64 = 8 << 20;

#[cfg(test)]
mod tests;
