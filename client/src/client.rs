//! The client: an application's handle to a cluster.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use paxos_common::{trace::names::method, wire::command::append};
use paxos_proto::v1::{self, command::Operation};
use tokio::{sync::mpsc, time::Instant};

use crate::{
    Slot, Version,
    address::Directory,
    cluster::ClusterStatus,
    config::{ClientConfig, TIMEOUT_MAX},
    courier::{Courier, Obstacle, QUEUE_MAX},
    error::{ConfigError, ProposeError, ReadError, SubscribeError, WriteError},
    give_up::GiveUp,
    learners::Learners,
    limits,
    log::{self, LogPage},
    propose::repeat,
    registers::{
        Condition, Consistency, Decision, PageRequest, Register, RegisterPage, Written, delete, put,
    },
    session::Sessions,
    stall::Judge,
    status::{ClusterReport, survey},
    stream::Submission,
    trace::Tracer,
    unary::Unary,
    updates::Updates,
    watch::{self, ChangePage, Target},
};

/// A connection to a cluster. Cheap to clone; clones share their connections and their session.
///
/// Every call ends within the client's timeout: [`ClientConfig::timeout`], or the argument of
/// [`with_timeout`](Self::with_timeout).
#[derive(Clone, Debug)]
pub struct Client {
    timeout: Duration,
    pub(crate) directory: Arc<Directory>,
    pub(crate) queue: mpsc::Sender<Submission>,
    pub(crate) obstacle: Obstacle,
    unary: Arc<Unary>,
    pub(crate) learners: Arc<Learners>,
    pub(crate) sessions: Arc<Sessions>,
    pub(crate) given_up: GiveUp,
    pub(crate) tracer: Tracer,
}

/// Making a client.
impl Client {
    /// A client of the cluster with these acceptors, each a URL `http://HOST:PORT`, in plaintext: with TLS use
    /// [`new`](Self::new) and [`ClientConfig::tls`]. One reachable acceptor is enough;
    /// with more URLs, more acceptors may be down.
    ///
    /// Nothing is connected before the first call, so this succeeds while the cluster is still down.
    ///
    /// # Errors
    /// A text is not such a URL, or no acceptor is given.
    ///
    /// # Panics
    /// Outside a Tokio runtime.
    pub fn connect(acceptors: impl IntoIterator<Item: AsRef<str>>) -> Result<Self, ConfigError> {
        Self::new(ClientConfig::new(acceptors)?)
    }

    /// A client with this configuration, like [`connect`](Self::connect).
    ///
    /// Reads the files of [`ClientConfig::tls`], if any, and from now on again every ten seconds.
    ///
    /// # Errors
    /// No acceptor is given, the files cannot be used, or an address has the wrong scheme: `https://` with TLS, and
    /// `http://` without.
    ///
    /// # Panics
    /// Outside a Tokio runtime.
    pub fn new(config: ClientConfig) -> Result<Self, ConfigError> {
        let dialer = config.dialer()?;
        let timeout = config.timeout;
        let directory = Arc::new(Directory::new(config, dialer));
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
            timeout,
            unary: Arc::new(Unary::new(directory.clone(), judge)),
            learners: Arc::new(Learners::new(directory.clone())),
            sessions: Arc::default(),
            given_up: GiveUp::never(),
            tracer: Tracer::global(),
            directory,
            queue,
            obstacle,
        })
    }

    /// The same client with another timeout, for a call or for a part of the program.
    #[must_use]
    pub fn with_timeout(&self, timeout: Duration) -> Self {
        Self {
            timeout,
            ..self.clone()
        }
    }

    /// The same client for writes that can be given up.
    pub(crate) fn with_give_up(&self, given_up: GiveUp) -> Self {
        Self {
            given_up,
            ..self.clone()
        }
    }

    /// The timeout of this client's calls.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// The deadline of a call that begins now.
    pub(crate) fn deadline(&self) -> Instant {
        Instant::now() + self.timeout.min(TIMEOUT_MAX)
    }
}

/// Writes, exactly once.
impl Client {
    /// Writes a register, exactly once. Returns the version of the write, the new version of the register.
    ///
    /// Within the timeout, the command is repeated in a session until it is known to be ordered. A learner then reports
    /// the outcome.
    ///
    /// # Errors
    /// See [`WriteError`]; [`had_no_effect`](WriteError::had_no_effect) says whether a retry is safe.
    ///
    /// # Cancel safety
    /// Dropping the future gives up the outcome: the command may still take effect.
    pub async fn put(&self, key: impl Into<Bytes>, value: impl Into<Bytes>) -> Result<Version, WriteError> {
        let written = self.put_if(key, value, Condition::Always).await?;
        Ok(written.version())
    }

    /// Writes a register if the condition is true, exactly once. A false condition is an outcome, not an error.
    ///
    /// # Errors
    /// As [`put`](Self::put).
    ///
    /// # Cancel safety
    /// As [`put`](Self::put).
    pub async fn put_if(
        &self,
        key: impl Into<Bytes>,
        value: impl Into<Bytes>,
        condition: Condition,
    ) -> Result<Written, WriteError> {
        let writing = self.write(put(key.into(), value.into(), condition), self.deadline());
        self.tracer.operation("client.put", writing).await
    }

    /// Removes a register, exactly once, like [`put`](Self::put). An absent register stays absent.
    ///
    /// # Errors
    /// As [`put`](Self::put).
    ///
    /// # Cancel safety
    /// As [`put`](Self::put).
    pub async fn delete(&self, key: impl Into<Bytes>) -> Result<Version, WriteError> {
        let written = self.delete_if(key, Condition::Always).await?;
        Ok(written.version())
    }

    /// Removes a register if the condition is true, exactly once, like [`put_if`](Self::put_if).
    ///
    /// # Errors
    /// As [`put`](Self::put).
    ///
    /// # Cancel safety
    /// As [`put`](Self::put).
    pub async fn delete_if(
        &self,
        key: impl Into<Bytes>,
        condition: Condition,
    ) -> Result<Written, WriteError> {
        let writing = self.write(delete(key.into(), condition), self.deadline());
        self.tracer.operation("client.delete", writing).await
    }

    /// Decides a name: the value of the first caller ever wins, and every caller gets the same answer.
    ///
    /// The decision lasts as long as no client puts or deletes the register of this name.
    ///
    /// # Errors
    /// As [`put`](Self::put). A retry is always safe: the name is decided once.
    ///
    /// # Cancel safety
    /// As [`put`](Self::put).
    pub async fn decide(
        &self,
        name: impl Into<Bytes>,
        value: impl Into<Bytes>,
    ) -> Result<Decision, WriteError> {
        let deciding = self.decide_once(name.into(), value.into(), self.deadline());
        self.tracer.operation("client.decide", deciding).await
    }

    /// Appends a record, 1 byte to [1 MiB](crate::VALUE_BYTES_MAX), to the log, exactly once. Returns the version that
    /// counts: the first.
    ///
    /// The command is repeated when the outcome of an attempt is unknown. Readers of the log may then see the record
    /// twice, the second time with the session and sequence of the first.
    ///
    /// # Errors
    /// See [`WriteError`].
    ///
    /// # Cancel safety
    /// Dropping the future gives up the outcome: the record may still be appended.
    pub async fn append(&self, record: impl Into<Bytes>) -> Result<Version, WriteError> {
        let append = Operation::Append(v1::Append {
            record: record.into(),
        });
        let writing = self.write(append, self.deadline());
        let written = self.tracer.operation("client.append", writing).await?;
        Ok(written.version())
    }

    /// The outcome of the command at `version`: asks again after [`WriteError::OutcomeNotRead`].
    ///
    /// # Errors
    /// See [`ReadError`]. The outcome is kept for as long as the log: afterwards [`ReadError::Trimmed`].
    ///
    /// # Cancel safety
    /// Safe: the call only reads.
    pub async fn outcome(&self, version: Version) -> Result<Written, ReadError> {
        let reading = self.read_outcome(version, self.deadline());
        let outcome = self.tracer.operation("client.outcome", reading).await;
        outcome.map_err(ReadError::from)
    }
}

/// Appends without a session.
impl Client {
    /// Appends a record, 1 byte to [1 MiB](crate::VALUE_BYTES_MAX), to the log, at most once: after an unknown outcome,
    /// the command is not sent again. Faster than [`append`](Self::append): no session is opened, and no learner is
    /// asked for the outcome.
    ///
    /// Returns once the command is chosen and on the disks of a quorum, and so is everything ordered before it. The
    /// command then survives power loss.
    ///
    /// All calls of a client, any number at once, share a stream to one proposer. When this proposer fails, the next
    /// proposer is used. From a proposer that does not lead, the client moves to the leader. Successive calls are ordered in the order of the calls; concurrent calls may be ordered in any
    /// order.
    ///
    /// # Errors
    /// See [`ProposeError`]. A command is repeated, within the timeout, only while it is certain that the command was
    /// not ordered.
    ///
    /// # Cancel safety
    /// Dropping the future withdraws a command that is not sent yet; a sent command may still be ordered.
    pub async fn append_at_most_once(&self, record: impl Into<Bytes>) -> Result<Version, ProposeError> {
        self.propose(append(record.into())).await
    }

    /// Has any command ordered, like [`append_at_most_once`](Self::append_at_most_once). For `paxos bench`.
    ///
    /// # Errors
    /// As [`append_at_most_once`](Self::append_at_most_once).
    ///
    /// # Cancel safety
    /// As [`append_at_most_once`](Self::append_at_most_once).
    #[doc(hidden)]
    pub async fn propose(&self, command: v1::Command) -> Result<Version, ProposeError> {
        limits::check(&command)?;
        let proposing = repeat(self.deadline(), |deadline| {
            self.attempt(command.clone(), deadline)
        });
        self.tracer.operation("client.propose", proposing).await
    }

    /// Like [`propose`](Self::propose), as a call of its own instead of over the shared stream: the form that clients
    /// in other languages begin with. Costs many times as much. For `paxos bench`.
    ///
    /// # Errors
    /// As [`propose`](Self::propose).
    ///
    /// # Cancel safety
    /// As [`propose`](Self::propose).
    #[doc(hidden)]
    pub async fn propose_unary(&self, command: v1::Command) -> Result<Version, ProposeError> {
        limits::check(&command)?;
        let proposing = repeat(self.deadline(), |deadline| {
            let call = self.tracer.call(method::PROPOSE);
            self.unary.attempt(command.clone(), deadline, call)
        });
        self.tracer.operation("client.propose", proposing).await
    }
}

/// Reads from learners, without any proposer.
impl Client {
    /// Reads a register: sees every write acknowledged before the call, by any client. Returns `None` for an absent
    /// register.
    ///
    /// # Errors
    /// See [`ReadError`].
    ///
    /// # Cancel safety
    /// Safe: the call only reads.
    pub async fn get(&self, key: impl Into<Bytes>) -> Result<Option<Register>, ReadError> {
        self.get_with(key, Consistency::Linearizable).await
    }

    /// Reads a register, as fresh as `consistency` says.
    ///
    /// # Errors
    /// See [`ReadError`].
    ///
    /// # Cancel safety
    /// Safe: the call only reads.
    pub async fn get_with(
        &self,
        key: impl Into<Bytes>,
        consistency: Consistency,
    ) -> Result<Option<Register>, ReadError> {
        let key = key.into();
        limits::check_key(&key)?;
        let reading = self.read_key(key, consistency, self.deadline());
        Ok(self.tracer.operation("client.get", reading).await?)
    }

    /// Reads the registers whose key starts with `prefix`, in key order, a page at a time. The empty prefix selects all
    /// registers. `PageRequest::default()` reads the first page, linearizable.
    ///
    /// # Errors
    /// See [`ReadError`].
    ///
    /// # Cancel safety
    /// Safe: the call only reads.
    pub async fn get_prefix(
        &self,
        prefix: impl Into<Bytes>,
        request: PageRequest,
    ) -> Result<RegisterPage, ReadError> {
        let prefix = prefix.into();
        limits::check_prefix(&prefix)?;
        if let Some(after) = &request.after {
            limits::check_key(after)?;
        }
        let reading = self.read_page(prefix, request, self.deadline());
        Ok(self.tracer.operation("client.get_prefix", reading).await?)
    }

    /// The end of the log: a slot above every command acknowledged before the call.
    ///
    /// A learner finds the end by the read barrier, as for a linearizable read. So a majority of acceptors and a
    /// learner must answer.
    ///
    /// # Errors
    /// See [`ReadError`].
    ///
    /// # Cancel safety
    /// Safe: the call only reads.
    pub async fn chosen_to(&self) -> Result<Slot, ReadError> {
        Ok(self.end_of_log(Consistency::Linearizable).await?)
    }

    /// How far a learner has applied the log. Needs no majority of acceptors: commands above may have been
    /// acknowledged.
    ///
    /// # Errors
    /// See [`ReadError`].
    ///
    /// # Cancel safety
    /// Safe: the call only reads.
    pub async fn applied_to(&self) -> Result<Slot, ReadError> {
        Ok(self.end_of_log(Consistency::Local).await?)
    }

    /// Asks every process for its status: the acceptors, and the members, proposers and learners named by the
    /// acceptors.
    ///
    /// While no quorum of acceptors has answered, late processes are waited for until the timeout; otherwise for a
    /// fraction of a second.
    ///
    /// # Cancel safety
    /// Safe: the call only reads.
    pub async fn cluster_status(&self) -> ClusterStatus {
        ClusterStatus::of(self.cluster_report().await)
    }

    /// The same with the answers as on the wire. For the command `paxos status`.
    ///
    /// # Cancel safety
    /// Safe: the call only reads.
    #[doc(hidden)]
    pub async fn cluster_report(&self) -> ClusterReport {
        survey(&self.directory, self.timeout.min(TIMEOUT_MAX)).await
    }
}

/// Streams from learners. When the learner in use fails, another learner continues. A stream ends in
/// [`SubscribeError::Unavailable`] only when no learner has answered for the client's timeout.
impl Client {
    /// Follows the log from slot `from` on, without gaps or repeats. Ends in [`SubscribeError::Trimmed`] if no learner
    /// keeps the next slot any more, also after slow reading.
    ///
    /// # Panics
    /// Outside a Tokio runtime.
    pub fn log(&self, from: Slot) -> Updates<LogPage, SubscribeError> {
        log::follow(self.directory.clone(), Some(from), self.timeout)
    }

    /// Follows the log from the oldest slot that a learner keeps, like [`log`](Self::log). The first update shows the
    /// beginning.
    ///
    /// # Panics
    /// Outside a Tokio runtime.
    pub fn kept_log(&self) -> Updates<LogPage, SubscribeError> {
        log::follow(self.directory.clone(), None, self.timeout)
    }

    /// Watches a register: every change from now on, in order, without loss or repeats. "Now" is the moment of the
    /// first update: pass a version to [`Client::watch_with`] to miss no change before that moment.
    ///
    /// # Panics
    /// Outside a Tokio runtime.
    pub fn watch(&self, key: impl Into<Bytes>) -> Updates<ChangePage, SubscribeError> {
        self.watch_with(Target::Key(key.into()), None)
    }

    /// Watches one or many registers: every change at or after `from`, in order, without loss or repeats. Without
    /// `from`, the changes begin at the moment of the first update. Ends in [`SubscribeError::Trimmed`] if no learner
    /// keeps the next changes any more: read the registers, and watch from there.
    ///
    /// # Panics
    /// Outside a Tokio runtime.
    pub fn watch_with(&self, target: Target, from: Option<Version>) -> Updates<ChangePage, SubscribeError> {
        watch::follow(self.directory.clone(), target, from, self.timeout)
    }
}
