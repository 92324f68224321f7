//! Calls refused by the peer's HTTP/2: untaken calls go to another proposer, taken calls are not sent again.

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::AbortHandle,
};

use super::{fake::FakeProposer, *};

/// Length in bytes of the text at the beginning of a connection.
const PREFACE_BYTES: usize = 24;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const NO_ERROR: u32 = 0;
const INTERNAL_ERROR: u32 = 2;
const REFUSED_STREAM: u32 = 7;
const CANCEL: u32 = 8;
const ENHANCE_YOUR_CALM: u32 = 11;

/// The peer's reaction to the call with the command.
#[derive(Clone, Copy, Debug)]
enum Ends {
    /// Resets the call with this code.
    Reset(u32),
    /// Sends GOAWAY with this code. The last stream named is this far below the call.
    GoAway { code: u32, below: u32 },
    /// Closes the connection.
    Close,
}

/// A peer made of bare frames. Answers the first `answered` calls of a connection with UNIMPLEMENTED, like a proposer
/// that does not report its identity.
struct RefusedPeer {
    address: Address,
    task: AbortHandle,
}

impl RefusedPeer {
    async fn new(answered: usize, ends: Ends) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap())
            .parse()
            .unwrap();
        let task = tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                // A departed client ends the task.
                drop(tokio::spawn(serve(socket, answered, ends)));
            }
        });
        let task = task.abort_handle();
        Self { address, task }
    }
}

impl Drop for RefusedPeer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Headers as a whole answer: status 200, `content-type`, and the gRPC code of UNIMPLEMENTED.
fn unimplemented(stream: u32) -> Vec<u8> {
    const END_OF_BOTH: u8 = 5;
    let block = [
        &[0x88, 0x0f, 0x10, 16][..],
        b"application/grpc",
        &[0x00, 11],
        b"grpc-status",
        &[2],
        b"12",
    ];
    frame(HEADERS, END_OF_BOTH, stream, &block.concat())
}

async fn serve(mut socket: TcpStream, answered: usize, ends: Ends) -> std::io::Result<()> {
    const ACK: u8 = 1;
    socket.read_exact(&mut [0; PREFACE_BYTES]).await?;
    socket.write_all(&frame(SETTINGS, 0, 0, &[])).await?;
    let mut calls = 0;
    loop {
        let mut head = [0; 9];
        socket.read_exact(&mut head).await?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        socket
            .read_exact(&mut vec![0; usize::try_from(length).unwrap()])
            .await?;
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        match (head[3], head[4]) {
            (SETTINGS, flags) if flags & ACK == 0 => socket.write_all(&frame(SETTINGS, ACK, 0, &[])).await?,
            (HEADERS, _) if calls < answered => {
                calls += 1;
                socket.write_all(&unimplemented(stream)).await?;
            }
            (HEADERS, _) => match ends {
                Ends::Reset(code) => {
                    let reset = frame(RST_STREAM, 0, stream, &code.to_be_bytes());
                    socket.write_all(&reset).await?;
                }
                Ends::GoAway { code, below } => {
                    let last = (stream - below).to_be_bytes();
                    let payload = [last, code.to_be_bytes()].concat();
                    socket.write_all(&frame(GOAWAY, 0, 0, &payload)).await?;
                    return Ok(());
                }
                Ends::Close => return Ok(()),
            },
            _ => {}
        }
    }
}

/// The first proposer is the peer, the second orders everything.
async fn refusing(answered: usize, ends: Ends) -> (RefusedPeer, FakeProposer, Served, Client) {
    let peer = RefusedPeer::new(answered, ends).await;
    let second = FakeProposer::new(|_| Does::Orders);
    let served = second.serve().await;
    let client = client_of(&[&peer.address, &served.address], &[]);
    (peer, second, served, client)
}

#[tokio::test]
async fn call_that_the_peer_did_not_take_goes_to_another_proposer() {
    for ends in [
        Ends::Reset(REFUSED_STREAM),
        Ends::GoAway {
            code: NO_ERROR,
            below: 2,
        },
        Ends::GoAway {
            code: ENHANCE_YOUR_CALM,
            below: 2,
        },
    ] {
        let (_peer, second, _served, client) = refusing(1, ends).await;
        let proposed = client.propose_unary(append("value")).await;
        assert!(proposed.is_ok(), "{ends:?}: {proposed:?}");
        assert_eq!(second.received(), [b"value".to_vec()], "{ends:?}");
    }
}

#[tokio::test]
async fn call_that_the_peer_may_have_taken_is_not_sent_again() {
    for ends in [
        Ends::Reset(CANCEL),
        Ends::Reset(INTERNAL_ERROR),
        Ends::GoAway {
            code: NO_ERROR,
            below: 0,
        },
        Ends::GoAway {
            code: ENHANCE_YOUR_CALM,
            below: 0,
        },
        Ends::Close,
    ] {
        let (_peer, second, _served, client) = refusing(1, ends).await;
        let error = client.propose_unary(append("value")).await.unwrap_err();
        assert!(
            matches!(error, ProposeError::OutcomeUnknown(_)),
            "{ends:?}: {error:?}"
        );
        assert_eq!(second.received(), Vec::<Vec<u8>>::new(), "{ends:?}");
    }
}

#[tokio::test]
async fn stream_that_the_peer_does_not_open_costs_no_command() {
    for ends in [
        Ends::Reset(REFUSED_STREAM),
        Ends::GoAway {
            code: ENHANCE_YOUR_CALM,
            below: 1,
        },
        Ends::Close,
    ] {
        let (_peer, second, _served, client) = refusing(0, ends).await;
        let appended = client.append_at_most_once("value").await;
        assert!(appended.is_ok(), "{ends:?}: {appended:?}");
        assert_eq!(second.received(), [b"value".to_vec()], "{ends:?}");
    }
}
