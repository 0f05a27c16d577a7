//! The file of the mint log: a head, then records, each with the hash of the chain behind it.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Seek, SeekFrom},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use bonafide_ca_api::{MintChain, NodeName, generated::node};
use prost::Message;
use tracing::warn;

use super::{MintLogError, MintLogLimits, MintLogStatus, Waiting};

/// What stands first in the file: the place in the chain behind which it goes on.
#[derive(Clone, PartialEq, Message)]
struct Head {
    #[prost(string, tag = "1")]
    log: String,
    #[prost(string, tag = "2")]
    node: String,
    #[prost(uint64, tag = "3")]
    seq: u64,
}

/// A record, without its place, which is where it stands.
#[derive(Clone, PartialEq, Message)]
struct Record {
    #[prost(int64, tag = "1")]
    at_ms: i64,
    #[prost(bytes = "vec", tag = "2")]
    body: Vec<u8>,
}

/// The open file.
#[derive(Debug)]
pub(super) struct LogFile {
    path: PathBuf,
    file: Arc<File>,
    node: NodeName,
    limits: MintLogLimits,
    /// Behind what the CA has, and where the next record stands in the file.
    collected: MintChain,
    collected_at: u64,
    /// Behind the last record, and where the file ends.
    end: MintChain,
    end_at: u64,
    /// The last record that is durable.
    durable: u64,
    /// Why the log takes no more for the moment.
    trouble: Option<MintLogError>,
}

impl LogFile {
    /// Opens the file and reads all of it, or makes one.
    pub(super) fn open(path: &Path, node: &NodeName, limits: MintLogLimits) -> Result<Self, MintLogError> {
        let open = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed())
            .open(path);
        let file = match open {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let log = MintChain::begin(node, &uuid::Uuid::now_v7().to_string());
                return Self::make(path, node, limits, log, &[]);
            }
            Err(error) => return Err(unwritable(path, &error)),
        };
        let metadata = file.metadata().map_err(|error| unwritable(path, &error))?;
        let damaged = |offset: u64, reason: String| MintLogError::Damaged { path: path.to_owned(), offset, reason };
        if !metadata.is_file() {
            return Err(damaged(0, "it is no file".into()));
        }
        if metadata.len() > limits.bytes.saturating_add(LARGEST_FRAME) {
            return Err(damaged(limits.bytes, format!("it has {} bytes, more than this agent writes", metadata.len())));
        }
        Self::read(path, file, node, limits)
    }

    /// A new file in the place of any before it, with the records of `tail` behind `place`.
    fn make(
        path: &Path,
        node: &NodeName,
        limits: MintLogLimits,
        place: MintChain,
        tail: &[u8],
    ) -> Result<Self, MintLogError> {
        let head = Head { log: place.log.clone(), node: node.to_string(), seq: place.seq };
        let mut content = MAGIC.to_vec();
        frame(&mut content, &head.encode_to_vec(), &place.hash);
        let collected_at = content.len() as u64;
        content.extend_from_slice(tail);
        crate::state_file::write_into_place(path, &content, 0o600)
            .map_err(|error| MintLogError::Unwritable { path: path.to_owned(), reason: error.to_string() })?;
        let file = OpenOptions::new().read(true).write(true).open(path).map_err(|error| unwritable(path, &error))?;
        Ok(Self {
            path: path.to_owned(),
            file: Arc::new(file),
            node: node.clone(),
            limits,
            collected: place.clone(),
            collected_at,
            durable: place.seq,
            end: place,
            end_at: content.len() as u64,
            trouble: None,
        })
    }

    fn read(path: &Path, mut file: File, node: &NodeName, limits: MintLogLimits) -> Result<Self, MintLogError> {
        let damaged = |offset: u64, reason: &str| MintLogError::Damaged {
            path: path.to_owned(),
            offset,
            reason: reason.to_owned(),
        };
        let mut reader = io::BufReader::with_capacity(1 << 16, &mut file);
        let mut magic = [0; MAGIC.len()];
        if !filled(&mut reader, &mut magic).map_err(|reason| damaged(0, reason))? || magic != *MAGIC {
            return Err(damaged(0, "it is no mint log"));
        }
        let mut offset = MAGIC.len() as u64;
        let Some((body, hash)) = next_frame(&mut reader).map_err(|reason| damaged(offset, reason))? else {
            return Err(damaged(offset, "its head is cut off"));
        };
        let head = Head::decode(body.as_slice()).map_err(|_| damaged(offset, "its head cannot be read"))?;
        if head.node != node.as_str() {
            return Err(damaged(offset, "it is the log of another node"));
        }
        let place = MintChain { log: head.log, seq: head.seq, hash };
        if place.seq == 0 && place != MintChain::begin(node, &place.log) {
            return Err(damaged(offset, "its head does not fit together"));
        }
        offset += frame_length(body.len());
        let (collected_at, mut end) = (offset, place.clone());
        while let Some((body, hash)) = next_frame(&mut reader).map_err(|reason| damaged(offset, reason))? {
            let record = Record::decode(body.as_slice()).map_err(|_| damaged(offset, "a record cannot be read"))?;
            end.advance(record.at_ms, &record.body);
            if end.hash != hash {
                return Err(damaged(offset, "the chain is broken"));
            }
            offset += frame_length(body.len());
        }
        let length = file.metadata().map_err(|error| unwritable(path, &error))?.len();
        if length > offset {
            let bytes = length - offset;
            warn!(path = %path.display(), bytes, "cut off what a kill or a power cut had left half-written in the mint log");
            file.set_len(offset).map_err(|error| unwritable(path, &error))?;
        }
        // An agent that was killed may have left records that are not durable.
        file.sync_all().map_err(|error| unwritable(path, &error))?;
        Ok(Self {
            path: path.to_owned(),
            file: Arc::new(file),
            node: node.clone(),
            limits,
            collected: place,
            collected_at,
            durable: end.seq,
            end,
            end_at: offset,
            trouble: None,
        })
    }

    /// Writes a record, which is not durable before [`LogFile::synced`].
    pub(super) fn append(&mut self, at_ms: i64, body: &[u8]) -> Result<u64, MintLogError> {
        let record = Record { at_ms, body: body.to_vec() };
        let length = record.encoded_len();
        let bytes = self.end_at + frame_length(length);
        if bytes > self.limits.bytes || body.len() > MintChain::MOST_BODY {
            let full = MintLogError::Full { path: self.path.clone(), bytes, limit: self.limits.bytes };
            self.trouble = Some(full.clone());
            return Err(full);
        }
        let before = (self.end.seq, self.end.hash);
        self.end.advance(at_ms, body);
        let mut framed = Vec::with_capacity(length + 64);
        frame(&mut framed, &record.encode_to_vec(), &self.end.hash);
        if let Err(error) = self.file.write_all_at(&framed, self.end_at) {
            // Half of it may be there: behind the end, where the next record, or the next start, does away with it.
            let trouble = unwritable(&self.path, &error);
            (self.end.seq, self.end.hash) = before;
            self.trouble = Some(trouble.clone());
            let _ = self.file.set_len(self.end_at);
            return Err(trouble);
        }
        (self.end_at, self.trouble) = (bytes, None);
        Ok(self.end.seq)
    }

    /// The file to sync, and the last record in it. It is synced while others write.
    pub(super) fn written(&self) -> (Arc<File>, u64) {
        (Arc::clone(&self.file), self.end.seq)
    }

    /// What came of the sync of everything up to `last`.
    pub(super) fn synced(&mut self, last: u64, outcome: io::Result<()>) -> Result<(), MintLogError> {
        outcome.map_err(|error| unwritable(&self.path, &error))?;
        // One that was written anew meanwhile has more.
        self.durable = self.durable.max(last);
        Ok(())
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// What the CA does not have and is durable, as much as goes into one message.
    pub(super) fn waiting(&mut self) -> Result<Option<Waiting>, MintLogError> {
        if self.collected.seq == self.durable {
            return Ok(None);
        }
        let (path, at) = (self.path.clone(), self.collected_at);
        let damaged =
            |reason: &str| MintLogError::Damaged { path: path.clone(), offset: at, reason: reason.to_owned() };
        (&*self.file).seek(SeekFrom::Start(at)).map_err(|error| unwritable(&path, &error))?;
        let mut reader = io::BufReader::with_capacity(1 << 16, &*self.file);
        let (mut records, mut bytes, mut seq) = (Vec::new(), 0, self.collected.seq);
        while seq < self.durable && records.len() < MintChain::MOST_RECORDS && bytes < STRETCH_BYTES {
            let next = next_frame(&mut reader).map_err(damaged)?;
            let (body, _) = next.ok_or_else(|| damaged("a record that was there is gone"))?;
            let record = Record::decode(body.as_slice()).map_err(|_| damaged("a record cannot be read"))?;
            bytes += record.body.len();
            seq += 1;
            records.push(node::MintRecord { seq, at_ms: record.at_ms, body: record.body });
        }
        let (log, previous) = (self.collected.log.clone(), self.collected.hash.to_vec());
        Ok(Some(Waiting { request: node::CollectMintsRequest { log, previous, records }, last: seq }))
    }

    /// Forgets what the CA has. It may have more than it was sent now: its answer to an earlier message was lost.
    pub(super) fn collected(&mut self, seq: u64) -> Result<(), MintLogError> {
        let (path, at) = (self.path.clone(), self.collected_at);
        let damaged =
            |reason: &str| MintLogError::Damaged { path: path.clone(), offset: at, reason: reason.to_owned() };
        (&*self.file).seek(SeekFrom::Start(at)).map_err(|error| unwritable(&path, &error))?;
        let mut reader = io::BufReader::with_capacity(1 << 16, &*self.file);
        while self.collected.seq < seq.min(self.end.seq) {
            let next = next_frame(&mut reader).map_err(damaged)?;
            let (body, hash) = next.ok_or_else(|| damaged("a record that was there is gone"))?;
            self.collected.seq += 1;
            self.collected.hash = hash;
            self.collected_at += frame_length(body.len());
        }
        drop(reader);
        let is_empty = self.collected.seq == self.end.seq;
        let due = if is_empty { self.limits.collected_bytes / 16 } else { self.limits.collected_bytes };
        if self.collected_at > due {
            self.shorten()?;
        }
        if matches!(self.trouble, Some(MintLogError::Full { .. })) && self.end_at + LARGEST_FRAME <= self.limits.bytes {
            self.trouble = None;
        }
        Ok(())
    }

    /// Writes the file anew without what the CA has.
    fn shorten(&mut self) -> Result<(), MintLogError> {
        let mut tail = vec![0; usize::try_from(self.end_at - self.collected_at).unwrap_or_default()];
        self.file.read_exact_at(&mut tail, self.collected_at).map_err(|error| unwritable(&self.path, &error))?;
        match Self::make(&self.path, &self.node, self.limits, self.collected.clone(), &tail) {
            Ok(shorter) => {
                let end = self.end.clone();
                *self = Self { durable: end.seq, end, trouble: self.trouble.clone(), ..shorter };
            }
            // The longer one is still in its place, and good.
            Err(trouble) => {
                warn!(error = %trouble, "the mint log could not be written anew without what was collected");
            }
        }
        Ok(())
    }

    pub(super) fn status(&self) -> MintLogStatus {
        let waiting = self.end.seq - self.collected.seq;
        MintLogStatus { waiting, bytes: self.end_at, trouble: self.trouble.clone() }
    }
}

/// The length of the body, twice, so that a flipped bit in it is not taken for a torn end; the body; the hash.
fn frame(out: &mut Vec<u8>, body: &[u8], hash: &[u8; 32]) {
    let length = u32::try_from(body.len()).unwrap_or(u32::MAX);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(&(!length).to_be_bytes());
    out.extend_from_slice(body);
    out.extend_from_slice(hash);
}

/// A body, and the hash behind it.
type Frame = (Vec<u8>, [u8; 32]);

fn frame_length(body: usize) -> u64 {
    8 + body as u64 + 32
}

/// The next body and hash; none at the end, or where the rest is less than a frame says.
fn next_frame(reader: &mut impl Read) -> Result<Option<Frame>, &'static str> {
    let (mut length, mut again) = ([0; 4], [0; 4]);
    if !filled(reader, &mut length)? || !filled(reader, &mut again)? {
        return Ok(None);
    }
    let length = u32::from_be_bytes(length);
    if length != !u32::from_be_bytes(again) || u64::from(length) > LARGEST_FRAME {
        return Err("the length of a record is not one");
    }
    let mut body = vec![0; length as usize];
    let mut hash = [0; 32];
    let whole = filled(reader, &mut body)? && filled(reader, &mut hash)?;
    Ok(whole.then_some((body, hash)))
}

fn filled(reader: &mut impl Read, buffer: &mut [u8]) -> Result<bool, &'static str> {
    match reader.read_exact(buffer) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(_) => Err("it cannot be read"),
    }
}

fn unwritable(path: &Path, error: &io::Error) -> MintLogError {
    MintLogError::Unwritable { path: path.to_owned(), reason: error.to_string() }
}

const MAGIC: &[u8; 16] = b"bonafide-mints1\n";
/// A record's body and what stands beside it.
const LARGEST_FRAME: u64 = MintChain::MOST_BODY as u64 + 64;
/// Of the bodies in one message to the CA, which takes 1 MiB.
const STRETCH_BYTES: usize = 512 * 1024;
