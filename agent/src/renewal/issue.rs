//! One request to the CA: keys are made here and stay here, their public halves go out, certificates come back and are
//! checked before anyone gets to see them.

use std::sync::Arc;

use aws_lc_rs::{
    encoding::{AsDer, PublicKeyX509Der},
    signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair},
};
use bonafide_verifier::{
    clock::{Clock, Timestamp},
    x509::{self, PresentedChain, X509Svid},
};
use rustls::pki_types::CertificateDer;
use zeroize::Zeroizing;

use super::{Attempt, Authority, Outcomes, RenewalLimits, random};
use crate::{
    ca_client::X509Request,
    runtime_state::KeptSvid,
    svid_cache::{Failure, WorkloadSvid},
    view::{Service, View, ViewStore},
};

/// A batch that is due.
pub(super) struct Request {
    pub(super) services: Vec<Arc<Service>>,
    /// For each service how often it failed in a row until now.
    pub(super) failures_before: Vec<u32>,
    pub(super) authority: Arc<dyn Authority>,
    pub(super) views: ViewStore,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) limits: RenewalLimits,
}

/// Why a certificate from the CA is not used. All of these are the CA's fault, or that of a clock.
#[derive(Debug, thiserror::Error)]
enum UnusableSvid {
    #[error("the CA's certificate and the key made for it do not go together: {0}")]
    Broken(String),
    #[error("the CA certified `{got}` instead of `{wanted}`")]
    WrongId { got: String, wanted: String },
    #[error("the CA's certificate ended at {not_after} already; compare the clocks of CA and node")]
    Expired { not_after: Timestamp },
    #[error("the CA's certificate does not verify with the trust bundle of this node: {0}")]
    NotVerified(String),
}

impl Request {
    pub(super) async fn run(self) -> Outcomes {
        let mut keys = Vec::with_capacity(self.services.len());
        let mut requests = Vec::with_capacity(self.services.len());
        for service in &self.services {
            match new_key() {
                Ok((key, public_key)) => {
                    keys.push(key);
                    requests.push(X509Request { service_id: service.id.to_string(), public_key });
                }
                Err(_) => return self.all_failed("key-generation", "cannot make a key: no randomness", None),
            }
        }
        let results = match self.authority.issue_x509(requests).await {
            Ok(results) => results,
            Err(error) => return self.all_failed(error.code(), &error.to_string(), error.retry_after()),
        };
        let (view, now) = (self.views.snapshot(), self.clock.now());
        let checked =
            self.services.iter().zip(keys).zip(results).enumerate().map(|(index, ((service, key), result))| {
                let outcome = match result {
                    Ok(issued) => check(service, key, issued.chain, &view, now)
                        .map_err(|error| self.failed(index, service, "certificate-unusable", error.to_string(), None)),
                    Err(refusal) => {
                        Err(self.failed(index, service, &refusal.reason, refusal.message.clone(), refusal.retry_after))
                    }
                };
                (service.clone(), outcome)
            });
        checked.collect()
    }

    fn all_failed(&self, code: &str, message: &str, hint: Option<std::time::Duration>) -> Outcomes {
        let failed = |(index, service): (usize, &Arc<Service>)| {
            (service.clone(), Err(self.failed(index, service, code, message.to_owned(), hint)))
        };
        self.services.iter().enumerate().map(failed).collect()
    }

    fn failed(
        &self,
        index: usize,
        service: &Service,
        code: &str,
        message: String,
        hint: Option<std::time::Duration>,
    ) -> Attempt {
        let failures = self.failures_before.get(index).copied().unwrap_or(0).saturating_add(1);
        let failure = Failure { code: code.to_owned(), message };
        Attempt::failed(failures, failure, hint, service.x509_ttl, self.clock.boot(), &self.limits)
    }
}

/// A P-256 key: PKCS#8 for the workload, SubjectPublicKeyInfo for the CA.
fn new_key() -> Result<(Zeroizing<Vec<u8>>, Vec<u8>), aws_lc_rs::error::Unspecified> {
    let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING)?;
    // The library's document and key object are copies of their own, freed but not wiped; ours is wiped.
    let pkcs8 = key.to_pkcs8v1()?;
    let public: PublicKeyX509Der<'_> = key.public_key().as_der()?;
    Ok((Zeroizing::new(pkcs8.as_ref().to_vec()), public.as_ref().to_vec()))
}

fn check(
    service: &Service,
    key_pkcs8: Zeroizing<Vec<u8>>,
    chain: Vec<Vec<u8>>,
    view: &View,
    now: Timestamp,
) -> Result<WorkloadSvid, UnusableSvid> {
    let certificates: Vec<CertificateDer<'static>> = chain.iter().cloned().map(CertificateDer::from).collect();
    let broken = |error: String| UnusableSvid::Broken(error);
    let svid = X509Svid::new(certificates, key_pkcs8.clone()).map_err(|error| broken(error.to_string()))?;
    if *svid.id() != service.spiffe_id {
        return Err(UnusableSvid::WrongId { got: svid.id().to_string(), wanted: service.spiffe_id.to_string() });
    }
    let (not_before, not_after) = (svid.not_before(), svid.not_after());
    if not_after <= now {
        return Err(UnusableSvid::Expired { not_after });
    }
    // A node whose clock is behind by more than the CA backdates is warned elsewhere; its workloads' peers may well be right.
    let presented = PresentedChain::leaf_first(svid.chain()).map_err(|error| broken(error.to_string()))?;
    x509::verify(&presented, view.bundles(), now.max(not_before))
        .map_err(|error| UnusableSvid::NotVerified(error.to_string()))?;
    let life = not_after.since(not_before);
    let kept = KeptSvid {
        service_id: service.id.clone(),
        service_digest: service.digest(),
        spiffe_id: service.spiffe_id.clone(),
        chain,
        key_pkcs8,
        not_before,
        not_after,
        renew_at: not_before.saturating_add(life.mul_f64(0.5 - random() / 10.0)),
    };
    Ok(WorkloadSvid::new(kept, service))
}
