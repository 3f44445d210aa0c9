//! Certificates, keys and authorities from PEM files.

use std::io;
use std::path::{Path, PathBuf};

use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use crate::key::{self, UnsupportedKey};

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be read.
    #[error("open {}: {source}", path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It holds no certificate, or a broken one.
    #[error("no certificate in {}: a PEM file with BEGIN CERTIFICATE is expected", .0.display())]
    NoCertificate(PathBuf),
    /// It holds no private key.
    #[error("no private key in {}: a PEM file with BEGIN PRIVATE KEY is expected, without a passphrase", .0.display())]
    NoKey(PathBuf),
    /// The key of its certificate is of no use.
    #[error("the certificate in {} cannot be used: {reason}", path.display())]
    UnsupportedKey {
        /// Which.
        path: PathBuf,
        /// Why.
        reason: UnsupportedKey,
    },
    /// Its private key is of no use.
    #[error("the private key in {} cannot be used: {reason}", path.display())]
    UnusableKey {
        /// Which.
        path: PathBuf,
        /// Why.
        reason: rustls::Error,
    },
    /// Certificate and key do not go together.
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
    /// None of its authorities is of use.
    #[error("no authority in {} can be used: {reason}", path.display())]
    NoUsableAuthority {
        /// Which.
        path: PathBuf,
        /// Why the first cannot.
        reason: String,
    },
    /// This system has no certificates of authorities, and none were given.
    #[error("no certificates of authorities: this system has none, and no file was given")]
    NoRoots,
}

/// The certificate to show, with those between it and its root, and its private key. Only the public key in the
/// certificate is looked at: the rest is for the other side to judge.
pub fn own_certificate(
    certificate: &Path,
    key: &Path,
    provider: &CryptoProvider,
) -> Result<CertifiedKey, FileError> {
    let chain = certificates(certificate)?;
    let shown = key::parse(&chain[0]).ok();
    if let Some(reason) = shown.as_ref().and_then(|shown| key::check(shown).err()) {
        return Err(FileError::UnsupportedKey { path: certificate.to_owned(), reason });
    }
    let signing_key = provider
        .key_provider
        .load_private_key(private_key(key)?)
        .map_err(|reason| FileError::UnusableKey { path: key.to_owned(), reason })?;
    if let (Some(shown), Some(public)) = (&shown, signing_key.public_key())
        && shown.public_key().raw != public.as_ref()
    {
        return Err(FileError::WrongKey { key: key.to_owned(), certificate: certificate.to_owned() });
    }
    drop(shown);
    Ok(CertifiedKey::new(chain, signing_key))
}

/// All certificates of a file, at least one.
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, FileError> {
    let text = read(path)?;
    let certificates = CertificateDer::pem_slice_iter(&text).collect::<Result<Vec<_>, _>>();
    certificates
        .ok()
        .filter(|certificates| !certificates.is_empty())
        .ok_or_else(|| FileError::NoCertificate(path.to_owned()))
}

/// The first private key of a file: PKCS#8, PKCS#1 or SEC1.
fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, FileError> {
    PrivateKeyDer::from_pem_slice(&read(path)?).map_err(|_| FileError::NoKey(path.to_owned()))
}

/// Who vouches for the certificates of others.
#[derive(Debug, Clone)]
pub struct Authorities {
    /// For rustls.
    pub roots: RootCertStore,
    /// The certificates of the file; none if they are the system's.
    pub certificates: Vec<CertificateDer<'static>>,
    unusable: Vec<Unusable>,
}

/// An authority of a file that cannot be used.
#[derive(Debug, Clone)]
struct Unusable {
    /// Its name, as those that it has signed spell it; empty if it cannot be read.
    subject: Vec<u8>,
    reason: String,
}

impl Authorities {
    /// Those of a file; the system's without one. Of several it is enough that one can be used.
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
            let parsed = key::parse(certificate);
            let subject =
                parsed.as_ref().map(|parsed| parsed.subject().as_raw().to_vec()).unwrap_or_default();
            let checked = match &parsed {
                Ok(parsed) => key::check(parsed).map_err(|reason| format!("{}: {reason}", parsed.subject())),
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
        // Some systems carry certificates that are no good; the others serve.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if roots.is_empty() {
            return Err(FileError::NoRoots);
        }
        Ok(Authorities { roots, certificates: Vec::new(), unusable: Vec::new() })
    }

    /// Whether the certificate is the one of an authority itself.
    pub fn contains(&self, certificate: &CertificateDer<'_>) -> bool {
        self.certificates.contains(certificate)
    }

    /// Why a certificate that was refused is refused, in words that say more than rustls's.
    pub fn explain(&self, certificate: &[u8], error: rustls::Error) -> rustls::Error {
        let Ok(certificate) = key::parse(certificate) else { return error };
        if let Err(reason) = key::check(&certificate) {
            return crate::refused(reason);
        }
        let issuer = certificate.issuer().as_raw();
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

/// rustls prints the reasons of others in this form.
impl std::fmt::Debug for UnusableAuthority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

fn read(path: &Path) -> Result<Vec<u8>, FileError> {
    std::fs::read(path).map_err(|source| FileError::Unreadable { path: path.to_owned(), source })
}
