//! What users read when a connection with TLS is refused: by `paxos` and by the library.

use std::time::Duration;

use paxos_client::{
    Cause, Client, ClientConfig, ErrorCode, ProposeError, ReadError, Slot, SubscribeError, TlsFiles,
    WriteError, raw::ChangeError,
};
use paxos_common::wire;
use paxos_proto::v1::ChangeMembersRequest;
use rcgen::ExtendedKeyUsagePurpose;

use crate::harness::{Cluster, Environment, PATIENCE, run_with, stderr, tls, until};

/// A timeout that no call may need: a refusal ends the call.
const LONG: Duration = Duration::from_secs(600);

/// What both ways to the cluster say with these files.
async fn refused(cluster: &Cluster, files: &TlsFiles) -> String {
    let said = refused_by_command(&cluster.urls(), &tls::variables(files)).await;
    let library = cluster.client_with(files.clone());
    assert_library_says(&library, &said).await;
    said
}

/// The text of a refused command.
async fn refused_by_command(acceptors: &str, environment: &Environment) -> String {
    let mut environment = environment.clone();
    environment.push(("PAXOS_TIMEOUT", "2s".to_owned()));
    let command = run_with(&["propose", "x", "--acceptors", acceptors], &environment).await;
    assert_eq!(command.status.code(), Some(69), "{command:?}");
    let said = stderr(&command);
    assert!(said.contains("nothing was proposed"), "{said}");
    said
}

/// The library reports the same cause, and that nothing was proposed.
async fn assert_library_says(client: &Client, command: &str) {
    let error = client.append_at_most_once("x").await.unwrap_err();
    let ProposeError::NotProposed(cause) = &error else {
        panic!("{error:?}");
    };
    assert_eq!(cause.code, ErrorCode::Unavailable, "{cause}");
    // Both texts end with the words of the TLS library, and with the advice.
    let text = cause.to_string();
    let words = text.split(": ").last().unwrap();
    assert!(command.contains(words), "{command}\n{words}");
}

/// Waits for a line in the log of the first acceptor.
async fn acceptor_logs(cluster: &Cluster, text: &str) {
    until(&format!("the log says {text:?}"), async || {
        cluster.acceptors[0].log().contains(text).then_some(())
    })
    .await;
}

#[tokio::test]
async fn client_that_trusts_another_ca_reads_so() {
    let cluster = Cluster::start_secure(1, 1, 1).await;
    let other = tls::TestCa::new("another cluster");
    let ca = tls::TestCa::of_cluster(&cluster.certificates());
    let dir = cluster.dir.path().join("stray");
    let files = ca.issue(&tls::Wanted::of(&["client.paxos.internal"]), &other.pem, &dir);
    let said = refused(&cluster, &files).await;
    assert!(
        said.contains("invalid peer certificate: UnknownIssuer; is --tls-ca this cluster's CA?"),
        "{said}"
    );
    acceptor_logs(&cluster, "UnknownCA").await;
}

#[tokio::test]
async fn client_with_a_foreign_certificate_reads_which_and_its_dates() {
    let cluster = Cluster::start_secure(1, 1, 1).await;
    let other = tls::TestCa::new("another cluster");
    let ca = tls::TestCa::of_cluster(&cluster.certificates());
    let dir = cluster.dir.path().join("stray");
    let files = other.issue(&tls::Wanted::of(&["client.paxos.internal"]), &ca.pem, &dir);
    let said = refused(&cluster, &files).await;
    assert!(said.contains("received fatal alert: UnknownCA"), "{said}");
    assert!(
        said.contains("stray/cert.pem is valid from 20") && said.contains(" to 20"),
        "{said}"
    );
    acceptor_logs(&cluster, "UnknownIssuer").await;
}

#[tokio::test]
async fn client_with_an_expired_certificate_reads_its_dates() {
    let cluster = Cluster::start_secure(1, 1, 1).await;
    let ca = tls::TestCa::of_cluster(&cluster.certificates());
    let wanted = tls::Wanted {
        valid: (-60, 2),
        ..tls::Wanted::of(&["client.paxos.internal"])
    };
    let files = ca.issue(&wanted, &ca.pem, &cluster.dir.path().join("stray"));
    // Valid at the start of the client, and not at its first connection.
    let library = cluster.client_with(files.clone());
    tokio::time::sleep(Duration::from_secs(4)).await;
    let said = library.append_at_most_once("x").await.unwrap_err().to_string();
    assert!(
        said.contains("received fatal alert: CertificateExpired"),
        "{said}"
    );
    assert!(said.contains("stray/cert.pem is valid from 20"), "{said}");
    acceptor_logs(&cluster, "certificate expired").await;
    // The command reads its own file first.
    let refused = run_with(
        &["get", "x", "--acceptors", &cluster.urls()],
        &tls::variables(&files),
    )
    .await;
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    assert!(
        stderr(&refused).contains("stray/cert.pem expired at 20"),
        "{refused:?}"
    );
}

#[tokio::test]
async fn certificate_for_servers_alone_is_refused_from_a_client() {
    let cluster = Cluster::start_secure(1, 1, 1).await;
    let ca = tls::TestCa::of_cluster(&cluster.certificates());
    let wanted = tls::Wanted {
        usages: &[ExtendedKeyUsagePurpose::ServerAuth],
        ..tls::Wanted::of(&["client.paxos.internal"])
    };
    let files = ca.issue(&wanted, &ca.pem, &cluster.dir.path().join("stray"));
    let said = refused(&cluster, &files).await;
    assert!(said.contains("received fatal alert: "), "{said}");
}

#[tokio::test]
async fn process_of_another_role_is_refused_by_name() {
    let cluster = Cluster::start_secure(1, 1, 1).await;
    let learner = cluster.learners[0].address.to_string();
    let environment = cluster.commands_as("client");
    let said = refused_by_command(&learner, &environment).await;
    assert!(
        said.contains("not valid for name \"acceptor.paxos.internal\"")
            && said.contains("only valid for DnsName(\"learner.paxos.internal\")"),
        "{said}"
    );
    let mut config = ClientConfig::new([&learner]).unwrap();
    config.tls = Some(tls::settings(cluster.files("client")));
    config.timeout = PATIENCE / 30;
    assert_library_says(&Client::new(config).unwrap(), &said).await;
    until("the learner's log names the alert", async || {
        cluster.learners[0].log().contains("BadCertificate").then_some(())
    })
    .await;
}

#[tokio::test]
async fn caller_without_the_right_reads_who_has_it() {
    let cluster = Cluster::start_secure(1, 1, 1).await;
    let environment = cluster.commands_as("operator");
    // Refused at once, and permanently.
    let propose = run_with(&["propose", "x", "--acceptors", &cluster.urls()], &environment).await;
    assert_eq!(propose.status.code(), Some(69), "{propose:?}");
    assert!(
        stderr(&propose)
            .contains("Proposer/ProposeStream is for proposers and clients; this certificate says operator"),
        "{propose:?}"
    );
    let read = run_with(&["get", "x", "--acceptors", &cluster.urls()], &environment).await;
    assert_eq!(read.status.code(), Some(69), "{read:?}");
    assert!(
        stderr(&read).contains("Learner/Read is for clients; this certificate says operator"),
        "{read:?}"
    );
    let library = async {
        let operator = cluster.client_with(cluster.files("operator")).with_timeout(LONG);
        let put = operator.put("colour", "blue").await.unwrap_err();
        let WriteError::Refused(cause) = put else {
            panic!("{put:?}")
        };
        is_refusal(
            &cause,
            "Proposer/ProposeStream is for proposers and clients; this certificate says operator",
        );
        let get = operator.get("colour").await.unwrap_err();
        let ReadError::Refused(cause) = get else {
            panic!("{get:?}")
        };
        is_refusal(
            &cause,
            "Learner/Read is for clients; this certificate says operator",
        );
        let client = cluster.client().with_timeout(LONG);
        let backup = client.backup().await.unwrap_err();
        let ReadError::Refused(cause) = backup else {
            panic!("{backup:?}")
        };
        is_refusal(
            &cause,
            "Learner/Backup is for operators; this certificate says client",
        );
        let change = client.change_members(&ChangeMembersRequest::default()).await;
        let change = change.unwrap_err();
        let ChangeError::Refused(cause) = change else {
            panic!("{change:?}")
        };
        is_refusal(
            &cause,
            "Proposer/ChangeMembers is for operators; this certificate says client",
        );
    };
    tokio::time::timeout(PATIENCE, library).await.expect("at once");
}

/// The cause of a refusal says who may call.
fn is_refusal(cause: &Cause, text: &str) {
    assert_eq!(cause.code, ErrorCode::PermissionDenied, "{cause}");
    assert!(cause.message.contains(text), "{cause}");
}

#[tokio::test]
async fn certificate_without_any_right_of_a_client_is_refused_at_once() {
    let cluster = Cluster::start_secure(1, 1, 1).await;
    // An acceptor calls no acceptor: the library finds no other process.
    let library = cluster.client_with(cluster.files("acceptor")).with_timeout(LONG);
    let denied = |cause: Cause| {
        is_refusal(
            &cause,
            "Acceptor/Status is for proposers, learners, clients and operators; this certificate says acceptor",
        );
    };
    let calls = async {
        match library.put("colour", "blue").await {
            Err(WriteError::Refused(cause)) => denied(cause),
            other => panic!("{other:?}"),
        }
        match library.append_at_most_once("x").await {
            Err(ProposeError::Refused(cause)) => denied(cause),
            other => panic!("{other:?}"),
        }
        match library.propose_unary(wire::command::append("x".into())).await {
            Err(ProposeError::Refused(cause)) => denied(cause),
            other => panic!("{other:?}"),
        }
        match library.get("colour").await {
            Err(ReadError::Refused(cause)) => denied(cause),
            other => panic!("{other:?}"),
        }
        match library.log(Slot::ZERO).next().await {
            Some(Err(SubscribeError::Refused(cause))) => denied(cause),
            other => panic!("{other:?}"),
        }
        match library.backup().await {
            Err(ReadError::Refused(cause)) => denied(cause),
            other => panic!("{other:?}"),
        }
        match library.change_members(&ChangeMembersRequest::default()).await {
            Err(ChangeError::Refused(cause)) => denied(cause),
            other => panic!("{other:?}"),
        }
        let (urls, mut environment) = (cluster.urls(), cluster.commands_as("acceptor"));
        environment.push(("PAXOS_TIMEOUT", "10m".to_owned()));
        for command in [
            &["put", "colour", "blue"][..],
            &["get", "colour"],
            &["log", "--follow"],
        ] {
            let command = [command, &["--acceptors", &urls]].concat();
            let refused = run_with(&command, &environment).await;
            assert_eq!(refused.status.code(), Some(69), "{refused:?}");
            assert!(
                stderr(&refused).contains("this certificate says acceptor"),
                "{refused:?}"
            );
        }
    };
    tokio::time::timeout(PATIENCE, calls).await.expect("at once");
    // Without any name of a role there is no client at all.
    let ca = tls::TestCa::of_cluster(&cluster.certificates());
    let dir = cluster.dir.path().join("stray");
    let files = ca.issue(&tls::Wanted::of(&["host.example"]), &ca.pem, &dir);
    let wanted = "stray/cert.pem does not have the DNS name client.paxos.internal or operator.paxos.internal; \
                  its DNS names: host.example";
    let mut config = ClientConfig::new([&cluster.urls()]).unwrap();
    config.tls = Some(tls::settings(files.clone()));
    let error = Client::new(config).unwrap_err().to_string();
    assert!(error.contains(wanted), "{error}");
    let get = ["get", "x", "--acceptors", &cluster.urls()];
    let refused = run_with(&get, &tls::variables(&files)).await;
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    assert!(stderr(&refused).contains(wanted), "{refused:?}");
}

#[tokio::test]
async fn status_with_a_wrong_certificate_says_what_is_wrong_and_what_to_do() {
    let cluster = Cluster::start_secure(1, 1, 1).await;
    let ca = tls::TestCa::of_cluster(&cluster.certificates());
    let other = tls::TestCa::new("another cluster");
    let wanted = tls::Wanted::of(&["client.paxos.internal"]);
    let issue = |by: &tls::TestCa, trusted: &str, name: &str| {
        tls::variables(&by.issue(&wanted, trusted, &cluster.dir.path().join(name)))
    };
    let fit =
        "Make this command fit the cluster: --tls-cert, --tls-key and --tls-ca with files of this cluster";
    for (environment, wrong, advice) in [
        (
            issue(&other, &ca.pem, "foreign"),
            "received fatal alert: UnknownCA; the certificate",
            fit,
        ),
        (
            issue(&ca, &other.pem, "distrustful"),
            "invalid peer certificate: UnknownIssuer; is --tls-ca this cluster's CA?",
            fit,
        ),
        (
            cluster.commands_as("acceptor"),
            "Acceptor/Status is for proposers, learners, clients and operators; this certificate says acceptor",
            "Give the certificate of a client or of an operator with --tls-cert and --tls-key",
        ),
    ] {
        let status = run_with(&["status", "--acceptors", &cluster.urls()], &environment).await;
        assert_eq!(status.status.code(), Some(69), "{status:?}");
        let said = stderr(&status);
        assert!(
            said.contains("no acceptor answers this command; https://127.0.0.1:") && said.contains(wrong),
            "{said}"
        );
        let shown = String::from_utf8_lossy(&status.stdout);
        assert!(shown.contains(wrong) && shown.contains(advice), "{shown}");
        assert!(!shown.contains("start the acceptor"), "{shown}");
    }
}

#[tokio::test]
async fn plaintext_client_of_a_secure_cluster_reads_what_to_give() {
    let cluster = Cluster::start_secure(1, 1, 1).await;
    let plain = cluster.urls().replace("https://", "http://");
    let said = refused_by_command(&plain, &Environment::new()).await;
    assert!(
        said.contains("this port speaks TLS: give https:// and --tls-cert, --tls-key, --tls-ca"),
        "{said}"
    );
    assert_library_says(
        &Client::connect([plain]).unwrap().with_timeout(PATIENCE / 30),
        &said,
    )
    .await;
    acceptor_logs(&cluster, "plaintext came to a TLS port").await;
}

#[tokio::test]
async fn secure_client_of_a_plaintext_cluster_reads_that_the_port_has_no_tls() {
    let cluster = Cluster::start(1, 1, 1).await;
    let dir = cluster.dir.path().join("certificates");
    tls::make_certificates(&dir);
    let files = tls::files(&dir, "client");
    let secure = cluster.urls().replace("http://", "https://");
    let said = refused_by_command(&secure, &tls::variables(&files)).await;
    assert!(said.contains("does this port speak TLS?"), "{said}");
    let mut config = ClientConfig::new([secure]).unwrap();
    config.tls = Some(tls::settings(files));
    config.timeout = PATIENCE / 30;
    assert_library_says(&Client::new(config).unwrap(), &said).await;
    acceptor_logs(&cluster, "a caller speaks TLS, and this port does not").await;
}

#[tokio::test]
async fn expired_certificate_of_a_server_is_refused_with_its_date() {
    let dir = tempfile::TempDir::new().unwrap();
    let ca = tls::TestCa::new("short lives");
    // Valid at the start, and for four seconds.
    let wanted = tls::Wanted {
        valid: (-60, 4),
        ..tls::Wanted::of(&["acceptor.paxos.internal"])
    };
    let own = ca.issue(&wanted, &ca.pem, &dir.path().join("acceptor"));
    let data = dir.path().join("data").display().to_string();
    let flags = ["--id", "a1", "--data-dir", &data];
    let (name, port) = ("acceptor-1".to_owned(), crate::harness::free_ports(1));
    let environment = tls::variables(&own);
    let acceptor =
        crate::harness::Process::role_with(dir.path(), "acceptor", name, port, &flags, environment);
    let client = ca.issue(
        &tls::Wanted::of(&["client.paxos.internal"]),
        &ca.pem,
        &dir.path().join("client"),
    );
    let environment = tls::variables(&client);
    let url = acceptor.address.to_string();
    until("the certificate expires", async || {
        let said = refused_by_command(&url, &environment).await;
        (said.contains("certificate expired") && said.contains("seconds ago)")).then_some(())
    })
    .await;
    let mut config = ClientConfig::new([&url]).unwrap();
    config.tls = Some(tls::settings(client));
    config.timeout = PATIENCE / 30;
    let library = Client::new(config).unwrap();
    let error = library.append_at_most_once("x").await.unwrap_err();
    assert!(matches!(&error, ProposeError::NotProposed(_)), "{error:?}");
    let read = library.get("x").await.unwrap_err();
    assert!(matches!(&read, ReadError::Unavailable(_)), "{read:?}");
    for text in [error.to_string(), read.to_string()] {
        assert!(
            text.contains("certificate expired") && text.contains("seconds ago)"),
            "{text}"
        );
    }
    until("the acceptor's log names the alert", async || {
        acceptor.log().contains("CertificateExpired").then_some(())
    })
    .await;
}

#[tokio::test]
async fn scheme_of_a_flag_must_fit_the_certificates() {
    let dir = tempfile::TempDir::new().unwrap();
    tls::make_certificates(dir.path());
    let secure = tls::variables(&tls::files(dir.path(), "client"));
    for (acceptors, environment, expected) in [
        (
            "http://127.0.0.1:7001",
            &secure,
            "is not https://, and this process speaks only TLS",
        ),
        (
            "https://127.0.0.1:7001",
            &Environment::new(),
            "needs TLS: give --tls-cert, --tls-key and --tls-ca",
        ),
    ] {
        let refused = run_with(&["get", "x", "--acceptors", acceptors], environment).await;
        assert_eq!(refused.status.code(), Some(2), "{refused:?}");
        assert!(stderr(&refused).contains(expected), "{refused:?}");
    }
    let only_one = vec![("PAXOS_TLS_CERT", "x".to_owned())];
    let refused = run_with(&["get", "x", "--acceptors", "https://127.0.0.1:1"], &only_one).await;
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    assert!(stderr(&refused).contains("TLS needs three files"), "{refused:?}");
}
