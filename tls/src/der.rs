//! Parts of certificates in encoded form, by which rustls's cryptography identifies an algorithm.

use x509_parser::asn1_rs::{Any, FromDer, Sequence};

/// The algorithm of `SubjectPublicKeyInfo ::= SEQUENCE { algorithm SEQUENCE, subjectPublicKey }`, without its header.
pub fn key_algorithm(key: &[u8]) -> Option<Vec<u8>> {
    let (_, key) = Sequence::from_der(key).ok()?;
    let (_, algorithm) = Sequence::from_der(&key.content).ok()?;
    Some(algorithm.content.to_vec())
}

/// The algorithm of `Certificate ::= SEQUENCE { tbsCertificate, signatureAlgorithm SEQUENCE, signatureValue }`, without
/// its header.
pub fn signature_algorithm(certificate: &[u8]) -> Option<Vec<u8>> {
    let (_, certificate) = Sequence::from_der(certificate).ok()?;
    let (rest, _) = Any::from_der(&certificate.content).ok()?;
    let (_, algorithm) = Sequence::from_der(rest).ok()?;
    Some(algorithm.content.to_vec())
}
