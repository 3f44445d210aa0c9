//! Which public keys can be used: those whose signatures rustls's cryptography can verify.

use std::fmt;

use rustls::pki_types::SubjectPublicKeyInfoDer;
use rustls::{CertificateError, Error};
use x509_parser::asn1_rs::{Oid, oid};
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

const ECDSA: Oid<'static> = oid!(1.2.840.10045.2.1);
const P256: Oid<'static> = oid!(1.2.840.10045.3.1.7);
const P384: Oid<'static> = oid!(1.3.132.0.34);
const P521: Oid<'static> = oid!(1.3.132.0.35);
const RSA: Oid<'static> = oid!(1.2.840.113549.1.1.1);
const ED25519: Oid<'static> = oid!(1.3.101.112);

/// Supported sizes of RSA keys, in bits.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

/// An unsupported key; the message lists the supported ones.
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0} is not supported; use RSA of 2048 to 8192 bits, ECDSA on P-256 or P-384, or Ed25519")]
pub struct UnsupportedKey(String);

/// rustls prints foreign errors in this form.
impl fmt::Debug for UnsupportedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Checks whether the public key of a certificate is supported.
pub fn check(certificate: &X509Certificate<'_>) -> Result<(), UnsupportedKey> {
    let key = certificate.public_key();
    let kind = &key.algorithm.algorithm;
    if *kind == RSA {
        return match rsa_bits(key) {
            Some(bits) if RSA_BITS.contains(&bits) => Ok(()),
            Some(bits) => Err(UnsupportedKey(format!("an RSA key of {bits} bits"))),
            None => Err(UnsupportedKey("a broken RSA key".into())),
        };
    }
    if *kind == ECDSA {
        let curve = key.algorithm.parameters.as_ref().and_then(|curve| curve.as_oid().ok());
        return match curve {
            Some(curve) if curve == P256 || curve == P384 => Ok(()),
            Some(curve) if curve == P521 => Err(UnsupportedKey("an ECDSA key on the curve P-521".into())),
            Some(curve) => Err(UnsupportedKey(format!("an ECDSA key on the curve {curve}"))),
            None => Err(UnsupportedKey("an ECDSA key on a curve without a name".into())),
        };
    }
    if *kind == ED25519 {
        return Ok(());
    }
    Err(UnsupportedKey(format!("a key of the kind {kind}")))
}

/// The encoded public key of a certificate of any version.
pub fn public_key(certificate: &[u8]) -> Result<SubjectPublicKeyInfoDer<'static>, Error> {
    let certificate = parse(certificate)?;
    Ok(SubjectPublicKeyInfoDer::from(certificate.public_key().raw.to_vec()))
}

/// Parses a certificate of any version.
pub fn parse(certificate: &[u8]) -> Result<X509Certificate<'_>, Error> {
    match X509Certificate::from_der(certificate) {
        Ok((_, certificate)) => Ok(certificate),
        Err(_) => Err(Error::InvalidCertificate(CertificateError::BadEncoding)),
    }
}

fn rsa_bits(key: &SubjectPublicKeyInfo<'_>) -> Option<usize> {
    let Ok(PublicKey::RSA(key)) = key.parsed() else { return None };
    let start = key.modulus.iter().position(|&byte| byte != 0)?;
    let modulus = &key.modulus[start..];
    Some(modulus.len() * 8 - modulus.first()?.leading_zeros() as usize)
}
