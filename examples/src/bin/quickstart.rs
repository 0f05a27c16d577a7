//! The main job from a fresh clone, with nothing set up: `cargo run --release --bin quickstart`.
//!
//! Starts a real CA and a real agent in a temporary directory, joins them, registers services, starts two programs
//! that link the verifier alone, and shows what works and what is refused, saying at each step the command that a user
//! would type. Ends with exit code 0, or with 1 at the first step that does not do what it should. With `--keep`
//! everything goes on running afterwards, to be played with.

use std::{
    fs,
    io::Write,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    process::{Command, ExitCode, Output, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use bonafide_examples::{
    process::{Process, shown},
    programs::{self, Programs},
};
use bonafide_verifier::clock::{Clock, SystemClock};
use http_body_util::{BodyExt, Empty};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::Value;
use tempfile::TempDir;

/// Long enough for the slowest machine, short enough to be told what went wrong.
const SOON: Duration = Duration::from_secs(60);

/// Of the services below, so that renewals and ends of connections can be watched.
const TTL: &str = "15s";

#[tokio::main]
async fn main() -> ExitCode {
    let keep = match std::env::args().skip(1).collect::<Vec<_>>().as_slice() {
        [] => false,
        [flag] if flag == "--keep" => true,
        _ => {
            eprintln!("usage: quickstart [--keep]");
            return ExitCode::from(2);
        }
    };
    let mut done = Vec::new();
    let outcome = run(keep, &mut done).await;
    println!("\nSummary");
    for step in &done {
        println!("  ok      {step}");
    }
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("  FAILED  {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(keep: bool, done: &mut Vec<String>) -> anyhow::Result<()> {
    println!("Building the programs (the first time takes minutes) ...");
    let programs = programs::build()?;
    let mut demo = Demo::new(programs)?;
    println!("Everything below really happens, in {}", demo.dir.path().display());

    demo.start_ca()?;
    done.push("a CA started on an empty directory".to_owned());
    demo.join_node()?;
    done.push("a node joined with one string".to_owned());
    demo.register_services()?;
    done.push("services registered by what their processes are".to_owned());
    demo.start_services()?;
    done.push("two programs that link only the verifier got their identities".to_owned());

    done.push(demo.allowed_call().await?);
    done.push(demo.no_identity()?);
    done.push(demo.wrong_name().await?);
    done.push(demo.renewals().await?);
    done.push(demo.agent_killed().await?);
    done.push(demo.token()?);
    done.push(demo.ca_stopped().await?);
    if keep {
        demo.keep().await?;
    }
    demo.stop()
}

/// What runs, and where.
struct Demo {
    programs: Programs,
    dir: TempDir,
    /// Memory-backed, for what survives an agent's restart; gone with this value.
    runtime: TempDir,
    steps: u32,
    ca: Option<Process>,
    ca_address: String,
    agent: Option<Process>,
    services: Vec<Process>,
    web: String,
    photo: String,
}

impl Demo {
    fn new(programs: Programs) -> anyhow::Result<Self> {
        let dir = tempfile::Builder::new().prefix("bonafide-").tempdir()?;
        // On memory if there is such a place for us; the agent says so if there is not.
        let memory = Path::new("/dev/shm");
        let mut runtime = tempfile::Builder::new();
        runtime.prefix("bonafide-state-");
        let runtime = if memory.is_dir() { runtime.tempdir_in(memory) } else { runtime.tempdir() }?;
        fs::DirBuilder::new().mode(0o755).create(dir.path().join("bin"))?;
        Ok(Self {
            programs,
            dir,
            runtime,
            steps: 0,
            ca: None,
            ca_address: "127.0.0.1:0".to_owned(),
            agent: None,
            services: Vec::new(),
            web: String::new(),
            photo: String::new(),
        })
    }

    fn start_ca(&mut self) -> anyhow::Result<()> {
        self.step("Start a CA: one command, no file to write");
        self.run_ca()?;
        say(&format!("it serves nodes at {}", self.ca_address));
        Ok(())
    }

    fn run_ca(&mut self) -> anyhow::Result<()> {
        let mut command = Command::new(&self.programs.ca);
        command.args(["run", "--trust-domain", "example.org", "--listen", &self.ca_address]);
        command.arg("--data").arg(self.path("ca"));
        let ca = start("bonafide-ca", &mut command)?;
        self.ca_address = ca.ready("listen", SOON)?;
        self.ca = Some(ca);
        Ok(())
    }

    fn join_node(&mut self) -> anyhow::Result<()> {
        self.step("Join a node: one string");
        let invitation = self.path("invitation");
        let invite = self.ca_command(&["node", "invite", "laptop"]);
        let output = succeed(invite)?;
        let mut secret = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&invitation)?;
        secret.write_all(&output.stdout)?;
        say(&format!("the invitation, {} characters, goes to the agent", output.stdout.trim_ascii().len()));
        self.run_agent(Some(&invitation))?;
        Ok(())
    }

    fn run_agent(&mut self, invitation: Option<&Path>) -> anyhow::Result<()> {
        let mut command = Command::new(&self.programs.agent);
        command.arg("run").arg("--data").arg(self.path("agent")).arg("--socket").arg(self.socket());
        command.arg("--runtime-dir").arg(self.runtime.path().join("state"));
        if let Some(invitation) = invitation {
            command.arg("--join-file").arg(invitation);
        }
        if !kernel_names_peers() {
            say("this kernel cannot name the process behind a connection (it is older than 6.5):");
            say("--attest-by-pid is turned on, which looks the process up by its number instead, and is racy");
            command.arg("--attest-by-pid");
        }
        let agent = start("bonafide-agent", &mut command)?;
        say(&format!("it is {}", agent.ready("node", SOON)?));
        self.agent = Some(agent);
        Ok(())
    }

    fn register_services(&mut self) -> anyhow::Result<()> {
        self.step("Register services: who they are, what their processes are, where they may run");
        let user = format!("unix:uid:{}", nix::unistd::geteuid());
        // Another program with a good identity, that `photo` does not take.
        fs::copy(&self.programs.web, self.path("bin/batch"))?;
        let programs = [
            ("web", self.programs.web.clone()),
            ("photo", self.programs.photo.clone()),
            ("batch", self.path("bin/batch")),
        ];
        for (name, program) in programs {
            let path = format!("unix:path:{}", fs::canonicalize(program)?.display());
            let arguments =
                ["service", "add", name, "--selector", &user, "--selector", &path, "--on", "laptop", "--ttl", TTL];
            succeed(self.ca_command(&arguments))?;
        }
        Ok(())
    }

    fn start_services(&mut self) -> anyhow::Result<()> {
        self.step("Start two services that link nothing but the verifier");
        let mut photo = self.workload(&self.programs.photo);
        photo.args(["--caller", "spiffe://example.org/web"]);
        let photo = start("photo", &mut photo)?;
        self.photo = format!("https://{}", photo.ready("listen", SOON)?);
        let web = self.start_web("web", &self.programs.web.clone())?;
        self.web = format!("http://{}/", web.ready("listen", SOON)?);
        self.services.extend([photo, web]);
        Ok(())
    }

    fn start_web(&self, name: &str, program: &Path) -> anyhow::Result<Process> {
        let mut web = self.workload(program);
        web.args(["--photos", &self.photo, "--photo-id", "spiffe://example.org/photo"]);
        start(name, &mut web)
    }

    async fn allowed_call(&mut self) -> anyhow::Result<String> {
        self.step("An allowed call: each side knows the other's name");
        type_in(&format!("curl {}", self.web));
        let answer = get(&self.web).await?;
        say(&answer.to_string());
        let names = (answer.get("from").and_then(Value::as_str), answer.get("for").and_then(Value::as_str));
        ensure!(
            names == (Some("spiffe://example.org/photo"), Some("spiffe://example.org/web")),
            "the answer should name both: {answer}"
        );
        Ok("web called photo over mutual TLS, and each knew the other's name".to_owned())
    }

    fn no_identity(&mut self) -> anyhow::Result<String> {
        self.step("A process without an identity is refused, and told why");
        let refused = execute(self.agent_command(&["fetch", "x509"]))?;
        ensure!(
            refused.status.code() == Some(3),
            "this should have been refused (exit code 3), not {}",
            refused.status
        );
        let why = execute(self.agent_command(&["whoami"]))?;
        ensure!(!why.stdout.is_empty(), "whoami should say what was seen");
        Ok("a process without an identity got none, and was told what was seen of it".to_owned())
    }

    async fn wrong_name(&mut self) -> anyhow::Result<String> {
        self.step("The wrong name: `batch` has an identity too, but photo takes only web");
        let batch = self.start_web("batch", &self.path("bin/batch"))?;
        let url = format!("http://{}/", batch.ready("listen", SOON)?);
        type_in(&format!("curl {url}"));
        match get(&url).await {
            Ok(answer) => bail!("photo should not have answered batch: {answer}"),
            Err(error) => say(&format!("{error:#}")),
        }
        Ok("photo refused a caller of another name in the handshake".to_owned())
    }

    async fn renewals(&mut self) -> anyhow::Result<String> {
        self.step(&format!("Renewals: SVIDs live {TTL} here, and requests go on without a pause"));
        let load = Load::start(&self.web);
        let ends = load.until_renewed(4).await?;
        let calls = load.finish().await?;
        say(&format!("{calls} calls, none failed, while web's certificate ended at {}", ends.join(", ")));
        Ok(format!("{calls} calls in a row over {} renewals: none failed", ends.len() - 1))
    }

    async fn agent_killed(&mut self) -> anyhow::Result<String> {
        self.step("The agent is killed and comes back");
        let load = Load::start(&self.web);
        type_in("kill -9 AGENT");
        if let Some(mut agent) = self.agent.take() {
            agent.kill()?;
        }
        self.run_agent(None)?;
        load.until_renewed(2).await?;
        let calls = load.finish().await?;
        say(&format!("{calls} calls, none failed; the services came back to the new agent by themselves"));
        Ok(format!("the agent was killed and started again: {calls} calls, none failed"))
    }

    fn token(&mut self) -> anyhow::Result<String> {
        self.step("A JWT-SVID, for where mutual TLS ends early");
        let user = format!("unix:uid:{}", nix::unistd::geteuid());
        let path = format!("unix:path:{}", fs::canonicalize(&self.programs.agent)?.display());
        let add =
            ["service", "add", "report", "--selector", &user, "--selector", &path, "--on", "laptop", "--ttl", TTL];
        succeed(self.ca_command(&add))?;
        let token = succeed(self.agent_command(&["fetch", "jwt", "--audience", "photo"]))?;
        fs::write(self.path("token"), &token.stdout)?;
        let bundle = succeed(self.ca_command(&["bundle", "show"]))?;
        fs::write(self.path("bundle.json"), &bundle.stdout)?;
        let from = format!("example.org={}", self.path("bundle.json").display());
        let file = self.path("token").display().to_string();
        let inspect = |audience: &str| {
            let mut command = Command::new(&self.programs.agent);
            command.args(["inspect", &file, "--bundle", &from, "--audience", audience]);
            command
        };
        succeed(inspect("photo"))?;
        let wrong = execute(inspect("bank"))?;
        ensure!(wrong.status.code() == Some(3), "a token for photo should be refused at bank, not {}", wrong.status);
        Ok("a JWT-SVID was fetched; it is good for its audience and for no other".to_owned())
    }

    async fn ca_stopped(&mut self) -> anyhow::Result<String> {
        self.step("The CA is stopped: nobody notices for half a lifetime");
        let load = Load::start(&self.web);
        type_in("kill CA");
        if let Some(mut ca) = self.ca.take() {
            let status = ca.stop(SOON)?;
            ensure!(status.success(), "the CA should have stopped cleanly: {status}");
        }
        load.calls_more(200).await?;
        say("calls go on; now it comes back, on the same directory and address");
        self.run_ca()?;
        load.until_renewed(3).await?;
        let calls = load.finish().await?;
        say(&format!("{calls} calls, none failed, and certificates are renewed again"));
        Ok(format!("the CA was stopped and started again: {calls} calls, none failed"))
    }

    async fn keep(&self) -> anyhow::Result<()> {
        println!("\nAll of it goes on running; Ctrl-C ends it. Try:");
        println!("  export PATH={}:$PATH", self.programs.ca.parent().unwrap_or(Path::new(".")).display());
        println!("  export SPIFFE_ENDPOINT_SOCKET=unix://{}", self.socket().display());
        println!("  curl {}", self.web);
        println!("  bonafide-ca service list --data {}", self.path("ca").display());
        println!("  bonafide-ca audit list --data {}", self.path("ca").display());
        println!("  bonafide-agent whoami");
        println!("  bonafide-agent status");
        tokio::signal::ctrl_c().await?;
        Ok(())
    }

    fn stop(mut self) -> anyhow::Result<()> {
        for process in self.services.iter_mut().chain(&mut self.agent).chain(&mut self.ca) {
            process.stop(SOON)?;
        }
        Ok(())
    }

    fn step(&mut self, what: &str) {
        self.steps += 1;
        println!("\n{}. {what}", self.steps);
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn socket(&self) -> PathBuf {
        self.path("run/agent.sock")
    }

    /// `bonafide-ca VERB …`, which finds the CA by its directory.
    fn ca_command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.programs.ca);
        command.args(arguments).arg("--data").arg(self.path("ca"));
        command
    }

    /// `bonafide-agent VERB …`, which finds the agent by its socket.
    fn agent_command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.programs.agent);
        command.args(arguments).arg("--socket").arg(self.socket());
        command
    }

    /// A program that finds the agent as every SPIFFE program does.
    fn workload(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.env("SPIFFE_ENDPOINT_SOCKET", format!("unix://{}", self.socket().display()));
        command
    }
}

/// Requests in a row, one after another, until told to stop; the first that fails ends them.
struct Load {
    calls: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    /// The ends of web's certificates, as photo saw them, each once.
    seen: tokio::sync::watch::Receiver<Vec<String>>,
    task: tokio::task::JoinHandle<anyhow::Result<()>>,
}

impl Load {
    fn start(url: &str) -> Self {
        let (calls, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (sender, seen) = tokio::sync::watch::channel(Vec::new());
        let (counter, stopped, url) = (calls.clone(), stop.clone(), url.to_owned());
        let task = tokio::spawn(async move {
            let client = Client::builder(TokioExecutor::new()).build_http();
            while !stopped.load(Ordering::Relaxed) {
                let answer = get_with(&client, &url).await?;
                counter.fetch_add(1, Ordering::Relaxed);
                let until = answer.get("until").and_then(Value::as_str).unwrap_or_default().to_owned();
                sender.send_if_modified(|seen: &mut Vec<String>| {
                    let new = !seen.contains(&until);
                    if new {
                        seen.push(until);
                    }
                    new
                });
                SystemClock.sleep_for(Duration::from_millis(5)).await;
            }
            Ok(())
        });
        Self { calls, stop, seen, task }
    }

    /// Waits until photo has seen so many different certificates of web.
    async fn until_renewed(&self, certificates: usize) -> anyhow::Result<Vec<String>> {
        let mut seen = self.seen.clone();
        let enough = seen.wait_for(|seen| seen.len() >= certificates);
        match tokio::time::timeout(2 * SOON, enough).await {
            Ok(Ok(seen)) => Ok(seen.clone()),
            // The loop has ended; `finish` says why.
            Ok(Err(_)) => Ok(self.seen.borrow().clone()),
            Err(_) => bail!("photo saw only {:?} of web's certificates", self.seen.borrow()),
        }
    }

    /// Waits for so many more answers.
    async fn calls_more(&self, more: u64) -> anyhow::Result<()> {
        let enough = self.calls.load(Ordering::Relaxed) + more;
        let waiting = async {
            while self.calls.load(Ordering::Relaxed) < enough && !self.task.is_finished() {
                SystemClock.sleep_for(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(SOON, waiting).await.context("the calls came to a stand")
    }

    async fn finish(self) -> anyhow::Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await??;
        Ok(self.calls.load(Ordering::Relaxed))
    }
}

type Plain = Client<HttpConnector, Empty<bytes::Bytes>>;

async fn get(url: &str) -> anyhow::Result<Value> {
    get_with(&Client::builder(TokioExecutor::new()).build_http(), url).await
}

/// GET, whose body is a JSON object; anything but 200 is an error.
async fn get_with(client: &Plain, url: &str) -> anyhow::Result<Value> {
    let asked = async {
        let answer = client.get(url.parse()?).await?;
        let status = answer.status();
        let body = answer.into_body().collect().await?.to_bytes();
        anyhow::Ok((status, body))
    };
    let (status, body) = tokio::time::timeout(SOON, asked).await.context("no answer")??;
    ensure!(status.is_success(), "{status}: {}", String::from_utf8_lossy(&body));
    Ok(serde_json::from_slice(&body)?)
}

/// Whether the kernel has SO_PEERPIDFD (Linux 6.5): without it, only user and group of a process are certain.
fn kernel_names_peers() -> bool {
    let pair = std::os::unix::net::UnixStream::pair();
    pair.is_ok_and(|(one, _other)| nix::sys::socket::getsockopt(&one, nix::sys::socket::sockopt::PeerPidfd).is_ok())
}

fn start(name: &str, command: &mut Command) -> anyhow::Result<Process> {
    type_in(&format!("{} &", shown(command)));
    Ok(Process::start(name, command)?)
}

/// Runs a command to its end and shows what it printed.
fn execute(mut command: Command) -> anyhow::Result<Output> {
    type_in(&shown(&command));
    let output = command.stdin(Stdio::null()).output().with_context(|| shown(&command))?;
    for line in [&output.stdout, &output.stderr].into_iter().flat_map(|bytes| bytes.split(|&byte| byte == b'\n')) {
        if !line.is_empty() {
            say(&shortened(&String::from_utf8_lossy(line)));
        }
    }
    if !output.status.success() {
        say(&format!("({})", output.status));
    }
    Ok(output)
}

fn succeed(command: Command) -> anyhow::Result<Output> {
    let line = shown(&command);
    let output = execute(command)?;
    ensure!(output.status.success(), "`{line}` ended with {}", output.status);
    Ok(output)
}

fn type_in(line: &str) {
    println!("   $ {line}");
}

fn say(line: &str) {
    println!("     {line}");
}

fn shortened(line: &str) -> String {
    if line.chars().count() <= 160 { line.to_owned() } else { line.chars().take(157).chain("...".chars()).collect() }
}
