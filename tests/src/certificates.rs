//! Certificates and keys in a folder of their own, made anew for each test, as PEM files.

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

/// An authority, and what it has issued: NAME`.pem` with NAME`.key` for `ca` and for each other name.
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

    /// Issues a certificate for this machine, with `name` as its common name. Replaces one that is there.
    pub fn issue(&self, name: &str) {
        let key = KeyPair::generate().expect("a key");
        let certificate = leaf(name).signed_by(&key, &self.authority).expect("a certificate");
        self.write_pair(name, &certificate, &key);
    }

    /// Makes a certificate that nobody vouches for.
    pub fn self_sign(&self, name: &str) {
        let key = KeyPair::generate().expect("a key");
        let certificate = leaf(name).self_signed(&key).expect("a certificate");
        self.write_pair(name, &certificate, &key);
    }

    /// Makes a certificate that signs itself and may sign others, as `openssl req -x509` does.
    pub fn self_sign_as_authority(&self, name: &str) {
        let key = KeyPair::generate().expect("a key");
        let mut params = leaf(name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).expect("a certificate");
        self.write_pair(name, &certificate, &key);
    }

    /// The path of a file, as a flag wants it.
    pub fn path(&self, file: &str) -> String {
        self.file(file).to_str().expect("a path of letters").to_owned()
    }

    /// Writes a file.
    pub fn write(&self, file: &str, text: &str) {
        std::fs::write(self.file(file), text).expect("a file in a temporary directory");
    }

    /// The certificate of `name`, as it goes over the wire.
    pub fn certificate(&self, name: &str) -> CertificateDer<'static> {
        CertificateDer::from_pem_file(self.file(&format!("{name}.pem"))).expect("a certificate")
    }

    /// Flags of an nsqd that is `server`.
    pub fn flags(&self) -> [String; 2] {
        [format!("--tls-cert={}", self.path("server.pem")), format!("--tls-key={}", self.path("server.key"))]
    }

    /// A client that trusts the authority, and that has the certificate of `name` if there is one.
    pub fn client(&self, name: Option<&str>) -> Arc<ClientConfig> {
        self.client_of_version(name, rustls::ALL_VERSIONS)
    }

    /// The same for certain versions of TLS.
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

    /// A server that has the certificate of `name` and asks for none.
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
