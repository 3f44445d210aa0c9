//! Certificates and keys for both sides of a TLS connection.
//!
//! rustls parses each certificate by the rules of the public web, even if it need not verify it: it rejects X.509
//! version 1, which `openssl x509 -req` creates. This crate reads only the public key of this side's certificate, and
//! of a peer's certificate if any is accepted. Errors about unusable certificates and keys contain the file and the
//! reason. rustls verifies certificate chains.
//!
//! - [`files`]: certificates, keys and authorities from PEM files
//! - [`key`]: which public keys can be used
//! - [`Certificate`]: what a certificate says
//! - [`possession`]: whether a peer has the key of its certificate
//! - [`version_1`]: certificates of version 1 that an authority has signed

#![warn(missing_docs)]

mod certificate;
pub mod files;
pub mod key;
pub mod possession;
pub mod version_1;

pub use certificate::Certificate;
pub use files::{Authorities, FileError, own_certificate};
pub use key::UnsupportedKey;

use std::sync::Arc;

use rustls::{CertificateError, Error, OtherError};

/// The error for a peer's certificate that is rejected for a reason for which rustls has no error.
pub fn refused(reason: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(reason))))
}
