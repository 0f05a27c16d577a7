//! `run`: the agent itself.

use std::{ffi::OsString, io::Write, sync::Arc};

use bonafide_verifier::clock::{Clock, SystemClock};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use super::Failure;
use crate::{
    running::{EndError, Ready, StartError, start},
    settings::{self, Flags, LogFormat, Settings},
};

#[derive(Debug, clap::Args)]
#[command(after_help = READY_LINE)]
pub(super) struct Arguments {
    #[command(flatten)]
    flags: Flags,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let environment = |name: &str| std::env::var_os(name);
    let settings = Settings::resolve(&arguments.flags, &environment, &settings::read_settings_file)
        .map_err(|error| Failure::Usage(error.to_string()))?;
    start_log(&settings);
    for name in settings::unknown_variables(std::env::vars_os().map(|(name, _): (OsString, OsString)| name)) {
        tracing::warn!(variable = name, "no such setting; the variable is ignored: is it misspelt?");
    }
    harden();
    // A node's agent waits for the most part; a thread for each of a hundred cores would only cost memory.
    let threads = std::thread::available_parallelism().map_or(2, |cores| cores.get().clamp(2, 4));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .enable_all()
        .build()
        .map_err(|error| Failure::Failed(format!("cannot start: {error}")))?;
    let done = runtime.block_on(serve(settings));
    // Whatever still blocks a thread (a hanging name service) does not hold up the end.
    runtime.shutdown_background();
    done
}

async fn serve(settings: Settings) -> Result<(), Failure> {
    // Before anything is opened: a signal during the start is a stop like any other.
    let signals = [SignalKind::terminate(), SignalKind::interrupt()].map(signal);
    let [Ok(mut terminate), Ok(mut interrupt)] = signals else {
        return Err(Failure::Failed("cannot listen for signals".into()));
    };
    let asked = async {
        tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        }
    };
    tokio::pin!(asked);
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let starting = start(settings, Arc::clone(&clock));
    let running = tokio::select! {
        started = starting => started.map_err(from_start)?,
        _ = &mut asked => return Ok(()),
    };
    let mut announced = false;
    let alive = say_alive(&*clock);
    tokio::pin!(alive);
    loop {
        tokio::select! {
            how = running.ready(), if !announced => {
                announce(&how);
                announced = true;
            }
            () = &mut alive => {}
            how = running.ended() => return how.map_err(from_end),
            signal = &mut asked => {
                tracing::info!(signal, "stopping");
                break;
            }
        }
    }
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    running.stop();
    // Bounded by the drain's own grace; a second signal changes nothing.
    running.ended().await.map_err(from_end)
}

/// The documented signal that this agent serves: one line on standard output, and READY=1 to systemd.
fn announce(ready: &Ready) {
    let line = format!("ready socket={} node={}\n", ready.socket.display(), ready.node);
    tracing::info!(socket = %ready.socket.display(), node = %ready.node, "ready");
    let mut stdout = std::io::stdout().lock();
    // Nobody reading is no reason to stop serving.
    let _ = stdout.write_all(line.as_bytes()).and_then(|()| stdout.flush());
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready, sd_notify::NotifyState::Status(&ready.node)]);
}

/// Tells systemd that this agent is alive, twice in the time it allows (`WatchdogSec=`); only if a thread that serves workloads
/// takes up work. Never ends.
async fn say_alive(clock: &dyn Clock) {
    let Some(allowed) = sd_notify::watchdog_enabled() else { return std::future::pending().await };
    loop {
        if tokio::spawn(async {}).await.is_ok() {
            let _ = sd_notify::notify(&[sd_notify::NotifyState::Watchdog]);
        }
        clock.sleep_for(allowed / 2).await;
    }
}

fn start_log(settings: &Settings) {
    let filter = EnvFilter::new(&settings.log_level);
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // There is no other subscriber in this process: a second one would be a fault of ours, and harmless.
    let _ = match settings.log_format {
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
        LogFormat::Text => builder.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).try_init(),
    };
}

/// Before any key is read: no core dump and no debugger of the same user gets at the memory; files are ours alone.
fn harden() {
    use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    let dumpable = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    let core = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
    if let Err(error) = dumpable.and(core) {
        tracing::warn!(error = %error, "this process could not be closed to debuggers and core dumps");
    }
}

fn from_start(error: StartError) -> Failure {
    let text = chain(&error);
    match error {
        StartError::Settings(_) | StartError::Plan(_) => Failure::Usage(text),
        StartError::Elsewhere(_) => Failure::Refused(text),
        _ => Failure::Failed(text),
    }
}

fn from_end(error: EndError) -> Failure {
    let text = chain(&error);
    match error {
        EndError::JoinRefused(_) => Failure::Refused(text),
        EndError::JoinUnreachable(_) => Failure::Unreachable(text),
        EndError::Other(_) | EndError::Panicked => Failure::Failed(text),
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let said = cause.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        source = cause.source();
    }
    text
}

const READY_LINE: &str = "When the agent serves, it prints one line on standard output, `ready socket=PATH node=SPIFFE-ID`, and tells \
systemd READY=1 (with WatchdogSec= also that it is alive). It logs on standard error. Health and metrics are on DATA/health.sock: /livez /readyz /readyz/PART /metrics.";
