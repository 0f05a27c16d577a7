//! A trust domain with its real programs on this machine: a CA process, agent processes, workloads, each with its own
//! folders and ports, gone when the value is dropped. What a step prints is in the message of the panic that it causes.

use std::{
    ffi::OsStr,
    fs,
    io::Write,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use bonafide_examples::{
    process::{Process, shown},
    programs::{self, Programs},
};
use nix::unistd::geteuid;
use serde_json::Value;
use tempfile::TempDir;

/// How long a step may take on a busy machine before it counts as stuck.
pub const SOON: Duration = Duration::from_secs(60);

/// The trust domain of every site.
pub const TRUST_DOMAIN: &str = "example.org";

/// One CA and what belongs to it.
pub struct Site {
    dir: TempDir,
    /// The programs of this repository.
    pub programs: Programs,
    /// The CA, while it runs.
    pub ca: Option<Process>,
    /// What the CA listens on: port 0 until its first start, the same port from then on.
    pub listen: String,
    /// Further arguments of `bonafide-ca run`.
    pub ca_arguments: Vec<String>,
    /// Set for the CA and every agent that is started from here on.
    pub environment: Vec<(String, String)>,
}

/// A node: one agent, its socket, its folders.
pub struct Node {
    /// Its name in the CA.
    pub name: String,
    home: PathBuf,
    memory: TempDir,
    programs: Programs,
    environment: Vec<(String, String)>,
    /// Further arguments of `bonafide-agent run`.
    pub arguments: Vec<String>,
    /// The agent, while it runs.
    pub agent: Option<Process>,
}

/// A command that has ended.
#[derive(Debug)]
pub struct Ran {
    line: String,
    /// Its exit code; -1 if a signal ended it.
    pub code: i32,
    /// What it printed.
    pub stdout: String,
    /// What it complained of.
    pub stderr: String,
}

impl Site {
    /// Folders and programs; nothing runs yet.
    pub fn new() -> Self {
        Self {
            dir: tempfile::Builder::new().prefix("bonafide-test-").tempdir().expect("a temporary folder"),
            programs: programs::build().expect("the programs build"),
            ca: None,
            listen: "127.0.0.1:0".to_owned(),
            ca_arguments: Vec::new(),
            environment: vec![("BONAFIDE_LOG_LEVEL".to_owned(), "info".to_owned())],
        }
    }

    /// A site whose CA runs.
    pub fn started() -> Self {
        let mut site = Self::new();
        site.start_ca();
        site
    }

    /// A folder or file of this site.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// `bonafide-ca run …`, not started.
    pub fn ca_run(&self) -> Command {
        let mut command = Command::new(&self.programs.ca);
        command.args(["run", "--trust-domain", TRUST_DOMAIN, "--listen", &self.listen]);
        command.arg("--data").arg(self.path("ca")).args(&self.ca_arguments);
        command.envs(self.environment.iter().cloned());
        command
    }

    /// Starts the CA and waits until it says that it is ready.
    pub fn start_ca(&mut self) {
        self.start_ca_by(|run| run);
    }

    /// The same, by another program that runs it.
    pub fn start_ca_by(&mut self, by: impl FnOnce(Command) -> Command) {
        let ca = Process::start("bonafide-ca", &mut by(self.ca_run())).expect("the CA starts");
        self.listen = ca.ready("listen", SOON).unwrap_or_else(|error| panic!("{error}"));
        self.ca = Some(ca);
    }

    /// Ends the CA without a warning.
    pub fn kill_ca(&mut self) {
        if let Some(mut ca) = self.ca.take() {
            ca.kill().unwrap_or_else(|error| panic!("{error}"));
        }
    }

    /// Asks the CA to end and expects exit code 0.
    pub fn stop_ca(&mut self) {
        if let Some(mut ca) = self.ca.take() {
            let status = ca.stop(SOON).unwrap_or_else(|error| panic!("{error}"));
            assert!(status.success(), "the CA stopped with {status}: {:#?}", ca.printed());
        }
    }

    /// Runs `bonafide-ca VERB …` on this site's CA.
    pub fn ca(&self, arguments: &[&str]) -> Ran {
        let mut command = Command::new(&self.programs.ca);
        command.args(arguments).arg("--data").arg(self.path("ca"));
        Ran::of(&mut command)
    }

    /// `node invite NAME`, the string alone.
    pub fn invite(&self, name: &str) -> String {
        self.ca(&["node", "invite", name]).success().stdout.trim().to_owned()
    }

    /// `service add PATH --selector unix:uid:… --on any` with further arguments: any process of this user may have it.
    pub fn add_service(&self, path: &str, further: &[&str]) -> Ran {
        let mut arguments = vec!["service", "add", path, "--selector"];
        let user = user_selector();
        arguments.push(&user);
        arguments.extend(further);
        self.ca(&arguments).success()
    }

    /// `service add` for one program of this user, told from others by its path.
    pub fn add_program(&self, path: &str, program: &Path, further: &[&str]) -> Ran {
        let program = fs::canonicalize(program).unwrap_or_else(|_| program.to_owned());
        let selector = format!("unix:path:{}", program.display());
        let mut arguments = vec!["--selector", selector.as_str()];
        arguments.extend(further);
        self.add_service(path, &arguments)
    }

    /// A node whose agent does not run yet.
    pub fn node(&self, name: &str) -> Node {
        let home = self.path(&format!("node-{name}"));
        fs::create_dir(&home).expect("a folder for the node");
        fs::DirBuilder::new().mode(0o755).create(home.join("run")).expect("a folder for the socket");
        Node {
            name: name.to_owned(),
            home,
            memory: memory_folder(),
            programs: self.programs.clone(),
            environment: self.environment.clone(),
            arguments: Vec::new(),
            agent: None,
        }
    }

    /// Invites a node, starts its agent and waits until it is ready.
    pub fn join(&self, name: &str) -> Node {
        let mut node = self.node(name);
        node.join(&self.invite(name));
        node
    }
}

impl Default for Site {
    fn default() -> Self {
        Self::new()
    }
}

impl Node {
    /// Starts the agent with an invitation and waits until it is ready.
    pub fn join(&mut self, invitation: &str) {
        let file = self.path("invitation");
        fs::write(&file, invitation).expect("the invitation is written");
        let mut command = self.agent_run();
        command.arg("--join-file").arg(file);
        self.start_with(&mut command);
    }

    /// Starts the agent on what it has and waits until it is ready.
    pub fn start(&mut self) {
        let mut command = self.agent_run();
        self.start_with(&mut command);
    }

    fn start_with(&mut self, command: &mut Command) {
        let agent = Process::start("bonafide-agent", command).expect("the agent starts");
        agent.ready("node", SOON).unwrap_or_else(|error| panic!("{error}"));
        self.agent = Some(agent);
    }

    /// `bonafide-agent run …`, not started.
    pub fn agent_run(&self) -> Command {
        let mut command = Command::new(&self.programs.agent);
        command.arg("run").arg("--data").arg(self.path("data")).arg("--socket").arg(self.socket());
        command.arg("--runtime-dir").arg(self.memory.path().join("state"));
        command.args(&self.arguments).envs(self.environment.iter().cloned());
        command
    }

    /// Takes over the environment that the site has now.
    pub fn shift(&mut self, site: &Site) {
        self.environment.clone_from(&site.environment);
    }

    /// Ends the agent without a warning.
    pub fn kill(&mut self) {
        if let Some(mut agent) = self.agent.take() {
            agent.kill().unwrap_or_else(|error| panic!("{error}"));
        }
    }

    /// Asks the agent to end and expects exit code 0.
    pub fn stop(&mut self) {
        if let Some(mut agent) = self.agent.take() {
            let status = agent.stop(SOON).unwrap_or_else(|error| panic!("{error}"));
            assert!(status.success(), "the agent stopped with {status}: {:#?}", agent.printed());
        }
    }

    /// A folder or file of this node.
    pub fn path(&self, name: &str) -> PathBuf {
        self.home.join(name)
    }

    /// The Workload API's socket.
    pub fn socket(&self) -> PathBuf {
        self.path("run/agent.sock")
    }

    /// The socket as SPIFFE programs want it.
    pub fn endpoint(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    /// Runs `bonafide-agent VERB …` against this node's agent.
    pub fn agent(&self, arguments: &[&str]) -> Ran {
        let mut command = Command::new(&self.programs.agent);
        command.args(arguments);
        match arguments.first() {
            // Works on files, without an agent.
            Some(&"inspect") => {}
            Some(&"doctor") => _ = command.arg("--socket").arg(self.socket()).arg("--data").arg(self.path("data")),
            _ => _ = command.arg("--socket").arg(self.socket()),
        }
        Ran::of(&mut command)
    }

    /// A program that finds this node's agent as every SPIFFE program does.
    pub fn workload(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command.env("SPIFFE_ENDPOINT_SOCKET", self.endpoint());
        command
    }
}

impl Ran {
    /// Runs a command to its end, within [`SOON`].
    pub fn of(command: &mut Command) -> Self {
        Self::with_input(command, b"")
    }

    /// The same, with something on its standard input.
    pub fn with_input(command: &mut Command, input: &[u8]) -> Self {
        let line = shown(command);
        let mut limited = Command::new("timeout");
        limited.args(["--kill-after=5", &SOON.as_secs().to_string()]);
        limited.arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => limited.env(name, value),
                None => limited.env_remove(name),
            };
        }
        if let Some(folder) = command.get_current_dir() {
            limited.current_dir(folder);
        }
        limited.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = limited.spawn().unwrap_or_else(|error| panic!("`{line}` did not start: {error}"));
        if let Some(mut stdin) = child.stdin.take() {
            // A program that does not read its input may end before it gets all of it.
            let _ = stdin.write_all(input);
        }
        let output = child.wait_with_output().unwrap_or_else(|error| panic!("`{line}`: {error}"));
        Self {
            line,
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Expects exit code 0.
    #[track_caller]
    pub fn success(self) -> Self {
        self.exits(0)
    }

    /// Expects this exit code.
    #[track_caller]
    pub fn exits(self, code: i32) -> Self {
        let Self { line, stdout, stderr, .. } = &self;
        assert_eq!(self.code, code, "exit code of `{line}`\n{stdout}\n{stderr}");
        self
    }

    /// Its standard output as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        let Self { line, stdout, stderr, .. } = self;
        serde_json::from_str(stdout)
            .unwrap_or_else(|error| panic!("`{line}` printed no JSON: {error}\n{stdout}\n{stderr}"))
    }

    /// Both outputs.
    pub fn text(&self) -> String {
        format!("{}{}", self.stdout, self.stderr)
    }
}

/// The selector of whoever runs the tests.
pub fn user_selector() -> String {
    format!("unix:uid:{}", geteuid())
}

/// A folder on memory where there is one, for what survives an agent's restart.
fn memory_folder() -> TempDir {
    let builder = || {
        let mut builder = tempfile::Builder::new();
        builder.prefix("bonafide-test-state-");
        builder
    };
    builder().tempdir_in("/dev/shm").or_else(|_| builder().tempdir()).expect("a temporary folder")
}

/// Asks again and again, each time after a short pause, until `wanted` has an answer: for what nothing announces.
/// `what` is told when the deadline comes first.
pub fn eventually<T>(what: &str, mut wanted: impl FnMut() -> Option<T>) -> T {
    let began = std::time::Instant::now();
    loop {
        if let Some(found) = wanted() {
            return found;
        }
        assert!(began.elapsed() < SOON, "not within {SOON:?}: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}
