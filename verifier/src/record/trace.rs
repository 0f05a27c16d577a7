//! The trace that a request belongs to.

use std::fmt;

use serde::{Serialize, Serializer};

/// A trace's ID: 16 bytes, not all zero (W3C Trace Context §3.2.2.3).
#[derive(Clone, Copy, Eq, Hash, PartialEq)]
pub struct TraceId([u8; 16]);

impl TraceId {
    /// Reads the `traceparent` header. `None` when it is not one, or of a version that we must not read (`ff`): a trace is a help
    /// for whoever looks for something, never a reason to refuse.
    #[must_use]
    pub fn of_traceparent(header: &str) -> Option<Self> {
        let mut parts = header.split('-');
        let (version, trace, parent, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let version = hex::<1>(version)?;
        hex::<8>(parent).filter(|parent| *parent != [0; 8])?;
        hex::<1>(flags)?;
        // Later versions may say more behind it.
        let fits = version != [0xff] && (version != [0] || parts.next().is_none());
        hex::<16>(trace).filter(|trace| fits && *trace != [0; 16]).map(Self)
    }
}

/// `N` bytes in lower-case hexadecimal.
fn hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    let mut digits = text.bytes();
    for byte in &mut bytes {
        for _ in 0..2 {
            let digit = match digits.next()? {
                digit @ b'0'..=b'9' => digit - b'0',
                digit @ b'a'..=b'f' => digit - b'a' + 10,
                _ => return None,
            };
            *byte = *byte << 4 | digit;
        }
    }
    digits.next().is_none().then_some(bytes)
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TraceId({self})")
    }
}

impl Serialize for TraceId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traceparents_of_the_standard() {
        let trace = "0af7651916cd43dd8448eb211c80319c";
        let cases = [
            ("as it is", format!("00-{trace}-b7ad6b7169203331-01"), true),
            ("a later version that says more", format!("cc-{trace}-b7ad6b7169203331-01-what"), true),
            ("this version says more", format!("00-{trace}-b7ad6b7169203331-01-what"), false),
            ("the version that is none", format!("ff-{trace}-b7ad6b7169203331-01"), false),
            ("upper case", format!("00-{}-b7ad6b7169203331-01", trace.to_uppercase()), false),
            ("no trace", "00-00000000000000000000000000000000-b7ad6b7169203331-01".to_owned(), false),
            ("no parent", format!("00-{trace}-0000000000000000-01"), false),
            ("short", format!("00-{}-b7ad6b7169203331-01", &trace[1..]), false),
            ("no flags", format!("00-{trace}-b7ad6b7169203331"), false),
            ("nothing", String::new(), false),
            ("not ASCII", format!("00-{trace}-b7ad6b716920333é-01"), false),
        ];
        for (what, header, valid) in cases {
            let found = TraceId::of_traceparent(&header).map(|id| id.to_string());
            assert_eq!(found, valid.then(|| trace.to_owned()), "{what}");
        }
    }
}
