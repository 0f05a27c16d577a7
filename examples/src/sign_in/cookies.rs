//! Cookies: one of a name, or none, and never without the prefix that keeps them on this host, over TLS, for every path.

use axum::http::{HeaderMap, HeaderValue, header::COOKIE};

/// The value of the one cookie of this name.
///
/// # Errors
/// When there are two: somebody has put one beside ours, and nobody can tell which is whose.
pub(super) fn find<'h>(headers: &'h HeaderMap, name: &str) -> Result<Option<&'h str>, TwoCookies> {
    // Over HTTP/2 a browser may send each in a header of its own.
    let all = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(';'));
    let mut found = all.filter_map(|pair| pair.trim().strip_prefix(name)?.strip_prefix('='));
    match (found.next(), found.next()) {
        (_, Some(_)) => Err(TwoCookies),
        (one, None) => Ok(one),
    }
}

/// Two cookies of one name.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct TwoCookies;

/// A cookie that scripts cannot read, that goes nowhere else, and that no other site's form or frame sends along. `Lax`, because the provider
/// sends the browser here, and the browser has to bring it then.
pub(super) fn set(name: &str, value: &str) -> HeaderValue {
    cookie(&format!("{name}={value}; Path=/; Secure; HttpOnly; SameSite=Lax"))
}

/// Takes it away.
pub(super) fn clear(name: &str) -> HeaderValue {
    cookie(&format!("{name}=; Path=/; Secure; HttpOnly; SameSite=Lax; Max-Age=0"))
}

fn cookie(text: &str) -> HeaderValue {
    // Base64 and digits: always a header's value.
    let mut value = HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static(""));
    value.set_sensitive(true);
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_cookie_of_a_name_or_none() {
        type Case = (&'static [&'static str], Result<Option<&'static str>, TwoCookies>);
        let cases: &[Case] = &[
            (&[], Ok(None)),
            (&["__Host-session=a"], Ok(Some("a"))),
            (&["other=x; __Host-session=a; more=y"], Ok(Some("a"))),
            (&["other=x", "__Host-session=a"], Ok(Some("a"))),
            (&["__Host-session=a; __Host-session=b"], Err(TwoCookies)),
            (&["__Host-session=a", "__Host-session=a"], Err(TwoCookies)),
            (&["session=a"], Ok(None)),
            (&["x__Host-session=a"], Ok(None)),
            (&["__Host-session2=a"], Ok(None)),
            (&["__host-session=a"], Ok(None)),
        ];
        for (values, expected) in cases {
            let mut headers = HeaderMap::new();
            for value in *values {
                headers.append(COOKIE, HeaderValue::from_static(value));
            }
            assert_eq!(find(&headers, "__Host-session"), *expected, "{values:?}");
        }
    }
}
