//! A stranger that becomes known.

use tokio_util::sync::CancellationToken;

/// In the extensions of each request whose connection is a [stranger](super::Prepared::stranger)'s: when a request has proved who
/// calls, and that one is wanted, [`known`](Self::known) gives the connection a place like those of others, which no newer stranger
/// takes. The authorization layer ([`crate::http`]) says so of every request that is allowed.
#[derive(Clone, Debug)]
pub struct Standing(CancellationToken);

impl Standing {
    pub(super) fn stranger() -> Self {
        Self(CancellationToken::new())
    }

    /// From now on the connection is that of somebody who is known.
    pub fn known(&self) {
        self.0.cancel();
    }

    pub(super) async fn is_known(&self) {
        self.0.cancelled().await;
    }
}
