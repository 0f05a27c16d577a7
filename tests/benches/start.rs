//! How long until it works? The CA's first start, which makes its keys and its database, until it says that it is ready;
//! and a node from the start of its agent with an invitation until a workload has its first SVID. Both are whole processes.

use std::{
    fs,
    time::{Duration, Instant},
};

use bonafide_examples::process::Process;
use bonafide_tests::{
    measure::{self, Figure, Goal, workload},
    site::{SOON, Site},
};

fn main() {
    let rounds = measure::rounds(20);
    measure::heading("start");
    let mut ready = Vec::new();
    let mut nothing = Vec::new();
    for _ in 0..rounds {
        let mut site = Site::new();
        let (version, taken) =
            measure::millis(|| std::process::Command::new(&site.programs.ca).arg("--version").output());
        assert!(version.expect("the program runs").status.success());
        nothing.push(taken);
        let ((), taken) = measure::millis(|| site.start_ca());
        ready.push(taken);
    }
    let (ready, nothing) = (measure::median(ready), measure::median(nothing));
    Figure::beside("start/ca-first-start-to-ready", ready, nothing, "ms", Goal::AtMost(300.0)).print();

    let site = Site::started();
    site.add_service("bench", &["--on", "any"]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let mut joined = Vec::new();
    let mut nothing = Vec::new();
    for round in 0..rounds {
        let node = site.node(&format!("n{round}"));
        let invitation = node.path("invitation");
        fs::write(&invitation, site.invite(&node.name)).expect("the invitation is written");
        let mut command = node.agent_run();
        command.arg("--join-file").arg(invitation);
        let (version, taken) =
            measure::millis(|| std::process::Command::new(&site.programs.agent).arg("--version").output());
        assert!(version.expect("the program runs").status.success());
        nothing.push(taken);
        let socket = node.socket();
        let (agent, taken) = measure::millis(|| {
            let agent = Process::start("bonafide-agent", &mut command).expect("the agent starts");
            runtime.block_on(async {
                let began = Instant::now();
                // A workload that is started together with its agent: it asks until there is somebody to ask.
                while first(&socket).await.is_none() {
                    assert!(began.elapsed() < SOON, "no SVID: {:#?}", agent.printed());
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            });
            agent
        });
        joined.push(taken);
        drop(agent);
    }
    let (joined, nothing) = (measure::median(joined), measure::median(nothing));
    Figure::beside("start/join-to-first-svid", joined, nothing, "ms", Goal::AtMost(300.0)).print();
}

async fn first(socket: &std::path::Path) -> Option<workload::Svids> {
    let mut stream = workload::fetch(socket).await.ok()?;
    workload::next(&mut stream).await.ok()
}
