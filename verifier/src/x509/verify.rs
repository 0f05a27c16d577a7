//! Verification of a presented chain (X509-SVID §5, RFC 5280 §6).
//!
//! Path building and signatures are `webpki`'s. What it leaves out is here: the SPIFFE profile of each certificate on the
//! path, the validity and path length of the root, and the choice among many roots of one name.

use rustls::pki_types::{CertificateDer, Der, SignatureVerificationAlgorithm, TrustAnchor};
use webpki::{EndEntityCert, ExtendedKeyUsageValidator, KeyPurposeIdIter};

use super::certificate::CertificateView;
use super::chain::{MAX_LOOK_ALIKES, PresentedChain};
use super::error::{Link, VerifyError};
use super::peer::{AsCaller, PeerKey, SerialNumber, VerifiedPeer};
use super::profile::{self, ProfileError};
use crate::clock::Timestamp;
use crate::spiffe::{BundleSet, SpiffeId, TrustBundle, X509Authority};

/// Turns what a peer presented into an identity, or says why not.
///
/// The leaf's one URI names a SPIFFE ID; the chain must lead to a root in the bundle of that ID's own trust domain (ID-20,
/// X509-31), each certificate on the way must fit the profile, and each, the root included, must be valid at `at`, with
/// no leeway. Certificates that the peer sent and that are not on the way are not looked at. Whether the
/// peer holds the leaf's key is for TLS to show, and whether it is welcome for the caller to decide.
///
/// ```no_run
/// # use bonafide_verifier::{clock::Timestamp, spiffe::BundleSet, x509};
/// # fn decide(certificates: &[rustls::pki_types::CertificateDer<'_>], bundles: &BundleSet, now: Timestamp) -> Result<(), x509::VerifyError> {
/// let peer = x509::verify(&x509::PresentedChain::leaf_first(certificates)?, bundles, now)?;
/// println!("{} until {}", peer.id(), peer.not_after());
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// The first reason found; see [`VerifyError`].
pub fn verify(chain: &PresentedChain<'_>, bundles: &BundleSet, at: Timestamp) -> Result<VerifiedPeer, VerifyError> {
    chain.check_bounds()?;
    let refuse = |flaw| VerifyError::Certificate { link: Link::Leaf, flaw };
    let leaf = CertificateView::parse(chain.leaf).map_err(refuse)?;
    let id = profile::peer(&leaf).map_err(refuse)?;
    // The stricter of the two parsers; what it says of a certificate that the other took has no better name.
    let end_entity =
        EndEntityCert::try_from(chain.leaf).map_err(|_| refuse(ProfileError::Malformed { what: "the certificate" }))?;
    check_validity(Link::Leaf, leaf.not_before(), leaf.not_after(), at)?;
    let Some(bundle) = bundles.get(id.trust_domain()) else {
        return Err(VerifyError::UnknownTrustDomain { id });
    };
    if bundle.x509_authorities().is_empty() {
        return Err(VerifyError::NoAuthorities { trust_domain: id.trust_domain().clone() });
    }
    refuse_look_alikes(chain.intermediates)?;
    let attempt = Attempt { chain, end_entity: &end_entity, leaf: &leaf, id: &id, at };
    let error = match attempt.try_roots(bundle) {
        Ok(peer) => return Ok(peer),
        Err(Failure::Ours(error)) => return Err(*error),
        Err(Failure::Path(error)) => error,
    };
    Err(attempt.explain(bundle, &error))
}

/// With up to this many roots, all of them valid, path building gets them as they are.
const FEW_ROOTS: usize = 8;
/// Roots for one attempt at a path: `webpki` gives up at 100 signatures.
const ROOTS_PER_ATTEMPT: usize = 32;
/// Attempts for one chain: roots that share a name and tell nobody which key is theirs are tried one after the other.
const MAX_ATTEMPTS: usize = 16;

struct Attempt<'a> {
    chain: &'a PresentedChain<'a>,
    end_entity: &'a EndEntityCert<'a>,
    leaf: &'a CertificateView<'a>,
    id: &'a SpiffeId,
    at: Timestamp,
}

enum Failure {
    Path(webpki::Error),
    Ours(Box<VerifyError>),
}

impl From<VerifyError> for Failure {
    fn from(error: VerifyError) -> Self {
        Self::Ours(Box::new(error))
    }
}

impl Attempt<'_> {
    fn try_roots(&self, bundle: &TrustBundle) -> Result<VerifiedPeer, Failure> {
        let roots = bundle.x509_authorities();
        if roots.len() <= FEW_ROOTS && roots.iter().all(|root| root.is_valid_at(self.at)) {
            return self.path_to(bundle.anchors(), |index| roots.get(index));
        }
        let mut failure = webpki::Error::UnknownIssuer;
        let chosen = self.choose_roots(bundle);
        for some in chosen.chunks(ROOTS_PER_ATTEMPT).take(MAX_ATTEMPTS) {
            let anchors: Vec<TrustAnchor<'_>> = some.iter().map(|(anchor, _)| borrowed(anchor)).collect();
            match self.path_to(&anchors, |index| some.get(index).map(|(_, root)| *root)) {
                Err(Failure::Path(webpki::Error::UnknownIssuer)) => {}
                Err(Failure::Path(error)) if is_too_expensive(&error) => return Err(Failure::Path(error)),
                // A root of the same name with another key. The next may have the right one.
                Err(Failure::Path(error)) => failure = error,
                done => return done,
            }
        }
        Err(Failure::Path(failure))
    }

    /// The roots that are valid and have the name of an issuer in the chain (T-44); before the others those whose key the
    /// chain names.
    fn choose_roots<'b>(&self, bundle: &'b TrustBundle) -> Vec<(&'b TrustAnchor<'static>, &'b X509Authority)> {
        let parsed: Vec<_> =
            self.chain.intermediates.iter().filter_map(|der| CertificateView::parse(der).ok()).collect();
        let presented = || std::iter::once(self.leaf).chain(&parsed);
        let mut chosen: Vec<_> = bundle
            .anchors()
            .iter()
            .zip(bundle.x509_authorities())
            .filter(|(anchor, root)| {
                root.is_valid_at(self.at) && presented().any(|child| is_name(child.issuer(), &anchor.subject))
            })
            .collect();
        chosen.sort_by_key(|(_, root)| {
            let named = presented().any(|child| child.authority_key_id().is_some_and(|key| root.key_id() == Some(key)));
            !named
        });
        chosen
    }

    fn path_to<'b>(
        &self,
        anchors: &[TrustAnchor<'_>],
        root_at: impl Fn(usize) -> Option<&'b X509Authority>,
    ) -> Result<VerifiedPeer, Failure> {
        let path = self
            .end_entity
            .verify_for_usage(
                ACCEPTED_ALGORITHMS,
                anchors,
                self.chain.intermediates,
                self.at.to_unix_time(),
                ServerAndClient,
                None,
                None,
            )
            .map_err(Failure::Path)?;
        let anchor = path.anchor();
        let root = anchors.iter().position(|one| std::ptr::eq(one, anchor)).and_then(root_at);
        let Some(root) = root else { return Err(Failure::Path(webpki::Error::UnknownIssuer)) };
        // webpki looks at neither of the two in a root.
        check_validity(Link::Root, root.not_before(), root.not_after(), self.at)?;
        let mut peer = VerifiedPeer {
            id: self.id.clone(),
            not_before: self.leaf.not_before().max(root.not_before()),
            not_after: self.leaf.not_after().min(root.not_after()),
            serial: SerialNumber::new(self.leaf.serial()),
            spki: PeerKey(self.leaf.spki().into()),
            spki_sha256: super::sha256(self.leaf.spki()),
            authority_sha256: *root.sha256(),
            caller: AsCaller::default(),
        };
        let mut intermediates = 0_u32;
        for certificate in path.intermediate_certificates() {
            let der = certificate.der();
            let view = self.check_intermediate(self.link_of(&der), &der)?;
            peer.not_before = peer.not_before.max(view.not_before());
            peer.not_after = peer.not_after.min(view.not_after());
            intermediates += 1;
        }
        if root.path_length().is_some_and(|limit| intermediates > limit) {
            return Err(VerifyError::PathTooLong { link: Link::Root }.into());
        }
        Ok(peer)
    }

    fn check_intermediate<'c>(&self, link: Link, der: &'c [u8]) -> Result<CertificateView<'c>, VerifyError> {
        let refuse = |flaw| VerifyError::Certificate { link, flaw };
        let view = CertificateView::parse(der).map_err(refuse)?;
        profile::signing(&view, self.id.trust_domain()).map_err(refuse)?;
        check_validity(link, view.not_before(), view.not_after(), self.at)?;
        Ok(view)
    }

    fn link_of(&self, der: &[u8]) -> Link {
        let index = self.chain.intermediates.iter().position(|one| one.as_ref() == der);
        Link::Intermediate(index.map_or(0, |index| index + 1))
    }

    /// Says in our words, and as exactly as it can be found out, why there is no path. Only for chains that are refused.
    fn explain(&self, bundle: &TrustBundle, error: &webpki::Error) -> VerifyError {
        use webpki::Error as E;
        if is_too_expensive(error) {
            return VerifyError::PathTooExpensive;
        }
        if let Some(reason) = self.flaw_on_the_way(bundle) {
            return reason;
        }
        match error {
            E::UnknownIssuer => self.unknown_authority(),
            E::InvalidSignatureForPublicKey | E::UnsupportedSignatureAlgorithmForPublicKeyContext(_) => {
                self.bad_signature(bundle)
            }
            E::PathLenConstraintViolated => VerifyError::PathTooLong { link: Link::Intermediate(self.top()) },
            E::MaximumPathDepthExceeded => VerifyError::PathTooExpensive,
            E::NameConstraintViolation => VerifyError::NameConstraints,
            other => VerifyError::Path { detail: other.to_string() },
        }
    }

    /// Follows the names from the leaf upwards, and looks for the first certificate that is not as it should be.
    fn flaw_on_the_way(&self, bundle: &TrustBundle) -> Option<VerifyError> {
        let mut issuer = self.leaf.issuer().to_vec();
        for _ in self.chain.intermediates {
            let mut flaw = None;
            let mut next = None;
            for (index, der) in self.chain.intermediates.iter().enumerate() {
                let link = Link::Intermediate(index + 1);
                let Ok(view) = CertificateView::parse(der) else { continue };
                if view.subject() != issuer || view.subject() == view.issuer() {
                    continue;
                }
                match self.check_intermediate(link, der) {
                    Ok(view) => next = Some(view.issuer().to_vec()),
                    Err(error) => flaw = flaw.or(Some(error)),
                }
            }
            match (next, flaw) {
                (Some(upwards), _) => issuer = upwards,
                (None, Some(flaw)) => return Some(flaw),
                (None, None) => break,
            }
        }
        self.root_not_valid(bundle, &issuer)
    }

    /// When all roots of this name are out of their time, that is the reason.
    fn root_not_valid(&self, bundle: &TrustBundle, issuer: &[u8]) -> Option<VerifyError> {
        let named = || {
            bundle
                .anchors()
                .iter()
                .zip(bundle.x509_authorities())
                .filter(|(anchor, _)| is_name(issuer, &anchor.subject))
        };
        if named().any(|(_, root)| root.is_valid_at(self.at)) {
            return None;
        }
        let (_, root) = named().max_by_key(|(_, root)| root.not_after())?;
        check_validity(Link::Root, root.not_before(), root.not_after(), self.at).err()
    }

    /// A root of the right name whose key the chain does not name is another authority, not a forgery.
    fn bad_signature(&self, bundle: &TrustBundle) -> VerifyError {
        let parsed: Vec<_> =
            self.chain.intermediates.iter().filter_map(|der| CertificateView::parse(der).ok()).collect();
        let another = std::iter::once(self.leaf).chain(&parsed).any(|child| {
            let mut same_name = bundle
                .anchors()
                .iter()
                .zip(bundle.x509_authorities())
                .filter(|(anchor, _)| is_name(child.issuer(), &anchor.subject))
                .peekable();
            same_name.peek().is_some()
                && child
                    .authority_key_id()
                    .is_some_and(|key| same_name.all(|(_, root)| root.key_id().is_some_and(|of_root| of_root != key)))
        });
        if another { self.unknown_authority() } else { VerifyError::BadSignature }
    }

    fn unknown_authority(&self) -> VerifyError {
        VerifyError::UnknownAuthority { trust_domain: self.id.trust_domain().clone() }
    }

    /// The first intermediate that says how many may stand below it, as good as can be said.
    fn top(&self) -> usize {
        let limited = |der: &CertificateDer<'_>| {
            CertificateView::parse(der).is_ok_and(|view| view.is_ca() && view.path_length().is_some())
        };
        self.chain.intermediates.iter().rposition(limited).map_or(0, |index| index + 1)
    }
}

fn check_validity(link: Link, not_before: Timestamp, not_after: Timestamp, now: Timestamp) -> Result<(), VerifyError> {
    if now.unix_seconds() < not_before.unix_seconds() {
        return Err(VerifyError::NotYetValid { link, not_before, now });
    }
    if now.unix_seconds() > not_after.unix_seconds() {
        return Err(VerifyError::Expired { link, not_after, now });
    }
    Ok(())
}

/// A name as a whole, and the content of a name, which is what an anchor holds.
fn is_name(name: &[u8], content: &[u8]) -> bool {
    super::der::only(x509_parser::asn1_rs::Tag::Sequence, name) == Ok(content)
}

fn refuse_look_alikes(intermediates: &[CertificateDer<'_>]) -> Result<(), VerifyError> {
    if intermediates.len() <= MAX_LOOK_ALIKES {
        return Ok(());
    }
    let parsed: Vec<_> = intermediates.iter().filter_map(|der| EndEntityCert::try_from(der).ok()).collect();
    let alike = parsed.iter().map(|one| parsed.iter().filter(|other| other.subject() == one.subject()).count()).max();
    match alike {
        Some(count) if count > MAX_LOOK_ALIKES => Err(VerifyError::LookAlikes { count }),
        _ => Ok(()),
    }
}

fn is_too_expensive(error: &webpki::Error) -> bool {
    matches!(
        error,
        webpki::Error::MaximumSignatureChecksExceeded
            | webpki::Error::MaximumPathBuildCallsExceeded
            | webpki::Error::MaximumNameConstraintComparisonsExceeded
    )
}

fn borrowed<'b>(anchor: &'b TrustAnchor<'static>) -> TrustAnchor<'b> {
    TrustAnchor {
        subject: Der::from_slice(&anchor.subject),
        subject_public_key_info: Der::from_slice(&anchor.subject_public_key_info),
        name_constraints: anchor.name_constraints.as_ref().map(|constraints| Der::from_slice(constraints)),
    }
}

/// X509-28 for the leaf, and for authorities that limit what is below them (X509-29): an SVID is for both sides of a
/// connection, whichever it is on now.
struct ServerAndClient;

impl ExtendedKeyUsageValidator for ServerAndClient {
    fn validate(&self, purposes: KeyPurposeIdIter<'_, '_>) -> Result<(), webpki::Error> {
        use webpki::KeyPurposeId;
        let (mut any, mut server, mut client, mut empty) = (false, false, false, true);
        for purpose in purposes {
            let purpose = purpose?;
            empty = false;
            any |= purpose == KeyPurposeId::new(super::certificate::ANY_USAGE);
            server |= purpose == KeyPurposeId::new(super::certificate::SERVER_AUTH);
            client |= purpose == KeyPurposeId::new(super::certificate::CLIENT_AUTH);
        }
        // `any` counts for an authority; for a leaf the profile has refused it already.
        if empty || any || (server && client) { Ok(()) } else { Err(webpki::Error::ExtensionValueInvalid) }
    }
}

/// What may sign a certificate: no SHA-1, no RSA below 2048 bits, no curve beside P-256, P-384, P-521 and Ed25519.
const ACCEPTED_ALGORITHMS: &[&dyn SignatureVerificationAlgorithm] = &[
    webpki::aws_lc_rs::ECDSA_P256_SHA256,
    webpki::aws_lc_rs::ECDSA_P256_SHA384,
    webpki::aws_lc_rs::ECDSA_P256_SHA512,
    webpki::aws_lc_rs::ECDSA_P384_SHA256,
    webpki::aws_lc_rs::ECDSA_P384_SHA384,
    webpki::aws_lc_rs::ECDSA_P384_SHA512,
    webpki::aws_lc_rs::ECDSA_P521_SHA256,
    webpki::aws_lc_rs::ECDSA_P521_SHA384,
    webpki::aws_lc_rs::ECDSA_P521_SHA512,
    webpki::aws_lc_rs::ED25519,
    webpki::aws_lc_rs::RSA_PKCS1_2048_8192_SHA256,
    webpki::aws_lc_rs::RSA_PKCS1_2048_8192_SHA384,
    webpki::aws_lc_rs::RSA_PKCS1_2048_8192_SHA512,
    webpki::aws_lc_rs::RSA_PSS_2048_8192_SHA256_LEGACY_KEY,
    webpki::aws_lc_rs::RSA_PSS_2048_8192_SHA384_LEGACY_KEY,
    webpki::aws_lc_rs::RSA_PSS_2048_8192_SHA512_LEGACY_KEY,
];
