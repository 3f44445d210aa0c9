//! Which certificates are accepted or rejected, and the error messages. See `certificates/README.md`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nsq_tls::files::certificates;
use nsq_tls::{Authorities, Certificate, FileError, own_certificate, version_1};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::{CertificateError, Error};

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/certificates").join(name)
}

fn certificate(name: &str) -> CertificateDer<'static> {
    certificates(&file(name)).expect("a certificate").remove(0)
}

fn own(certificate: &str, key: &str) -> Result<(), String> {
    let own = own_certificate(&file(certificate), &file(key), &provider());
    own.map(drop).map_err(|error| error.to_string().replace(&*file("").to_string_lossy(), ""))
}

#[test]
fn own_certificates_of_any_version_are_loaded() {
    assert_eq!(own("version-1-ec.pem", "version-1-ec.key"), Ok(()));
    assert_eq!(own("version-1-rsa.pem", "version-1-rsa.key"), Ok(()));
    assert_eq!(own("by-rsa-1024.pem", "by-rsa-1024.key"), Ok(()));
}

#[test]
fn unusable_own_certificates_report_the_reason() {
    let refused = |certificate: &str, key: &str| own(certificate, key).unwrap_err();
    let supported = "is not supported; use RSA of 2048 to 8192 bits, ECDSA on P-256 or P-384, or Ed25519";
    assert_eq!(
        refused("rsa-1024.pem", "rsa-1024.key"),
        format!("the certificate in rsa-1024.pem cannot be used: an RSA key of 1024 bits {supported}")
    );
    assert_eq!(
        refused("p-521.pem", "p-521.key"),
        format!("the certificate in p-521.pem cannot be used: an ECDSA key on the curve P-521 {supported}")
    );
    assert_eq!(
        refused("version-1-ec.pem", "by-rsa-1024.key"),
        "the private key in by-rsa-1024.key does not belong to the certificate in version-1-ec.pem; name the files that \
         were made together"
    );
    assert!(
        refused("version-1-ec.key", "version-1-ec.key").starts_with("no certificate in version-1-ec.key: ")
    );
    assert!(refused("version-1-ec.pem", "ca.pem").starts_with("no private key in ca.pem: "));
    assert!(refused("none.pem", "ca.pem").starts_with("open none.pem: No such file"));
}

#[test]
fn unusable_authorities_report_the_reason() {
    let load = |name: &str| Authorities::load(Some(&file(name)));
    assert_eq!(load("ca.pem").unwrap().roots.len(), 1);
    assert_eq!(load("version-1-ec.pem").unwrap().roots.len(), 1);
    for (name, what) in [
        ("rsa-512.pem", "CN=rsa-512: an RSA key of 512 bits is not supported"),
        ("p-521.pem", "CN=p-521: an ECDSA key on the curve P-521 is not supported"),
    ] {
        let error = load(name).unwrap_err();
        assert!(matches!(error, FileError::NoUsableAuthority { .. }));
        assert!(error.to_string().contains(what), "{error}");
    }
}

#[test]
fn one_usable_authority_is_enough_and_unusable_issuers_are_reported() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("both.pem");
    let both = ["rsa-1024.pem", "ca.pem"].map(|name| std::fs::read_to_string(file(name)).unwrap()).concat();
    std::fs::write(&path, both).unwrap();
    let authorities = Authorities::load(Some(&path)).unwrap();
    assert_eq!((authorities.roots.len(), authorities.certificates.len()), (1, 2));
    let unknown = || Error::InvalidCertificate(CertificateError::UnknownIssuer);
    let explained = |name: &str| authorities.explain(&certificate(name), unknown()).to_string();
    assert!(
        explained("by-rsa-1024.pem")
            .contains("its authority cannot be used: CN=rsa-1024: an RSA key of 1024 bits")
    );
    assert!(explained("p-521.pem").contains("an ECDSA key on the curve P-521 is not supported"));
    assert_eq!(explained("version-1-ec.pem"), unknown().to_string());
}

fn judged(der: &[u8], authorities: &[CertificateDer<'_>], year: u64) -> Option<Result<(), Error>> {
    let now = UnixTime::since_unix_epoch(Duration::from_secs((year - 1970) * 31_556_952));
    version_1::verify_client(der, authorities, now, &provider().signature_verification_algorithms)
}

#[test]
fn version_1_is_accepted_if_signed_by_an_authority_and_valid_now() {
    let ca = [certificate("rsa-512.pem"), certificate("ca.pem")];
    let refused = |error: CertificateError| Some(Err(Error::InvalidCertificate(error)));
    for name in ["version-1-ec.pem", "version-1-rsa.pem"] {
        let certificate = certificate(name);
        assert_eq!(judged(&certificate, &ca, 2030), Some(Ok(())));
        assert_eq!(judged(&certificate, &ca[..1], 2030), refused(CertificateError::UnknownIssuer));
        assert_eq!(judged(&certificate, &[], 2030), refused(CertificateError::UnknownIssuer));
        assert_eq!(judged(&certificate, &ca, 2020), refused(CertificateError::NotValidYet));
        assert_eq!(judged(&certificate, &ca, 2200), refused(CertificateError::Expired));
    }
    assert_eq!(judged(&certificate("by-rsa-1024.pem"), &ca, 2030), None);
    assert_eq!(judged(b"no certificate", &ca, 2030), None);
}

#[test]
fn version_1_with_a_changed_byte_is_rejected() {
    let ca = [certificate("ca.pem")];
    let der = certificate("version-1-ec.pem").to_vec();
    for at in 0..der.len() {
        let mut changed = der.clone();
        changed[at] ^= 1;
        assert!(!matches!(judged(&changed, &ca, 2030), Some(Ok(()))), "byte {at}");
    }
}

#[test]
fn non_authority_certificate_may_not_sign() {
    // The certificate lacks an authority's right to sign.
    let key_pair = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::ExplicitNoCa;
    let no_authority = params.self_signed(&key_pair).unwrap();
    let parsed = Certificate::parse(no_authority.der()).unwrap();
    assert!(!version_1::may_sign_clients(&parsed));
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let may_sign = |params: &rcgen::CertificateParams| {
        let certificate = params.self_signed(&key_pair).unwrap();
        version_1::may_sign_clients(&Certificate::parse(certificate.der()).unwrap())
    };
    assert!(may_sign(&params));
    params.key_usages = vec![rcgen::KeyUsagePurpose::CrlSign];
    assert!(!may_sign(&params));
    params.key_usages.push(rcgen::KeyUsagePurpose::KeyCertSign);
    assert!(may_sign(&params));
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    assert!(!may_sign(&params));
    params.extended_key_usages.clear();
    params.name_constraints = Some(rcgen::NameConstraints {
        permitted_subtrees: vec![rcgen::GeneralSubtree::DnsName("example".into())],
        excluded_subtrees: vec![],
    });
    assert!(!may_sign(&params));
}
