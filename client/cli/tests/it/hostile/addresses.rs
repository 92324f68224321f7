//! Two addresses: strangers at one address take all that a single address gets, and callers at another are served.

use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use paxos_client::Address;
use tokio::net::TcpSocket;
use tonic::codegen::http;

use super::{address_of, crowd::raise_open_files, frames::prefixed, is_well, ordered, sweep};
use crate::harness::Cluster;

/// Number of connections that the strangers open to a server.
const STRANGERS: usize = 800;

/// Connections from 127.0.0.2 with open calls; the connections close when this value is dropped.
struct Strangers(Vec<(SendRequest<Bytes>, Vec<h2::SendStream<Bytes>>)>);

impl Strangers {
    /// Opens `connections` with `calls` each of this method, and sends `begun` on every call. The server may refuse.
    async fn attack(
        address: &Address,
        path: &str,
        connections: usize,
        calls: usize,
        (begun, ends): (Bytes, bool),
    ) -> Self {
        let target = address.as_str().strip_prefix("http://").unwrap();
        let mut strangers = Vec::new();
        for _ in 0..connections {
            let socket = TcpSocket::new_v4().unwrap();
            socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
            let connect = socket.connect(target.parse().unwrap());
            let Ok(Ok(stream)) = tokio::time::timeout(Duration::from_millis(200), connect).await else {
                break;
            };
            let Ok((send, connection)) = h2::client::handshake(stream).await else {
                continue;
            };
            tokio::spawn(connection);
            let mut open = Vec::new();
            for _ in 0..calls {
                let Ok(mut ready) = send.clone().ready().await else {
                    break;
                };
                let request = http::Request::post(format!("{address}{path}"))
                    .header("content-type", "application/grpc")
                    .header("te", "trailers")
                    .body(())
                    .unwrap();
                let Ok((_, mut stream)) = ready.send_request(request, false) else {
                    break;
                };
                // Fails if the server has refused the call.
                let _sent = stream.send_data(begun.clone(), ends);
                open.push(stream);
            }
            strangers.push((send, open));
        }
        // The server sees all calls.
        tokio::time::sleep(Duration::from_millis(500)).await;
        Self(strangers)
    }

    fn calls(&self) -> usize {
        self.0.iter().map(|(_, calls)| calls.len()).sum()
    }
}

#[tokio::test]
async fn strangers_at_one_address_lock_no_other_address_out() {
    raise_open_files();
    let cluster = Cluster::start_alone(3, 1, 2).await;
    let (acceptor, proposer, learner) = (
        address_of(&cluster, "Acceptor"),
        address_of(&cluster, "Proposer"),
        address_of(&cluster, "Learner"),
    );
    let half = || (Bytes::from_static(&[0, 0]), false);
    let reflection = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
    let list_services = || (prefixed(0, 2, &[0x3a, 0]), false);
    let empty = || (prefixed(0, 0, &[]), true);
    for (address, path, connections, calls, begun) in [
        (acceptor, "/paxos.v1.Acceptor/Status", 64, 8, half()),
        (acceptor, reflection, 64, 8, list_services()),
        (proposer, "/paxos.v1.Proposer/ProposeStream", 384, 8, half()),
        (learner, "/grpc.health.v1.Health/Watch", STRANGERS, 1, empty()),
        (acceptor, "/grpc.health.v1.Health/Watch", STRANGERS, 1, empty()),
    ] {
        let strangers = Strangers::attack(address, path, connections, calls, begun).await;
        assert!(strangers.calls() > connections / 4, "{path}");
        // A newcomer is served in each role, soon.
        let newcomer = async {
            sweep::acceptor_status(acceptor).await;
            let client = cluster.client();
            ordered(&client, format!("during {path}")).await;
            client.chosen_to().await.unwrap();
        };
        tokio::time::timeout(Duration::from_secs(8), newcomer)
            .await
            .unwrap_or_else(|_| panic!("locked out by {path}"));
        drop(strangers);
    }
    is_well(&cluster).await;
}
