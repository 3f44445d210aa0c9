//! Certificates, keys and authorities from PEM files.

use std::io;
use std::path::{Path, PathBuf};

use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use crate::Certificate;
use crate::key::{self, UnsupportedKey};

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The file cannot be read.
    #[error("open {}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// The file contains no certificate, or a broken one.
    #[error("no certificate in {}: expected a PEM file with BEGIN CERTIFICATE", .0.display())]
    NoCertificate(PathBuf),
    /// The file contains no private key.
    #[error("no private key in {}: expected a PEM file with BEGIN PRIVATE KEY, without a passphrase", .0.display())]
    NoKey(PathBuf),
    /// The public key of the certificate is not supported.
    #[error("the certificate in {} cannot be used: {reason}", path.display())]
    UnsupportedKey {
        /// The file.
        path: PathBuf,
        /// The reason.
        reason: UnsupportedKey,
    },
    /// The private key cannot be used.
    #[error("the private key in {} cannot be used: {reason}", path.display())]
    UnusableKey {
        /// The file.
        path: PathBuf,
        /// The reason.
        reason: rustls::Error,
    },
    /// Certificate and private key do not belong together.
    #[error(
        "the private key in {} does not belong to the certificate in {}; name the files that were made together",
        key.display(),
        certificate.display()
    )]
    WrongKey {
        /// The file with the private key.
        key: PathBuf,
        /// The file with the certificate.
        certificate: PathBuf,
    },
    /// None of the authorities in the file can be used.
    #[error("no authority in {} can be used: {reason}", path.display())]
    NoUsableAuthority {
        /// The file.
        path: PathBuf,
        /// Why the first authority cannot be used.
        reason: String,
    },
    /// The system has no authorities, and no file was given.
    #[error("no certificate authorities: this system has none, and no file was given")]
    NoRoots,
}

/// Loads the certificate to present, with the intermediate certificates to its root, and its private key. Checks only
/// the public key of the certificate: the peer verifies the rest.
pub fn own_certificate(
    certificate: &Path,
    key: &Path,
    provider: &CryptoProvider,
) -> Result<CertifiedKey, FileError> {
    let chain = certificates(certificate)?;
    let shown = Certificate::parse(&chain[0]).ok();
    if let Some(reason) = shown.as_ref().and_then(|shown| key::check(shown).err()) {
        return Err(FileError::UnsupportedKey { path: certificate.to_owned(), reason });
    }
    let signing_key = provider
        .key_provider
        .load_private_key(private_key(key)?)
        .map_err(|reason| FileError::UnusableKey { path: key.to_owned(), reason })?;
    if let (Some(shown), Some(public)) = (&shown, signing_key.public_key())
        && shown.encoded_public_key().is_ok_and(|shown| shown != public.as_ref())
    {
        return Err(FileError::WrongKey { key: key.to_owned(), certificate: certificate.to_owned() });
    }
    Ok(CertifiedKey::new(chain, signing_key))
}

/// All certificates in a file, at least one.
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, FileError> {
    let text = read(path)?;
    let certificates = CertificateDer::pem_slice_iter(&text).collect::<Result<Vec<_>, _>>();
    certificates
        .ok()
        .filter(|certificates| !certificates.is_empty())
        .ok_or_else(|| FileError::NoCertificate(path.to_owned()))
}

/// The first private key in a file: PKCS#8, PKCS#1 or SEC1.
fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, FileError> {
    PrivateKeyDer::from_pem_slice(&read(path)?).map_err(|_| FileError::NoKey(path.to_owned()))
}

/// The authorities that may sign the certificates of peers.
#[derive(Debug, Clone)]
pub struct Authorities {
    /// The authorities in the form that rustls uses.
    pub roots: RootCertStore,
    /// The certificates in the file; empty for the system's authorities.
    pub certificates: Vec<CertificateDer<'static>>,
    unusable: Vec<Unusable>,
}

/// An authority in a file that cannot be used.
#[derive(Debug, Clone)]
struct Unusable {
    /// The encoded subject, as in the issuer field of certificates that it signed; empty if it cannot be read.
    subject: Vec<u8>,
    reason: String,
}

impl Authorities {
    /// Loads the authorities in a file, or the system's without a file. At least one must be usable.
    pub fn load(path: Option<&Path>) -> Result<Self, FileError> {
        match path {
            Some(path) => Self::of_file(path),
            None => Self::of_system(),
        }
    }

    fn of_file(path: &Path) -> Result<Self, FileError> {
        let certificates = certificates(path)?;
        let mut authorities =
            Authorities { roots: RootCertStore::empty(), certificates, unusable: Vec::new() };
        for certificate in &authorities.certificates {
            let parsed = Certificate::parse(certificate);
            let subject = parsed.as_ref().map(|parsed| parsed.subject().to_vec()).unwrap_or_default();
            let checked = match &parsed {
                Ok(parsed) => {
                    key::check(parsed).map_err(|reason| format!("{}: {reason}", parsed.subject_text()))
                }
                Err(_) => Ok(()),
            };
            let added = checked
                .and_then(|()| authorities.roots.add(certificate.clone()).map_err(|error| error.to_string()));
            if let Err(reason) = added {
                authorities.unusable.push(Unusable { subject, reason });
            }
        }
        match authorities.unusable.first() {
            Some(first) if authorities.roots.is_empty() => {
                let reason = first.reason.clone();
                Err(FileError::NoUsableAuthority { path: path.to_owned(), reason })
            }
            _ => Ok(authorities),
        }
    }

    fn of_system() -> Result<Self, FileError> {
        let mut roots = RootCertStore::empty();
        // Some systems have certificates that cannot be used; the others are enough.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if roots.is_empty() {
            return Err(FileError::NoRoots);
        }
        Ok(Authorities { roots, certificates: Vec::new(), unusable: Vec::new() })
    }

    /// Whether the certificate is that of an authority in the file.
    pub fn contains(&self, certificate: &CertificateDer<'_>) -> bool {
        self.certificates.contains(certificate)
    }

    /// The reason why rustls rejected a certificate: more specific than `error` if possible.
    pub fn explain(&self, certificate: &[u8], error: rustls::Error) -> rustls::Error {
        let Ok(certificate) = Certificate::parse(certificate) else { return error };
        if let Err(reason) = key::check(&certificate) {
            return crate::refused(reason);
        }
        let issuer = certificate.issuer();
        match self.unusable.iter().find(|authority| authority.subject == issuer) {
            Some(authority) => crate::refused(UnusableAuthority(authority.reason.clone())),
            None => error,
        }
    }
}

/// The certificate's authority is in the file, but cannot be used.
#[derive(thiserror::Error)]
#[error("its authority cannot be used: {0}")]
struct UnusableAuthority(String);

/// rustls prints foreign errors in this form.
impl std::fmt::Debug for UnusableAuthority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

fn read(path: &Path) -> Result<Vec<u8>, FileError> {
    std::fs::read(path).map_err(|source| FileError::Unreadable { path: path.to_owned(), source })
}
