//! A user passes through three services, and is never lost: `cargo run --release --bin photo-chain-demo`.
//!
//! photo takes a user's own token and has it exchanged at the agent on its node, image acts for that user and for nobody else, blob does not ask. The
//! records of all three name the transaction. The demonstration plays the identity provider itself, so that nothing else has to run; with a real one,
//! see the guide. With `--keep` everything goes on running.

use std::{collections::BTreeMap, fs, process::ExitCode, sync::Arc};

use anyhow::{Context, ensure};
use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair},
};
use axum::http::{Method, Request, StatusCode};
use base64ct::{Base64UrlUnpadded, Encoding};
use bonafide_examples::demo::{Demo, Done, SOON, execute, say, start, succeed, walk_through};
use bonafide_verifier::clock::{Clock, SystemClock};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};
use serde_json::{Value, json};

#[tokio::main]
async fn main() -> ExitCode {
    walk_through("photo-chain-demo", scene).await
}

async fn scene(keep: bool, done: Done) -> anyhow::Result<()> {
    let mut demo = Demo::new()?;
    demo.step("An issuer of users, and who of us may take their tokens");
    demo.run_ca()?;
    demo.join_node()?;
    let provider = Provider::new()?;
    let jwks = demo.path("jwks.json");
    fs::write(&jwks, provider.jwks().to_string())?;
    let (words, file) =
        (["issuer", "add", "corp", Provider::ISSUER, "--audience", "photo", "--jwks-file"], jwks.display().to_string());
    succeed(demo.ca_command(&[&words[..], &[&file]].concat()))?;
    let edge =
        ["--dns", "localhost", "--edge-scope", "photo.read", "--edge-scope", "photo.write", "--edge-issuer", "corp"];
    demo.add_service("photo", &demo.programs.chain_photo, &edge)?;
    demo.add_service("image", &demo.programs.chain_image, &[])?;
    demo.add_service("blob", &demo.programs.chain_blob, &[])?;
    demo.add_service("export", &demo.programs.chain_export, &["--edge-scope", "photo.count"])?;

    demo.step("Three services in a row");
    let policies = [
        ("photo", include_str!("../../photo-chain/photo.toml")),
        ("image", include_str!("../../photo-chain/image.toml")),
        ("blob", include_str!("../../photo-chain/blob.toml")),
    ];
    for (name, policy) in policies {
        fs::write(demo.path(&format!("{name}.toml")), policy)?;
    }
    let blob = serve(&mut demo, "blob", &[])?;
    let image = serve(&mut demo, "image", &["--next", &blob, "--next-id", "spiffe://example.org/blob"])?;
    let photo = serve(&mut demo, "photo", &["--next", &image, "--next-id", "spiffe://example.org/image"])?;

    demo.step("Charlie keeps a photo and looks at it; Alice has another album");
    let bundle = succeed(demo.ca_command(&["bundle", "show", "--format", "pem"]))?;
    let user = User::new(&bundle.stdout, &photo)?;
    let (charlie, alice) = (provider.id_token("charlie")?, provider.id_token("alice")?);
    user.call("charlie", &charlie, Method::PUT, "/v1/photos/cat", "a cat in the sun", StatusCode::OK).await?;
    let seen = user.call("charlie", &charlie, Method::GET, "/v1/photos/cat", "", StatusCode::OK).await?;
    ensure!(seen == "a cat in the sun", "another photo");
    user.call("alice", &alice, Method::GET, "/v1/photos/cat", "", StatusCode::NOT_FOUND).await?;
    done.push("a user's photo was kept and seen through three services, and nobody else saw it");

    demo.step("The nightly export calls in its own name, in a transaction of its own: it may count, and image lets it see nothing");
    let export = |demo: &Demo, path: &str| {
        let mut command = demo.workload(&demo.programs.chain_export);
        command.args(["--photo", &photo, path]);
        command
    };
    succeed(export(&demo, "/v1/usage"))?;
    let refused = execute(export(&demo, "/v1/photos/cat"))?;
    ensure!(refused.status.code() == Some(3), "image should have refused, not {}", refused.status);
    done.push("a call without a user was refused by the service that acts for users");

    demo.step("What was recorded, by transaction");
    let transactions = transactions(&demo)?;
    ensure!(transactions.values().any(|services| services.len() == 3), "no transaction went through all three");
    for (transaction, services) in &transactions {
        say(&format!("{transaction}: {}", services.join(", ")));
    }
    done.push("the records of all three services name the transaction, and whose it was");
    if keep {
        println!("\nAll of it goes on running; Ctrl-C ends it. Try:");
        println!("  tail -f {}", demo.path("blob.jsonl").display());
        println!("  bonafide-ca audit list --data {}", demo.path("ca").display());
        tokio::signal::ctrl_c().await?;
    }
    demo.stop()
}

/// Starts one of the three and gives its address.
fn serve(demo: &mut Demo, name: &str, further: &[&str]) -> anyhow::Result<String> {
    let program = match name {
        "photo" => &demo.programs.chain_photo,
        "image" => &demo.programs.chain_image,
        _ => &demo.programs.chain_blob,
    };
    let mut command = demo.workload(program);
    command.arg("--policy").arg(demo.path(&format!("{name}.toml")));
    command.arg("--records").arg(demo.path(&format!("{name}.jsonl"))).args(further);
    let process = start(&format!("photo-chain-{name}"), &mut command)?;
    let listen = process.ready("listen", SOON)?;
    demo.services.push(process);
    Ok(format!("https://localhost:{}", listen.rsplit(':').next().unwrap_or_default()))
}

/// Which services named a transaction, and for whom.
fn transactions(demo: &Demo) -> anyhow::Result<BTreeMap<String, Vec<String>>> {
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for service in ["photo", "image", "blob"] {
        for line in fs::read_to_string(demo.path(&format!("{service}.jsonl")))?.lines() {
            let record: Value = serde_json::from_str(line)?;
            let text = |name: &str| record.get(name).and_then(Value::as_str);
            if let (Some(transaction), Some(user)) = (text("transaction"), text("user")) {
                found.entry(transaction.to_owned()).or_default().push(format!("{service} for {user}"));
            }
        }
    }
    Ok(found)
}

/// What in earnest is somebody else's: it says who people are, and signs that.
struct Provider(EcdsaKeyPair);

impl Provider {
    const ISSUER: &str = "https://login.example.org";

    fn new() -> anyhow::Result<Self> {
        EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).map(Self).map_err(|_| anyhow::anyhow!("no key"))
    }

    fn jwks(&self) -> Value {
        // An uncompressed point: 4, x, y.
        let point = self.0.public_key().as_ref();
        let part = |from: usize| Base64UrlUnpadded::encode_string(point.get(from..from + 32).unwrap_or_default());
        let key = json!({ "kty": "EC", "crv": "P-256", "kid": "demo", "use": "sig", "alg": "ES256", "x": part(1), "y": part(33) });
        json!({ "keys": [key] })
    }

    fn id_token(&self, subject: &str) -> anyhow::Result<String> {
        let now = SystemClock.now().unix_seconds();
        let header = json!({ "alg": "ES256", "kid": "demo", "typ": "JWT" });
        let claims = json!({ "iss": Self::ISSUER, "sub": subject, "aud": "photo", "iat": now, "exp": now + 600 });
        let encoded = |value: Value| Base64UrlUnpadded::encode_string(value.to_string().as_bytes());
        let input = format!("{}.{}", encoded(header), encoded(claims));
        let signature =
            self.0.sign(&SystemRandom::new(), input.as_bytes()).map_err(|_| anyhow::anyhow!("not signed"))?;
        Ok(format!("{input}.{}", Base64UrlUnpadded::encode_string(signature.as_ref())))
    }
}

/// Somebody with a token and no certificate.
struct User {
    client: Client<hyper_rustls::HttpsConnector<hyper_util::client::legacy::connect::HttpConnector>, Full<Bytes>>,
    photo: String,
}

impl User {
    fn new(bundle: &[u8], photo: &str) -> anyhow::Result<Self> {
        let mut roots = RootCertStore::empty();
        for root in CertificateDer::pem_slice_iter(bundle) {
            roots.add(root?)?;
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        let config = config.with_root_certificates(roots).with_no_client_auth();
        let connector = HttpsConnectorBuilder::new().with_tls_config(config).https_only().enable_http1().build();
        Ok(Self { client: Client::builder(TokioExecutor::new()).build(connector), photo: photo.to_owned() })
    }

    async fn call(
        &self,
        who: &str,
        token: &str,
        method: Method,
        path: &str,
        body: &str,
        expected: StatusCode,
    ) -> anyhow::Result<String> {
        let request = Request::builder().method(&method).uri(format!("{}{path}", self.photo));
        let request = request.header("authorization", format!("Bearer {token}"));
        let request = request.body(Full::from(body.to_owned()))?;
        let answer = tokio::time::timeout(SOON, self.client.request(request)).await.context("no answer")??;
        let status = answer.status();
        let text = String::from_utf8_lossy(&answer.into_body().collect().await?.to_bytes()).into_owned();
        say(&format!("{who}: {method} {path} -> {} {text}", status.as_u16()));
        ensure!(status == expected, "expected {expected}");
        Ok(text)
    }
}
