//! Requirements for a client's certificate.

use std::path::Path;
use std::sync::Arc;

use nsq_tls::{Authorities, Certificate, key, possession, version_1};
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoClientAuth, VerifierBuilderError, WebPkiClientVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};

use super::TlsError;

/// What the server requires of a client's certificate. A client that sends one must always prove that it has the key.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ClientAuth {
    /// Request no certificate.
    #[default]
    None,
    /// Request a certificate; accept any, or none.
    Request,
    /// Require a certificate; accept any.
    Require,
    /// Request a certificate; verify it if the client sends one.
    VerifyIfGiven,
    /// Require a certificate and verify it.
    RequireVerify,
}

impl ClientAuth {
    pub(super) fn verifier(
        self,
        root_ca: Option<&Path>,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
        let any = |is_mandatory| -> Arc<dyn ClientCertVerifier> {
            Arc::new(AnyCertificate { is_mandatory, provider: provider.clone() })
        };
        let signed = || {
            let authorities = Authorities::load(root_ca)?;
            let roots = Arc::new(authorities.roots.clone());
            let signed = WebPkiClientVerifier::builder_with_provider(roots, provider.clone());
            Ok::<_, TlsError>((signed, authorities))
        };
        let verifying = |signed: Result<Arc<dyn ClientCertVerifier>, VerifierBuilderError>, authorities| {
            let signed = signed.map_err(|error| Error::General(error.to_string()))?;
            let verifier: Arc<dyn ClientCertVerifier> =
                Arc::new(VerifiedCertificate { signed, authorities, provider: provider.clone() });
            Ok::<_, TlsError>(verifier)
        };
        Ok(match self {
            Self::None => Arc::new(NoClientAuth),
            Self::Request => any(false),
            Self::Require => any(true),
            Self::VerifyIfGiven => {
                let (signed, authorities) = signed()?;
                verifying(signed.allow_unauthenticated().build(), authorities)?
            }
            Self::RequireVerify => {
                let (signed, authorities) = signed()?;
                verifying(signed.build(), authorities)?
            }
        })
    }
}

/// Accepts certificates signed by the authorities and, as Go does, the certificate of an authority itself. A
/// self-signed certificate as `openssl req -x509` makes it is both.
#[derive(Debug)]
struct VerifiedCertificate {
    signed: Arc<dyn ClientCertVerifier>,
    authorities: Authorities,
    provider: Arc<CryptoProvider>,
}

impl ClientCertVerifier for VerifiedCertificate {
    fn offer_client_auth(&self) -> bool {
        self.signed.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.signed.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.signed.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        let authorities = &self.authorities.certificates;
        let verified = match version_1::verify_client(certificate, authorities, now, algorithms) {
            Some(verified) => verified.map(|()| ClientCertVerified::assertion()),
            None => self.signed.verify_client_cert(certificate, intermediates, now),
        };
        match verified {
            // A certificate that is an authority's has no error of its own. Validity times are checked before this.
            Err(Error::InvalidCertificate(CertificateError::Other(_)))
                if self.authorities.contains(certificate)
                    && Certificate::parse(certificate).is_ok_and(|own| version_1::is_for_clients(&own)) =>
            {
                Ok(ClientCertVerified::assertion())
            }
            verified => verified.map_err(|error| self.authorities.explain(certificate, error)),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        possession::verify_tls12(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        possession::verify_tls13(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.signed.supported_verify_schemes()
    }
}

/// Accepts any certificate, regardless of the authority that signed it.
#[derive(Debug)]
struct AnyCertificate {
    is_mandatory: bool,
    provider: Arc<CryptoProvider>,
}

impl ClientCertVerifier for AnyCertificate {
    fn client_auth_mandatory(&self) -> bool {
        self.is_mandatory
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        key::check(&Certificate::parse(certificate)?).map_err(nsq_tls::refused)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        possession::verify_tls12(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        possession::verify_tls13(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use rustls::client::danger::{ServerCertVerified, ServerCertVerifier};
    use rustls::pki_types::ServerName;
    use rustls::sign::SingleCertAndKey;
    use rustls::{ClientConfig, ClientConnection, ServerConnection, SupportedProtocolVersion};

    use super::*;
    use crate::tls::TlsOptions;

    /// A client that verifies only the server's signature.
    #[derive(Debug)]
    struct AnyServer(Arc<CryptoProvider>);

    impl ServerCertVerifier for AnyServer {
        fn verify_server_cert(
            &self,
            _: &CertificateDer<'_>,
            _: &[CertificateDer<'_>],
            _: &ServerName<'_>,
            _: &[u8],
            _: UnixTime,
        ) -> Result<ServerCertVerified, Error> {
            Ok(ServerCertVerified::assertion())
        }

        fn verify_tls12_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            possession::verify_tls12(
                message,
                certificate,
                signature,
                &self.0.signature_verification_algorithms,
            )
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            possession::verify_tls13(
                message,
                certificate,
                signature,
                &self.0.signature_verification_algorithms,
            )
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.0.signature_verification_algorithms.supported_schemes()
        }
    }

    fn file(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../tls/tests/certificates").join(name)
    }

    /// Runs a handshake with a client that sends the certificate in one file and signs with the key in another.
    fn handshake(
        client_auth: ClientAuth,
        (certificate, key): (&str, &str),
        version: &'static SupportedProtocolVersion,
    ) -> Result<(), Error> {
        let options = TlsOptions {
            certificate: file("version-1-rsa.pem"),
            key: file("version-1-rsa.key"),
            root_ca: Some(file("ca.pem")),
            client_auth,
            only_tls13: false,
        };
        let server = Arc::new(options.build().unwrap());
        let provider = crate::tls::provider();
        let mut own =
            nsq_tls::own_certificate(&file(key).with_extension("pem"), &file(key), &provider).unwrap();
        own.cert = nsq_tls::files::certificates(&file(certificate)).unwrap();
        let client = ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[version])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyServer(provider)))
            .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(own)));
        let name = ServerName::try_from("localhost").unwrap();
        let mut client = ClientConnection::new(Arc::new(client), name).unwrap();
        let mut server = ServerConnection::new(server).unwrap();
        while client.is_handshaking() || server.is_handshaking() {
            let mut wire = Vec::new();
            while client.wants_write() {
                client.write_tls(&mut wire).unwrap();
            }
            let mut wire = &wire[..];
            while !wire.is_empty() {
                server.read_tls(&mut wire).unwrap();
                server.process_new_packets()?;
            }
            let mut wire = Vec::new();
            while server.wants_write() {
                server.write_tls(&mut wire).unwrap();
            }
            let mut wire = &wire[..];
            while !wire.is_empty() {
                client.read_tls(&mut wire).unwrap();
                client.process_new_packets()?;
            }
        }
        Ok(())
    }

    const VERSIONS: [&SupportedProtocolVersion; 2] = [&rustls::version::TLS12, &rustls::version::TLS13];
    const POLICIES: [ClientAuth; 4] =
        [ClientAuth::Request, ClientAuth::Require, ClientAuth::VerifyIfGiven, ClientAuth::RequireVerify];

    #[test]
    fn version_1_certificates_work_on_both_sides() {
        for version in VERSIONS {
            for policy in POLICIES {
                for name in ["ec", "rsa"] {
                    let (certificate, key) =
                        (format!("version-1-{name}.pem"), format!("version-1-{name}.key"));
                    let result = handshake(policy, (&certificate, &key), version);
                    assert_eq!(result, Ok(()), "{version:?} {policy:?} {name}");
                }
            }
        }
    }

    #[test]
    fn client_without_the_key_of_its_certificate_is_refused() {
        for version in VERSIONS {
            for policy in POLICIES {
                for pair in [
                    ("version-1-ec.pem", "by-rsa-1024.key"),
                    ("version-1-rsa.pem", "by-rsa-1024.key"),
                    ("ca.pem", "version-1-ec.key"),
                ] {
                    let result = handshake(policy, pair, version);
                    assert!(result.is_err(), "{version:?} {policy:?} {pair:?}");
                }
            }
        }
    }

    #[test]
    fn unsupported_keys_are_named_in_the_error() {
        for policy in POLICIES {
            for (certificate, what) in [
                ("rsa-1024.pem", "an RSA key of 1024 bits is not supported"),
                ("p-521.pem", "an ECDSA key on the curve P-521 is not supported"),
            ] {
                let error = handshake(policy, (certificate, "version-1-ec.key"), &rustls::version::TLS13);
                let text = error.unwrap_err().to_string();
                assert!(text.contains(what), "{policy:?}: {text}");
            }
        }
    }
}
