//! Crowds of strangers at the handshake: the cluster goes on.

use std::time::Duration;

use tokio::{io::AsyncWriteExt as _, net::TcpStream, time::Instant};

use crate::harness::{Cluster, until};

/// Strangers at a time, over all acceptors.
const CROWD: usize = 600;
/// Beginning of a ClientHello: a record of 512 bytes that never comes.
const BEGUN: [u8; 9] = [0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc];

/// Connects from another address of this machine, so that the crowd has an address of its own.
async fn connect(address: &str) -> Option<TcpStream> {
    let socket = tokio::net::TcpSocket::new_v4().ok()?;
    socket.bind("127.0.0.9:0".parse().unwrap()).ok()?;
    let connecting = socket.connect(address.parse().unwrap());
    tokio::time::timeout(Duration::from_secs(1), connecting)
        .await
        .ok()?
        .ok()
}

#[tokio::test]
async fn strangers_that_stall_in_the_handshake_stop_neither_leaders_nor_clients() {
    let mut cluster = Cluster::start_secure(3, 2, 1).await;
    let addresses: Vec<_> = cluster
        .acceptors
        .iter()
        .chain(&cluster.proposers)
        .map(|process| process.address.host_and_port().to_owned())
        .collect();
    let stop = tokio_util::sync::CancellationToken::new();
    let crowd: Vec<_> = (0..CROWD)
        .map(|number| {
            let (address, stop) = (addresses[number % addresses.len()].clone(), stop.clone());
            tokio::spawn(stop.run_until_cancelled_owned(async move {
                loop {
                    if let Some(mut stream) = connect(&address).await {
                        if number % 2 == 0 {
                            let _ = stream.write_all(&BEGUN).await;
                        }
                        let _ = stream.readable().await;
                    }
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
            }))
        })
        .collect();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let leader = cluster.leader().await;
    cluster.proposers[leader].kill();
    let begun = Instant::now();
    let client = cluster.client();
    until("a client writes", async || {
        client.put("colour", "blue").await.ok()
    })
    .await;
    println!("a write {:?} after the leader's end", begun.elapsed());
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    for process in &cluster.acceptors {
        let resident = process.resident_kib();
        assert!(resident < 300 * 1024, "{} holds {resident} KiB", process.name);
    }
    stop.cancel();
    for one in crowd {
        let _ = one.await;
    }
}
