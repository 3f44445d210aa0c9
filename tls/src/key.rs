//! Which public keys can be used: those whose signatures rustls's cryptography can verify.

use std::fmt;

use der::asn1::{ObjectIdentifier, UintRef};
use der::oid::db::{rfc5912, rfc8410};
use der::{Decode, Sequence};

use crate::Certificate;

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
pub fn check(certificate: &Certificate<'_>) -> Result<(), UnsupportedKey> {
    let unsupported = |what: String| Err(UnsupportedKey(what));
    let Ok(key) = certificate.public_key() else { return unsupported("a broken public key".into()) };
    match key.algorithm.oid {
        rfc8410::ID_ED_25519 => Ok(()),
        rfc5912::RSA_ENCRYPTION => match key.subject_public_key.as_bytes().and_then(rsa_bits) {
            Some(bits) if RSA_BITS.contains(&bits) => Ok(()),
            Some(bits) => unsupported(format!("an RSA key of {bits} bits")),
            None => unsupported("a broken RSA key".into()),
        },
        rfc5912::ID_EC_PUBLIC_KEY => {
            let curve = key.algorithm.parameters.and_then(|curve| curve.decode_as().ok());
            match curve {
                Some(rfc5912::SECP_256_R_1 | rfc5912::SECP_384_R_1) => Ok(()),
                Some(rfc5912::SECP_521_R_1) => unsupported("an ECDSA key on the curve P-521".into()),
                Some(curve) => {
                    unsupported(format!("an ECDSA key on the curve {}", curve as ObjectIdentifier))
                }
                None => unsupported("an ECDSA key on a curve without a name".into()),
            }
        }
        kind => unsupported(format!("a key of the kind {kind}")),
    }
}

/// `RSAPublicKey` in RFC 8017, appendix A.1.1.
#[derive(Sequence)]
struct RsaPublicKey<'a> {
    modulus: UintRef<'a>,
    exponent: UintRef<'a>,
}

fn rsa_bits(key: &[u8]) -> Option<usize> {
    // Without leading zeros.
    let modulus = RsaPublicKey::from_der(key).ok()?.modulus.as_bytes();
    Some(modulus.len() * 8 - modulus.first()?.leading_zeros() as usize)
}
