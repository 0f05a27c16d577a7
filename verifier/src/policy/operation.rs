//! What a caller wants to do, in the one form that rules are compared with.
//!
//! A path is taken as it stands or refused: two programs that read an odd path must not see two paths (T-27,
//! `authorization.md` §5). Nothing is normalised.

use std::{borrow::Cow, fmt};

/// A request's path in the only form that rules are compared with. [`CanonicalPath::parse`] is the only way to get one.
///
/// It begins with a slash and does not end in one (but for `/` itself); no segment is empty, `.` or `..` in any encoding; nothing is escaped
/// that needs no escape, and no escape hides a slash, a backslash, a control character or bytes that are no UTF-8.
///
/// ```
/// use bonafide_verifier::policy::{CanonicalPath, PathError};
///
/// assert_eq!(CanonicalPath::parse("/images/42")?.as_str(), "/images/42");
/// assert_eq!(CanonicalPath::parse("/images/..%2fadmin"), Err(PathError::EncodedSlash { at: 10 }));
/// # Ok::<(), PathError>(())
/// ```
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct CanonicalPath<'a>(&'a str);

/// Why a path is refused before any rule is looked at. Offsets are bytes from the start of the path.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum PathError {
    /// Another first byte, or nothing.
    #[error("a path begins with `/`")]
    NoLeadingSlash,
    /// More than [`CanonicalPath::MAX_BYTES`].
    #[error("the path has {length} bytes, at most {} are taken", CanonicalPath::MAX_BYTES)]
    TooLong {
        /// Bytes found.
        length: usize,
    },
    /// More than [`CanonicalPath::MAX_SEGMENTS`].
    #[error("the path has more than {} segments", CanonicalPath::MAX_SEGMENTS)]
    TooManySegments,
    /// Two slashes in a row.
    #[error("empty segment at offset {at}")]
    EmptySegment {
        /// Where.
        at: usize,
    },
    /// A slash at the end.
    #[error("the path ends in `/`")]
    TrailingSlash,
    /// `.` or `..`, in whatever encoding, and with or without parameters (`..;a`).
    #[error("segment `.` or `..` at offset {at}")]
    DotSegment {
        /// Where the segment begins.
        at: usize,
    },
    /// `%2f`.
    #[error("escaped slash at offset {at}")]
    EncodedSlash {
        /// Where.
        at: usize,
    },
    /// `\` or `%5c`.
    #[error("backslash at offset {at}")]
    Backslash {
        /// Where.
        at: usize,
    },
    /// A control character, escaped or not.
    #[error("control character at offset {at}")]
    Control {
        /// Where.
        at: usize,
    },
    /// `%` without two hexadecimal digits.
    #[error("`%` without two hexadecimal digits at offset {at}")]
    BadEscape {
        /// Where.
        at: usize,
    },
    /// A letter, digit, `-`, `.`, `_` or `~` that is escaped: another program would take the path for another one.
    #[error("needless escape of `{}` at offset {at}", char::from(*byte))]
    NeedlessEscape {
        /// What is escaped.
        byte: u8,
        /// Where.
        at: usize,
    },
    /// An escape within an escape that hides any of these from whoever decodes twice: `%252e`.
    #[error("escape within an escape in the segment at offset {at}")]
    DoubleEscape {
        /// Where the segment begins.
        at: usize,
    },
    /// Escapes that are no UTF-8.
    #[error("escapes that are no UTF-8 in the segment at offset {at}")]
    NotUtf8 {
        /// Where the segment begins.
        at: usize,
    },
    /// A byte that a path cannot hold as it is: a blank, `?`, `#`, `{`, anything beyond ASCII.
    #[error("byte 0x{byte:02x} at offset {at} cannot stand in a path")]
    Byte {
        /// The byte.
        byte: u8,
        /// Where.
        at: usize,
    },
}

impl PathError {
    /// Every code, for metrics and documents.
    pub const CODES: &'static [&'static str] = &[
        "no-leading-slash",
        "too-long",
        "too-many-segments",
        "empty-segment",
        "trailing-slash",
        "dot-segment",
        "encoded-slash",
        "backslash",
        "control",
        "bad-escape",
        "needless-escape",
        "double-escape",
        "not-utf-8",
        "byte",
    ];

    /// A stable word for records and metrics.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::NoLeadingSlash => "no-leading-slash",
            Self::TooLong { .. } => "too-long",
            Self::TooManySegments => "too-many-segments",
            Self::EmptySegment { .. } => "empty-segment",
            Self::TrailingSlash => "trailing-slash",
            Self::DotSegment { .. } => "dot-segment",
            Self::EncodedSlash { .. } => "encoded-slash",
            Self::Backslash { .. } => "backslash",
            Self::Control { .. } => "control",
            Self::BadEscape { .. } => "bad-escape",
            Self::NeedlessEscape { .. } => "needless-escape",
            Self::DoubleEscape { .. } => "double-escape",
            Self::NotUtf8 { .. } => "not-utf-8",
            Self::Byte { .. } => "byte",
        }
    }
}

impl<'a> CanonicalPath<'a> {
    /// The longest path, in bytes.
    pub const MAX_BYTES: usize = 8192;
    /// The most segments.
    pub const MAX_SEGMENTS: usize = 64;

    /// Takes a request's path, without its query, as it stood in the request.
    ///
    /// # Errors
    /// The first reason why two programs could read it differently.
    pub fn parse(raw: &'a str) -> Result<Self, PathError> {
        let Some(rest) = raw.strip_prefix('/') else { return Err(PathError::NoLeadingSlash) };
        if raw.len() > Self::MAX_BYTES {
            return Err(PathError::TooLong { length: raw.len() });
        }
        if !rest.is_empty() && !is_plain(rest) {
            check_segments(rest)?;
        }
        Ok(Self(raw))
    }

    /// The path as it was given.
    #[must_use]
    pub fn as_str(&self) -> &'a str {
        self.0
    }

    /// The segments as they were given: none for `/`.
    pub fn segments(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        self.0.split('/').skip(1).filter(|segment| !segment.is_empty())
    }

    /// All but the slash that it begins with.
    pub(super) fn rest(&self) -> &'a str {
        self.0.get(1..).unwrap_or_default()
    }
}

impl fmt::Display for CanonicalPath<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// Whether nothing in a path asks for a closer look: no escape, no byte that could not stand, no empty segment and none that begins with a dot.
/// Most paths are so, and each request's is looked at.
fn is_plain(rest: &str) -> bool {
    let mut before = b'/';
    let mut slashes = 0;
    for byte in rest.bytes() {
        let begins = before == b'/';
        match PLAIN.get(usize::from(byte)) {
            Some(true) if begins && byte == b'.' => return false,
            Some(true) => {}
            _ if byte == b'/' && !begins => slashes += 1,
            _ => return false,
        }
        before = byte;
    }
    before != b'/' && slashes < CanonicalPath::MAX_SEGMENTS
}

/// Offsets are counted from the slash before.
fn check_segments(rest: &str) -> Result<(), PathError> {
    let mut at = 1;
    for (count, segment) in rest.split('/').enumerate() {
        if count == CanonicalPath::MAX_SEGMENTS {
            return Err(PathError::TooManySegments);
        }
        if segment.is_empty() {
            let is_last = at == rest.len() + 1;
            return Err(if is_last { PathError::TrailingSlash } else { PathError::EmptySegment { at } });
        }
        check_segment(segment, at)?;
        at += segment.len() + 1;
    }
    Ok(())
}

#[expect(clippy::indexing_slicing, reason = "at compile time, where it cannot be out of bounds")]
const PLAIN: [bool; 256] = {
    let mut plain = [false; 256];
    let mut byte = 0;
    while byte < 128 {
        plain[byte as usize] = stands_in_segment(byte);
        byte += 1;
    }
    plain
};

fn check_segment(segment: &str, at: usize) -> Result<(), PathError> {
    let mut escaped = false;
    for (index, byte) in segment.bytes().enumerate() {
        match byte {
            b'%' => escaped = true,
            b'\\' => return Err(PathError::Backslash { at: at + index }),
            0..0x20 | 0x7f => return Err(PathError::Control { at: at + index }),
            byte if !stands_in_segment(byte) => return Err(PathError::Byte { byte, at: at + index }),
            _ => {}
        }
    }
    if is_dots(segment.as_bytes()) {
        return Err(PathError::DotSegment { at });
    }
    if escaped { check_escapes(segment, at) } else { Ok(()) }
}

/// `.` or `..`, perhaps with parameters, which some programs cut off first.
fn is_dots(segment: &[u8]) -> bool {
    matches!(segment.split(|byte| *byte == b';').next(), Some(b"." | b".."))
}

/// What RFC 3986 lets stand in a segment as it is, without `%`.
pub(super) const fn stands_in_segment(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'-' | b'.'
                | b'_'
                | b'~'
                | b'!'
                | b'$'
                | b'&'
                | b'\''
                | b'('
                | b')'
                | b'*'
                | b'+'
                | b','
                | b';'
                | b'='
                | b':'
                | b'@'
        )
}

fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)
}

fn check_escapes(segment: &str, at: usize) -> Result<(), PathError> {
    let mut decoded = Vec::with_capacity(segment.len());
    let mut needless = None;
    let mut escapes = Escapes(segment.as_bytes());
    loop {
        let here = at + segment.len() - escapes.0.len();
        let Some(next) = escapes.next() else { break };
        match next {
            Ok((byte, false)) => decoded.push(byte),
            Ok((byte, true)) => {
                match byte {
                    b'/' => return Err(PathError::EncodedSlash { at: here }),
                    b'\\' => return Err(PathError::Backslash { at: here }),
                    0..0x20 | 0x7f => return Err(PathError::Control { at: here }),
                    byte if is_unreserved(byte) => {
                        needless = needless.or(Some(PathError::NeedlessEscape { byte, at: here }));
                    }
                    _ => {}
                }
                decoded.push(byte);
            }
            Err(()) => return Err(PathError::BadEscape { at: here }),
        }
    }
    if is_dots(&decoded) {
        return Err(PathError::DotSegment { at });
    }
    if let Some(error) = needless {
        return Err(error);
    }
    let Ok(text) = std::str::from_utf8(&decoded) else { return Err(PathError::NotUtf8 { at }) };
    if text.chars().any(char::is_control) {
        return Err(PathError::Control { at });
    }
    // Whoever decodes once more than we do must find nothing either. Each round makes the text shorter.
    let mut again = decoded;
    while again.contains(&b'%') {
        let next = decode_leniently(&again);
        let bad = |byte: &u8| matches!(byte, b'/' | b'\\' | 0..0x20 | 0x7f);
        if is_dots(&next) || next.iter().any(bad) {
            return Err(PathError::DoubleEscape { at });
        }
        if next.len() == again.len() {
            return Ok(());
        }
        again = next;
    }
    Ok(())
}

/// As a program decodes that takes a `%` without digits for itself.
fn decode_leniently(mut bytes: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(bytes.len());
    while let [first, tail @ ..] = bytes {
        let escaped = match bytes {
            [b'%', high, low, tail @ ..] => hex(*high).zip(hex(*low)).map(|(high, low)| (high * 16 + low, tail)),
            _ => None,
        };
        let (byte, rest) = escaped.unwrap_or((*first, tail));
        decoded.push(byte);
        bytes = rest;
    }
    decoded
}

/// The bytes of a segment, and whether each was escaped.
struct Escapes<'a>(&'a [u8]);

impl Iterator for Escapes<'_> {
    type Item = Result<(u8, bool), ()>;

    fn next(&mut self) -> Option<Self::Item> {
        match *self.0 {
            [] => None,
            [b'%', high, low, ref rest @ ..] => {
                self.0 = rest;
                Some(hex(high).zip(hex(low)).map(|(high, low)| (high * 16 + low, true)).ok_or(()).inspect_err(|()| {
                    self.0 = &[];
                }))
            }
            [b'%', ..] => {
                self.0 = &[];
                Some(Err(()))
            }
            [byte, ref rest @ ..] => {
                self.0 = rest;
                Some(Ok((byte, false)))
            }
        }
    }
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

/// A segment of a [`CanonicalPath`], decoded.
#[cfg_attr(not(feature = "cedar"), allow(dead_code, reason = "conditions use it"))]
pub(super) fn decode(segment: &str) -> Cow<'_, str> {
    if !segment.contains('%') {
        return Cow::Borrowed(segment);
    }
    let bytes: Vec<u8> = Escapes(segment.as_bytes()).map_while(Result::ok).map(|(byte, _)| byte).collect();
    Cow::Owned(String::from_utf8_lossy(&bytes).into_owned())
}

/// The same into a buffer; `None` when it does not fit.
pub(super) fn decode_into<'b>(segment: &str, buffer: &'b mut [u8]) -> Option<&'b [u8]> {
    let mut length = 0;
    for byte in Escapes(segment.as_bytes()) {
        *buffer.get_mut(length)? = byte.ok()?.0;
        length += 1;
    }
    buffer.get(..length)
}

/// A method of HTTP. There are no others: TRACE and CONNECT are refused, and so is what nobody has heard of.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Method {
    /// `GET`.
    Get,
    /// `HEAD`, which goes where GET goes: handlers of GET serve it.
    Head,
    /// `POST`.
    Post,
    /// `PUT`.
    Put,
    /// `PATCH`.
    Patch,
    /// `DELETE`.
    Delete,
    /// `OPTIONS`.
    Options,
}

impl Method {
    /// Every method.
    pub const ALL: [Self; 7] = [Self::Get, Self::Head, Self::Post, Self::Put, Self::Patch, Self::Delete, Self::Options];

    /// The method of this word, byte for byte: `get` is none.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Some(match word {
            "GET" => Self::Get,
            "HEAD" => Self::Head,
            "POST" => Self::Post,
            "PUT" => Self::Put,
            "PATCH" => Self::Patch,
            "DELETE" => Self::Delete,
            "OPTIONS" => Self::Options,
            _ => return None,
        })
    }

    /// As it stands in a request.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Patch => "PATCH",
            Self::Delete => "DELETE",
            Self::Options => "OPTIONS",
        }
    }

    /// Its place among the methods that rules tell apart.
    pub(super) fn place(self) -> u32 {
        match self {
            Self::Get | Self::Head => 0,
            Self::Post => 1,
            Self::Put => 2,
            Self::Patch => 3,
            Self::Delete => 4,
            Self::Options => 5,
        }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a caller wants to do.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Operation<'a> {
    /// A request over HTTP.
    Http {
        /// Its method.
        method: Method,
        /// Its path, without the query.
        path: CanonicalPath<'a>,
    },
    /// A call over gRPC, `/config.v1.Config/Get`.
    Grpc {
        /// `config.v1.Config`.
        service: &'a str,
        /// `Get`.
        method: &'a str,
    },
    /// Something that the program itself knows about and no request names.
    App {
        /// A word of the program's own, `photo.delete`.
        action: &'a str,
        /// What it is done to, written as a path: `/images/42`.
        resource: CanonicalPath<'a>,
    },
}

/// `GET /v1/config/x`, `config.v1.Config/Get`, `app photo.delete /images/42`.
impl fmt::Display for Operation<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http { method, path } => write!(f, "{method} {path}"),
            Self::Grpc { service, method } => write!(f, "{service}/{method}"),
            Self::App { action, resource } => write!(f, "app {action} {resource}"),
        }
    }
}

/// Why a text is no operation.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum OperationError {
    /// None of the three forms.
    #[error("`{}` is no operation; write `GET /v1/x`, `package.Service/Method` or `app ACTION /resource`", .text.escape_debug())]
    Form {
        /// The text, shortened.
        text: String,
    },
    /// A path that is refused.
    #[error("`{}`: {source}; the service answers 400 before it looks at a rule", .text.escape_debug())]
    Path {
        /// The text, shortened.
        text: String,
        /// Why.
        source: PathError,
    },
}

impl<'a> Operation<'a> {
    /// Reads what [`Operation`] prints.
    ///
    /// # Errors
    /// When it is none, or a path in it is refused.
    pub fn parse(text: &'a str) -> Result<Self, OperationError> {
        let shown = || text.chars().take(200).collect::<String>();
        let form = || OperationError::Form { text: shown() };
        let path = |path| CanonicalPath::parse(path).map_err(|source| OperationError::Path { text: shown(), source });
        if let Some(rest) = text.strip_prefix("app ") {
            let (action, resource) = rest.split_once(' ').ok_or_else(form)?;
            return if is_action(action) { Ok(Self::App { action, resource: path(resource)? }) } else { Err(form()) };
        }
        if let Some((method, rest)) = text.split_once(' ') {
            return Ok(Self::Http { method: Method::parse(method).ok_or_else(form)?, path: path(rest)? });
        }
        match text.split_once('/') {
            Some((service, method)) if is_grpc_service(service) && is_grpc_method(method) => {
                Ok(Self::Grpc { service, method })
            }
            _ => Err(form()),
        }
    }
}

/// The longest word of a template, action or gRPC name.
pub(super) const MAX_WORD: usize = 128;

fn is_action(text: &str) -> bool {
    (1..=MAX_WORD).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._:-".contains(&byte))
}

fn is_grpc_service(text: &str) -> bool {
    text.len() <= MAX_WORD && text.split('.').all(is_grpc_method)
}

fn is_grpc_method(text: &str) -> bool {
    (1..=MAX_WORD).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        && !text.starts_with(|first: char| first.is_ascii_digit())
}

/// The path of a rule's operation: `/v1/config/{key}`, `/v1/**`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Template(Vec<Piece>);

/// A part of a template.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Piece {
    Literal(String),
    /// `{name}` or `*`: one segment.
    One(Option<String>),
    /// `**`: one or more segments, at the end.
    Rest,
}

/// An operation as a rule names it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum OperationPattern {
    /// `None`: every method.
    Http {
        method: Option<Method>,
        template: Template,
    },
    /// `method` `None`: every one of the service.
    Grpc {
        service: String,
        method: Option<String>,
    },
    App {
        action: String,
        template: Template,
    },
}

/// Why a text in a rule is no operation.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub(super) enum TemplateError {
    #[error("`{word}` is no method; one of GET, POST, PUT, PATCH, DELETE, OPTIONS and `*` is, and GET means HEAD too")]
    Method { word: String },
    #[error("an operation of HTTP is a method and a path: `GET /v1/config/{{key}}`")]
    Http,
    #[error("an operation of gRPC is `package.Service/Method`, or `package.Service/*` for all of the service")]
    Grpc,
    #[error("an operation of the program's own is an action and a resource: `photo.delete /images/{{id}}`")]
    App,
    #[error("{0}, so no request ever has this path")]
    Path(PathError),
    #[error("`{segment}`: a variable is a whole segment, `{{name}}`, of at most 64 letters, digits and `_`")]
    Variable { segment: String },
    #[error("`{{{name}}}` stands twice in the path")]
    Twice { name: String },
    #[error("`{segment}`: `*` stands for one whole segment, `**` for the rest and only at the end")]
    Wildcard { segment: String },
    #[error("`%` cannot stand in a template; variables match escaped segments")]
    Escape,
    #[error("a segment has {length} bytes, at most {MAX_WORD} are taken")]
    LongWord { length: usize },
}

impl Template {
    pub(super) fn parse(text: &str) -> Result<Self, TemplateError> {
        let mut pieces = Vec::new();
        let Some(rest) = text.strip_prefix('/') else { return Err(TemplateError::Path(PathError::NoLeadingSlash)) };
        if rest.contains('%') {
            return Err(TemplateError::Escape);
        }
        let count = if rest.is_empty() { 0 } else { rest.split('/').count() };
        if count > CanonicalPath::MAX_SEGMENTS {
            return Err(TemplateError::Path(PathError::TooManySegments));
        }
        let mut at = 1;
        for (index, segment) in rest.split('/').take(count).enumerate() {
            let shown = || segment.chars().take(64).collect::<String>();
            let last = index + 1 == count;
            let variable = segment.strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
            pieces.push(match (segment, variable) {
                ("", _) if last => return Err(TemplateError::Path(PathError::TrailingSlash)),
                ("", _) => return Err(TemplateError::Path(PathError::EmptySegment { at })),
                ("*", _) => Piece::One(None),
                ("**", _) if last => Piece::Rest,
                (_, Some(name)) if is_variable(name) => {
                    let given = Piece::One(Some(name.to_owned()));
                    if pieces.contains(&given) {
                        return Err(TemplateError::Twice { name: name.to_owned() });
                    }
                    given
                }
                _ if segment.contains(['{', '}']) => return Err(TemplateError::Variable { segment: shown() }),
                _ if segment.contains('*') => return Err(TemplateError::Wildcard { segment: shown() }),
                _ if segment.len() > MAX_WORD => return Err(TemplateError::LongWord { length: segment.len() }),
                _ => {
                    check_segment(segment, at).map_err(TemplateError::Path)?;
                    Piece::Literal(segment.to_owned())
                }
            });
            at += segment.len() + 1;
        }
        Ok(Self(pieces))
    }

    pub(super) fn pieces(&self) -> &[Piece] {
        &self.0
    }

    /// Whether a path is one of these. Slow and obvious; the index must agree with it. `equal` compares a literal and a segment.
    pub(super) fn matches(&self, path: &CanonicalPath<'_>, equal: impl Fn(&str, &str) -> bool) -> bool {
        let mut segments = path.segments();
        for piece in &self.0 {
            match (piece, segments.next()) {
                (_, None) => return false,
                (Piece::Literal(literal), Some(segment)) if !equal(literal, segment) => return false,
                (Piece::Literal(_) | Piece::One(_), Some(_)) => {}
                (Piece::Rest, Some(_)) => return true,
            }
        }
        segments.next().is_none()
    }

    /// Whether every path of the other is one of this.
    fn covers(&self, other: &Self) -> bool {
        let mut others = other.0.iter();
        for own in &self.0 {
            match (own, others.next()) {
                (_, None) => return false,
                (Piece::Rest, Some(_)) => return true,
                (Piece::One(_), Some(Piece::Literal(_) | Piece::One(_))) => {}
                (Piece::Literal(own), Some(Piece::Literal(other))) if own == other => {}
                (Piece::Literal(_) | Piece::One(_), Some(_)) => return false,
            }
        }
        others.next().is_none()
    }

    /// The values of its variables in a path that matches, decoded.
    #[cfg_attr(not(feature = "cedar"), allow(dead_code, reason = "conditions use it"))]
    pub(super) fn values<'t, 'p>(
        &'t self,
        path: &CanonicalPath<'p>,
    ) -> impl Iterator<Item = (&'t str, Cow<'p, str>)> + use<'t, 'p> {
        self.0.iter().zip(path.segments()).filter_map(|(piece, segment)| match piece {
            Piece::One(Some(name)) => Some((name.as_str(), decode(segment))),
            Piece::One(None) | Piece::Literal(_) | Piece::Rest => None,
        })
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|piece| match piece {
            Piece::One(name) => name.as_deref(),
            Piece::Literal(_) | Piece::Rest => None,
        })
    }
}

fn is_variable(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        && !name.starts_with(|first: char| first.is_ascii_digit())
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("/");
        }
        for piece in &self.0 {
            match piece {
                Piece::Literal(text) => write!(f, "/{text}")?,
                Piece::One(Some(name)) => write!(f, "/{{{name}}}")?,
                Piece::One(None) => f.write_str("/*")?,
                Piece::Rest => f.write_str("/**")?,
            }
        }
        Ok(())
    }
}

impl OperationPattern {
    pub(super) fn http(text: &str) -> Result<Self, TemplateError> {
        let (word, path) = text.split_once(' ').ok_or(TemplateError::Http)?;
        let method = match (word, Method::parse(word)) {
            ("*", _) => None,
            (_, Some(method)) if method != Method::Head => Some(method),
            _ => return Err(TemplateError::Method { word: word.chars().take(32).collect() }),
        };
        Ok(Self::Http { method, template: Template::parse(path)? })
    }

    pub(super) fn grpc(text: &str) -> Result<Self, TemplateError> {
        match text.split_once('/') {
            Some((service, "*")) if is_grpc_service(service) => {
                Ok(Self::Grpc { service: service.to_owned(), method: None })
            }
            Some((service, method)) if is_grpc_service(service) && is_grpc_method(method) => {
                Ok(Self::Grpc { service: service.to_owned(), method: Some(method.to_owned()) })
            }
            _ => Err(TemplateError::Grpc),
        }
    }

    pub(super) fn app(text: &str) -> Result<Self, TemplateError> {
        match text.split_once(' ') {
            Some((action, resource)) if is_action(action) => {
                Ok(Self::App { action: action.to_owned(), template: Template::parse(resource)? })
            }
            _ => Err(TemplateError::App),
        }
    }

    pub(super) fn template(&self) -> Option<&Template> {
        match self {
            Self::Http { template, .. } | Self::App { template, .. } => Some(template),
            Self::Grpc { .. } => None,
        }
    }

    /// Whether every operation of the other is one of this.
    pub(super) fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Http { method, template }, Self::Http { method: of_other, template: other }) => {
                (method.is_none() || method == of_other) && template.covers(other)
            }
            (Self::Grpc { service, method }, Self::Grpc { service: other, method: of_other }) => {
                service == other && (method.is_none() || method == of_other)
            }
            (Self::App { action, template }, Self::App { action: of_other, template: other }) => {
                action == of_other && template.covers(other)
            }
            (Self::Http { .. } | Self::Grpc { .. } | Self::App { .. }, _) => false,
        }
    }

    /// Whether the operation is one of these. Slow and obvious; the index must agree with it.
    pub(super) fn matches(&self, operation: &Operation<'_>, equal: impl Fn(&str, &str) -> bool) -> bool {
        match (self, operation) {
            (Self::Http { method, template }, Operation::Http { method: given, path }) => {
                method.is_none_or(|method| method.place() == given.place()) && template.matches(path, equal)
            }
            (Self::Grpc { service, method }, Operation::Grpc { service: given, method: called }) => {
                service == given && method.as_deref().is_none_or(|method| method == *called)
            }
            (Self::App { action, template }, Operation::App { action: given, resource }) => {
                action == given && template.matches(resource, equal)
            }
            (Self::Http { .. } | Self::Grpc { .. } | Self::App { .. }, _) => false,
        }
    }

    /// Whether a literal of it is in the path only once that is decoded, whatever the method. Programs disagree on whether that is the same
    /// path. Slow and obvious; the index must agree with it.
    #[cfg(test)]
    pub(super) fn is_ambiguous(&self, operation: &Operation<'_>) -> bool {
        let decoded = |literal: &str, segment: &str| literal == decode(segment);
        let as_is = |literal: &str, segment: &str| literal == segment;
        let (template, path) = match (self, operation) {
            (Self::Http { template, .. }, Operation::Http { path, .. }) => (template, path),
            (Self::App { action, template }, Operation::App { action: given, resource }) if action == given => {
                (template, resource)
            }
            (Self::Http { .. } | Self::Grpc { .. } | Self::App { .. }, _) => return false,
        };
        template.matches(path, decoded) && !template.matches(path, as_is)
    }
}

/// As it stands in a policy.
impl fmt::Display for OperationPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http { method: Some(method), template } => write!(f, "{method} {template}"),
            Self::Http { method: None, template } => write!(f, "* {template}"),
            Self::Grpc { service, method } => write!(f, "{service}/{}", method.as_deref().unwrap_or("*")),
            Self::App { action, template } => write!(f, "{action} {template}"),
        }
    }
}

#[cfg(test)]
mod tests;
