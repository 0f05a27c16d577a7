//! The example that goes from API keys to mutual TLS, where `MIGRATE.md` does not look: an HTTPS client that nobody here wrote, and
//! credentials that contradict each other. (The guide itself is run in `readme.rs`.)

use std::{fs, path::PathBuf, process::Command};

use bonafide_examples::process::Process;
use bonafide_tests::site::{Node, Ran, SOON, Site, eventually};

const LIMITS: &str = "spiffe://example.org/limits";

/// `limits` on a node, and what its callers need.
struct Service {
    site: Site,
    node: Node,
    process: Process,
    address: String,
}

impl Service {
    fn taking(take: &str) -> Self {
        let site = Site::started();
        let node = site.join("n1");
        site.add_program("limits", &site.programs.limits, &["--on", "n1", "--dns", "localhost"]);
        site.add_program("export", &site.programs.agent, &["--on", "n1"]);
        let bundle = site.ca(&["bundle", "show", "--format", "pem"]).success().stdout;
        fs::write(site.path("bundle.pem"), bundle).unwrap();
        fs::write(site.path("policy.toml"), POLICY).unwrap();
        for caller in ["export", "report"] {
            let owner = format!("spiffe://example.org/{caller}");
            let (keys, secret) = (site.path("keys.toml"), site.path(&format!("{caller}.key")));
            let mut create = Command::new(&site.programs.ca);
            create.args(["key", "create", "--kind", "api-key", "--owner", &owner, "--audience", LIMITS]);
            create.arg("--file").arg(keys).arg("--secret-file").arg(secret);
            Ran::of(&mut create).success();
        }
        let mut command = node.workload(&site.programs.limits);
        command.current_dir(site.path("."));
        command.args(["--take", take, "--policy", "policy.toml", "--callers", "callers.sock"]);
        if take.contains("keys") {
            command.args(["--keys", "keys.toml"]);
        }
        let process = Process::start("limits", &mut command).unwrap();
        let address = process.ready("listen", SOON).unwrap_or_else(|error| panic!("{error}"));
        Self { site, node, process, address }
    }

    /// `https://localhost:PORT/v1/limits/export`
    fn url(&self) -> String {
        let (_, port) = self.address.rsplit_once(':').unwrap();
        format!("https://localhost:{port}/v1/limits/export")
    }

    fn file(&self, name: &str) -> String {
        let path: PathBuf = self.site.path(name);
        path.display().to_string()
    }

    /// `bonafide-agent callers`.
    fn callers(&self) -> String {
        let mut command = Command::new(&self.site.programs.agent);
        Ran::of(command.arg("callers").arg(self.site.path("callers.sock"))).success().stdout
    }

    /// `bonafide-agent call`, as the service `/export`.
    fn call(&self, further: &[&str]) -> Ran {
        self.node.agent(&[&["call", &self.url(), "--expect", LIMITS, "-f"], further].concat())
    }
}

const POLICY: &str = r#"
version = 1
[accept]
api-key = { until = 2099-01-01 }
[[allow]]
name = "jobs read their limits"
callers = ["/export", "/report"]
http = ["GET /v1/limits/{job}"]
proof = "api-key"
"#;

/// What every language's standard library can do, told of our roots: no SPIFFE, no client certificate.
const PYTHON: &str = r#"
import ssl, sys, urllib.error, urllib.request
url, roots, key = sys.argv[1:]
headers = {"Authorization": "ApiKey " + open(key).read().strip()} if key else {}
context = ssl.create_default_context(cafile=roots) if roots else ssl.create_default_context()
try:
    answer = urllib.request.urlopen(urllib.request.Request(url, headers=headers), context=context, timeout=30)
    print(answer.status, answer.read().decode())
except urllib.error.HTTPError as error:
    print(error.code, error.headers["www-authenticate"])
except urllib.error.URLError as error:
    print("no connection:", error.reason)
"#;

/// JWT-21: the credential travels in `authorization`.
#[test]
fn jwt_21_an_ordinary_https_client_calls_with_a_key() {
    let service = Service::taking("keys,x509");
    let (roots, key) = (service.file("bundle.pem"), service.file("export.key"));
    let python = |url: &str, roots: &str, key: &str| {
        Ran::of(Command::new("python3").args(["-c", PYTHON, url, roots, key])).success().stdout
    };
    let answer = python(&service.url(), &roots, &key);
    assert!(answer.starts_with("200 ") && answer.contains(r#""proof":"api-key""#), "{answer}");
    assert!(answer.contains(r#""for":"spiffe://example.org/export""#), "{answer}");
    let nobody = python(&service.url(), &roots, "");
    assert!(nobody.starts_with("401 Bearer, ApiKey"), "{nobody}");
    // It is its part to verify the service, by name and by our roots.
    for (url, roots) in [(service.url().replace("localhost", "127.0.0.1"), roots.as_str()), (service.url(), "")] {
        let answer = python(&url, roots, &key);
        assert!(answer.contains("certificate verify failed"), "{url}: {answer}");
    }
    let report = service.callers();
    assert!(report.contains("api-key") && !report.contains("x509"), "{report}");
}

/// Trap 7: nothing falls through, whatever else is good. And the wrong service never sees a key.
#[test]
fn t_26_credentials_beside_each_other() {
    let service = Service::taking("keys,jwt-svid,x509");
    let (roots, own, other) = (service.file("bundle.pem"), service.file("export.key"), service.file("report.key"));
    let proof = |ran: &Ran| ran.json()["proof"].as_str().unwrap_or_default().to_owned();
    // The agent has to hear of the service first.
    let certificate = eventually("an identity for the caller", || {
        let ran = service.call(&[]);
        (ran.code == 0).then_some(ran)
    });
    assert_eq!(proof(&certificate), "x509");
    assert_eq!(proof(&service.call(&["--key-file", &own]).success()), "x509", "the stronger of two counts");
    assert_eq!(proof(&service.call(&["--key-file", &own, "--bundle", &roots]).success()), "api-key");
    assert_eq!(proof(&service.call(&["--jwt", LIMITS, "--bundle", &roots]).success()), "jwt-svid");
    service.call(&["--key-file", &other]).exits(3);
    service.call(&["--jwt", "spiffe://example.org/other"]).exits(3);
    let (key_id, secret) =
        fs::read_to_string(&own).unwrap().trim().rsplit_once('.').map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
    let backwards: String = secret.chars().rev().collect();
    fs::write(service.site.path("wrong.key"), format!("{key_id}.{backwards}\n")).unwrap();
    fs::set_permissions(service.site.path("wrong.key"), std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    service.call(&["--key-file", &service.file("wrong.key")]).exits(3);

    let before = service.process.printed().len();
    let elsewhere = ["call", &service.url(), "--expect", "spiffe://example.org/export", "--key-file", &own];
    for further in [vec![], vec!["--bundle", roots.as_str()]] {
        service.node.agent(&[&elsewhere[..], &further].concat()).exits(3);
    }
    let since: Vec<_> = service.process.printed().drain(before..).collect();
    assert!(!since.iter().any(|line| line.contains("decided")), "no request was sent: {since:#?}");
}

/// Who takes certificates alone demands them in the handshake.
#[test]
fn t_26_without_a_certificate_there_is_no_connection_where_certificates_alone_are_taken() {
    let service = Service::taking("x509");
    let (roots, own) = (service.file("bundle.pem"), service.file("export.key"));
    eventually("an identity for the caller", || (service.call(&[]).code == 0).then_some(()));
    let refused = service.call(&["--key-file", &own, "--bundle", &roots]).exits(4);
    assert!(!refused.text().contains("401"), "{}", refused.text());
    assert!(!service.callers().contains("api-key"));
}
