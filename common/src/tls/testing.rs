//! Certificates for tests.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use time::{Duration as Span, OffsetDateTime};

use super::{Domain, OwnRole, RoleName, Tls, TlsFiles, TlsSettings, unix_now};

/// A CA, or an intermediate CA.
pub(crate) struct TestCa {
    /// The chain from this CA up to, but without, the trusted CA.
    chain: String,
    root: String,
    issuer: Issuer<'static, KeyPair>,
}

fn ca_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params
}

impl TestCa {
    pub(crate) fn new() -> Self {
        let (params, key) = (
            ca_params(&format!("root {}", rand::random::<u64>())),
            KeyPair::generate().unwrap(),
        );
        Self {
            chain: String::new(),
            root: params.self_signed(&key).unwrap().pem(),
            issuer: Issuer::new(params, key),
        }
    }

    pub(crate) fn intermediate(&self) -> Self {
        let (params, key) = (ca_params("intermediate"), KeyPair::generate().unwrap());
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        Self {
            chain: cert.pem(),
            root: self.root.clone(),
            issuer: Issuer::new(params, key),
        }
    }

    /// The files of a certificate with these names that is valid until `seconds` from now.
    pub(crate) fn issue(&self, dir: &Path, names: &[&str], seconds: i64) -> TlsFiles {
        self.issue_with(dir, names, seconds, |_| {})
    }

    pub(crate) fn issue_with(
        &self,
        dir: &Path,
        names: &[&str],
        seconds: i64,
        change: impl Fn(&mut CertificateParams),
    ) -> TlsFiles {
        let names: Vec<_> = names.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(names).unwrap();
        let now = OffsetDateTime::from_unix_timestamp(unix_now().try_into().unwrap()).unwrap();
        (params.not_before, params.not_after) = (now - Span::hours(1), now + Span::seconds(seconds));
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        let files = TlsFiles {
            cert: dir.join("cert"),
            key: dir.join("key"),
            ca: dir.join("ca"),
        };
        fs::create_dir_all(dir).unwrap();
        fs::write(&files.cert, cert.pem() + &self.chain).unwrap();
        fs::write(&files.key, key.serialize_pem()).unwrap();
        fs::set_permissions(&files.key, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&files.ca, &self.root).unwrap();
        files
    }
}

/// The identity in these files.
pub(crate) fn load(files: &TlsFiles, role: RoleName) -> Tls {
    let settings = TlsSettings {
        files: files.clone(),
        domain: Domain::default(),
    };
    Tls::load(settings, OwnRole::Exactly(role)).unwrap()
}
