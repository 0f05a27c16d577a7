//! The main job from a fresh clone, with nothing set up: `cargo run --release --bin quickstart`.
//!
//! Starts a real CA and a real agent in a temporary directory, joins them, registers services, starts two programs
//! that link the verifier alone, and shows what works and what is refused, saying at each step the command that a user
//! would type. Ends with exit code 0, or with 1 at the first step that does not do what it should. With `--keep`
//! everything goes on running afterwards, to be played with.

use std::{
    fs,
    path::Path,
    process::{Command, ExitCode},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use bonafide_examples::{
    demo::{Demo, Done, SOON, execute, say, start, succeed, type_in, walk_through},
    process::Process,
};
use bonafide_verifier::clock::{Clock, SystemClock};
use http_body_util::{BodyExt, Empty};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::Value;

/// Of the services below, so that renewals and ends of connections can be watched.
const TTL: &str = "15s";

#[tokio::main]
async fn main() -> ExitCode {
    walk_through("quickstart", run).await
}

async fn run(keep: bool, done: Done) -> anyhow::Result<()> {
    let mut shop = Shop { demo: Demo::new()?, web: String::new(), photo: String::new() };

    shop.start_ca()?;
    done.push("a CA started on an empty directory");
    shop.join_node()?;
    done.push("a node joined with one string");
    shop.register_services()?;
    done.push("services registered by what their processes are");
    shop.start_services()?;
    done.push("two programs that link only the verifier got their identities");

    done.push(shop.allowed_call().await?);
    done.push(shop.no_identity()?);
    done.push(shop.wrong_name().await?);
    done.push(shop.renewals().await?);
    done.push(shop.agent_killed().await?);
    done.push(shop.token()?);
    done.push(shop.ca_stopped().await?);
    if keep {
        shop.keep().await?;
    }
    shop.demo.stop()
}

/// What runs, and where its two services answer.
struct Shop {
    demo: Demo,
    web: String,
    photo: String,
}

impl Shop {
    fn start_ca(&mut self) -> anyhow::Result<()> {
        self.demo.step("Start a CA: one command, no file to write");
        self.demo.run_ca()?;
        say(&format!("it serves nodes at {}", self.demo.ca_address()));
        Ok(())
    }

    fn join_node(&mut self) -> anyhow::Result<()> {
        self.demo.step("Join a node: one string");
        self.demo.join_node()
    }

    fn register_services(&mut self) -> anyhow::Result<()> {
        self.demo.step("Register services: who they are, what their processes are, where they may run");
        // Another program with a good identity, that `photo` does not take.
        let batch = self.demo.copy_of(&self.demo.programs.web, "batch")?;
        let programs = &self.demo.programs;
        for (name, program) in [("web", &programs.web), ("photo", &programs.photo), ("batch", &batch)] {
            self.demo.add_service(name, program, &["--ttl", TTL])?;
        }
        Ok(())
    }

    fn start_services(&mut self) -> anyhow::Result<()> {
        self.demo.step("Start two services that link nothing but the verifier");
        let mut photo = self.demo.workload(&self.demo.programs.photo);
        photo.args(["--caller", "spiffe://example.org/web"]);
        let photo = start("photo", &mut photo)?;
        self.photo = format!("https://{}", photo.ready("listen", SOON)?);
        let web = self.start_web("web", &self.demo.programs.web.clone())?;
        self.web = format!("http://{}/", web.ready("listen", SOON)?);
        self.demo.services.extend([photo, web]);
        Ok(())
    }

    fn start_web(&self, name: &str, program: &Path) -> anyhow::Result<Process> {
        let mut web = self.demo.workload(program);
        web.args(["--photos", &self.photo, "--photo-id", "spiffe://example.org/photo"]);
        start(name, &mut web)
    }

    async fn allowed_call(&mut self) -> anyhow::Result<String> {
        self.demo.step("An allowed call: each side knows the other's name");
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
        self.demo.step("A process without an identity is refused, and told why");
        let refused = execute(self.demo.agent_command(&["fetch", "x509"]))?;
        ensure!(
            refused.status.code() == Some(3),
            "this should have been refused (exit code 3), not {}",
            refused.status
        );
        let why = execute(self.demo.agent_command(&["whoami"]))?;
        ensure!(!why.stdout.is_empty(), "whoami should say what was seen");
        Ok("a process without an identity got none, and was told what was seen of it".to_owned())
    }

    async fn wrong_name(&mut self) -> anyhow::Result<String> {
        self.demo.step("The wrong name: `batch` has an identity too, but photo takes only web");
        let batch = self.start_web("batch", &self.demo.path("bin/batch"))?;
        let url = format!("http://{}/", batch.ready("listen", SOON)?);
        type_in(&format!("curl {url}"));
        match get(&url).await {
            Ok(answer) => bail!("photo should not have answered batch: {answer}"),
            Err(error) => say(&format!("{error:#}")),
        }
        Ok("photo refused a caller of another name in the handshake".to_owned())
    }

    async fn renewals(&mut self) -> anyhow::Result<String> {
        self.demo.step(&format!("Renewals: SVIDs live {TTL} here, and requests go on without a pause"));
        let load = Load::start(&self.web);
        let ends = load.until_renewed(4).await?;
        let calls = load.finish().await?;
        say(&format!("{calls} calls, none failed, while web's certificate ended at {}", ends.join(", ")));
        Ok(format!("{calls} calls in a row over {} renewals: none failed", ends.len() - 1))
    }

    async fn agent_killed(&mut self) -> anyhow::Result<String> {
        self.demo.step("The agent is killed and comes back");
        let load = Load::start(&self.web);
        type_in("kill -9 AGENT");
        if let Some(mut agent) = self.demo.agent.take() {
            agent.kill()?;
        }
        self.demo.run_agent(None)?;
        load.until_renewed(2).await?;
        let calls = load.finish().await?;
        say(&format!("{calls} calls, none failed; the services came back to the new agent by themselves"));
        Ok(format!("the agent was killed and started again: {calls} calls, none failed"))
    }

    fn token(&mut self) -> anyhow::Result<String> {
        self.demo.step("A JWT-SVID, for where mutual TLS ends early");
        self.demo.add_service("report", &self.demo.programs.agent, &["--ttl", TTL])?;
        let token = succeed(self.demo.agent_command(&["fetch", "jwt", "--audience", "photo"]))?;
        fs::write(self.demo.path("token"), &token.stdout)?;
        let bundle = succeed(self.demo.ca_command(&["bundle", "show"]))?;
        fs::write(self.demo.path("bundle.json"), &bundle.stdout)?;
        let from = format!("example.org={}", self.demo.path("bundle.json").display());
        let file = self.demo.path("token").display().to_string();
        let inspect = |audience: &str| {
            let mut command = Command::new(&self.demo.programs.agent);
            command.args(["inspect", &file, "--bundle", &from, "--audience", audience]);
            command
        };
        succeed(inspect("photo"))?;
        let wrong = execute(inspect("bank"))?;
        ensure!(wrong.status.code() == Some(3), "a token for photo should be refused at bank, not {}", wrong.status);
        Ok("a JWT-SVID was fetched; it is good for its audience and for no other".to_owned())
    }

    async fn ca_stopped(&mut self) -> anyhow::Result<String> {
        self.demo.step("The CA is stopped: nobody notices for half a lifetime");
        let load = Load::start(&self.web);
        type_in("kill CA");
        if let Some(mut ca) = self.demo.ca.take() {
            let status = ca.stop(SOON)?;
            ensure!(status.success(), "the CA should have stopped cleanly: {status}");
        }
        load.calls_more(200).await?;
        say("calls go on; now it comes back, on the same directory and address");
        self.demo.run_ca()?;
        load.until_renewed(3).await?;
        let calls = load.finish().await?;
        say(&format!("{calls} calls, none failed, and certificates are renewed again"));
        Ok(format!("the CA was stopped and started again: {calls} calls, none failed"))
    }

    async fn keep(&self) -> anyhow::Result<()> {
        println!("\nAll of it goes on running; Ctrl-C ends it. Try:");
        println!("  export PATH={}:$PATH", self.demo.programs.ca.parent().unwrap_or(Path::new(".")).display());
        println!("  export SPIFFE_ENDPOINT_SOCKET=unix://{}", self.demo.socket().display());
        println!("  curl {}", self.web);
        println!("  bonafide-ca service list --data {}", self.demo.path("ca").display());
        println!("  bonafide-ca audit list --data {}", self.demo.path("ca").display());
        println!("  bonafide-agent whoami");
        println!("  bonafide-agent status");
        tokio::signal::ctrl_c().await?;
        Ok(())
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
