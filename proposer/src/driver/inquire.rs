//! Asks a proposer whose streams have ended whether its process lives, and whether it still campaigns or leads.

use std::{io, time::Duration};

use paxos_common::{
    paxos::{
        ballot::Ballot,
        proposer::{Event, InquiryAnswer},
    },
    peer::{Address, Dialer, MessageLimits as _},
    service::shutdown::Shutdown,
};
use paxos_proto::v1::{self as pb, proposer_client::ProposerClient};
use tokio::{
    net::{TcpStream, lookup_host},
    sync::mpsc,
    time::{sleep, timeout},
};

use super::Driver;
use crate::input::Input;

/// Pause after a call without an answer.
const AGAIN_AFTER: Duration = Duration::from_millis(5);

impl Driver {
    /// Asks the proposer of a ballot in the background, for at most the leader timeout: afterwards its silence decides.
    pub(super) fn inquire(
        &self,
        (number, ballot): (u64, Ballot),
        address: &str,
        inputs: &mpsc::Sender<Input>,
        shutdown: &Shutdown,
    ) {
        match address.parse() {
            // An earlier run of this proposer led.
            Ok(address) if self.address == address => {
                let answer = InquiryAnswer::Gone;
                let event = Event::InquiryAnswered { number, answer };
                // Without room, the end of the streams counts a little later.
                let _ = inputs.try_send(Input::Core(event));
            }
            Ok(address) if self.dialer.accepts(&address) => {
                let (limit, dialer) = (self.leader_timeout, self.dialer.clone());
                shutdown.spawn(inquire((number, ballot), address, dialer, limit, inputs.clone()));
            }
            // No process can be asked there.
            Ok(_) | Err(_) => {}
        }
    }
}

/// Asks the proposer of a ballot, and passes each answer to the driver, within `limit`.
///
/// # Cancel safety
/// Safe: only asks.
async fn inquire(
    (number, ballot): (u64, Ballot),
    address: Address,
    dialer: Dialer,
    limit: Duration,
    inputs: mpsc::Sender<Input>,
) {
    let answer = async |answer| {
        let event = Event::InquiryAnswered { number, answer };
        // The driver may have ended.
        let _ = inputs.send(Input::Core(event)).await;
    };
    let asking = async {
        let mut is_connected = false;
        loop {
            match connect(&address).await {
                Connected::Yes if is_connected => {}
                Connected::Yes => answer(InquiryAnswer::Connected).await,
                Connected::Refused => return answer(InquiryAnswer::Gone).await,
                Connected::Unknown => return,
            }
            is_connected = true;
            // A second connection: the first showed only that the machine accepts connections.
            let mut client = ProposerClient::new(dialer.to_proposer(&address)).with_message_limits();
            match client.status(pb::ProposerStatusRequest {}).await {
                Ok(status) if is_at(status.get_ref(), ballot) => return,
                Ok(_) => return answer(InquiryAnswer::Gone).await,
                // A process that ends just now has closed its streams, and perhaps not its listener yet.
                Err(_) => sleep(AGAIN_AFTER).await,
            }
        }
    };
    // Without an answer the core decides by the time alone.
    let _ = timeout(limit, asking).await;
}

enum Connected {
    Yes,
    /// The machine answers, and no process listens.
    Refused,
    /// No answer, or none that says anything about the process.
    Unknown,
}

/// Connects to each IP address of the host until one accepts.
async fn connect(address: &Address) -> Connected {
    let Ok(found) = lookup_host(address.host_and_port()).await else {
        return Connected::Unknown;
    };
    let (mut refused, mut failed) = (0, 0);
    for ip in found {
        match TcpStream::connect(ip).await {
            Ok(_) => return Connected::Yes,
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => refused += 1,
            Err(_) => failed += 1,
        }
    }
    if refused > 0 && failed == 0 {
        Connected::Refused
    } else {
        Connected::Unknown
    }
}

/// Whether a proposer campaigns or leads at this ballot.
fn is_at(status: &pb::ProposerStatusResponse, ballot: Ballot) -> bool {
    let own = status.ballot.map(Ballot::try_from);
    own.is_some_and(|own| own.is_ok_and(|own| own == ballot))
}

#[cfg(test)]
mod tests {
    use super::*;
    use paxos_common::paxos::ballot::ProposerId;
    use std::net::TcpListener;

    const LIMIT: Duration = Duration::from_millis(300);

    fn ballot(round: u64) -> Ballot {
        Ballot::new(round, ProposerId::from_random(1)).unwrap()
    }

    /// The answers to an inquiry at this address.
    async fn answers(address: &str) -> Vec<InquiryAnswer> {
        let (inputs, mut inbox) = mpsc::channel(4);
        let address = address.parse().unwrap();
        inquire((5, ballot(1)), address, Dialer::default(), LIMIT, inputs).await;
        let mut answers = Vec::new();
        while let Some(input) = inbox.recv().await {
            let Input::Core(Event::InquiryAnswered { number: 5, answer }) = input else {
                panic!("{input:?}");
            };
            answers.push(answer);
        }
        answers
    }

    fn listener() -> (TcpListener, String) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        (listener, address)
    }

    #[tokio::test]
    async fn refused_connection_shows_a_dead_process() {
        let (listener, address) = listener();
        drop(listener);
        assert_eq!(answers(&address).await, [InquiryAnswer::Gone]);
    }

    #[tokio::test]
    async fn stopped_process_accepts_connections_and_says_nothing() {
        // The kernel accepts connections in place of the process.
        let (_listener, address) = listener();
        assert_eq!(answers(&address).await, [InquiryAnswer::Connected]);
    }

    #[tokio::test]
    async fn process_that_ends_after_accepting_a_connection_is_dead() {
        let (listener, address) = listener();
        let ends = std::thread::spawn(move || drop(listener.accept().unwrap()));
        let last = answers(&address).await.pop();
        assert_eq!(last, Some(InquiryAnswer::Gone));
        ends.join().unwrap();
    }

    #[tokio::test]
    async fn unknown_host_is_no_answer() {
        assert_eq!(answers("http://no-such-host.invalid:7001").await, []);
    }

    #[test]
    fn only_a_proposer_at_the_same_ballot_is_at_work() {
        let status = |own: Option<Ballot>| pb::ProposerStatusResponse {
            ballot: own.map(Into::into),
            ..pb::ProposerStatusResponse::default()
        };
        assert!(is_at(&status(Some(ballot(1))), ballot(1)));
        assert!(!is_at(&status(Some(ballot(2))), ballot(1)));
        assert!(!is_at(&status(None), ballot(1)));
    }
}
