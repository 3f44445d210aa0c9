//! What is asked of a client's certificate.

use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoClientAuth, WebPkiClientVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};

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
        Ok(match self {
            Self::None => Arc::new(NoClientAuth),
            Self::Request => any(false),
            Self::Require => any(true),
            Self::VerifyIfGiven => good()?.allow_unauthenticated().build().map_err(unusable)?,
            Self::RequireVerify => good()?.build().map_err(unusable)?,
        })
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
