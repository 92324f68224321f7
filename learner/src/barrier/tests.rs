//! The barrier, with the test in the part of the acceptors.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use futures::future::join_all;
use paxos_common::paxos::{
    identity::AcceptorUuid,
    quorum::Configuration,
    reading::{SHORT_ROUNDS_MAX, Tail},
};
use tokio::{task::JoinHandle, time::timeout};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{
    cluster::{Cluster, cluster_of},
    progress::Mark,
    store::testing::next_configuration,
};

/// A barrier with the test as its acceptors.
struct BarrierRig {
    barrier: Barrier,
    question: watch::Receiver<Option<Question>>,
    tails: mpsc::Sender<TailReport>,
    applied: watch::Sender<Progress>,
    fill: watch::Receiver<Option<Slot>>,
    cluster: Arc<Cluster>,
    shutdown: Shutdown,
}

fn slot(slot: u64) -> Slot {
    Slot::new(slot).unwrap()
}

/// The progress of a learner that has applied every slot below `to`.
fn applied_to(to: u64) -> Progress {
    let mark = Mark {
        to: slot(to),
        ..Mark::default()
    };
    Progress::recovered(mark, VecDeque::new())
}

/// Fails a hanging test.
async fn soon<T>(waiting: impl Future<Output = T>) -> T {
    let deadline = Duration::from_secs(30);
    timeout(deadline, waiting).await.expect("it comes")
}

impl BarrierRig {
    /// A barrier with three acceptors and with the slots below 5 applied.
    fn new() -> Self {
        let members = [1, 2, 3].map(|uuid| (AcceptorUuid::from_u128(uuid), Arc::from("a")));
        let configuration = Configuration::new(members, 2, 2).unwrap();
        let (tails_in, tails) = mpsc::channel(TAILS_MAX);
        let (question, question_seen) = watch::channel(None);
        let (fill, fill_seen) = watch::channel(None);
        let (applied, applied_seen) = watch::channel(applied_to(5));
        let rounds = Counter::default();
        let outputs = ReadingOutputs {
            question,
            fill,
            rounds,
        };
        let cluster = cluster_of(&configuration);
        let (barrier, keeper) = barrier(cluster.follow(), tails, applied_seen, outputs, Tracer::off());
        let shutdown = Shutdown::new(&CancellationToken::new());
        shutdown.spawn_vital("barrier", keeper.run(shutdown.clone()));
        Self {
            barrier,
            question: question_seen,
            tails: tails_in,
            applied,
            fill: fill_seen,
            cluster,
            shutdown,
        }
    }

    fn read(&self) -> JoinHandle<Result<Slot, BarrierError>> {
        let barrier = self.barrier.clone();
        tokio::spawn(async move { barrier.pass(None).await })
    }

    /// The nonce of the next question, or of the same question when repeated.
    async fn asked(&mut self) -> u64 {
        soon(self.question.changed()).await.unwrap();
        self.question.borrow_and_update().as_ref().unwrap().nonce
    }

    async fn report(&self, acceptor: u128, nonce: u64, voted_to: u64) {
        let tail = Tail {
            voted_to: slot(voted_to),
            trimmed_to: Slot::ZERO,
        };
        let acceptor = AcceptorUuid::from_u128(acceptor);
        let report = TailReport {
            acceptor,
            nonce,
            tail,
        };
        self.tails.send(report).await.unwrap();
    }

    async fn waiting(&self, count: usize) {
        let mut waiting = self.barrier.waiting.clone();
        soon(waiting.wait_for(|waiting| *waiting == count)).await.unwrap();
    }
}

#[tokio::test]
async fn quorum_that_knows_less_than_is_applied_ends_the_learner() {
    let mut rig = BarrierRig::new();
    let read = rig.read();
    for _ in 0..SHORT_ROUNDS_MAX {
        let nonce = rig.asked().await;
        rig.report(1, nonce, 4).await;
        rig.report(2, nonce, 3).await;
    }
    assert_eq!(soon(read).await.unwrap(), Err(BarrierError::Stopping));
    soon(rig.shutdown.begun()).await;
    let ended = soon(rig.shutdown.drain(Duration::from_secs(30)))
        .await
        .unwrap_err();
    assert_eq!(ended.code, paxos_common::service::failure::Exit::Storage);
    let text = format!("{:#}", ended.source);
    assert!(text.contains("every slot below 5"), "{text}");
    assert!(text.contains("from slot 4 on"), "{text}");
}

#[tokio::test]
async fn read_passes_once_all_that_a_quorum_may_have_voted_for_is_applied() {
    let mut rig = BarrierRig::new();
    let read = rig.read();
    let nonce = rig.asked().await;
    assert_eq!(rig.barrier.waiting(), 1);
    rig.report(1, nonce, 7).await;
    // The same answer again is no quorum.
    rig.report(1, nonce, 7).await;
    // Only the tails keep the task busy. So by the next question, after L, the task has seen both tails.
    assert_eq!(rig.asked().await, nonce);
    assert!(!read.is_finished());
    rig.report(3, nonce, 9).await;
    rig.applied.send_replace(applied_to(8));
    soon(rig.fill.changed()).await.unwrap();
    assert!(!read.is_finished());
    rig.applied.send_replace(applied_to(10));
    assert_eq!(soon(read).await.unwrap(), Ok(slot(10)));
    rig.waiting(0).await;
}

#[tokio::test]
async fn answers_to_an_earlier_question_are_not_counted() {
    let mut rig = BarrierRig::new();
    let first = rig.read();
    let earlier = rig.asked().await;
    rig.report(1, earlier, 5).await;
    rig.report(2, earlier, 5).await;
    assert_eq!(soon(first).await.unwrap(), Ok(slot(5)));
    let second = rig.read();
    let nonce = rig.asked().await;
    assert_ne!(nonce, earlier);
    rig.report(2, earlier, 5).await;
    rig.report(3, earlier, 5).await;
    rig.report(1, nonce, 5).await;
    // Not a quorum: after L the question is repeated.
    assert_eq!(rig.asked().await, nonce);
    assert!(!second.is_finished());
    rig.report(2, nonce, 5).await;
    assert_eq!(soon(second).await.unwrap(), Ok(slot(5)));
}

#[tokio::test]
async fn those_who_come_in_together_share_a_question() {
    let mut rig = BarrierRig::new();
    let reads: Vec<_> = (0..500).map(|_| rig.read()).collect();
    let nonce = rig.asked().await;
    assert_eq!(rig.barrier.waiting(), 500);
    rig.report(1, nonce, 5).await;
    rig.report(2, nonce, 5).await;
    for read in soon(join_all(reads)).await {
        assert_eq!(read.unwrap(), Ok(slot(5)));
    }
    assert!(!rig.question.has_changed().unwrap());
}

#[tokio::test]
async fn reads_that_arrive_during_a_round_share_the_next() {
    let mut rig = BarrierRig::new();
    let first = rig.read();
    let nonce = rig.asked().await;
    let others: Vec<_> = (0..500).map(|_| rig.read()).collect();
    rig.waiting(501).await;
    rig.report(1, nonce, 5).await;
    rig.report(2, nonce, 5).await;
    assert_eq!(soon(first).await.unwrap(), Ok(slot(5)));
    let next = rig.asked().await;
    assert_eq!(next, nonce.wrapping_add(1));
    rig.waiting(500).await;
    rig.report(1, next, 5).await;
    rig.report(2, next, 5).await;
    for other in soon(join_all(others)).await {
        assert_eq!(other.unwrap(), Ok(slot(5)));
    }
    assert!(!rig.question.has_changed().unwrap());
}

#[tokio::test]
async fn caller_that_goes_away_is_forgotten() {
    let mut rig = BarrierRig::new();
    let (leaves, stays) = (rig.read(), rig.read());
    rig.asked().await;
    rig.waiting(2).await;
    leaves.abort();
    rig.waiting(1).await;
    stays.abort();
    rig.waiting(0).await;
    // No caller waits, so no further question is asked.
    rig.question.mark_unchanged();
    let idle = timeout(3 * LEADER_TIMEOUT, rig.question.changed()).await;
    assert!(idle.is_err());
}

#[tokio::test]
async fn more_reads_than_may_wait_are_turned_away() {
    let rig = BarrierRig::new();
    let mut reads: Vec<_> = (0..READS_MAX).map(|_| rig.read()).collect();
    rig.waiting(READS_MAX).await;
    assert_eq!(soon(rig.read()).await.unwrap(), Err(BarrierError::Full));
    assert_eq!(rig.barrier.waiting(), READS_MAX as u64);
    // A freed place is taken at once.
    let gone = reads.swap_remove(7);
    gone.abort();
    assert!(soon(gone).await.unwrap_err().is_cancelled());
    let late = rig.read();
    rig.waiting(READS_MAX).await;
    assert_eq!(soon(rig.read()).await.unwrap(), Err(BarrierError::Full));
    assert!(!late.is_finished());
}

#[tokio::test]
async fn leader_is_asked_to_fill_what_is_not_applied_after_a_while_and_again() {
    let mut rig = BarrierRig::new();
    let read = rig.read();
    let nonce = rig.asked().await;
    rig.report(1, nonce, 9).await;
    rig.report(2, nonce, 9).await;
    let begin = Instant::now();
    for _ in 0..2 {
        soon(rig.fill.changed()).await.unwrap();
        assert_eq!(*rig.fill.borrow_and_update(), Some(slot(9)));
    }
    assert!(begin.elapsed() >= LEADER_TIMEOUT);
    rig.applied.send_replace(applied_to(9));
    assert_eq!(soon(read).await.unwrap(), Ok(slot(9)));
}

#[tokio::test]
async fn stop_ends_waiting_reads_and_later_ones() {
    let mut rig = BarrierRig::new();
    let read = rig.read();
    rig.asked().await;
    rig.shutdown.begin();
    assert_eq!(soon(read).await.unwrap(), Err(BarrierError::Stopping));
    assert_eq!(soon(rig.barrier.pass(None)).await, Err(BarrierError::Stopping));
}

#[tokio::test]
async fn read_that_waits_asks_the_new_members_when_the_members_change() {
    let mut rig = BarrierRig::new();
    let read = rig.read();
    let earlier = rig.asked().await;
    // The bound is 7: the change is in slot 6.
    rig.report(1, earlier, 7).await;
    rig.report(2, earlier, 7).await;
    let present = rig.cluster.present();
    let next = next_configuration(present.configuration());
    rig.cluster.adopt(&next, slot(7));
    rig.applied.send_replace(applied_to(7));
    let nonce = rig.asked().await;
    assert_ne!(nonce, earlier);
    assert!(!read.is_finished(), "a bound of the earlier era answers nothing");
    // Removed members, and an answer to the earlier question.
    rig.report(1, nonce, 7).await;
    rig.report(2, nonce, 7).await;
    rig.report(4, earlier, 7).await;
    rig.report(3, nonce, 7).await;
    // Not a quorum: after L the question is repeated.
    assert_eq!(rig.asked().await, nonce);
    assert!(!read.is_finished());
    rig.report(4, nonce, 7).await;
    assert_eq!(soon(read).await.unwrap(), Ok(slot(7)));
}

#[tokio::test]
async fn members_that_lack_the_change_end_no_learner_until_their_era_has_a_slot() {
    let mut rig = BarrierRig::new();
    let next = next_configuration(rig.cluster.present().configuration());
    rig.cluster.adopt(&next, slot(5));
    let read = rig.read();
    let mut asked = Vec::new();
    for _ in 0..SHORT_ROUNDS_MAX + 2 {
        let nonce = rig.asked().await;
        asked.push(nonce);
        rig.report(3, nonce, 2).await;
        rig.report(4, nonce, 3).await;
    }
    asked.dedup();
    assert!(asked.len() > SHORT_ROUNDS_MAX as usize, "{asked:?}");
    let nonce = rig.asked().await;
    rig.report(3, nonce, 5).await;
    rig.report(4, nonce, 5).await;
    assert_eq!(soon(read).await.unwrap(), Ok(slot(5)));
    assert!(!rig.shutdown.has_begun());
}
