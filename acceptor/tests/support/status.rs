//! The status of an acceptor's process, and the wait for a status.

use std::time::Duration;

use paxos_proto::v1 as pb;
use tokio::time::{sleep, timeout};

use super::process::ProcessClient;

/// Longest wait for something that comes within seconds.
pub const PATIENCE: Duration = Duration::from_secs(240);
/// Time between two looks.
pub const PAUSE: Duration = Duration::from_millis(100);

pub async fn status(client: &mut ProcessClient) -> pb::AcceptorStatusResponse {
    client
        .status(pb::AcceptorStatusRequest {})
        .await
        .unwrap()
        .into_inner()
}

/// Waits until the status is as wanted.
pub async fn until(
    client: &mut ProcessClient,
    what: &str,
    holds: impl Fn(&pb::AcceptorStatusResponse) -> bool,
) {
    let look = async {
        while !holds(&status(client).await) {
            sleep(PAUSE).await;
        }
    };
    if timeout(PATIENCE, look).await.is_err() {
        panic!("{what}: {:?}", status(client).await);
    }
}
