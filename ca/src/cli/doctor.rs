//! `bonafide-ca doctor`: looks for what commonly goes wrong, and says what to do.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use bonafide_ca_api::CaAddress;
use bonafide_ca_api::generated::admin::{
    ListAuthoritiesRequest, ListAuthoritiesResponse, Node, StatusRequest, StatusResponse,
};
use bonafide_verifier::clock::Timestamp;
use clap::Args;
use nix::sys::statfs::{self, FsType};
use serde::Serialize;

use super::client::{Client, answer, connect};
use super::node::all_nodes;
use super::output::{self, Output};
use super::{At, Failure};

/// Check this CA and its surroundings, and say what to do
///
/// Exit code 0: nothing found, or warnings only. 1: something is wrong. 4: the CA does not answer.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  bonafide-ca doctor
  bonafide-ca doctor --output json | jq -r '.checks[] | select(.result != \"ok\")'")]
pub(crate) struct Doctor {
    #[command(flatten)]
    at: At,
    #[command(flatten)]
    output: Output,
}

#[derive(Serialize)]
struct Report {
    checks: Vec<Check>,
}

/// One thing that was looked at.
#[derive(Debug, Serialize)]
struct Check {
    /// A stable word.
    check: &'static str,
    result: Verdict,
    detail: String,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Ok,
    Warning,
    Failed,
}

impl Verdict {
    fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Failed => "FAILED",
        }
    }
}

/// What the running CA told.
struct Told {
    status: StatusResponse,
    authorities: ListAuthoritiesResponse,
    nodes: Vec<Node>,
}

impl Doctor {
    pub(crate) fn run(self) -> Result<(), Failure> {
        let mut checks = vec![data_directory(&self.at.data), file_system(&self.at.data), swap()];
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Failure::Failed(format!("cannot start: {error}")))?;
        let asked: Result<Told, Failure> = runtime.block_on(async {
            let mut ca = connect(&self.at.data).await?;
            let told = ask(&mut ca).await?;
            for address in told.status.listen_addresses.iter().skip(1) {
                checks.push(advertised(address).await);
            }
            Ok(told)
        });
        let unreachable = match asked {
            Ok(told) => {
                checks.push(Check::ok("ca-answers", format!("version {}", told.status.version)));
                checks.extend(told.status.health.iter().map(health));
                checks.push(root(&told));
                checks.push(nodes(&told));
                None
            }
            Err(failure) => {
                checks.push(Check::failed("ca-answers", failure.to_string()));
                Some(failure)
            }
        };
        let report = Report { checks };
        self.output.print(&report, |report| {
            let rows = report.checks.iter();
            let rows = rows.map(|c| vec![c.check.to_owned(), c.result.as_str().to_owned(), c.detail.clone()]);
            output::table(&["CHECK", "RESULT", "DETAIL"], rows)
        })?;
        if let Some(failure) = unreachable {
            return Err(failure);
        }
        match report.checks.iter().filter(|check| check.result == Verdict::Failed).count() {
            0 => Ok(()),
            failed => Err(Failure::Failed(format!("{failed} of {} checks failed", report.checks.len()))),
        }
    }
}

async fn ask(ca: &mut Client) -> Result<Told, Failure> {
    Ok(Told {
        status: answer(ca.status(StatusRequest {}).await)?,
        authorities: answer(ca.list_authorities(ListAuthoritiesRequest {}).await)?,
        nodes: all_nodes(ca).await?,
    })
}

impl Check {
    fn ok(check: &'static str, detail: impl Into<String>) -> Self {
        Self { check, result: Verdict::Ok, detail: detail.into() }
    }

    fn warning(check: &'static str, detail: impl Into<String>) -> Self {
        Self { check, result: Verdict::Warning, detail: detail.into() }
    }

    fn failed(check: &'static str, detail: impl Into<String>) -> Self {
        Self { check, result: Verdict::Failed, detail: detail.into() }
    }
}

fn data_directory(data: &Path) -> Check {
    const CHECK: &str = "data-directory";
    let shown = data.display();
    match fs::metadata(data) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            Check::failed(CHECK, format!("`{shown}` is not there; the first `bonafide-ca run --data {shown}` makes it"))
        }
        Err(error) => Check::failed(CHECK, format!("`{shown}` cannot be looked at: {error}")),
        Ok(metadata) if !metadata.is_dir() => Check::failed(CHECK, format!("`{shown}` is not a directory")),
        Ok(metadata) if metadata.mode() & 0o077 != 0 => {
            Check::failed(CHECK, format!("`{shown}` is open to others; run `chmod 700 {shown}`"))
        }
        Ok(metadata) => Check::ok(CHECK, format!("`{shown}`, mode 700, uid {}", metadata.uid())),
    }
}

fn file_system(data: &Path) -> Check {
    const CHECK: &str = "file-system";
    const CIFS: FsType = FsType(0xFF53_4D42_u32 as _);
    match statfs::statfs(data).map(|found| found.filesystem_type()) {
        Ok(statfs::TMPFS_MAGIC) => {
            Check::warning(CHECK, "the data directory is in memory: root and registry are gone after a reboot")
        }
        Ok(statfs::NFS_SUPER_MAGIC | CIFS) => Check::warning(
            CHECK,
            "the data directory is on a network file system, where the database's locks may not hold",
        ),
        Ok(_) => Check::ok(CHECK, "local"),
        Err(error) => Check::warning(CHECK, format!("cannot tell: {error}")),
    }
}

fn swap() -> Check {
    match fs::read_to_string("/proc/swaps") {
        Ok(swaps) if swaps.lines().count() > 1 => {
            Check::warning("swap", "swap is on: keys in memory may reach the disk; encrypt it or turn it off")
        }
        Ok(_) => Check::ok("swap", "off"),
        Err(error) => Check::warning("swap", format!("cannot tell: {error}")),
    }
}

/// Whether an address that invitations name answers at all, seen from here.
async fn advertised(text: &str) -> Check {
    const CHECK: &str = "advertised-address";
    let Ok(address) = CaAddress::parse(text) else {
        return Check::failed(CHECK, format!("`{text}` is not an address"));
    };
    let connecting = tokio::net::TcpStream::connect((address.host().to_owned(), address.port()));
    match tokio::time::timeout(CONNECT_TIMEOUT, connecting).await {
        Ok(Ok(_)) if is_loopback(&address) => Check::warning(
            CHECK,
            format!("`{text}` is only on this machine; for others use `run --advertise HOST:PORT`"),
        ),
        Ok(Ok(_)) => Check::ok(CHECK, format!("`{text}` answers")),
        Ok(Err(error)) => Check::warning(CHECK, format!("`{text}` does not answer here: {error}")),
        Err(_) => Check::warning(CHECK, format!("`{text}` did not answer within {} s", CONNECT_TIMEOUT.as_secs())),
    }
}

fn is_loopback(address: &CaAddress) -> bool {
    address.host() == "localhost" || address.host().parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn health(part: &bonafide_ca_api::generated::admin::HealthPart) -> Check {
    let detail = if part.reason.is_empty() { part.part.clone() } else { format!("{}: {}", part.part, part.reason) };
    match part.state.as_str() {
        "ready" => Check::ok("health", detail),
        "degraded" => Check::warning("health", detail),
        _ => Check::failed("health", detail),
    }
}

fn root(told: &Told) -> Check {
    const CHECK: &str = "root";
    let root = told.authorities.authorities.iter().find(|authority| authority.kind == "root");
    let Some(root) = root else { return Check::failed(CHECK, "there is none") };
    let (now, end) = (Timestamp::from_unix_millis(told.status.now_ms), Timestamp::from_unix_millis(root.not_after_ms));
    let left = end.since(now);
    let detail = format!("expires at {end}, in {}", output::short(left));
    if left.is_zero() {
        Check::failed(CHECK, format!("expired at {end}"))
    } else if left < ROOT_WARNING {
        Check::warning(CHECK, detail)
    } else {
        Check::ok(CHECK, detail)
    }
}

fn nodes(told: &Told) -> Check {
    const CHECK: &str = "nodes";
    let stale = told.nodes.iter().filter(|node| node.stale_key_attempts > 0).map(|node| node.name.as_str());
    let refused = told.nodes.iter().filter(|node| !node.refused_update.is_empty()).map(|node| node.name.as_str());
    let (stale, refused): (Vec<_>, Vec<_>) = (stale.take(10).collect(), refused.take(10).collect());
    if !stale.is_empty() {
        return Check::warning(
            CHECK,
            format!("copies of the disks of {} are in use; see `node show`", stale.join(", ")),
        );
    }
    if !refused.is_empty() {
        return Check::warning(CHECK, format!("{} refused an update; see `node show`", refused.join(", ")));
    }
    Check::ok(CHECK, format!("{} live, {} connected", told.status.nodes, told.status.nodes_connected))
}

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const ROOT_WARNING: Duration = Duration::from_secs(365 * 24 * 3600);
