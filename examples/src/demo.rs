//! What the walk-throughs share: a trust domain on this machine, with a real CA and a real agent in a temporary directory, and how
//! each command is shown before it is run.

use std::{
    fs,
    future::Future,
    io::Write,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    process::{Command, ExitCode, Output, Stdio},
    time::Duration,
};

use anyhow::{Context, ensure};
use tempfile::TempDir;

use crate::{
    process::{Process, shown},
    programs::{self, Programs},
};

/// Long enough for the slowest machine, short enough to be told what went wrong.
pub const SOON: Duration = Duration::from_secs(60);

/// Runs a walk-through: `--keep` is its one flag, what it has done is its summary, and the first thing that is not as it should be
/// ends it with exit code 1.
pub async fn walk_through<F>(name: &str, steps: impl FnOnce(bool, Done) -> F) -> ExitCode
where
    F: Future<Output = anyhow::Result<()>>,
{
    let keep = match std::env::args().skip(1).collect::<Vec<_>>().as_slice() {
        [] => false,
        [flag] if flag == "--keep" => true,
        _ => {
            eprintln!("usage: {name} [--keep]");
            return ExitCode::from(2);
        }
    };
    let done = Done::default();
    let outcome = steps(keep, done.clone()).await;
    println!("\nSummary");
    for step in done.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).iter() {
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

/// What a walk-through has shown so far.
#[derive(Clone, Debug, Default)]
pub struct Done(std::sync::Arc<std::sync::Mutex<Vec<String>>>);

impl Done {
    /// One more.
    pub fn push(&self, step: impl Into<String>) {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(step.into());
    }
}

/// What runs, and where.
pub struct Demo {
    /// The programs of this repository.
    pub programs: Programs,
    dir: TempDir,
    /// Memory-backed, for what survives an agent's restart; gone with this value.
    runtime: TempDir,
    steps: u32,
    /// The CA, while it runs.
    pub ca: Option<Process>,
    ca_address: String,
    /// The agent of the one node, `laptop`, while it runs.
    pub agent: Option<Process>,
    /// Whatever else runs, in the order of its start.
    pub services: Vec<Process>,
}

impl Demo {
    /// Builds the programs and makes a directory.
    ///
    /// # Errors
    /// What cargo or the system said.
    pub fn new() -> anyhow::Result<Self> {
        println!("Building the programs (the first time takes minutes) ...");
        let programs = programs::build()?;
        let dir = tempfile::Builder::new().prefix("bonafide-").tempdir()?;
        // On memory if there is such a place for us; the agent says so if there is not.
        let memory = Path::new("/dev/shm");
        let mut runtime = tempfile::Builder::new();
        runtime.prefix("bonafide-state-");
        let runtime = if memory.is_dir() { runtime.tempdir_in(memory) } else { runtime.tempdir() }?;
        fs::DirBuilder::new().mode(0o755).create(dir.path().join("bin"))?;
        println!("Everything below really happens, in {}", dir.path().display());
        let ca_address = "127.0.0.1:0".to_owned();
        Ok(Self { programs, dir, runtime, steps: 0, ca: None, ca_address, agent: None, services: Vec::new() })
    }

    /// Starts the CA: the first time on a port of its choice, then on the same again.
    ///
    /// # Errors
    /// It is not ready in time.
    pub fn run_ca(&mut self) -> anyhow::Result<()> {
        let mut command = Command::new(&self.programs.ca);
        command.args(["run", "--trust-domain", "example.org", "--listen", &self.ca_address]);
        command.arg("--data").arg(self.path("ca"));
        let ca = start("bonafide-ca", &mut command)?;
        self.ca_address = ca.ready("listen", SOON)?;
        self.ca = Some(ca);
        Ok(())
    }

    /// Where the CA serves nodes.
    #[must_use]
    pub fn ca_address(&self) -> &str {
        &self.ca_address
    }

    /// Invites the node `laptop`, and starts its agent with the invitation.
    ///
    /// # Errors
    /// It does not join in time.
    pub fn join_node(&mut self) -> anyhow::Result<()> {
        let invitation = self.path("invitation");
        let output = succeed(self.ca_command(&["node", "invite", "laptop"]))?;
        let mut secret = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&invitation)?;
        secret.write_all(&output.stdout)?;
        say(&format!("the invitation, {} characters, goes to the agent", output.stdout.trim_ascii().len()));
        self.run_agent(Some(&invitation))
    }

    /// Starts the agent.
    ///
    /// # Errors
    /// It is not ready in time.
    pub fn run_agent(&mut self, invitation: Option<&Path>) -> anyhow::Result<()> {
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

    /// Registers a program of the calling user as a service of the node.
    ///
    /// # Errors
    /// What the CA said.
    pub fn add_service(&self, name: &str, program: &Path, further: &[&str]) -> anyhow::Result<()> {
        let user = format!("unix:uid:{}", nix::unistd::geteuid());
        let path = format!("unix:path:{}", fs::canonicalize(program)?.display());
        let arguments = ["service", "add", name, "--selector", &user, "--selector", &path, "--on", "laptop"];
        succeed(self.ca_command(&[&arguments, further].concat()))?;
        Ok(())
    }

    /// A copy of a program under another name, which is another service.
    ///
    /// # Errors
    /// The system refused.
    pub fn copy_of(&self, program: &Path, name: &str) -> anyhow::Result<PathBuf> {
        let copy = self.path("bin").join(name);
        fs::copy(program, &copy)?;
        Ok(copy)
    }

    /// Ends everything, the services first.
    ///
    /// # Errors
    /// Something did not end in time.
    pub fn stop(mut self) -> anyhow::Result<()> {
        for process in self.services.iter_mut().chain(&mut self.agent).chain(&mut self.ca) {
            process.stop(SOON)?;
        }
        Ok(())
    }

    /// Says what comes next.
    pub fn step(&mut self, what: &str) {
        self.steps += 1;
        println!("\n{}. {what}", self.steps);
    }

    /// A file of this walk-through.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The agent's.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.path("run/agent.sock")
    }

    /// `bonafide-ca VERB …`, which finds the CA by its directory.
    #[must_use]
    pub fn ca_command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.programs.ca);
        command.args(arguments).arg("--data").arg(self.path("ca"));
        command
    }

    /// `bonafide-agent VERB …`, which finds the agent by its socket.
    #[must_use]
    pub fn agent_command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.programs.agent);
        command.args(arguments).arg("--socket").arg(self.socket());
        command
    }

    /// A program that finds the agent as every SPIFFE program does.
    #[must_use]
    pub fn workload(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.env("SPIFFE_ENDPOINT_SOCKET", format!("unix://{}", self.socket().display()));
        command
    }
}

/// Whether the kernel has SO_PEERPIDFD (Linux 6.5): without it, only user and group of a process are certain.
fn kernel_names_peers() -> bool {
    let pair = std::os::unix::net::UnixStream::pair();
    pair.is_ok_and(|(one, _other)| nix::sys::socket::getsockopt(&one, nix::sys::socket::sockopt::PeerPidfd).is_ok())
}

/// Shows a command, and starts it beside this program.
///
/// # Errors
/// It could not be started.
pub fn start(name: &str, command: &mut Command) -> anyhow::Result<Process> {
    type_in(&format!("{} &", shown(command)));
    Ok(Process::start(name, command)?)
}

/// Runs a command to its end and shows what it printed.
///
/// # Errors
/// It could not be started.
pub fn execute(mut command: Command) -> anyhow::Result<Output> {
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

/// The same, of a command that has to succeed.
///
/// # Errors
/// It did not.
pub fn succeed(command: Command) -> anyhow::Result<Output> {
    let line = shown(&command);
    let output = execute(command)?;
    ensure!(output.status.success(), "`{line}` ended with {}", output.status);
    Ok(output)
}

/// Shows what a person would type.
pub fn type_in(line: &str) {
    println!("   $ {line}");
}

/// Shows what comes of it.
pub fn say(line: &str) {
    println!("     {line}");
}

fn shortened(line: &str) -> String {
    if line.chars().count() <= 160 { line.to_owned() } else { line.chars().take(157).chain("...".chars()).collect() }
}
