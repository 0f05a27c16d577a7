//! How long does a workload wait for its identity? A new connection to the agent until the first SVID is there, the caller
//! attested by uid and path; against a bare tonic server that sends the same bytes back over a new Unix connection.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use bonafide_tests::{
    measure::{self, Figure, Goal, Times, bare, fleet, role, workload},
    site::{SOON, Site},
};
use bytes::Bytes;
use prost::Message;

fn main() {
    role::play();
    let mut site = Site::new();
    site.environment = vec![("BONAFIDE_LOG_LEVEL".to_owned(), "warn".to_owned())];
    site.start_ca();
    let node = site.join("n1");
    let this = std::env::current_exe().expect("this program");
    site.add_program("bench", &this, &["--on", "any"]);
    let folder = site.path("bare");
    std::fs::create_dir(&folder).expect("a folder");
    let bare = role::bare_unix(&folder);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let socket = node.socket();
        let began = Instant::now();
        let first = loop {
            match ours(&socket).await {
                Ok((svids, _)) => break svids,
                Err(status) => assert!(began.elapsed() < SOON, "no SVID: {status}"),
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        };
        assert_eq!(first.svids.len(), 1);
        let message = Bytes::from(first.encode_to_vec());
        let echo = folder.join("bare.sock");
        let (mut svids, mut echoes) = (Times::new(), Times::new());
        let mut medians = Vec::new();
        for _ in 0..measure::rounds(30) {
            let (mut own, mut other) = (Times::new(), Times::new());
            for _ in 0..40 {
                let (_, taken) = ours(&socket).await.expect("an SVID");
                own.record(taken);
                svids.record(taken);
                let began = Instant::now();
                let channel = fleet::unix_channel(&echo).await.expect("the bare server");
                assert_eq!(bare::echo(channel, message.clone()).await.len(), message.len());
                other.record(began.elapsed());
                echoes.record(began.elapsed());
            }
            medians.push((own.quantile(0.5), other.quantile(0.5)));
        }
        measure::heading("Workload API, new connection to first SVID, attested by uid and path");
        let pair = measure::of_pairs(&medians);
        Figure::paired("workload-api/first-svid-p50", pair, "ms", Goal::RatioAtMost(2.0)).print();
        let (value, baseline) = (svids.quantile(0.99), echoes.quantile(0.99));
        Figure::beside("workload-api/first-svid-p99", value, baseline, "ms", Goal::None).print();
    });
    drop(bare);
}

async fn ours(socket: &Path) -> Result<(workload::Svids, Duration), tonic::Status> {
    let began = Instant::now();
    let mut stream = workload::fetch(socket).await?;
    let svids = workload::next(&mut stream).await?;
    Ok((svids, began.elapsed()))
}
