//! Acceptors that accept connections and never answer.

use std::{net::TcpListener, time::Instant};

use paxos_common::peer::acceptor::FORM_TIMEOUT;

use super::*;

#[tokio::test]
async fn restore_waits_for_a_silent_acceptor_no_longer_than_its_timeout() {
    let saved = Saved::new().await;
    // The kernel accepts connections, and no process reads them.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let begun = Instant::now();
    let text = refused(
        &restore(&saved.file, &url, &["--timeout", "500ms"]).await,
        UNAVAILABLE,
    );
    assert!(
        begun.elapsed() < FORM_TIMEOUT,
        "shorter than an attempt: {:?}",
        begun.elapsed()
    );
    assert!(
        text.contains(&url) && text.contains("repeat the same command"),
        "{text}"
    );
}
