//! What needs a process of its own and is no program of ours: the benchmark starts itself again in a role, and reads one
//! line from it.

use std::{env, fs, path::Path, process::Command, sync::Arc, time::Duration};

use bonafide_ca::Settings;
use bonafide_examples::process::Process;
use bonafide_verifier::{clock::SystemClock, spiffe::TrustDomain, x509::X509Svid};
use tokio::net::{TcpListener, UnixListener};

use super::bare;

/// Plays a role, if this process was started for one; then it does not come back.
pub fn play() {
    let Some(role) = env::var_os("BENCH_ROLE") else { return };
    let argument = env::var_os("BENCH_ROLE_ARGUMENT").expect("the role's argument");
    let folder = Path::new(&argument);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        match role.to_str() {
            Some("bare-unix") => {
                let listener = UnixListener::bind(folder.join("bare.sock")).expect("a socket");
                println!("ready socket=bare.sock");
                bare::serve_unix(listener).await;
            }
            Some("bare-tls") => {
                let read = |name: &str| fs::read(folder.join(name)).expect("a file of the parent");
                let svid = X509Svid::from_der(&read("chain.der"), read("key.der")).expect("an SVID");
                let config = bare::server_config(&svid, &read("root.der"));
                let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
                println!("ready listen={}", listener.local_addr().expect("an address"));
                bare::serve_tls(listener, config).await;
            }
            Some("ca") => {
                let trust_domain = TrustDomain::parse("example.org").expect("a trust domain");
                let mut settings = Settings::new(folder.join("ca"), Some(trust_domain));
                settings.listen = ([127, 0, 0, 1], 0).into();
                settings.node_api.quota.x509_per_lifetime = u32::MAX;
                settings.node_api.quota.joins_per_second = 100_000.0;
                let ca = bonafide_ca::start(settings, Arc::new(SystemClock)).await.expect("the CA starts");
                ca.ready().await;
                println!("ready listen={}", ca.node_address());
                panic!("the CA has ended: {}", ca.failed().await);
            }
            other => panic!("there is no role {other:?}"),
        }
    });
    std::process::exit(0);
}

/// A whole CA whose data is in `ca` in the folder, and which lets a node ask for as much as it likes: what is measured
/// is how fast it issues, not how well it says no.
pub fn ca_without_quota(folder: &Path) -> Process {
    let process = start("ca", folder);
    process.ready("listen", READY).expect("the CA");
    process
}

/// tonic on a Unix socket, `bare.sock` in the folder.
pub fn bare_unix(folder: &Path) -> Process {
    let process = start("bare-unix", folder);
    process.ready("socket", READY).expect("the bare server");
    process
}

/// tonic on rustls, and its address. It presents this SVID and knows this root.
pub fn bare_tls(folder: &Path, svid: &X509Svid, root: &[u8]) -> (Process, String) {
    let write = |name: &str, bytes: &[u8]| fs::write(folder.join(name), bytes).expect("a file for the child");
    write("chain.der", &svid.chain_der_concatenated());
    write("key.der", svid.expose_secret());
    write("root.der", root);
    let process = start("bare-tls", folder);
    let address = process.ready("listen", READY).expect("the bare server");
    (process, address)
}

fn start(role: &str, folder: &Path) -> Process {
    let this = env::current_exe().expect("this program");
    let mut command = Command::new(this);
    command.env("BENCH_ROLE", role).env("BENCH_ROLE_ARGUMENT", folder);
    Process::start(role, &mut command).expect("the bare server starts")
}

const READY: Duration = Duration::from_secs(20);
