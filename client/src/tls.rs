//! TLS for connections to nsqd and for HTTP: trusted authorities and the client's certificate.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use nsq_tls::{Authorities, Certificate, FileError, key, possession};
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

/// The `tls_` options of a [`Config`], with the contents of their files.
///
/// Producers and consumers create their own. The HTTP clients in [`admin`](crate::admin) accept one for `https`;
/// without it, they trust the authorities of the system. When a file changes, the next connection uses the new content,
/// or the old content if the new one is invalid. Cheap to clone.
#[derive(Clone)]
pub struct Tls {
    inner: Arc<Inner>,
}

struct Inner {
    options: Options,
    /// `None` until the first use.
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
    /// Trusts the authorities of the system, and has no client certificate.
    fn default() -> Self {
        Tls::from_options(Options::default())
    }
}

impl Tls {
    /// Reads the files that the `tls_` options name. Fails if one of them cannot be used.
    pub fn new(config: &Config) -> Result<Self, ConfigError> {
        let certificate = match (&config.tls_cert, &config.tls_key) {
            (Some(certificate), Some(key)) => Some((certificate.clone(), key.clone())),
            (None, None) => None,
            _ => return Err(ConfigError::Conflict("tls_cert and tls_key must be set together")),
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

    /// Returns the rustls settings for a new connection, for connections that are opened without this library.
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
            // The files may be in the middle of a change. The next connection reads them again.
            (Err(_), Some(current)) => Ok(Arc::clone(&current.config)),
            (Err(error), None) => Err(error),
        }
    }

    /// Returns the name for which a server's certificate must be valid: `tls_server_name` if set, else the host of
    /// `address`, or `localhost` for the path of a unix socket.
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

    /// Returns `tls_server_name`.
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

    /// Returns times and sizes of the files, to detect changes.
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

/// Accepts certificates signed by the trusted authorities, and the certificate of an authority itself. A self-signed
/// certificate is both, as `openssl req -x509` makes it.
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
        if Certificate::parse(certificate).is_ok_and(|certificate| certificate.is_version_1()) {
            return Err(nsq_tls::refused(NoNames));
        }
        match self.signed.verify_server_cert(certificate, intermediates, name, ocsp_response, now) {
            // rustls has no own error for the certificate of an authority. It has checked the times, but not the names.
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

/// The certificate of a server is of X.509 version 1.
#[derive(thiserror::Error)]
#[error(
    "the certificate is of X.509 version 1, which names no hosts; create one of version 3 with a \
     subjectAltName, or set tls_insecure_skip_verify"
)]
struct NoNames;

/// rustls prints custom errors with `Debug`.
impl fmt::Debug for NoNames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Accepts any server that proves that it has the key of its certificate.
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
        key::check(&Certificate::parse(certificate)?).map_err(nsq_tls::refused)?;
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
