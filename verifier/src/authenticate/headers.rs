//! What a request says in its headers, and what in `authorization` is a credential.

use super::error::AuthenticateError;

/// One header of a request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Found<'h> {
    /// It is not there.
    Absent,
    /// It is there once.
    Once(&'h [u8]),
    /// It is there more than once, whatever it says: two readers could take two different ones (trap 6).
    Several,
}

/// The headers of a request, or the metadata of a gRPC call.
pub trait HeaderView {
    /// The header of this name, which is in lower case. Names are compared without regard to case.
    fn find(&self, name: &str) -> Found<'_>;
}

/// No headers: a raw connection.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoHeaders;

impl HeaderView for NoHeaders {
    fn find(&self, _name: &str) -> Found<'_> {
        Found::Absent
    }
}

impl HeaderView for [(&str, &[u8])] {
    fn find(&self, name: &str) -> Found<'_> {
        let mut values = self.iter().filter(|(header, _)| header.eq_ignore_ascii_case(name));
        match (values.next(), values.next()) {
            (None, _) => Found::Absent,
            (Some((_, value)), None) => Found::Once(value),
            (Some(_), Some(_)) => Found::Several,
        }
    }
}

#[cfg(feature = "tower")]
impl HeaderView for http::HeaderMap {
    fn find(&self, name: &str) -> Found<'_> {
        let mut values = self.get_all(name).iter();
        match (values.next(), values.next()) {
            (None, _) => Found::Absent,
            (Some(value), None) => Found::Once(value.as_bytes()),
            (Some(_), Some(_)) => Found::Several,
        }
    }
}

/// What `authorization` carries.
#[derive(Clone, Copy)]
pub(super) enum Authorization<'h> {
    #[cfg_attr(not(feature = "jwt"), allow(dead_code, reason = "what is in it is looked at for tokens alone"))]
    Bearer(&'h str),
    ApiKey(&'h str),
}

/// The token in `authorization: Bearer`, where there is one and nothing else.
#[cfg(all(feature = "tower", feature = "tokio"))]
pub(crate) fn bearer_token(headers: &dyn HeaderView) -> Option<&str> {
    let Found::Once(value) = headers.find(AUTHORIZATION) else { return None };
    match Authorization::parse(value) {
        Ok(Authorization::Bearer(token)) => Some(token),
        Ok(Authorization::ApiKey(_)) | Err(_) => None,
    }
}

pub(super) const AUTHORIZATION: &str = "authorization";

impl<'h> Authorization<'h> {
    /// A scheme, without regard to case (RFC 9110 §11.1), one space, and what is left. Nothing is trimmed.
    pub(super) fn parse(value: &'h [u8]) -> Result<Self, AuthenticateError> {
        let malformed = || AuthenticateError::Header { name: AUTHORIZATION.to_owned() };
        let (scheme, credential) = text(value, AUTHORIZATION)?.split_once(' ').ok_or_else(malformed)?;
        if credential.is_empty() || credential.bytes().fold(false, |blank, byte| blank | (byte == b' ')) {
            return Err(malformed());
        }
        if scheme.eq_ignore_ascii_case("bearer") {
            Ok(Self::Bearer(credential))
        } else if scheme.eq_ignore_ascii_case("apikey") {
            Ok(Self::ApiKey(credential))
        } else {
            Err(AuthenticateError::Scheme)
        }
    }
}

/// The value of a header, if it is of visible ASCII and spaces.
pub(super) fn text<'h>(value: &'h [u8], name: &str) -> Result<&'h str, AuthenticateError> {
    let malformed = || AuthenticateError::Header { name: name.to_owned() };
    // Every byte is looked at, so that many are at once.
    if value.iter().fold(true, |visible, byte| visible & matches!(byte, b' '..=b'~')) {
        std::str::from_utf8(value).map_err(|_| malformed())
    } else {
        Err(malformed())
    }
}
