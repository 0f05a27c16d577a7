//! From API keys to mutual TLS, one caller at a time: `cargo run --release --bin migrate`.
//!
//! A service, `limits`, and three callers, each a process of its own, beside a real CA and a real agent in a temporary directory. The
//! callers begin with API keys; one goes over an HS256 token, one over a JWT-SVID, one straight to a certificate. The service's policy is
//! one file that nobody touches until all have arrived; then `proof` is raised and the old credentials are refused. It says at each
//! step the command that a user would type, and ends with exit code 0, or with 1 at the first step that does not do what it should. With
//! `--keep` everything goes on running afterwards. `examples/MIGRATE.md` is the same by hand.

use std::{
    fs,
    path::PathBuf,
    process::{Command, ExitCode, Output},
    time::Duration,
};

use anyhow::{Context, ensure};
use bonafide_examples::{
    demo::{Demo, Done, SOON, execute, say, start, succeed, type_in, walk_through},
    process::Process,
};
use bonafide_verifier::clock::{Clock, SystemClock, Timestamp};
use serde_json::Value;

const SERVICE: &str = "spiffe://example.org/limits";
/// Who calls, and what each does.
const CALLERS: [&str; 3] = ["export", "report", "console"];

#[tokio::main]
async fn main() -> ExitCode {
    walk_through("migrate", run).await
}

async fn run(keep: bool, done: Done) -> anyhow::Result<()> {
    let mut way =
        Migration { demo: Demo::new()?, service: None, listen: "127.0.0.1:0".to_owned(), policy: String::new() };

    done.push(way.begin_with_keys()?);
    done.push(way.take_everything_beside()?);
    done.push(way.over_a_signed_token()?);
    done.push(way.over_a_jwt_svid()?);
    done.push(way.straight_to_a_certificate()?);
    done.push(way.who_is_left()?);
    done.push(way.the_last_two()?);
    done.push(way.raise_proof()?);
    done.push(way.certificates_alone()?);
    if keep {
        way.keep().await?;
    }
    way.stop()
}

/// What runs, and how far it is.
struct Migration {
    demo: Demo,
    service: Option<Process>,
    listen: String,
    /// The policy as it was written at the beginning.
    policy: String,
}

/// How a caller proves who it is.
#[derive(Clone, Copy)]
enum By {
    /// An API key, or a token signed with a shared secret.
    Key(&'static str),
    JwtSvid,
    Certificate,
}

impl Migration {
    fn begin_with_keys(&mut self) -> anyhow::Result<String> {
        self.demo.step("Where most begin: a service, and three callers with API keys");
        self.demo.run_ca()?;
        self.demo.join_node()?;
        self.demo.add_service("limits", &self.demo.programs.limits, &["--dns", "localhost"])?;
        for caller in CALLERS {
            self.demo.copy_of(&self.demo.programs.job, caller)?;
            self.create_key(caller, caller, "api-key", &format!("{caller}.key"))?;
        }
        let bundle = succeed(self.demo.ca_command(&["bundle", "show", "--format", "pem"]))?;
        fs::write(self.demo.path("bundle.pem"), &bundle.stdout)?;

        say("who may do what stands in one file, policy.toml:");
        self.policy = policy(SystemClock.now().saturating_add(Duration::from_secs(90 * 86_400)));
        self.policy.lines().for_each(|line| say(&format!("| {line}")));
        fs::write(self.demo.path("policy.toml"), &self.policy)?;
        succeed(self.policy_command(&["check", "policy.toml"]))?;

        self.start_service("keys")?;
        self.all_call_by_their_keys()?;
        self.refused("console", By::Key("export.key"), Some("100"), "403", "no-rule")?;
        self.report(&[("console", "api-key"), ("export", "api-key"), ("report", "api-key")])?;
        Ok("a service took API keys, over TLS, and its policy let each caller do its own".to_owned())
    }

    fn take_everything_beside(&mut self) -> anyhow::Result<String> {
        self.demo.step("The service takes JWT-SVIDs and certificates beside keys: a setting, and no rule is touched");
        self.start_service("keys,jwt-svid,x509")?;
        self.all_call_by_their_keys()?;
        Ok("it took JWT-SVIDs and certificates beside keys, and nobody had to change anything".to_owned())
    }

    fn over_a_signed_token(&mut self) -> anyhow::Result<String> {
        self.demo.step("`report` signs short-lived HS256 tokens: the secret is never sent any more");
        self.create_key("report-hs256", "report", "shared-secret", "report.secret")?;
        self.logs("take the new record", |line| {
            line.contains("key records from a file") && line.contains("records=4")
        })?;
        say("the service took the new record up, and goes on running");
        self.allowed("report", By::Key("report.secret"), None, "shared-secret")?;
        self.allowed("export", By::Key("export.key"), None, "api-key")?;
        Ok("one caller went from an API key to HS256 tokens".to_owned())
    }

    fn over_a_jwt_svid(&mut self) -> anyhow::Result<String> {
        self.demo.step("`console` gets an identity, and shows it as a token: a JWT-SVID");
        self.add_service("console")?;
        self.allowed("console", By::JwtSvid, Some("120"), "jwt-svid")?;
        Ok("one caller went from an API key to JWT-SVIDs".to_owned())
    }

    fn straight_to_a_certificate(&mut self) -> anyhow::Result<String> {
        self.demo.step("`export` goes straight to a certificate: no secret at all");
        self.add_service("export")?;
        self.allowed("export", By::Certificate, None, "x509")?;
        Ok("one caller went straight from an API key to mutual TLS".to_owned())
    }

    fn who_is_left(&mut self) -> anyhow::Result<String> {
        self.demo.step("Who still uses an old credential? The service knows");
        self.report(&[
            ("console", "api-key"),
            ("console", "jwt-svid"),
            ("export", "api-key"),
            ("export", "x509"),
            ("report", "api-key"),
            ("report", "shared-secret"),
        ])?;
        say("that is all since it started; what counts is who does so from now on");
        let since = from_now_on();
        self.allowed("report", By::Key("report.secret"), None, "shared-secret")?;
        self.allowed("console", By::JwtSvid, Some("120"), "jwt-svid")?;
        self.allowed("export", By::Certificate, None, "x509")?;
        let left = self.old_since(&since)?;
        ensure!(left.status.code() == Some(3), "somebody is left, so this should end with 3, not {}", left.status);
        let left: Value = serde_json::from_slice(&self.old_since_json(&since)?.stdout)?;
        let left = left.get("edges").and_then(Value::as_array).context("edges")?;
        ensure!(left.len() == 1, "one caller should be left: {left:?}");
        for (member, expected) in [
            ("caller", "spiffe://example.org/report"),
            ("proof", "shared-secret"),
            ("operation", "GET /v1/limits/{job}"),
        ] {
            ensure!(left.iter().all(|edge| edge.get(member).and_then(Value::as_str) == Some(expected)), "{left:?}");
        }
        Ok("the report named the one caller that was left, its credential and its route".to_owned())
    }

    fn the_last_two(&mut self) -> anyhow::Result<String> {
        self.demo.step("The others follow, each when it is ready");
        self.add_service("report")?;
        let since = from_now_on();
        self.allowed("report", By::Certificate, None, "x509")?;
        self.allowed("console", By::Certificate, Some("150"), "x509")?;
        self.allowed("export", By::Certificate, None, "x509")?;
        let left = self.old_since(&since)?;
        ensure!(left.status.success(), "nobody should be left");
        let policy = fs::read_to_string(self.demo.path("policy.toml"))?;
        ensure!(policy == self.policy, "the policy should be what it was at the beginning");
        Ok("all came to mutual TLS, one at a time, with the policy as it was at the beginning".to_owned())
    }

    fn raise_proof(&mut self) -> anyhow::Result<String> {
        self.demo.step("Now the rules ask for more: `proof` is raised, and what that changes is seen before it holds");
        let mut sed = Command::new("sed");
        sed.current_dir(self.demo.path(".")).args([r#"s/^proof .*/proof = "x509"/"#, "policy.toml"]);
        fs::write(self.demo.path("policy.new.toml"), succeed(sed)?.stdout)?;
        succeed(self.policy_command(&["check", "policy.new.toml"]))?;
        succeed(self.policy_command(&["diff", "policy.toml", "policy.new.toml"]))?;
        type_in("mv policy.new.toml policy.toml");
        fs::rename(self.demo.path("policy.new.toml"), self.demo.path("policy.toml"))?;
        self.policy_is_taken()?;
        for (caller, by) in
            [("export", By::Key("export.key")), ("report", By::Key("report.secret")), ("console", By::JwtSvid)]
        {
            let set = (caller == "console").then_some("1");
            self.refused(caller, by, set, "403", "proof-too-weak")?;
        }
        self.allowed("export", By::Certificate, None, "x509")?;
        self.allowed("report", By::Certificate, None, "x509")?;
        self.allowed("console", By::Certificate, Some("150"), "x509")?;
        Ok("the rules' `proof` was raised: keys and tokens were refused, certificates were not".to_owned())
    }

    fn certificates_alone(&mut self) -> anyhow::Result<String> {
        self.demo.step("The service takes certificates alone, and the keys are revoked");
        let mut sed = Command::new("sed");
        sed.current_dir(self.demo.path(".")).args(["-i", r"/^\[accept\]/,/^$/d", "policy.toml"]);
        succeed(sed)?;
        succeed(self.policy_command(&["check", "policy.toml"]))?;
        self.start_service("x509")?;
        self.allowed("export", By::Certificate, None, "x509")?;
        let refused = execute(self.call("export", By::Key("export.key"), None))?;
        ensure!(refused.status.code() == Some(1), "without a certificate there should be no connection any more");
        for id in ["export", "report", "report-hs256", "console"] {
            succeed(self.key_command(&["revoke", id]))?;
        }
        succeed(self.key_command(&["list"]))?;
        Ok("it takes certificates alone: who has none does not get past the handshake".to_owned())
    }

    /// The three with their API keys, each at its own.
    fn all_call_by_their_keys(&self) -> anyhow::Result<()> {
        self.allowed("export", By::Key("export.key"), None, "api-key")?;
        self.allowed("report", By::Key("report.key"), None, "api-key")?;
        self.allowed("console", By::Key("console.key"), Some("100"), "api-key")
    }

    /// Starts the service, in the place of the one before.
    fn start_service(&mut self, take: &str) -> anyhow::Result<()> {
        if let Some(mut before) = self.service.take() {
            type_in("kill %limits");
            before.stop(SOON)?;
        }
        let mut command = self.demo.workload(&self.demo.programs.limits);
        command.current_dir(self.demo.path("."));
        command.args([
            "--take",
            take,
            "--policy",
            "policy.toml",
            "--callers",
            "callers.sock",
            "--listen",
            &self.listen,
        ]);
        if take.contains("keys") {
            command.args(["--keys", "keys.toml"]);
        }
        let service = start("limits", &mut command)?;
        self.listen = service.ready("listen", SOON)?;
        self.service = Some(service);
        Ok(())
    }

    fn call(&self, caller: &str, by: By, set: Option<&str>) -> Command {
        let mut command = self.demo.workload(&self.demo.path("bin").join(caller));
        command.current_dir(self.demo.path("."));
        command.args(["--service", &format!("https://{}", self.listen), "--expect", SERVICE]);
        command.args(["--job", if caller == "report" { "report" } else { "export" }]);
        command.args(set.iter().flat_map(|limit| ["--set", *limit]));
        match by {
            By::Key(file) => command.args(["--key-file", file, "--bundle", "bundle.pem"]),
            By::JwtSvid => command.arg("--jwt"),
            By::Certificate => &mut command,
        };
        command
    }

    /// A call that is answered, and that the service takes for one of this caller with this proof.
    fn allowed(&self, caller: &str, by: By, set: Option<&str>, proof: &str) -> anyhow::Result<()> {
        let output = succeed(self.call(caller, by, set))?;
        let text = String::from_utf8_lossy(&output.stdout);
        let (_, body) = text.split_once('{').context("an answer in JSON")?;
        let answer: Value = serde_json::from_str(&format!("{{{body}"))?;
        let found = (answer.get("for").and_then(Value::as_str), answer.get("proof").and_then(Value::as_str));
        let name = format!("spiffe://example.org/{caller}");
        ensure!(found == (Some(name.as_str()), Some(proof)), "{caller} should have called by {proof}: {answer}");
        Ok(())
    }

    /// A call that is refused with this status, for a reason that the caller is not told and the service has in its log.
    fn refused(&self, caller: &str, by: By, set: Option<&str>, status: &str, reason: &str) -> anyhow::Result<()> {
        let service = self.service.as_ref().context("the service")?;
        let says = |line: &str| line.contains("decided") && line.contains(&format!("reason=\"{reason}\""));
        let mut earlier = service.printed().iter().filter(|line| says(line)).count();
        let output = execute(self.call(caller, by, set))?;
        ensure!(output.status.code() == Some(3), "this should have been refused, not {}", output.status);
        let text = String::from_utf8_lossy(&output.stdout);
        ensure!(text.starts_with(status) && !text.contains(reason), "{status} and no reason, not {text}");
        let log = service.wait_for("say why it refused", SOON, |line| match (says(line), earlier) {
            (true, 0) => Some(line.to_owned()),
            (true, _) => {
                earlier -= 1;
                None
            }
            (false, _) => None,
        })?;
        say(&format!("the service's log: {}", log.split_once("decided").map_or(log.as_str(), |(_, rest)| rest.trim())));
        Ok(())
    }

    /// Who calls, and by which kind of credential, must be these.
    fn report(&self, expected: &[(&str, &str)]) -> anyhow::Result<()> {
        succeed(self.callers(&[]))?;
        let report: Value = serde_json::from_slice(&self.callers(&["--output", "json"]).output()?.stdout)?;
        let edges = report.get("edges").and_then(Value::as_array).context("edges")?;
        let text = |edge: &Value, member: &str| edge.get(member).and_then(Value::as_str).unwrap_or_default().to_owned();
        let mut found: Vec<_> = edges
            .iter()
            .filter(|edge| edge.get("allowed").and_then(Value::as_u64) > Some(0))
            .map(|edge| (text(edge, "caller").replace("spiffe://example.org/", ""), text(edge, "proof")))
            .collect();
        found.dedup();
        let found: Vec<_> = found.iter().map(|(caller, proof)| (caller.as_str(), proof.as_str())).collect();
        ensure!(found == expected, "the report should name {expected:?}, not {found:?}");
        Ok(())
    }

    fn old_since(&self, since: &Timestamp) -> anyhow::Result<Output> {
        execute(self.callers(&["--old", "--since", &since.to_string()]))
    }

    fn old_since_json(&self, since: &Timestamp) -> anyhow::Result<Output> {
        Ok(self.callers(&["--old", "--since", &since.to_string(), "--output", "json"]).output()?)
    }

    fn callers(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.demo.programs.agent);
        command.current_dir(self.demo.path(".")).args(["callers", "callers.sock"]).args(arguments);
        command
    }

    /// The service looks at its policy each second: until it has, what it refuses by the new one is still allowed.
    fn policy_is_taken(&self) -> anyhow::Result<()> {
        let version = self.policy_command(&["check", "policy.toml", "--output", "json"]).output()?;
        let version: Value = serde_json::from_slice(&version.stdout)?;
        let version = version.get("version").and_then(Value::as_str).context("version")?.to_owned();
        self.logs("take the policy", |line| line.contains("took the policy") && line.contains(&version))?;
        say("the service took it, and goes on running");
        Ok(())
    }

    /// Waits until the service's log has such a line.
    fn logs(&self, what: &str, wanted: impl Fn(&str) -> bool) -> anyhow::Result<()> {
        let service = self.service.as_ref().context("the service")?;
        Ok(service.wait_for(what, SOON, |line| wanted(line).then_some(()))?)
    }

    fn add_service(&self, caller: &str) -> anyhow::Result<()> {
        self.demo.add_service(caller, &self.demo.path("bin").join(caller), &[])
    }

    fn create_key(&self, id: &str, caller: &str, kind: &str, file: &str) -> anyhow::Result<()> {
        let owner = format!("spiffe://example.org/{caller}");
        let arguments =
            ["create", "--id", id, "--kind", kind, "--owner", &owner, "--audience", SERVICE, "--secret-file", file];
        succeed(self.key_command(&arguments)).map(drop)
    }

    fn key_command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.demo.programs.ca);
        command.current_dir(self.demo.path(".")).arg("key").args(arguments).args(["--file", "keys.toml"]);
        command
    }

    fn policy_command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.demo.programs.ca);
        command.current_dir(self.demo.path(".")).arg("policy").args(arguments);
        command
    }

    async fn keep(&self) -> anyhow::Result<()> {
        let folder: PathBuf = self.demo.path("");
        println!("\nAll of it goes on running; Ctrl-C ends it. Try:");
        println!("  cd {}", folder.display());
        println!("  export PATH={}:$PATH", self.demo.programs.ca.parent().unwrap_or(&folder).display());
        println!("  export SPIFFE_ENDPOINT_SOCKET=unix://{}", self.demo.socket().display());
        println!("  bin/export --service https://{} --expect {SERVICE} --job export", self.listen);
        println!("  bonafide-agent callers callers.sock");
        println!(
            "  bonafide-ca policy explain policy.toml --caller /export --op 'GET /v1/limits/export' --proof api-key"
        );
        tokio::signal::ctrl_c().await?;
        Ok(())
    }

    fn stop(mut self) -> anyhow::Result<()> {
        self.demo.services.extend(self.service.take());
        self.demo.stop()
    }
}

/// A time after everything that was, as the report tells times: to the millisecond.
fn from_now_on() -> Timestamp {
    SystemClock.now().saturating_add(Duration::from_millis(1))
}

/// The policy from the beginning to the end but one: it lets weaker credentials in where it says so, and until when.
fn policy(until: Timestamp) -> String {
    let until = until.to_string();
    let until = until.split('T').next().unwrap_or_default();
    format!(
        r#"version = 1

[accept]
api-key = {{ until = {until} }}
shared-secret = {{ until = {until} }}

[[allow]]
name = "jobs read their limits"
callers = ["/export", "/report"]
http = ["GET /v1/limits/{{job}}"]
proof = "api-key"

[[allow]]
name = "the console sets limits"
callers = ["/console"]
http = ["GET /v1/limits/{{job}}", "PUT /v1/limits/{{job}}"]
proof = "api-key"
"#
    )
}
