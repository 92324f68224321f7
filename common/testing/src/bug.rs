//! The planted bugs of simulator and model: each was shipped by a real system, or found in a draft of this protocol.
//!
//! The model finds the bugs in `model/bugs.rs`, the simulator the bugs in `simulator/bugs.rs`; many bugs are in both
//! lists.

/// A planted bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Bug {
    // Promises, votes, values, watermarks, repair and learners.
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
    /// A learner adds votes for different values at one ballot.
    LearnerCountsVotesOfOtherValues,
    /// Of the values at one ballot, a candidate takes the value of the first page for the value of every page.
    CampaignTakesFirstValue,
    /// The same in a leader's scan.
    ScanTakesFirstValue,
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
    /// A leader claims a watermark known only from a report.
    WatermarkByHearsay,
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

    // Reads.
    /// A read is answered from a round of questions begun before the read arrived.
    ReadReusesEarlierRound,
    /// A second tail of an acceptor counts as the tail of a different acceptor.
    ReadCountsReplies,

    // Sessions.
    /// A learner skips every command at or below the highest executed sequence of a session.
    DedupesByHighestSequence,
    /// A learner executes a command of a session opened by a different client.
    ForeignCommandTakesEffect,

    // Disks that were rolled back or cut off.
    /// The statements of an untrusted acceptor are remembered, and passed on to the other acceptors.
    UntrustedIsHeard,
    /// Runs are not distinguished: only the commit counter is compared with the remembered counter.
    CounterAlone,
    /// A remembered run too old to prove anything counts as agreement.
    TooOldAgrees,
    /// Counters heard by the judging observer vouch for a cut list.
    OwnHearingVouches,
    /// An observer counts a new run by earlier knowledge, without asking the other acceptors.
    NewRunCountsUnasked,
    /// After a change of members, an observer counts a run without asking the new members about the run.
    NewMembersUnasked,
    /// A state record with a wrong checksum is read as if sound.
    GarbledStateBelieved,
    /// A start continues the log as found, behind a failed sync.
    StartDoesNotCheckpoint,
    /// A start takes a log with an early end for the complete log of all answered commits.
    EarlyEndOfLogTakenForWhole,

    // Trims, snapshots and lifts.
    /// An acceptor trims as far as it knows to be chosen, and has no snapshot.
    RowsDroppedWithoutSnapshot,
    /// A snapshot counts as arrived before its last byte.
    TrimBeforeTheFileIsWhole,
    /// An acceptor trims one slot further than its snapshot reaches.
    TrimOneAboveTheSnapshot,
    /// An acceptor trims further than any leader claimed, and a learner hands out a slot that is not chosen.
    NoCapAndALearnerAhead,
    /// An acceptor trims further than any leader claimed, and a leader raises its watermark to a reported trim.
    NoCapAndALeaderLifts,
    /// A leader counts a trim reported outside its ballot as a vote.
    AttachedTrimCountsAsVote,
    /// A leader's scan takes a trimmed slot for a slot without a row.
    ScanTakesTrimmedForNoRow,
    /// Rows below the first slot are shown until they are swept.
    UnsweptRowShown,
    /// An acceptor supplies every row below its watermark for repair, also rows below the first slot.
    FetchByWatermarkAlone,
    /// A lift leaves the watermark of the acceptor, and campaigns do not look at trims.
    LiftLeavesTheWatermark,
    /// The old snapshot goes when the new snapshot arrives, before the trim is committed.
    OldFileUnlinkedBeforeTheCommit,
    /// A learner goes on at the first slot of an acceptor, without the snapshot.
    LearnerJumpsWithoutSnapshot,
    /// A learner waits for slots that only a snapshot can prove.
    LearnerWaitsForUnprovableRows,
    /// A snapshot holds the state of another moment than its end says.
    StateOfAnotherMoment,
    /// An acceptor with a full disk hears a claim, and its watermark passes rows of older ballots.
    ClaimHeardForOlderRows,
    /// A snapshot is recorded above the cap, and the record stands for a claim when the disk is full.
    RecordedAboveTheCap,

    // Changes of members.
    /// A change takes force before a quorum of the new members has the log.
    ForceBeforeTheCopy,
    /// A change takes force without the votes of new members.
    ForceWithoutNewVotes,
    /// A change takes force by a single vote.
    ForceByOneVote,
    /// A change takes force by votes of different ballots.
    ForceByVotesOfDifferentBallots,
    /// A change takes force by the votes of the new members alone.
    ForceByNewAlone,
    /// The log counts as copied on acceptors that are no new members.
    CopyCountedFromNonMembers,
    /// A leader's watermark passes the change.
    WatermarkPassesTheChange,
    /// The watermark in a report of a later era raises the start of a campaign.
    LaterReportRaisesFrom,
    /// A void change is carried on.
    VoidChangeCarriedOn,
    /// A leader proposes something above its change.
    ProposesAboveTheChange,
    /// A candidate leaves a change out that it has found.
    FoundChangeDropped,
    /// A learner counts votes at earlier ballots in its own configuration.
    EarlierVotesCountedByLearner,
    /// A read keeps its bound across eras.
    ReadKeepsItsBound,
    /// A read keeps its round across eras.
    ReadKeepsItsRound,
    /// A learner forgets its era at a restart.
    LearnerForgetsItsEra,
    /// A learner adopts a configuration that is chosen and not applied.
    LearnerAdoptsChosen,
    /// A learner counts votes at later ballots in its own, earlier configuration.
    LaterVotesCountedByLearner,
    /// A snapshot does not say in which configuration its state was reached.
    SnapshotWithoutConfiguration,
    /// An acceptor compares ballots without their eras.
    BallotsComparedWithoutEra,
    /// A learner's snapshot lifts an acceptor above everything claimed by a leader of the acceptor's era.
    LiftAtALearnersWord,
    /// A leader has snapshots brought to joiners alone, and only while it copies.
    SnapshotsForJoinersAlone,
    /// A blank acceptor at the place of a member counts as the member.
    BlankCounted,

    // Forming.
    /// As soon as a proposer finds a forming acceptor, the proposer takes all acceptors for forming.
    CompletesBeforeAllStored,
    /// A forming acceptor accepts a different list.
    TakesAnotherList,
    /// A restored cluster begins its log at slot 0.
    RestoreWithoutTheJump,
    /// An acceptor without a seed stores a configuration with an origin.
    TakesOriginWithoutSeed,
    /// An acceptor with a seed stores another configuration.
    SeededTakesAnotherList,
    /// A restore sends the seed to all acceptors at once, and not to one acceptor first.
    SeedsSentToAllAtOnce,
    /// The first leader of a restored cluster starts at slot 0, below the trims in its promises.
    RestoredLeaderStartsAtZero,

    // Failure detection. Such bugs break no safety property.
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
    /// A candidate asks an acceptor with a late link for a promise, without asking whom the acceptor hears.
    LateLinkAsksForPromise,
    /// A proposal turned away by an acceptor is never sent to the acceptor again.
    TurnedAwayNeverSentAgain,
}
