//! Clusters with mutual TLS: certificates by `paxos cert`, and certificates with faults.
//!
//! With the variable `PAXOS_TEST_TLS` in the environment of the tests, every cluster uses TLS: the variable names a
//! directory of [`make_certificates_of_tests`].

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use paxos_client::{Address, Client, ClientConfig, TlsFiles, TlsSettings};
use paxos_common::{
    peer::{Dialer, connect_lazy},
    tls::{Domain, OwnRole, Tls},
};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use time::{Duration, OffsetDateTime};
use tonic::transport::Channel;

use super::{Cluster, Environment, Process, paxos};

/// Names the directory of the certificates in the environment of a cluster.
const CERTIFICATES: &str = "PAXOS_TEST_TLS";
/// Directory of the certificate of commands.
const COMMANDS: &str = "commands";

/// Makes or renews certificates in this directory.
pub(crate) fn make_certificates(dir: &Path) {
    let made = paxos(&["cert", "--out", dir.to_str().unwrap()]).output().unwrap();
    assert!(made.status.success(), "{made:?}");
}

/// Makes certificates for `PAXOS_TEST_TLS`. The commands of the tests use a certificate of a client and operator.
pub(crate) fn make_certificates_of_tests(dir: &Path) {
    make_certificates(dir);
    let names = ["client.paxos.internal", "operator.paxos.internal"];
    let ca = TestCa::of_cluster(dir);
    ca.issue(&Wanted::of(&names), &ca.pem, &dir.join(COMMANDS));
}

/// The directory of certificates for all tests, if the tests run with TLS.
fn of_all_tests() -> Option<PathBuf> {
    std::env::var_os(CERTIFICATES).map(PathBuf::from)
}

/// The environment of a cluster: with TLS, if the tests run with TLS.
pub(super) fn of_tests(mut environment: Environment) -> Environment {
    if let Some(dir) = of_all_tests()
        && directory(&environment).is_none()
    {
        environment.push((CERTIFICATES, dir.display().to_string()));
    }
    environment
}

/// Checks that a process uses TLS, if the tests run with TLS.
pub(super) fn check_secure(environment: &Environment) {
    assert!(
        of_all_tests().is_none() || scheme(environment) == "https",
        "a process in plaintext"
    );
}

/// The environment of commands, if the tests run with TLS.
pub(super) fn of_commands() -> Environment {
    let files = of_all_tests().map(|dir| files(&dir, COMMANDS));
    files.map(|files| variables(&files)).unwrap_or_default()
}

/// A channel to a process, for messages of the contract. If the tests run with TLS, with the certificate of commands.
pub(crate) fn channel(address: &Address) -> Channel {
    match of_all_tests() {
        Some(dir) if address.is_tls() => dialer(files(&dir, COMMANDS)).connect_lazy(address, None),
        Some(_) | None => connect_lazy(address),
    }
}

/// The environment with new certificates.
pub(super) fn secure(dir: &Path, mut environment: Environment) -> Environment {
    let dir = dir.join("tls");
    make_certificates(&dir);
    environment.push((CERTIFICATES, dir.display().to_string()));
    environment
}

fn directory(environment: &Environment) -> Option<PathBuf> {
    let found = environment.iter().find(|(name, _)| *name == CERTIFICATES);
    found.map(|(_, dir)| PathBuf::from(dir))
}

/// The scheme of a process's address.
pub(super) fn scheme(environment: &Environment) -> &'static str {
    if environment.iter().any(|(name, _)| *name == "PAXOS_TLS_CERT") {
        "https"
    } else {
        "http"
    }
}

/// The environment of a process of this role.
pub(super) fn of_role(environment: &Environment, role: &str) -> Environment {
    let mut environment = environment.clone();
    if let Some(dir) = directory(&environment)
        && !environment.iter().any(|(name, _)| *name == "PAXOS_TLS_CERT")
    {
        environment.extend(variables(&files(&dir, role)));
    }
    environment
}

/// The variables that name these files.
pub(crate) fn variables(files: &TlsFiles) -> Environment {
    let text = |path: &Path| path.display().to_string();
    vec![
        ("PAXOS_TLS_CERT", text(&files.cert)),
        ("PAXOS_TLS_KEY", text(&files.key)),
        ("PAXOS_TLS_CA", text(&files.ca)),
    ]
}

/// The files of a role in a directory of certificates.
pub(crate) fn files(dir: &Path, role: &str) -> TlsFiles {
    let dir = dir.join(role);
    TlsFiles {
        cert: dir.join("cert.pem"),
        key: dir.join("key.pem"),
        ca: dir.join("ca.pem"),
    }
}

/// The identity in these files, in the default domain.
pub(crate) fn settings(files: TlsFiles) -> TlsSettings {
    TlsSettings {
        files,
        domain: Domain::default(),
    }
}

/// Opens connections with the identity in these files.
pub(crate) fn dialer(files: TlsFiles) -> Dialer {
    Dialer::new(Some(Tls::load(settings(files), OwnRole::Any).unwrap()))
}

/// The identity of clients of a cluster with this environment.
pub(super) fn client_identity(environment: &Environment) -> Option<TlsSettings> {
    Some(settings(files(&directory(environment)?, "client")))
}

impl Cluster {
    /// As [`start`](Self::start), with TLS.
    pub(crate) async fn start_secure(acceptors: u16, proposers: u16, learners: u16) -> Self {
        let mut cluster = Self::blank_and_secure(acceptors).await;
        cluster.add_roles(proposers, learners).await;
        cluster
    }

    /// As [`blank`](Self::blank), with TLS.
    pub(crate) async fn blank_and_secure(acceptors: u16) -> Self {
        let dir = tempfile::TempDir::new().unwrap();
        let environment = secure(dir.path(), Environment::new());
        Self::blank_in(dir, acceptors, environment, super::room().await)
    }

    /// A learner with these addresses of acceptors.
    pub(crate) fn add_learner_of(&mut self, urls: &str, name: &str, flags: &[&str]) {
        let flags: Vec<_> = ["--acceptors", urls].iter().chain(flags).copied().collect();
        self.learners.push(self.role("learner", name.to_owned(), &flags));
    }

    /// Starts the stopped processes again with TLS, at the same ports.
    pub(crate) async fn make_secure(&mut self) {
        self.environment = secure(self.dir.path(), std::mem::take(&mut self.environment));
        for (role, processes) in [
            ("acceptor", &mut self.acceptors),
            ("proposer", &mut self.proposers),
            ("learner", &mut self.learners),
        ] {
            for process in processes {
                process.make_secure(of_role(&self.environment, role));
                process.start();
            }
        }
        self.leader().await;
    }

    /// The directory of the cluster's certificates.
    pub(crate) fn certificates(&self) -> PathBuf {
        directory(&self.environment).expect("a cluster with TLS")
    }

    /// The files of a role.
    pub(crate) fn files(&self, role: &str) -> TlsFiles {
        files(&self.certificates(), role)
    }

    /// The environment of commands with the certificate of this role.
    pub(crate) fn commands_as(&self, role: &str) -> Environment {
        of_role(&self.environment, role)
    }

    /// A client with these files.
    pub(crate) fn client_with(&self, files: TlsFiles) -> Client {
        let mut config = ClientConfig::new(self.acceptors.iter().map(|acceptor| &acceptor.address)).unwrap();
        config.tls = Some(settings(files));
        config.timeout = std::time::Duration::from_secs(2);
        Client::new(config).unwrap()
    }
}

/// A CA of the tests.
pub(crate) struct TestCa {
    pub(crate) pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate to issue.
pub(crate) struct Wanted<'a> {
    pub(crate) names: &'a [&'a str],
    /// Validity in seconds from now: first and last moment.
    pub(crate) valid: (i64, i64),
    pub(crate) usages: &'a [ExtendedKeyUsagePurpose],
}

impl<'a> Wanted<'a> {
    /// A certificate with these names that is valid for an hour, for both sides of a connection.
    pub(crate) fn of(names: &'a [&'a str]) -> Self {
        Self {
            names,
            valid: (-60, 3_600),
            usages: &[
                ExtendedKeyUsagePurpose::ServerAuth,
                ExtendedKeyUsagePurpose::ClientAuth,
            ],
        }
    }
}

impl TestCa {
    /// A new CA.
    pub(crate) fn new(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        Self {
            pem: params.self_signed(&key).unwrap().pem(),
            issuer: Issuer::new(params, key),
        }
    }

    /// The CA that `paxos cert` made in this directory.
    pub(crate) fn of_cluster(dir: &Path) -> Self {
        let pem = fs::read_to_string(dir.join("ca.pem")).unwrap();
        let key = KeyPair::from_pem(&fs::read_to_string(dir.join("ca.key")).unwrap()).unwrap();
        Self {
            issuer: Issuer::from_ca_cert_pem(&pem, key).unwrap(),
            pem,
        }
    }

    /// Issues a certificate; `ca` is the trusted CA. The files are in the directory `dir`.
    pub(crate) fn issue(&self, wanted: &Wanted<'_>, ca: &str, dir: &Path) -> TlsFiles {
        let mut params =
            CertificateParams::new(wanted.names.iter().map(ToString::to_string).collect::<Vec<_>>()).unwrap();
        let now = i64::try_from(paxos_common::tls::unix_now()).unwrap();
        let now = OffsetDateTime::from_unix_timestamp(now).unwrap();
        params.not_before = now + Duration::seconds(wanted.valid.0);
        params.not_after = now + Duration::seconds(wanted.valid.1);
        params.extended_key_usages = wanted.usages.to_vec();
        let key = KeyPair::generate().unwrap();
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        fs::create_dir_all(dir).unwrap();
        let files = TlsFiles {
            cert: dir.join("cert.pem"),
            key: dir.join("key.pem"),
            ca: dir.join("ca.pem"),
        };
        fs::write(&files.key, key.serialize_pem()).unwrap();
        fs::set_permissions(&files.key, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&files.cert, cert.pem()).unwrap();
        fs::write(&files.ca, ca).unwrap();
        files
    }
}

impl Process {
    /// Changes the addresses and the environment of a stopped process to TLS.
    fn make_secure(&mut self, environment: Environment) {
        let secure = |text: &str| text.replace("http://", "https://");
        self.args.iter_mut().for_each(|arg| *arg = secure(arg));
        self.address = secure(self.address.as_str()).parse().unwrap();
        self.environment = environment;
    }
}
