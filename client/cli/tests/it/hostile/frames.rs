//! Frames: bytes that no client of ours sends, by raw TCP and by HTTP/2 without gRPC.

use std::time::Duration;

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use paxos_client::Address;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tonic::{Code, codegen::http};

/// The beginning of an HTTP/2 connection.
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// An empty SETTINGS frame.
pub(crate) const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
/// Longest time for an answer, on a busy machine.
const ANSWER_MAX: Duration = Duration::from_secs(20);

pub(crate) async fn connect(address: &Address) -> TcpStream {
    let target = address.as_str().strip_prefix("http://").unwrap();
    TcpStream::connect(target).await.unwrap()
}

/// One HTTP/2 frame.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// Bytes to send to a port, each sequence on a separate connection.
pub(crate) fn garbage() -> Vec<(&'static str, Vec<u8>)> {
    let begun = [PREFACE, SETTINGS].concat();
    let after = |frames: Vec<Vec<u8>>| [begun.clone(), frames.concat()].concat();
    // `:method POST` and a path of one letter, from HPACK's static table.
    let headers: &[u8] = &[0x83, 0x86, 0x44, 0x01, b'x'];
    vec![
        ("nothing at all", Vec::new()),
        ("zeros", vec![0; 100_000]),
        ("random bytes", (0..100_000).map(|_| rand::random()).collect()),
        ("a web page", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec()),
        (
            "an endless header of HTTP/1.1",
            [b"GET / HTTP/1.1\r\nX: ".to_vec(), vec![b'x'; 200_000]].concat(),
        ),
        (
            "TLS",
            [&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3][..], &[7; 508]].concat(),
        ),
        ("half a preface", PREFACE[..10].to_vec()),
        ("half a settings frame", begun[..PREFACE.len() + 4].to_vec()),
        (
            "random bytes after the preface",
            [begun.clone(), (0..100_000).map(|_| rand::random()).collect()].concat(),
        ),
        ("settings of three bytes", after(vec![frame(4, 0, 0, &[1, 2, 3])])),
        (
            "a window of 2^32 - 1",
            after(vec![frame(4, 0, 0, &[0, 4, 0xff, 0xff, 0xff, 0xff])]),
        ),
        (
            "a frame of 16 MiB",
            [begun.clone(), vec![0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1]].concat(),
        ),
        (
            "half a headers frame",
            after(vec![frame(1, 4, 1, headers)[..11].to_vec()]),
        ),
        (
            "headers that are no headers",
            after(vec![frame(1, 4, 1, &[0xff; 100])]),
        ),
        ("headers without an end", after(vec![frame(1, 0, 1, headers)])),
        (
            "headers that go on for ever",
            after(
                std::iter::once(frame(1, 0, 1, headers))
                    .chain((0..1_000).map(|_| frame(9, 0, 1, headers)))
                    .collect(),
            ),
        ),
        (
            "more headers than anybody keeps",
            after(vec![frame(
                1,
                4,
                1,
                &[&[0x40, 1, b'x', 127, 0x81, 0x7c][..], &[b'y'; 16_000]].concat(),
            )]),
        ),
        ("a continuation of nothing", after(vec![frame(9, 4, 1, headers)])),
        (
            "data on a stream that is not open",
            after(vec![frame(0, 0, 5, b"data")]),
        ),
        ("data on stream 0", after(vec![frame(0, 0, 0, b"data")])),
        ("an even stream", after(vec![frame(1, 4, 2, headers)])),
        ("a window of nothing more", after(vec![frame(8, 0, 0, &[0; 4])])),
        (
            "a window beyond the largest",
            after(vec![frame(8, 0, 0, &[0x7f, 0xff, 0xff, 0xff]); 3]),
        ),
        ("a push", after(vec![frame(5, 4, 1, headers)])),
        ("a goodbye", after(vec![frame(7, 0, 0, &[0; 8])])),
        (
            "unknown frames",
            after((0..1_000).map(|_| frame(0x77, 0xff, 3, b"what")).collect()),
        ),
        ("settings again and again", after(vec![SETTINGS.to_vec(); 10_000])),
        (
            "pings that are not waited for",
            after(vec![frame(6, 0, 0, &[1; 8]); 10_000]),
        ),
        (
            "streams that are reset at once",
            after(
                (0..5_000)
                    .flat_map(|at| {
                        [
                            frame(1, 4, 2 * at + 1, headers),
                            frame(3, 0, 2 * at + 1, &[0, 0, 0, 8]),
                        ]
                    })
                    .collect(),
            ),
        ),
    ]
}

/// Sends the bytes, and reads the answer for a moment. The listener may close at any time.
pub(crate) async fn say(address: &Address, bytes: &[u8]) -> TcpStream {
    let mut stream = connect(address).await;
    let _ = tokio::time::timeout(Duration::from_millis(200), async {
        let mut answer = [0; 4_096];
        let (mut from, mut to) = stream.split();
        let write = async { to.write_all(bytes).await };
        let read = async { while matches!(from.read(&mut answer).await, Ok(1..)) {} };
        tokio::join!(write, read)
    })
    .await;
    stream
}

/// An HTTP/2 connection without gRPC.
#[derive(Clone)]
pub(crate) struct Http2 {
    address: Address,
    send: SendRequest<Bytes>,
}

impl Http2 {
    /// Connects. `window`: number of bytes that the server may send on each unread stream.
    pub(crate) async fn connect(address: &Address, window: u32) -> Self {
        let stream = connect(address).await;
        let mut builder = h2::client::Builder::new();
        builder
            .initial_window_size(window)
            .initial_max_send_streams(2_000);
        let (send, connection) = builder.handshake(stream).await.unwrap();
        tokio::spawn(connection);
        Self {
            address: address.clone(),
            send,
        }
    }

    /// Opens a call, and leaves the call open.
    pub(crate) async fn open(&mut self, path: &str) -> (ResponseFuture, h2::SendStream<Bytes>) {
        self.open_with(path, ("te", "trailers")).await
    }

    async fn open_with(
        &mut self,
        path: &str,
        (name, value): (&str, &str),
    ) -> (ResponseFuture, h2::SendStream<Bytes>) {
        let mut send = self.send.clone().ready().await.unwrap();
        let request = http::Request::post(format!("{}{path}", self.address))
            .header("content-type", "application/grpc")
            .header(name, value)
            .body(())
            .unwrap();
        send.send_request(request, false).unwrap()
    }

    /// Sends these bytes as a call's whole request. Returns the code at the end of the call.
    pub(crate) async fn code(&mut self, path: &str, body: Bytes) -> Code {
        self.code_with(path, ("te", "trailers"), body).await
    }

    /// As [`code`](Self::code), with this header.
    pub(crate) async fn code_with(&mut self, path: &str, header: (&str, &str), body: Bytes) -> Code {
        let (answer, mut stream) = self.open_with(path, header).await;
        // The answer cuts off the bytes beyond the window.
        stream.send_data(body, true).unwrap();
        let ends = async {
            let answer = answer.await.unwrap();
            if let Some(code) = answer.headers().get("grpc-status") {
                return Code::from_bytes(code.as_bytes());
            }
            let mut body = answer.into_body();
            while let Some(data) = body.data().await {
                let length = data.unwrap().len();
                body.flow_control().release_capacity(length).unwrap();
            }
            let trailers = body.trailers().await.unwrap().unwrap();
            Code::from_bytes(trailers["grpc-status"].as_bytes())
        };
        let code = tokio::time::timeout(ANSWER_MAX, ends).await;
        code.unwrap_or_else(|_| panic!("{path} does not answer"))
    }
}

/// A message with a prefix that may state a different length, or compression.
pub(crate) fn prefixed(flag: u8, length: u32, message: &[u8]) -> Bytes {
    let mut bytes = vec![flag];
    bytes.extend(length.to_be_bytes());
    bytes.extend(message);
    bytes.into()
}
