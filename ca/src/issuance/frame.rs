//! The frame of a leaf: what stays the same from one SVID of an identity to its next.
//!
//! Building a leaf with rcgen and having the verifier read it costs a third of a signature. Both are done once for an
//! identity and an authority; after that the five values that differ (serial number, two times, key, key identifier), which have
//! the same length in every leaf, are put into a copy. What comes out is checked by every rule like what rcgen wrote: a frame
//! saves work, it vouches for nothing.

use std::hash::{Hash, Hasher};

use bonafide_verifier::spiffe::SpiffeId;
use quick_cache::{Equivalent, sync::Cache};
use std::sync::Arc;
use yasna::models::UTCTime;

use super::{
    request::{LeafRequest, SERIAL_LENGTH, Validity},
    rules::Places,
    tbs::date_time,
};

/// The frames below one authority: at most [`Frames::MOST`], the least used give way.
pub(super) struct Frames(Cache<(SpiffeId, Vec<String>), Arc<Frame>>);

/// The bytes of a leaf that was built and checked, and where its five values stand.
#[derive(Debug)]
pub(super) struct Frame {
    bytes: Vec<u8>,
    places: Places,
}

impl Frames {
    const MOST: usize = 4096;

    pub(super) fn new() -> Self {
        Self(Cache::new(Self::MOST))
    }

    /// The to-be-signed bytes of a leaf, if one of the same names was built before.
    pub(super) fn fill(
        &self,
        request: &LeafRequest,
        validity: Validity,
        serial: &[u8; SERIAL_LENGTH],
    ) -> Option<Vec<u8>> {
        self.0.get(&Names { id: request.spiffe_id(), dns_names: request.dns_names() })?.fill(request, validity, serial)
    }

    /// Keeps a leaf that was built and checked as the frame of those to come.
    pub(super) fn keep(&self, request: &LeafRequest, bytes: &[u8]) {
        if let Some(places) = Places::find(bytes) {
            let names = (request.spiffe_id().clone(), request.dns_names().to_vec());
            self.0.insert(names, Arc::new(Frame { bytes: bytes.to_vec(), places }));
        }
    }
}

impl Frame {
    /// A copy with other values in their places. `None` if one does not fit: then it is built anew.
    fn fill(&self, request: &LeafRequest, validity: Validity, serial: &[u8; SERIAL_LENGTH]) -> Option<Vec<u8>> {
        let mut bytes = self.bytes.clone();
        let not_before = utc_time(validity.not_before.unix_seconds())?;
        let not_after = utc_time(validity.not_after.unix_seconds())?;
        let values: [(&std::ops::Range<usize>, &[u8]); 5] = [
            (&self.places.serial, serial),
            (&self.places.not_before, &not_before),
            (&self.places.not_after, &not_after),
            (&self.places.public_key, request.public_key().spki()),
            (&self.places.subject_key_id, request.subject_key_id()),
        ];
        for (place, value) in values {
            let place = bytes.get_mut(place.clone()).filter(|place| place.len() == value.len())?;
            place.copy_from_slice(value);
        }
        Some(bytes)
    }
}

/// Years that UTCTime can hold; later ones have another type and length.
fn utc_time(unix_seconds: i64) -> Option<Vec<u8>> {
    let at = date_time(unix_seconds).ok()?;
    (1950..2050).contains(&at.year()).then(|| UTCTime::from_datetime(at).to_bytes())
}

/// The key of a frame, without copying it.
struct Names<'a> {
    id: &'a SpiffeId,
    dns_names: &'a [String],
}

impl Hash for Names<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // As the pair of the owned ones.
        self.id.hash(state);
        self.dns_names.hash(state);
    }
}

impl Equivalent<(SpiffeId, Vec<String>)> for Names<'_> {
    fn equivalent(&self, (id, dns_names): &(SpiffeId, Vec<String>)) -> bool {
        self.id == id && self.dns_names == dns_names.as_slice()
    }
}
