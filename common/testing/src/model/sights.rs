//! Events required to happen sometimes, so that a check without any interesting step fails.

use std::sync::atomic::{AtomicU64, Ordering};

/// An event observed in a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Sight {
    Chosen,
    /// A proposer began to lead while a second proposer was leading.
    Duel,
    /// A preempted leader noticed the preemption.
    SteppedDown,
    /// A leader proposed a value first proposed by an earlier leader.
    CarriedOver,
    /// A leader proposed a no-op.
    Noop,
    /// A leader proposed a chosen value again, below the leader's own watermark.
    Repair,
    /// A crash lost a vote before the vote was durable.
    VoteLost,
    /// A crash lost a promise before the promise was durable.
    PromiseLost,
    /// A crash lost the answers of a group already visible to readers of the disk.
    ReadableUnanswered,
    /// A crash lost a watermark held only in memory.
    WatermarkLost,
    /// A single commit made several requests durable.
    GroupOfMany,
    /// A page found a higher ballot promised meanwhile.
    PageOvertaken,
    PromiseOfManyPages,
    UnknownRowTold,
    /// A caller learned that its command was chosen.
    Answered,
    /// Slots were chosen out of log order.
    ChosenAboveGap,
    Learned,
    FeedSwitched,
    LearnerRestarted,
    /// A read was answered.
    Read,
    /// A read was answered, and had to see an earlier write.
    ReadAfterWrite,
    /// A read saw a write still unanswered when the read began.
    ReadOverlapsWrite,
    /// A read was answered, and had to see an earlier write, after a second leader had begun to lead.
    ReadAfterFailover,
    /// A read was answered after waiting longer than the limit.
    ReadAfterLimit,
    /// A cluster was formed after a proposer had died midway.
    FormedByAnother,
    /// A proposer learned that lists differ, or that a listed disk was lost.
    ConflictTold,
    /// A proposer found the cluster formed, and learned of a lost disk.
    LostDiskTold,
    /// An answer was not counted, because of remembered commits of the answering disk.
    LostDiskRefused,
    /// A right disk was put back, and trusted.
    RightDiskTrusted,
    /// A trim became durable.
    Trimmed,
    /// A trim above the acceptor's own watermark became durable.
    Lifted,
    /// An acceptor answered a proposal for a trimmed slot.
    TrimTold,
    /// A promise left out trimmed slots.
    TrimmedPage,
    /// A crash lost a trim before the trim was durable.
    TrimLost,
    /// A learner installed a snapshot.
    Installed,
    /// An acceptor of a restored cluster was formed.
    Restored,
    /// A cluster was formed after a restore had died midway.
    RestoredByAnother,
    /// A proposer learned that an acceptor holds a backup, or lacks it.
    BackupTold,
    /// A change of members was chosen.
    ChangeChosen,
    /// An acceptor installed the configuration of the next era.
    Installation,
    /// A configuration of the second change took force.
    SecondInstallation,
    /// A proposer began to lead in a later era.
    LedLater,
    /// A later leader proposed a change found in its campaign.
    ChangeCarriedOn,
    /// A leader proposed a no-op in place of a void change.
    ChangeVoid,
    /// A slot was chosen in a later era.
    ChosenLater,
    /// A learner adopted a later configuration.
    LearnerAdopted,
    /// A read was answered by a learner in a later era.
    ReadLater,
    /// A learner adopted a configuration shown by an acceptor, and had not applied the change.
    LearnerShown,
    /// A blank acceptor joined the cluster.
    Joined,
    /// An acceptor lost its disk.
    DiskLost,
    /// A page of a scan arrived at a proposer that works in a later era than the scan.
    ScanAcrossEras,
    /// A snapshot lifted an acceptor outside its own configuration: a joiner.
    JoinerLifted,
    /// A configuration took force while a row below its change was damaged.
    ForceBesideDamage,
    /// An acceptor with a full disk heard a claim, and granted nothing.
    ClaimHeard,
    /// An acceptor with a full disk trimmed above its cap, to the end of a recorded snapshot.
    TrimmedAboveCap,
}

/// Number of times each sight occurred, over all steps of a check.
pub(crate) struct Sights([AtomicU64; Sight::TrimmedAboveCap as usize + 1]);

impl Default for Sights {
    fn default() -> Self {
        Self(std::array::from_fn(|_| AtomicU64::new(0)))
    }
}

impl Sights {
    pub(crate) fn saw(&self, sight: Sight) {
        self.0[sight as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count(&self, sight: Sight) -> u64 {
        self.0[sight as usize].load(Ordering::Relaxed)
    }
}
