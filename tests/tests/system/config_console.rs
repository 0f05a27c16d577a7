//! The console of `config-service`: people in a real browser, signed in by a provider that nobody here wrote, and those who would like to be them.

use std::{fs, path::PathBuf};

use bonafide_examples::process::Process;
use bonafide_tests::{
    browser::{Browser, spki_hash},
    https::{Answer, Https},
    oidc_provider::{ALICE, CHARLIE, OidcProvider, ProviderUser},
    repository,
    site::{Node, Ran, SOON, Site, eventually},
};
use http::{Method, StatusCode};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use serde_json::Value;

/// A hub with a console, a provider, and an operator's command line.
struct Console {
    site: Site,
    node: Node,
    provider: OidcProvider,
    url: String,
    /// Believes the hub's certificate, as somebody does who has the trust domain's roots.
    https: Https,
    /// Of the issuing authority, by which the browser takes the hub.
    spki_hash: String,
    hub: Process,
}

impl Console {
    async fn start() -> Self {
        tokio::task::spawn_blocking(Self::start_blocking).await.unwrap()
    }

    fn start_blocking() -> Self {
        let site = Site::started();
        let node = site.join("n1");
        let mut provider = OidcProvider::start();
        site.add_program("config", &site.programs.config_service, &["--on", "n1", "--dns", "localhost"]);
        site.add_program("export", &site.programs.exporter, &["--on", "n1"]);
        site.add_program("ops", &site.programs.configctl, &["--on", "n1"]);
        site.add_program("hand", &site.programs.agent, &["--on", "n1"]);
        let fetched = node.path("fetched");
        node.agent(&["fetch", "x509", "--write", fetched.to_str().unwrap()]).success();
        let issuing = CertificateDer::pem_file_iter(fetched.join("svid.pem")).unwrap().nth(1).unwrap().unwrap();

        let policy = repository::root().join("examples/config-service/policy.toml");
        let mut command = node.workload(&site.programs.config_service);
        command.arg("--policy").arg(policy).arg("--records").arg(node.path("records.jsonl"));
        command.arg("--data").arg(node.path("settings"));
        command.args(["--issuer", &provider.issuer, "--client-id", "config", "--roles-claim", "groups"]);
        command.arg("--provider-roots").arg(provider.certificate());
        let hub = Process::start("config-service", &mut command).unwrap();
        let listen = hub.ready("listen", SOON).unwrap_or_else(|error| panic!("{error}"));
        let url = format!("https://localhost:{}", listen.rsplit(':').next().unwrap());
        provider.add_client("config", &format!("{url}/signed-in"));
        let https = Https::trusting(&fetched.join("bundle.pem"));
        let console = Self { site, node, provider, url, https, spki_hash: spki_hash(&issuing), hub };
        console.ops(&["set", "export", "row-limit", "3000"]);
        console
    }

    fn ops(&self, words: &[&str]) -> Value {
        let mut command = self.node.workload(&self.site.programs.configctl);
        Ran::of(command.args(["--config", &self.url]).args(words)).success().json()
    }

    fn limit(&self) -> String {
        self.ops(&["get", "export", "row-limit"])["value"].as_str().unwrap().to_owned()
    }

    async fn browser(&self) -> Browser {
        Browser::start(&[self.provider.spki_hash(), &self.spki_hash]).await
    }

    /// In a browser, from the page that they wanted to the page that they wanted.
    async fn sign_in(&self, browser: &Browser, user: ProviderUser) {
        browser.open(&format!("{}/console", self.url)).await;
        browser.see("Username:").await;
        assert!(browser.url().await.starts_with(&self.provider.issuer), "{}", browser.url().await);
        browser.fill("#username", user.name).await;
        browser.fill("#password", user.password).await;
        browser.click("button").await;
        browser.arrive(&format!("{}/console", self.url)).await;
    }

    async fn get(&self, path: &str, cookie: &str) -> Answer {
        self.https.get(&format!("{}{path}", self.url), &[("cookie", cookie)]).await
    }

    /// The first half of a sign-in, by hand: where the browser is sent, and its cookie.
    async fn begin(&self) -> (String, String) {
        let begun = self.https.get(&format!("{}/sign-in", self.url), &[]).await;
        (begun.header("location").to_owned(), begun.set_cookies()[0].to_owned())
    }

    /// All of it, by hand: the session's cookie and the CSRF token of its pages.
    async fn session(&self, user: ProviderUser) -> (String, String) {
        let (authorize, cookie) = self.begin().await;
        let back = self.provider.sign_in(&authorize, user).await;
        let answer = self.https.get(&back, &[("cookie", &cookie)]).await;
        let session = answer.set_cookies().into_iter().find(|cookie| cookie.starts_with("__Host-session="));
        let session = session.unwrap_or_else(|| panic!("no session: {answer:?}")).to_owned();
        let page = self.get("/console", &session).await.body;
        let (_, csrf) = page.split_once(r#"name="csrf" value=""#).unwrap_or_else(|| panic!("no form: {page}"));
        (session, csrf.split('"').next().unwrap().to_owned())
    }

    fn records(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.node.path("records.jsonl")).unwrap_or_default();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }
}

/// The scene: an administrator raises the limit on the page, the exporter obeys at once, and who it was is kept. Somebody who is no administrator
/// may look. What stands in a setting is text, whatever it says.
#[tokio::test(flavor = "multi_thread")]
async fn an_administrator_raises_the_limit_in_a_browser() {
    let console = Console::start().await;
    let out: PathBuf = console.node.path("orders.csv");
    let mut command = console.node.workload(&console.site.programs.exporter);
    command.args(["--config", &console.url]).arg("--out").arg(&out);
    let exporter = Process::start("exporter", &mut command).unwrap();
    let obeys = |rows: usize| {
        let wanted = format!("exported rows={rows} ");
        let said = exporter.wait_for("obey", SOON, |line| line.starts_with(&wanted).then_some(()));
        said.unwrap_or_else(|error| panic!("{error}"));
    };
    obeys(3000);

    let browser = console.browser().await;
    console.sign_in(&browser, ALICE).await;
    assert_eq!(browser.text_of("#user").await, "corp:u-1001");
    let cookies = browser.cookies().await;
    let session = cookies.iter().find(|cookie| cookie["name"] == "__Host-session").expect("a session");
    for (attribute, value) in [("httpOnly", true.into()), ("secure", true.into()), ("sameSite", Value::from("Lax"))] {
        assert_eq!(session[attribute], value, "{attribute}");
    }
    assert_eq!((&session["path"], &session["domain"]), (&"/".into(), &"localhost".into()));
    assert!(cookies.iter().all(|cookie| cookie["name"] != "__Host-sign-in"), "the attempt is over");
    assert_eq!(browser.run("return document.cookie").await, "", "no script sees it");

    browser.fill("#export-row-limit-value", "5000").await;
    browser.screenshot("config-console-before").await;
    browser.click("#export-row-limit button").await;
    obeys(5000);
    browser.see("5000").await;
    assert_eq!(browser.url().await, format!("{}/console", console.url));
    let history = browser.text_of(".history").await;
    assert!(history.contains("corp:u-1001") && history.contains("5000"), "{history}");
    browser.screenshot("config-console-after").await;
    let kept = console.ops(&["history", "export"]);
    assert_eq!((&kept[0]["changed_by"], &kept[0]["proof"]), (&"corp:u-1001".into(), &"session".into()), "{kept}");
    assert_eq!((&kept[0]["before"], &kept[0]["after"]), (&"3000".into(), &"5000".into()));
    let record = eventually("the record", || {
        console.records().into_iter().find(|record| record["rule"] == "administrators change settings")
    });
    assert_eq!((&record["caller"], &record["proof"]), (&"corp:u-1001".into(), &"session".into()), "{record}");

    // What somebody else has changed meanwhile is not overwritten.
    console.ops(&["set", "export", "row-limit", "4500"]);
    browser.fill("#export-row-limit-value", "9000").await;
    browser.click("#export-row-limit button").await;
    browser.see("changed meanwhile").await;
    assert_eq!(console.limit(), "4500");

    // Markup in a setting is text: no element is made of it, and it would not run if one were.
    let markup = "<img src=x onerror=\"document.title='pwned'\"><script>document.title='pwned'</script>\">";
    console.ops(&["set", "export", "motto", markup]);
    browser.open(&format!("{}/console", console.url)).await;
    assert_eq!(browser.run("return document.title").await, "Settings");
    assert_eq!(browser.run("return document.querySelectorAll('img, script').length").await, 0);
    let shown = browser.run("return document.querySelector('#export-motto-value').value").await;
    assert_eq!(shown, markup);
    let injected = "const script = document.createElement('script'); script.textContent = 'document.title = \"pwned\"'; \
                    document.body.append(script); return document.title";
    assert_eq!(browser.run(injected).await, "Settings", "the content security policy lets no inline script run");

    browser.click("header button").await;
    browser.see("Signed out").await;
    console.sign_in(&browser, CHARLIE).await;
    browser.fill("#export-row-limit-value", "9000").await;
    browser.click("#export-row-limit button").await;
    browser.see("Not for you").await;
    browser.screenshot("config-console-not-for-you").await;
    assert_eq!(console.limit(), "4500");
}

/// A page of another origin, in the browser of somebody who is signed in: it is on the same site (another port), so that cookies are sent along,
/// and nothing of it is taken.
#[tokio::test(flavor = "multi_thread")]
async fn another_origin_in_the_same_browser_changes_nothing() {
    let console = Console::start().await;
    let browser = console.browser().await;
    console.sign_in(&browser, ALICE).await;
    browser.open(&format!("{}/.well-known/openid-configuration", console.provider.issuer)).await;
    let attack = format!(
        "const form = document.createElement('form'); form.method = 'post'; form.action = '{}/console/export'; \
         for (const [name, value] of [['csrf', 'guessed'], ['name', 'row-limit'], ['value', '9000'], ['seen', '1']]) {{ \
         const field = document.createElement('input'); field.name = name; field.value = value; form.append(field); }} \
         document.body.append(form); form.submit();",
        console.url
    );
    browser.run(&attack).await;
    browser.see("Not from here").await;
    browser.see("Nothing was changed").await;
    assert_eq!(console.limit(), "3000");
    // Nor does it show the page in a frame of its own.
    browser.open(&format!("{}/.well-known/openid-configuration", console.provider.issuer)).await;
    let framed = format!(
        "const done = arguments[0]; const frame = document.createElement('iframe'); frame.src = '{}/console'; \
         frame.onload = () => {{ let text; try {{ text = frame.contentDocument.body.innerText }} catch (error) {{ text = 'blocked' }} done(text) }}; \
         document.body.append(frame);",
        console.url
    );
    let seen = browser.run_async(&framed).await;
    assert!(!seen.as_str().unwrap_or_default().contains("row-limit"), "{seen}");
}

/// What a browser would never send, sent by hand: each is refused, and nothing is changed.
#[tokio::test(flavor = "multi_thread")]
async fn each_attack_on_the_sign_in_and_the_session_fails() {
    let console = Console::start().await;
    let url = &console.url;

    // The first half tells the provider what PKCE, `state` and `nonce` want, and keeps the verifier to itself.
    let (authorize, attempt) = console.begin().await;
    let (_, query) = authorize.split_once('?').unwrap();
    let asked = |name: &str| {
        let found = form_urlencoded::parse(query.as_bytes()).find(|(found, _)| found == name);
        found.unwrap_or_else(|| panic!("no {name}: {authorize}")).1.into_owned()
    };
    assert_eq!((asked("code_challenge_method"), asked("response_type")), ("S256".to_owned(), "code".to_owned()));
    for name in ["state", "nonce", "code_challenge"] {
        assert_eq!(asked(name).len(), 43, "{name} has 256 bits");
    }
    assert!(attempt.starts_with("__Host-sign-in="), "{attempt}");

    // The second half.
    let back = console.provider.sign_in(&authorize, ALICE).await;
    let (other_authorize, other_attempt) = console.begin().await;
    let other_back = console.provider.sign_in(&other_authorize, ALICE).await;
    let code_of = |back: &str| back.split(['?', '&']).find_map(|pair| pair.strip_prefix("code=")).unwrap().to_owned();
    let state_of = |back: &str| back.split(['?', '&']).find_map(|pair| pair.strip_prefix("state=")).unwrap().to_owned();
    let answer = |code: &str, state: &str| format!("{url}/signed-in?code={code}&state={state}");
    let (code, state) = (code_of(&back), state_of(&back));
    let (other_code, other_state) = (code_of(&other_back), state_of(&other_back));
    let twice = format!("{attempt}; {attempt}");
    let attempts: &[(&str, String, &str)] = &[
        ("an answer that nobody here asked for (login CSRF)", back.clone(), "a=b"),
        ("an answer to another browser", back.clone(), &other_attempt),
        ("another state", answer(&code, &"x".repeat(43)), &attempt),
        ("no state", format!("{url}/signed-in?code={code}"), &attempt),
        ("two cookies of the attempt", back.clone(), &twice),
        ("a made-up attempt", back.clone(), "__Host-sign-in=1795424400.AAAA"),
        ("the answer of another provider", format!("{back}&iss=https%3A%2F%2Felsewhere.example"), &attempt),
        ("an error of the provider", format!("{url}/signed-in?error=access_denied&state={state}"), &attempt),
        ("neither code nor error", format!("{url}/signed-in?state={state}"), &attempt),
        // A code that was stolen, put into an attempt of the thief's own: the verifier is another one, the provider refuses it.
        ("a stolen code in an attempt of one's own", answer(&code, &other_state), &other_attempt),
    ];
    for (what, address, cookie) in attempts {
        let refused = console.https.get(address, &[("cookie", cookie)]).await;
        assert_eq!(refused.status, StatusCode::FORBIDDEN, "{what}: {refused:?}");
        assert!(
            refused.set_cookies().iter().all(|cookie| !cookie.starts_with("__Host-session=")),
            "{what}: {refused:?}"
        );
        assert_page(&refused);
    }
    // Another `nonce` on the way to the provider, which signs it: the token is good in every other way, and of another sign-in.
    let (authorize, attempt) = console.begin().await;
    let nonce = form_urlencoded::parse(authorize.as_bytes()).find(|(name, _)| name == "nonce").unwrap().1.into_owned();
    let back = console.provider.sign_in(&authorize.replace(&nonce, &"n".repeat(43)), ALICE).await;
    let refused = console.https.get(&back, &[("cookie", &attempt)]).await;
    assert_eq!((refused.status, refused.set_cookies().len()), (StatusCode::FORBIDDEN, 1), "{refused:?}");
    assert!(refused.set_cookies().iter().all(|cookie| !cookie.starts_with("__Host-session=")), "{refused:?}");
    let why = "`nonce` is not that of the attempt";
    eventually("the log says why", || console.hub.printed().iter().any(|line| line.contains(why)).then_some(()));

    // The other attempt's own code, which nobody has touched, is good once.
    let good = console.https.get(&answer(&other_code, &other_state), &[("cookie", &other_attempt)]).await;
    assert_eq!((good.status, good.header("location")), (StatusCode::SEE_OTHER, "/console"), "{good:?}");
    let again = console.https.get(&answer(&other_code, &other_state), &[("cookie", &other_attempt)]).await;
    assert_eq!(again.status, StatusCode::FORBIDDEN, "a code is good once: {again:?}");

    // Sessions.
    let (session, csrf) = console.session(ALICE).await;
    let (other, other_csrf) = console.session(ALICE).await;
    assert!(session != other && csrf != other_csrf, "each sign-in is a session of its own");
    let page = console.get("/console", &session).await;
    assert_eq!(page.status, StatusCode::OK);
    assert_page(&page);
    for (what, cookie, status) in [
        ("no cookie", "a=b".to_owned(), StatusCode::SEE_OTHER),
        ("a made-up session", "__Host-session=AAAA".to_owned(), StatusCode::SEE_OTHER),
        ("a session of another name", session.replace("__Host-session", "session"), StatusCode::SEE_OTHER),
        ("two sessions", format!("{session}; {other}"), StatusCode::BAD_REQUEST),
    ] {
        let refused = console.get("/console", &cookie).await;
        assert_eq!(refused.status, status, "{what}: {refused:?}");
        assert_page(&refused);
    }
    let both =
        console.https.get(&format!("{url}/console"), &[("cookie", &session), ("authorization", "Bearer x")]).await;
    assert_eq!(both.status, StatusCode::BAD_REQUEST, "a session and a credential of another kind: {both:?}");

    // Changes.
    let change = async |cookie: &str, csrf: &str, origin: Option<&str>| {
        let headers = [("cookie", cookie), ("origin", origin.unwrap_or_default())];
        let headers = if origin.is_some() { &headers[..] } else { &headers[..1] };
        let fields = [("csrf", csrf), ("name", "row-limit"), ("value", "9000"), ("seen", "1")];
        console.https.post_form(&format!("{url}/console/export"), headers, &fields).await
    };
    for (what, cookie, csrf, origin, status) in [
        ("no CSRF token", &session, "", Some(&**url), StatusCode::FORBIDDEN),
        ("that of another session", &session, &*other_csrf, Some(url), StatusCode::FORBIDDEN),
        ("from another origin", &session, &csrf, Some("https://evil.example"), StatusCode::FORBIDDEN),
        ("from nowhere", &session, &csrf, Some("null"), StatusCode::FORBIDDEN),
        ("from no origin", &session, &csrf, None, StatusCode::FORBIDDEN),
        ("without a session", &"a=b".to_owned(), &csrf, Some(url), StatusCode::UNAUTHORIZED),
    ] {
        let refused = change(cookie, csrf, origin).await;
        assert_eq!(refused.status, status, "{what}: {refused:?}");
        assert_page(&refused);
        assert_eq!(console.limit(), "3000", "{what}");
    }
    let by_get = console.get(&format!("/console/export?csrf={csrf}&name=row-limit&value=9000&seen=1"), &session).await;
    assert!(by_get.status.is_client_error(), "{by_get:?}");
    let charlie = console.session(CHARLIE).await;
    let refused = change(&charlie.0, &charlie.1, Some(url)).await;
    assert_eq!(refused.status, StatusCode::FORBIDDEN, "no administrator: {refused:?}");
    assert_eq!(console.limit(), "3000");

    // A session opens the pages and nothing else: other addresses do not look at cookies.
    let api = format!("{url}/v1/settings/export/row-limit");
    for method in [Method::GET, Method::PUT] {
        let headers = [("cookie", &*session), ("origin", &**url), ("content-type", "application/json")];
        let refused = console.https.send(method, &api, &headers, r#"{"value":"9000"}"#).await;
        assert_eq!(refused.status, StatusCode::UNAUTHORIZED, "{refused:?}");
    }

    // It is good until somebody signs out, and then nobody has it any more.
    let good = change(&session, &csrf, Some(url)).await;
    assert_eq!((good.status, console.limit()), (StatusCode::SEE_OTHER, "9000".to_owned()), "{good:?}");
    let sign_out = async |csrf: &str| {
        let headers = [("cookie", &*session), ("origin", &**url)];
        console.https.post_form(&format!("{url}/sign-out"), &headers, &[("csrf", csrf)]).await.status
    };
    assert_eq!(sign_out(&other_csrf).await, StatusCode::FORBIDDEN);
    assert_eq!(console.get("/console", &session).await.status, StatusCode::OK);
    assert_eq!(sign_out(&csrf).await, StatusCode::OK);
    assert_eq!(console.get("/console", &session).await.status, StatusCode::SEE_OTHER);

    // Nothing of it all is in the records or in what the hub has said.
    let told = fs::read_to_string(console.node.path("records.jsonl")).unwrap() + &console.hub.printed().join("\n");
    for secret in [&session, &other, &csrf, &attempt, &code, &other_code] {
        let secret = secret.split('=').next_back().unwrap();
        assert!(!told.contains(secret), "a secret was told");
    }
}

/// The provider is away: those who are signed in stay so; whoever wants in is told, and gets in when it is back.
#[tokio::test(flavor = "multi_thread")]
async fn sessions_outlive_an_outage_of_the_provider() {
    let mut console = Console::start().await;
    let (session, _) = console.session(ALICE).await;
    let (authorize, attempt) = console.begin().await;
    let back = console.provider.sign_in(&authorize, ALICE).await;
    console.provider.kill();
    assert_eq!(console.get("/console", &session).await.status, StatusCode::OK);
    let refused = console.https.get(&back, &[("cookie", &attempt)]).await;
    assert_eq!(refused.status, StatusCode::FORBIDDEN, "{refused:?}");
    assert!(!refused.body.contains("localhost"), "why is for the log: {refused:?}");
}

/// What every page says of itself.
#[track_caller]
fn assert_page(answer: &Answer) {
    for (name, value) in [
        (
            "content-security-policy",
            "default-src 'none'; style-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
        ),
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "same-origin"),
        ("cross-origin-opener-policy", "same-origin"),
        ("cache-control", "no-store"),
    ] {
        assert_eq!(answer.header(name), value, "{answer:?}");
    }
    for cookie in answer.headers.get_all("set-cookie").iter().map(|value| value.to_str().unwrap()) {
        assert!(cookie.starts_with("__Host-"), "{cookie}");
        for attribute in ["Path=/", "Secure", "HttpOnly", "SameSite=Lax"] {
            assert!(cookie.split("; ").any(|found| found == attribute), "{attribute}: {cookie}");
        }
        assert!(!cookie.contains("Domain"), "{cookie}");
    }
}
