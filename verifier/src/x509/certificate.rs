//! A certificate taken apart once, with what the profile rules look at.

use x509_parser::asn1_rs::{Class, Oid, Tag};
use x509_parser::certificate::{TbsCertificate, TbsCertificateParser, X509CertificateParser};
use x509_parser::extensions::X509Extension;
use x509_parser::nom::Parser;
use x509_parser::time::ASN1Time;

use super::der::{Elements, only};
use super::profile::ProfileError;
use super::san::SubjectAltName;
use crate::clock::Timestamp;
use crate::spiffe::PublicKeyError;
use crate::spiffe::jwk::{Classified, classify};

/// More extensions than any certificate needs.
pub const MAX_EXTENSIONS: usize = 32;

/// A parsed certificate, or the part of one that is to be signed. Nothing about it is trusted; what is in it was read
/// without loss: a certificate with an extension twice, or with one that cannot be read, does not become a view.
#[derive(Clone, Debug)]
pub struct CertificateView<'a> {
    pub(super) version: u32,
    pub(super) serial: &'a [u8],
    pub(super) issuer: &'a [u8],
    pub(super) subject: &'a [u8],
    pub(super) signature_algorithm: Oid<'a>,
    pub(super) not_before: Timestamp,
    pub(super) not_after: Timestamp,
    pub(super) times_well_encoded: bool,
    pub(super) spki: &'a [u8],
    pub(super) key: Result<Classified, PublicKeyError>,
    pub(super) extensions: Extensions<'a>,
}

/// The extensions that this library knows, and which of the others are critical.
#[derive(Clone, Debug, Default)]
pub(super) struct Extensions<'a> {
    pub(super) basic_constraints: Option<BasicConstraints>,
    pub(super) key_usage: Option<KeyUsage>,
    pub(super) extended_key_usage: Option<ExtendedKeyUsage>,
    pub(super) names: Option<SubjectAltName<'a>>,
    pub(super) authority_key: Option<Option<&'a [u8]>>,
    pub(super) subject_key: Option<&'a [u8]>,
    pub(super) name_constraints: Option<UriConstraints>,
    /// Object identifier of the first critical extension that is none of these.
    pub(super) unknown_critical: Option<String>,
    /// How many there are beside these.
    pub(super) unknown: usize,
}

/// RFC 5280 §4.2.1.9.
#[derive(Clone, Copy, Debug)]
pub(super) struct BasicConstraints {
    pub(super) critical: bool,
    pub(super) ca: bool,
    pub(super) path_length: Option<u32>,
}

/// RFC 5280 §4.2.1.3.
#[derive(Clone, Copy, Debug)]
pub(super) struct KeyUsage {
    pub(super) critical: bool,
    pub(super) digital_signature: bool,
    pub(super) key_encipherment: bool,
    pub(super) key_agreement: bool,
    pub(super) key_cert_sign: bool,
    pub(super) crl_sign: bool,
    /// nonRepudiation, dataEncipherment, encipherOnly or decipherOnly.
    pub(super) other: bool,
}

/// RFC 5280 §4.2.1.12.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ExtendedKeyUsage {
    pub(super) server_auth: bool,
    pub(super) client_auth: bool,
    pub(super) any: bool,
    pub(super) other: bool,
}

/// Whether name constraints say something about URIs, which nobody enforces in the way SPIFFE IDs need.
#[derive(Clone, Copy, Debug)]
pub(super) struct UriConstraints {
    pub(super) uri: bool,
}

impl<'a> CertificateView<'a> {
    /// Reads a certificate in DER.
    ///
    /// # Errors
    /// What keeps it from being read: see [`ProfileError`].
    pub fn parse(der: &'a [u8]) -> Result<Self, ProfileError> {
        let mut parser = X509CertificateParser::new().with_deep_parse_extensions(false);
        let (rest, certificate) = parser.parse(der).map_err(|_| ProfileError::Malformed { what: "the certificate" })?;
        if !rest.is_empty() {
            return Err(ProfileError::TrailingBytes { count: rest.len() });
        }
        if certificate.signature_algorithm != certificate.tbs_certificate.signature {
            return Err(ProfileError::SignatureAlgorithmMismatch);
        }
        Self::from_tbs_certificate(&certificate.tbs_certificate)
    }

    /// Reads the part of a certificate that is to be signed (`TBSCertificate`), before there is a signature.
    ///
    /// # Errors
    /// As [`CertificateView::parse`].
    pub fn parse_to_be_signed(der: &'a [u8]) -> Result<Self, ProfileError> {
        let mut parser = TbsCertificateParser::new().with_deep_parse_extensions(false);
        let (rest, tbs) =
            parser.parse(der).map_err(|_| ProfileError::Malformed { what: "the to-be-signed certificate" })?;
        if !rest.is_empty() {
            return Err(ProfileError::TrailingBytes { count: rest.len() });
        }
        Self::from_tbs_certificate(&tbs)
    }

    fn from_tbs_certificate(tbs: &TbsCertificate<'a>) -> Result<Self, ProfileError> {
        let validity = tbs.validity();
        Ok(Self {
            version: tbs.version().0.saturating_add(1),
            serial: tbs.raw_serial(),
            issuer: tbs.issuer.as_raw(),
            subject: tbs.subject.as_raw(),
            signature_algorithm: tbs.signature.algorithm.clone(),
            not_before: timestamp(validity.not_before),
            not_after: timestamp(validity.not_after),
            times_well_encoded: well_encoded(validity.not_before) && well_encoded(validity.not_after),
            spki: tbs.subject_pki.raw,
            key: classify(&tbs.subject_pki),
            extensions: Extensions::parse(tbs.extensions())?,
        })
    }

    /// The serial number: the content of its INTEGER.
    #[must_use]
    pub fn serial(&self) -> &'a [u8] {
        self.serial
    }

    /// The issuer's name in DER.
    #[must_use]
    pub fn issuer(&self) -> &'a [u8] {
        self.issuer
    }

    /// The subject's name in DER.
    #[must_use]
    pub fn subject(&self) -> &'a [u8] {
        self.subject
    }

    /// The first second in which it is valid.
    #[must_use]
    pub fn not_before(&self) -> Timestamp {
        self.not_before
    }

    /// The last second in which it is valid.
    #[must_use]
    pub fn not_after(&self) -> Timestamp {
        self.not_after
    }

    /// The subject's public key, SubjectPublicKeyInfo in DER.
    #[must_use]
    pub fn spki(&self) -> &'a [u8] {
        self.spki
    }

    /// The subject alternative names.
    #[must_use]
    pub fn names(&self) -> Option<&SubjectAltName<'a>> {
        self.extensions.names.as_ref()
    }

    /// Whether the certificate says that it signs others (`cA`); without the extension it does not.
    #[must_use]
    pub fn is_ca(&self) -> bool {
        self.extensions.basic_constraints.is_some_and(|constraints| constraints.ca)
    }

    /// How many intermediates may stand below it, if it says so.
    #[must_use]
    pub fn path_length(&self) -> Option<u32> {
        self.extensions.basic_constraints.and_then(|constraints| constraints.path_length)
    }

    /// The identifier of its own key.
    #[must_use]
    pub fn subject_key_id(&self) -> Option<&'a [u8]> {
        self.extensions.subject_key
    }

    /// The identifier of the key that signed it.
    #[must_use]
    pub fn authority_key_id(&self) -> Option<&'a [u8]> {
        self.extensions.authority_key.flatten()
    }
}

impl<'a> Extensions<'a> {
    fn parse(extensions: &[X509Extension<'a>]) -> Result<Self, ProfileError> {
        if extensions.len() > MAX_EXTENSIONS {
            return Err(ProfileError::TooManyExtensions { count: extensions.len() });
        }
        let mut known = Self::default();
        for (index, extension) in extensions.iter().enumerate() {
            if extensions.iter().take(index).any(|earlier| earlier.oid == extension.oid) {
                return Err(ProfileError::DuplicateExtension { oid: extension.oid.to_id_string() });
            }
            known.take(extension)?;
        }
        Ok(known)
    }

    fn take(&mut self, extension: &X509Extension<'a>) -> Result<(), ProfileError> {
        let (critical, value) = (extension.critical, extension.value);
        // All that are known here are id-ce, 2.5.29.N.
        let number = match extension.oid.as_bytes() {
            [0x55, 0x1d, number] => *number,
            _ => 0,
        };
        match number {
            14 => {
                self.subject_key = Some(only(Tag::OctetString, value).map_err(|_| malformed("subject key identifier"))?)
            }
            15 => self.key_usage = Some(key_usage(critical, value)?),
            17 => {
                let names = SubjectAltName::parse(critical, value);
                self.names = Some(names.map_err(|flaw| ProfileError::SubjectAltName { flaw })?);
            }
            19 => self.basic_constraints = Some(basic_constraints(critical, value)?),
            30 => self.name_constraints = Some(name_constraints(value)?),
            35 => self.authority_key = Some(authority_key(value)?),
            37 => self.extended_key_usage = Some(extended_key_usage(value)?),
            _ => {
                self.unknown += 1;
                if critical && self.unknown_critical.is_none() {
                    self.unknown_critical = Some(extension.oid.to_id_string());
                }
            }
        }
        Ok(())
    }
}

fn malformed(what: &'static str) -> ProfileError {
    ProfileError::Malformed { what }
}

fn key_usage(critical: bool, value: &[u8]) -> Result<KeyUsage, ProfileError> {
    let wrong = || malformed("key usage");
    // A BIT STRING: how many bits at the end are unused, which must be zero, then the bits.
    let (first, second) = match only(Tag::BitString, value).map_err(|_| wrong())? {
        [0] => (0, 0),
        [unused @ 0..=7, first] if unused_are_zero(*unused, *first) => (*first, 0),
        [unused @ 0..=7, first, second] if unused_are_zero(*unused, *second) => (*first, *second),
        _ => return Err(wrong()),
    };
    Ok(KeyUsage {
        critical,
        digital_signature: first & 0x80 != 0,
        key_encipherment: first & 0x20 != 0,
        key_agreement: first & 0x08 != 0,
        key_cert_sign: first & 0x04 != 0,
        crl_sign: first & 0x02 != 0,
        // nonRepudiation, dataEncipherment, encipherOnly; decipherOnly and what has no name yet.
        other: first & 0x51 != 0 || second != 0,
    })
}

fn unused_are_zero(unused: u8, last: u8) -> bool {
    last & ((1_u8 << unused) - 1) == 0
}

fn basic_constraints(critical: bool, value: &[u8]) -> Result<BasicConstraints, ProfileError> {
    let wrong = || malformed("basic constraints");
    let mut parts = Elements::new(only(Tag::Sequence, value).map_err(|_| wrong())?).peekable();
    let ca = match parts.next_if(|part| part.is_ok_and(|part| part.is(Tag::Boolean))) {
        Some(Ok(part)) if part.content == [0xff] => true,
        // Not DER, which leaves the default out, but often seen and clear.
        Some(Ok(part)) if part.content == [0] => false,
        Some(_) => return Err(wrong()),
        None => false,
    };
    let path_length = match parts.next() {
        Some(Ok(part)) if part.is(Tag::Integer) => match part.content {
            [length @ 0..0x80] => Some(u32::from(*length)),
            _ => return Err(wrong()),
        },
        Some(_) => return Err(wrong()),
        None => None,
    };
    if parts.next().is_some() {
        return Err(wrong());
    }
    Ok(BasicConstraints { critical, ca, path_length })
}

fn extended_key_usage(value: &[u8]) -> Result<ExtendedKeyUsage, ProfileError> {
    let wrong = || malformed("extended key usage");
    let mut usage = ExtendedKeyUsage::default();
    for purpose in Elements::new(only(Tag::Sequence, value).map_err(|_| wrong())?) {
        let purpose = purpose.ok().filter(|purpose| purpose.is(Tag::Oid)).ok_or_else(wrong)?;
        match purpose.content {
            SERVER_AUTH => usage.server_auth = true,
            CLIENT_AUTH => usage.client_auth = true,
            ANY_USAGE => usage.any = true,
            _ => usage.other = true,
        }
    }
    Ok(usage)
}

pub(super) const SERVER_AUTH: &[u8] = &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x01]; // 1.3.6.1.5.5.7.3.1
pub(super) const CLIENT_AUTH: &[u8] = &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x02]; // 1.3.6.1.5.5.7.3.2
pub(super) const ANY_USAGE: &[u8] = &[0x55, 0x1d, 0x25, 0x00]; // 2.5.29.37.0

fn authority_key(value: &[u8]) -> Result<Option<&[u8]>, ProfileError> {
    let wrong = || malformed("authority key identifier");
    let mut key = None;
    for part in Elements::new(only(Tag::Sequence, value).map_err(|_| wrong())?) {
        let part = part.ok().filter(|part| part.class == Class::ContextSpecific).ok_or_else(wrong)?;
        match (part.tag, part.constructed) {
            (0, false) if !part.content.is_empty() => key = Some(part.content),
            // Issuer and serial number of the authority's certificate.
            (1, true) | (2, false) => {}
            _ => return Err(wrong()),
        }
    }
    Ok(key)
}

fn name_constraints(value: &[u8]) -> Result<UriConstraints, ProfileError> {
    let wrong = || malformed("name constraints");
    let mut constraints = UriConstraints { uri: false };
    for list in Elements::new(only(Tag::Sequence, value).map_err(|_| wrong())?) {
        let list = list.ok().filter(|list| list.class == Class::ContextSpecific).ok_or_else(wrong)?;
        for subtree in Elements::new(list.content) {
            let subtree = subtree.ok().filter(|subtree| subtree.is(Tag::Sequence)).ok_or_else(wrong)?;
            let base = Elements::new(subtree.content).next().and_then(Result::ok).ok_or_else(wrong)?;
            constraints.uri |= base.class == Class::ContextSpecific && base.tag == 6;
        }
    }
    Ok(constraints)
}

fn timestamp(time: ASN1Time) -> Timestamp {
    Timestamp::from_unix_seconds(time.timestamp())
}

/// RFC 5280 §4.1.2.5: UTCTime through 2049, GeneralizedTime from 2050.
fn well_encoded(time: ASN1Time) -> bool {
    time.is_generalizedtime() == (time.to_datetime().year() >= 2050)
}
