//! Pure: reading X.509 certificates of any version. What is not needed to tell a certificate's keys, names and version is
//! decoded only when it is asked for, so that an odd extension does not make the rest unreadable.

use der::asn1::{AnyRef, BitStringRef};
use der::oid::AssociatedOid;
use der::oid::db::rfc4519::CN;
use der::{Decode, Encode, Sequence, Tag, Tagged};
use rustls::{CertificateError, Error};
use x509_cert::ext::{Extension, Extensions};
use x509_cert::name::RdnSequence;
use x509_cert::spki::SubjectPublicKeyInfoRef;
use x509_cert::time::Validity;

/// A certificate whose signature is not verified.
#[derive(Debug, Clone)]
pub struct Certificate<'a> {
    parts: Signed<'a>,
    fields: Fields<'a>,
}

/// `Certificate` in RFC 5280, section 4.1.
#[derive(Debug, Clone, Sequence)]
struct Signed<'a> {
    fields: AnyRef<'a>,
    algorithm: AnyRef<'a>,
    signature: BitStringRef<'a>,
}

/// `TBSCertificate` in RFC 5280, section 4.1.
#[derive(Debug, Clone, Sequence)]
struct Fields<'a> {
    /// One less than the version.
    #[asn1(context_specific = "0", default = "Default::default")]
    version: u8,
    serial_number: AnyRef<'a>,
    algorithm: AnyRef<'a>,
    issuer: AnyRef<'a>,
    validity: AnyRef<'a>,
    subject: AnyRef<'a>,
    public_key: AnyRef<'a>,
    #[asn1(context_specific = "1", tag_mode = "IMPLICIT", optional = "true")]
    issuer_id: Option<BitStringRef<'a>>,
    #[asn1(context_specific = "2", tag_mode = "IMPLICIT", optional = "true")]
    subject_id: Option<BitStringRef<'a>>,
    #[asn1(context_specific = "3", tag_mode = "EXPLICIT", optional = "true")]
    extensions: Option<AnyRef<'a>>,
}

impl<'a> Certificate<'a> {
    /// Parses an encoded certificate.
    pub fn parse(certificate: &'a [u8]) -> Result<Self, Error> {
        let parts = Signed::from_der(certificate).map_err(bad_encoding)?;
        // The only part that neither the signature nor decoding protects.
        parts.algorithm.tag().assert_eq(Tag::Sequence).map_err(bad_encoding)?;
        let fields = parts.fields.decode_as().map_err(bad_encoding)?;
        Ok(Certificate { parts, fields })
    }

    /// Whether the certificate has version 1.
    pub fn is_version_1(&self) -> bool {
        self.fields.version == 0
    }

    /// The last common name of the subject that is text.
    pub fn common_name(&self) -> Option<String> {
        let subject: RdnSequence = self.fields.subject.decode_as().ok()?;
        let attributes = subject.iter().flat_map(|relative| relative.iter().cloned().collect::<Vec<_>>());
        let names = attributes.filter(|attribute| attribute.oid == CN);
        // The types of text are a tag and bytes, which are UTF-8 in all but rare old ones.
        names.filter_map(|name| std::str::from_utf8(name.value.value()).ok().map(str::to_owned)).last()
    }

    /// The subject as text, such as `CN=example`; empty if it cannot be read.
    pub fn subject_text(&self) -> String {
        let subject: Result<RdnSequence, _> = self.fields.subject.decode_as();
        subject.map(|subject| subject.to_string()).unwrap_or_default()
    }

    /// The encoded names in the subject. A certificate that this one has signed has the same bytes as its [`issuer`].
    ///
    /// [`issuer`]: Certificate::issuer
    pub fn subject(&self) -> &'a [u8] {
        self.fields.subject.value()
    }

    /// The encoded names in the issuer.
    pub fn issuer(&self) -> &'a [u8] {
        self.fields.issuer.value()
    }

    /// The public key.
    pub fn public_key(&self) -> Result<SubjectPublicKeyInfoRef<'a>, Error> {
        self.fields.public_key.decode_as().map_err(bad_encoding)
    }

    /// The public key in encoded form.
    pub fn encoded_public_key(&self) -> Result<Vec<u8>, Error> {
        self.fields.public_key.to_der().map_err(bad_encoding)
    }

    pub(crate) fn validity(&self) -> Result<Validity, Error> {
        self.fields.validity.decode_as().map_err(bad_encoding)
    }

    pub(crate) fn has_extensions(&self) -> bool {
        self.fields.extensions.is_some()
    }

    /// An extension, if the certificate has it; an error if it cannot be read.
    pub(crate) fn extension<E: AssociatedOid + for<'e> Decode<'e, Error = der::Error>>(
        &self,
    ) -> Result<Option<E>, Error> {
        let Some(extensions) = self.fields.extensions else { return Ok(None) };
        let extensions: Extensions = extensions.decode_as().map_err(bad_encoding)?;
        let mut found = extensions.iter().filter(|extension| extension.extn_id == E::OID);
        match (found.next(), found.next()) {
            (None, _) => Ok(None),
            (Some(Extension { extn_value, .. }), None) => {
                E::from_der(extn_value.as_bytes()).map(Some).map_err(bad_encoding)
            }
            (Some(_), Some(_)) => Err(CertificateError::BadEncoding.into()),
        }
    }

    pub(crate) fn signature(&self) -> Result<Signature<'a>, Error> {
        Ok(Signature {
            signed: self.parts.fields.to_der().map_err(bad_encoding)?,
            algorithm: self.parts.algorithm.value(),
            bytes: self.parts.signature.as_bytes().ok_or(CertificateError::BadEncoding)?,
        })
    }

    /// The content of the identifier of the public key's algorithm, and the key itself.
    pub(crate) fn key_parts(&self) -> Result<(&'a [u8], &'a [u8]), Error> {
        let key: KeyParts<'a> = self.fields.public_key.decode_as().map_err(bad_encoding)?;
        Ok((key.algorithm.value(), key.key.raw_bytes()))
    }
}

/// The signature of a certificate by its authority.
pub(crate) struct Signature<'a> {
    pub(crate) signed: Vec<u8>,
    /// The content of the identifier of the algorithm.
    pub(crate) algorithm: &'a [u8],
    pub(crate) bytes: &'a [u8],
}

/// `SubjectPublicKeyInfo` in RFC 5280, section 4.1.
#[derive(Sequence)]
struct KeyParts<'a> {
    algorithm: AnyRef<'a>,
    key: BitStringRef<'a>,
}

fn bad_encoding(_: der::Error) -> Error {
    CertificateError::BadEncoding.into()
}
