//! Reports this learner's progress to every acceptor, on a standing stream each.

use std::{
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::Stream;
use paxos_common::{
    paxos::{identity::AcceptorUuid, machine::Machine, message::Leadership, slot::Slot},
    peer::{
        Address, Backoff,
        acceptor::{LEAVING_MAX, Unusable},
    },
    service::{
        alarm::{Alarm, until_next},
        config,
        shutdown::Shutdown,
    },
    wire,
};
use paxos_proto::v1 as pb;
use tokio::{
    sync::{mpsc, watch},
    time::{self, sleep, sleep_until, timeout},
};

use crate::{
    acceptors::{ListedAcceptor, backoff, within_deadline},
    catch_up::CatchUp,
    cluster::{Cluster, Member},
    disk::DiskSpace,
    fill,
    give::{WishUntilDrop, Wishes},
    knowledge::Knowledge,
    progress::Progress,
    trims::TrimBound,
};

/// Shortest time between reports: a change shows soon, and a busy learner costs an acceptor little.
const REPORT_INTERVAL_MIN: Duration = Duration::from_millis(100);
/// Interval of reports without news. All streams report at the same moments: a single wake-up serves all.
const REPORT_INTERVAL_IDLE: Duration = Duration::from_secs(2);

/// An acceptor's watermark, as reported when this learner attached.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Greeting {
    pub(crate) acceptor: AcceptorUuid,
    pub(crate) chosen_to: Slot,
}

/// The source of reports about this learner.
#[derive(Clone, Debug)]
pub(crate) struct Reporter {
    pub(crate) cluster: Arc<Cluster>,
    /// Random name of this run.
    pub(crate) learner: u64,
    /// The start of this process: reports count from here.
    pub(crate) started: time::Instant,
    pub(crate) address: Address,
    pub(crate) applied: watch::Receiver<Progress>,
    /// The state; `None` while the learner installs a snapshot.
    pub(crate) knowledge: Option<Arc<Knowledge>>,
    /// The end of the snapshot that the learner installs; 0 while the learner installs none.
    pub(crate) installing_to: watch::Receiver<Slot>,
    /// The acceptors' wishes for snapshots.
    pub(crate) wishes: Arc<Wishes>,
    /// Closed once no more greetings are needed.
    pub(crate) greetings: mpsc::Sender<Greeting>,
    pub(crate) catch_up: Arc<CatchUp>,
    /// The bound of the learned log.
    pub(crate) trims: Arc<TrimBound>,
    pub(crate) disk: Arc<DiskSpace>,
    /// The leader: the proposer of the highest ballot reported by any acceptor.
    pub(crate) leadership: watch::Sender<Leadership>,
    /// The stop of this process, or the end of the stream.
    pub(crate) shutdown: Shutdown,
    /// The stop of this process.
    pub(crate) process: Shutdown,
}

impl Reporter {
    /// Keeps a stream to the acceptor until the stop, and then reports that this learner stops.
    ///
    /// # Cancel safety
    /// Safe: the stream ends.
    pub(crate) async fn stay_attached(self, acceptor: Arc<ListedAcceptor>) {
        let mut attached = pin!(self.attach_again(&acceptor));
        tokio::select! {
            // Polled again below.
            () = &mut attached => return,
            // Only waits.
            () = self.shutdown.token().cancelled() => {}
        }
        let _ = timeout(LEAVING_MAX, attached).await;
    }

    /// Opens the stream again after each break. A stop without an open stream opens the stream once more, for the last report:
    /// the acceptor lists this learner as departed since the break.
    async fn attach_again(&self, acceptor: &ListedAcceptor) {
        let mut backoff = backoff();
        while !self.shutdown.has_failed() {
            let is_last = self.shutdown.has_begun();
            let reason = match self.attach(acceptor, &mut backoff).await {
                Ok(()) if self.shutdown.has_begun() => return,
                Ok(()) => Unusable::Closed,
                Err(reason) => reason,
            };
            if is_last {
                return;
            }
            if !self.shutdown.has_begun() {
                acceptor.failed(&reason);
                let pause = sleep(backoff.next_delay());
                self.shutdown.token().run_until_cancelled(pause).await;
            }
        }
    }

    async fn attach(&self, acceptor: &ListedAcceptor, backoff: &mut Backoff) -> Result<(), Unusable> {
        // Before any report: only a member may learn of this learner.
        let member = self.cluster.identify(acceptor).await?;
        let mut client = acceptor.client()?;
        let mut answers = within_deadline(client.attach(Box::pin(self.clone().reports())))
            .await?
            .into_inner();
        let wish = WishUntilDrop {
            wishes: Arc::clone(&self.wishes),
            acceptor: member.acceptor,
        };
        while let Some(answer) = answers.message().await? {
            backoff.reset();
            match self.take(answer, acceptor, member, &wish).await {
                Ok(()) => {}
                Err(Unusable::LaterEra(_)) => {
                    // The members have changed, and this task ends. A removed acceptor gets the last report on this stream.
                    drop(wish);
                    while answers.message().await?.is_some() {}
                    return Ok(());
                }
                Err(reason) => return Err(reason),
            }
        }
        Ok(())
    }

    /// Takes an answer of a member.
    async fn take(
        &self,
        answer: pb::AttachResponse,
        acceptor: &ListedAcceptor,
        member: Member,
        wish: &WishUntilDrop,
    ) -> Result<(), Unusable> {
        self.cluster.check(answer.stamp.as_ref(), member)?;
        let greeting = Greeting {
            acceptor: member.acceptor,
            chosen_to: Slot::new(answer.chosen_to).map_err(wire::Malformed::from)?,
        };
        let trimmed_to = Slot::new(answer.trimmed_to).map_err(wire::Malformed::from)?;
        acceptor.proved();
        let now = Instant::now();
        self.catch_up.reported(member.acceptor, greeting.chosen_to, now);
        self.trims.reported(member.acceptor, trimmed_to, now);
        wish.asks(read_wish(answer.snapshot_wanted)?);
        if let Some(leadership) = answer.leadership {
            let leadership: Leadership = leadership.try_into()?;
            if leadership.promised.era() > self.cluster.present().era() {
                // The acceptor has a later configuration.
                self.cluster.ask(acceptor).await?;
            }
            fill::record_leadership(&self.leadership, leadership);
        }
        // Full or closed: enough other acceptors have reported.
        let _ = self.greetings.try_send(greeting);
        Ok(())
    }

    fn reports(self) -> impl Stream<Item = pb::AttachRequest> + Send + 'static {
        let mut applied = self.applied.clone();
        let mut caught_up = self.catch_up.once();
        let mut installing_to = self.installing_to.clone();
        async_stream::stream! {
            let mut alarm = Alarm::new();
            loop {
                installing_to.mark_unchanged();
                let report = self.report(&applied.borrow_and_update(), *caught_up.borrow_and_update());
                yield report;
                let reported_at = time::Instant::now();
                let idle_at = reported_at + until_next(self.started.elapsed(), REPORT_INTERVAL_IDLE);
                let next = async {
                    let goes_on = tokio::select! {
                        // Cancel safe: a change not reported here is reported next time.
                        changed = applied.changed() => changed.is_ok(),
                        // Cancel safe, as above.
                        Ok(()) = caught_up.changed() => true,
                        // Cancel safe, as above.
                        Ok(()) = installing_to.changed() => true,
                        // Only waits.
                        () = alarm.wait_until(Some(idle_at)) => true,
                    };
                    sleep_until(reported_at + REPORT_INTERVAL_MIN).await;
                    goes_on
                };
                // Cancel safe: a change is reported below.
                let goes_on = self.shutdown.token().run_until_cancelled(next).await;
                if goes_on != Some(true) {
                    // The stop has begun, or has already ended the applier.
                    break;
                }
            }
            if self.shutdown.has_begun() && !self.shutdown.has_failed() {
                let last = self.report(&applied.borrow(), *caught_up.borrow());
                yield pb::AttachRequest {
                    leaving: true,
                    stopping: Some(self.process.has_begun()),
                    ..last
                };
            }
        }
    }

    fn report(&self, progress: &Progress, caught_up: bool) -> pb::AttachRequest {
        let progress = pb::LearnerProgress {
            applied_to: progress.applied_to().get(),
            digests: progress.digests(),
            refuses_reads: !caught_up || self.knowledge.is_none() || self.disk.look().is_err(),
            state_bytes: self
                .knowledge
                .as_ref()
                .map_or(0, |knowledge| knowledge.machine(Machine::state_bytes)),
            installing_to: self.installing_to.borrow().get(),
        };
        pb::AttachRequest {
            caller: Some(wire::caller(Some(self.cluster.id()))),
            role: pb::Role::Learner.into(),
            peer: self.learner,
            address: self.address.to_string(),
            software: config::version().to_owned(),
            progress: Some(pb::attach_request::Progress::Learner(progress)),
            report: 0,
            leaving: false,
            refused: String::new(),
            stopping: None,
        }
    }
}

fn read_wish(wanted: Option<pb::SnapshotWanted>) -> Result<Option<Slot>, wire::Malformed> {
    let above = wanted.map(|wanted| Slot::new(wanted.above));
    Ok(above.transpose()?)
}
