//! Handshakes between identities with all kinds of certificates, in memory.

use std::{fs, io};

use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, SanType};
use rustls::{
    client::Resumption,
    crypto::ring,
    pki_types::{PrivateKeyDer, pem::PemObject as _},
    version::{TLS12, TLS13},
};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::{
    testing::{TestCa, load},
    *,
};

/// A dial of `client` to `server`, and the result at both ends. The client wants a process of this role.
async fn dial(client: &Tls, server: &Tls, wanted: RoleName) -> (Result<(), String>, Result<Caller, String>) {
    let config = client.client_config();
    dial_with(config, client.server_name(Some(wanted)), server).await
}

async fn dial_with(
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    server: &Tls,
) -> (Result<(), String>, Result<Caller, String>) {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let calling = async {
        let mut stream = TlsConnector::from(config).connect(name, near).await?;
        stream.write_all(b"?").await?;
        // The server's answer shows that the server agrees.
        stream.read_u8().await.map(drop)
    };
    let accepting = async {
        let mut stream = TlsAcceptor::from(server.server_config()).accept(far).await?;
        stream.read_u8().await?;
        stream.write_all(b"!").await?;
        stream.flush().await?;
        let chain = stream
            .get_ref()
            .1
            .peer_certificates()
            .unwrap_or_default()
            .to_vec();
        Ok::<_, io::Error>(chain)
    };
    let (called, accepted) = tokio::join!(calling, accepting);
    let text = |error: io::Error| error.to_string();
    let caller = accepted
        .map_err(text)
        .and_then(|chain| server.caller(&chain).map_err(|error| error.to_string()));
    (called.map_err(text), caller)
}

const ACCEPTOR: &str = "acceptor.paxos.internal";
const PROPOSER: &str = "proposer.paxos.internal";
const HOUR: i64 = 3_600;

#[tokio::test]
async fn each_side_proves_its_role() {
    let (dir, ca) = (TempDir::new().unwrap(), TestCa::new());
    let acceptor = load(
        &ca.issue(&dir.path().join("a"), &[ACCEPTOR, "host.example"], HOUR),
        RoleName::Acceptor,
    );
    let proposer = load(
        &ca.issue(&dir.path().join("p"), &[PROPOSER], HOUR),
        RoleName::Proposer,
    );
    let (called, caller) = dial(&proposer, &acceptor, RoleName::Acceptor).await;
    called.unwrap();
    let caller = caller.unwrap();
    assert_eq!(caller.roles, RoleSet::of(&[RoleName::Proposer]));
    assert_eq!(caller.fingerprint.len(), 64);
    // The host does not count, and the role does.
    let (called, caller) = dial(&proposer, &acceptor, RoleName::Learner).await;
    let error = called.unwrap_err();
    assert!(
        error.contains("not valid for name \"learner.paxos.internal\""),
        "{error}"
    );
    assert!(caller.unwrap_err().contains("BadCertificate"));
    // Any role that accepts connections.
    let any = proposer.server_name(None);
    dial_with(proposer.client_config(), any, &acceptor)
        .await
        .0
        .unwrap();
}

#[tokio::test]
async fn wildcard_common_name_or_foreign_domain_is_no_role() {
    let (dir, ca) = (TempDir::new().unwrap(), TestCa::new());
    // The server's own check is left out, as by a server of another making.
    let files = ca.issue(&dir.path().join("w"), &["*.paxos.internal", PROPOSER], HOUR);
    let wildcard = load(&files, RoleName::Proposer);
    let proposer = load(
        &ca.issue(&dir.path().join("p"), &[PROPOSER], HOUR),
        RoleName::Proposer,
    );
    let (called, _) = dial(&proposer, &wildcard, RoleName::Acceptor).await;
    let error = called.unwrap_err();
    assert!(
        error.contains("not valid for name \"acceptor.paxos.internal\""),
        "{error}"
    );
    let acceptor = load(
        &ca.issue(&dir.path().join("a"), &[ACCEPTOR], HOUR),
        RoleName::Acceptor,
    );
    let (_, caller) = dial(&wildcard, &acceptor, RoleName::Acceptor).await;
    assert_eq!(caller.unwrap().roles, RoleSet::of(&[RoleName::Proposer]));
    // A role of another domain is no role here, on both sides.
    let names = [PROPOSER, "acceptor.other.example"];
    let foreign = load(&ca.issue(&dir.path().join("f"), &names, HOUR), RoleName::Proposer);
    let (called, _) = dial(&proposer, &foreign, RoleName::Acceptor).await;
    assert!(
        called
            .unwrap_err()
            .contains("not valid for name \"acceptor.paxos.internal\"")
    );
    let (_, caller) = dial(&foreign, &acceptor, RoleName::Acceptor).await;
    assert_eq!(caller.unwrap().roles, RoleSet::of(&[RoleName::Proposer]));
    let named = |params: &mut CertificateParams| {
        params.distinguished_name.push(DnType::CommonName, ACCEPTOR);
    };
    let files = ca.issue_with(&dir.path().join("c"), &["host.example"], HOUR, named);
    let settings = TlsSettings {
        files,
        domain: Domain::default(),
    };
    let error = Tls::load(settings, OwnRole::Exactly(RoleName::Acceptor)).unwrap_err();
    assert!(
        error.to_string().contains("its DNS names: host.example"),
        "{error}"
    );
}

#[tokio::test]
async fn certificate_of_an_intermediate_ca_or_with_a_spiffe_id_is_taken() {
    let (dir, ca) = (TempDir::new().unwrap(), TestCa::new());
    let acceptor = load(
        &ca.issue(&dir.path().join("a"), &[ACCEPTOR], HOUR),
        RoleName::Acceptor,
    );
    let spiffe = |params: &mut CertificateParams| {
        let id = "spiffe://example.org/paxos/proposer".try_into().unwrap();
        params.subject_alt_names.push(SanType::URI(id));
    };
    let below = ca.intermediate();
    let files = below.issue_with(&dir.path().join("p"), &[PROPOSER], HOUR, spiffe);
    let (called, caller) = dial(&load(&files, RoleName::Proposer), &acceptor, RoleName::Acceptor).await;
    called.unwrap();
    assert!(caller.unwrap().roles.contains(RoleName::Proposer));
}

#[tokio::test]
async fn usage_for_the_other_side_alone_is_refused() {
    let (dir, ca) = (TempDir::new().unwrap(), TestCa::new());
    let only = |usage: ExtendedKeyUsagePurpose| {
        move |params: &mut CertificateParams| params.extended_key_usages = vec![usage.clone()]
    };
    let serving = only(ExtendedKeyUsagePurpose::ServerAuth);
    let calling = only(ExtendedKeyUsagePurpose::ClientAuth);
    let proposer = ca.issue_with(&dir.path().join("p"), &[PROPOSER], HOUR, serving);
    let acceptor = ca.issue_with(&dir.path().join("a"), &[ACCEPTOR], HOUR, calling);
    let (proposer, acceptor) = (
        load(&proposer, RoleName::Proposer),
        load(&acceptor, RoleName::Acceptor),
    );
    let (called, _) = dial(&proposer, &acceptor, RoleName::Acceptor).await;
    assert!(called.unwrap_err().contains("extended key usage"));
    let good = load(
        &ca.issue(&dir.path().join("g"), &[ACCEPTOR], HOUR),
        RoleName::Acceptor,
    );
    let (_, caller) = dial(&proposer, &good, RoleName::Acceptor).await;
    let error = caller.unwrap_err();
    assert!(error.contains("extended key usage"), "{error}");
}

/// A client of another making: with this chain and key, or without any.
fn foreign(
    tls: &Tls,
    files: Option<&TlsFiles>,
    version: &'static rustls::SupportedProtocolVersion,
) -> ClientConfig {
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder.with_protocol_versions(&[version]).unwrap();
    let verifier = Arc::clone(&tls.current().servers);
    let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
    match files {
        None => builder.with_no_client_auth(),
        Some(files) => {
            let chain = CertificateDer::pem_file_iter(&files.cert).unwrap();
            let key = PrivateKeyDer::from_pem_file(&files.key).unwrap();
            builder
                .with_client_auth_cert(chain.collect::<Result<_, _>>().unwrap(), key)
                .unwrap()
        }
    }
}

#[tokio::test]
async fn older_tls_and_callers_without_a_certificate_are_refused() {
    let (dir, ca) = (TempDir::new().unwrap(), TestCa::new());
    let acceptor = load(
        &ca.issue(&dir.path().join("a"), &[ACCEPTOR], HOUR),
        RoleName::Acceptor,
    );
    let files = ca.issue(&dir.path().join("p"), &[PROPOSER], HOUR);
    let name = acceptor.server_name(Some(RoleName::Acceptor));
    let old = Arc::new(foreign(&acceptor, Some(&files), &TLS12));
    let (called, _) = dial_with(old, name.clone(), &acceptor).await;
    let error = called.unwrap_err();
    assert!(error.contains("ProtocolVersion"), "{error}");
    let without = Arc::new(foreign(&acceptor, None, &TLS13));
    let (called, _) = dial_with(without, name, &acceptor).await;
    let error = called.unwrap_err();
    assert!(error.contains("CertificateRequired"), "{error}");
}

#[tokio::test]
async fn session_is_never_resumed() {
    let (dir, ca) = (TempDir::new().unwrap(), TestCa::new());
    let acceptor = load(
        &ca.issue(&dir.path().join("a"), &[ACCEPTOR], HOUR),
        RoleName::Acceptor,
    );
    let files = ca.issue(&dir.path().join("p"), &[PROPOSER], HOUR);
    let mut config = foreign(&acceptor, Some(&files), &TLS13);
    config.alpn_protocols = vec![ALPN.to_vec()];
    // The caller would resume.
    config.resumption = Resumption::in_memory_sessions(8);
    let config = Arc::new(config);
    for _ in 0..3 {
        let (near, far) = tokio::io::duplex(64 * 1024);
        let name = acceptor.server_name(Some(RoleName::Acceptor));
        let calling = async {
            let mut stream = TlsConnector::from(Arc::clone(&config))
                .connect(name, near)
                .await
                .unwrap();
            stream.read_u8().await.unwrap();
            stream.get_ref().1.handshake_kind()
        };
        let accepting = async {
            let mut stream = TlsAcceptor::from(acceptor.server_config())
                .accept(far)
                .await
                .unwrap();
            stream.write_all(b"!").await.unwrap();
            stream.flush().await.unwrap();
        };
        let (kind, ()) = tokio::join!(calling, accepting);
        assert_eq!(kind, Some(rustls::HandshakeKind::Full));
    }
}

#[tokio::test]
async fn chain_is_distrusted_when_it_expires_or_when_its_ca_goes() {
    let (dir, ca) = (TempDir::new().unwrap(), TestCa::new());
    let files = ca.issue(&dir.path().join("a"), &[ACCEPTOR], HOUR);
    let acceptor = load(&files, RoleName::Acceptor);
    let chain = |files: &TlsFiles| -> Vec<_> {
        let chain = CertificateDer::pem_file_iter(&files.cert).unwrap();
        chain.collect::<Result<_, _>>().unwrap()
    };
    let short = chain(&ca.issue(&dir.path().join("short"), &[PROPOSER], 1));
    let error = acceptor.distrusted(&short, &OtherSide::Caller).await;
    assert!(error.to_string().contains("expired"), "{error}");

    let long = chain(&ca.issue(&dir.path().join("long"), &[PROPOSER], HOUR));
    let tls = acceptor.clone();
    let waiting = tokio::spawn(async move { tls.distrusted(&long, &OtherSide::Caller).await });
    tokio::task::yield_now().await;
    let other = TestCa::new();
    let new = other.issue(&dir.path().join("a"), &[ACCEPTOR], HOUR);
    assert_eq!(new, files);
    let mut reloading = acceptor.0.reloading.lock().unwrap().take().unwrap();
    reloading.look(&acceptor, || FileContents::read(&files));
    let error = waiting.await.unwrap();
    assert!(error.to_string().contains("UnknownIssuer"), "{error}");
}

#[test]
fn files_that_are_replaced_just_now_are_read_again_later() {
    let (dir, ca) = (TempDir::new().unwrap(), TestCa::new());
    let (old, new) = (dir.path().join("old"), dir.path().join("new"));
    let (old, new) = (
        ca.issue(&old, &[ACCEPTOR], HOUR),
        ca.issue(&new, &[ACCEPTOR], 2 * HOUR),
    );
    let acceptor = load(&old, RoleName::Acceptor);
    let mut reloading = acceptor.0.reloading.lock().unwrap().take().unwrap();
    let before = acceptor.expires_in().0;
    // The key of the new pair, and the certificate of the old one.
    let torn = TlsFiles {
        cert: old.cert,
        ..new.clone()
    };
    let reads = std::cell::Cell::new(0);
    reloading.look(&acceptor, || {
        reads.set(reads.get() + 1);
        FileContents::read(if reads.get() == 1 { &torn } else { &new })
    });
    assert_eq!(acceptor.expires_in().0, before, "a torn pair is not taken");
    reloading.look(&acceptor, || FileContents::read(&new));
    assert!(acceptor.expires_in().0 > before);
    // A pair that stays torn is refused, and the good one stays.
    reloading.look(&acceptor, || FileContents::read(&torn));
    assert!(acceptor.expires_in().0 > before);
}

#[test]
fn files_behind_a_link_are_taken_when_the_link_changes() {
    let (dir, ca) = (TempDir::new().unwrap(), TestCa::new());
    let path = |name: &str| dir.path().join(name);
    let (old, new) = (path("old"), path("new"));
    ca.issue(&old, &[ACCEPTOR], HOUR);
    ca.issue(&new, &[ACCEPTOR], 2 * HOUR);
    // As in a volume of Kubernetes: links through a link to a directory, which is replaced in one step.
    let link = |to: &std::path::Path| {
        std::os::unix::fs::symlink(to, path("next")).unwrap();
        fs::rename(path("next"), path("data")).unwrap();
    };
    link(&old);
    let files = ["cert", "key", "ca"].map(|name| {
        std::os::unix::fs::symlink(path("data").join(name), path(name)).unwrap();
        path(name)
    });
    let [cert, key, ca] = files;
    let files = TlsFiles { cert, key, ca };
    let acceptor = load(&files, RoleName::Acceptor);
    let mut reloading = acceptor.0.reloading.lock().unwrap().take().unwrap();
    let before = acceptor.expires_in().0;
    reloading.look(&acceptor, || FileContents::read(&files));
    assert!(acceptor.expires_in().0 <= before, "nothing is new");
    link(&new);
    reloading.look(&acceptor, || FileContents::read(&files));
    assert!(acceptor.expires_in().0 > before);
}

#[test]
fn certificate_of_the_future_is_taken_when_its_time_comes() {
    let (dir, ca) = (TempDir::new().unwrap(), TestCa::new());
    let files = ca.issue(dir.path(), &[ACCEPTOR], HOUR);
    let acceptor = load(&files, RoleName::Acceptor);
    let mut reloading = acceptor.0.reloading.lock().unwrap().take().unwrap();
    let before = acceptor.current().validity;
    ca.issue_with(dir.path(), &[ACCEPTOR], 2 * HOUR, |params| {
        params.not_before += time::Duration::hours(1) + time::Duration::seconds(5);
    });
    reloading.look(&acceptor, || FileContents::read(&files));
    assert_eq!(acceptor.current().validity, before, "not valid yet");
    let deadline = std::time::Instant::now() + Duration::from_secs(30);
    while acceptor.current().validity == before {
        assert!(
            std::time::Instant::now() < deadline,
            "the certificate is never taken"
        );
        std::thread::sleep(Duration::from_millis(100));
        reloading.look(&acceptor, || FileContents::read(&files));
    }
}

#[test]
fn debug_output_has_no_private_key() {
    let (dir, ca) = (TempDir::new().unwrap(), TestCa::new());
    let files = ca.issue(dir.path(), &[ACCEPTOR], HOUR);
    let contents = FileContents::read(&files).unwrap();
    let bytes = format!("{:?}", fs::read(&files.key).unwrap());
    let acceptor = load(&files, RoleName::Acceptor);
    for shown in [format!("{contents:?}"), format!("{acceptor:?}")] {
        assert!(!shown.contains(bytes.trim_matches(['[', ']'])), "{shown}");
    }
}

#[test]
fn files_of_another_pair_or_ca_fail_the_check() {
    let (dir, ca) = (TempDir::new().unwrap(), TestCa::new());
    let files = ca.issue(dir.path(), &[ACCEPTOR], HOUR);
    let settings = TlsSettings {
        files: files.clone(),
        domain: Domain::default(),
    };
    settings.check(RoleName::Acceptor).unwrap();
    assert!(settings.check(RoleName::Learner).is_err());
    let other = TestCa::new().issue(&dir.path().join("other"), &[ACCEPTOR], HOUR);
    fs::copy(&other.ca, &files.ca).unwrap();
    let error = settings.check(RoleName::Acceptor).unwrap_err().to_string();
    assert!(error.contains("UnknownIssuer"), "{error}");
    fs::copy(&other.key, &files.key).unwrap();
    assert!(matches!(
        settings.check(RoleName::Acceptor),
        Err(TlsError::NotAPair { .. })
    ));
}

#[test]
fn summary_of_a_certificate_has_its_names_and_dates() {
    let (dir, ca) = (TempDir::new().unwrap(), TestCa::new());
    let files = ca.issue(dir.path(), &[ACCEPTOR, "*.host.example"], HOUR);
    let summary = CertificateSummary::of_pem(&fs::read(&files.cert).unwrap()).unwrap();
    assert_eq!(summary.names, [ACCEPTOR, "*.host.example"]);
    let left = summary.left.as_secs();
    assert!((3_590..=3_600).contains(&left), "{left}");
    assert_eq!(summary.lifetime.as_secs(), 7_200);
    assert!(summary.valid_until.starts_with("20") && summary.valid_until.ends_with('Z'));
    assert_eq!(CertificateSummary::of_pem(b"no certificate"), None);
}
