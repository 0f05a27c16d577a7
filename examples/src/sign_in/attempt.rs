//! One attempt to sign in, from the page where it began to the answer of the provider.
//!
//! Everything that ties the two together is made from one random value that only the browser has, in a cookie, and from a key that only
//! this process has: `state`, `nonce` and the verifier of PKCE. So nothing is kept here that strangers could fill, and an answer that
//! comes to another browser than the one that asked is worth nothing.

use std::{fmt, time::Duration};

use aws_lc_rs::{
    digest::{SHA256, digest},
    hmac,
    rand::{self, SystemRandom},
};
use base64ct::{Base64UrlUnpadded, Encoding};
use bonafide_verifier::clock::Timestamp;

/// So long a person may take at the provider's page.
pub(super) const PATIENCE: Duration = Duration::from_secs(600);

/// What attempts are made with: another key in each process, so that none outlives it.
pub(super) struct Attempts(hmac::Key);

/// One attempt. `Debug` shows nothing of it.
#[derive(Clone, Eq, PartialEq)]
pub(super) struct Attempt {
    /// When it began, in seconds, and the random value: `1795424400.q83n…`.
    cookie: String,
    pub(super) state: String,
    pub(super) nonce: String,
    /// Of PKCE (RFC 7636): 43 characters.
    pub(super) verifier: String,
}

impl Attempts {
    pub(super) fn new() -> Result<Self, NoRandomness> {
        hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new()).map(Self).map_err(|_| NoRandomness)
    }

    pub(super) fn begin(&self, now: Timestamp) -> Result<Attempt, NoRandomness> {
        Ok(self.of_cookie(format!("{}.{}", now.unix_seconds(), random()?)))
    }

    /// The attempt that a browser's cookie speaks of, unless it began too long ago, or in the future.
    pub(super) fn resume(&self, cookie: &str, now: Timestamp) -> Option<Attempt> {
        let (began, _) = cookie.split_once('.')?;
        let age = now.unix_seconds().checked_sub(began.parse().ok()?)?;
        let fresh = u64::try_from(age).is_ok_and(|age| age <= PATIENCE.as_secs());
        (fresh && cookie.len() <= 128).then(|| self.of_cookie(cookie.to_owned()))
    }

    fn of_cookie(&self, cookie: String) -> Attempt {
        let derived = |what: &str| {
            let mut context = hmac::Context::with_key(&self.0);
            context.update(what.as_bytes());
            context.update(&[0]);
            context.update(cookie.as_bytes());
            Base64UrlUnpadded::encode_string(context.sign().as_ref())
        };
        Attempt { state: derived("state"), nonce: derived("nonce"), verifier: derived("verifier"), cookie }
    }
}

impl Attempt {
    pub(super) fn cookie(&self) -> &str {
        &self.cookie
    }

    /// What the provider is told of the verifier: `S256`.
    pub(super) fn challenge(&self) -> String {
        Base64UrlUnpadded::encode_string(digest(&SHA256, self.verifier.as_bytes()).as_ref())
    }
}

impl fmt::Debug for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Attempt(..)")
    }
}

/// The operating system has no random numbers.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the operating system gives no random numbers")]
pub struct NoRandomness;

/// 256 random bits.
pub(super) fn random() -> Result<String, NoRandomness> {
    let mut bytes = [0; 32];
    rand::fill(&mut bytes).map_err(|_| NoRandomness)?;
    Ok(Base64UrlUnpadded::encode_string(&bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attempt_is_known_by_its_cookie_for_ten_minutes_and_by_this_process_alone() {
        let (attempts, others) = (Attempts::new().unwrap(), Attempts::new().unwrap());
        let now = Timestamp::from_unix_seconds(1_800_000_000);
        let attempt = attempts.begin(now).unwrap();
        let later = |seconds: i64| Timestamp::from_unix_seconds(1_800_000_000 + seconds);
        assert_eq!(attempts.resume(attempt.cookie(), later(600)), Some(attempt.clone()));
        assert_eq!(attempts.resume(attempt.cookie(), later(601)), None);
        assert_eq!(attempts.resume(attempt.cookie(), later(-1)), None);
        let elsewhere = others.resume(attempt.cookie(), now).unwrap();
        assert!(elsewhere.state != attempt.state && elsewhere.nonce != attempt.nonce);
        assert_ne!(attempts.begin(now).unwrap().state, attempt.state);
        for bad in ["", ".", "x.y", "1800000000", &format!("1800000000.{}", "y".repeat(120))] {
            assert_eq!(attempts.resume(bad, now), None, "{bad}");
        }
        let distinct = [&attempt.state, &attempt.nonce, &attempt.verifier, &attempt.challenge()];
        assert!(distinct.iter().all(|one| one.len() == 43), "{attempt:?}");
        assert!(distinct.iter().enumerate().all(|(at, one)| !distinct[..at].contains(one)));
    }
}
