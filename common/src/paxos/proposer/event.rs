//! Events and effects of a proposer: the vocabulary between the core and its driver.

use std::{sync::Arc, time::Duration};

use super::{
    inquiry::InquiryAnswer,
    members::{ChangeRequest, ChangeStage},
    notice::Notice,
    queue::Pending,
};
use crate::paxos::{
    ballot::Ballot,
    identity::{AcceptorUuid, CommitCounter, RunNumber},
    message::{Accept, AcceptAnswer, Prepare, PromisePage, ReportAnswer, SLOTS_AHEAD_MAX, UNANSWERED_MAX},
    quorum::Configuration,
    slot::{Slot, Version},
    value::Value,
    witness::{Run, WentBack, Witnesses},
};

/// Settings of a proposer, given at its start.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Settings {
    /// L: how long a leader may be silent. Must be longer than pauses of processes and delays of packets.
    pub leader_timeout: Duration,
    /// Bounds on queued commands and on values in flight.
    pub limits: Limits,
}

/// Bounds on memory, all inclusive. The defaults fit messages of 4 MiB.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Limits {
    /// Commands waiting for a slot.
    pub queue_commands_max: usize,
    /// Bytes of the commands waiting for a slot.
    pub queue_bytes_max: usize,
    /// Commands in one batch; at most [`crate::paxos::value::COMMANDS_MAX`].
    pub batch_commands_max: usize,
    /// Bytes of one batch, unless a single command has more.
    pub batch_bytes_max: usize,
    /// New batches proposed and not chosen. At this limit, commands gather for the next batch.
    pub batches_in_flight_max: u64,
    /// Slots proposed and not chosen, taken-over values and no-ops included: at most [`SLOTS_AHEAD_MAX`].
    pub slots_in_flight_max: u64,
    /// Bytes of the slots proposed and not chosen, unless a single value has more.
    pub bytes_in_flight_max: usize,
    /// Bytes of proposals in one message to an acceptor, unless a single value has more.
    pub message_bytes_max: usize,
    /// Unanswered messages with new proposals to one acceptor: at this limit, no more are sent. Below
    /// [`UNANSWERED_MAX`], because repairs and a resignation need room as well.
    pub unanswered_max: u64,
    /// Chosen slots kept for lagging acceptors.
    pub retained_slots_max: usize,
    /// Bytes of the chosen slots kept for lagging acceptors.
    pub retained_bytes_max: usize,
}

/// Default limit of slots proposed and not chosen.
const SLOTS_IN_FLIGHT_MAX: u64 = 1_024;

const _: () = assert!(
    SLOTS_IN_FLIGHT_MAX <= SLOTS_AHEAD_MAX,
    "acceptors refuse slots further above the watermark, and leaders ignore votes there when filling"
);

impl Default for Limits {
    fn default() -> Self {
        Self {
            queue_commands_max: 16_384,
            queue_bytes_max: 64 << 20,
            batch_commands_max: 4_096,
            batch_bytes_max: 1 << 20,
            batches_in_flight_max: 4,
            slots_in_flight_max: SLOTS_IN_FLIGHT_MAX,
            bytes_in_flight_max: 8 << 20,
            message_bytes_max: 2 << 20,
            unanswered_max: UNANSWERED_MAX - 8,
            retained_slots_max: 8_192,
            retained_bytes_max: 16 << 20,
        }
    }
}

/// Names a caller's request until the answer. Drawn by the driver, never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// Reasons for a wake-up of the core.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Timer {
    /// End of the random wait before a campaign, or of the wait for answers to the last report.
    Election,
    /// Send heartbeats, and judge the presence of acceptors.
    Heartbeat,
    /// End of the random wait before a challenge.
    Challenge,
    /// Give commands back that found no leader.
    Leaderless,
    /// Give up repairs without progress.
    Check,
    /// Judge whether a campaign makes progress.
    GiveUp,
}

/// Input of the core.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// An acceptor shows its runs and the remembered runs of other acceptors. Precedes [`Event::Opened`].
    Introduced {
        /// The acceptor.
        acceptor: AcceptorUuid,
        /// Runs of the acceptor, the current run last.
        runs: Vec<Run>,
        /// Table of the acceptor: remembered runs of other acceptors.
        remembers: Witnesses,
        /// Tables of other acceptors, requested after `runs` was shown. Empty if the current run was already introduced
        /// with enough tables.
        others: Vec<(AcceptorUuid, Witnesses)>,
    },
    /// An acceptor reports its current table with a promise. Precedes the last page of the promise.
    Remembered {
        /// The acceptor.
        acceptor: AcceptorUuid,
        /// Remembered runs of other acceptors.
        remembers: Witnesses,
    },
    /// An acceptor answered, as of this commit of the current run.
    Heard {
        /// The acceptor.
        acceptor: AcceptorUuid,
        /// The current run of the acceptor.
        run: RunNumber,
        /// Commit counter of the answer.
        commit_counter: CommitCounter,
    },
    /// The link to an acceptor is open (again): the acceptor has shown its runs, holds the configuration of this proposer's
    /// era, `Attach` is open, and calls can be made.
    Opened(AcceptorUuid),
    /// The link broke. `Accept` streams do not end with the link.
    Closed(AcceptorUuid),
    /// An `Accept` stream requested by [`Effect::OpenStream`] is open (again). Messages left unanswered by an earlier
    /// stream are lost.
    StreamOpened {
        /// The receiving acceptor.
        acceptor: AcceptorUuid,
        /// The stream's ballot.
        ballot: Ballot,
    },
    /// An `Accept` stream broke: no more answers follow on the stream. The driver opens a new stream.
    StreamBroke {
        /// The receiving acceptor.
        acceptor: AcceptorUuid,
        /// The stream's ballot.
        ballot: Ballot,
    },
    /// An acceptor reports presence on an `Accept` stream.
    Alive {
        /// The acceptor.
        acceptor: AcceptorUuid,
        /// The stream's ballot.
        ballot: Ballot,
        /// Time since bytes of this stream arrived at the acceptor.
        silent: Duration,
        /// Age of the acceptor's oldest request not yet decided and made durable.
        waiting: Duration,
        /// The acceptor's disk has space.
        has_space: bool,
    },
    /// Some bytes of an acceptor's answer to a `Prepare` or [`Effect::FetchChosen`] arrived. An event may stand for
    /// several arrivals, collected for 50 ms at most.
    Bytes(AcceptorUuid),
    /// An acceptor's answer to a report over `Attach`.
    Reported {
        /// The answering acceptor.
        acceptor: AcceptorUuid,
        /// When the answered report was sent, on the clock of [`Proposer::at`](super::Proposer::at). For an acceptor
        /// without numbered answers: when the last report before the answer was sent.
        sent: Duration,
        /// Content of the answer.
        answer: ReportAnswer,
    },
    /// The answer to [`Effect::Inquire`]. A second answer replaces the first.
    InquiryAnswered {
        /// Copied from the answered effect.
        number: u64,
        /// The answer.
        answer: InquiryAnswer,
    },
    /// A page of a promise.
    Promised {
        /// The promising acceptor.
        acceptor: AcceptorUuid,
        /// The answered ballot.
        ballot: Ballot,
        /// Copied from the answered effect.
        scan: Option<Scan>,
        /// The page.
        page: PromisePage,
    },
    /// A `Prepare` was rejected.
    PrepareRejected {
        /// The rejecting acceptor.
        acceptor: AcceptorUuid,
        /// The answered ballot.
        ballot: Ballot,
        /// The higher ballot.
        promised: Ballot,
    },
    /// A `Prepare` was refused, because its round is too far above the acceptor's promise.
    PrepareRefused {
        /// The refusing acceptor.
        acceptor: AcceptorUuid,
        /// The acceptor's promised ballot.
        promised: Ballot,
    },
    /// The answer to an `Accept`.
    Answered {
        /// The answering acceptor.
        acceptor: AcceptorUuid,
        /// The answered ballot.
        ballot: Ballot,
        /// Number of the answered message.
        sequence: u64,
        /// The answer.
        answer: AcceptAnswer,
    },
    /// Rows read for [`Effect::FetchChosen`].
    Fetched {
        /// Copied from the answered effect.
        number: u64,
        /// The first requested slot.
        from: Slot,
        /// Ascending from `from` on, without a gap.
        values: Vec<(Slot, Value)>,
    },
    /// A command came in.
    Proposed(Pending),
    /// The driver answered the caller of a command received with [`Effect::Forward`], with any outcome.
    ForwardAnswered(RequestId),
    /// The caller of a request no longer waits. The request is still answered.
    Cancelled(RequestId),
    /// A reader wants every slot below this slot chosen, because some acceptor may have voted there.
    FillWanted(Slot),
    /// An acceptor's `Form` shows the configuration of a later era: the configuration is in force.
    LaterConfiguration(Arc<Configuration>),
    /// An operator asks for a change of members. The answers are [`Effect::Change`]s.
    ChangeMembers(ChangeRequest),
    /// The upload requested by [`Effect::BringSnapshot`] has ended, with any outcome.
    SnapshotBrought(AcceptorUuid),
    /// A timer fired.
    Fired(Timer, u64),
    /// This process will stop: hand over.
    Resigned,
}

/// Output of the core: an action for the driver.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Send phase 1a, and pass back all pages. For a scan, pass back all pages for slots below its end.
    Prepare(AcceptorUuid, Prepare, Option<Scan>),
    /// Open an `Accept` stream on a separate connection, with this message as the first. Whenever the stream breaks,
    /// the driver opens a new stream, at first at once and then with back-off, until [`Effect::ShutStreams`]. Each new
    /// stream starts with the same message. The driver reports [`Event::StreamOpened`] and [`Event::StreamBroke`] each
    /// time.
    OpenStream(AcceptorUuid, Accept),
    /// Close the connections of all streams of this ballot, at once. Later input on these connections is not reported.
    ShutStreams(Ballot),
    /// Send phase 2a on the open stream of the ballot. The message must not be dropped while the stream is open,
    /// because nothing is sent again on an open stream: if sending is impossible, break the stream. A heartbeat (no
    /// proposals, number 0) may be dropped while other messages wait to be sent.
    Accept(AcceptorUuid, Accept),
    /// Send a report to every acceptor over `Attach`, at once.
    ReportNow,
    /// Connect to the heard proposer, whose streams have ended, and ask for its phase. Report each answer; report
    /// nothing if the connection is neither made nor refused.
    Inquire {
        /// Returned with `Event::InquiryAnswered`.
        number: u64,
        /// The ballot of the heard proposer.
        ballot: Ballot,
        /// The address of the heard proposer.
        address: Arc<str>,
    },
    /// Wake the core after a delay drawn from the range (inclusive); replaces the timer's older generation.
    SetTimer {
        /// The timer.
        timer: Timer,
        /// Returned with `Event::Fired`.
        generation: u64,
        /// The shortest delay.
        at_least: Duration,
        /// The longest delay.
        at_most: Duration,
    },
    /// Answer a caller.
    Answer(RequestId, ProposalOutcome),
    /// Send a command to the leader, marked as forwarded. Answer the caller with the leader's answer, then report
    /// [`Event::ForwardAnswered`]. A command that was certainly not proposed may instead be handed in again, with the
    /// same request.
    Forward(Pending, Arc<str>),
    /// Read rows from an acceptor, each together with the acceptor's own watermark above the row. Pass back the rows
    /// from `from` on without a gap, as [`Event::Fetched`]; zero rows are an answer too.
    FetchChosen {
        /// The asked acceptor.
        source: AcceptorUuid,
        /// Returned with `Event::Fetched`.
        number: u64,
        /// The first requested slot.
        from: Slot,
        /// Exclusive end of the requested slots.
        to: Slot,
    },
    /// Break the link and the `Accept` streams to an acceptor, and open them again. The acceptor must show its runs
    /// again before being counted. Before [`Event::Opened`], the link asks for the acceptor's configuration (`Form`): a later
    /// era is reported by [`Event::LaterConfiguration`]; at an earlier era, the link first installs the configuration of
    /// [`Proposer::configuration`](super::Proposer::configuration).
    Reopen(AcceptorUuid),
    /// The proposer works with this configuration from now on. Break every link, and open the links of
    /// [`Proposer::links`](super::Proposer::links), each as after [`Self::Reopen`]. Nothing that arrived over an earlier link
    /// is reported any more, except on `Accept` streams.
    Adopted(Arc<Configuration>),
    /// [`Proposer::links`](super::Proposer::links) has changed: open the additional links, and end the others.
    LinksChanged,
    /// Bring the joiner the snapshot of the source (`Snapshot`, `Keep`), and report [`Event::SnapshotBrought`]. The end of a
    /// change ([`Self::Change`]) ends the upload.
    BringSnapshot {
        /// The receiver: a member of the next configuration, mostly a joiner.
        joiner: AcceptorUuid,
        /// The member with the highest bottom.
        source: AcceptorUuid,
    },
    /// News of the change of members under way, for the operator who asked.
    Change(ChangeStage),
    /// An acceptor lost its disk or runs on an older copy: not counted while running on this disk. For operators.
    Refused(WentBack),
    /// A refused acceptor shows the right disk, and is counted again. For operators.
    Readmitted(AcceptorUuid),
    /// News for operators and metrics.
    Notify(Notice),
    /// Everything is handed over: the process may stop. A resignation may still be under way on the streams: end the
    /// streams after the resignation, and not earlier.
    HandedOver,
    /// Chosen values are lost, or a process broke the protocol. This process must end, and an operator must look.
    Halt(String),
}

/// A leader's `Prepare` at its own ballot, for repair. The number distinguishes scans: slots missing from the pages of
/// an earlier scan may have been voted on since.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Scan {
    /// Number of the scan, unique within a reign.
    pub number: u64,
    /// Exclusive end of the requested slots.
    pub to: Slot,
}

/// Outcome of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ProposalOutcome {
    /// Chosen and durable on a quorum, as is everything below.
    Chosen(Version),
    /// The command may have been ordered, or may be ordered later.
    Unknown,
    /// Certainly not proposed: sending the command again is harmless.
    NotProposed(Reason),
}

/// Why a command was not proposed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The queue is full.
    Overloaded,
    /// Too few acceptors are present with space on their disks, and an earlier value already waits for them.
    NoQuorum,
    /// The command was forwarded to a proposer that does not lead.
    NotLeading,
    /// The caller stopped waiting before the command was proposed.
    Cancelled,
    /// This process is stopping.
    Stopping,
}
