//! `whoami`: what the agent attests of a process, and what follows from it.

use bonafide_verifier::clock::{Clock, SystemClock, Timestamp};
use serde_json::{Value, json};

use super::{
    Failure,
    output::{OutputArguments, printable, table, time_json, when},
    socket::{SocketArguments, refused},
};
use crate::generated::local::{WhoAmIRequest, WhoAmIResponse, local_client::LocalClient};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Ask about another process; for root and the agent's own user.
    #[arg(long, value_name = "PID", value_parser = clap::value_parser!(i32).range(1..))]
    pid: Option<i32>,

    #[command(flatten)]
    socket: SocketArguments,

    #[command(flatten)]
    output: OutputArguments,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let answer = arguments.socket.ask(async |channel| {
        let request = WhoAmIRequest { pid: arguments.pid.unwrap_or(0) };
        let answer = LocalClient::new(channel).who_am_i(request).await;
        answer.map(tonic::Response::into_inner).map_err(|status| refused(&status))
    })?;
    let now = SystemClock.now();
    arguments.output.print(|| text(&answer, now), || json(&answer))
}

fn text(answer: &WhoAmIResponse, now: Timestamp) -> String {
    let mut rows = Vec::new();
    if let Some(process) = &answer.process {
        let path = if process.path.is_empty() { "(executable not attested)" } else { &process.path };
        rows.push(("process", format!("{} {}", process.pid, printable(path))));
        let user = if process.user.is_empty() { String::new() } else { format!("{} ", printable(&process.user)) };
        rows.push(("user", format!("{user}uid {} gid {}", process.uid, process.gid)));
    }
    for (index, selector) in answer.selectors.iter().enumerate() {
        rows.push((if index == 0 { "selectors" } else { "" }, printable(selector)));
    }
    for (index, service) in answer.services.iter().enumerate() {
        let until = match service.not_after_ms {
            0 => "no SVID issued yet".to_owned(),
            millis => format!("SVID until {}", when(Timestamp::from_unix_millis(millis), now)),
        };
        let default = if index == 0 && answer.services.len() > 1 { ", the default" } else { "" };
        let hint =
            if service.hint.is_empty() { String::new() } else { format!(", hint `{}`", printable(&service.hint)) };
        rows.push((
            if index == 0 { "services" } else { "" },
            format!("{}  ({until}{default}{hint})", printable(&service.spiffe_id)),
        ));
    }
    if answer.services.is_empty() {
        rows.push(("services", "none: no service on this node matches".to_owned()));
    }
    if let Some(miss) = &answer.nearest_miss {
        let nearest =
            if miss.spiffe_id.is_empty() { "none: no service is registered for this node" } else { &miss.spiffe_id };
        rows.push(("nearest", printable(nearest)));
        for difference in &miss.differences {
            let found = if difference.found.is_empty() {
                "nothing of the kind".to_owned()
            } else {
                format!("`{}`", printable(&difference.found))
            };
            rows.push(("", format!("it wants `{}`, the process has {found}", printable(&difference.wanted))));
        }
        rows.push(("to mend it", printable(&miss.command)));
    }
    for (index, note) in answer.notes.iter().enumerate() {
        rows.push((if index == 0 { "notes" } else { "" }, printable(note)));
    }
    if answer.services.is_empty() && !answer.reference.is_empty() {
        rows.push(("reference", format!("{} (the agent's log has the same)", printable(&answer.reference))));
    }
    table(&rows)
}

fn json(answer: &WhoAmIResponse) -> Value {
    let services: Vec<Value> = answer
        .services
        .iter()
        .map(|service| {
            json!({
                "spiffe_id": service.spiffe_id,
                "selectors": service.selectors,
                "hint": service.hint,
                "not_after": time_json(service.not_after_ms),
            })
        })
        .collect();
    json!({
        "process": answer.process.as_ref().map(|process| json!({
            "pid": process.pid, "uid": process.uid, "gid": process.gid, "user": process.user, "path": process.path,
        })),
        "selectors": answer.selectors,
        "services": services,
        "nearest_miss": answer.nearest_miss.as_ref().map(|miss| json!({
            "spiffe_id": miss.spiffe_id,
            "differences": miss.differences.iter().map(|difference| json!({
                "wanted": difference.wanted, "found": difference.found,
            })).collect::<Vec<_>>(),
            "command": miss.command,
        })),
        "notes": answer.notes,
        "reference": answer.reference,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generated::local::{Match, NearestMiss, Process, SelectorDifference};

    #[test]
    fn what_people_read() {
        let mut answer = WhoAmIResponse {
            process: Some(Process {
                pid: 7,
                uid: 1000,
                gid: 100,
                user: "photo".into(),
                path: "/usr/bin/p\x1b[2J".into(),
            }),
            selectors: vec!["unix:gid:100".into(), "unix:uid:1000".into()],
            services: vec![],
            nearest_miss: Some(NearestMiss {
                spiffe_id: "spiffe://example.org/photo".into(),
                differences: vec![SelectorDifference { wanted: "unix:uid:1001".into(), found: "unix:uid:1000".into() }],
                command: "bonafide-ca service update /photo --selector unix:uid:1000".into(),
            }),
            notes: vec!["only uid and gid".into()],
            reference: "r1".into(),
        };
        let now = Timestamp::from_unix_seconds(1_000_000);
        let expected = "\
process     7 /usr/bin/p\\u{1b}[2J
user        photo uid 1000 gid 100
selectors   unix:gid:100
            unix:uid:1000
services    none: no service on this node matches
nearest     spiffe://example.org/photo
            it wants `unix:uid:1001`, the process has `unix:uid:1000`
to mend it  bonafide-ca service update /photo --selector unix:uid:1000
notes       only uid and gid
reference   r1 (the agent's log has the same)
";
        assert_eq!(text(&answer, now), expected);
        answer.nearest_miss =
            Some(NearestMiss { command: "bonafide-ca service add /photo".into(), ..NearestMiss::default() });
        let shown = text(&answer, now);
        assert!(shown.contains("nearest     none: no service is registered for this node\nto mend it"), "{shown}");
        answer.nearest_miss = None;
        answer.notes.clear();
        let service = |path: &str, not_after_ms| Match {
            spiffe_id: format!("spiffe://example.org{path}"),
            selectors: vec![],
            hint: String::new(),
            not_after_ms,
        };
        answer.services = vec![service("/a", 1_000_060_000), service("/b", 0)];
        let shown = text(&answer, now);
        assert!(
            shown.contains(
                "services   spiffe://example.org/a  (SVID until 1970-01-12T13:47:40Z (in 60 s), the default)\n"
            ),
            "{shown}"
        );
        assert!(shown.contains("           spiffe://example.org/b  (no SVID issued yet)\n"), "{shown}");
        assert_eq!(json(&answer)["services"][1]["not_after"], Value::Null);
    }
}
