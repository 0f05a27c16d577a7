//! What scripts and other programs may rely on, read out of the programs themselves: `cargo run --bin contract` writes it
//! into `tests/CONTRACT.md` between its marks, a test compares.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
    fs,
    path::Path,
    process::Command,
};

use bonafide_ca_api::Reason;
use bonafide_examples::programs::Programs;
use serde_json::Value;

use crate::site::{Ran, Site, eventually};

/// The document, from the repository's root.
pub const FILE: &str = "tests/CONTRACT.md";

/// `document` with everything between `<!-- generated: NAME -->` and `<!-- end -->` written anew.
pub fn with_generated(document: &str, parts: &BTreeMap<&str, String>) -> String {
    let mut written = String::new();
    let mut lines = document.lines();
    while let Some(line) = lines.next() {
        written.push_str(line);
        written.push('\n');
        let name = line.strip_prefix("<!-- generated: ").and_then(|rest| rest.strip_suffix(" -->"));
        if let Some(part) = name.and_then(|name| parts.get(name)) {
            let _ = write!(written, "\n{}\n<!-- end -->\n", part.trim_end());
            lines.by_ref().find(|line| *line == "<!-- end -->");
        }
    }
    written
}

/// Every generated part by its name. Starts real processes.
pub fn parts(programs: &Programs) -> BTreeMap<&'static str, String> {
    let mut parts = BTreeMap::new();
    parts.insert("bonafide-ca", commands(&programs.ca));
    parts.insert("bonafide-agent", commands(&programs.agent));
    parts.insert("reasons of the CA", ca_reasons());
    parts.insert("reasons of the verifier", verifier_reasons());
    parts.insert("JSON fields", json_fields());
    parts
}

/// A table for each verb of a program, from its `--help` and theirs.
fn commands(program: &Path) -> String {
    let mut text = String::new();
    let mut open = vec![Vec::<String>::new()];
    while let Some(verbs) = open.pop() {
        let help =
            Ran::of(Command::new(program).args(&verbs).arg("--help").env("COLUMNS", "400").env_clear()).success();
        let help = Help::parse(&help.stdout);
        open.extend(help.verbs.iter().rev().map(|verb| verbs.iter().cloned().chain([verb.clone()]).collect()));
        if verbs.is_empty() || !help.verbs.is_empty() {
            continue;
        }
        let _ = write!(text, "\n`{}`\n\n| flag | value | environment |\n| --- | --- | --- |\n", help.usage);
        for flag in &help.flags {
            let cell = |text: &str| if text.is_empty() { String::new() } else { format!("`{text}`") };
            let _ = writeln!(text, "| {} | {} | {} |", cell(&flag.name), cell(&flag.value), cell(&flag.environment));
        }
    }
    text
}

/// What a `--help` text says.
#[derive(Default)]
struct Help {
    usage: String,
    verbs: Vec<String>,
    flags: Vec<Flag>,
}

#[derive(Default)]
struct Flag {
    name: String,
    value: String,
    environment: String,
}

impl Help {
    fn parse(text: &str) -> Self {
        let mut help = Self::default();
        let mut section = "";
        // `--help` is broken at 100 columns whatever the terminal; so is `[env: NAME]`.
        let text = text.split("[env:").collect::<Vec<_>>();
        let text: Vec<_> =
            text.iter().enumerate().map(|(i, part)| if i == 0 { part } else { part.trim_start() }).collect();
        for line in text.join("[env: ").lines() {
            if let Some(usage) = line.strip_prefix("Usage: ") {
                usage.clone_into(&mut help.usage);
            } else if !line.starts_with(' ') && line.ends_with(':') {
                section = line;
            } else if section == "Commands:" {
                let verb = line.strip_prefix("  ").filter(|rest| !rest.starts_with(' '));
                let verb = verb.and_then(|rest| rest.split_whitespace().next()).filter(|verb| *verb != "help");
                help.verbs.extend(verb.map(str::to_owned));
            } else if is_flag(line) {
                let words = line.split("--").nth(1).unwrap_or_default();
                let name = words.split(|c: char| !(c.is_alphanumeric() || c == '-')).next().unwrap_or_default();
                let value = words.split_once('<').and_then(|(_, rest)| rest.split_once('>')).map(|(value, _)| value);
                if !matches!(name, "help" | "version") {
                    let (name, value) = (format!("--{name}"), value.unwrap_or_default().to_owned());
                    help.flags.push(Flag { name, value, ..Flag::default() });
                }
            }
            if let Some((_, rest)) = line.split_once("[env: ")
                && let Some(flag) = help.flags.last_mut()
            {
                rest.split(['=', ']']).next().unwrap_or_default().clone_into(&mut flag.environment);
            }
        }
        help
    }
}

/// A flag's own line; what is said of it stands further in, and may begin with the name of another one.
fn is_flag(line: &str) -> bool {
    let text = line.trim_start();
    text.starts_with('-') && text.contains("--") && line.len() - text.len() < 10
}

/// What the CA refuses with, and what it means.
fn ca_reasons() -> String {
    let mut text = "| code | where | gRPC | what it means |\n| --- | --- | --- | --- |\n".to_owned();
    for reason in Reason::ALL {
        let (code, area, meaning) = (reason.code(), reason.area().as_str(), reason.meaning());
        let meaning = meaning.split_whitespace().collect::<Vec<_>>().join(" ");
        let _ = writeln!(text, "| `{code}` | {area} | {:?} | {meaning} |", reason.status_code());
    }
    text
}

/// What the verifier refuses with.
fn verifier_reasons() -> String {
    use bonafide_verifier::{jwt, spiffe, x509};
    let lists: [(&str, &[&str]); 7] = [
        ("chain", x509::VerifyError::CODES),
        ("certificate", x509::profile::ProfileError::CODES),
        ("bundle", spiffe::BundleError::CODES),
        ("entry of a bundle", spiffe::AuthorityError::CODES),
        ("token", jwt::JwtError::CODES),
        ("user's token", jwt::user_token::UserTokenError::CODES),
        ("transaction token", bonafide_verifier::txn_tokens::TxnTokenError::CODES),
    ];
    let mut text = "| about | codes |\n| --- | --- |\n".to_owned();
    for (about, codes) in lists {
        let codes: BTreeSet<_> = codes.iter().map(|code| format!("`{code}`")).collect();
        let _ = writeln!(text, "| {about} | {} |", codes.into_iter().collect::<Vec<_>>().join(" "));
    }
    text
}

/// The fields of every listing, as a CA with a node, a service and an open invitation fills them.
fn json_fields() -> String {
    let site = Site::started();
    let node = site.join("n1");
    site.add_service("web", &["--on", "n1"]);
    site.invite("n2");
    let folder = node.path("fetched").display().to_string();
    // The CA closes it a moment after the node has synced.
    eventually("the node's invitation is closed", || {
        let closed = site.ca(&["audit", "list", "--kind", "invitation-closed", "--output", "json"]).success().json();
        closed["records"].as_array().is_some_and(|records| !records.is_empty()).then_some(())
    });
    eventually("an identity", || (node.agent(&["fetch", "x509", "--write", &folder]).code == 0).then_some(()));
    let (svid, bundle) = (format!("{folder}/svid.pem"), format!("example.org={folder}/bundle.pem"));
    let json = |arguments: &[&str]| [arguments, &["--output", "json"]].concat().join(" ");
    let jwks = site.path("jwks.json").display().to_string();
    fs::write(&jwks, ISSUER_KEYS).expect("a key set is written");
    site.ca(&["issuer", "add", "corp", "https://login.example.com", "--audience", "web", "--jwks-file", &jwks])
        .success();
    let ca: [&[&str]; 12] = [
        &["node", "list"],
        &["node", "show", "n1"],
        &["node", "show", "n2"],
        &["service", "list"],
        &["service", "show", "web"],
        &["issuer", "list"],
        &["issuer", "show", "corp"],
        &["authority", "list"],
        &["audit", "list"],
        &["audit", "verify"],
        &["status"],
        &["doctor"],
    ];
    let agent: [&[&str]; 6] = [
        &["whoami"],
        &["status"],
        &["doctor"],
        &["fetch", "x509"],
        &["fetch", "jwt", "--audience", "photo"],
        &["inspect", &svid, "--bundle", &bundle],
    ];
    let mut text = "| command | fields |\n| --- | --- |\n".to_owned();
    let mut row = |program: &str, arguments: &[&str], ran: Ran| {
        let mut fields = BTreeSet::new();
        // `doctor` ends with 1 where it finds something to mend; it says the same.
        let ran = if arguments.contains(&"doctor") { ran } else { ran.success() };
        flatten("", &ran.json(), &mut fields);
        let fields: Vec<_> = fields.iter().map(|field| format!("`{field}`")).collect();
        let shown = json(arguments).replace(&svid, "FILE").replace(&bundle, "example.org=FILE");
        let _ = writeln!(text, "| `{program} {shown}` | {} |", fields.join(" "));
    };
    for arguments in ca {
        row("bonafide-ca", arguments, site.ca(&[arguments, &["--output", "json"]].concat()));
    }
    for arguments in agent {
        row("bonafide-agent", arguments, node.agent(&[arguments, &["--output", "json"]].concat()));
    }
    text
}

/// Of RFC 7515 appendix A.3: nobody's issuer.
const ISSUER_KEYS: &str = r#"{"keys":[{"kty":"EC","crv":"P-256","kid":"k1","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
    "y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}]}"#;

/// `nodes[].name` for each value in a document; the keys of maps that users fill are theirs.
fn flatten(path: &str, value: &Value, fields: &mut BTreeSet<String>) {
    match value {
        Value::Object(members) if !path.ends_with("labels") => {
            for (name, member) in members {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                fields.insert(path.clone());
                flatten(&path, member, fields);
            }
        }
        Value::Array(members) => {
            for member in members {
                flatten(&format!("{path}[]"), member, fields);
            }
        }
        _ => {}
    }
}
