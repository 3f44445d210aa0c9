//! Certificates and keys as PEM files in a separate folder, generated for each test.

use std::path::PathBuf;
use std::sync::Arc;

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion};
use tempfile::TempDir;

/// An authority and the certificates it has issued: NAME`.pem` with NAME`.key` for `ca` and for each other name.
pub struct Certificates {
    folder: TempDir,
    authority: Issuer<'static, KeyPair>,
}

impl Default for Certificates {
    fn default() -> Self {
        Self::new()
    }
}

impl Certificates {
    /// An authority that has issued a certificate to `server` and one to `client`.
    pub fn new() -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = params("authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key).expect("a certificate");
        let folder = TempDir::with_prefix("nsq-tests-").expect("a temporary directory");
        let secret = key.serialize_pem();
        let certificates = Certificates { folder, authority: Issuer::new(params, key) };
        certificates.write("ca.pem", &certificate.pem());
        certificates.write("ca.key", &secret);
        certificates.issue("server");
        certificates.issue("client");
        certificates
    }

    /// Issues a certificate for this machine, with `name` as its common name. Replaces an existing one of that name.
    pub fn issue(&self, name: &str) {
        let key = KeyPair::generate().expect("a key");
        let certificate = leaf(name).signed_by(&key, &self.authority).expect("a certificate");
        self.write_pair(name, &certificate, &key);
    }

    /// Creates a self-signed certificate, which no authority vouches for.
    pub fn self_sign(&self, name: &str) {
        let key = KeyPair::generate().expect("a key");
        let certificate = leaf(name).self_signed(&key).expect("a certificate");
        self.write_pair(name, &certificate, &key);
    }

    /// Creates a self-signed certificate that may sign others, as `openssl req -x509` does.
    pub fn self_sign_as_authority(&self, name: &str) {
        let key = KeyPair::generate().expect("a key");
        let mut params = leaf(name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).expect("a certificate");
        self.write_pair(name, &certificate, &key);
    }

    /// The path of a file, for use in a flag.
    pub fn path(&self, file: &str) -> String {
        self.file(file).to_str().expect("a UTF-8 path").to_owned()
    }

    /// Writes a file into the folder.
    pub fn write(&self, file: &str, text: &str) {
        std::fs::write(self.file(file), text).expect("a file in a temporary directory");
    }

    /// The certificate of `name`, in DER form.
    pub fn certificate(&self, name: &str) -> CertificateDer<'static> {
        CertificateDer::from_pem_file(self.file(&format!("{name}.pem"))).expect("a certificate")
    }

    /// Flags of an nsqd with the certificate of `server`.
    pub fn flags(&self) -> [String; 2] {
        [format!("--tls-cert={}", self.path("server.pem")), format!("--tls-key={}", self.path("server.key"))]
    }

    /// Configuration of a client that trusts the authority and has the certificate of `name`, if given.
    pub fn client(&self, name: Option<&str>) -> Arc<ClientConfig> {
        self.client_of_version(name, rustls::ALL_VERSIONS)
    }

    /// Like [`Certificates::client`], for the given TLS versions.
    pub fn client_of_version(
        &self,
        name: Option<&str>,
        versions: &[&'static SupportedProtocolVersion],
    ) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate("ca")).expect("the authority's certificate");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .expect("known versions")
            .with_root_certificates(roots);
        let config = match name {
            None => builder.with_no_client_auth(),
            Some(name) => builder
                .with_client_auth_cert(vec![self.certificate(name)], self.key(name))
                .expect("a matching key"),
        };
        Arc::new(config)
    }

    /// Configuration of a server with the certificate of `name`, which requests none from clients.
    pub fn server(&self, name: &str) -> Arc<ServerConfig> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("known versions");
        let config =
            builder.with_no_client_auth().with_single_cert(vec![self.certificate(name)], self.key(name));
        Arc::new(config.expect("a matching key"))
    }

    fn key(&self, name: &str) -> PrivateKeyDer<'static> {
        PrivateKeyDer::from_pem_file(self.file(&format!("{name}.key"))).expect("a key")
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write_pair(&self, name: &str, certificate: &Certificate, key: &KeyPair) {
        self.write(&format!("{name}.pem"), &certificate.pem());
        self.write(&format!("{name}.key"), &key.serialize_pem());
    }
}

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

fn leaf(name: &str) -> CertificateParams {
    let names = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
    let mut params = CertificateParams::new(names).expect("names of this machine");
    params.distinguished_name.push(DnType::CommonName, name);
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    params
}
