//! Owns the learner core: passes the acceptors' reports in, and hands learned values on.

use std::{collections::VecDeque, time::Duration};

use paxos_common::{
    paxos::{
        identity::AcceptorUuid,
        learner::{Intake, Learner, WINDOW_SLOTS},
        message::{Row, VoteRange},
        quorum::Electorate,
        slot::Slot,
    },
    service::{failure::Failure, shutdown::Shutdown},
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{MissedTickBehavior, interval},
};

use crate::{
    apply::{self, Batch},
    trace::{LearningSpans, ValueTracer},
};

/// Capacity of the queue of events: each following task has at most one event waiting, so a longer queue would stay
/// empty.
pub(crate) const EVENTS_MAX: usize = 32;
/// Capacity of the queue of batches: one, so that the applier never idles while the driver fills the next batch.
pub(crate) const BATCHES_MAX: usize = 1;
/// Maximum number of slots in a batch.
const BATCH_SLOTS: usize = 4_096;
/// Bytes of values in a full batch. Together with the core's window, this limit bounds a learner's memory.
const BATCH_BYTES: usize = 4 * 1024 * 1024;
/// Longest wait for a stall, as a multiple of the first wait.
const STALL_WAITS_MAX: u32 = 16;

/// Events from the following tasks.
#[derive(Debug)]
pub(crate) enum DriverEvent {
    /// An acceptor has accepted something.
    Offer(Offer),
    /// Values come from this acceptor from now on; the answer is the slot to start at.
    StartFeed {
        member: AcceptorUuid,
        answer: oneshot::Sender<Slot>,
    },
    /// The answer is the learner's position: the first slot that is not learned.
    Position(oneshot::Sender<Slot>),
    /// The learner works in this era from now on. Streams opened after this event count in this era.
    Adopt(Electorate),
}

/// A frame from an acceptor.
#[derive(Debug)]
pub(crate) struct Offer {
    pub(crate) acceptor: AcceptorUuid,
    pub(crate) frame: FrameContent,
    pub(crate) answer: oneshot::Sender<FrameIntake>,
}

/// The content of a frame.
#[derive(Debug)]
pub(crate) enum FrameContent {
    Votes(VecDeque<VoteRange>),
    /// Ascending by slot; `known_to` is valid for these rows alone.
    Rows {
        rows: VecDeque<Row>,
        known_to: Slot,
    },
}

/// How much of a frame the driver has taken.
#[derive(Debug)]
pub(crate) enum FrameIntake {
    Whole,
    /// The rest is to be offered again when the first unlearned slot is above `at`.
    Later {
        rest: FrameContent,
        at: Slot,
    },
}

/// The driver's outputs.
#[derive(Debug)]
pub(crate) struct DriverOutputs {
    /// To the applier.
    pub(crate) learned: mpsc::Sender<Batch>,
    /// The first unlearned slot.
    pub(crate) next: watch::Sender<Slot>,
    /// Counts up when values should come from another acceptor.
    pub(crate) stalls: watch::Sender<u64>,
    /// The acceptor behind the value feed.
    pub(crate) feed: watch::Sender<Option<AcceptorUuid>>,
}

/// Runs until the stop begins.
///
/// # Errors
/// None so far: the applier reports failures.
pub(crate) async fn run(
    core: Learner,
    mut events: mpsc::Receiver<DriverEvent>,
    outputs: DriverOutputs,
    values: ValueTracer,
    stall_timeout: Duration,
    shutdown: Shutdown,
) -> Result<(), Failure> {
    let mut driver = Driver {
        stall: Stall::new(core.next()),
        core,
        outputs,
        ready: Batch::new(),
        ready_bytes: 0,
        learning: LearningSpans::new(values),
    };
    // Half the timeout, because a stall takes two ticks to show.
    let mut ticks = interval(stall_timeout / 2);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let learned = driver.outputs.learned.clone();
    loop {
        tokio::select! {
            // `begun` only waits.
            () = shutdown.begun() => return Ok(()),
            // Cancel safe: an event not returned stays queued.
            Some(event) = events.recv() => driver.handle(event),
            // Cancel safe: nothing is sent before the permit is granted. An error means the end of the applier, and so
            // of the process; until then learned values have no receiver.
            Ok(permit) = learned.reserve(), if !driver.ready.is_empty() => permit.send(driver.take_ready()),
            // Cancel safe: a tick not returned now is returned next time.
            _ = ticks.tick(), if driver.waits() => driver.look_for_stall(),
        }
        driver.gather();
    }
}

struct Driver {
    core: Learner,
    outputs: DriverOutputs,
    /// Learned, and waiting for the applier.
    ready: Batch,
    ready_bytes: usize,
    stall: Stall,
    learning: LearningSpans,
}

impl Driver {
    fn handle(&mut self, event: DriverEvent) {
        // The asking task may be gone: the next stream starts over at the first unlearned slot.
        match event {
            DriverEvent::Offer(offer) => {
                let verdict = self.take(offer.acceptor, offer.frame);
                let _ = offer.answer.send(verdict);
            }
            DriverEvent::StartFeed { member, answer } => {
                self.core.change_feed();
                self.outputs.feed.send_replace(Some(member));
                let _ = answer.send(self.core.next());
            }
            DriverEvent::Position(answer) => {
                let _ = answer.send(self.core.learned_to());
            }
            DriverEvent::Adopt(electorate) => {
                // False in the era of the core, and after a change that the core has handed out.
                let _ = self.core.adopt(&electorate);
            }
        }
    }

    fn take(&mut self, acceptor: AcceptorUuid, frame: FrameContent) -> FrameIntake {
        let at = self.core.next();
        let rest = match frame {
            FrameContent::Votes(votes) => {
                let rest = self.count(acceptor, votes);
                (!rest.is_empty()).then_some(FrameContent::Votes(rest))
            }
            FrameContent::Rows {
                rows,
                known_to: chosen_to,
            } => {
                let rows = self.hold(rows, chosen_to);
                (!rows.is_empty()).then_some(FrameContent::Rows {
                    rows,
                    known_to: chosen_to,
                })
            }
        };
        match rest {
            Some(rest) => FrameIntake::Later { rest, at },
            None => FrameIntake::Whole,
        }
    }

    /// Counts votes; returns the votes beyond the core's window. Counted votes stay counted, so offering the same votes
    /// again would only cost time.
    fn count(&mut self, acceptor: AcceptorUuid, votes: VecDeque<VoteRange>) -> VecDeque<VoteRange> {
        let end = self.core.next().plus(WINDOW_SLOTS);
        let beyond = |votes: VoteRange| match self.core.votes(acceptor, &votes) {
            Intake::Whole => None,
            Intake::Later => Some(votes.rest(end)),
        };
        votes.into_iter().filter_map(beyond).collect()
    }

    /// Holds rows up to the first row without room; returns this row and all later rows.
    fn hold(&mut self, mut rows: VecDeque<Row>, chosen_to: Slot) -> VecDeque<Row> {
        while let Some(row) = rows.front() {
            match self.core.rows(std::slice::from_ref(row), chosen_to) {
                Intake::Whole => {
                    if let Some((_, value)) = &row.accepted
                        && row.slot >= self.core.next()
                    {
                        self.learning.held(row.slot, value);
                    }
                    rows.pop_front()
                }
                Intake::Later => break,
            };
        }
        rows
    }

    /// Moves learned values from the core to the next batch, up to the limits of a batch.
    fn gather(&mut self) {
        let before = self.core.next();
        while self.ready.len() < BATCH_SLOTS && self.ready_bytes < BATCH_BYTES {
            // One slot at a time, because of the bound on bytes.
            let learned = self.core.take_learned(1);
            if learned.is_empty() {
                break;
            }
            self.ready_bytes += apply::bytes_of(&learned);
            self.ready.extend(learned);
        }
        if self.core.next() != before {
            self.outputs.next.send_replace(self.core.next());
            self.learning.learned(self.core.next());
        }
    }

    fn take_ready(&mut self) -> Batch {
        self.ready_bytes = 0;
        std::mem::take(&mut self.ready)
    }

    /// Whether acceptors owe values or votes. While a batch waits for the applier, the disk is slow, and no acceptor is
    /// to blame.
    fn waits(&self) -> bool {
        self.ready.is_empty() && (self.core.lacks_value() || self.core.knows_of_more())
    }

    fn look_for_stall(&mut self) {
        if self.stall.tick(self.core.next(), self.waits()) {
            self.outputs.stalls.send_modify(|stalls| *stalls += 1);
        }
    }
}

/// Detects a lack of progress: the first unlearned slot stays the same, although acceptors have voted at or above this
/// slot.
#[derive(Debug)]
struct Stall {
    next: Slot,
    /// Number of ticks spent waiting for `next`.
    ticks: u32,
    /// Length of a stall in ticks; grows while another feed does not help.
    patience: u32,
}

impl Stall {
    const PATIENCE: u32 = 2;

    fn new(next: Slot) -> Self {
        Self {
            next,
            ticks: 0,
            patience: Self::PATIENCE,
        }
    }

    /// Records the present state; returns whether a stall is found.
    fn tick(&mut self, next: Slot, waits: bool) -> bool {
        if !waits || next != self.next {
            *self = Self::new(next);
        }
        if !waits {
            return false;
        }
        // At the first tick of a wait, the length of the wait is unknown.
        self.ticks += 1;
        if self.ticks <= self.patience {
            return false;
        }
        self.ticks = 0;
        self.patience = (self.patience * 2).min(Self::PATIENCE * STALL_WAITS_MAX);
        true
    }
}

#[cfg(test)]
mod tests {
    use paxos_common::paxos::{
        ballot::{Ballot, ProposerId},
        era::Era,
        quorum::Configuration,
        slot::SlotRange,
        value::Value,
    };

    use super::*;
    use crate::store::testing::{configuration, next_configuration};

    #[test]
    fn stall_shows_after_a_patience_that_grows_until_progress() {
        let next = Slot::new(5).unwrap();
        let mut stall = Stall::new(next);
        let pattern = |stall: &mut Stall, ticks: usize, next, waits| -> Vec<usize> {
            (1..=ticks).filter(|_| stall.tick(next, waits)).collect()
        };
        assert_eq!(pattern(&mut stall, 100, next, false), [0; 0]);
        assert_eq!(pattern(&mut stall, 17, next, true), [3, 8, 17]);
        // Progress resets the patience.
        assert_eq!(pattern(&mut stall, 3, next.next(), true), [3]);
    }

    /// A driver of the core, and what it hands out.
    fn driver(configuration: &Configuration) -> (Driver, watch::Receiver<Slot>) {
        let (next, next_seen) = watch::channel(Slot::ZERO);
        let outputs = DriverOutputs {
            learned: mpsc::channel(1).0,
            next,
            stalls: watch::channel(0).0,
            feed: watch::channel(None).0,
        };
        let driver = Driver {
            core: Learner::new(configuration.electorate(), Slot::ZERO),
            outputs,
            ready: Batch::new(),
            ready_bytes: 0,
            stall: Stall::new(Slot::ZERO),
            learning: LearningSpans::new(ValueTracer::default()),
        };
        (driver, next_seen)
    }

    /// The acceptor votes for slot 0 in an era, and sends the value.
    fn votes(driver: &mut Driver, acceptor: u128, era: Era) {
        let ballot = Ballot::new(1, ProposerId::new(1).unwrap()).unwrap().in_era(era);
        let (from, to) = (Slot::ZERO, Slot::ZERO.next());
        let (value, slots) = (Value::noop(), SlotRange { from, to });
        let row = Row {
            slot: Slot::ZERO,
            accepted: Some((ballot, value)),
        };
        let votes = VoteRange {
            ballot,
            slots,
            values: Vec::new(),
        };
        let frames = [
            FrameContent::Votes([votes].into()),
            FrameContent::Rows {
                rows: [row].into(),
                known_to: Slot::ZERO,
            },
        ];
        for frame in frames {
            let acceptor = AcceptorUuid::from_u128(acceptor);
            let answer = oneshot::channel().0;
            driver.handle(DriverEvent::Offer(Offer {
                acceptor,
                frame,
                answer,
            }));
        }
        driver.gather();
    }

    #[test]
    fn votes_of_the_adopted_era_count_and_earlier_votes_are_dropped() {
        let first = configuration();
        let second = next_configuration(&first);
        let (mut driver, next) = driver(&first);
        votes(&mut driver, 1, first.era());
        votes(&mut driver, 3, second.era());
        driver.handle(DriverEvent::Adopt(second.electorate()));
        votes(&mut driver, 3, second.era());
        for (removed, era) in [(1, second.era()), (2, first.era())] {
            votes(&mut driver, removed, era);
        }
        assert_eq!(driver.ready, Batch::new());
        driver.handle(DriverEvent::Adopt(first.electorate()));
        votes(&mut driver, 4, second.era());
        assert_eq!((driver.ready.len(), next.borrow().get()), (1, 1));
    }
}
