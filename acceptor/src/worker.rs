//! The one task that decides and writes: sole owner of the core and the store.
//!
//! It takes whatever waits in its queue, decides all of it into one group, makes the group durable in one commit,
//! takes it into memory, shows it to readers and observers, and only then releases the answers. A group that changes
//! nothing durable (heartbeats, rejections) takes the same way without the commit, so that an answer always speaks
//! for a disk that was not stuck. When a commit fails nobody is answered and the process ends. While too little space
//! is left nothing is granted at all, heartbeats neither: a leader must not count on this acceptor. While another
//! process holds a lock on the file, the commit waits, and with it every answer.

use std::{collections::BTreeMap, ops::ControlFlow, sync::Arc, time::Duration, vec::Drain};

use paxos_common::{
    exit::Failure,
    paxos::{
        acceptor::{Acceptor, FormRefusal, Group, Held},
        ballot::Ballot,
        identity::{RunNumber, Stamp},
        message::{Accept, AcceptAnswer, Prepare, PrepareAnswer},
        quorum::Configuration,
        slot::Slot,
        witness::Witnesses,
    },
    sqlite::foreign_lock::LockReport,
    trace::{SpanContext, Tracer},
    wire::AcceptReply,
};
use tokio::{
    sync::{OwnedSemaphorePermit, mpsc, oneshot},
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::{
    metrics::{Instruments, Rejected},
    shared::{Published, Shared},
    store::{Opened, Reader as _, Store, StoreError},
    trace::{self, Traced},
};

/// Requests that wait for the writer: some leaders' windows of in-flight messages and as many heartbeats. Their bytes
/// are bounded apart, by [`QUEUE_BYTES_MAX`].
pub(crate) const QUEUE_MAX: usize = 512;
/// Bytes of the proposals that wait for the writer: a few times what one commit can usefully take.
pub(crate) const QUEUE_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Requests decided into one group: enough that a busy acceptor's commits are few, and no answer waits long.
const GROUP_MAX: usize = 256;
/// Bytes of the proposals decided into one group, unless a single message has more: the store keeps space for a commit
/// of that size.
const GROUP_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Reports of damaged rows that wait for the worker: a report that finds no room is made again by the next who reads.
const DAMAGE_MAX: usize = 16;
/// How often the space on the disk is looked at when nobody asks for anything.
const SPACE_INTERVAL: Duration = Duration::from_secs(1);

/// A request to the worker, and where its answer goes.
#[derive(Debug)]
pub(crate) enum Command {
    /// A step of forming; the answer shows what is stored then.
    Form {
        step: FormStep,
        answer: oneshot::Sender<Result<FormAnswer, NoSpace>>,
    },
    /// Phase 1.
    Prepare {
        prepare: Prepare,
        answer: oneshot::Sender<Result<(Stamp, PrepareAnswer), NoSpace>>,
        /// The span that it belongs to, when it is traced.
        trace: Option<SpanContext>,
    },
    /// Phase 2. The place for the answer is reserved, so that the worker never waits for a slow leader.
    Accept {
        accept: Accept,
        /// What the leader remembers of the acceptors; empty most of the time.
        witnesses: Witnesses,
        answer: mpsc::OwnedPermit<AcceptReply>,
        bytes: OwnedSemaphorePermit,
        trace: Traced,
    },
}

/// What a step of forming comes to.
pub(crate) type FormAnswer = Result<Published, FormRefusal>;

/// Too little space is left on the disk: nothing was done.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NoSpace;

/// A step of forming.
#[derive(Debug)]
pub(crate) enum FormStep {
    /// The first.
    Store(Configuration),
    /// The second.
    Complete(Configuration),
}

/// An answer that waits for the commit that it speaks for. Nothing of it but the stamp is made afterwards.
enum Release {
    Form(
        oneshot::Sender<Result<FormAnswer, NoSpace>>,
        Result<Result<(), FormRefusal>, NoSpace>,
    ),
    Prepare(
        oneshot::Sender<Result<(Stamp, PrepareAnswer), NoSpace>>,
        Result<PrepareAnswer, NoSpace>,
    ),
    Accept {
        place: mpsc::OwnedPermit<AcceptReply>,
        accept: (Ballot, u64),
        answer: AcceptAnswer,
        trace: Traced,
        _bytes: OwnedSemaphorePermit,
    },
}

/// See the head of this file.
#[derive(Debug)]
pub(crate) struct Worker<S: Store> {
    core: Acceptor,
    store: S,
    reader: S::Reader,
    queue: mpsc::Receiver<Command>,
    damage: mpsc::Receiver<Vec<Slot>>,
    shared: Arc<Shared>,
    /// There was space when it was last looked at.
    has_space: bool,
    tracer: Tracer,
    metrics: Instruments,
}

impl<S: Store> Worker<S> {
    /// A worker that takes up from what the store holds, what it shows, and the way to its queue.
    pub(crate) fn new(
        store: S,
        opened: Opened,
        run: RunNumber,
        tracer: Tracer,
        metrics: Instruments,
    ) -> (Self, Arc<Shared>, mpsc::Sender<Command>) {
        let core = Acceptor::recover(opened.recovered, run).remembering(opened.witnesses.clone());
        let (damage, damage_reports) = mpsc::channel(DAMAGE_MAX);
        let shared = Arc::new(Shared::new(&core, opened.past_runs, opened.witnesses, damage));
        let (sender, queue) = mpsc::channel(QUEUE_MAX);
        let reader = store.reader();
        (
            Self {
                core,
                store,
                reader,
                queue,
                damage: damage_reports,
                shared: Arc::clone(&shared),
                has_space: true,
                tracer,
                metrics,
            },
            shared,
            sender,
        )
    }

    /// Works until `stop`, then closes the store. What is still queued then is not answered.
    ///
    /// # Errors
    /// A failed commit, or proof that somebody broke the protocol.
    pub(crate) async fn run(mut self, stop: CancellationToken) -> Result<(), Failure> {
        let mut commands = Vec::with_capacity(GROUP_MAX);
        let mut ticks = interval(SPACE_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let received = tokio::select! {
                // Cancel safe: what is not received stays queued.
                received = self.queue.recv_many(&mut commands, GROUP_MAX) => received,
                // Cancel safe likewise. The sender lives as long as `shared`.
                Some(slots) = self.damage.recv() => {
                    self.look_at_damage(slots).await?;
                    continue;
                }
                // Cancel safe: a tick that is not returned is returned next time.
                _ = ticks.tick() => {
                    self.look_for_space().await;
                    self.keep_wal_short().await?;
                    self.metrics.wal(self.reader.wal_bytes().await);
                    continue;
                }
                // It only waits.
                () = stop.cancelled() => 0,
            };
            if received == 0 {
                break;
            }
            while !commands.is_empty() {
                let end = group_end(commands.iter().map(Command::bytes));
                if self.work(commands.drain(..end), &stop).await?.is_break() {
                    break;
                }
            }
            self.keep_wal_short().await?;
        }
        self.store.close().await;
        Ok(())
    }

    async fn look_for_space(&mut self) {
        self.has_space = self.store.has_space().await;
        self.shared.show_space(self.has_space);
    }

    async fn keep_wal_short(&mut self) -> Result<(), Failure> {
        let kept = self.store.keep_wal_short().await;
        kept.map_err(|error| Failure::from(error).context("empty the write-ahead log"))
    }

    /// Commits, or breaks when the stop begins while another process's lock keeps the commit from being written.
    async fn commit(&mut self, group: &Group, stop: &CancellationToken) -> Result<ControlFlow<()>, Failure> {
        let Some(write) = self.core.write(group) else {
            return Ok(ControlFlow::Continue(()));
        };
        let commit = self.metrics.commit(group.rows().len());
        let mut lock = LockReport::new(self.store.file());
        loop {
            match self.store.commit(write).await {
                Ok(()) => break,
                // Leaders do without this acceptor meanwhile, as when its disk is full.
                Err(StoreError::LockedByOther(_)) if !stop.is_cancelled() => lock.held(),
                Err(StoreError::LockedByOther(_)) => return Ok(ControlFlow::Break(())),
                Err(error) => return Err(Failure::from(error).context("commit votes")),
            }
        }
        lock.free();
        commit.done();
        Ok(ControlFlow::Continue(()))
    }

    /// Decides, commits, shows and answers one group.
    async fn work(
        &mut self,
        commands: Drain<'_, Command>,
        stop: &CancellationToken,
    ) -> Result<ControlFlow<()>, Failure> {
        self.look_for_space().await;
        let mut group = self.core.group();
        let mut releases = Vec::with_capacity(commands.len());
        let mut traced = Vec::new();
        for mut command in commands {
            traced.extend(command.taken());
            releases.push(self.decide(&mut group, command).await?);
        }
        if group.is_durable_change() {
            let _span = trace::commit(&self.tracer, &mut traced, &group, releases.len());
            if self.commit(&group, stop).await?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        if !group.witnesses().is_empty() {
            self.shared.remember(group.witnesses());
        }
        let rows = group.rows().clone();
        self.core.committed(group);
        self.shared
            .publish(&self.core, releases.iter().any(Release::is_grant));
        if !rows.is_empty() {
            self.shared.ring.push(
                self.core.stamp(),
                // Rows that were just accepted are intact: below what is known they hold the chosen values.
                self.core.known_to(),
                self.core.trimmed_to(),
                rows,
            );
        }
        for release in releases {
            self.metrics.answered(release.rejected());
            release.send(&self.shared, self.core.stamp());
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Takes note of damaged rows, unless they were accepted again since they were read: only here it is certain that
    /// nothing is written between a read and the look at it.
    async fn look_at_damage(&mut self, mut slots: Vec<Slot>) -> Result<(), Failure> {
        slots.retain(|&slot| !self.core.is_damaged(slot));
        if slots.is_empty() {
            return Ok(());
        }
        let held = self.reader.held(&slots).await?;
        // A suspect without a row is missing below the watermark.
        slots.retain(|slot| !matches!(held.get(slot), Some(Held::Accepted(..))));
        let rows = self.core.found_damaged(slots.iter().copied());
        if let (1.., Some(first)) = (rows, slots.first()) {
            warn!(
                rows,
                first = first.get(),
                "rows on disk are damaged: they count as unknown until the leader has repaired them. Look at this disk"
            );
            self.shared.publish(&self.core, false);
        }
        Ok(())
    }

    async fn decide(&self, group: &mut Group, command: Command) -> Result<Release, Failure> {
        match command {
            Command::Form { answer, .. } if !self.has_space => Ok(Release::Form(answer, Err(NoSpace))),
            // What is overtaken is told so all the same.
            Command::Prepare { prepare, answer, .. }
                if !self.has_space && prepare.ballot >= group.promised() =>
            {
                Ok(Release::Prepare(answer, Err(NoSpace)))
            }
            Command::Accept {
                accept,
                answer: place,
                bytes,
                trace,
                ..
            } if !self.has_space && accept.ballot >= group.promised() => Ok(Release::Accept {
                place,
                accept: (accept.ballot, accept.sequence),
                answer: AcceptAnswer::NoSpace,
                trace,
                _bytes: bytes,
            }),
            Command::Form { step, answer } => {
                let result = match &step {
                    FormStep::Store(configuration) => self.core.store_configuration(group, configuration),
                    FormStep::Complete(configuration) => {
                        self.core.complete_configuration(group, configuration)
                    }
                };
                Ok(Release::Form(answer, Ok(result)))
            }
            Command::Prepare { prepare, answer, .. } => {
                let answered = self.core.prepare(group, &prepare);
                Ok(Release::Prepare(answer, Ok(answered)))
            }
            Command::Accept {
                accept,
                witnesses,
                answer: place,
                bytes,
                trace,
            } => {
                let slots: Vec<_> = self.core.slots_to_read(&accept).collect();
                // Only repair asks for these, so that the hot path never waits for a read.
                let below = if slots.is_empty() {
                    BTreeMap::new()
                } else {
                    self.reader.held(&slots).await?
                };
                let answer = self
                    .core
                    .accept(group, &accept, &below)
                    .map_err(Failure::internal)?;
                // Only a leader's word is taken.
                if matches!(answer, AcceptAnswer::Accepted { .. }) {
                    self.core.witness(group, witnesses.iter());
                }
                Ok(Release::Accept {
                    place,
                    accept: (accept.ballot, accept.sequence),
                    answer,
                    trace,
                    _bytes: bytes,
                })
            }
        }
    }
}

/// How many messages of these sizes make one group.
fn group_end(sizes: impl Iterator<Item = usize>) -> usize {
    let mut bytes = 0;
    let fits = |size: &usize| {
        bytes += size;
        bytes <= GROUP_BYTES_MAX
    };
    sizes.take_while(fits).count().max(1)
}

impl Command {
    /// Bytes of its proposals.
    fn bytes(&self) -> usize {
        match self {
            Self::Accept { bytes, .. } => bytes.num_permits(),
            Self::Form { .. } | Self::Prepare { .. } => 0,
        }
    }

    /// It leaves the queue. Tells the span that it belongs to, when it is traced.
    fn taken(&mut self) -> Option<SpanContext> {
        match self {
            Self::Accept { trace, .. } => {
                trace.taken();
                trace.context()
            }
            Self::Prepare { trace, .. } => trace.take(),
            Self::Form { .. } => None,
        }
    }
}

impl Release {
    /// Whether a proposer was heard that may lead, or campaign.
    fn is_grant(&self) -> bool {
        match self {
            Self::Prepare(_, answer) => matches!(answer, Ok(PrepareAnswer::Promised)),
            Self::Accept { answer, .. } => matches!(answer, AcceptAnswer::Accepted { .. }),
            Self::Form(..) => false,
        }
    }

    /// Which phase has lost against a higher ballot.
    fn rejected(&self) -> Option<Rejected> {
        match self {
            Self::Prepare(_, Ok(PrepareAnswer::Rejected(_))) => Some(Rejected::Prepare),
            Self::Accept { answer, .. } => {
                matches!(answer, AcceptAnswer::Rejected(_)).then_some(Rejected::Accept)
            }
            Self::Prepare(..) | Self::Form(..) => None,
        }
    }

    /// Sends the answer; whoever does not wait for it any more does not get it.
    fn send(self, shared: &Shared, stamp: Stamp) {
        match self {
            Self::Form(answer, result) => {
                let told = result.map(|stored| stored.map(|()| shared.published()));
                drop(answer.send(told));
            }
            Self::Prepare(answer, result) => drop(answer.send(result.map(|result| (stamp, result)))),
            Self::Accept {
                place,
                accept: (ballot, sequence),
                answer,
                trace,
                _bytes,
            } => {
                trace.answered(&answer);
                drop(place.send(AcceptReply {
                    stamp,
                    ballot,
                    sequence,
                    answer,
                }));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn group_ends_before_its_bytes_are_too_many_but_takes_one_message_at_least() {
        let quarter = GROUP_BYTES_MAX / 4;
        let end = |sizes: &[usize]| group_end(sizes.iter().copied());
        assert_eq!(end(&[0; 300]), 300);
        assert_eq!(end(&[quarter; 5]), 4);
        assert_eq!(end(&[quarter, 3 * quarter, 1]), 2);
        assert_eq!(end(&[GROUP_BYTES_MAX + 1, 0]), 1);
    }
}
