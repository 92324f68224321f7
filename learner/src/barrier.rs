//! The barrier before linearizable reads: a read passes once everything that may have been acknowledged before is
//! applied.
//!
//! A single task owns the core, [`Reading`]. Callers wait for the task; the askers ([`crate::tails`]) bring the
//! acceptors' answers. While no quorum of acceptors answers, callers wait until they give up.

use std::{collections::BTreeMap, pin::pin, sync::Arc};

use paxos_common::{
    paxos::{
        reading::{READS_MAX, ReadEffect, ReadEvent, ReadId, Reading},
        slot::Slot,
    },
    service::{failure::Failure, metrics::Counter, shutdown::Shutdown},
    trace::{Span, SpanContext, Tracer},
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, sleep_until},
};

use crate::{
    cluster::EraMembers,
    progress::Progress,
    tails::{LEADER_TIMEOUT, Question, TAILS_MAX, TailReport},
    trace::Rounds,
};

/// Capacity of the queue of calls: more than usually come in during a round. The task takes in many calls at a time. A
/// caller without room in the queue waits for room.
const CALLS_MAX: usize = 1_024;

/// Why a read may not go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BarrierError {
    /// Too many reads wait already: send the read again later.
    #[error("{READS_MAX} reads wait already")]
    Full,
    /// The learner stops.
    #[error("the learner is stopping")]
    Stopping,
}

/// A waiting caller.
#[derive(Debug)]
struct WaitingRead {
    /// Closed when the caller does not wait any more.
    answer: oneshot::Sender<Result<Slot, BarrierError>>,
    /// The span of the wait, when the call is traced.
    trace: Option<SpanContext>,
    /// The span of the wait for the state alone, when the call is traced and its round is answered.
    catching_up: Option<Span>,
}

/// Handle for readers. Cheap to clone; all clones share one barrier.
#[derive(Clone, Debug)]
pub(crate) struct Barrier {
    calls: mpsc::Sender<WaitingRead>,
    waiting: watch::Receiver<usize>,
}

impl Barrier {
    /// Returns once everything that may have been acknowledged before the call is applied, and everything that any
    /// learner showed before the call. Returns the watermark of applied slots. Any state read afterwards includes all
    /// of this.
    ///
    /// Waits while no quorum of acceptors answers, or while slots below the reported tails are not chosen. `trace` is
    /// the span of the wait, when the call is traced.
    ///
    /// # Errors
    /// Too many reads wait, or the learner stops.
    ///
    /// # Cancel safety
    /// Safe: a dropped call is forgotten within [`LEADER_TIMEOUT`].
    pub(crate) async fn pass(&self, trace: Option<SpanContext>) -> Result<Slot, BarrierError> {
        let (answer, passed) = oneshot::channel();
        let call = WaitingRead {
            answer,
            trace,
            catching_up: None,
        };
        self.calls.send(call).await.map_err(|_| BarrierError::Stopping)?;
        passed.await.map_err(|_| BarrierError::Stopping)?
    }

    /// Number of waiting reads.
    pub(crate) fn waiting(&self) -> u64 {
        *self.waiting.borrow() as u64
    }
}

/// Outputs of the task that owns the core.
#[derive(Debug)]
pub(crate) struct ReadingOutputs {
    /// The latest question to the acceptors. Set again to repeat the question.
    pub(crate) question: watch::Sender<Option<Question>>,
    /// The leader is to have every slot below this slot chosen. Set again to repeat the request.
    pub(crate) fill: watch::Sender<Option<Slot>>,
    /// Counts the questions.
    pub(crate) rounds: Counter,
}

/// The owner of the core.
pub(crate) struct ReadingDriver {
    core: Reading,
    eras: watch::Receiver<Arc<EraMembers>>,
    calls: mpsc::Receiver<WaitingRead>,
    tails: mpsc::Receiver<TailReport>,
    applied: watch::Receiver<Progress>,
    outputs: ReadingOutputs,
    /// The waiting caller of each read in the core.
    waiting: BTreeMap<ReadId, WaitingRead>,
    waiting_count: watch::Sender<usize>,
    next_read: u64,
    /// Time and generation of the core's latest timer. Earlier generations mean nothing to the core any more.
    timer: Option<(Instant, u64)>,
    rounds: Rounds,
    /// Evidence of votes lost by acceptors: the process must end.
    lost: Option<LostVotes>,
}

/// A quorum of acceptors knows less than was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "acceptors have lost votes reported earlier: this learner had applied every slot below {applied_to} before asking \
     the acceptors for their highest votes, but a quorum of acceptors reports no vote from slot {bound} on. The \
     values chosen there are gone from the acceptors' disks. This learner may hold the last copy, and therefore \
     answers nothing. Keep the data directory of this learner. Check the acceptors' disks and logs: a write-ahead log \
     or a data directory was lost, truncated or replaced by an older copy. Stop the proposers: new proposals may \
     replace acknowledged writes"
)]
struct LostVotes {
    bound: Slot,
    applied_to: Slot,
}

/// Makes a barrier and its keeper. The barrier follows the members in `eras`.
pub(crate) fn barrier(
    eras: watch::Receiver<Arc<EraMembers>>,
    tails: mpsc::Receiver<TailReport>,
    applied: watch::Receiver<Progress>,
    outputs: ReadingOutputs,
    tracer: Tracer,
) -> (Barrier, ReadingDriver) {
    let (calls_in, calls) = mpsc::channel(CALLS_MAX);
    let (waiting_count, waiting) = watch::channel(0);
    let begin = applied.borrow().applied_to();
    let mut eras = eras;
    let present = Arc::clone(&eras.borrow_and_update());
    let keeper = ReadingDriver {
        // The first nonce is random, so that no answer to an earlier run of this learner counts in this run.
        core: Reading::new(present.electorate().clone(), begin, rand::random())
            .proving_from(present.proves_from()),
        eras,
        calls,
        tails,
        applied,
        outputs,
        waiting: BTreeMap::new(),
        waiting_count,
        next_read: 0,
        timer: None,
        rounds: Rounds::new(tracer),
        lost: None,
    };
    let calls = calls_in;
    (Barrier { calls, waiting }, keeper)
}

impl ReadingDriver {
    /// Runs until the stop begins.
    ///
    /// # Errors
    /// A quorum of acceptors lacks votes applied by this learner: the acceptors have lost these votes.
    ///
    /// # Cancel safety
    /// Safe: waiting callers are notified that the learner stops.
    pub(crate) async fn run(mut self, shutdown: Shutdown) -> Result<(), Failure> {
        let mut calls = Vec::with_capacity(CALLS_MAX);
        let mut tails = Vec::with_capacity(TAILS_MAX);
        let mut limit = pin!(sleep_until(Instant::now()));
        loop {
            let mut fired = false;
            tokio::select! {
                // `begun` only waits.
                () = shutdown.begun() => return Ok(()),
                // Cancel safe: calls not received stay queued. When no possible caller is left, the task only waits for
                // the stop.
                1.. = self.calls.recv_many(&mut calls, CALLS_MAX) => {}
                // Cancel safe likewise.
                1.. = self.tails.recv_many(&mut tails, TAILS_MAX) => {}
                // Only waits. An error means the end of the applier, and so of the process.
                Ok(()) = self.applied.changed() => {}
                // Only waits. The cluster outlives this task.
                Ok(()) = self.eras.changed() => self.adopt(),
                // Only waits.
                () = &mut limit, if self.timer.is_some() => fired = true,
            }
            // Everything queued is taken in before any action, and calls before answers: the next round serves all
            // callers that came in while a round was answered.
            while calls.len() < CALLS_MAX
                && let Ok(call) = self.calls.try_recv()
            {
                calls.push(call);
            }
            self.take_calls(&mut calls);
            self.take_applied();
            for report in tails.drain(..) {
                self.core.handle(report.into());
            }
            if fired {
                self.fire();
            }
            if let Some(at) = self.carry_out() {
                limit.as_mut().reset(at);
            }
            if let Some(lost) = self.lost {
                // Callers are notified that the learner stops: any answer could miss acknowledged writes.
                return Err(Failure::storage(lost));
            }
            self.look_at_round();
            self.publish_waiting();
        }
    }

    /// Takes in all queued calls at once: one round serves them.
    fn take_calls(&mut self, calls: &mut Vec<WaitingRead>) {
        if self.core.waiting() + calls.len() > READS_MAX {
            self.sweep();
        }
        let from = ReadId(self.next_read);
        // Calls abandoned by now need not be counted.
        for call in calls.drain(..).filter(|call| !call.answer.is_closed()) {
            self.waiting.insert(ReadId(self.next_read), call);
            self.next_read += 1;
        }
        let to = ReadId(self.next_read);
        if from < to {
            self.core.handle(ReadEvent::Asked { from, to });
        }
    }

    fn take_applied(&mut self) {
        let applied_to = self.applied.borrow_and_update().applied_to();
        // After the look: a change of members is adopted before the change shows as applied. A read must not be answered by a
        // bound of the earlier era then.
        if self.eras.has_changed().unwrap_or(false) {
            self.adopt();
        }
        self.core.handle(ReadEvent::Applied(applied_to));
    }

    /// Follows the members.
    fn adopt(&mut self) {
        let present = Arc::clone(&self.eras.borrow_and_update());
        self.core.adopt(present.electorate(), present.proves_from());
    }

    /// Reads still waiting after the round wait for the state.
    fn look_at_round(&mut self) {
        if self.core.is_bounded() {
            let waiting = &self.waiting;
            for (read, span) in self.rounds.answered(|read| waiting.contains_key(&read)) {
                if let Some(call) = self.waiting.get_mut(&read) {
                    call.catching_up = Some(span);
                }
            }
        }
    }

    fn fire(&mut self) {
        // First, so that the acceptors are not asked on behalf of abandoned reads.
        self.sweep();
        if let Some((_, generation)) = self.timer.take() {
            self.core.handle(ReadEvent::Fired(generation));
        }
    }

    /// Forgets abandoned reads. A timer runs whenever a caller waits, so no abandoned read is kept for long.
    fn sweep(&mut self) {
        let core = &mut self.core;
        self.waiting.retain(|&read, call| {
            let waits = !call.answer.is_closed();
            if !waits {
                core.handle(ReadEvent::Abandoned(read));
            }
            waits
        });
    }

    /// Carries out the core's effects. Returns the time of the newly set timer, if any.
    fn carry_out(&mut self) -> Option<Instant> {
        let mut set = None;
        for effect in self.core.take_effects() {
            match effect {
                // The askers keep track of the answered questions.
                ReadEffect::Ask { nonce, acceptors: _ } => {
                    self.outputs.rounds.increment();
                    let traced = |(&read, call): (&ReadId, &WaitingRead)| Some((read, call.trace.clone()?));
                    let reads = self.waiting.iter().filter_map(traced);
                    let trace = self.rounds.ask(nonce, self.waiting.len(), reads);
                    self.outputs
                        .question
                        .send_modify(|question| *question = Some(Question { nonce, trace }));
                }
                ReadEffect::SetTimer(generation) => {
                    let at = Instant::now() + LEADER_TIMEOUT;
                    self.timer = Some((at, generation));
                    set = Some(at);
                }
                ReadEffect::Fill(to) => self.outputs.fill.send_modify(|fill| *fill = Some(to)),
                ReadEffect::Answer(read) => {
                    let applied_to = self.applied.borrow().applied_to();
                    self.answer(read, Ok(applied_to));
                }
                ReadEffect::TurnAway(read) => self.answer(read, Err(BarrierError::Full)),
                ReadEffect::LostVotes { bound, applied_to } => {
                    self.lost = Some(LostVotes { bound, applied_to });
                }
            }
        }
        set
    }

    fn answer(&mut self, read: ReadId, answer: Result<Slot, BarrierError>) {
        if let Some(call) = self.waiting.remove(&read) {
            // A caller that gave up meanwhile does not get the answer.
            let _ = call.answer.send(answer);
        }
    }

    fn publish_waiting(&self) {
        let waiting = self.waiting.len();
        self.waiting_count.send_if_modified(|count| {
            let is_changed = *count != waiting;
            *count = waiting;
            is_changed
        });
    }
}

impl From<TailReport> for ReadEvent {
    fn from(report: TailReport) -> Self {
        Self::Tailed {
            acceptor: report.acceptor,
            nonce: report.nonce,
            tail: report.tail,
        }
    }
}

#[cfg(test)]
mod tests;
