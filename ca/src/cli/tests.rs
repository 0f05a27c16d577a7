use clap::CommandFactory as _;

use super::*;
use crate::settings::NAMES;
use crate::settings::layers::variable_name;

/// Every command, with the words that lead to it.
fn all_commands(command: &clap::Command, path: &str, found: &mut Vec<(String, clap::Command)>) {
    let path = format!("{path} {}", command.get_name()).trim().to_owned();
    for sub in command.get_subcommands().filter(|sub| sub.get_name() != "help") {
        all_commands(sub, &path, found);
    }
    found.push((path, command.clone()));
}

fn commands() -> Vec<(String, clap::Command)> {
    let mut found = Vec::new();
    all_commands(&command(), "", &mut found);
    found
}

#[test]
fn the_command_line_is_sound() {
    Cli::command().debug_assert();
    command().debug_assert();
}

#[test]
fn every_command_explains_itself_and_shows_an_example() {
    for (path, mut command) in commands() {
        let leaf = command.get_subcommands().count() == 0;
        let help = command.render_long_help().to_string();
        assert!(command.get_about().is_some(), "`{path}` says what it is for");
        for arg in command.get_arguments().filter(|arg| !arg.is_hide_set()) {
            assert!(arg.get_help().is_some(), "`{path}` explains `{}`", arg.get_id());
        }
        if leaf {
            let examples: Vec<&str> = help.lines().skip_while(|line| !line.starts_with("Example")).skip(1).collect();
            assert!(!examples.is_empty(), "`{path}` shows an example:\n{help}");
            for line in examples.into_iter().take_while(|line| !line.is_empty()) {
                assert!(line.contains("bonafide-"), "`{path}`: not a whole command on its line: {line}");
            }
        }
    }
}

#[test]
fn every_listing_speaks_json() {
    for (path, command) in commands() {
        let listing = path.ends_with(" list") || path.ends_with(" show") || path.ends_with("status");
        if listing && !path.contains("bundle") {
            assert!(command.get_arguments().any(|arg| arg.get_id() == "output"), "`{path}` takes --output");
        }
    }
}

#[test]
fn every_setting_has_its_flag_and_names_its_variable() {
    let command = command();
    let run = command.find_subcommand("run").unwrap();
    for name in NAMES {
        let arg = run.get_arguments().find(|arg| arg.get_long() == Some(name)).unwrap_or_else(|| panic!("--{name}"));
        let help = arg.get_help().unwrap().to_string();
        assert!(help.contains(&variable_name(name)), "{name}: {help}");
    }
    let flags: Vec<_> = run.get_arguments().filter_map(clap::Arg::get_long).collect();
    for flag in flags.into_iter().filter(|flag| !["config", "help", "version"].contains(flag)) {
        assert!(NAMES.contains(&flag), "--{flag} is a setting in the file, too");
    }
}

#[test]
fn bad_command_lines_are_usage_errors() {
    let cases: &[&[&str]] = &[
        &["bonafide-ca", "frobnicate"],
        &["bonafide-ca", "node", "invite"],
        &["bonafide-ca", "node", "invite", "Web"],
        &["bonafide-ca", "node", "invite", "web", "--ttl", "10"],
        &["bonafide-ca", "service", "add", "photo"],
        &["bonafide-ca", "service", "add", "photo", "--selector", "unix:user:photo"],
        &["bonafide-ca", "service", "add", "photo", "--on", "any"],
        &["bonafide-ca", "service", "add", "photo", "--selector", "docker:x:y", "--on", "any"],
        &["bonafide-ca", "service", "add", "bonafide/x", "--selector", "unix:user:photo", "--on", "any"],
        &["bonafide-ca", "service", "add", "a%20b", "--selector", "unix:user:photo", "--on", "any"],
        &["bonafide-ca", "service", "show", "/"],
        &["bonafide-ca", "audit", "list", "--kind", "nothing"],
        &["bonafide-ca", "audit", "list", "--since", "yesterday"],
        &["bonafide-ca", "bundle", "show", "--format", "der"],
        &["bonafide-ca", "completions", "tcl"],
    ];
    for case in cases {
        let error = command().try_get_matches_from(*case).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{case:?}");
    }
}

#[test]
fn paths_are_taken_as_people_type_them() {
    for (given, expected) in
        [("photo", "/photo"), ("/photo", "/photo"), ("spiffe://example.org/photo", "spiffe://example.org/photo")]
    {
        let matches = command().try_get_matches_from(["bonafide-ca", "service", "show", given]).unwrap();
        let (_, service) = matches.subcommand().unwrap();
        let (_, show) = service.subcommand().unwrap();
        assert_eq!(show.get_one::<String>("path").unwrap(), expected);
    }
}

#[test]
fn failures_have_their_exit_codes() {
    let cases = [
        (Failure::Failed(String::new()), 1),
        (Failure::Usage(String::new()), 2),
        (Failure::Refused { message: String::new(), code: String::new() }, 3),
        (Failure::Unreachable(String::new()), 4),
    ];
    for (failure, code) in cases {
        assert_eq!(failure.exit_code(), ExitCode::from(code), "{failure:?}");
    }
}

/// An error once named a command that does not exist. Whatever a text tells a person to run must be there.
#[test]
fn every_command_that_a_text_names_is_there() {
    let known: Vec<String> = commands().into_iter().map(|(path, _)| path).collect();
    let is_there = |words: &[&str]| match words {
        [option, ..] if option.starts_with('-') => true,
        [one, two, ..] if !two.starts_with('-') && known.contains(&format!("bonafide-ca {one} {two}")) => true,
        // The whole group, or a verb with what it takes.
        [one, rest @ ..] => {
            let group = known.iter().any(|known| known.starts_with(&format!("bonafide-ca {one} ")));
            known.contains(&format!("bonafide-ca {one}")) && (!group || rest.is_empty())
        }
        [] => false,
    };
    let mut files = vec![std::path::PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/src"))];
    let mut named = 0;
    while let Some(path) = files.pop() {
        if path.is_dir() {
            files.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            continue;
        }
        if path.ends_with("tests.rs") {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        for after in text.split("`bonafide-ca ").skip(1) {
            let command = after.split('`').next().unwrap_or_default();
            let words: Vec<&str> = command.split_whitespace().filter(|word| *word != "\\").collect();
            assert!(is_there(&words), "{}: there is no `bonafide-ca {command}`", path.display());
            named += 1;
        }
    }
    assert!(named > 30, "{named}");
}
