//! `fetch`: what a workload gets, for a person at the keyboard. A private key is only ever written to a file.

use std::{
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use bonafide_verifier::{
    clock::{Clock, SystemClock},
    spiffe::{SpiffeId, TrustBundle, TrustDomain},
    x509::X509Svid,
};
use serde_json::{Value, json};
use tokio_stream::StreamExt;
use zeroize::Zeroizing;

use super::{
    Failure,
    output::{Output, OutputArguments, complain, print, printable, table, when},
    socket::{AgentChannel, SocketArguments, refused},
};
use crate::{
    generated::workload::{
        JwtBundlesRequest, JwtsvidRequest, X509BundlesRequest, X509svidRequest, X509svidResponse,
        spiffe_workload_api_client::SpiffeWorkloadApiClient,
    },
    state_file::write_into_place,
};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// An X.509-SVID and the trust bundle; the key only with --write.
    X509(X509Arguments),
    /// A JWT-SVID, alone on standard output.
    Jwt(JwtArguments),
    /// The trust bundles.
    Bundle(BundleArguments),
}

#[derive(Debug, clap::Args)]
struct X509Arguments {
    /// Write svid.pem, svid.key (0600) and bundle.pem into this directory, and federated bundles as TRUST-DOMAIN.pem.
    #[arg(long, value_name = "DIR")]
    write: Option<PathBuf>,

    /// This identity, if there are several; else the default one is written.
    #[arg(long, value_name = "SPIFFE-ID")]
    id: Option<String>,

    #[command(flatten)]
    socket: SocketArguments,

    #[command(flatten)]
    output: OutputArguments,
}

#[derive(Debug, clap::Args)]
struct JwtArguments {
    /// Whom the token is for; may be given several times.
    #[arg(long, value_name = "AUDIENCE", required = true)]
    audience: Vec<String>,

    /// For this identity, if there are several; else for the default one.
    #[arg(long, value_name = "SPIFFE-ID")]
    id: Option<String>,

    /// Write svid.jwt (0600) into this directory instead of printing the token.
    #[arg(long, value_name = "DIR")]
    write: Option<PathBuf>,

    #[command(flatten)]
    socket: SocketArguments,

    #[command(flatten)]
    output: OutputArguments,
}

#[derive(Debug, clap::Args)]
struct BundleArguments {
    /// Write bundle.pem (X.509) and bundle.json (SPIFFE format, X.509 and JWT) into this directory, and those of federated
    /// trust domains as TRUST-DOMAIN.pem and TRUST-DOMAIN.json.
    #[arg(long, value_name = "DIR")]
    write: Option<PathBuf>,

    #[command(flatten)]
    socket: SocketArguments,

    #[command(flatten)]
    output: OutputArguments,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    match &arguments.what {
        What::X509(arguments) => x509(arguments),
        What::Jwt(arguments) => jwt(arguments),
        What::Bundle(arguments) => bundle(arguments),
    }
}

/// One identity, as the Workload API gave it.
struct Fetched {
    svid: X509Svid,
    hint: String,
    bundle: TrustBundle,
}

fn x509(arguments: &X509Arguments) -> Result<(), Failure> {
    let wanted = arguments.id.as_deref().map(spiffe_id).transpose()?;
    let answer = arguments.socket.ask(first_svids)?;
    let federated = federated_bundles(&answer)?;
    let mut identities = identities(answer)?;
    if let Some(wanted) = &wanted {
        identities.retain(|identity| identity.svid.id() == wanted);
    }
    let Some(chosen) = identities.first() else {
        let wanted = wanted.map(|id| format!(" `{id}`")).unwrap_or_default();
        return Err(Failure::Refused(format!(
            "this process has no identity{wanted}; `bonafide-agent whoami` shows which it has, and why"
        )));
    };
    let mut written = Vec::new();
    if let Some(directory) = &arguments.write {
        let mut files = Files::new(directory)?;
        // The key first: who watches the certificate then finds its key.
        files.write("svid.key", chosen.svid.expose_secret_pem().as_bytes(), 0o600)?;
        files.write("svid.pem", chosen.svid.chain_pem().as_bytes(), 0o644)?;
        files.write("bundle.pem", chosen.bundle.to_pem().as_bytes(), 0o644)?;
        for bundle in &federated {
            files.write(&format!("{}.pem", bundle.trust_domain()), bundle.to_pem().as_bytes(), 0o644)?;
        }
        written = files.written;
        if identities.len() > 1 && wanted.is_none() {
            complain(&format!(
                "wrote the default identity, `{}`; there are {} more, choose with --id",
                chosen.svid.id(),
                identities.len() - 1
            ));
        }
    }
    let now = SystemClock.now();
    let text = || {
        let mut rows = Vec::new();
        for (index, identity) in identities.iter().enumerate() {
            let default = if index == 0 && identities.len() > 1 { "  (the default)" } else { "" };
            rows.push(("spiffe id", format!("{}{default}", identity.svid.id())));
            rows.push(("valid until", when(identity.svid.not_after(), now)));
            rows.push(("serial", identity.svid.serial().to_string()));
            if !identity.hint.is_empty() {
                rows.push(("hint", printable(&identity.hint)));
            }
        }
        for path in &written {
            rows.push(("wrote", path.display().to_string()));
        }
        table(&rows)
    };
    arguments.output.print(text, || {
        json!({
            "svids": identities.iter().map(identity_json).collect::<Vec<_>>(),
            "federated_bundles": federated.iter().map(|bundle| json!({
                "trust_domain": bundle.trust_domain().as_str(), "bundle_pem": bundle.to_pem(),
            })).collect::<Vec<_>>(),
            "written": written,
        })
    })
}

fn identity_json(identity: &Fetched) -> Value {
    json!({
        "spiffe_id": identity.svid.id().as_str(),
        "hint": identity.hint,
        "not_before": identity.svid.not_before().to_string(),
        "not_after": identity.svid.not_after().to_string(),
        "serial": identity.svid.serial().to_string(),
        "chain_pem": identity.svid.chain_pem(),
        "bundle_pem": identity.bundle.to_pem(),
    })
}

fn jwt(arguments: &JwtArguments) -> Result<(), Failure> {
    let id = arguments.id.as_deref().map(spiffe_id).transpose()?;
    let request = JwtsvidRequest {
        audience: arguments.audience.clone(),
        spiffe_id: id.map(|id| id.to_string()).unwrap_or_default(),
    };
    let answer = arguments.socket.ask(async |channel| {
        let answer = SpiffeWorkloadApiClient::new(channel).fetch_jwtsvid(request).await;
        answer.map(tonic::Response::into_inner).map_err(|status| refused(&status))
    })?;
    let Some(chosen) = answer.svids.first() else {
        return Err(Failure::Failed("the agent sent no JWT-SVID".into()));
    };
    if answer.svids.len() > 1 && arguments.output.output == Output::Text {
        complain(&format!(
            "this is the default identity's, `{}`; there are {} more, choose with --id",
            printable(&chosen.spiffe_id),
            answer.svids.len() - 1
        ));
    }
    let mut written = Vec::new();
    if let Some(directory) = &arguments.write {
        let mut files = Files::new(directory)?;
        files.write("svid.jwt", chosen.svid.as_bytes(), 0o600)?;
        written = files.written;
    }
    match arguments.output.output {
        Output::Text if written.is_empty() => print(&format!("{}\n", printable(&chosen.svid))),
        Output::Text | Output::Json => arguments.output.print(
            || table(&written.iter().map(|path| ("wrote", path.display().to_string())).collect::<Vec<_>>()),
            || {
                json!({
                    "svids": answer.svids.iter().map(|svid| json!({
                        "spiffe_id": svid.spiffe_id, "hint": svid.hint, "token": svid.svid,
                    })).collect::<Vec<_>>(),
                    "written": written,
                })
            },
        ),
    }
}

fn bundle(arguments: &BundleArguments) -> Result<(), Failure> {
    let (own, x509, jwt) = arguments.socket.ask(async |channel| {
        // Only the SVID says which of the trust domains is the own one.
        let own = match first_svids(channel.clone()).await {
            Ok(answer) => answer.svids.first().and_then(|svid| SpiffeId::parse(&svid.spiffe_id).ok()),
            Err(_) => None,
        };
        let mut client = SpiffeWorkloadApiClient::new(channel);
        let mut stream =
            client.fetch_x509_bundles(X509BundlesRequest {}).await.map_err(|status| refused(&status))?.into_inner();
        let x509 = first(stream.next().await)?.bundles;
        let mut stream =
            client.fetch_jwt_bundles(JwtBundlesRequest {}).await.map_err(|status| refused(&status))?.into_inner();
        let jwt = first(stream.next().await)?.bundles;
        Ok((own, x509, jwt))
    })?;
    let mut names: Vec<&String> = x509.keys().chain(jwt.keys()).collect();
    names.sort();
    names.dedup();
    let mut bundles = Vec::new();
    for name in names {
        let trust_domain =
            spiffe_id(name).map_err(|_| unusable("a bundle has no trust domain"))?.trust_domain().clone();
        let empty = Vec::new();
        let roots = TrustBundle::parse_der(trust_domain.clone(), x509.get(name).unwrap_or(&empty)).map_err(unusable)?;
        bundles.push(match jwt.get(name) {
            Some(jwks) => {
                let keys = TrustBundle::parse_jwks(trust_domain, jwks).map_err(unusable)?;
                roots.with_jwt_authorities_of(&keys)
            }
            None => roots,
        });
    }
    let own = own.map(|id| id.trust_domain().clone());
    let is_own = |bundle: &TrustBundle| bundles.len() == 1 || own.as_ref() == Some(bundle.trust_domain());
    let mut written = Vec::new();
    if let Some(directory) = &arguments.write {
        let mut files = Files::new(directory)?;
        for bundle in &bundles {
            let name = if is_own(bundle) { "bundle".to_owned() } else { bundle.trust_domain().to_string() };
            files.write(&format!("{name}.pem"), bundle.to_pem().as_bytes(), 0o644)?;
            files.write(&format!("{name}.json"), bundle.to_spiffe_json().as_bytes(), 0o644)?;
        }
        written = files.written;
    }
    let text = || {
        let mut rows = Vec::new();
        for bundle in &bundles {
            let (roots, keys) = (bundle.x509_authorities().len(), bundle.jwt_authorities().len());
            rows.push(("bundle", format!("{}: {roots} X.509 authorities, {keys} JWT keys", bundle.trust_domain())));
        }
        for path in &written {
            rows.push(("wrote", path.display().to_string()));
        }
        table(&rows)
    };
    arguments.output.print(text, || {
        json!({
            "bundles": bundles.iter().map(|bundle| json!({
                "trust_domain": bundle.trust_domain().as_str(),
                "own": is_own(bundle),
                "x509_authorities": bundle.x509_authorities().len(),
                "jwt_authorities": bundle.jwt_authorities().len(),
                "bundle_pem": bundle.to_pem(),
                "spiffe_bundle": serde_json::from_str::<Value>(&bundle.to_spiffe_json()).unwrap_or(Value::Null),
            })).collect::<Vec<_>>(),
            "written": written,
        })
    })
}

async fn first_svids(channel: AgentChannel) -> Result<X509svidResponse, Failure> {
    let mut client = SpiffeWorkloadApiClient::new(channel);
    let mut stream = client.fetch_x509svid(X509svidRequest {}).await.map_err(|status| refused(&status))?.into_inner();
    first(stream.next().await)
}

fn first<T>(message: Option<Result<T, tonic::Status>>) -> Result<T, Failure> {
    match message {
        Some(Ok(message)) => Ok(message),
        Some(Err(status)) => Err(refused(&status)),
        None => Err(Failure::Unreachable("the agent ended the stream before its first message".into())),
    }
}

fn identities(answer: X509svidResponse) -> Result<Vec<Fetched>, Failure> {
    let mut identities = Vec::with_capacity(answer.svids.len());
    for svid in answer.svids {
        let key = Zeroizing::new(svid.x509_svid_key);
        let own = X509Svid::from_der(&svid.x509_svid, key).map_err(unusable)?;
        if own.id().as_str() != svid.spiffe_id {
            return Err(unusable("the certificate is for another SPIFFE ID than said"));
        }
        let bundle = TrustBundle::parse_der(own.id().trust_domain().clone(), &svid.bundle).map_err(unusable)?;
        identities.push(Fetched { svid: own, hint: svid.hint, bundle });
    }
    Ok(identities)
}

fn federated_bundles(answer: &X509svidResponse) -> Result<Vec<TrustBundle>, Failure> {
    let mut bundles = Vec::new();
    for (name, der) in &answer.federated_bundles {
        let trust_domain: TrustDomain =
            spiffe_id(name).map_err(|_| unusable("a bundle has no trust domain"))?.trust_domain().clone();
        bundles.push(TrustBundle::parse_der(trust_domain, der).map_err(unusable)?);
    }
    bundles.sort_by(|a, b| a.trust_domain().cmp(b.trust_domain()));
    Ok(bundles)
}

fn spiffe_id(text: &str) -> Result<SpiffeId, Failure> {
    SpiffeId::parse(text).map_err(|error| Failure::Usage(format!("`{}`: {error}", printable(text))))
}

fn unusable(why: impl std::fmt::Display) -> Failure {
    Failure::Failed(format!("what the agent sent cannot be used: {why}"))
}

/// Files for the user's programs: each is written aside and renamed into place.
struct Files<'a> {
    directory: &'a Path,
    written: Vec<PathBuf>,
}

impl<'a> Files<'a> {
    /// Creates the directory (0700) if it is missing.
    fn new(directory: &'a Path) -> Result<Self, Failure> {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(|error| {
            Failure::Failed(format!("cannot create the directory `{}`: {error}", directory.display()))
        })?;
        Ok(Self { directory, written: Vec::new() })
    }

    fn write(&mut self, name: &str, content: &[u8], mode: u32) -> Result<(), Failure> {
        let path = self.directory.join(name);
        write_into_place(&path, content, mode).map_err(|error| {
            let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
            Failure::Failed(format!("{error}{cause}"))
        })?;
        self.written.push(path);
        Ok(())
    }
}
