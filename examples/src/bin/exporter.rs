//! A service that obeys: it exports rows, never more at once than its setting `row-limit` says, and hears of a change while it runs.
//!
//! `exporter --config https://localhost:8443 --out FILE [--rows 8000] [--every 1]`: each second, and at once after a change, writes a file of rows and
//! says how many.

use std::{collections::HashMap, fs, io::Write, path::PathBuf, sync::Arc, time::Duration};

use anyhow::Context;
use bonafide_examples::{
    generated::settings::State,
    settings_client::{SettingsArguments, SettingsClient},
};
use bonafide_verifier::clock::{Clock, SystemClock};
use clap::Parser;
use tokio::sync::watch;

/// Exports rows, as many as its settings allow
#[derive(Debug, Parser)]
struct Arguments {
    #[command(flatten)]
    service: SettingsArguments,
    /// The file to write
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// So many rows there are
    #[arg(long, value_name = "NUMBER", default_value_t = 8000)]
    rows: usize,
    /// Seconds between two exports
    #[arg(long, value_name = "SECONDS", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    every: u64,
}

/// The settings of this program, as far as it knows them: nothing is exported on a guess.
#[derive(Clone, Debug, Default)]
struct Settings {
    version: u64,
    row_limit: usize,
}

impl Settings {
    fn of(state: &State) -> Self {
        let number = |settings: &HashMap<String, String>| settings.get("row-limit")?.parse().ok();
        Self { version: state.version, row_limit: number(&state.settings).unwrap_or_default() }
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let client = SettingsClient::start(&arguments.service).await?;
    let (publish, mut settings) = watch::channel(Settings::default());
    let following = client.follow(
        "export",
        |state| _ = publish.send_replace(Settings::of(&state)),
        |error| {
            eprintln!("exporter: no news of the settings, going on with the last ones: {error:#}");
        },
    );
    let exporting = async {
        settings.changed().await.context("no settings")?;
        println!("ready");
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        loop {
            let now = settings.borrow_and_update().clone();
            export(&arguments, &now)?;
            tokio::select! {
                changed = settings.changed() => changed.context("no settings")?,
                () = clock.sleep_for(Duration::from_secs(arguments.every)) => {}
            }
        }
    };
    tokio::select! {
        () = following => Ok(()),
        ended = exporting => ended,
    }
}

/// One export, whole or not at all.
fn export(arguments: &Arguments, settings: &Settings) -> anyhow::Result<()> {
    let rows = arguments.rows.min(settings.row_limit);
    let aside = arguments.out.with_extension("tmp");
    let mut file = std::io::BufWriter::new(fs::File::create(&aside)?);
    for row in 1..=rows {
        writeln!(file, "{row},order-{row:05}")?;
    }
    file.into_inner()?.sync_all()?;
    fs::rename(&aside, &arguments.out)?;
    println!("exported rows={rows} of={} limit={} version={}", arguments.rows, settings.row_limit, settings.version);
    Ok(())
}
