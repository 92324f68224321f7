//! Every possible happening in a simulated cluster, with the process concerned.

use paxos_common::paxos::{
    ballot::Ballot,
    identity::{CommitCounter, RunNumber},
    proposer::{InquiryAnswer, Scan, Timer},
    reading::ReadId,
    slot::Slot,
    witness::{self, Witnesses},
};

use super::{
    inquiries::Inquiry,
    network::{Kind, Message, Node},
};

/// A planned happening. A happening of a particular run of a process names the run, and is void after the run.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Happening {
    Deliver {
        from: Node,
        to: Node,
        message: Message,
        stamp: Option<(RunNumber, CommitCounter)>,
    },
    Committed {
        acceptor: usize,
        run: u64,
    },
    PageDue {
        acceptor: usize,
        run: u64,
        to: Node,
        ballot: Ballot,
        from: Slot,
        scan: Option<Scan>,
        first: bool,
    },
    FrameDue {
        acceptor: usize,
        run: u64,
        learner: usize,
        kind: Kind,
        from: Slot,
    },
    ReportDue {
        proposer: usize,
        run: u64,
    },
    /// An acceptor checks whether the leader is silent by now.
    LookDue {
        acceptor: usize,
        run: u64,
    },
    Dial {
        proposer: usize,
        run: u64,
        acceptor: usize,
        ballot: Ballot,
    },
    OnStream {
        stream: u64,
        to: Node,
        message: Message,
        stamp: Option<(RunNumber, CommitCounter)>,
    },
    Chunk {
        stream: u64,
        acceptor: usize,
    },
    AliveDue {
        stream: u64,
        acceptor: usize,
    },
    StreamEnds {
        stream: u64,
        node: Node,
    },
    AskAgain {
        proposer: usize,
        run: u64,
        acceptor: usize,
        call: Option<u64>,
    },
    InquiryArrives(Inquiry),
    InquiryRead(Inquiry),
    InquiryAnswered(Inquiry, InquiryAnswer),
    /// A step of a scenario's script.
    Scripted(usize),
    /// With a planted bug: after giving way, a proposer continues to send heartbeats.
    BeatOn {
        proposer: usize,
        run: u64,
    },
    LinkOpened {
        acceptor: usize,
        proposer: usize,
    },
    Introduced {
        acceptor: usize,
        proposer: usize,
        run: u64,
        runs: Vec<witness::Run>,
        remembers: Witnesses,
    },
    /// A driver no longer waits for the tables of other acceptors.
    OthersAwaited {
        proposer: usize,
        run: u64,
        question: u64,
    },
    CommitFailed {
        acceptor: usize,
        run: u64,
    },
    DamageFound {
        acceptor: usize,
        run: u64,
    },
    LinkClosed {
        acceptor: usize,
        proposer: usize,
    },
    Fired {
        proposer: usize,
        run: u64,
        timer: Timer,
        generation: u64,
    },
    FlushDue {
        proposer: usize,
        run: u64,
    },
    StopOverdue {
        proposer: usize,
        run: u64,
    },
    Stored {
        learner: usize,
        run: u64,
        count: usize,
    },
    StallCheck {
        learner: usize,
        run: u64,
    },
    ReadDue {
        learner: usize,
    },
    ReadLimit {
        learner: usize,
        run: u64,
        generation: u64,
    },
    ReadAbandoned {
        learner: usize,
        run: u64,
        read: ReadId,
    },
    ClientDue {
        client: usize,
    },
    ClientTimeout {
        request: u64,
    },
    /// An acceptor looks for a snapshot, and sweeps some rows.
    SnapshotDue {
        acceptor: usize,
    },
    /// The last byte of a snapshot arrives, or the upload breaks.
    UploadEnds {
        acceptor: usize,
        run: u64,
    },
    TrimDue {
        acceptor: usize,
        run: u64,
    },
    FaultDue,
    Restart(Node),
    Healed,
    /// A driver no longer waits for the answer to a `Form` call.
    FormOverdue {
        acceptor: usize,
        proposer: usize,
        run: u64,
        number: u64,
    },
    /// The operator looks whether to change the members.
    OperatorDue,
    /// A fault in the middle of a change that a proposer makes.
    FaultOfChange {
        proposer: usize,
    },
    /// The upload of a snapshot to a joiner has ended.
    SnapshotBrought {
        proposer: usize,
        run: u64,
        joiner: usize,
    },
}

impl Happening {
    /// The process that must be running, and not paused, for this happening.
    pub(crate) fn node(&self) -> Option<Node> {
        match self {
            Self::Deliver { to, .. } | Self::OnStream { to, .. } => Some(*to),
            Self::StreamEnds { node, .. } => Some(*node),
            Self::Committed { acceptor, .. }
            | Self::CommitFailed { acceptor, .. }
            | Self::PageDue { acceptor, .. }
            | Self::FrameDue { acceptor, .. }
            | Self::LookDue { acceptor, .. }
            | Self::Chunk { acceptor, .. }
            | Self::AliveDue { acceptor, .. }
            | Self::UploadEnds { acceptor, .. }
            | Self::TrimDue { acceptor, .. }
            | Self::DamageFound { acceptor, .. } => Some(Node::Acceptor(*acceptor)),
            Self::InquiryRead(inquiry) => Some(Node::Proposer(inquiry.asked)),
            Self::InquiryAnswered(inquiry, _) => Some(Node::Proposer(inquiry.from.0)),
            Self::LinkOpened { proposer, .. }
            | Self::LinkClosed { proposer, .. }
            | Self::Introduced { proposer, .. }
            | Self::FormOverdue { proposer, .. }
            | Self::SnapshotBrought { proposer, .. }
            | Self::OthersAwaited { proposer, .. }
            | Self::Fired { proposer, .. }
            | Self::FlushDue { proposer, .. }
            | Self::ReportDue { proposer, .. }
            | Self::BeatOn { proposer, .. }
            | Self::Dial { proposer, .. }
            | Self::AskAgain { proposer, .. }
            | Self::StopOverdue { proposer, .. } => Some(Node::Proposer(*proposer)),
            Self::Stored { learner, .. }
            | Self::StallCheck { learner, .. }
            | Self::ReadDue { learner }
            | Self::ReadLimit { learner, .. }
            | Self::ReadAbandoned { learner, .. } => Some(Node::Learner(*learner)),
            Self::ClientDue { .. } | Self::ClientTimeout { .. } => Some(Node::Clients),
            // The machine answers in place of a paused process.
            Self::InquiryArrives(_)
            | Self::SnapshotDue { .. }
            | Self::OperatorDue
            | Self::FaultOfChange { .. }
            | Self::FaultDue
            | Self::Restart(_)
            | Self::Healed
            | Self::Scripted(_) => None,
        }
    }
}
