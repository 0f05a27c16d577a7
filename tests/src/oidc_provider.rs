//! An OpenID Connect provider that nobody here wrote (`tests/foreign/oidc`), as a process of its own: HTTPS under a certificate made here,
//! users from a file, clients that are told to it while it runs.

use std::{
    fs,
    io::Write,
    path::PathBuf,
    process::{ChildStdin, Command},
    sync::OnceLock,
};

use aws_lc_rs::digest::{SHA256, digest};
use base64ct::{Base64UrlUnpadded, Encoding};
use bonafide_examples::process::Process;
use serde_json::json;
use tempfile::TempDir;

use crate::{browser::spki_hash, https::Https, repository, site::SOON};

/// A provider that runs. It ends with this value.
pub struct OidcProvider {
    /// Its name to all who believe it: `https://localhost:PORT`.
    pub issuer: String,
    process: Process,
    input: ChildStdin,
    dir: TempDir,
    spki_hash: String,
}

/// Somebody whom the provider knows.
#[derive(Clone, Copy, Debug)]
pub struct ProviderUser {
    /// The `sub` of its tokens.
    pub subject: &'static str,
    /// What is typed into the login page.
    pub name: &'static str,
    /// Likewise.
    pub password: &'static str,
    /// Whether `groups` holds `admins` beside `staff`.
    pub is_admin: bool,
}

/// An administrator.
pub const ALICE: ProviderUser =
    ProviderUser { subject: "u-1001", name: "alice", password: "wonderland-8", is_admin: true };
/// Not one.
pub const CHARLIE: ProviderUser =
    ProviderUser { subject: "u-1002", name: "charlie", password: "chocolate-9", is_admin: false };

impl OidcProvider {
    /// Starts one that knows [`ALICE`] and [`CHARLIE`].
    pub fn start() -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let key = rcgen::KeyPair::generate().expect("a key");
        let params = rcgen::CertificateParams::new(["localhost".to_owned()]).expect("a name");
        let certificate = params.self_signed(&key).expect("a certificate");
        let file = |name: &str, text: String| {
            let path = dir.path().join(name);
            fs::write(&path, text).expect("a file is written");
            path
        };
        let users = [ALICE, CHARLIE].map(|user| {
            let known = json!({
                "ID": user.subject, "Username": user.name, "Password": user.password, "IsAdmin": user.is_admin,
                "FirstName": user.name, "LastName": "Example", "PreferredLanguage": "en",
            });
            (user.subject.to_owned(), known)
        });
        let users = serde_json::Value::Object(users.into_iter().collect());
        let mut command = Command::new(program());
        command.arg("-cert").arg(file("cert.pem", certificate.pem()));
        command.arg("-key").arg(file("key.pem", key.serialize_pem()));
        command.arg("-users").arg(file("users.json", users.to_string()));
        let (process, input) = Process::start_with_input("OIDC provider", &mut command).expect("it starts");
        let issuer = process.ready("issuer", SOON).unwrap_or_else(|error| panic!("{error}"));
        let spki_hash = spki_hash(certificate.der());
        Self { issuer, process, input, dir, spki_hash }
    }

    /// Makes a client known: public, with this one redirect URI.
    pub fn add_client(&mut self, id: &str, redirect_uri: &str) {
        writeln!(self.input, "{id} {redirect_uri}").expect("the provider reads");
        let known = |line: &str| (line == format!("client {id}")).then_some(());
        self.process.wait_for("know the client", SOON, known).unwrap_or_else(|error| panic!("{error}"));
    }

    /// The certificate that it serves with, which is its own authority.
    pub fn certificate(&self) -> PathBuf {
        self.dir.path().join("cert.pem")
    }

    /// What a browser of the tests is told to take it by.
    pub fn spki_hash(&self) -> &str {
        &self.spki_hash
    }

    /// Signs a user in for a client, as a browser would that the client sent here, and gives the address that the provider sends it back to,
    /// with `code` and `state` behind it. `authorize` is where the client sends the browser.
    pub async fn sign_in(&self, authorize: &str, user: ProviderUser) -> String {
        let browser = self.https();
        let asked = browser.get(authorize, &[]).await;
        let page = format!("{}{}", self.issuer, asked.header("location"));
        let request = page.split_once("authRequestID=").expect("a login page").1;
        let fields = [("id", request), ("username", user.name), ("password", user.password)];
        let checked = browser.post_form(&format!("{}/login/username", self.issuer), &[], &fields).await;
        let callback = checked.header("location");
        let callback =
            if callback.starts_with('/') { format!("{}{callback}", self.issuer) } else { callback.to_owned() };
        browser.get(&callback, &[]).await.header("location").to_owned()
    }

    /// An ID token of a user for a client that [`OidcProvider::add_client`] made known, by the code flow with PKCE.
    pub async fn id_token(&self, client: &str, redirect_uri: &str, user: ProviderUser) -> String {
        let verifier = "the-verifier-of-a-test-which-need-not-be-hard-to-guess";
        let challenge = Base64UrlUnpadded::encode_string(digest(&SHA256, verifier.as_bytes()).as_ref());
        let query = form_urlencoded::Serializer::new(String::new())
            .extend_pairs([("response_type", "code"), ("client_id", client), ("redirect_uri", redirect_uri)])
            .extend_pairs([("scope", "openid"), ("state", "s"), ("nonce", "n"), ("code_challenge", &challenge)])
            .append_pair("code_challenge_method", "S256")
            .finish();
        let back = self.sign_in(&format!("{}/auth?{query}", self.issuer), user).await;
        let (_, query) = back.split_once('?').unwrap_or_else(|| panic!("no code: {back}"));
        let code = form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == "code");
        let code = code.unwrap_or_else(|| panic!("no code: {back}")).1;
        let fields = [("grant_type", "authorization_code"), ("code", &*code), ("redirect_uri", redirect_uri)];
        let fields = [&fields[..], &[("client_id", client), ("code_verifier", verifier)]].concat();
        let answer = self.https().post_form(&format!("{}/oauth/token", self.issuer), &[], &fields).await;
        answer.json()["id_token"].as_str().unwrap_or_else(|| panic!("no ID token: {answer:?}")).to_owned()
    }

    /// A client that believes this provider's certificate.
    pub fn https(&self) -> Https {
        Https::trusting(&self.certificate())
    }

    /// Ends it, as an outage does; [`OidcProvider`] itself stays for what it made known.
    pub fn kill(&mut self) {
        self.process.kill().unwrap_or_else(|error| panic!("{error}"));
    }
}

/// The program, built from its locked modules.
fn program() -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT
        .get_or_init(|| {
            let root = repository::root();
            let program = root.join("target/foreign/oidc-provider");
            let mut go = Command::new("go");
            go.args(["build", "-o"]).arg(&program).arg(".").current_dir(root.join("tests/foreign/oidc"));
            // Compiling may take longer than anything else that is waited for; tests/run has done it before.
            let built = go.output().expect("Go is needed: see tests/run");
            assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
            program
        })
        .clone()
}
