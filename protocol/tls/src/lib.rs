//! Certificates and keys for both sides of a TLS connection.
//!
//! rustls reads each certificate by the rules of the public web, also one that it need not judge: it refuses X.509
//! version 1, which `openssl x509 -req` makes. Here, whoever shows a certificate or accepts any of them reads only its
//! public key, and what cannot be used is refused with the file and the reason. Chains of certificates are rustls's.
//!
//! - [`files`]: certificates, keys and authorities from PEM files
//! - [`key`]: which public keys can be used
//! - `der`: parts of certificates as they were encoded
//! - [`possession`]: whether a peer has the key of its certificate
//! - [`version_1`]: certificates of version 1 that an authority has signed

mod der;
pub mod files;
pub mod key;
pub mod possession;
pub mod version_1;

pub use files::{Authorities, FileError, own_certificate};
pub use key::UnsupportedKey;

use std::sync::Arc;

use rustls::{CertificateError, Error, OtherError};

/// A peer's certificate that is refused for a reason that rustls has no word for.
pub fn refused(reason: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(reason))))
}
