//! The bugs that can be planted: each was shipped by a real system, or found in a draft of this protocol.
//!
//! A leader's watermark raised by hearsay is not among them. Within 20,000 schedules it does no harm, because a leader
//! that others overtake unheard steps down before it hears of what they chose; the model finds it. Neither is a new run of
//! an acceptor that counts before others were asked about it: it showed once in 11,000 schedules, and not in 39,000 others
//! since the schedules changed; the model finds it, too.

/// What is done wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Bug {
    /// A promise tells nothing of what was accepted.
    AcceptedLeftOutOfPromise,
    /// An Accept above the promise is granted, and the promise stays.
    AcceptDoesNotPromise,
    /// A proposer that starts anew has the number of the one before it.
    BallotReusedAfterRestart,
    /// A proposer forgets between two campaigns which ballots it used.
    BallotReusedBySameProcess,
    /// An acceptor answers what is on its way to its disk.
    AnswersBeforeTheCommit,
    /// A leader counts votes at other ballots: late ones for its own earlier ones, and what its promises report.
    LeaderCountsVotesOfOtherBallots,
    /// The same by a learner.
    LearnerCountsVotesOfOtherBallots,
    /// Another answer of the same acceptor counts as another acceptor's.
    LeaderCountsReplies,
    /// Another frame of the same acceptor counts as another acceptor's.
    LearnerCountsFrames,
    /// A leader starts below the watermark that its promises tell.
    StartsBelowTheWatermark,
    /// Values are picked from one promise of the quorum.
    ValuesPickedFromPartOfTheQuorum,
    /// A leader starts below the watermark that it asked the promises to start from.
    StartsBelowFrom,
    /// A caller is answered as soon as its own slot is chosen.
    AnswersAboveAHole,
    /// An acceptor's watermark passes over rows of an older ballot than the claimant's.
    WatermarkTrustedForOlderRows,
    /// A frame's watermark is held to speak for rows of earlier frames.
    FrameWatermarkForHeldRows,
    /// An acceptor goes on paging a promise after it has made a higher one, with the marks of then.
    PagesOutliveTheirPromise,
    /// A page leaves while the disk shows what memory does not.
    PageShownBeforeMemory,
    /// A damaged row lowers the watermark that campaigns start from.
    CampaignFromDamagedRow,
    /// A row that cannot be read is left out of promises.
    UnreadableRowTakenForEmpty,
    /// The same, where a leader asks for the sake of repair.
    RepairTakesUnreadableRowForEmpty,
    /// A learner asks for what follows its highest slot instead of its first missing one.
    LearnerResumesAfterHighest,
    /// An acceptor waits for a reader that has gone away.
    ReaderBlocksTheAcceptor,
    /// What a learner was shown once is not shown to it again.
    LostFramesNeverSentAgain,
    /// A read is answered by a round of questions that began before it came in.
    ReadReusesEarlierRound,
    /// Another answer of the same acceptor about its tail counts as another acceptor's.
    ReadCountsReplies,
    /// A learner skips what is at or below the highest sequence that it carried out for a session.
    DedupesByHighestSequence,
    /// A learner carries out a command of a session that its sender did not open.
    ForeignCommandTakesEffect,
    /// What an acceptor says that is not trusted is remembered, and passed on to the others.
    UntrustedIsHeard,
    /// A state record that fails its checksum is read as if it were sound.
    GarbledStateBelieved,
    /// A start takes up the log as it is, behind a sync that failed.
    StartDoesNotCheckpoint,
    /// A start takes a log that ends early for all that was answered.
    EarlyEndOfLogTakenForWhole,
    /// Bytes of a stream of a lower ballot count as the heard proposer's.
    BytesOfLowerBallotsAreHeard,
    /// A ballot that will be refused is heard while it waits.
    RefusedBallotIsHeard,
    /// A proposer that gives way keeps its streams, and heartbeats on them.
    KeepsStreams,
    /// When a stream ends, the heard proposer has ended, though the stream was that of the one before it.
    EndedHitsTheSuccessor,
    /// A proposer whose stream ended stays so when it opens another.
    EndedThoughReopened,
    /// An acceptor says that it is there only while nothing is being written.
    AliveWaitsForTheWriter,
    /// No heartbeats are sent while much is unanswered.
    HeartbeatsStop,
    /// A candidate takes acceptors that hang for there, and their promises for on their way.
    CandidateWaitsForHung,
    /// Standbys do not see the work of others.
    WorkDoesNotCount,
    /// Commands that were sent on count as answered.
    ForwardedDoNotCount,
    /// Acceptors that do not answer count as if they did.
    NoPhase2QuorumNeeded,
    /// An answer counts as fresh whenever its report was sent.
    StaleAnswersCount,
    /// What an acceptor turned away is not sent to it again.
    TurnedAwayNeverSentAgain,
}

impl Bug {
    pub const ALL: [Self; 31] = [
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
        Self::AnswersAboveAHole,
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
    ];

    /// Bugs of failure detection, which break no promise of safety: directed scenarios find them.
    pub const OF_PATIENCE: [Self; 13] = [
        Self::BytesOfLowerBallotsAreHeard,
        Self::RefusedBallotIsHeard,
        Self::KeepsStreams,
        Self::EndedHitsTheSuccessor,
        Self::EndedThoughReopened,
        Self::AliveWaitsForTheWriter,
        Self::HeartbeatsStop,
        Self::CandidateWaitsForHung,
        Self::WorkDoesNotCount,
        Self::ForwardedDoNotCount,
        Self::NoPhase2QuorumNeeded,
        Self::StaleAnswersCount,
        Self::TurnedAwayNeverSentAgain,
    ];

    /// Those that need a rare schedule: a slot that is chosen while one below it is not, which streams in order allow only
    /// across a break; a damaged row, in the one acceptor of a scan that holds what was chosen.
    pub const SHY: [Self; 2] = [Self::AnswersAboveAHole, Self::RepairTakesUnreadableRowForEmpty];

    /// The bug of that name.
    pub fn named(name: &str) -> Option<Self> {
        let all = Self::ALL.into_iter().chain(Self::OF_PATIENCE);
        all.into_iter().find(|bug| format!("{bug:?}") == name)
    }
}
