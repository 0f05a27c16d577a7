//! Builds this repository's programs with cargo and says where they are. Whoever starts them (the quickstart, tests,
//! benchmarks) asks here, so that nobody runs one that was built earlier from other sources.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::OnceLock,
};

/// Where the programs are.
#[derive(Clone, Debug)]
pub struct Programs {
    /// The CA.
    pub ca: PathBuf,
    /// The agent.
    pub agent: PathBuf,
    /// The example that serves photos to one caller.
    pub photo: PathBuf,
    /// The example that calls it.
    pub web: PathBuf,
    /// The example that moves from API keys to mutual TLS.
    pub limits: PathBuf,
    /// The example that calls that one.
    pub job: PathBuf,
    /// The hub of settings.
    pub config_service: PathBuf,
    /// Its command line.
    pub configctl: PathBuf,
    /// A service that has its settings from it.
    pub exporter: PathBuf,
    /// The edge of the chain.
    pub chain_photo: PathBuf,
    /// Its middle.
    pub chain_image: PathBuf,
    /// Its end.
    pub chain_blob: PathBuf,
    /// Who calls it in its own name.
    pub chain_export: PathBuf,
}

/// Why there are no programs.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// Cargo could not be started.
    #[error("cargo did not start: {0}")]
    Cargo(String),
    /// Cargo has said why on standard error.
    #[error("cargo could not build the programs")]
    Failed,
    /// Cargo built, and named no such program.
    #[error("cargo named no program `{0}`")]
    Missing(String),
}

/// Builds all of them, in the profile of the caller, once per process. Features are those of the whole workspace, so
/// nothing is compiled a second time beside `cargo test --workspace` or `cargo run`.
///
/// # Errors
/// What cargo said.
pub fn build() -> Result<Programs, BuildError> {
    static BUILT: OnceLock<Result<Programs, BuildError>> = OnceLock::new();
    BUILT.get_or_init(|| cargo_build(Path::new(env!("CARGO_MANIFEST_DIR")))).clone()
}

fn cargo_build(inside: &Path) -> Result<Programs, BuildError> {
    let names = [
        "bonafide-ca",
        "bonafide-agent",
        "photo",
        "web",
        "limits",
        "job",
        "config-service",
        "configctl",
        "exporter",
        "photo-chain-photo",
        "photo-chain-image",
        "photo-chain-blob",
        "photo-chain-export",
    ];
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(inside.parent().unwrap_or(inside)).args([
        "build",
        "--locked",
        "--message-format",
        "json-render-diagnostics",
    ]);
    if !cfg!(debug_assertions) {
        cargo.arg("--release");
    }
    for name in names {
        cargo.args(["--bin", name]);
    }
    let output = cargo
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error: io::Error| BuildError::Cargo(error.to_string()))?;
    if !output.status.success() {
        return Err(BuildError::Failed);
    }
    let mut built = executables(&String::from_utf8_lossy(&output.stdout));
    let mut take = |name: &str| built.remove(name).ok_or_else(|| BuildError::Missing(name.to_owned()));
    Ok(Programs {
        ca: take("bonafide-ca")?,
        agent: take("bonafide-agent")?,
        photo: take("photo")?,
        web: take("web")?,
        limits: take("limits")?,
        job: take("job")?,
        config_service: take("config-service")?,
        configctl: take("configctl")?,
        exporter: take("exporter")?,
        chain_photo: take("photo-chain-photo")?,
        chain_image: take("photo-chain-image")?,
        chain_blob: take("photo-chain-blob")?,
        chain_export: take("photo-chain-export")?,
    })
}

/// Target name -> path, from cargo's messages.
fn executables(messages: &str) -> BTreeMap<String, PathBuf> {
    let parsed = messages.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    parsed
        .filter_map(|message| {
            let name = message.pointer("/target/name")?.as_str()?.to_owned();
            let path = message.get("executable")?.as_str()?;
            Some((name, PathBuf::from(path)))
        })
        .collect()
}
