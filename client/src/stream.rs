//! An open `ProposeStream`: requests go out, answers come in, each answer for the caller of the named request.

use std::{
    collections::HashMap,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};

use paxos_common::{
    peer::{Address, Dialer},
    trace::UNSAMPLED,
    wire::status::{Fate, fate_of, from_proto},
};
use paxos_proto::v1::{self, ProposeStreamRequest, ProposeStreamResponse, propose_stream_response::Answer};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, timeout, timeout_at},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::{
    Version,
    code::ErrorCode,
    error::{Cause, Failed, read_version},
    stall::{AnswerWait, Judge, Suspect},
    standing::{self, ProposerStanding, client_at},
};

/// Maximum number of unanswered commands on a stream: several times the number that saturates a leader, and a bound for
/// both sides.
const IN_FLIGHT_MAX: usize = 4096;
/// Longest wait for the opening of a stream. A working proposer answers at once; without an answer, a proposer counts
/// as absent.
const OPEN_PATIENCE: Duration = Duration::from_secs(2);
/// Longest silence of a proposer that owes answers. After that time, the stream is stuck, and new commands go
/// elsewhere.
const ANSWER_PATIENCE: Duration = Duration::from_secs(2);
/// Time from the last deadline on an abandoned stream to the close of the stream.
const DRAIN_GRACE: Duration = Duration::from_millis(100);

/// Whether a command was sent or withdrawn. The first decision counts, and is final.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sending(Arc<SendDecision>);

/// The decision about sending a command.
#[derive(Debug, Default)]
struct SendDecision {
    decided: AtomicU8,
    /// The destination of a traced command.
    to: OnceLock<Address>,
}

const WAITING: u8 = 0;
const SENT: u8 = 1;
const WITHDRAWN: u8 = 2;

impl Sending {
    fn decide(&self, outcome: u8) -> bool {
        self.0
            .decided
            .compare_exchange(WAITING, outcome, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }

    /// Withdraws the command for the caller; `false` when already sent.
    pub(crate) fn withdraw(&self) -> bool {
        self.decide(WITHDRAWN)
    }

    /// Whether the command was withdrawn.
    pub(crate) fn is_withdrawn(&self) -> bool {
        self.0.decided.load(Ordering::Acquire) == WITHDRAWN
    }

    /// The destination of a traced command; `None` when the command was not sent, or is not traced.
    pub(crate) fn sent_to(&self) -> Option<&Address> {
        self.0.to.get()
    }
}

/// A command to send, and the waiting caller.
#[derive(Debug)]
pub(crate) struct Submission {
    pub(crate) command: v1::Command,
    pub(crate) deadline: Instant,
    pub(crate) sending: Sending,
    /// Trace context of the command; empty when the application traces nothing.
    pub(crate) traceparent: String,
    pub(crate) answer: oneshot::Sender<Result<Version, Failed>>,
}

/// The meaning of a received message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// An answer that shows a working proposer.
    Good,
    /// The proposer cannot get commands ordered: another proposer may.
    Helpless,
    /// The stream is over; every waiting caller has an answer.
    Over,
}

/// An open stream to a proposer.
#[derive(Debug)]
pub(crate) struct ProposeStream {
    pub(crate) suspect: Suspect,
    /// The proposer's answer about itself at the opening.
    pub(crate) standing: ProposerStanding,
    requests: mpsc::Sender<ProposeStreamRequest>,
    responses: Streaming<ProposeStreamResponse>,
    in_flight: HashMap<u64, oneshot::Sender<Result<Version, Failed>>>,
    last_tag: u64,
    last_deadline: Instant,
    /// Time of the last answer, or of the first owed answer; unset while no answer is owed.
    progress: Arc<AnswerWait>,
    /// The other proposer that leads, as last named by this proposer.
    leader: watch::Sender<Option<Address>>,
}

impl ProposeStream {
    /// Opens a stream. No command is handed to the stream before the proposer has answered the opening. So after a
    /// failure here, certainly nothing was sent.
    ///
    /// # Errors
    /// The proposer cannot be reached or does not answer.
    pub(crate) async fn open(address: Address, dialer: &Dialer) -> Result<Self, Cause> {
        let mut client = client_at(&address, dialer);
        // As many as can be in flight, so that there is always room: a request waits here only while in flight.
        let (requests, outgoing) = mpsc::channel(IN_FLIGHT_MAX);
        let mut asking = client.clone();
        let opening = timeout(
            OPEN_PATIENCE,
            client.propose_stream(ReceiverStream::new(outgoing)),
        );
        // Concurrent: both calls take one round trip. A proposer that opens the stream without reporting a number is
        // known by address.
        let (opened, standing) = tokio::join!(opening, standing::ask(&mut asking));
        let responses = match opened {
            Ok(Ok(response)) => response.into_inner(),
            Ok(Err(status)) => return Err(Cause::of(&status).at(&address)),
            Err(_elapsed) => return Err(Cause::deadline().at(&address)),
        };
        let standing = standing.unwrap_or_default();
        Ok(Self {
            suspect: Suspect {
                address,
                process: standing.process,
            },
            requests,
            responses,
            in_flight: HashMap::new(),
            last_tag: 0,
            last_deadline: Instant::now(),
            progress: Arc::default(),
            leader: watch::Sender::new(standing.leader.clone()),
            standing,
        })
    }

    /// The other proposer that leads, as named by this proposer.
    pub(crate) fn leader(&self) -> watch::Receiver<Option<Address>> {
        self.leader.subscribe()
    }

    pub(crate) fn has_room(&self) -> bool {
        self.in_flight.len() < IN_FLIGHT_MAX
    }

    /// Whether the proposer owes answers and has given none for too long.
    pub(crate) fn is_stuck(&self) -> bool {
        let since = self.progress.since();
        since.is_some_and(|since| since.elapsed() > ANSWER_PATIENCE)
    }

    /// The progress of the answers, for [`Judge::replaced`].
    pub(crate) fn progress(&self) -> Arc<AnswerWait> {
        self.progress.clone()
    }

    /// Gives up all commands in flight: the proposer is silent, and another proposer leads. Whether the commands were
    /// ordered is unknown.
    pub(crate) fn give_up(&mut self) {
        self.fail_all(&self.suspect.replaced(), Failed::OutcomeUnknown);
    }

    /// Sends a command, unless withdrawn by the caller or past the deadline.
    pub(crate) fn send(&mut self, submission: Submission) {
        let Submission {
            command,
            deadline,
            sending,
            traceparent,
            answer,
        } = submission;
        let now = Instant::now();
        let left = deadline.saturating_duration_since(now);
        if left.is_zero() || !sending.decide(SENT) {
            // A caller that still waits sees the closed channel, and that the command was not sent.
            return;
        }
        if !traceparent.is_empty() && traceparent != UNSAMPLED {
            sending.0.to.get_or_init(|| self.suspect.address.clone());
        }
        // The proposer gets slightly less time, so that a definite answer arrives before the caller gives up.
        let timeout_ms = (left - left / 16).as_millis().clamp(1, u128::from(u32::MAX));
        let request = ProposeStreamRequest {
            tag: self.last_tag + 1,
            command: Some(command),
            timeout_ms: u32::try_from(timeout_ms).unwrap_or(u32::MAX),
            traceparent,
            forwarded: false,
        };
        if self.requests.try_send(request).is_err() {
            // The stream is gone, and the unsent request too. Without a waiting caller, the answer is no loss.
            let _ = answer.send(Err(Failed::NotProposed(
                Cause::unavailable("the stream broke").at(&self.suspect.address),
            )));
            return;
        }
        if self.in_flight.is_empty() {
            self.progress.set(Some(now));
        }
        self.last_tag += 1;
        self.last_deadline = self.last_deadline.max(deadline);
        self.in_flight.insert(self.last_tag, answer);
    }

    /// Waits for an answer and passes it on.
    ///
    /// # Cancel safety
    /// Safe: an answer is either passed on or still unread.
    pub(crate) async fn arrival(&mut self) -> Arrival {
        let response = match self.responses.message().await {
            Ok(Some(response)) => response,
            Ok(None) => {
                let cause = Cause::unavailable("the proposer closed the stream").at(&self.suspect.address);
                self.fail_all(&cause, Failed::OutcomeUnknown);
                return Arrival::Over;
            }
            Err(status) => {
                // A stopping proposer reports the stop only after answering every command that it has read.
                let unread = fate_of(&status) == Some(Fate::NotProposed);
                let failed = if unread {
                    Failed::NotProposed
                } else {
                    Failed::OutcomeUnknown
                };
                self.fail_all(&Cause::of(&status).at(&self.suspect.address), failed);
                return Arrival::Over;
            }
        };
        if let Some(leader) = response.leader_address {
            self.leader.send_replace(leader.parse().ok());
        }
        let result = match response.answer {
            Some(Answer::Version(version)) => read_version(version).map_err(Failed::OutcomeUnknown),
            Some(Answer::Error(error)) => Err(Failed::judge(&from_proto(&error))),
            None => Err(Failed::OutcomeUnknown(Cause::unavailable(
                "the proposer sent an empty answer",
            ))),
        };
        let arrival = match &result {
            Err(Failed::NotProposed(cause)) if cause.code != ErrorCode::ResourceExhausted => {
                Arrival::Helpless
            }
            Ok(_) | Err(_) => Arrival::Good,
        };
        // No entry: a repeated answer. No receiver: the caller has given up. Neither case needs an action.
        if let Some(answer) = self.in_flight.remove(&response.tag) {
            let _ = answer.send(result);
        }
        self.progress.set((!self.in_flight.is_empty()).then(Instant::now));
        arrival
    }

    /// Passes on the late answers to sent commands, until the last deadline, or until the proposer is replaced.
    pub(crate) async fn drain(mut self, judge: Arc<Judge>) {
        let until = self.last_deadline + DRAIN_GRACE;
        let (suspect, progress) = (self.suspect.clone(), self.progress());
        let mut replaced = std::pin::pin!(judge.replaced(&suspect, &progress));
        while !self.in_flight.is_empty() {
            tokio::select! {
                // Cancel safe, as documented; so is the timer.
                arrival = timeout_at(until, self.arrival()) => match arrival {
                    Ok(Arrival::Good | Arrival::Helpless) => {}
                    Ok(Arrival::Over) | Err(_) => return,
                },
                // Not cancelled by the other arm: polled again.
                () = &mut replaced => return self.give_up(),
            }
        }
    }

    fn fail_all(&mut self, cause: &Cause, failed: impl Fn(Cause) -> Failed) {
        self.progress.set(None);
        for (_, answer) in self.in_flight.drain() {
            let _ = answer.send(Err(failed(cause.clone())));
        }
    }
}
