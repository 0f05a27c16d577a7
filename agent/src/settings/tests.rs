use std::collections::HashMap;

use super::*;

fn resolve(flags: &Flags, variables: &[(&str, &str)], file: Option<&str>) -> Result<Settings, SettingsError> {
    let variables: HashMap<String, OsString> =
        variables.iter().map(|(name, value)| ((*name).to_owned(), OsString::from(value))).collect();
    let file = file.map(str::to_owned);
    let flags = Flags { config: file.as_ref().map(|_| "/etc/bonafide/agent.toml".into()), ..flags.clone() };
    Settings::resolve(&flags, &|name| variables.get(name).cloned(), &|_| Ok(file.clone().unwrap()))
}

#[test]
fn flag_then_environment_then_file_then_default() {
    let file = "socket = \"/file.sock\"\ndata = \"/file\"\nlog-level = \"warn\"\nattest-by-pid = true\n";
    let none = Flags::default();
    let flags = Flags { socket: Some("/flag.sock".into()), ..Flags::default() };
    let variables = [("BONAFIDE_SOCKET", "unix:///variable.sock"), ("BONAFIDE_DATA", "/variable")];
    let all = resolve(&flags, &variables, Some(file)).unwrap();
    assert_eq!((all.socket.to_str(), all.data.to_str()), (Some("/flag.sock"), Some("/variable")));
    assert!(all.attest_by_pid && all.log_level == "warn");
    let less = resolve(&none, &variables[..1], Some(file)).unwrap();
    assert_eq!((less.socket.to_str(), less.data.to_str()), (Some("/variable.sock"), Some("/file")));
    let default = resolve(&none, &[("BONAFIDE_SOCKET", "")], None).unwrap();
    assert_eq!(default.socket.to_str(), Some("/run/bonafide/agent.sock"));
    assert_eq!(default.data.to_str(), Some("/var/lib/bonafide/agent"));
    assert_eq!(default.runtime_dir.to_str(), Some("/run/bonafide-state"));
    assert!(!default.attest_by_pid && default.health_listen.is_none() && default.join.is_none());
}

#[test]
fn bad_values_are_told_with_their_origin_and_what_is_allowed() {
    let long = format!("/{}", "s".repeat(107));
    let long_message =
        format!("--socket=`{long}`: is 108 bytes long as an absolute path; the kernel takes at most 107");
    let socket = |text: &str| Flags { socket: Some(text.into()), ..Flags::default() };
    let config = "/etc/bonafide/agent.toml";
    type Case<'a> = (Flags, &'a [(&'a str, &'a str)], Option<&'a str>, &'a str);
    let cases: &[Case<'_>] = &[
        (socket("tcp://127.0.0.1:1"), &[], None, "--socket=`tcp://127.0.0.1:1`: must be a path or `unix:///path`"),
        (socket("unix://host/x"), &[], None, "--socket=`unix://host/x`: must not name a host: write `unix:///path`"),
        (socket("unix:x"), &[], None, "--socket=`unix:x`: must be an absolute path after `unix:`"),
        (socket(""), &[], None, "--socket=``: must name a file"),
        (socket(&long), &[], None, &long_message),
        (
            Flags::default(),
            &[("BONAFIDE_HEALTH_LISTEN", "localhost")],
            None,
            "BONAFIDE_HEALTH_LISTEN=`localhost`: must be an address and a port, such as `127.0.0.1:9464`",
        ),
        (
            Flags::default(),
            &[("BONAFIDE_ATTEST_BY_PID", "maybe")],
            None,
            "BONAFIDE_ATTEST_BY_PID=`maybe`: must be `true` or `false`",
        ),
        (
            Flags { log_level: Some("loud".into()), ..Flags::default() },
            &[],
            None,
            "--log-level=`loud`: must be error, warn, info, debug or trace, or directives such as `info,h2=debug`",
        ),
        (
            Flags::default(),
            &[],
            Some("log-format = \"xml\""),
            "/etc/bonafide/agent.toml: log-format=`xml`: must be `text` or `json`",
        ),
        (
            Flags { data: Some("/run/bonafide".into()), ..Flags::default() },
            &[],
            None,
            "--data=`/run/bonafide`: is the socket's directory, which every workload may open; give keys a directory of their own",
        ),
        (
            Flags { runtime_dir: Some("/run/bonafide".into()), ..Flags::default() },
            &[],
            None,
            "--runtime-dir=`/run/bonafide`: is the socket's directory, which every workload may open; give keys a directory of their own",
        ),
        (
            Flags { runtime_dir: Some("/d".into()), data: Some("/d".into()), ..Flags::default() },
            &[],
            None,
            "--runtime-dir=`/d`: is the data directory; give it one of its own, on tmpfs",
        ),
        (
            Flags { data: Some("~/agent".into()), ..Flags::default() },
            &[],
            None,
            "--data=`~/agent`: must be a path; `~` is the shell's to replace",
        ),
        (
            Flags::default(),
            &[("BONAFIDE_JOIN", "x"), ("BONAFIDE_JOIN_FILE", "y")],
            None,
            "BONAFIDE_JOIN and BONAFIDE_JOIN_FILE are both given; give one of them",
        ),
    ];
    for (flags, variables, file, expected) in cases {
        assert_eq!(resolve(flags, variables, *file).unwrap_err().to_string(), *expected);
    }
    let unknown = resolve(&Flags::default(), &[], Some("data = \"/d\"\nsokcet = \"/s\"\n")).unwrap_err().to_string();
    assert!(unknown.starts_with(&format!("the settings file `{config}` cannot be used: line 2: ")), "{unknown}");
    assert!(unknown.contains("sokcet") && unknown.contains("socket"), "{unknown}");
    for broken in ["data = 1", "data = \"/a\"\ndata = \"/b\"", "\u{feff}x", "[a]\nb = 1", "= 2"] {
        assert!(resolve(&Flags::default(), &[], Some(broken)).is_err(), "{broken:?}");
    }
}

#[test]
fn an_invitation_is_never_printed() {
    let flags = Flags { join: Some("the-secret".into()), ..Flags::default() };
    let settings = resolve(&flags, &[], None).unwrap();
    assert!(!format!("{settings:?} {flags:?}").contains("the-secret"));
    let source = settings.join.unwrap();
    let error = parse_invitation(&source, "the-secret").unwrap_err().to_string();
    assert!(error.starts_with("--join: ") && !error.contains("the-secret"), "{error}");
    assert!(matches!(
        resolve(&Flags { join: Some("-".into()), ..Flags::default() }, &[], None).unwrap().join,
        Some(JoinSource::Stdin)
    ));
    assert!(matches!(
        resolve(&Flags { join_file: Some("-".into()), ..Flags::default() }, &[], None).unwrap().join,
        Some(JoinSource::Stdin)
    ));
}

#[test]
fn an_invitation_is_read_with_a_bound() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("invitation");
    let source = JoinSource::File(path.clone());
    assert!(read_invitation(&source).unwrap_err().to_string().contains("cannot be read"));
    std::fs::write(&path, " \n").unwrap();
    assert!(read_invitation(&source).unwrap_err().to_string().ends_with("there is no invitation in it"));
    std::fs::write(&path, vec![b'a'; 1 << 20]).unwrap();
    assert!(read_invitation(&source).unwrap_err().to_string().ends_with("longer than any invitation (16384 bytes)"));
    std::fs::write(&path, "text\n").unwrap();
    assert_eq!(read_invitation(&source).unwrap().as_str(), "text\n");
}

#[test]
fn a_settings_file_that_anyone_may_write_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("agent.toml");
    std::fs::write(&path, "").unwrap();
    assert_eq!(read_settings_file(&path).unwrap(), "");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o646)).unwrap();
    assert!(read_settings_file(&path).unwrap_err().to_string().contains("chmod o-w"));
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::write(&path, [b'#', 0xff]).unwrap();
    assert!(read_settings_file(&path).unwrap_err().to_string().ends_with("byte 1 is not UTF-8"));
    std::fs::write(&path, vec![b'#'; 1 << 20]).unwrap();
    assert!(read_settings_file(&path).unwrap_err().to_string().contains("larger than"));
    assert!(read_settings_file(temp.path()).unwrap_err().to_string().contains("not a regular file"));
    let fifo = temp.path().join("fifo");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    assert!(read_settings_file(&fifo).unwrap_err().to_string().contains("not a regular file"));
}

#[test]
fn a_misspelt_variable_is_told() {
    let names = ["BONAFIDE_SOKCET", "BONAFIDE_SOCKET", "BONAFIDE_MAX_NODES", "BONAFIDE_X509_TTL", "PATH"];
    assert_eq!(unknown_variables(names.iter().map(OsString::from)), ["BONAFIDE_SOKCET"]);
}
