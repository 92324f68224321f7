//! Bugs to plant: each was shipped by a real system, or found in a draft of this protocol.
//!
//! Three bugs are missing here, and the model finds all three. The first bug raises a leader's watermark by hearsay.
//! The bug does no harm within 20,000 schedules, because a leader overtaken unnoticed steps down before hearing of the
//! values chosen by the overtaking proposers. The second bug counts a new run of an acceptor before the other acceptors
//! are asked about the run. The second bug showed once in 11,000 schedules, and not in 39,000 other schedules since the
//! schedules changed. The third bug shows a row below the first slot of an acceptor after a lift, before the row is
//! swept. The bug needs an older row with another value than the chosen value, and did not show within 1,000 schedules.

/// A planted bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Bug {
    /// A promise leaves out the accepted values.
    AcceptedLeftOutOfPromise,
    /// An Accept above the promise is granted, and the promise stays unchanged.
    AcceptDoesNotPromise,
    /// A restarted proposer has the number of the previous process.
    BallotReusedAfterRestart,
    /// A proposer forgets the used ballots between two campaigns.
    BallotReusedBySameProcess,
    /// An acceptor answers while the group is still on its way to the disk.
    AnswersBeforeTheCommit,
    /// A leader counts votes at other ballots: late votes for the leader's earlier ballots, and votes reported in
    /// promises.
    LeaderCountsVotesOfOtherBallots,
    /// A learner counts votes at other ballots.
    LearnerCountsVotesOfOtherBallots,
    /// A second answer of an acceptor counts as the answer of a different acceptor.
    LeaderCountsReplies,
    /// A second frame of an acceptor counts as the frame of a different acceptor.
    LearnerCountsFrames,
    /// A leader starts below the watermark reported in its promises.
    StartsBelowTheWatermark,
    /// Values are picked from a single promise of the quorum.
    ValuesPickedFromPartOfTheQuorum,
    /// A leader requests promises from a watermark on, and then starts below this watermark.
    StartsBelowFrom,
    /// A caller is answered as soon as the slot of its command is chosen.
    AnswersAboveAGap,
    /// An acceptor's watermark passes over rows of a ballot older than the claimant's ballot.
    WatermarkTrustedForOlderRows,
    /// A frame's watermark is applied to rows of earlier frames.
    FrameWatermarkForHeldRows,
    /// An acceptor continues to page a promise after making a higher promise, with the marks of the later moment.
    PagesOutliveTheirPromise,
    /// A page leaves while the disk shows a commit missing in memory.
    PageShownBeforeMemory,
    /// A damaged row lowers the start of campaigns.
    CampaignFromDamagedRow,
    /// Promises leave out an unreadable row.
    UnreadableRowTakenForEmpty,
    /// The same, only in pages requested by a leader for repair.
    RepairTakesUnreadableRowForEmpty,
    /// A learner requests the slots after the highest slot, instead of the slots from the first missing slot on.
    LearnerResumesAfterHighest,
    /// An acceptor waits for a disconnected reader.
    ReaderBlocksTheAcceptor,
    /// Frames shown once to a learner are never shown to the learner again.
    LostFramesNeverSentAgain,
    /// A read is answered from a round of questions begun before the read arrived.
    ReadReusesEarlierRound,
    /// A second tail of an acceptor counts as the tail of a different acceptor.
    ReadCountsReplies,
    /// A learner skips every command at or below the highest executed sequence of a session.
    DedupesByHighestSequence,
    /// A learner executes a command of a session opened by a different client.
    ForeignCommandTakesEffect,
    /// The statements of an untrusted acceptor are remembered, and passed on to the other acceptors.
    UntrustedIsHeard,
    /// A state record with a wrong checksum is read as if sound.
    GarbledStateBelieved,
    /// A start continues the log as found, behind a failed sync.
    StartDoesNotCheckpoint,
    /// A start takes a log with an early end for the complete log of all answered commits.
    EarlyEndOfLogTakenForWhole,
    /// A snapshot holds the state of another moment than its end says.
    StateOfAnotherMoment,
    /// The old snapshot goes when the new snapshot arrives, before the trim is committed.
    OldFileUnlinkedBeforeTheCommit,
    /// A learner waits for slots that only a snapshot can prove.
    LearnerWaitsForUnprovableRows,
    /// Bytes on the stream of a lower ballot count as bytes of the heard proposer.
    BytesOfLowerBallotsAreHeard,
    /// A ballot due to be refused counts as heard while the request waits.
    RefusedBallotIsHeard,
    /// After giving way, a proposer keeps its streams and continues to send heartbeats.
    KeepsStreams,
    /// The end of a stream counts as the end of the heard proposer, although the stream belonged to the previous
    /// proposer.
    EndedHitsTheSuccessor,
    /// A proposer with an ended stream still counts as ended after opening a new stream.
    EndedThoughReopened,
    /// The end of all streams of a live leader counts, although the leader's machine accepts connections.
    ConnectedCountsAsNoAnswer,
    /// An acceptor sends signs of life only while no group is being written.
    AliveWaitsForTheWriter,
    /// No heartbeats are sent while much is unanswered.
    HeartbeatsStop,
    /// A candidate takes hanging acceptors for alive, and their promises for being on the way.
    CandidateWaitsForHung,
    /// Standbys do not see the work of other proposers.
    WorkDoesNotCount,
    /// Forwarded commands count as answered.
    ForwardedDoNotCount,
    /// Acceptors that do not answer count as answering.
    NoPhase2QuorumNeeded,
    /// An answer counts as fresh, however old its report is.
    StaleAnswersCount,
    /// A proposal turned away by an acceptor is never sent to the acceptor again.
    TurnedAwayNeverSentAgain,
}

impl Bug {
    pub const ALL: [Self; 34] = [
        Self::AcceptedLeftOutOfPromise,
        Self::AcceptDoesNotPromise,
        Self::BallotReusedAfterRestart,
        Self::BallotReusedBySameProcess,
        Self::AnswersBeforeTheCommit,
        Self::LeaderCountsVotesOfOtherBallots,
        Self::LearnerCountsVotesOfOtherBallots,
        Self::LeaderCountsReplies,
        Self::LearnerCountsFrames,
        Self::StartsBelowTheWatermark,
        Self::ValuesPickedFromPartOfTheQuorum,
        Self::StartsBelowFrom,
        Self::AnswersAboveAGap,
        Self::WatermarkTrustedForOlderRows,
        Self::FrameWatermarkForHeldRows,
        Self::PagesOutliveTheirPromise,
        Self::PageShownBeforeMemory,
        Self::CampaignFromDamagedRow,
        Self::UnreadableRowTakenForEmpty,
        Self::RepairTakesUnreadableRowForEmpty,
        Self::LearnerResumesAfterHighest,
        Self::ReaderBlocksTheAcceptor,
        Self::LostFramesNeverSentAgain,
        Self::ReadReusesEarlierRound,
        Self::ReadCountsReplies,
        Self::DedupesByHighestSequence,
        Self::ForeignCommandTakesEffect,
        Self::UntrustedIsHeard,
        Self::GarbledStateBelieved,
        Self::StartDoesNotCheckpoint,
        Self::EarlyEndOfLogTakenForWhole,
        Self::StateOfAnotherMoment,
        Self::OldFileUnlinkedBeforeTheCommit,
        Self::LearnerWaitsForUnprovableRows,
    ];

    /// Bugs of trims: planted only in clusters that trim.
    pub const OF_TRIMS: [Self; 3] = [
        Self::StateOfAnotherMoment,
        Self::OldFileUnlinkedBeforeTheCommit,
        Self::LearnerWaitsForUnprovableRows,
    ];

    /// Bugs of failure detection. Such bugs break no safety property: directed scenarios find them.
    pub const OF_PATIENCE: [Self; 14] = [
        Self::BytesOfLowerBallotsAreHeard,
        Self::RefusedBallotIsHeard,
        Self::KeepsStreams,
        Self::EndedHitsTheSuccessor,
        Self::EndedThoughReopened,
        Self::ConnectedCountsAsNoAnswer,
        Self::AliveWaitsForTheWriter,
        Self::HeartbeatsStop,
        Self::CandidateWaitsForHung,
        Self::WorkDoesNotCount,
        Self::ForwardedDoNotCount,
        Self::NoPhase2QuorumNeeded,
        Self::StaleAnswersCount,
        Self::TurnedAwayNeverSentAgain,
    ];

    /// Bugs that need a rare schedule. The first needs a slot chosen above an unchosen slot: ordered streams allow this
    /// only across a break. The second needs a damaged row in the only acceptor of a scan that holds the chosen value.
    pub const SHY: [Self; 2] = [Self::AnswersAboveAGap, Self::RepairTakesUnreadableRowForEmpty];

    /// The bug with this name.
    pub fn named(name: &str) -> Option<Self> {
        let all = Self::ALL.into_iter().chain(Self::OF_PATIENCE);
        all.into_iter().find(|bug| format!("{bug:?}") == name)
    }
}
