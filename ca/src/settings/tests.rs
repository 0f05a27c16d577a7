use std::ffi::OsString;

use super::file::FileLayer;
use super::*;

/// Settings from flags, environment and file.
fn settings(flags: &[(&'static str, &str)], environment: &[(&str, &str)], file: &str) -> Result<Settings, String> {
    let mut by_name = std::collections::BTreeMap::<&'static str, Vec<String>>::new();
    for (name, value) in flags {
        by_name.entry(name).or_default().push((*value).to_owned());
    }
    let mut layers = Layers::from_flags(by_name);
    layers
        .add_environment(NAMES, |name| {
            environment.iter().find(|(known, _)| *known == name).map(|(_, value)| OsString::from(value))
        })
        .unwrap();
    layers.add_file(FileLayer::parse("ca.toml", file, NAMES).map_err(|error| error.to_string())?);
    Settings::from_layers(&layers).map_err(|error| error.to_string())
}

/// Whatever number was given, an address could once try a hundred times in the first minute.
#[test]
fn t_01_a_number_of_joins_holds_from_the_first_minute_on() {
    let few = settings(&[("max-joins-per-minute", "6")], &[], "").unwrap().node_api.quota;
    assert_eq!((few.join_burst, few.joins_per_second), (6, 0.1));
    let default = settings(&[], &[], "").unwrap().node_api.quota;
    assert_eq!((default.join_burst, default.joins_per_second), (100, 1.0));
}

#[test]
fn defaults_are_those_of_the_design() {
    let defaults = settings(&[], &[], "").unwrap();
    assert_eq!(format!("{defaults:?}"), format!("{:?}", Settings::new("/var/lib/bonafide/ca", None)));
    assert_eq!(defaults.listen.to_string(), "[::]:8443");
    let shown = [
        defaults.lifetimes.x509_svid,
        defaults.lifetimes.jwt_svid,
        defaults.lifetimes.node_svid,
        defaults.lifetimes.issuing_authority,
        defaults.lifetimes.jwt_authority,
        defaults.lifetimes.root,
        defaults.lifetimes.invitation,
        defaults.lifetimes.recovery,
    ]
    .map(duration::print);
    assert_eq!(shown, ["1h", "5m", "1d", "7d", "7d", "3650d", "10m", "30d"]);
}

#[test]
fn a_token_endpoint_is_said_whole_or_not_at_all() {
    const ALL: [(&str, &str); 3] =
        [("token-listen", "127.0.0.1:0"), ("token-policy", "tokens.toml"), ("token-dns", "ca.example.org")];
    assert_eq!(settings(&[], &[], "").unwrap().token, None);
    let token = settings(&ALL, &[], "").unwrap().token.unwrap();
    assert_eq!((token.dns_names.len(), token.requests_per_second.get()), (1, 1000));
    assert_eq!(
        (token.url(8444), token.url(443)),
        ("https://ca.example.org:8444".into(), "https://ca.example.org".into())
    );
    for (url, taken) in [
        ("https://ca.example.org", true),
        ("https://ca.example.org:8445", true),
        ("http://ca.example.org", false),
        ("https://ca.example.org/", false),
        ("https://ca.example.org/tokens", false),
        ("https://other.example.org", false),
        ("https://ca.example.org:", false),
        ("https://ca.example.org:0", false),
        ("https://ca.example.org:443", false),
        ("https://ca.example.org:08445", false),
        ("https://ca.example.org:65536", false),
    ] {
        let given: Vec<_> = ALL.into_iter().chain([("token-url", url)]).collect();
        match settings(&given, &[], "") {
            Ok(settings) => assert!(taken && settings.token.unwrap().url(8444) == url, "{url}"),
            Err(error) => assert!(!taken && error.to_string().contains("a NAME of `--token-dns`"), "{url}: {error}"),
        }
    }
    assert!(settings(&[("token-url", "https://ca.example.org")], &[], "").is_err());
    for (left_out, _) in ALL {
        let given: Vec<_> = ALL.into_iter().filter(|(name, _)| *name != left_out).collect();
        let error = settings(&given, &[], "").unwrap_err().to_string();
        assert!(error.contains(&format!("`--{left_out}` is missing")), "{error}");
    }
    for (name, value, expected) in [
        ("token-dns", "*.example.org", "wildcards"),
        ("token-dns", "CA.example.org", "lower case"),
        ("token-listen", "8444", "an IP address and a port"),
        ("max-tokens-per-second", "0", "a number from 1"),
    ] {
        let given: Vec<_> = ALL.into_iter().filter(|(other, _)| *other != name).chain([(name, value)]).collect();
        let error = settings(&given, &[], "").unwrap_err().to_string();
        assert!(error.contains(expected), "{name} {value}: {error}");
    }
    let same = [("token-listen", "127.0.0.1:8443"), ("listen", "127.0.0.1:8443"), ALL[1], ALL[2]];
    let error = settings(&same, &[], "").unwrap_err().to_string();
    assert_eq!(error, "`--listen` and `--token-listen` are both 127.0.0.1:8443; give them different ports");
}

#[test]
fn flag_beats_environment_beats_file() {
    let file = "x509-ttl = '3h'\njwt-ttl = '3m'\nnode-ttl = '3h'\nadvertise = ['c:3', 'c:4']";
    let environment = [("BONAFIDE_X509_TTL", "2h"), ("BONAFIDE_JWT_TTL", "2m"), ("BONAFIDE_ADVERTISE", "b:2, b:3")];
    let read = settings(&[("x509-ttl", "1h"), ("advertise", "a:1")], &environment, file).unwrap();
    let shown = [read.lifetimes.x509_svid, read.lifetimes.jwt_svid, read.lifetimes.node_svid].map(duration::print);
    assert_eq!(shown, ["1h", "2m", "3h"]);
    assert_eq!(read.advertise.len(), 1);
    assert_eq!(settings(&[], &environment, file).unwrap().advertise.len(), 2);
    assert_eq!(
        settings(&[], &[("BONAFIDE_X509_TTL", "")], file).unwrap().lifetimes.x509_svid,
        3 * HOUR,
        "empty: unset"
    );
}

#[test]
fn short_authorities_shorten_what_was_not_given() {
    let read = settings(&[("issuing-authority-ttl", "2m"), ("jwt-authority-ttl", "3m")], &[], "").unwrap();
    let shown = [read.lifetimes.x509_svid, read.lifetimes.node_svid, read.lifetimes.jwt_svid].map(duration::print);
    assert_eq!(shown, ["40s", "40s", "1m"]);
}

#[test]
fn bad_values_are_told_with_origin_and_bound() {
    let long = format!("/{}", "d".repeat(96));
    let cases: &[(&str, &str, &str)] = &[
        ("x509-ttl", "9s", "must lie between 10s and 2d8h (default 1h)"),
        ("x509-ttl", "3d", "must lie between 10s and 2d8h (default 1h)"),
        ("x509-ttl", "0s", "must lie between 10s and 2d8h (default 1h)"),
        ("x509-ttl", "-1s", "`-1s` is not a duration; write a number and its unit: `10s`, `5m`, `1h`, `7d`, `1h30m`"),
        (
            "x509-ttl",
            "1month",
            "`1month` is not a duration; write a number and its unit: `10s`, `5m`, `1h`, `7d`, `1h30m`",
        ),
        ("jwt-ttl", "3d", "must lie between 10s and 2d8h (default 5m)"),
        ("issuing-authority-ttl", "119s", "must lie between 2m and 365d (default 7d)"),
        ("root-ttl", "59m", "must lie between 14d and 10950d (default 3650d)"),
        ("root-ttl", "13d", "must lie between 14d and 10950d (default 3650d)"),
        ("invitation-ttl", "8d", "must lie between 10s and 7d (default 10m)"),
        ("max-nodes", "0", "must be a number from 1 to 10000000 (default 100000)"),
        ("max-nodes", "many", "must be a number from 1 to 10000000 (default 100000)"),
        (
            "listen",
            "8443",
            "must be an IP address and a port, for example `[::]:8443`, `0.0.0.0:8443` or `127.0.0.1:0`",
        ),
        (
            "advertise",
            "0.0.0.0:8443",
            "`0.0.0.0` means every address of this machine and cannot be reached from another one; give a name or address",
        ),
        ("expect-root", "abc", "must be 64 hexadecimal digits, as `bonafide-ca status` shows them"),
        ("log-format", "xml", "must be `text` or `json` (default text)"),
        ("accept-clock", "yes", "must be `true` or `false`"),
        ("data", "~/ca", "must be a path; `~` is the shell's to replace"),
        (
            "log-level",
            "loud",
            "must be `error`, `warn`, `info`, `debug` or `trace`, or directives such as `info,bonafide_ca=debug` (default info)",
        ),
        (
            "data",
            &long,
            "the socket in it would have a path of 109 bytes, and the system takes 107; choose a directory with a shorter path",
        ),
    ];
    for (name, value, bound) in cases {
        let variable = layers::variable_name(name);
        let file = format!("\n{name} = '{value}'");
        assert_eq!(settings(&[(name, value)], &[], "").unwrap_err(), format!("--{name}=`{value}`: {bound}"));
        assert_eq!(settings(&[], &[(&variable, value)], "").unwrap_err(), format!("{variable}=`{value}`: {bound}"));
        assert_eq!(settings(&[], &[], &file).unwrap_err(), format!("ca.toml:2:1: {name}=`{value}`: {bound}"));
    }
    let trust_domain = settings(&[("trust-domain", "Example.org")], &[], "").unwrap_err();
    assert!(trust_domain.starts_with("--trust-domain=`Example.org`: "), "{trust_domain}");
    let escape = settings(&[("log-format", "\x1b[2J")], &[], "").unwrap_err();
    assert!(!escape.contains('\x1b'), "T-31: {escape}");
}

#[test]
fn values_that_do_not_go_together_are_refused() {
    let error = settings(&[("issuing-authority-ttl", "2m"), ("x509-ttl", "41s")], &[], "").unwrap_err();
    assert_eq!(error, "--x509-ttl=`41s`: must lie between 10s and 40s (default 1h)");
    let error = settings(&[("listen", "127.0.0.1:1"), ("health-listen", "127.0.0.1:1")], &[], "").unwrap_err();
    assert_eq!(error, "`--listen` and `--health-listen` are both 127.0.0.1:1; give them different ports");
    assert!(settings(&[("listen", "127.0.0.1:0"), ("health-listen", "127.0.0.1:0")], &[], "").is_ok());
    let error = settings(&[("advertise", "a:1"), ("advertise", "a:1")], &[], "").unwrap_err();
    assert_eq!(error, "--advertise=`a:1`: is given twice");
    let error = settings(&[], &[], "x509-ttl = ['1h', '2h']").unwrap_err();
    assert_eq!(error, "ca.toml:1:1: x509-ttl=`2h`: takes one value, more were given");
}

/// Only what may have several values is taken apart at its commas: a variable with directives for the log was refused.
#[test]
fn a_variable_of_one_value_keeps_its_commas() {
    let environment = [("BONAFIDE_LOG_LEVEL", "warn,bonafide_ca=debug"), ("BONAFIDE_DATA", "/var/a, b")];
    let read = settings(&[], &environment, "").unwrap();
    assert_eq!((read.log.filter.as_str(), read.data.to_str()), ("warn,bonafide_ca=debug", Some("/var/a, b")));
}

#[test]
fn a_value_of_another_type_in_the_file_is_refused() {
    let cases = [
        ("trust-domain = 5", "trust-domain=`5`: must be a string, in quotation marks"),
        ("data = true", "data=`true`: must be a string, in quotation marks"),
        ("advertise = [1]", "advertise=`1`: must be a string, in quotation marks"),
        ("x509-ttl = 60", "x509-ttl=`60`: must be a string, in quotation marks"),
        ("max-nodes = true", "max-nodes=`true`: must be a number"),
        ("accept-clock = 1", "accept-clock=`1`: must be `true` or `false`"),
    ];
    for (file, expected) in cases {
        assert_eq!(settings(&[], &[], file).unwrap_err(), format!("ca.toml:1:1: {expected}"), "{file}");
    }
    let read = settings(&[], &[], "max-nodes = 7\naccept-clock = true").unwrap();
    assert_eq!((read.limits.nodes, read.accept_clock), (7, true));
}

#[test]
fn slips_in_variable_names_are_seen() {
    let names =
        ["BONAFIDE_X509_TTL", "BONAFIDE_X509TTL", "BONAFIDE_SOCKET", "BONAFIDE_WAIT", "PATH"].map(str::to_owned);
    let unknown: Vec<_> = unknown_variables(names.into_iter()).into_iter().collect();
    assert_eq!(unknown, ["BONAFIDE_WAIT", "BONAFIDE_X509TTL"]);
}
