//! The client: an application's handle to a cluster.

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

/// Upper bound of every timeout, so that adding a timeout to `Instant::now()` cannot overflow.
const TIMEOUT_MAX: Duration = Duration::from_secs(30 * 24 * 3_600);
/// Pauses between attempts of a call, from the shortest to the longest.
const RETRY_PAUSE: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(500));

/// The addresses of a cluster's processes.
#[derive(Clone, Debug, Default)]
pub struct ClientConfig {
    /// Acceptors, at least one. With more addresses, more acceptors may be down.
    pub acceptors: Vec<Address>,
    /// Proposers to use, in order of preference. If empty, the client uses the proposers named by the acceptors, the
    /// leader first.
    pub proposers: Vec<Address>,
    /// Learners to use. Subscriptions and watches use the learners in order of preference, reads use all learners. If
    /// empty, the client uses the learners named by the acceptors.
    pub learners: Vec<Address>,
}

/// A connection to a cluster. Cheap to clone; clones share their connections.
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
    /// Makes a client. Nothing is connected before the first call, so this succeeds while the cluster is still down.
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

    /// Appends a record, 1 byte to [1 MiB](crate::VALUE_BYTES_MAX), to the log: [`propose`](Self::propose) of an
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

    /// Has a command ordered, and returns the version of the command.
    ///
    /// Returns once the command is chosen and on the disks of a quorum, and so is everything ordered before it. The
    /// command then survives power loss.
    ///
    /// All calls of a client, any number at once, share a stream to one proposer. When this proposer fails, the next
    /// proposer is used. Successive calls are ordered in the order of the calls; concurrent calls may be ordered in any
    /// order.
    ///
    /// # Errors
    /// See [`ProposeError`]. A command is repeated, until `timeout` has passed, only while it is certain that the
    /// command was not ordered. The longest timeout is thirty days.
    ///
    /// # Cancel safety
    /// Dropping the future withdraws a command that is not sent yet; a sent command may still be ordered.
    pub async fn propose(&self, command: Command, timeout: Duration) -> Result<Version, ProposeError> {
        limits::check(&command)?;
        let proposing = repeat(deadline_in(timeout), |deadline| {
            self.attempt(command.clone(), deadline)
        });
        self.tracer.operation("client.propose", proposing).await
    }

    /// Like [`propose`](Self::propose), as a call of its own instead of over the shared stream: the form that clients
    /// in other languages begin with. Costs many times as much.
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

    /// Follows the log from slot `from` on, without gaps or repeats. When the learner in use fails, another learner
    /// continues.
    ///
    /// The subscription ends in [`SubscribeError::Unavailable`](crate::SubscribeError::Unavailable) only when no
    /// learner has answered for `patience`.
    ///
    /// # Panics
    /// Outside a Tokio runtime.
    pub fn subscribe(&self, from: Slot, patience: Duration) -> Subscription {
        Subscription::start(self.directory.clone(), from, patience)
    }

    /// Asks every process for its status: the acceptors, and the members, proposers and learners named by the
    /// acceptors.
    ///
    /// While no quorum of acceptors has answered, late processes are waited for until `timeout`; otherwise for a
    /// fraction of a second.
    ///
    /// # Cancel safety
    /// Safe: the call only reads.
    pub async fn cluster_status(&self, timeout: Duration) -> ClusterStatus {
        survey(&self.directory, timeout.min(TIMEOUT_MAX)).await
    }

    /// The end of the log: a slot above every command acknowledged before the call.
    ///
    /// A learner finds the end by the read barrier, as for a linearizable read. So a majority of acceptors and a
    /// learner must answer.
    ///
    /// # Errors
    /// No learner answered within `timeout`.
    ///
    /// # Cancel safety
    /// Safe: the call only reads.
    pub async fn chosen_to(&self, timeout: Duration) -> Result<Slot, Cause> {
        self.end_of_log(Consistency::Linearizable, timeout).await
    }

    /// How far a learner has applied the log. Needs no majority of acceptors: commands above may have been
    /// acknowledged.
    ///
    /// # Errors
    /// No learner answered within `timeout`.
    ///
    /// # Cancel safety
    /// Safe: the call only reads.
    pub async fn applied_to(&self, timeout: Duration) -> Result<Slot, Cause> {
        self.end_of_log(Consistency::Local, timeout).await
    }

    async fn end_of_log(&self, consistency: Consistency, timeout: Duration) -> Result<Slot, Cause> {
        // Any register will do: the answer says how much of the log is included.
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
            // The courier runs as long as any client exists; only the end of the runtime ends the courier earlier.
            Ok(Err(_closed)) => {
                return Err(Failed::NotProposed(Cause::unavailable("the client is stopping")));
            }
            Err(_elapsed) => return Err(too_late()),
        }
        match timeout_at(deadline, &mut answered).await {
            Ok(Ok(result)) => result,
            _ if sending.withdraw() => Err(too_late()),
            Ok(Err(_closed)) => Err(Failed::OutcomeUnknown(Cause::deadline())),
            // The answer may have arrived at this very moment.
            Err(_elapsed) => answered
                .try_recv()
                .unwrap_or(Err(Failed::OutcomeUnknown(Cause::deadline()))),
        }
    }
}

/// Withdraws the command of a caller that is gone.
struct Withdrawal(Sending);

impl Drop for Withdrawal {
    fn drop(&mut self) {
        self.0.withdraw();
    }
}

/// The deadline of a timeout that begins now.
pub(crate) fn deadline_in(timeout: Duration) -> Instant {
    Instant::now() + timeout.min(TIMEOUT_MAX)
}

/// Repeats attempts while the result is “not proposed” and the deadline leaves time for a further attempt.
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
            "the proposer answered with an impossible version",
        )),
    }
}
