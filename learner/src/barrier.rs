//! The barrier before linearizable reads: lets each pass once all that may have been acknowledged before is applied.
//!
//! One task owns the core, [`Reading`]. Callers wait for it; the askers ([`crate::tails`]) bring what the acceptors
//! tell. While no quorum of acceptors answers, callers wait until they give up.

use std::{collections::BTreeMap, pin::pin, time::Duration};

use paxos_common::{
    exit::Failure,
    metrics::Counter,
    paxos::{
        quorum::Electorate,
        reading::{Effect, Event, READS_MAX, ReadId, Reading},
        slot::Slot,
    },
    shutdown::Shutdown,
    trace::{Span, SpanContext, Tracer},
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, sleep_until},
};

use crate::{
    tails::{TAILS_MAX, Told},
    trace::Rounds,
};

/// How long a read waits before the acceptors are asked anew and the leader is asked to fill: L of the protocol. By
/// then another proposer leads, if the leader is gone.
pub(crate) const LEADER_TIMEOUT: Duration = Duration::from_millis(200);

/// Calls that wait to be taken in, which happens many at a time: more than usually come in during a round. Whoever
/// finds no room waits for it.
const CALLS_MAX: usize = 1_024;

/// Why a read may not go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BarrierError {
    /// Too many reads wait already: it has to be sent again later.
    #[error("{READS_MAX} reads wait already")]
    Full,
    /// The learner stops.
    #[error("the learner stops")]
    Stopping,
}

/// A caller that waits.
#[derive(Debug)]
struct Call {
    /// Closed when it does not wait any more.
    answer: oneshot::Sender<Result<Slot, BarrierError>>,
    /// The span that it waits in, when it is traced.
    trace: Option<SpanContext>,
    /// It waits for the state alone.
    catching_up: Option<Span>,
}

/// What the acceptors are asked.
#[derive(Clone, Debug)]
pub(crate) struct Question {
    pub(crate) nonce: u64,
    /// The span of the round, when it is traced.
    pub(crate) trace: Option<SpanContext>,
}

/// The way in for readers. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub(crate) struct Barrier {
    calls: mpsc::Sender<Call>,
    waiting: watch::Receiver<usize>,
}

impl Barrier {
    /// Returns once everything that may have been acknowledged before the call is applied, and everything that any
    /// learner showed before; tells how far that is. Whatever state is taken afterwards holds it.
    ///
    /// It waits for as long as no quorum of acceptors answers, or what they told is not chosen. `trace` is the span that
    /// it waits in, when it is traced.
    ///
    /// # Errors
    /// When too many wait, and when the learner stops.
    ///
    /// # Cancel safety
    /// Safe: whoever drops it is forgotten within [`LEADER_TIMEOUT`].
    pub(crate) async fn pass(&self, trace: Option<SpanContext>) -> Result<Slot, BarrierError> {
        let (answer, passed) = oneshot::channel();
        let call = Call {
            answer,
            trace,
            catching_up: None,
        };
        self.calls.send(call).await.map_err(|_| BarrierError::Stopping)?;
        passed.await.map_err(|_| BarrierError::Stopping)?
    }

    /// How many reads wait.
    pub(crate) fn waiting(&self) -> u64 {
        *self.waiting.borrow() as u64
    }
}

/// What the task that owns the core has done for it.
#[derive(Debug)]
pub(crate) struct Outlets {
    /// The latest question to the acceptors. Set anew when it is to be asked once more.
    pub(crate) question: watch::Sender<Option<Question>>,
    /// The leader is to have every slot below it chosen. Set anew when it is to be asked once more.
    pub(crate) fill: watch::Sender<Option<Slot>>,
    /// Counts the questions.
    pub(crate) rounds: Counter,
}

/// The owner of the core. `T` tells how far this learner has applied.
pub(crate) struct Keeper<T> {
    core: Reading,
    calls: mpsc::Receiver<Call>,
    tails: mpsc::Receiver<Told>,
    applied: watch::Receiver<T>,
    applied_to: fn(&T) -> Slot,
    outlets: Outlets,
    /// Who waits for each read of the core.
    waiting: BTreeMap<ReadId, Call>,
    waiting_told: watch::Sender<usize>,
    next_read: u64,
    /// When the core's latest timer fires, and its generation. Earlier ones mean nothing to it any more.
    timer: Option<(Instant, u64)>,
    rounds: Rounds,
    /// Acceptors were found to have lost votes: the process must end.
    lost: Option<LostVotes>,
}

/// A quorum of acceptors knows less than was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "acceptors have lost votes that they had shown: this learner had applied every slot below {applied_to} before it asked \
     how far they have voted, and a quorum of them answers that it has voted for nothing from slot {bound} on. What was \
     chosen there is gone from their disks, and this learner may be the last to hold it, so it answers nothing. Keep its \
     data directory. Look at the acceptors' disks and logs: a write-ahead log or a data directory was lost, cut off or \
     replaced by an older copy. Stop the proposers, because what they propose now may take the place of acknowledged \
     writes"
)]
struct LostVotes {
    bound: Slot,
    applied_to: Slot,
}

/// Makes a barrier, and the one that keeps it.
pub(crate) fn barrier<T>(
    electorate: Electorate,
    tails: mpsc::Receiver<Told>,
    applied: watch::Receiver<T>,
    applied_to: fn(&T) -> Slot,
    outlets: Outlets,
    tracer: Tracer,
) -> (Barrier, Keeper<T>) {
    let (calls_in, calls) = mpsc::channel(CALLS_MAX);
    let (waiting_told, waiting) = watch::channel(0);
    let begin = applied_to(&applied.borrow());
    let keeper = Keeper {
        // The first nonce is random, so that no answer to an earlier run of this learner serves this one.
        core: Reading::new(electorate, begin, rand::random()),
        calls,
        tails,
        applied,
        applied_to,
        outlets,
        waiting: BTreeMap::new(),
        waiting_told,
        next_read: 0,
        timer: None,
        rounds: Rounds::new(tracer),
        lost: None,
    };
    let calls = calls_in;
    (Barrier { calls, waiting }, keeper)
}

impl<T> Keeper<T> {
    /// Runs until the stop begins.
    ///
    /// # Errors
    /// When a quorum of acceptors does not know votes that this learner has applied: they have lost them.
    ///
    /// # Cancel safety
    /// Safe: whoever waits hears that the learner stops.
    pub(crate) async fn run(mut self, shutdown: Shutdown) -> Result<(), Failure> {
        let mut calls = Vec::with_capacity(CALLS_MAX);
        let mut tails = Vec::with_capacity(TAILS_MAX);
        let mut limit = pin!(sleep_until(Instant::now()));
        loop {
            let mut fired = false;
            tokio::select! {
                // `begun` only waits.
                () = shutdown.begun() => return Ok(()),
                // Cancel safe: what is not received stays queued. Without anybody left who could call, there is
                // nothing to do but to wait for the stop.
                1.. = self.calls.recv_many(&mut calls, CALLS_MAX) => {}
                // Cancel safe likewise.
                1.. = self.tails.recv_many(&mut tails, TAILS_MAX) => {}
                // It only waits. An error says that the applier has ended, which ends the process.
                Ok(()) = self.applied.changed() => {}
                // It only waits.
                () = &mut limit, if self.timer.is_some() => fired = true,
            }
            // All that is there is taken in before anything is done, and callers before answers: those who came in
            // while a round was answered are served together by the next.
            while calls.len() < CALLS_MAX
                && let Ok(call) = self.calls.try_recv()
            {
                calls.push(call);
            }
            self.take_calls(&mut calls);
            self.take_applied();
            for told in tails.drain(..) {
                self.core.handle(told.into());
            }
            if fired {
                self.fire();
            }
            if let Some(at) = self.carry_out() {
                limit.as_mut().reset(at);
            }
            if let Some(lost) = self.lost {
                // Callers hear that the learner stops: whatever they were answered could miss what was acknowledged.
                return Err(Failure::storage(lost));
            }
            self.look_at_round();
            self.tell_waiting();
        }
    }

    /// Takes in all that is there at once: one round serves them.
    fn take_calls(&mut self, calls: &mut Vec<Call>) {
        if self.core.waiting() + calls.len() > READS_MAX {
            self.sweep();
        }
        let from = ReadId(self.next_read);
        // Whoever is gone by now need not be counted.
        for call in calls.drain(..).filter(|call| !call.answer.is_closed()) {
            self.waiting.insert(ReadId(self.next_read), call);
            self.next_read += 1;
        }
        let to = ReadId(self.next_read);
        if from < to {
            self.core.handle(Event::Asked { from, to });
        }
    }

    fn take_applied(&mut self) {
        let applied_to = (self.applied_to)(&self.applied.borrow_and_update());
        self.core.handle(Event::Applied(applied_to));
    }

    /// What waits on after its round waits for the state.
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
        // Before anything is asked for them.
        self.sweep();
        if let Some((_, generation)) = self.timer.take() {
            self.core.handle(Event::Fired(generation));
        }
    }

    /// Forgets those who do not wait any more. A timer runs whenever somebody waits, so none is kept for long.
    fn sweep(&mut self) {
        let core = &mut self.core;
        self.waiting.retain(|&read, call| {
            let waits = !call.answer.is_closed();
            if !waits {
                core.handle(Event::Abandoned(read));
            }
            waits
        });
    }

    /// Does what the core wants done. Returns when the timer fires that it has set, if it has set one.
    fn carry_out(&mut self) -> Option<Instant> {
        let mut set = None;
        for effect in self.core.take_effects() {
            match effect {
                // The askers know themselves which question they have answered.
                Effect::Ask { nonce, acceptors: _ } => {
                    self.outlets.rounds.increment();
                    let traced = |(&read, call): (&ReadId, &Call)| Some((read, call.trace.clone()?));
                    let reads = self.waiting.iter().filter_map(traced);
                    let trace = self.rounds.ask(nonce, self.waiting.len(), reads);
                    self.outlets
                        .question
                        .send_modify(|question| *question = Some(Question { nonce, trace }));
                }
                Effect::SetTimer(generation) => {
                    let at = Instant::now() + LEADER_TIMEOUT;
                    self.timer = Some((at, generation));
                    set = Some(at);
                }
                Effect::Fill(to) => self.outlets.fill.send_modify(|fill| *fill = Some(to)),
                Effect::Answer(read) => {
                    let applied_to = (self.applied_to)(&self.applied.borrow());
                    self.answer(read, Ok(applied_to));
                }
                Effect::TurnAway(read) => self.answer(read, Err(BarrierError::Full)),
                Effect::LostVotes { bound, applied_to } => self.lost = Some(LostVotes { bound, applied_to }),
            }
        }
        set
    }

    fn answer(&mut self, read: ReadId, answer: Result<Slot, BarrierError>) {
        if let Some(call) = self.waiting.remove(&read) {
            // Whoever gave up meanwhile does not get it.
            let _ = call.answer.send(answer);
        }
    }

    fn tell_waiting(&self) {
        let waiting = self.waiting.len();
        self.waiting_told.send_if_modified(|told| {
            let news = *told != waiting;
            *told = waiting;
            news
        });
    }
}

impl From<Told> for Event {
    fn from(told: Told) -> Self {
        Self::Tailed {
            acceptor: told.acceptor,
            nonce: told.nonce,
            tail: told.tail,
        }
    }
}

#[cfg(test)]
mod tests;
