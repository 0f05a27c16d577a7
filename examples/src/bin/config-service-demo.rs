//! The scene of the export limit, from a fresh clone: `cargo run --release --bin config-service-demo`.
//!
//! A hub of settings, an exporter that obeys, an operator who raises the limit from 3,000 to 5,000 rows while it runs, and a stranger who may not.
//! With `--keep` everything goes on running.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::ensure;
use bonafide_examples::{
    demo::{Demo, Done, SOON, execute, say, start, succeed, walk_through},
    process::Process,
};

#[tokio::main]
async fn main() -> ExitCode {
    walk_through("config-service-demo", scene).await
}

async fn scene(keep: bool, done: Done) -> anyhow::Result<()> {
    let mut demo = Demo::new()?;
    demo.step("The hub, an exporter, and two people with the same command line");
    demo.run_ca()?;
    demo.join_node()?;
    let (ops, batch) =
        (demo.copy_of(&demo.programs.configctl, "ops")?, demo.copy_of(&demo.programs.configctl, "batch")?);
    demo.add_service("config", &demo.programs.config_service, &["--dns", "localhost"])?;
    demo.add_service("export", &demo.programs.exporter, &[])?;
    demo.add_service("ops", &ops, &[])?;
    demo.add_service("batch", &batch, &[])?;
    let (policy, records) = (demo.path("policy.toml"), demo.path("records.jsonl"));
    fs::write(&policy, include_str!("../../config-service/policy.toml"))?;
    let mut hub = demo.workload(&demo.programs.config_service);
    hub.arg("--policy").arg(&policy).arg("--records").arg(&records).arg("--data").arg(demo.path("settings"));
    let hub = start("config-service", &mut hub)?;
    let url = format!("https://localhost:{}", hub.ready("listen", SOON)?.rsplit(':').next().unwrap_or_default());
    demo.services.push(hub);
    let as_caller = |demo: &Demo, who: &PathBuf, words: &[&str]| -> Command {
        let mut command = demo.workload(who);
        command.args(["--config", &url]).args(words);
        command
    };
    done.push("a hub of settings took services of one trust domain, by rules in a file");

    demo.step("The export limit is 3,000 rows, and the exporter obeys");
    succeed(as_caller(&demo, &ops, &["set", "export", "row-limit", "3000"]))?;
    let out = demo.path("orders.csv");
    let mut exporter = demo.workload(&demo.programs.exporter);
    exporter.args(["--config", &url]).arg("--out").arg(&out);
    let exporter = start("exporter", &mut exporter)?;
    obeys(&exporter, &out, 3000)?;
    say("now the limit is raised, and nobody restarts anything");
    succeed(as_caller(&demo, &ops, &["set", "export", "row-limit", "5000", "--seen", "1"]))?;
    obeys(&exporter, &out, 5000)?;
    demo.services.push(exporter);
    done.push("the limit went from 3,000 to 5,000 rows, and an exporter that ran on obeyed");

    demo.step("A stranger in the same house may neither look nor change");
    for words in [&["get", "export"][..], &["set", "export", "row-limit", "8000"]] {
        let refused = execute(as_caller(&demo, &batch, words))?;
        ensure!(refused.status.code() == Some(3), "it should have been refused, not {}", refused.status);
    }
    done.push("a service without a rule was refused");

    demo.step("Who changed what is kept");
    succeed(as_caller(&demo, &ops, &["history", "export"]))?;
    done.push("every change is kept, with whoever made it");
    if keep {
        println!("\nAll of it goes on running; Ctrl-C ends it. Try:");
        println!("  export SPIFFE_ENDPOINT_SOCKET=unix://{}", demo.socket().display());
        println!("  {} --config {url} set export row-limit 7000", ops.display());
        println!("  tail -f {}", records.display());
        tokio::signal::ctrl_c().await?;
    }
    demo.stop()
}

/// The exporter says so, and its file has so many rows.
fn obeys(exporter: &Process, out: &Path, rows: usize) -> anyhow::Result<()> {
    let wanted = format!("exported rows={rows} ");
    say(&exporter.wait_for("obey", SOON, |line| line.starts_with(&wanted).then(|| line.to_owned()))?);
    ensure!(fs::read_to_string(out)?.lines().count() == rows, "`{}` has another number of rows", out.display());
    Ok(())
}
