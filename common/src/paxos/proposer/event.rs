//! What a proposer is told, and what it wants done: the vocabulary between the core and its driver.

use std::{sync::Arc, time::Duration};

use super::{notice::Notice, queue::Pending};
use crate::paxos::{
    ballot::Ballot,
    identity::{AcceptorUuid, CommitCounter, RunNumber},
    message::{Accept, AcceptAnswer, Prepare, PromisePage, SLOTS_AHEAD_MAX, UNANSWERED_MAX, Word},
    slot::{Slot, Version},
    value::Value,
    witness::{Run, WentBack, Witnesses},
};

/// What a proposer is told at its start.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Settings {
    /// How long a leader may be silent: L. Longer than processes stand still and packets are delayed.
    pub leader_timeout: Duration,
    /// Bounds on what is queued and in flight.
    pub limits: Limits,
}

/// Bounds on memory, all inclusive. The defaults fit messages of 4 MiB.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Limits {
    /// Commands that wait for a slot.
    pub queue_commands_max: usize,
    /// Bytes of them.
    pub queue_bytes_max: usize,
    /// Commands in one batch; at most [`crate::paxos::value::COMMANDS_MAX`].
    pub batch_commands_max: usize,
    /// Bytes of one batch, unless a single command has more.
    pub batch_bytes_max: usize,
    /// New batches that are proposed and not chosen: while so many are, commands gather for the next one.
    pub batches_in_flight_max: u64,
    /// Slots that are proposed and not chosen, taken-over values and no-ops included: at most [`SLOTS_AHEAD_MAX`].
    pub slots_in_flight_max: u64,
    /// Bytes of them, unless a single value has more.
    pub bytes_in_flight_max: usize,
    /// Bytes of proposals in one message to an acceptor, unless a single value has more.
    pub message_bytes_max: usize,
    /// Messages with new proposals that an acceptor has not answered: more are not sent to it. Below
    /// [`UNANSWERED_MAX`], because repairs and a resignation need room as well.
    pub unanswered_max: u64,
    /// Chosen slots that are kept for acceptors that lag, and bytes of them.
    pub retained_slots_max: usize,
    /// See `retained_slots_max`.
    pub retained_bytes_max: usize,
}

/// Slots that a leader has proposed and that are not chosen, by default.
const SLOTS_IN_FLIGHT_MAX: u64 = 1_024;

const _: () = assert!(
    SLOTS_IN_FLIGHT_MAX <= SLOTS_AHEAD_MAX,
    "acceptors refuse slots further above the watermark, and leaders leave votes there out of what they fill"
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

/// Names a caller's request until it is answered; drawn by the driver, never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// What a proposer wants to be woken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Timer {
    /// The random wait before a campaign is over, or the wait for answers to the last report.
    Election,
    /// Send heartbeats, and judge which acceptors are there.
    Heartbeat,
    /// The random wait before a challenge is over.
    Challenge,
    /// Give commands back that found no leader.
    Leaderless,
    /// Give up repairs that stand still.
    Check,
    /// Judge whether a campaign makes progress.
    GiveUp,
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// An acceptor shows what it knows of itself and of others: before [`Event::Opened`].
    Introduced {
        /// Who.
        acceptor: AcceptorUuid,
        /// Its runs, the present one last.
        runs: Vec<Run>,
        /// What it remembers of others.
        remembers: Witnesses,
        /// The tables of other acceptors, requested after this list was shown. Empty if the present run was introduced
        /// with enough of them before.
        others: Vec<(AcceptorUuid, Witnesses)>,
    },
    /// An acceptor tells with its promise what it remembers of others now: before the last page of the promise.
    Remembered {
        /// Who tells.
        acceptor: AcceptorUuid,
        /// Of others.
        remembers: Witnesses,
    },
    /// An acceptor answered, as of this commit of its present run.
    Heard {
        /// Who.
        acceptor: AcceptorUuid,
        /// Its present run.
        run: RunNumber,
        /// The commit that the answer speaks for.
        commit_counter: CommitCounter,
    },
    /// The link to an acceptor is open (again): it has shown its runs, `Attach` is open, and calls can be made.
    Opened(AcceptorUuid),
    /// The link broke. `Accept` streams do not end with it.
    Closed(AcceptorUuid),
    /// An `Accept` stream that [`Effect::OpenStream`] asked for is open (again): what an earlier stream left unanswered is
    /// lost.
    StreamOpened {
        /// To whom.
        acceptor: AcceptorUuid,
        /// The stream's ballot.
        ballot: Ballot,
    },
    /// That stream broke: no answer of it follows. The driver opens another.
    StreamBroke {
        /// To whom.
        acceptor: AcceptorUuid,
        /// The stream's ballot.
        ballot: Ballot,
    },
    /// An acceptor tells on an `Accept` stream that it is there.
    Alive {
        /// Who.
        acceptor: AcceptorUuid,
        /// The stream's ballot.
        ballot: Ballot,
        /// Time since bytes of this stream arrived there.
        silent: Duration,
        /// Age of the oldest request that it has not decided and made durable.
        waiting: Duration,
        /// Its disk has space.
        has_space: bool,
    },
    /// Some bytes of an answer of an acceptor to a `Prepare` or [`Effect::FetchChosen`] arrived. Several may be told as
    /// one, for 50 ms at most.
    Bytes(AcceptorUuid),
    /// An acceptor's answer to a report over `Attach`.
    Reported {
        /// Who reports.
        acceptor: AcceptorUuid,
        /// When the report that is answered was sent, on the clock of [`Proposer::at`](super::Proposer::at). If the acceptor
        /// does not number its answers: when the last report before the answer was sent.
        sent: Duration,
        /// What it says.
        word: Word,
    },
    /// A page of a promise.
    Promised {
        /// Who promises.
        acceptor: AcceptorUuid,
        /// The ballot that is answered.
        ballot: Ballot,
        /// What came with the effect that is answered.
        scan: Option<Scan>,
        /// The page.
        page: PromisePage,
    },
    /// A `Prepare` was turned away.
    PrepareRejected {
        /// The ballot that is answered.
        ballot: Ballot,
        /// The higher one.
        promised: Ballot,
    },
    /// A `Prepare` was refused, because its round is too far above what the acceptor has promised.
    PrepareRefused {
        /// Who refuses.
        acceptor: AcceptorUuid,
        /// What it has promised.
        promised: Ballot,
    },
    /// The answer to an `Accept`.
    Answered {
        /// Who answers.
        acceptor: AcceptorUuid,
        /// The ballot that is answered.
        ballot: Ballot,
        /// The message that is answered.
        sequence: u64,
        /// The answer.
        answer: AcceptAnswer,
    },
    /// Rows read for [`Effect::FetchChosen`].
    Fetched {
        /// What came with the effect that is answered.
        number: u64,
        /// The first slot that was wanted.
        from: Slot,
        /// Ascending, without a gap, from `from` on.
        values: Vec<(Slot, Value)>,
    },
    /// A command came in.
    Proposed(Pending),
    /// The driver answered the caller of a command that it got by [`Effect::Forward`], whatever the answer.
    ForwardAnswered(RequestId),
    /// The caller of a request waits no longer. It is answered, one way or the other.
    Cancelled(RequestId),
    /// A reader wants every slot below this one chosen, because some acceptor may have voted there.
    FillWanted(Slot),
    /// A timer fired.
    Fired(Timer, u64),
    /// This process is to stop: hand over.
    Resigned,
}

/// Something to be done.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Send phase 1a, and pass back all pages; or, for a scan, those that cover what is below its end.
    Prepare(AcceptorUuid, Prepare, Option<Scan>),
    /// Open an `Accept` stream on a connection of its own; the message is the first on it. The driver opens the stream
    /// again whenever it breaks, at first at once and then with back-off, until [`Effect::ShutStreams`]; the first message
    /// of each is this one. It tells [`Event::StreamOpened`] and [`Event::StreamBroke`] each time.
    OpenStream(AcceptorUuid, Accept),
    /// Shut the connections of all streams of this ballot, at once. What comes in on them is not told any more.
    ShutStreams(Ballot),
    /// Send phase 2a on the open stream of its ballot. Must not be dropped while the stream is open, because nothing is
    /// sent again on an open stream: if it cannot be sent, the stream is to be broken. A heartbeat (no proposals, number
    /// 0) may be dropped when other messages wait to be sent.
    Accept(AcceptorUuid, Accept),
    /// Send a report to every acceptor over `Attach`, at once.
    ReportNow,
    /// Wake the core after a delay drawn from the range (inclusive); replaces the timer's older generation.
    SetTimer {
        /// Which timer.
        timer: Timer,
        /// To be given back.
        generation: u64,
        /// The shortest delay.
        at_least: Duration,
        /// The longest delay.
        at_most: Duration,
    },
    /// Answer a caller.
    Answer(RequestId, Outcome),
    /// Send a command to the leader, marked as forwarded, and answer the caller with its answer, then tell
    /// [`Event::ForwardAnswered`]. If it was certainly not proposed, it may be handed in again instead, with the same
    /// request.
    Forward(Pending, Arc<str>),
    /// Read rows from an acceptor, each together with its own watermark above it, and pass back those from `from` on
    /// without a gap, as [`Event::Fetched`]: none is an answer too.
    FetchChosen {
        /// Whom to ask.
        source: AcceptorUuid,
        /// To be given back.
        number: u64,
        /// The first slot wanted.
        from: Slot,
        /// Exclusive.
        to: Slot,
    },
    /// Break the link and the `Accept` streams to an acceptor, and open them again: it must show its runs again before it
    /// is counted.
    Reopen(AcceptorUuid),
    /// An acceptor was found out: it is not counted while it runs on this disk. For people to know.
    Refused(WentBack),
    /// An acceptor that was refused shows its right disk: it is counted again. For people to know.
    Readmitted(AcceptorUuid),
    /// Something that people and metrics should know.
    Told(Notice),
    /// Everything is handed over: the process may stop. A resignation may be on its way on the streams: they are ended
    /// after it, and not shut before.
    HandedOver,
    /// Chosen values are lost, or somebody broke the protocol: the process must end, and a person must look.
    Halt(String),
}

/// A leader's question at its own ballot, for repair. Its number keeps pages of an earlier scan apart: what they leave
/// out may have been voted on since.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Scan {
    /// Counts a reign's scans.
    pub number: u64,
    /// Exclusive end of the slots that are asked for.
    pub to: Slot,
}

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Chosen, durable on a quorum, and so is everything below.
    Chosen(Version),
    /// It may have been ordered, or may be later.
    Unknown,
    /// Certainly not proposed: it can be sent again without harm.
    NotProposed(Reason),
}

/// Why a command was not proposed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The queue is full.
    Overloaded,
    /// Too few acceptors are there with space on their disks, and an earlier value waits for them already.
    NoQuorum,
    /// It was forwarded to a proposer that does not lead.
    NotLeading,
    /// Its caller stopped waiting before its turn came.
    Cancelled,
    /// This process is stopping.
    Stopping,
}
