//! Counts of the events of a run: a run that tested nothing must not pass for a success.

use std::collections::BTreeMap;

/// Counted events. Each event must have happened at least once over the seeds of a test run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Counted {
    AcceptorsCrashed,
    AcceptorsRefused,
    AcceptorsStopped,
    AllAcceptorsCrashed,
    AnswersAboveOne,
    BlankAcceptorsMet,
    BatchesOfMany,
    Campaigns,
    CampaignsGivenUp,
    ClaimsHeardFull,
    ClientsCancelled,
    ClimbingSteps,
    ClocksJumped,
    CommandsChosen,
    CommandsNotProposed,
    CommandsUnknown,
    CommitsFailed,
    CommitsReadableFirst,
    CommitsStuck,
    Cuts,
    DisksFull,
    DisksPutBack,
    DisksSlow,
    DisksStalled,
    DisksWentBack,
    DisksWiped,
    ForeignCommands,
    Forwarded,
    GiantBallots,
    GroupsLost,
    GroupsOfMany,
    GroupsReadableUnanswered,
    GroupsUnanswered,
    HandedOver,
    HolesClosed,
    Inquiries,
    LeadersHalfCut,
    LearnersRestarted,
    LinksFlapped,
    LinksReopened,
    FeedsChanged,
    LiftsDone,
    LogsEndedEarly,
    MessagesDelayed,
    MessagesDropped,
    MessagesDuplicated,
    MessagesReordered,
    NoopsChosen,
    PagesHeldBack,
    PagesOvertaken,
    PromisesOfManyPages,
    ProposersCrashed,
    ProcessesPaused,
    ReadsAbandoned,
    ReadsAnswered,
    ReadsAnsweredWithoutLeader,
    ReadsAnsweredAfterFill,
    ReadsAnsweredAfterRetry,
    ReadsLost,
    ReadsOfFreshWrites,
    Rejections,
    Reigns,
    RetriesLate,
    RetriesSkipped,
    RepairFetches,
    RepairScans,
    ReportsAtOnce,
    RowsDamaged,
    RowsFoundDamaged,
    RowsUnknownInPromises,
    RunsUnwitnessed,
    RunsWitnessed,
    SlotsChosen,
    SlotsRepaired,
    SlotsTakenOver,
    SlotsTakenOverEmpty,
    StatesGarbled,
    StepsDown,
    SnapshotsInstalled,
    SnapshotsKept,
    SnapshotsKeptFull,
    StreamsBroken,
    TrimsAnswered,
    TrimsDone,
    TurnedAwayForSpace,
    UploadsLost,
}

impl Counted {
    pub const ALL: [Self; 85] = [
        Self::AcceptorsCrashed,
        Self::AcceptorsRefused,
        Self::AcceptorsStopped,
        Self::AllAcceptorsCrashed,
        Self::AnswersAboveOne,
        Self::BlankAcceptorsMet,
        Self::BatchesOfMany,
        Self::Campaigns,
        Self::CampaignsGivenUp,
        Self::ClaimsHeardFull,
        Self::ClientsCancelled,
        Self::ClimbingSteps,
        Self::ClocksJumped,
        Self::CommandsChosen,
        Self::CommandsNotProposed,
        Self::CommandsUnknown,
        Self::CommitsFailed,
        Self::CommitsReadableFirst,
        Self::CommitsStuck,
        Self::Cuts,
        Self::DisksFull,
        Self::DisksPutBack,
        Self::DisksSlow,
        Self::DisksStalled,
        Self::DisksWentBack,
        Self::DisksWiped,
        Self::Forwarded,
        Self::GiantBallots,
        Self::GroupsLost,
        Self::GroupsOfMany,
        Self::GroupsReadableUnanswered,
        Self::GroupsUnanswered,
        Self::HandedOver,
        Self::HolesClosed,
        Self::Inquiries,
        Self::LeadersHalfCut,
        Self::LearnersRestarted,
        Self::LinksFlapped,
        Self::LinksReopened,
        Self::FeedsChanged,
        Self::LiftsDone,
        Self::LogsEndedEarly,
        Self::MessagesDelayed,
        Self::MessagesDropped,
        Self::MessagesDuplicated,
        Self::MessagesReordered,
        Self::NoopsChosen,
        Self::PagesHeldBack,
        Self::PagesOvertaken,
        Self::PromisesOfManyPages,
        Self::ProposersCrashed,
        Self::ProcessesPaused,
        Self::ReadsAbandoned,
        Self::ReadsAnswered,
        Self::ReadsAnsweredWithoutLeader,
        Self::ReadsAnsweredAfterFill,
        Self::ReadsAnsweredAfterRetry,
        Self::ReadsLost,
        Self::ReadsOfFreshWrites,
        Self::Rejections,
        Self::Reigns,
        Self::RetriesLate,
        Self::RetriesSkipped,
        Self::RepairFetches,
        Self::RepairScans,
        Self::ReportsAtOnce,
        Self::RowsDamaged,
        Self::RowsFoundDamaged,
        Self::RowsUnknownInPromises,
        Self::RunsUnwitnessed,
        Self::RunsWitnessed,
        Self::SlotsChosen,
        Self::SlotsRepaired,
        Self::SlotsTakenOver,
        Self::SlotsTakenOverEmpty,
        Self::StatesGarbled,
        Self::StepsDown,
        Self::SnapshotsInstalled,
        Self::SnapshotsKept,
        Self::SnapshotsKeptFull,
        Self::StreamsBroken,
        Self::TrimsAnswered,
        Self::TrimsDone,
        Self::TurnedAwayForSpace,
        Self::UploadsLost,
    ];
}

/// Counts over a single run or over many runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    counts: BTreeMap<Counted, u64>,
    /// Longest time from the end of the faults to the required progress, in simulated microseconds.
    pub healed_in: u64,
}

impl Statistics {
    pub fn count(&mut self, what: Counted) {
        self.add(what, 1);
    }

    pub fn add(&mut self, what: Counted, count: u64) {
        *self.counts.entry(what).or_default() += count;
    }

    pub fn merge(&mut self, other: &Self) {
        for (&what, &count) in &other.counts {
            self.add(what, count);
        }
        self.healed_in = self.healed_in.max(other.healed_in);
    }

    pub fn of(&self, what: Counted) -> u64 {
        self.counts.get(&what).copied().unwrap_or_default()
    }

    /// Events that never happened.
    pub fn missing(&self) -> Vec<Counted> {
        Counted::ALL
            .into_iter()
            .filter(|&what| self.of(what) == 0)
            .collect()
    }
}
