//! A serial number is positive, sixteen bytes, nobody can guess the next one, and the record of the issuance names it.

use super::{Candidate, Finding, Rule};
use crate::issuance::request::SERIAL_LENGTH;

pub(super) const RULE: Rule = Rule { name: "serial-number", source: "RFC 5280 §4.1.2.2", check };

fn check(candidate: &Candidate<'_>) -> Result<(), Finding> {
    let serial = candidate.tbs.serial.content;
    if serial.len() != SERIAL_LENGTH {
        return Err(format!("{} bytes, must be {SERIAL_LENGTH}", serial.len()));
    }
    // The first bit is the sign, and DER has no leading zero byte: both follow from a first byte in 0x40..=0x7f.
    match serial.first() {
        Some(0x40..=0x7f) => {}
        _ => return Err("negative, zero, or shorter than it looks".to_owned()),
    }
    if serial != candidate.serial {
        return Err("another one than the record of this issuance names".to_owned());
    }
    Ok(())
}
