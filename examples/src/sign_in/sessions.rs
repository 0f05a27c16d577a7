//! Who has signed in: kept here, known to the browser by a random value alone.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use aws_lc_rs::{
    constant_time::verify_slices_are_equal,
    digest::{SHA256, digest},
};
use bonafide_verifier::{authenticate::SessionUser, clock::Timestamp, jwt::user_token::VerifiedUser};
use zeroize::Zeroizing;

use super::attempt::{NoRandomness, random};

/// Somebody who has signed in with one browser. Ends with the token that said who they are.
pub struct Session {
    user: VerifiedUser,
    /// The same for the verifier, with the token that an edge exchanges.
    pub(super) credential: SessionUser,
    csrf: String,
}

impl Session {
    /// Who.
    #[must_use]
    pub fn user(&self) -> &VerifiedUser {
        &self.user
    }

    /// What each form of the session's pages has to send along, so that no other site's form can do anything here.
    #[must_use]
    pub fn csrf_token(&self) -> &str {
        &self.csrf
    }

    /// Whether a form is one of this session's pages.
    #[must_use]
    pub fn is_own_form(&self, csrf_token: &str) -> bool {
        verify_slices_are_equal(csrf_token.as_bytes(), self.csrf.as_bytes()).is_ok()
    }

    fn has_ended(&self, now: Timestamp) -> bool {
        self.user.expires_at() <= now
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("user", &self.user).finish_non_exhaustive()
    }
}

/// All of them. Known by SHA-256 of what the browser has, so that looking one up tells nothing by how long it takes.
#[derive(Default)]
pub(super) struct Sessions(Mutex<HashMap<[u8; 32], Arc<Session>>>);

/// The most at once. Beyond it the one that ends first ends now.
const MOST: usize = 10_000;

impl Sessions {
    /// Begins one and gives what the browser is to keep: always a new value, whatever the browser had before.
    pub(super) fn begin(
        &self,
        user: VerifiedUser,
        token: &Zeroizing<String>,
        now: Timestamp,
    ) -> Result<String, NoRandomness> {
        let (secret, csrf) = (random()?, random()?);
        let mut open = self.lock();
        if open.len() >= MOST {
            open.retain(|_, session| !session.has_ended(now));
        }
        if open.len() >= MOST {
            let first = open.iter().min_by_key(|(_, session)| session.user.expires_at()).map(|(name, _)| *name);
            first.and_then(|first| open.remove(&first));
        }
        let credential = SessionUser::new(&user, user.expires_at()).with_token(token.as_str(), user.kind());
        open.insert(name_of(&secret), Arc::new(Session { user, credential, csrf }));
        Ok(secret)
    }

    pub(super) fn find(&self, secret: &str, now: Timestamp) -> Option<Arc<Session>> {
        let mut open = self.lock();
        let name = name_of(secret);
        let session = open.get(&name)?;
        if session.has_ended(now) {
            open.remove(&name);
            return None;
        }
        Some(Arc::clone(session))
    }

    pub(super) fn end(&self, secret: &str) {
        self.lock().remove(&name_of(secret));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<[u8; 32], Arc<Session>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn name_of(secret: &str) -> [u8; 32] {
    let mut name = [0; 32];
    name.copy_from_slice(digest(&SHA256, secret.as_bytes()).as_ref());
    name
}
