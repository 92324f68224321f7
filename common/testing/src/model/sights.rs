//! What must happen sometimes, so that a check that explored nothing of interest fails.

use std::sync::atomic::{AtomicU64, Ordering};

/// Something that a step did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Sight {
    Chosen,
    /// A leader led while another thought that it led.
    Duel,
    /// A leader was overtaken, and noticed.
    SteppedDown,
    /// A leader proposes what another had proposed before it.
    CarriedOver,
    /// A leader proposes a no-op.
    Noop,
    /// A leader proposes again what is chosen, below its own watermark.
    Repair,
    /// A crash took a vote that was not durable.
    VoteLost,
    /// A crash took a promise that was not durable.
    PromiseLost,
    /// A crash took the answers of a group that readers of the disk saw.
    ReadableUnanswered,
    /// A crash took a watermark that memory alone held.
    WatermarkLost,
    /// Several requests were made durable by one commit.
    GroupOfMany,
    /// A page found that another ballot was promised meanwhile.
    PageOvertaken,
    PromiseOfManyPages,
    UnknownRowTold,
    /// A caller was told that its command was chosen.
    Answered,
    /// Slots were chosen in another order than that of the log.
    ChosenAboveGap,
    Learned,
    FeedSwitched,
    LearnerRestarted,
    /// A read was answered.
    Read,
    /// A read was answered after a write that it had to see.
    ReadAfterWrite,
    /// A read saw a write that was not answered yet when the read began.
    ReadOverlapsWrite,
    /// A read that had to see a write was answered after another had begun to lead.
    ReadAfterFailover,
    /// A read was answered that had waited longer than its limit.
    ReadAfterLimit,
    /// A cluster was formed after a proposer had died midway.
    FormedByAnother,
    /// A proposer was told that lists differ, or that a listed disk was lost.
    ConflictTold,
    /// A proposer that found its cluster formed was told of a lost disk.
    LostDiskTold,
    /// An answer was not counted, because of what was remembered of its disk.
    LostDiskRefused,
    /// A right disk that was put back was trusted.
    RightDiskTrusted,
}

/// How often each was seen, over all steps of a check.
#[derive(Default)]
pub(crate) struct Sights([AtomicU64; Sight::RightDiskTrusted as usize + 1]);

impl Sights {
    pub(crate) fn saw(&self, sight: Sight) {
        self.0[sight as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count(&self, sight: Sight) -> u64 {
        self.0[sight as usize].load(Ordering::Relaxed)
    }
}
