//! What is asked of a client's certificate.

use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoClientAuth, WebPkiClientVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{TlsError, files};

/// See the module. Whoever presents a certificate proves, in each case, to have its key.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ClientAuth {
    /// Nothing.
    #[default]
    None,
    /// One, if it has one; any.
    Request,
    /// One; any.
    Require,
    /// One, if it has one; it must be good.
    VerifyIfGiven,
    /// One; it must be good.
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
        let good = || {
            let roots = Arc::new(files::roots(root_ca)?);
            Ok::<_, TlsError>(WebPkiClientVerifier::builder_with_provider(roots, provider.clone()))
        };
        let unusable = |error: rustls::server::VerifierBuilderError| Error::General(error.to_string());
        let or_authority = |signed| -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
            Ok(match root_ca {
                Some(path) => Arc::new(OrAuthority { signed, authorities: files::certificates(path)? }),
                None => signed,
            })
        };
        Ok(match self {
            Self::None => Arc::new(NoClientAuth),
            Self::Request => any(false),
            Self::Require => any(true),
            Self::VerifyIfGiven => or_authority(good()?.allow_unauthenticated().build().map_err(unusable)?)?,
            Self::RequireVerify => or_authority(good()?.build().map_err(unusable)?)?,
        })
    }
}

/// Takes what the authorities have signed, and also, as Go does, the certificate of one of them: one that signs itself
/// is both, as `openssl req -x509` makes it.
#[derive(Debug)]
struct OrAuthority {
    signed: Arc<dyn ClientCertVerifier>,
    authorities: Vec<CertificateDer<'static>>,
}

impl ClientCertVerifier for OrAuthority {
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
        match self.signed.verify_client_cert(certificate, intermediates, now) {
            // That it is an authority's has no name of its own. Times have been looked at before it.
            Err(Error::InvalidCertificate(CertificateError::Other(_)))
                if self.authorities.contains(certificate) && is_for_clients(certificate) =>
            {
                Ok(ClientCertVerified::assertion())
            }
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signed.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signed.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.signed.supported_verify_schemes()
    }
}

/// Whether it says nothing of what it is for, or that it is for clients.
fn is_for_clients(certificate: &CertificateDer<'_>) -> bool {
    let Ok((_, certificate)) = X509Certificate::from_der(certificate) else { return false };
    match certificate.extended_key_usage() {
        Ok(None) => true,
        Ok(Some(usage)) => usage.value.any || usage.value.client_auth,
        Err(_) => false,
    }
}

/// Takes any certificate, whoever has signed it.
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
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
