//! A real browser without a screen: Chromium, driven through chromedriver's WebDriver protocol, which is plain HTTP and JSON.

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    path::Path,
    process::Command,
    time::Duration,
};

use aws_lc_rs::digest::{SHA256, digest};
use base64ct::{Base64, Encoding};
use bonafide_examples::process::Process;
use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt, Full};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::{Value, json};
use tempfile::TempDir;
use x509_parser::prelude::FromDer;

use crate::{repository, site::SOON};

/// One window of one browser with an empty profile. Both end with this value.
pub struct Browser {
    http: Client<HttpConnector, Full<Bytes>>,
    /// `http://127.0.0.1:PORT/session/ID`.
    session: String,
    _driver: Process,
    _profile: TempDir,
}

/// What WebDriver calls an element's reference.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

impl Browser {
    /// Starts one that takes servers whose chain has one of these keys ([`spki_hash`]) as if it knew their authority.
    pub async fn start(trusted: &[&str]) -> Self {
        let driver = Process::start("chromedriver", Command::new("chromedriver").arg("--port=0"));
        let driver = driver.expect("chromedriver is needed: see tests/run");
        let port = driver
            .wait_for("listen", SOON, |line| {
                Some(
                    line.strip_prefix("ChromeDriver was started successfully on port ")?
                        .trim_end_matches('.')
                        .to_owned(),
                )
            })
            .unwrap_or_else(|error| panic!("{error}"));
        let profile = tempfile::tempdir().expect("a temporary folder");
        let mut arguments = vec![
            "--headless=new".to_owned(),
            "--disable-gpu".to_owned(),
            "--disable-dev-shm-usage".to_owned(),
            "--window-size=1100,850".to_owned(),
            format!("--user-data-dir={}", profile.path().display()),
            format!("--ignore-certificate-errors-spki-list={}", trusted.join(",")),
        ];
        if nix::unistd::geteuid().is_root() {
            // Chromium's own sandbox does not work for root; what it shows here are our pages.
            arguments.push("--no-sandbox".to_owned());
        }
        let options = json!({ "args": arguments });
        let wanted =
            json!({ "capabilities": { "alwaysMatch": { "browserName": "chrome", "goog:chromeOptions": options } } });
        let mut browser = Self {
            http: Client::builder(TokioExecutor::new()).build_http(),
            session: format!("http://127.0.0.1:{port}/session"),
            _driver: driver,
            _profile: profile,
        };
        let made = browser.command(Method::POST, "", &wanted).await;
        browser.session = format!("{}/{}", browser.session, made["sessionId"].as_str().expect("a session"));
        browser
    }

    /// Goes to a page, as if it had been typed in.
    pub async fn open(&self, url: &str) {
        self.command(Method::POST, "/url", &json!({ "url": url })).await;
    }

    /// Where it is.
    pub async fn url(&self) -> String {
        text(&self.command(Method::GET, "/url", &Value::Null).await)
    }

    /// What a person reads on the page.
    pub async fn text(&self) -> String {
        text(&self.run("return document.body ? document.body.innerText : ''").await)
    }

    /// What a person reads of one element, by its CSS selector.
    pub async fn text_of(&self, selector: &str) -> String {
        let element = self.find(selector).await;
        text(&self.command(Method::GET, &format!("/element/{element}/text"), &Value::Null).await)
    }

    /// Waits until it is at this page: a click returns before what it leads to is there.
    pub async fn arrive(&self, url: &str) {
        self.wait_until(url, async || self.url().await == url).await;
    }

    /// Waits until a person can read this on the page.
    pub async fn see(&self, words: &str) {
        self.wait_until(words, async || self.text().await.contains(words)).await;
    }

    async fn wait_until(&self, what: &str, mut is_so: impl AsyncFnMut() -> bool) {
        let began = std::time::Instant::now();
        while !is_so().await {
            assert!(began.elapsed() < SOON, "never `{what}`, but {}: {}", self.url().await, self.text().await);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Replaces what stands in a field.
    pub async fn fill(&self, selector: &str, value: &str) {
        let element = self.find(selector).await;
        self.command(Method::POST, &format!("/element/{element}/clear"), &json!({})).await;
        self.command(Method::POST, &format!("/element/{element}/value"), &json!({ "text": value })).await;
    }

    /// Clicks. What it leads to is not there yet when this returns: see [`Self::arrive`] and [`Self::see`].
    pub async fn click(&self, selector: &str) {
        let element = self.find(selector).await;
        self.command(Method::POST, &format!("/element/{element}/click"), &json!({})).await;
    }

    /// Runs a script in the page, as the person at the keyboard could in the developer tools, and gives its result.
    pub async fn run(&self, script: &str) -> Value {
        self.command(Method::POST, "/execute/sync", &json!({ "script": script, "args": [] })).await
    }

    /// The same for a script that ends by calling its last argument.
    pub async fn run_async(&self, script: &str) -> Value {
        self.command(Method::POST, "/execute/async", &json!({ "script": script, "args": [] })).await
    }

    /// The cookies of the page's site, with their attributes.
    pub async fn cookies(&self) -> Vec<Value> {
        let cookies = self.command(Method::GET, "/cookie", &Value::Null).await;
        cookies.as_array().cloned().unwrap_or_default()
    }

    /// Keeps a picture of the page under `target/screenshots`.
    pub async fn screenshot(&self, name: &str) {
        let picture = text(&self.command(Method::GET, "/screenshot", &Value::Null).await);
        let picture = Base64::decode_vec(&picture).expect("a picture");
        let folder = repository::root().join("target/screenshots");
        fs::create_dir_all(&folder).expect("a folder");
        fs::write(folder.join(Path::new(name).with_extension("png")), picture).expect("a file is written");
    }

    async fn find(&self, selector: &str) -> String {
        let wanted = json!({ "using": "css selector", "value": selector });
        let found = self.command(Method::POST, "/element", &wanted).await;
        text(&found[ELEMENT])
    }

    /// One command of the protocol; whatever is not a success fails the test with what the page then shows.
    async fn command(&self, method: Method, path: &str, body: &Value) -> Value {
        let sent = if body.is_null() { Bytes::new() } else { body.to_string().into() };
        let request = Request::builder().method(&method).uri(format!("{}{path}", self.session));
        let request = request.header("content-type", "application/json").body(Full::new(sent)).expect("a request");
        let answer = tokio::time::timeout(SOON, self.http.request(request)).await.expect("the browser answers in time");
        let answer = answer.expect("chromedriver answers");
        let status = answer.status();
        let answer = answer.into_body().collect().await.expect("a whole answer").to_bytes();
        let answer: Value = serde_json::from_slice(&answer).expect("JSON");
        assert!(status.is_success(), "{method} {path} {body}: {answer}");
        answer["value"].clone()
    }
}

/// Chromium is no child of ours and does not end with chromedriver, so chromedriver is asked to end it first.
impl Drop for Browser {
    fn drop(&mut self) {
        let Some((address, path)) = self.session.strip_prefix("http://").and_then(|url| url.split_once('/')) else {
            return;
        };
        let ended = TcpStream::connect(address).and_then(|mut driver| {
            driver.set_read_timeout(Some(SOON))?;
            write!(driver, "DELETE /{path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
            driver.read(&mut [0; 64])
        });
        if let Err(error) = ended {
            eprintln!("a browser may be left over: {error}");
        }
    }
}

/// How Chromium names a certificate's public key: SHA-256 of it, in Base64.
pub fn spki_hash(certificate: &[u8]) -> String {
    let (_, certificate) = x509_parser::certificate::X509Certificate::from_der(certificate).expect("a certificate");
    Base64::encode_string(digest(&SHA256, certificate.public_key().raw).as_ref())
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
