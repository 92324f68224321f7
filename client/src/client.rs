//! The client: what an application holds.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use paxos_common::{
    peer::{Address, Backoff},
    trace::names::method,
};
use paxos_proto::v1::{self, Append, Command, command::Operation};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep, timeout_at},
};
use tonic::Code;

use crate::{
    Slot, Version,
    address::Directory,
    courier::{Courier, Obstacle, QUEUE_MAX},
    error::{Cause, ConfigError, Failed, ProposeError, Unanswered},
    learners::Learners,
    limits,
    registers::Consistency,
    session::Sessions,
    stall::Judge,
    status::{ClusterStatus, survey},
    stream::{Sending, Submission},
    subscription::Subscription,
    trace::Tracer,
    unary::Unary,
};

/// Nobody waits longer; and a moment that no clock can name is none to wait for.
const TIMEOUT_MAX: Duration = Duration::from_secs(30 * 24 * 3_600);
/// Pauses between attempts of one call, from the shortest to the longest.
const RETRY_PAUSE: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(500));

/// Whom to talk to.
#[derive(Clone, Debug, Default)]
pub struct ClientConfig {
    /// Acceptors, at least one; the more are given, the more of them may be down.
    pub acceptors: Vec<Address>,
    /// Proposers to use, in order of preference; none: those that the acceptors name, the leader first.
    pub proposers: Vec<Address>,
    /// Learners to use, subscriptions and watches in order of preference, reads all of them; none: those that the
    /// acceptors name.
    pub learners: Vec<Address>,
}

/// A connection to one cluster. Cheap to clone; clones share their connections.
#[derive(Clone, Debug)]
pub struct Client {
    pub(crate) directory: Arc<Directory>,
    queue: mpsc::Sender<Submission>,
    obstacle: Obstacle,
    unary: Arc<Unary>,
    pub(crate) learners: Arc<Learners>,
    pub(crate) sessions: Arc<Sessions>,
    pub(crate) tracer: Tracer,
}

impl Client {
    /// Makes a client. Nothing is connected before the first call needs it, so this succeeds while the cluster is
    /// still down.
    ///
    /// # Errors
    /// No acceptor is given.
    ///
    /// # Panics
    /// Outside a Tokio runtime.
    pub fn new(config: ClientConfig) -> Result<Self, ConfigError> {
        if config.acceptors.is_empty() {
            return Err(ConfigError::NoAcceptors);
        }
        let directory = Arc::new(Directory::new(config));
        let (queue, submissions) = mpsc::channel(QUEUE_MAX);
        let obstacle = Obstacle::default();
        let judge = Arc::new(Judge::new(directory.clone()));
        let courier = Courier {
            directory: directory.clone(),
            judge: judge.clone(),
            queue: submissions,
            obstacle: obstacle.clone(),
        };
        tokio::spawn(courier.run());
        Ok(Self {
            unary: Arc::new(Unary::new(directory.clone(), judge)),
            learners: Arc::new(Learners::new(directory.clone())),
            sessions: Arc::default(),
            tracer: Tracer::global(),
            directory,
            queue,
            obstacle,
        })
    }

    /// Appends one record, 1 byte to [1 MiB](crate::VALUE_BYTES_MAX), to the log: [`propose`](Self::propose) of an
    /// `Append`.
    ///
    /// # Errors
    /// As [`propose`](Self::propose).
    ///
    /// # Cancel safety
    /// As [`propose`](Self::propose).
    pub async fn append(&self, record: impl Into<Bytes>, timeout: Duration) -> Result<Version, ProposeError> {
        self.propose(append(record.into()), timeout).await
    }

    /// Has one command ordered; returns its version once it is chosen, is on the disks of a quorum (so it survives
    /// power loss), and so is everything ordered before it.
    ///
    /// All calls of one client share a stream to one proposer, in any number at once. When the proposer fails, the
    /// next is used. Calls made one after the other are ordered so; calls made together, in any order.
    ///
    /// # Errors
    /// See [`ProposeError`]. Only what was certainly not ordered is repeated, until `timeout` has passed; thirty days
    /// are the longest.
    ///
    /// # Cancel safety
    /// Dropping the future withdraws the command if it has not been sent yet; otherwise it may still be ordered.
    pub async fn propose(&self, command: Command, timeout: Duration) -> Result<Version, ProposeError> {
        limits::check(&command)?;
        let proposing = repeat(deadline_in(timeout), |deadline| {
            self.attempt(command.clone(), deadline)
        });
        self.tracer.operation("client.propose", proposing).await
    }

    /// The same as [`propose`](Self::propose), as a call of its own instead of over the shared stream: what clients in
    /// other languages do first. It costs many times as much.
    ///
    /// # Errors
    /// As [`propose`](Self::propose).
    ///
    /// # Cancel safety
    /// As [`propose`](Self::propose).
    pub async fn propose_unary(&self, command: Command, timeout: Duration) -> Result<Version, ProposeError> {
        limits::check(&command)?;
        let proposing = repeat(deadline_in(timeout), |deadline| {
            let call = self.tracer.call(method::PROPOSE);
            self.unary.attempt(command.clone(), deadline, call)
        });
        self.tracer.operation("client.propose", proposing).await
    }

    /// Follows the log from a slot on, on some learner and, when that one fails, on another: without gaps or repeats.
    ///
    /// It ends in [`SubscribeError::Unavailable`](crate::SubscribeError::Unavailable) only when no learner has
    /// answered for `patience`.
    ///
    /// # Panics
    /// Outside a Tokio runtime.
    pub fn subscribe(&self, from: Slot, patience: Duration) -> Subscription {
        Subscription::start(self.directory.clone(), from, patience)
    }

    /// Asks every process how it is: the acceptors, and the members, proposers and learners that they name.
    ///
    /// Processes that do not answer are waited for until `timeout` while no quorum of acceptors has answered, and
    /// otherwise for a fraction of a second.
    ///
    /// # Cancel safety
    /// Safe: it only reads.
    pub async fn cluster_status(&self, timeout: Duration) -> ClusterStatus {
        survey(&self.directory, timeout.min(TIMEOUT_MAX)).await
    }

    /// Where the log ends: a slot above every command that was acknowledged before the call. A learner finds it by the
    /// read barrier, as it does for a linearizable read, so a majority of acceptors and one learner must answer.
    ///
    /// # Errors
    /// No learner answered within `timeout`.
    ///
    /// # Cancel safety
    /// Safe: it only reads.
    pub async fn chosen_to(&self, timeout: Duration) -> Result<Slot, Cause> {
        self.end_of_log(Consistency::Linearizable, timeout).await
    }

    /// How far one learner has applied the log, without a majority of acceptors: commands above may have been acknowledged.
    ///
    /// # Errors
    /// No learner answered within `timeout`.
    ///
    /// # Cancel safety
    /// Safe: it only reads.
    pub async fn applied_to(&self, timeout: Duration) -> Result<Slot, Cause> {
        self.end_of_log(Consistency::Local, timeout).await
    }

    async fn end_of_log(&self, consistency: Consistency, timeout: Duration) -> Result<Slot, Cause> {
        // Which register is read does not matter: the answer says how much of the log is in it.
        let key = Bytes::from_static(b"\0");
        let read = self.look_up(key, consistency, deadline_in(timeout));
        let (_, applied_to) = read.await.map_err(Unanswered::into_cause)?;
        Ok(applied_to)
    }

    /// Why nothing was proposed before the deadline.
    pub(crate) fn too_late(&self) -> Cause {
        self.obstacle.get().unwrap_or_else(Cause::deadline)
    }

    pub(crate) async fn attempt(&self, command: Command, deadline: Instant) -> Result<Version, Failed> {
        let call = self.tracer.call(method::PROPOSE_STREAM);
        let sending = Sending::default();
        let submitting = self.submit(command, deadline, call.traceparent(), sending.clone());
        let result = submitting.await;
        if let Some(address) = sending.sent_to() {
            call.to(address);
        }
        match &result {
            Ok(_) => call.answered(Code::Ok, ""),
            Err(failed) => call.answered(failed.cause().code, &failed.cause().message),
        }
        result
    }

    async fn submit(
        &self,
        command: Command,
        deadline: Instant,
        traceparent: String,
        sending: Sending,
    ) -> Result<Version, Failed> {
        let (answer, mut answered) = oneshot::channel();
        let _withdrawn_on_drop = Withdrawal(sending.clone());
        let submission = Submission {
            command,
            deadline,
            sending: sending.clone(),
            traceparent,
            answer,
        };
        let too_late = || Failed::NotProposed(self.too_late());
        match timeout_at(deadline, self.queue.send(submission)).await {
            Ok(Ok(())) => {}
            // The courier lives as long as any client; only a runtime that stops ends it.
            Ok(Err(_closed)) => {
                return Err(Failed::NotProposed(Cause::unavailable("the client is stopping")));
            }
            Err(_elapsed) => return Err(too_late()),
        }
        match timeout_at(deadline, &mut answered).await {
            Ok(Ok(result)) => result,
            _ if sending.withdraw() => Err(too_late()),
            Ok(Err(_closed)) => Err(Failed::OutcomeUnknown(Cause::deadline())),
            // It may have come in this very moment.
            Err(_elapsed) => answered
                .try_recv()
                .unwrap_or(Err(Failed::OutcomeUnknown(Cause::deadline()))),
        }
    }
}

/// Withdraws a command whose caller is gone.
struct Withdrawal(Sending);

impl Drop for Withdrawal {
    fn drop(&mut self) {
        self.0.withdraw();
    }
}

/// When a timeout that begins now is over.
pub(crate) fn deadline_in(timeout: Duration) -> Instant {
    Instant::now() + timeout.min(TIMEOUT_MAX)
}

/// Attempts until something else than “not proposed” comes of it, or the deadline is too near for another.
async fn repeat<F>(deadline: Instant, attempt: impl Fn(Instant) -> F) -> Result<Version, ProposeError>
where
    F: Future<Output = Result<Version, Failed>>,
{
    let mut pause = Backoff::new(RETRY_PAUSE.0, RETRY_PAUSE.1);
    let mut told = None;
    loop {
        match attempt(deadline).await {
            Ok(version) => return Ok(version),
            Err(Failed::NotProposed(cause)) => {
                let cause = cause.after(told);
                told = Some(cause.clone());
                let delay = pause.next_delay();
                if Instant::now() + delay >= deadline {
                    return Err(ProposeError::NotProposed(cause));
                }
                sleep(delay).await;
            }
            Err(failed @ (Failed::Refused(_) | Failed::OutcomeUnknown(_))) => return Err(failed.into()),
        }
    }
}

/// The command that appends a record.
fn append(record: Bytes) -> Command {
    Command {
        session: None,
        operation: Some(Operation::Append(Append { record })),
    }
}

/// Reads a version off the wire.
pub(crate) fn version_of(version: v1::Version) -> Result<Version, Cause> {
    match (Slot::new(version.slot), u16::try_from(version.offset)) {
        (Ok(slot), Ok(offset)) => Ok(Version { slot, offset }),
        _ => Err(Cause::unavailable(
            "the proposer answered with a version that cannot be",
        )),
    }
}
