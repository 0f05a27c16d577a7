//! `callers`: who calls a service on this machine, and by which kind of credential, as the service's own report has it.

use std::{path::PathBuf, time::Duration};

use bonafide_verifier::{
    caller::ProofKind,
    clock::{Clock, SystemClock, Timestamp},
};
use bytes::Bytes;
use http::{Request, header::HOST};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::{net::UnixStream, time::timeout};

use super::{
    Failure,
    inspect::parse_time,
    output::{OutputArguments, printable, when},
    socket::runtime,
};

/// Who calls a service, what, and how it proves who it is, from the socket where the service shows that.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  bonafide-agent callers /run/limits/callers.sock
  bonafide-agent callers /run/limits/callers.sock --old --since 2026-11-20T00:00:00Z

With --old: exit code 3 when anybody is found. A service counts since its last start.")]
pub(super) struct Arguments {
    /// The service's socket. For root and the service's own user.
    #[arg(value_name = "SOCKET")]
    socket: PathBuf,

    /// Only who still uses an API key or a shared secret.
    #[arg(long)]
    old: bool,

    /// Only what was seen since this time, RFC 3339 or seconds since 1970.
    #[arg(long, value_name = "TIME")]
    since: Option<String>,

    #[command(flatten)]
    output: OutputArguments,
}

/// The whole answer must be there within this.
const WAIT: Duration = Duration::from_secs(10);
/// 10,000 edges have less.
const MAX_ANSWER: usize = 16 * 1024 * 1024;

#[derive(Debug, Deserialize)]
struct Report {
    edges: Vec<Edge>,
    beyond: u64,
}

#[derive(Debug, Deserialize, serde::Serialize)]
struct Edge {
    caller: String,
    proof: String,
    operation: String,
    allowed: u64,
    refused: u64,
    first_seen: String,
    last_seen: String,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let since = match &arguments.since {
        Some(text) => {
            Some(parse_time(text).map_err(|why| Failure::Usage(format!("--since=`{}`: {why}", printable(text))))?)
        }
        None => None,
    };
    let mut report = runtime()?.block_on(async {
        let late = |_| Failure::Unreachable(format!("no answer from {} within {} s", arguments.name(), WAIT.as_secs()));
        timeout(WAIT, arguments.ask()).await.map_err(late)?
    })?;
    report.edges.retain(|edge| {
        // A time that cannot be read is no reason to hide anybody.
        let seen = since.is_none_or(|since| parse_time(&edge.last_seen).map_or(true, |last| last >= since));
        seen && (!arguments.old || is_old(&edge.proof))
    });
    let now = SystemClock.now();
    arguments.output.print(|| text(&report, arguments.old, now), || json(&report))?;
    if arguments.old && !report.edges.is_empty() { Err(Failure::RefusedAndSaid) } else { Ok(()) }
}

fn is_old(proof: &str) -> bool {
    [ProofKind::ApiKey, ProofKind::SharedSecret].iter().any(|kind| kind.as_str() == proof)
}

impl Arguments {
    fn name(&self) -> String {
        format!("`{}`", printable(&self.socket.display().to_string()))
    }

    async fn ask(&self) -> Result<Report, Failure> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|error| {
            Failure::Unreachable(format!(
                "cannot reach {}: {error}; the service shows its callers there while it runs, to root and its own user",
                self.name()
            ))
        })?;
        let broken = |error: hyper::Error| Failure::Unreachable(format!("no answer from {}: {error}", self.name()));
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        let request = Request::get("/").header(HOST, "localhost").body(Empty::<Bytes>::new());
        let request = request.map_err(|error| Failure::Failed(format!("the request: {error}")))?;
        let asked = async {
            let answer = sender.send_request(request).await.map_err(broken)?;
            let status = answer.status();
            let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await;
            let body = body.map_err(|error| Failure::Failed(format!("the answer of {}: {error}", self.name())))?;
            if !status.is_success() {
                return Err(Failure::Failed(format!("{} answered {status}", self.name())));
            }
            serde_json::from_slice(&body.to_bytes())
                .map_err(|error| Failure::Failed(format!("{} shows no report of callers: {error}", self.name())))
        };
        // The connection is driven here, so that nothing is left behind.
        let (mut asked, mut connection) = (std::pin::pin!(asked), std::pin::pin!(connection));
        tokio::select! {
            done = &mut asked => return done,
            _ = &mut connection => {}
        }
        asked.await
    }
}

fn text(report: &Report, old: bool, now: Timestamp) -> String {
    let seen = |at: &str| parse_time(at).map_or_else(|_| printable(at), |at| when(at, now));
    let mut rows = vec![["CALLER", "PROOF", "OPERATION", "ALLOWED", "REFUSED", "LAST SEEN"].map(str::to_owned)];
    rows.extend(report.edges.iter().map(|edge| {
        [
            printable(&edge.caller),
            printable(&edge.proof),
            printable(&edge.operation),
            edge.allowed.to_string(),
            edge.refused.to_string(),
            seen(&edge.last_seen),
        ]
    }));
    let mut text = if report.edges.is_empty() {
        let who = if old { "nobody uses an API key or a shared secret" } else { "nobody has called" };
        format!("{who}\n")
    } else {
        columns(&rows)
    };
    if report.beyond > 0 {
        text.push_str(&format!(
            "{} more decisions belong to callers and routes that were too many to keep\n",
            report.beyond
        ));
    }
    text
}

/// Left-aligned columns, two blanks between.
fn columns(rows: &[[String; 6]]) -> String {
    let mut widths = [0; 6];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |row: &[String; 6]| {
        let cells: Vec<_> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        format!("{}\n", cells.join("  ").trim_end())
    };
    rows.iter().map(line).collect()
}

fn json(report: &Report) -> Value {
    json!({ "edges": report.edges, "beyond": report.beyond })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_of_callers() {
        let edge = |proof: &str, last_seen: &str| Edge {
            caller: "spiffe://example.org/export\u{1b}".to_owned(),
            proof: proof.to_owned(),
            operation: "GET /v1/limits/{job}".to_owned(),
            allowed: 3,
            refused: 0,
            first_seen: last_seen.to_owned(),
            last_seen: last_seen.to_owned(),
        };
        let now = Timestamp::from_unix_seconds(1_000_000);
        let mut report = Report { edges: vec![edge("api-key", "1970-01-12T13:46:30Z"), edge("x509", "?")], beyond: 2 };
        assert_eq!(
            text(&report, false, now),
            "CALLER                             PROOF    OPERATION             ALLOWED  REFUSED  LAST SEEN\n\
             spiffe://example.org/export\\u{1b}  api-key  GET /v1/limits/{job}  3        0        1970-01-12T13:46:30Z (10 s ago)\n\
             spiffe://example.org/export\\u{1b}  x509     GET /v1/limits/{job}  3        0        ?\n\
             2 more decisions belong to callers and routes that were too many to keep\n"
        );
        (report.edges, report.beyond) = (Vec::new(), 0);
        assert_eq!(text(&report, true, now), "nobody uses an API key or a shared secret\n");
        assert!(is_old("shared-secret") && is_old("api-key") && !is_old("jwt-svid") && !is_old("x509"));
    }
}
