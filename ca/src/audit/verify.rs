//! Whether the log is what was written: every hash, every signed head, the authorities behind them up to the root.

use std::{collections::HashMap, fmt, sync::Arc};

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::Head;
use crate::{
    authority::{Authority, AuthorityKind},
    store::{ReadOnly, Reader, TxError, rows::HeadRow},
};

/// A log that holds.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Verified {
    /// Its end: export it, and give it to a later verification.
    pub(crate) head: Head,
    /// Records read.
    pub(crate) records: u64,
    /// Signed heads checked.
    pub(crate) heads: u64,
}

/// The first thing that does not hold.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Broken {
    /// The record, or the place where one should be.
    pub(crate) seq: u64,
    pub(crate) what: Flaw,
}

/// What does not hold at a record.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Flaw {
    /// The record before the next one is missing.
    Missing,
    /// It does not hash to what stands beside it.
    Edited,
    /// It hashes, but the signed head says otherwise: rewritten from some place before it.
    Rewritten,
    /// The head's signature does not verify.
    Signature { authority: String },
    /// The head names an authority that this root did not certify.
    Authority { authority: String, problem: String },
    /// Records after the last signed head.
    Unsigned,
    /// A head without its record.
    HeadWithoutRecord,
    /// The log ends before the exported head.
    Cut { expected: u64 },
    /// The exported head has another hash here, or is of another chain.
    OtherHistory,
    /// Records of a chain that this CA does not write.
    ForeignChain { chain: String },
    /// The first authority is not the root that the database is bound to.
    Root { problem: String },
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seq = self.seq;
        match &self.what {
            Flaw::Missing => write!(f, "record {seq} is missing"),
            Flaw::Edited => write!(f, "record {seq} was changed: it does not hash to what stands beside it"),
            Flaw::Rewritten => {
                write!(f, "record {seq} is not what was signed: it, or one before it, was rewritten or moved")
            }
            Flaw::Signature { authority } => {
                write!(
                    f,
                    "the head at record {seq} was not signed by the authority `{}` it names",
                    authority.escape_debug()
                )
            }
            Flaw::Authority { authority, problem } => write!(
                f,
                "the head at record {seq} was signed by `{}`, which this root did not certify: {problem}",
                authority.escape_debug()
            ),
            Flaw::Unsigned => write!(f, "record {seq} stands after the last signed head"),
            Flaw::HeadWithoutRecord => write!(f, "there is a signed head for record {seq}, but no such record"),
            Flaw::Cut { expected } => {
                write!(f, "the log ends at record {seq}, but the given head is record {expected}: its tail was cut")
            }
            Flaw::OtherHistory => write!(f, "record {seq} is not the one of the given head: this is another history"),
            Flaw::ForeignChain { chain } => {
                write!(f, "there are records of the chain `{}`, which this CA does not write", chain.escape_debug())
            }
            Flaw::Root { problem } => write!(f, "the root in the database is not the one it was made with: {problem}"),
        }
    }
}

/// Why there is no verdict, or a bad one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum VerifyError {
    /// The log does not hold.
    #[error("{0}")]
    Broken(Broken),
    /// It cannot be read.
    #[error("the audit log cannot be read: {0}")]
    Unreadable(#[from] TxError),
}

/// Verifies the log in a database file, chunk by chunk, whether its CA is running or not. Without an `expected` head it must
/// reach what was durable when this began. Blocks.
pub(crate) fn verify_file(file: &ReadOnly, expected: Option<Head>) -> Result<Verified, VerifyError> {
    let durable = file.noted();
    let mut walk = file.read(|reader| Ok(Walk::start(reader)))??;
    walk.expected = expected.or_else(|| durable.map(|(seq, hash)| Head { chain: walk.head.chain.clone(), seq, hash }));
    loop {
        if let Some(verified) = file.read(|reader| Ok(walk.step(reader)))?? {
            return Ok(verified);
        }
    }
}

/// How far the verification has come.
struct Walk {
    head: Head,
    /// The last record that a good head covers.
    signed: u64,
    heads: u64,
    expected: Option<Head>,
    /// Public keys of the issuing authorities that the root certified, by id; else why not.
    authorities: HashMap<String, Result<Vec<u8>, String>>,
    scratch: Vec<u8>,
}

impl Walk {
    fn start(reader: &Reader<'_>) -> Result<Self, VerifyError> {
        let row = reader.trust_domain()?;
        let rows = reader.authorities()?;
        let broken = |what| VerifyError::Broken(Broken { seq: 1, what });
        let root = rows
            .iter()
            .filter(|row| row.kind == AuthorityKind::Root)
            .find(|root| root.certificate.as_deref().is_some_and(|der| super::record::sha256(der) == row.root_hash))
            .ok_or_else(|| broken(Flaw::Root { problem: "no root has the stored hash".to_owned() }))?;
        let root_key = point_of(root).map_err(|problem| broken(Flaw::Root { problem }))?;
        let authorities = rows
            .iter()
            .filter(|row| row.kind == AuthorityKind::Issuing)
            .map(|row| (row.id.to_string(), certified_key(row, &root_key)))
            .collect();
        if let Some(chain) = reader.other_chain(&row.audit_chain)? {
            return Err(broken(Flaw::ForeignChain { chain }));
        }
        let head = Head::origin(&row.audit_chain, row.name.as_str(), &row.root_hash);
        Ok(Self { head, signed: 0, heads: 0, expected: None, authorities, scratch: Vec::new() })
    }

    /// Reads one chunk; the verdict after the last.
    fn step(&mut self, reader: &Reader<'_>) -> Result<Option<Verified>, VerifyError> {
        let chain: Arc<str> = self.head.chain.clone();
        let rows = reader.records_after(&chain, self.head.seq, CHUNK)?;
        let Some(last) = rows.last().map(|(row, _)| row.seq) else { return self.end(reader).map(Some) };
        let heads = reader.heads_between(&chain, self.head.seq, last)?;
        let mut heads = heads.into_iter().peekable();
        for (row, hash) in rows {
            let due = self.head.seq + 1;
            if row.seq != due {
                return Err(broken(due, Flaw::Missing));
            }
            self.head.advance(row.at, &row.kind, &row.body, &mut self.scratch);
            if self.head.hash != hash {
                return Err(broken(row.seq, Flaw::Edited));
            }
            if let Some(head) = heads.next_if(|head| head.seq == row.seq) {
                self.check(&head)?;
            }
            if let Some(expected) = &self.expected
                && expected.seq == row.seq
                && (expected.hash != hash || expected.chain != chain)
            {
                return Err(broken(row.seq, Flaw::OtherHistory));
            }
        }
        Ok(None)
    }

    fn check(&mut self, head: &HeadRow) -> Result<(), VerifyError> {
        if head.hash != self.head.hash {
            return Err(broken(head.seq, Flaw::Rewritten));
        }
        let authority = head.authority.clone();
        let key = match self.authorities.get(&head.authority) {
            Some(Ok(key)) => key,
            Some(Err(problem)) => {
                return Err(broken(head.seq, Flaw::Authority { authority, problem: problem.clone() }));
            }
            None => {
                let problem = "no such authority".to_owned();
                return Err(broken(head.seq, Flaw::Authority { authority, problem }));
            }
        };
        if !self.head.signed_by(head.at, key, &head.signature) {
            return Err(broken(head.seq, Flaw::Signature { authority }));
        }
        self.signed = head.seq;
        self.heads += 1;
        Ok(())
    }

    fn end(&self, reader: &Reader<'_>) -> Result<Verified, VerifyError> {
        let last = self.head.seq;
        if let Some(expected) = &self.expected {
            if expected.chain != self.head.chain {
                return Err(broken(expected.seq, Flaw::OtherHistory));
            }
            if expected.seq > last {
                return Err(broken(last, Flaw::Cut { expected: expected.seq }));
            }
        }
        if self.signed != last || last == 0 {
            return Err(broken(self.signed + 1, Flaw::Unsigned));
        }
        if let Some(seq) = reader.head_after(&self.head.chain, last)? {
            return Err(broken(seq, Flaw::HeadWithoutRecord));
        }
        Ok(Verified { head: self.head.clone(), records: last, heads: self.heads })
    }
}

fn broken(seq: u64, what: Flaw) -> VerifyError {
    VerifyError::Broken(Broken { seq, what })
}

/// The key of an issuing authority, if the root signed its certificate. Its time does not matter: it was valid when it signed.
fn certified_key(row: &Authority, root_key: &[u8]) -> Result<Vec<u8>, String> {
    let der = row.certificate.as_deref().ok_or_else(|| "it has no certificate".to_owned())?;
    let (_, certificate) = X509Certificate::from_der(der).map_err(|error| error.to_string())?;
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, root_key)
        .verify(certificate.tbs_certificate.as_ref(), &certificate.signature_value.data)
        .map_err(|_| "its certificate was not signed by the root".to_owned())?;
    Ok(certificate.public_key().subject_public_key.data.to_vec())
}

fn point_of(row: &Authority) -> Result<Vec<u8>, String> {
    let der = row.certificate.as_deref().ok_or_else(|| "it has no certificate".to_owned())?;
    let (_, certificate) = X509Certificate::from_der(der).map_err(|error| error.to_string())?;
    Ok(certificate.public_key().subject_public_key.data.to_vec())
}

const CHUNK: u32 = 1000;
