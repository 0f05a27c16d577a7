//! Durations as people write them: `10s`, `5m`, `1h`, `7d`, `1h30m`.

use std::time::Duration;

/// Reads a duration. Every number has its unit, so that `60` is not taken for minutes.
///
/// # Errors
/// One line that says what is wrong and how to write it.
pub(crate) fn parse(text: &str) -> Result<Duration, String> {
    let wrong = || {
        format!(
            "`{}` is not a duration; write a number and its unit: `10s`, `5m`, `1h`, `7d`, `1h30m`",
            text.escape_debug()
        )
    };
    let mut seconds: u64 = 0;
    let mut number: Option<u64> = None;
    let mut last_unit = u64::MAX;
    for c in text.chars() {
        if let Some(digit) = c.to_digit(10) {
            let so_far = number.unwrap_or(0).checked_mul(10).and_then(|n| n.checked_add(u64::from(digit)));
            number = Some(so_far.ok_or_else(wrong)?);
            continue;
        }
        let unit = match c {
            's' => 1,
            'm' => 60,
            'h' => 3600,
            'd' => 24 * 3600,
            _ => return Err(wrong()),
        };
        let number = number.take().ok_or_else(wrong)?;
        // Each unit once, the longest first: `30m1h` and `5m5m` are slips.
        if unit >= last_unit {
            return Err(wrong());
        }
        last_unit = unit;
        seconds = number.checked_mul(unit).and_then(|n| n.checked_add(seconds)).ok_or_else(wrong)?;
    }
    if number.is_some() || last_unit == u64::MAX {
        return Err(wrong());
    }
    Ok(Duration::from_secs(seconds))
}

/// The duration in the longest units that show it exactly, as [`parse`] reads it: `1h30m`.
pub(crate) fn print(duration: Duration) -> String {
    let mut rest = duration.as_secs();
    if rest == 0 {
        return "0s".to_owned();
    }
    let mut text = String::new();
    for (unit, letter) in [(24 * 3600, 'd'), (3600, 'h'), (60, 'm'), (1, 's')] {
        if rest >= unit {
            text.push_str(&(rest / unit).to_string());
            text.push(letter);
            rest %= unit;
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_by_rule() {
        let cases: &[(&str, Option<u64>)] = &[
            ("10s", Some(10)),
            ("5m", Some(300)),
            ("1h", Some(3600)),
            ("7d", Some(604_800)),
            ("1h30m", Some(5400)),
            ("1d2h3m4s", Some(93_784)),
            ("0s", Some(0)),
            ("90", None),
            ("", None),
            ("s", None),
            ("1", None),
            ("1month", None),
            ("1y", None),
            ("10 s", None),
            ("-5m", None),
            ("+5m", None),
            ("1.5h", None),
            ("5m5m", None),
            ("30m1h", None),
            ("5M", None),
            ("18446744073709551616s", None),
            ("999999999999999999d", None),
            ("\u{661}s", None),
        ];
        for (text, expected) in cases {
            assert_eq!(parse(text).ok().map(|duration| duration.as_secs()), *expected, "{text:?}");
        }
        assert_eq!(
            parse("60").unwrap_err(),
            "`60` is not a duration; write a number and its unit: `10s`, `5m`, `1h`, `7d`, `1h30m`"
        );
    }

    proptest! {
        #[test]
        fn prints_what_parses_back(seconds in 0..u64::MAX / 2) {
            let duration = Duration::from_secs(seconds);
            prop_assert_eq!(parse(&print(duration)), Ok(duration));
        }
    }
}
