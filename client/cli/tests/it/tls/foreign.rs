//! Clients of another making: TLS without a certificate, and bytes that are no TLS.

use std::{
    io::{self, Read as _, Write as _},
    net::TcpStream,
    sync::Arc,
    time::Duration,
};

use paxos_client::TlsFiles;
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    client::WebPkiServerVerifier,
    crypto::ring,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
    version::TLS13,
};

use crate::harness::Process;

/// The preface of HTTP/2, and empty settings.
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// Begins HTTP/2 over TLS without a certificate of the client; returns the end of the connection.
pub(super) async fn call_without_certificate(process: &Process, files: &TlsFiles) -> String {
    let address = process.address.host_and_port().to_owned();
    let role = process.name.split('-').next().unwrap().to_owned();
    let files = files.clone();
    let calling = tokio::task::spawn_blocking(move || {
        let tcp = TcpStream::connect(address)?;
        tcp.set_read_timeout(Some(Duration::from_secs(10)))?;
        let name = ServerName::try_from(format!("{role}.paxos.internal")).unwrap();
        let session = ClientConnection::new(Arc::new(without_certificate(&files)), name).unwrap();
        let mut stream = StreamOwned::new(session, tcp);
        stream.write_all(PREFACE)?;
        // The settings of a server that accepts the connection.
        stream.read_exact(&mut [0])
    });
    match calling.await.unwrap() {
        Ok(()) => "the server answers".to_owned(),
        Err(error) => io::Error::to_string(&error),
    }
}

fn without_certificate(files: &TlsFiles) -> ClientConfig {
    let provider = Arc::new(ring::default_provider());
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(&files.ca).unwrap() {
        roots.add(certificate.unwrap()).unwrap();
    }
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .unwrap();
    let mut config = builder
        .with_webpki_verifier(verifier.build().unwrap())
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    config
}
