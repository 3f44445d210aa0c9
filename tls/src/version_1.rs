//! Verifies certificates of X.509 version 1, which rustls does not support. They have no extensions, so there is little
//! to check: an authority signed the certificate directly, and the certificate is valid now. Intermediate certificates
//! are ignored: version 1 has no field that authorizes them to sign.

use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::{CertificateError, Error};
use x509_parser::prelude::{X509Certificate, X509Version};

use crate::{der, key};

/// Verifies a client's certificate of version 1; `None` if it has another version or cannot be parsed.
pub fn verify_client(
    certificate: &[u8],
    authorities: &[CertificateDer<'_>],
    now: UnixTime,
    algorithms: &WebPkiSupportedAlgorithms,
) -> Option<Result<(), Error>> {
    let parsed = key::parse(certificate).ok()?;
    is_version_1(&parsed).then(|| verify(certificate, &parsed, authorities, now, algorithms))
}

/// Whether a certificate has version 1.
pub fn is_version_1(certificate: &X509Certificate<'_>) -> bool {
    certificate.version() == X509Version::V1
}

fn verify(
    certificate_der: &[u8],
    certificate: &X509Certificate<'_>,
    authorities: &[CertificateDer<'_>],
    now: UnixTime,
    algorithms: &WebPkiSupportedAlgorithms,
) -> Result<(), Error> {
    if !certificate.extensions().is_empty() {
        return Err(CertificateError::BadEncoding.into());
    }
    check_validity(certificate, now)?;
    let mut found = Err(CertificateError::UnknownIssuer.into());
    for authority in authorities {
        let Ok(authority) = key::parse(authority) else { continue };
        if authority.subject().as_raw() != certificate.issuer().as_raw() || !may_sign_clients(&authority) {
            continue;
        }
        found = check_validity(&authority, now)
            .and_then(|()| check_signature(certificate_der, certificate, &authority, algorithms));
        if found.is_ok() {
            break;
        }
    }
    found
}

fn check_validity(certificate: &X509Certificate<'_>, now: UnixTime) -> Result<(), Error> {
    let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    let validity = certificate.validity();
    if now < validity.not_before.timestamp() {
        return Err(CertificateError::NotValidYet.into());
    }
    if now > validity.not_after.timestamp() {
        return Err(CertificateError::Expired.into());
    }
    Ok(())
}

/// Whether an authority's certificate permits it to sign client certificates of version 1. Name constraints are not
/// evaluated here, so an authority with name constraints may not sign them.
pub fn may_sign_clients(authority: &X509Certificate<'_>) -> bool {
    if is_version_1(authority) {
        return true;
    }
    let is_authority = matches!(authority.basic_constraints(), Ok(Some(basic)) if basic.value.ca);
    let signs = match authority.key_usage() {
        Ok(usage) => usage.is_none_or(|usage| usage.value.key_cert_sign()),
        Err(_) => false,
    };
    let is_unconstrained = matches!(authority.name_constraints(), Ok(None));
    is_authority && signs && is_unconstrained && is_for_clients(authority)
}

/// Whether a certificate does not restrict its use, or permits use by clients.
pub fn is_for_clients(certificate: &X509Certificate<'_>) -> bool {
    match certificate.extended_key_usage() {
        Ok(None) => true,
        Ok(Some(usage)) => usage.value.any || usage.value.client_auth,
        Err(_) => false,
    }
}

fn check_signature(
    certificate_der: &[u8],
    certificate: &X509Certificate<'_>,
    authority: &X509Certificate<'_>,
    algorithms: &WebPkiSupportedAlgorithms,
) -> Result<(), Error> {
    if certificate.signature_value.unused_bits != 0 {
        return Err(CertificateError::BadEncoding.into());
    }
    let signed_with = der::signature_algorithm(certificate_der).ok_or(CertificateError::BadEncoding)?;
    let key = authority.public_key();
    let key_kind = der::key_algorithm(key.raw).ok_or(CertificateError::BadEncoding)?;
    let verifies = algorithms.all.iter().any(|algorithm| {
        algorithm.signature_alg_id().as_ref() == signed_with
            && algorithm.public_key_alg_id().as_ref() == key_kind
            && algorithm
                .verify_signature(
                    &key.subject_public_key.data,
                    certificate.tbs_certificate.as_ref(),
                    &certificate.signature_value.data,
                )
                .is_ok()
    });
    if verifies { Ok(()) } else { Err(CertificateError::BadSignature.into()) }
}
