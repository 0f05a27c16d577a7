//! Settings from the command line: `configctl get export`, `configctl set export row-limit 5000`, `configctl watch export`.
//!
//! Prints JSON. Exit codes: 0 done, 1 failed, 3 refused (it says so on standard error).

use std::process::ExitCode;

use anyhow::{Context, bail};
use axum::http::{Method, StatusCode};
use bonafide_examples::settings_client::{SettingsArguments, SettingsClient};
use clap::{Parser, Subcommand};
use serde_json::json;

/// Settings of services, read, watched and changed
#[derive(Debug, Parser)]
struct Arguments {
    #[command(flatten)]
    service: SettingsArguments,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The settings of a service, or one of them
    Get { service: String, name: Option<String> },
    /// Change a setting
    Set {
        service: String,
        name: String,
        value: String,
        /// Only if it is still of this version; 0 for a setting that is not there yet
        #[arg(long, value_name = "VERSION")]
        seen: Option<u64>,
    },
    /// Who changed what, the newest first
    History { service: String },
    /// The settings of a service as they are and whenever they change, one line each
    Watch {
        service: String,
        /// Over gRPC instead of server-sent events
        #[arg(long)]
        grpc: bool,
        /// End after so many states
        #[arg(long, value_name = "NUMBER", default_value_t = u64::MAX, hide_default_value = true)]
        count: u64,
    },
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Arguments::parse()).await {
        Ok(StatusCode::OK) => ExitCode::SUCCESS,
        Ok(status) => {
            eprintln!("configctl: {status}");
            let refused = matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN);
            ExitCode::from(if refused { 3 } else { 1 })
        }
        Err(error) => {
            eprintln!("configctl: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> anyhow::Result<StatusCode> {
    let client = SettingsClient::start(&arguments.service).await?;
    let (method, path, body) = match &arguments.command {
        Command::Get { service, name: None } => (Method::GET, format!("/v1/settings/{service}"), None),
        Command::Get { service, name: Some(name) } => (Method::GET, format!("/v1/settings/{service}/{name}"), None),
        Command::Set { service, name, value, seen } => {
            (Method::PUT, format!("/v1/settings/{service}/{name}"), Some(json!({ "value": value, "seen": seen })))
        }
        Command::History { service } => (Method::GET, format!("/v1/history/{service}"), None),
        Command::Watch { service, grpc, count } => return watch(&client, service, *grpc, *count).await,
    };
    let (status, answer) = client.ask(method, &path, body.as_ref()).await?;
    if status == StatusCode::OK {
        println!("{answer}");
    } else if let Some(detail) = answer.get("detail").and_then(serde_json::Value::as_str) {
        eprintln!("configctl: {detail}");
    }
    Ok(status)
}

async fn watch(client: &SettingsClient, service: &str, grpc: bool, count: u64) -> anyhow::Result<StatusCode> {
    let (seen, mut enough) = tokio::sync::watch::channel(0);
    let counted = |line: String| {
        println!("{line}");
        seen.send_modify(|seen| *seen += 1);
    };
    let watching = async {
        if grpc {
            match client
                .watch(service, |state| {
                    counted(json!({ "version": state.version, "settings": state.settings }).to_string())
                })
                .await
            {
                Ok(()) => bail!("the stream ended"),
                Err(error) => match error.downcast_ref::<tonic::Status>().map(tonic::Status::code) {
                    Some(tonic::Code::Unauthenticated) => Ok(StatusCode::UNAUTHORIZED),
                    Some(tonic::Code::PermissionDenied) => Ok(StatusCode::FORBIDDEN),
                    _ => Err(error),
                },
            }
        } else {
            match client.events(service, |state| counted(state.to_string())).await? {
                StatusCode::OK => bail!("the stream ended"),
                refused => Ok(refused),
            }
        }
    };
    tokio::select! {
        ended = watching => ended,
        done = enough.wait_for(|seen| *seen >= count) => done.map(|_| StatusCode::OK).context("not reached"),
    }
}
