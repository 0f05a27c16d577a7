//! The result of verification.

use std::{
    fmt,
    sync::{Arc, OnceLock},
};

use super::Hex;
use crate::caller::Caller;
use crate::clock::Timestamp;
use crate::spiffe::SpiffeId;

/// A peer whose chain ended at an authority of its own trust domain. Only [`super::verify`] makes one, and
/// [`super::VerifiedChains`] hands out what it made.
///
/// It says who the peer is, not whether it may do anything.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct VerifiedPeer {
    pub(super) id: SpiffeId,
    pub(super) not_before: Timestamp,
    pub(super) not_after: Timestamp,
    pub(super) serial: SerialNumber,
    pub(super) spki: PeerKey,
    pub(super) spki_sha256: [u8; 32],
    pub(super) authority_sha256: [u8; 32],
    pub(super) caller: AsCaller,
}

/// A SubjectPublicKeyInfo in DER, shared by the clones of a peer.
#[derive(Clone, Eq, PartialEq)]
pub(super) struct PeerKey(pub(super) Arc<[u8]>);

impl fmt::Debug for PeerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PeerKey(..)")
    }
}

/// What [`VerifiedPeer::caller`] has made; clones have the same. It follows from the rest, so it tells no two peers apart.
#[derive(Clone, Debug, Default)]
pub(super) struct AsCaller(Arc<OnceLock<Caller>>);

impl PartialEq for AsCaller {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for AsCaller {}

impl VerifiedPeer {
    /// Who it is.
    #[must_use]
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// From when on the whole chain is valid, its root included.
    #[must_use]
    pub fn not_before(&self) -> Timestamp {
        self.not_before
    }

    /// Until when the whole chain is valid, its root included: no connection to the peer outlives it.
    #[must_use]
    pub fn not_after(&self) -> Timestamp {
        self.not_after
    }

    /// The leaf's serial number.
    #[must_use]
    pub fn serial(&self) -> SerialNumber {
        self.serial
    }

    /// The leaf's public key (SubjectPublicKeyInfo in DER), by which what the peer signs about itself is verified.
    #[must_use]
    pub fn spki(&self) -> &[u8] {
        &self.spki.0
    }

    /// SHA-256 of the leaf's public key (SubjectPublicKeyInfo).
    #[must_use]
    pub fn spki_sha256(&self) -> &[u8; 32] {
        &self.spki_sha256
    }

    /// SHA-256 of the root certificate at which the chain ended: no connection to the peer outlives its place in the bundle.
    #[must_use]
    pub fn authority_sha256(&self) -> &[u8; 32] {
        &self.authority_sha256
    }

    /// The peer as whoever calls, made of it by the first who asks: a connection has one peer and many requests.
    pub(crate) fn caller(&self, make: impl FnOnce(&Self) -> Caller) -> &Caller {
        self.caller.0.get_or_init(|| make(self))
    }

    /// Whether the whole chain is valid at this time.
    #[must_use]
    pub fn is_valid_at(&self, at: Timestamp) -> bool {
        super::is_within(self.not_before, self.not_after, at)
    }
}

/// A serial number: positive, at most 20 bytes. Prints in hexadecimal, as other tools do.
#[derive(Clone, Copy, Eq, Hash, PartialEq)]
pub struct SerialNumber {
    bytes: [u8; 20],
    length: u8,
}

impl SerialNumber {
    /// `serial` is the content of an INTEGER that the profile rules took.
    pub(super) fn new(serial: &[u8]) -> Self {
        let mut bytes = [0; 20];
        for (to, from) in bytes.iter_mut().zip(serial) {
            *to = *from;
        }
        Self { bytes, length: serial.len().min(20) as u8 }
    }

    /// The bytes, most significant first; a zero in front if the first bit would be set.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.length.into()).unwrap_or_default()
    }

    /// As it prints, in one step.
    pub(crate) fn to_hex(self) -> Arc<str> {
        const DIGITS: [u8; 16] = *b"0123456789abcdef";
        let digit = |value: u8| DIGITS.get(usize::from(value & 0x0f)).copied().unwrap_or_default();
        let mut text = [0; 40];
        for (pair, byte) in text.chunks_exact_mut(2).zip(self.as_bytes()) {
            pair.copy_from_slice(&[digit(byte >> 4), digit(*byte)]);
        }
        let text = text.get(..2 * usize::from(self.length)).unwrap_or_default();
        std::str::from_utf8(text).unwrap_or_default().into()
    }
}

impl fmt::Display for SerialNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Hex(self.as_bytes()).fmt(f)
    }
}

impl fmt::Debug for SerialNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SerialNumber({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_of_printing_a_serial_number_are_one() {
        for serial in [[1].as_slice(), &[0x00, 0xff], &[0x7f; 20]] {
            let serial = SerialNumber::new(serial);
            assert_eq!(*serial.to_hex(), *serial.to_string());
        }
    }
}
