//! The first start: everything is built aside and appears by one rename.

use std::{
    fs,
    path::{Path, PathBuf},
};

use bonafide_verifier::{clock::Timestamp, spiffe::TrustDomain};
use data_encoding::HEXLOWER;
use serde_json::json;
use tracing::info;

use super::{DataDirError, KEYS};
use crate::{
    audit::{Head, HeadSigner, Kind, Record, Who},
    authority::{
        self, Issuing, Lifetimes, Root,
        keystore::{self, KeyStore},
        rotation::created,
    },
    store::{Store, TxError},
};

/// Builds root, issuing authority, JWT authority and database, all or nothing.
pub(super) fn create(
    directory: &Path,
    state: &Path,
    trust_domain: &TrustDomain,
    lifetimes: &Lifetimes,
    at: Timestamp,
) -> Result<(), DataDirError> {
    remove_unfinished(directory)?;
    let aside = directory.join(format!("{UNFINISHED}{}", std::process::id()));
    build(&aside, trust_domain, lifetimes, at)?;
    keystore::sync_directory(&aside)?;
    let io = |what, path: &Path| {
        let path = path.to_owned();
        move |source| DataDirError::Io { what, path, source }
    };
    fs::rename(&aside, state).map_err(io("rename", &aside))?;
    keystore::sync_directory(directory)?;
    Ok(())
}

fn build(aside: &Path, trust_domain: &TrustDomain, lifetimes: &Lifetimes, at: Timestamp) -> Result<(), DataDirError> {
    keystore::make_directory(aside)?;
    let keys = KeyStore::create(&aside.join(KEYS))?;
    let new_root = authority::new_root(trust_domain, at, lifetimes.root).map_err(authority::AuthorityError::from)?;
    let root = Root::new(&new_root.row, new_root.key.clone())?;
    let mut issuing = authority::new_issuing(trust_domain, &root, at, at, lifetimes.issuing)
        .map_err(authority::AuthorityError::from)?;
    let mut jwt = authority::new_jwt(at, at, lifetimes.jwt).map_err(authority::AuthorityError::from)?;
    let mut token = authority::new_token(at, at, lifetimes.jwt).map_err(authority::AuthorityError::from)?;
    for row in [&mut issuing.row, &mut jwt.row, &mut token.row] {
        row.activated_at = Some(at);
    }
    for authority in [&new_root, &issuing, &jwt, &token] {
        keys.save(&authority.row.id, &authority.pkcs8)?;
    }
    keys.sync()?;
    let signer = HeadSigner::from(&Issuing::new(&issuing.row, issuing.key.clone(), &root)?);
    let id = uuid::Uuid::new_v7(uuid_time(at)).to_string();
    // One chain per process; on SQLite there is one process.
    let chain = format!("ca-{}", id.get(24..).unwrap_or_default());
    let epoch = uuid::Uuid::now_v7().to_string();
    let origin = Head::origin(&chain, trust_domain.as_str(), root.hash());
    let rows = [new_root.row, issuing.row, jwt.row, token.row];
    let hash = HEXLOWER.encode(root.hash());
    Store::create(aside, origin, &signer, at, |tx| -> Result<(), TxError> {
        tx.insert_trust_domain(trust_domain, root.hash(), &epoch, &chain)?;
        let body = json!({ "trust_domain": trust_domain.as_str(), "root": hash, "epoch": epoch });
        tx.record(&Record::change(Kind::TrustDomainCreated, &Who::Ca, body))?;
        for row in &rows {
            tx.insert_authority(row)?;
            tx.record(&created(row))?;
        }
        Ok(())
    })?;
    Ok(())
}

/// Whether an entry was left by a first start that was killed.
pub(super) fn is_unfinished(name: &str) -> bool {
    name.starts_with(UNFINISHED)
}

/// It holds keys that signed nothing. Under the lock: nobody else builds here.
fn remove_unfinished(directory: &Path) -> Result<(), DataDirError> {
    let failed = |what, path: &Path| {
        let path: PathBuf = path.to_owned();
        move |source| DataDirError::Io { what, path, source }
    };
    for entry in fs::read_dir(directory).map_err(failed("read", directory))? {
        let entry = entry.map_err(failed("read", directory))?;
        if is_unfinished(&entry.file_name().to_string_lossy()) {
            let path = entry.path();
            let is_directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
            let removed = if is_directory { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            removed.map_err(failed("remove", &path))?;
            info!(path = %path.display(), "removed what an unfinished first start had left");
        }
    }
    Ok(())
}

fn uuid_time(at: Timestamp) -> uuid::Timestamp {
    uuid::Timestamp::from_unix(uuid::NoContext, u64::try_from(at.unix_seconds()).unwrap_or(0), 0)
}

const UNFINISHED: &str = ".new-";
