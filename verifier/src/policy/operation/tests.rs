use super::*;

/// Every trap of `authorization.md` §5, and what is fine beside it (T-27).
#[test]
fn t_27_paths_that_two_programs_read_differently() {
    let longest = format!("/{}", "a".repeat(8191));
    let too_long = format!("/{}", "a".repeat(8192));
    let (deepest, too_deep) = ("/a".repeat(64), "/a".repeat(65));
    let cases: &[(&str, Result<(), PathError>)] = &[
        ("/", Ok(())),
        ("/images/42", Ok(())),
        ("/images/..%2fadmin%2fx", Err(PathError::EncodedSlash { at: 10 })),
        ("/images/..%2Fadmin", Err(PathError::EncodedSlash { at: 10 })),
        ("/images/%2e%2e", Err(PathError::DotSegment { at: 8 })),
        ("/images/%2E.", Err(PathError::DotSegment { at: 8 })),
        ("/images/.%2e/x", Err(PathError::DotSegment { at: 8 })),
        ("/files/../admin/x", Err(PathError::DotSegment { at: 7 })),
        ("/files/./x", Err(PathError::DotSegment { at: 7 })),
        ("/..", Err(PathError::DotSegment { at: 1 })),
        ("/..;a=b/x", Err(PathError::DotSegment { at: 1 })),
        ("/..%3ba/x", Err(PathError::DotSegment { at: 1 })),
        ("/...", Ok(())),
        ("/.well-known", Ok(())),
        ("/a/%00", Err(PathError::Control { at: 3 })),
        ("/a/%0d%0a", Err(PathError::Control { at: 3 })),
        ("/a/%7f", Err(PathError::Control { at: 3 })),
        ("/a/%c2%85", Err(PathError::Control { at: 3 })),
        ("/a\0", Err(PathError::Control { at: 2 })),
        ("/a\n", Err(PathError::Control { at: 2 })),
        ("/a;v=1", Ok(())),
        ("/files/a%2fb", Err(PathError::EncodedSlash { at: 8 })),
        ("/a%5cb", Err(PathError::Backslash { at: 2 })),
        ("/a\\b", Err(PathError::Backslash { at: 2 })),
        ("//images/42", Err(PathError::EmptySegment { at: 1 })),
        ("//", Err(PathError::EmptySegment { at: 1 })),
        ("/images//42", Err(PathError::EmptySegment { at: 8 })),
        ("/images/42/", Err(PathError::TrailingSlash)),
        ("/%69mages/42", Err(PathError::NeedlessEscape { byte: b'i', at: 1 })),
        ("/a%2Db", Err(PathError::NeedlessEscape { byte: b'-', at: 2 })),
        ("/a%2eb", Err(PathError::NeedlessEscape { byte: b'.', at: 2 })),
        ("/IMAGES/42", Ok(())),
        ("/a#b", Err(PathError::Byte { byte: b'#', at: 2 })),
        ("/a?b", Err(PathError::Byte { byte: b'?', at: 2 })),
        ("/a b", Err(PathError::Byte { byte: b' ', at: 2 })),
        ("/{a}", Err(PathError::Byte { byte: b'{', at: 1 })),
        ("/ö", Err(PathError::Byte { byte: 0xc3, at: 1 })),
        ("/%c3%b6", Ok(())),
        ("/a/%ff", Err(PathError::NotUtf8 { at: 3 })),
        ("/%c0%ae%c0%ae", Err(PathError::NotUtf8 { at: 1 })),
        ("/%", Err(PathError::BadEscape { at: 1 })),
        ("/a%2", Err(PathError::BadEscape { at: 2 })),
        ("/a%zz", Err(PathError::BadEscape { at: 2 })),
        ("/a%+1", Err(PathError::BadEscape { at: 2 })),
        ("/a/%252e%252e", Err(PathError::DoubleEscape { at: 3 })),
        ("/a/x%252fy", Err(PathError::DoubleEscape { at: 3 })),
        ("/a/%25252e", Err(PathError::DoubleEscape { at: 3 })),
        ("/a/x%252f%25", Err(PathError::DoubleEscape { at: 3 })),
        ("/a/100%25", Ok(())),
        ("/a/b%2520c", Ok(())),
        ("/a%20b", Ok(())),
        ("/a@b:c", Ok(())),
        ("images/42", Err(PathError::NoLeadingSlash)),
        ("", Err(PathError::NoLeadingSlash)),
        ("*", Err(PathError::NoLeadingSlash)),
        ("http://evil/x", Err(PathError::NoLeadingSlash)),
        (&longest, Ok(())),
        (&too_long, Err(PathError::TooLong { length: 8193 })),
        (&deepest, Ok(())),
        (&too_deep, Err(PathError::TooManySegments)),
    ];
    for (path, expected) in cases {
        assert_eq!(CanonicalPath::parse(path).map(drop), *expected, "{path:?}");
        if let Err(error) = expected {
            assert!(PathError::CODES.contains(&error.code()));
        }
    }
}

#[test]
fn templates_of_rules() {
    let cases: &[(&str, Result<&str, &str>)] = &[
        ("GET /v1/config/{key}", Ok("GET /v1/config/{key}")),
        ("* /v1/**", Ok("* /v1/**")),
        ("GET /", Ok("GET /")),
        ("GET /a/*/b", Ok("GET /a/*/b")),
        ("HEAD /a", Err("`HEAD` is no method")),
        ("get /a", Err("`get` is no method")),
        ("TRACE /a", Err("`TRACE` is no method")),
        ("/a", Err("is a method and a path")),
        ("GET a", Err("begins with `/`")),
        ("GET /a/", Err("ends in `/`")),
        ("GET /a//b", Err("empty segment")),
        ("GET /a/../b", Err("segment `.` or `..`")),
        ("GET /**/a", Err("only at the end")),
        ("GET /a*", Err("one whole segment")),
        ("GET /{a}/{a}", Err("stands twice")),
        ("GET /{}", Err("a variable is a whole segment")),
        ("GET /x{a}", Err("a variable is a whole segment")),
        ("GET /{*rest}", Err("a variable is a whole segment")),
        ("GET /a%20b", Err("`%` cannot stand in a template")),
        ("GET /a b", Err("cannot stand in a path")),
    ];
    for (text, expected) in cases {
        match (OperationPattern::http(text), expected) {
            (Ok(pattern), Ok(printed)) => assert_eq!(pattern.to_string(), *printed),
            (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{text}: {error}"),
            (found, _) => panic!("{text}: {found:?}"),
        }
    }
    for (text, valid) in [
        ("config.v1.Config/Get", true),
        ("Config/*", true),
        ("*/*", false),
        ("config.v1.Config", false),
        ("/config.v1.Config/Get", false),
        ("config..Config/Get", false),
        ("config.v1.*/Get", false),
        ("a.B/Get/x", false),
    ] {
        assert_eq!(OperationPattern::grpc(text).is_ok(), valid, "{text}");
    }
    assert!(OperationPattern::app("photo.delete /images/{id}").is_ok());
    assert!(OperationPattern::app("photo.delete images/{id}").is_err());
    assert!(OperationPattern::app("photo delete").is_err());
}

#[test]
fn operations_print_as_they_are_read() {
    for text in ["GET /v1/config/x", "DELETE /", "config.v1.Config/Get", "app photo.delete /images/42"] {
        assert_eq!(Operation::parse(text).map(|operation| operation.to_string()).as_deref(), Ok(text));
    }
    for text in ["", "GET", "GET x", "TRACE /", "get /", "GET /a/../b", "app x", "a/b/c", "app a b /c"] {
        assert!(Operation::parse(text).is_err(), "{text}");
    }
}

#[test]
fn values_of_variables_are_decoded() {
    let template = Template::parse("/a/{x}/*/{y}").unwrap();
    let path = CanonicalPath::parse("/a/b%20c/d/%c3%b6").unwrap();
    let values: Vec<_> = template.values(&path).collect();
    assert_eq!(values, [("x", "b c".into()), ("y", "ö".into())]);
}

mod properties {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// T-27: the quick look at a path lets nothing through that the close one refuses.
        #[test]
        fn a_plain_path_is_good_at_a_close_look(
            rest in prop_oneof!["(/|\\.|;|%2f|a|[ -~]){1,12}", "([a.;]{1,3}/){1,70}[a.]?"],
        ) {
            if is_plain(&rest) {
                prop_assert_eq!(check_segments(&rest), Ok(()));
            }
        }

        /// T-27: what passes has one reading, also for whoever decodes it more than once.
        #[test]
        fn a_path_that_passes_has_one_reading(
            path in "(/|%2[eEfF5]|%5c|%00|\\.|;|a|%c3%b6|%25|[ -~]){0,12}",
        ) {
            match CanonicalPath::parse(&path) {
                Ok(canonical) => {
                    assert_eq!(canonical.as_str(), path);
                    for segment in canonical.segments() {
                        let mut reading = segment.to_owned();
                        for _ in 0..4 {
                            assert!(!reading.is_empty() && !reading.contains(['/', '\\', '\0']), "{path}: {reading}");
                            assert!(!matches!(reading.split(';').next(), Some("." | "..")), "{path}: {reading}");
                            reading = String::from_utf8_lossy(&decode_leniently(reading.as_bytes())).into_owned();
                        }
                    }
                }
                Err(error) => assert!(PathError::CODES.contains(&error.code())),
            }
        }
    }
}
