//! Valid now, for as long as was asked, within the life of the authority, in the form that the year demands.

use bonafide_verifier::clock::Timestamp;
use time::{Date, Month, OffsetDateTime, Time};

use super::{Candidate, Elements, Finding, NotDer, Rule};
use crate::issuance::der::{Element, GENERALIZED_TIME, UTC_TIME};

pub(super) const RULE: Rule =
    Rule { name: "validity", source: "RFC 5280 §4.1.2.5; a leaf never outlives its authority", check };

fn check(candidate: &Candidate<'_>) -> Result<(), Finding> {
    let (not_before, not_after) = times(candidate.tbs.validity)
        .ok_or_else(|| "is not two times, each in the type that its year demands".to_owned())?;
    if not_before != candidate.validity.not_before || not_after != candidate.validity.not_after {
        return Err(format!(
            "{not_before} to {not_after}, must be {} to {}",
            candidate.validity.not_before, candidate.validity.not_after
        ));
    }
    if not_before > candidate.at || not_after <= candidate.at {
        return Err(format!("{not_before} to {not_after} does not hold at {}", candidate.at));
    }
    let ttl = candidate.request.ttl();
    if not_after > candidate.at.saturating_add(ttl) {
        return Err(format!("{not_after} is more than {ttl:?} away"));
    }
    if not_before < candidate.issuer.not_before() || not_after > candidate.issuer.not_after() {
        return Err(format!(
            "{not_before} to {not_after} is not within the authority's {} to {}",
            candidate.issuer.not_before(),
            candidate.issuer.not_after()
        ));
    }
    Ok(())
}

fn times(validity: Element<'_>) -> Option<(Timestamp, Timestamp)> {
    let mut times = Elements::of(validity.content);
    let both = (time(times.next())?, time(times.next())?);
    times.end().ok()?;
    Some(both)
}

/// YYMMDDHHMMSSZ through 2049, YYYYMMDDHHMMSSZ from 2050.
fn time(element: Result<Element<'_>, NotDer>) -> Option<Timestamp> {
    let element = element.ok()?;
    let (year, rest) = match element.tag {
        UTC_TIME => {
            let (year, rest) = digits(element.content, 2)?;
            (if year < 50 { 2000 + year } else { 1900 + year }, rest)
        }
        GENERALIZED_TIME => digits(element.content, 4).filter(|(year, _)| *year >= 2050)?,
        _ => return None,
    };
    let (month, rest) = digits(rest, 2)?;
    let (day, rest) = digits(rest, 2)?;
    let (hour, rest) = digits(rest, 2)?;
    let (minute, rest) = digits(rest, 2)?;
    let (second, rest) = digits(rest, 2)?;
    if rest != b"Z" {
        return None;
    }
    let small = |number: i32| u8::try_from(number).ok();
    let date = Date::from_calendar_date(year, Month::try_from(small(month)?).ok()?, small(day)?).ok()?;
    let time = Time::from_hms(small(hour)?, small(minute)?, small(second)?).ok()?;
    Some(Timestamp::from_unix_seconds(OffsetDateTime::new_utc(date, time).unix_timestamp()))
}

fn digits(text: &[u8], count: usize) -> Option<(i32, &[u8])> {
    let (digits, rest) = text.split_at_checked(count)?;
    let mut number = 0;
    for digit in digits {
        number = number * 10 + i32::from(digit.is_ascii_digit().then(|| digit - b'0')?);
    }
    Some((number, rest))
}
