//! What does a transaction token cost at the edge's own agent? A new one for each call, for users whose tokens the agent has seen before: a real
//! agent under a delegation of a real CA, the caller attested by uid and path, over a warm Unix connection. The call is compared with a bare
//! tonic echo of as many bytes in a process of its own; the handler, which is what the agent's whole process takes beyond what the echo's takes
//! (attestation, claims, signature, the log with its system calls, bringing that to the CA), with one ES256 signature.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bonafide_tests::{
    measure::{
        self, Figure, Goal, Times, bare, disk, fleet,
        minting::{self, Exchange},
        process, role,
        signatures::Signatures,
        users::{ID_TOKEN, ISSUER, Users},
    },
    site::{SOON, Site},
};
use bytes::Bytes;
use prost::Message;
use tokio::task::JoinSet;
use tonic::transport::Channel;

/// Calls in a measurement, one after the other.
const CALLS: usize = 100;
/// Callers that call at once, where they do.
const CALLERS: usize = 16;
/// Users whose tokens come again and again.
const USERS: usize = 64;

fn main() {
    role::play();
    let mut site = Site::new();
    site.environment = vec![("RUST_LOG".to_owned(), "warn".to_owned())];
    site.start_ca();
    let node = site.join("n1");
    let users = Users::of(&site);
    let this = std::env::current_exe().expect("this program");
    site.add_program("edge", &this, &["--on", "n1", "--edge-scope", "photo.read", "--edge-issuer", ISSUER]);
    let folder = site.path("bare");
    std::fs::create_dir(&folder).expect("a folder");
    let bare = role::bare_unix(&folder);
    let agent = node.agent.as_ref().expect("an agent").id();
    let wanted: Vec<Exchange> = (0..USERS)
        .map(|user| Exchange {
            subject_token: users.id_token(&format!("u-{user:03}")),
            subject_token_type: ID_TOKEN.to_owned(),
            scope: "photo.read".to_owned(),
        })
        .collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let channel = fleet::unix_channel(&node.socket()).await.expect("the agent");
        let sizes = first_tokens(&channel, &wanted).await;
        let agent = Server { pid: agent, channel, asked: Asked::Mint(Arc::new(wanted)) };
        // As many bytes both ways together as a request and its answer have.
        let message = Bytes::from(vec![b'e'; sizes.both_ways / 2]);
        let channel = fleet::unix_channel(&folder.join("bare.sock")).await.expect("the bare server");
        let echo = Server { pid: bare.id(), channel, asked: Asked::Echo(message) };
        let signatures = Signatures::over(sizes.signed);

        measure::heading("a transaction token minted at the agent, user's token seen before, one call at a time");
        let growth = disk::fdatasync_of_growth(&node.path("."));
        Figure::alone("mint/fdatasync-of-a-growing-file-p50", growth.quantile(0.5) * 1e3, "us", Goal::None).print();
        let one = Rounds::of(&agent, &echo, 1, CALLS, &signatures).await;
        Figure::paired("mint/call-p50", measure::of_pairs(&one.p50), "us", Goal::RatioAtMost(2.0)).print();
        Figure::paired("mint/call-p99", measure::of_pairs(&one.p99), "us", Goal::None).print();
        one.print("mint");

        measure::heading("the same with sixteen callers at once, who share what is written to the disk");
        let many = Rounds::of(&agent, &echo, CALLERS, 2 * CALLS, &signatures).await;
        Figure::paired("mint/at-once/call-p50", measure::of_pairs(&many.p50), "us", Goal::None).print();
        many.print("mint/at-once");
    });
    drop(bare);
}

struct Sizes {
    /// Of a request and its answer.
    both_ways: usize,
    /// Of a token, without its signature.
    signed: usize,
}

/// Shows each user's token for the first time, once there is a delegation.
async fn first_tokens(channel: &Channel, wanted: &[Exchange]) -> Sizes {
    let began = Instant::now();
    let mut sizes = Sizes { both_ways: 0, signed: 0 };
    for one in wanted {
        let answer = loop {
            match minting::exchange(channel, one).await {
                Ok(answer) => break answer,
                Err(status) => assert!(began.elapsed() < SOON, "no token: {status}"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        sizes.both_ways = one.encoded_len() + answer.encoded_len();
        sizes.signed = answer.token.rfind('.').expect("a token");
    }
    sizes
}

/// A process that is called.
#[derive(Clone)]
struct Server {
    pid: u32,
    channel: Channel,
    asked: Asked,
}

#[derive(Clone)]
enum Asked {
    Mint(Arc<Vec<Exchange>>),
    Echo(Bytes),
}

impl Server {
    async fn call(&self, number: usize) {
        match &self.asked {
            Asked::Mint(wanted) => {
                let wanted = &wanted[number % wanted.len()];
                let answer = minting::exchange(&self.channel, wanted).await.expect("a token");
                assert_eq!(answer.scope, wanted.scope);
            }
            Asked::Echo(message) => {
                assert_eq!(bare::echo(self.channel.clone(), message.clone()).await.len(), message.len());
            }
        }
    }

    /// So many calls by so many callers.
    async fn calls(&self, callers: usize, calls: usize) -> Measured {
        let before = process::cpu(self.pid);
        let mut calling = JoinSet::new();
        for caller in 0..callers {
            let server = self.clone();
            calling.spawn(async move {
                let mut taken = Vec::new();
                for number in (caller..calls).step_by(callers) {
                    let began = Instant::now();
                    server.call(number).await;
                    taken.push(began.elapsed());
                }
                taken
            });
        }
        let mut times = Times::new();
        calling.join_all().await.into_iter().flatten().for_each(|taken| times.record(taken));
        let cpu = (process::cpu(self.pid) - before).as_secs_f64() * 1e6 / calls as f64;
        Measured { p50: times.quantile(0.5) * 1e3, p99: times.quantile(0.99) * 1e3, cpu }
    }
}

/// What some calls took, in microseconds.
struct Measured {
    p50: f64,
    p99: f64,
    /// Processor time of the server for one.
    cpu: f64,
}

/// Each beside its baseline.
#[derive(Default)]
struct Rounds {
    p50: Vec<(f64, f64)>,
    p99: Vec<(f64, f64)>,
    process: Vec<(f64, f64)>,
    handler: Vec<(f64, f64)>,
}

impl Rounds {
    async fn of(agent: &Server, echo: &Server, callers: usize, calls: usize, signatures: &Signatures) -> Self {
        let mut rounds = Self::default();
        for round in 0..measure::rounds(30) {
            let agent_first = round % 2 == 0;
            let (first, second) = if agent_first { (agent, echo) } else { (echo, agent) };
            let (first, second) = (first.calls(callers, calls).await, second.calls(callers, calls).await);
            let (own, other) = if agent_first { (first, second) } else { (second, first) };
            rounds.p50.push((own.p50, other.p50));
            rounds.p99.push((own.p99, other.p99));
            rounds.process.push((own.cpu, other.cpu));
            rounds.handler.push((own.cpu - other.cpu, signatures.micros()));
        }
        rounds
    }

    fn print(&self, name: &str) {
        let figure = |figure: &str, pairs, goal| {
            Figure::paired(&format!("{name}/{figure}"), measure::of_pairs(pairs), "us", goal).print();
        };
        figure("process-cpu", &self.process, Goal::None);
        figure("handler-cpu", &self.handler, Goal::RatioAtMost(1.5));
    }
}
