//! TLS: whom to trust, and who to be. For connections to nsqd and for HTTP.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use nsq_tls::{Authorities, FileError, key, possession, version_1};
use parking_lot::Mutex;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::sign::SingleCertAndKey;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, SignatureScheme};

use crate::config::{Config, TlsVersion};
use crate::error::ConfigError;
use crate::unix_socket::is_socket_path;

/// What the `tls_` options of a [`Config`] mean, read from their files.
///
/// Producers and consumers make one for themselves. The HTTP clients in [`admin`](crate::admin) take one for `https`;
/// without, they trust what the system trusts. Files are read again when they have changed: the next connection uses
/// what they say then, and if that is no good, what they said before. Cheap to clone.
#[derive(Clone)]
pub struct Tls {
    inner: Arc<Inner>,
}

struct Inner {
    options: Options,
    /// None until first needed.
    current: Mutex<Option<Current>>,
}

struct Current {
    config: Arc<ClientConfig>,
    read_from: Vec<Option<(SystemTime, u64)>>,
}

#[derive(Clone, Debug, Default)]
struct Options {
    root_ca_file: Option<PathBuf>,
    certificate: Option<(PathBuf, PathBuf)>,
    server_name: Option<ServerName<'static>>,
    insecure_skip_verify: bool,
    only_tls13: bool,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Tls").field(&self.inner.options).finish()
    }
}

impl Default for Tls {
    /// Trusts what the system trusts, and has no certificate.
    fn default() -> Self {
        Tls::from_options(Options::default())
    }
}

impl Tls {
    /// Reads the files that the `tls_` options name.
    pub fn new(config: &Config) -> Result<Self, ConfigError> {
        let certificate = match (&config.tls_cert, &config.tls_key) {
            (Some(certificate), Some(key)) => Some((certificate.clone(), key.clone())),
            (None, None) => None,
            _ => return Err(ConfigError::Conflict("tls_cert and tls_key go together")),
        };
        let server_name = config.tls_server_name.as_ref().map(|name| {
            ServerName::try_from(name.clone())
                .map_err(|_| ConfigError::Tls { reason: format!("{name:?} is not a host name") })
        });
        let tls = Tls::from_options(Options {
            root_ca_file: config.tls_root_ca_file.clone(),
            certificate,
            server_name: server_name.transpose()?,
            insecure_skip_verify: config.tls_insecure_skip_verify,
            only_tls13: config.tls_min_version == TlsVersion::Tls13,
        });
        tls.client_config()?;
        Ok(tls)
    }

    fn from_options(options: Options) -> Self {
        Tls { inner: Arc::new(Inner { options, current: Mutex::new(None) }) }
    }

    /// What a connection that begins now uses: for connections that are made without this library.
    pub fn client_config(&self) -> Result<Arc<ClientConfig>, ConfigError> {
        let mut current = self.inner.current.lock();
        let files = self.inner.options.fingerprint();
        if let Some(current) = &*current
            && current.read_from == files
        {
            return Ok(Arc::clone(&current.config));
        }
        match (self.inner.options.build(), &mut *current) {
            (Ok(config), current) => {
                let config = Arc::new(config);
                *current = Some(Current { config: Arc::clone(&config), read_from: files });
                Ok(config)
            }
            // In the middle of a change, perhaps. It is tried again with the next connection.
            (Err(_), Some(current)) => Ok(Arc::clone(&current.config)),
            (Err(error), None) => Err(error),
        }
    }

    /// The name that a server's certificate must have, for `host:port`; for the path of a unix socket that is
    /// `localhost`.
    pub fn server_name(&self, address: &str) -> Result<ServerName<'static>, ConfigError> {
        if let Some(name) = &self.inner.options.server_name {
            return Ok(name.clone());
        }
        let address = if is_socket_path(address) { "localhost" } else { address };
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        ServerName::try_from(host.to_owned())
            .map_err(|_| ConfigError::Tls { reason: format!("{host:?} is not a host name") })
    }

    /// The name set to be expected of all servers.
    pub(crate) fn fixed_server_name(&self) -> Option<ServerName<'static>> {
        self.inner.options.server_name.clone()
    }
}

impl Options {
    fn build(&self) -> Result<ClientConfig, ConfigError> {
        let refused = |error: rustls::Error| ConfigError::Tls { reason: error.to_string() };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let versions: &[_] = match self.only_tls13 {
            true => &[&rustls::version::TLS13],
            false => &[&rustls::version::TLS13, &rustls::version::TLS12],
        };
        let verifier: Arc<dyn ServerCertVerifier> = if self.insecure_skip_verify {
            Arc::new(AnyServer(Arc::clone(&provider)))
        } else {
            let authorities = Authorities::load(self.root_ca_file.as_deref()).map_err(unusable)?;
            let roots = Arc::new(authorities.roots.clone());
            let signed = WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&provider))
                .build()
                .map_err(|error| ConfigError::Tls { reason: error.to_string() })?;
            Arc::new(OrAuthority { signed, authorities })
        };
        let own = match &self.certificate {
            None => None,
            Some((certificate, key)) => {
                Some(nsq_tls::own_certificate(certificate, key, &provider).map_err(unusable)?)
            }
        };
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .map_err(refused)?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        Ok(match own {
            None => builder.with_no_client_auth(),
            Some(own) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(own))),
        })
    }

    /// What tells whether the files have changed.
    fn fingerprint(&self) -> Vec<Option<(SystemTime, u64)>> {
        let files = self.certificate.iter().flat_map(|(certificate, key)| [certificate, key]);
        files
            .chain(&self.root_ca_file)
            .map(|path| {
                let file = std::fs::metadata(path).ok()?;
                Some((file.modified().ok()?, file.len()))
            })
            .collect()
    }
}

fn unusable(error: FileError) -> ConfigError {
    let reason = match error {
        FileError::NoRoots => "this system trusts no certificate authority: set tls_root_ca_file".to_owned(),
        error => error.to_string(),
    };
    ConfigError::Tls { reason }
}

/// Trusts whom the authorities of a file have vouched for, and also the server that has the certificate of one of them:
/// one that signs itself is both, as `openssl req -x509` makes it.
#[derive(Debug)]
struct OrAuthority {
    signed: Arc<WebPkiServerVerifier>,
    authorities: Authorities,
}

impl ServerCertVerifier for OrAuthority {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if key::parse(certificate).is_ok_and(|certificate| version_1::is_version_1(&certificate)) {
            return Err(nsq_tls::refused(NoNames));
        }
        match self.signed.verify_server_cert(certificate, intermediates, name, ocsp_response, now) {
            // That it is an authority's has no name of its own. Times have been looked at before it, names not.
            Err(rustls::Error::InvalidCertificate(CertificateError::Other(_)))
                if self.authorities.contains(certificate) =>
            {
                verify_server_name(&ParsedCertificate::try_from(certificate)?, name)?;
                Ok(ServerCertVerified::assertion())
            }
            verified => verified.map_err(|error| self.authorities.explain(certificate, error)),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.signed.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.signed.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.signed.supported_verify_schemes()
    }
}

/// A server's certificate of X.509 version 1.
#[derive(thiserror::Error)]
#[error(
    "it is of X.509 version 1, which names no hosts; make one of version 3 with a subjectAltName, or set \
     tls_insecure_skip_verify"
)]
struct NoNames;

/// rustls prints the reasons of others in this form.
impl fmt::Debug for NoNames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Trusts any server, but that it has the key of the certificate that it shows.
#[derive(Debug)]
struct AnyServer(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        key::check(&key::parse(certificate)?).map_err(nsq_tls::refused)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        possession::verify_tls12(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        possession::verify_tls13(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
