//! Verifies certificates of X.509 version 1, which rustls does not support. They have no extensions, so there is little
//! to check: an authority signed the certificate directly, and the certificate is valid now. Intermediate certificates
//! are ignored: version 1 has no field that authorizes them to sign.

use der::oid::db::rfc5280::{ANY_EXTENDED_KEY_USAGE, ID_KP_CLIENT_AUTH};
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::{CertificateError, Error};
use x509_cert::ext::pkix::{BasicConstraints, ExtendedKeyUsage, KeyUsage, NameConstraints};
use x509_cert::time::Time;

use crate::Certificate;

/// Verifies a client's certificate of version 1; `None` if it has another version or cannot be parsed.
pub fn verify_client(
    certificate: &[u8],
    authorities: &[CertificateDer<'_>],
    now: UnixTime,
    algorithms: &WebPkiSupportedAlgorithms,
) -> Option<Result<(), Error>> {
    let certificate = Certificate::parse(certificate).ok()?;
    certificate.is_version_1().then(|| verify(&certificate, authorities, now, algorithms))
}

fn verify(
    certificate: &Certificate<'_>,
    authorities: &[CertificateDer<'_>],
    now: UnixTime,
    algorithms: &WebPkiSupportedAlgorithms,
) -> Result<(), Error> {
    if certificate.has_extensions() {
        return Err(CertificateError::BadEncoding.into());
    }
    check_validity(certificate, now)?;
    let mut found = Err(CertificateError::UnknownIssuer.into());
    for authority in authorities {
        let Ok(authority) = Certificate::parse(authority) else { continue };
        if authority.subject() != certificate.issuer() || !may_sign_clients(&authority) {
            continue;
        }
        found = check_validity(&authority, now)
            .and_then(|()| check_signature(certificate, &authority, algorithms));
        if found.is_ok() {
            break;
        }
    }
    found
}

fn check_validity(certificate: &Certificate<'_>, now: UnixTime) -> Result<(), Error> {
    let seconds = |time: Time| time.to_unix_duration().as_secs();
    let validity = certificate.validity()?;
    if now.as_secs() < seconds(validity.not_before) {
        return Err(CertificateError::NotValidYet.into());
    }
    if now.as_secs() > seconds(validity.not_after) {
        return Err(CertificateError::Expired.into());
    }
    Ok(())
}

/// Whether an authority's certificate permits it to sign client certificates of version 1. Name constraints are not
/// evaluated here, so an authority with name constraints may not sign them.
pub fn may_sign_clients(authority: &Certificate<'_>) -> bool {
    if authority.is_version_1() {
        return true;
    }
    let is_authority = matches!(authority.extension::<BasicConstraints>(), Ok(Some(basic)) if basic.ca);
    let signs = match authority.extension::<KeyUsage>() {
        Ok(usage) => usage.is_none_or(|usage| usage.key_cert_sign()),
        Err(_) => false,
    };
    let is_unconstrained = matches!(authority.extension::<NameConstraints>(), Ok(None));
    is_authority && signs && is_unconstrained && is_for_clients(authority)
}

/// Whether a certificate does not restrict its use, or permits use by clients.
pub fn is_for_clients(certificate: &Certificate<'_>) -> bool {
    match certificate.extension::<ExtendedKeyUsage>() {
        Ok(None) => true,
        Ok(Some(usage)) => {
            usage.0.iter().any(|usage| [ANY_EXTENDED_KEY_USAGE, ID_KP_CLIENT_AUTH].contains(usage))
        }
        Err(_) => false,
    }
}

fn check_signature(
    certificate: &Certificate<'_>,
    authority: &Certificate<'_>,
    algorithms: &WebPkiSupportedAlgorithms,
) -> Result<(), Error> {
    let signature = certificate.signature()?;
    let (key_kind, key) = authority.key_parts()?;
    let verifies = algorithms.all.iter().any(|algorithm| {
        algorithm.signature_alg_id().as_ref() == signature.algorithm
            && algorithm.public_key_alg_id().as_ref() == key_kind
            && algorithm.verify_signature(key, &signature.signed, signature.bytes).is_ok()
    });
    if verifies { Ok(()) } else { Err(CertificateError::BadSignature.into()) }
}
