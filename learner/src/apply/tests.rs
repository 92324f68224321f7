//! Applying: to memory at once, to disk later, and resuming where the disk ends.

use std::path::Path;

use paxos_common::{
    paxos::{identity::ClusterId, machine::Machine, quorum::Configuration},
    wire::{
        self,
        command::{append, encode},
    },
};
use paxos_proto::v1::{self as pb, command::Operation};
use tokio::time::timeout;

use super::*;
use crate::{
    cluster::cluster_of,
    log_growth::LogGrowth,
    metrics::Instruments,
    persist::{Writer, WriterInputs},
    store::{OpenedStore, testing},
};

fn slot(number: u64) -> Slot {
    Slot::new(number).unwrap()
}

/// Slots that each append a record and put the same text into a register.
fn batch(from: u64, to: u64) -> Batch {
    let value = |slot: Slot| {
        let record = format!("value {slot}");
        let put = pb::Put {
            key: format!("key {}", slot.get() % 100).into(),
            value: record.clone().into(),
            condition: None,
        };
        let put = pb::Command {
            session: None,
            operation: Some(Operation::Put(put)),
        };
        let commands = [append(record.into()), put].map(|command| encode(command).unwrap());
        Value::batch(&commands, bytes::Bytes::new())
    };
    slot(from).to(slot(to)).map(|slot| (slot, value(slot))).collect()
}

async fn open(path: &Path) -> OpenedStore {
    testing::open(path, ClusterId::from_bytes([1; 16])).await.unwrap()
}

/// An applier of an era without changes.
fn applier(
    knowledge: &Arc<Knowledge>,
    progress: Progress,
    applied: watch::Sender<Progress>,
    transactions: mpsc::Sender<Transaction>,
) -> Applier {
    Applier {
        knowledge: Arc::clone(knowledge),
        progress,
        cluster: cluster_of(&testing::configuration()),
        stored_era: Era::FIRST,
        applied,
        transactions,
        views: mpsc::channel(1).1,
        commit_interval: COMMIT_INTERVAL,
        values: ValueTracer::default(),
        commands: Counter::default(),
        unreadable: Counter::default(),
    }
}

/// The last progress shown to readers, and the state at the time.
#[derive(Debug, PartialEq)]
struct Shown {
    progress: Progress,
    machine: Machine,
}

/// Applies the batches like a running learner, and brings the slots to disk.
async fn apply_all(path: &Path, batches: Vec<Batch>) -> Shown {
    let found = open(path).await;
    let (sender, receiver) = mpsc::channel(batches.len().max(1));
    let (applied, seen) = watch::channel(found.progress.clone());
    let (transactions, writing) = mpsc::channel(TRANSACTIONS_MAX);
    let knowledge = Arc::new(Knowledge::new(found.machine));
    for batch in batches {
        sender.send(batch).await.unwrap();
    }
    drop(sender);
    let applier = applier(&knowledge, found.progress, applied, transactions);
    let writer = Writer::new(
        found.store,
        Arc::clone(&knowledge),
        Instruments::default(),
        Arc::default(),
        Arc::new(LogGrowth::new(u64::MAX, 0, 0)),
    );
    let (_bound, bound) = watch::channel(Slot::ZERO);
    let inputs = WriterInputs {
        transactions: writing,
        bound,
        records: mpsc::channel(1).1,
    };
    let (applied, written) = tokio::join!(applier.run(receiver), writer.run(inputs));
    applied.unwrap();
    written.unwrap();
    let progress = seen.borrow().clone();
    let durable_to = knowledge.recent(crate::recent::Recent::durable_to);
    assert_eq!(durable_to, progress.applied_to());
    let machine = knowledge.machine(Machine::clone);
    Shown { progress, machine }
}

#[tokio::test]
async fn restart_goes_on_from_the_cursor_with_the_same_digests_and_registers() {
    let directory = tempfile::tempdir().unwrap();
    let shown = apply_all(
        directory.path(),
        vec![batch(0, 1), batch(1, 1_030), batch(1_030, 1_100)],
    )
    .await;
    assert_eq!(shown.progress.applied_to(), slot(1_100));
    assert_eq!(shown.machine.register_count(), 100);
    let found = open(directory.path()).await;
    assert_eq!(found.machine, shown.machine);
    assert_eq!(found.progress, shown.progress);
    let digests = shown.progress.digests();
    let marks: Vec<_> = digests.iter().map(|digest| digest.to).collect();
    assert_eq!(marks, [1_100, 1_088, 1_056, 1_024, 768]);
    found.store.close().await.unwrap();

    let shown = apply_all(directory.path(), vec![batch(1_100, 2_100)]).await;
    let whole = tempfile::tempdir().unwrap();
    assert_eq!(shown, apply_all(whole.path(), vec![batch(0, 2_100)]).await);
    let marks: Vec<_> = shown.progress.digests().iter().map(|digest| digest.to).collect();
    assert_eq!(marks, [2_100, 2_080, 2_048, 1_792, 1_024]);
}

#[tokio::test]
async fn large_backlog_is_cut_into_several_transactions() {
    let directory = tempfile::tempdir().unwrap();
    let batches = (0..5)
        .map(|index| batch(index * 4_000, (index + 1) * 4_000))
        .collect();
    let shown = apply_all(directory.path(), batches).await;
    assert_eq!(shown.progress.applied_to(), slot(20_000));
}

/// An applier of an empty log, without a disk.
struct PacedApplier {
    knowledge: Arc<Knowledge>,
    learned: mpsc::Sender<Batch>,
    applied: watch::Receiver<Progress>,
    transactions: mpsc::Receiver<Transaction>,
    cluster: Arc<Cluster>,
}

impl PacedApplier {
    fn start(commit_interval: Duration) -> Self {
        let (learned, batches) = mpsc::channel(1);
        let (applied, seen) = watch::channel(Progress::default());
        let (transactions, handed_on) = mpsc::channel(TRANSACTIONS_MAX);
        let knowledge = Arc::new(Knowledge::new(Machine::default()));
        let applier = Applier {
            commit_interval,
            ..applier(&knowledge, Progress::default(), applied, transactions)
        };
        let cluster = Arc::clone(&applier.cluster);
        tokio::spawn(applier.run(batches));
        Self {
            knowledge,
            learned,
            applied: seen,
            transactions: handed_on,
            cluster,
        }
    }

    /// Applies the slots in batches of at most 500, and returns once readers see the last.
    async fn apply(&mut self, from: u64, to: u64) {
        for from in (from..to).step_by(500) {
            self.learned.send(batch(from, to.min(from + 500))).await.unwrap();
        }
        let all = |progress: &Progress| progress.applied_to() == slot(to);
        self.applied.wait_for(all).await.unwrap();
    }

    /// First slot and number of slots of the next transaction.
    async fn next(&mut self) -> (u64, usize) {
        let transaction = timeout(PATIENCE, self.transactions.recv()).await;
        let transaction = transaction.expect("a transaction is due").unwrap();
        (transaction.records[0].slot.get(), transaction.records.len())
    }
}

/// Far longer than any transaction takes that is due.
const PATIENCE: Duration = Duration::from_secs(20);
/// An interval that no test sees the end of.
const NEVER: Duration = Duration::from_secs(86_400);

#[tokio::test]
async fn slots_are_handed_on_after_the_interval_without_further_slots() {
    let mut applier = PacedApplier::start(Duration::from_millis(1));
    let mut next = 0;
    for slots in [1, 3, 2] {
        applier.apply(next, next + slots).await;
        let end = next + slots;
        while next < end {
            let (from, slots) = applier.next().await;
            assert_eq!(from, next);
            next += slots as u64;
        }
    }
}

#[tokio::test]
async fn slots_wait_for_the_interval_until_some_task_waits_for_the_disk() {
    let mut applier = PacedApplier::start(NEVER);
    applier.apply(0, 1).await;
    assert_eq!(applier.next().await, (0, 1));
    applier.apply(1, 4).await;
    assert!(applier.transactions.try_recv().is_err());
    let mut durable = applier.knowledge.durable();
    let waiting = tokio::spawn(async move { durable.until(slot(3)).await });
    assert_eq!(applier.next().await, (1, 3));
    assert!(!waiting.is_finished());
    applier.knowledge.made_durable(slot(4));
    waiting.await.unwrap().unwrap();
    // The wish is fulfilled: further slots wait again.
    applier.apply(4, 6).await;
    assert!(applier.transactions.try_recv().is_err());
}

#[tokio::test]
async fn full_transaction_does_not_wait_for_the_interval() {
    let mut applier = PacedApplier::start(NEVER);
    applier.apply(0, 1).await;
    assert_eq!(applier.next().await, (0, 1));
    let most = TRANSACTION_SLOTS as u64;
    applier.apply(1, most).await;
    assert!(applier.transactions.try_recv().is_err());
    applier.apply(most, most + 1).await;
    assert_eq!(applier.next().await, (1, TRANSACTION_SLOTS));
}

#[tokio::test]
async fn last_slots_are_handed_on_at_the_end_of_learning() {
    let mut applier = PacedApplier::start(NEVER);
    applier.apply(0, 1).await;
    assert_eq!(applier.next().await, (0, 1));
    applier.apply(1, 3).await;
    let PacedApplier {
        transactions,
        learned,
        ..
    } = applier;
    let mut transactions = transactions;
    drop(learned);
    assert_eq!(transactions.recv().await.unwrap().records.len(), 2);
    assert!(transactions.recv().await.is_none());
}

#[tokio::test]
async fn state_for_an_acceptor_is_kept_at_a_mark_in_the_middle_of_a_batch() {
    let knowledge = Arc::new(Knowledge::new(Machine::default()));
    let (applied, _seen) = watch::channel(Progress::default());
    let (transactions, _writing) = mpsc::channel(TRANSACTIONS_MAX);
    let mut applier = applier(&knowledge, Progress::default(), applied, transactions);
    let (mut gathered, mut common) = (Gathered::default(), CommonEnd::NONE);
    let (answer, mut kept) = oneshot::channel();
    common.wanted(answer, Slot::ZERO, Instant::now());
    applier
        .apply(batch(0, 1_500), &mut gathered, &mut common)
        .unwrap();
    assert_eq!(applier.progress.applied_to(), slot(1_500));
    let kept = kept.try_recv().unwrap();
    assert_eq!(kept.mark().to, slot(1_024));
    let digests = applier.progress.digests();
    assert!(digests.contains(&kept.mark().into()), "other learners report it");
}

#[tokio::test]
async fn value_that_is_no_batch_of_commands_is_a_noop_in_memory_and_on_disk() {
    let value =
        |bytes: &'static [u8]| Value::from_stored(bytes::Bytes::from_static(bytes), bytes::Bytes::new());
    let directory = tempfile::tempdir().unwrap();
    let unreadable = vec![
        (slot(1), value(b"no batch of commands")),
        (slot(2), value(&[0x0a, 0x00])),
    ];
    let shown = apply_all(directory.path(), vec![batch(0, 1), unreadable, batch(3, 4)]).await;
    assert_eq!(shown.progress.applied_to(), slot(4));
    assert_eq!(shown.machine.register_count(), 2);
    let found = open(directory.path()).await;
    assert_eq!(found.machine, shown.machine);
    let page = found.log.page(Slot::ZERO, slot(4)).await.unwrap();
    let commands: Vec<_> = page.iter().map(|record| record.commands.len()).collect();
    assert_eq!(commands, [2, 0, 0, 2]);
}

#[tokio::test]
async fn learner_stops_at_a_command_of_a_later_release() {
    let found = open(tempfile::tempdir().unwrap().path()).await;
    let knowledge = Arc::new(Knowledge::new(found.machine));
    let (sender, receiver) = mpsc::channel(1);
    let (applied, _seen) = watch::channel(Progress::default());
    let (transactions, _writing) = mpsc::channel(TRANSACTIONS_MAX);
    // An operation in field 15.
    let later = bytes::Bytes::from_static(&[0x0a, 0x02, 0x7a, 0x00]);
    let value = Value::from_stored(later, bytes::Bytes::new());
    sender.send(vec![(Slot::ZERO, value)]).await.unwrap();
    let applier = applier(&knowledge, Progress::default(), applied, transactions);
    let failure = applier.run(receiver).await.unwrap_err();
    assert_eq!(failure.code, paxos_common::service::failure::Exit::Refused);
    assert!(failure.to_string().contains("newer"), "{failure}");
}

/// The configuration of the next era, with other members.
fn next_configuration() -> Configuration {
    testing::next_configuration(&testing::configuration())
}

#[tokio::test]
async fn change_of_members_is_adopted_before_it_shows_as_applied() {
    let mut applier = PacedApplier::start(COMMIT_INTERVAL);
    let change = wire::stored::change(&next_configuration());
    let mut eras = applier.cluster.follow();
    let mut seen = applier.applied.clone();
    let shows = tokio::spawn(async move {
        let beyond = |progress: &Progress| progress.applied_to() > slot(2);
        seen.wait_for(beyond).await.unwrap();
        eras.borrow_and_update().era().get()
    });
    applier.apply(0, 2).await;
    let mut next = batch(3, 4);
    next.insert(0, (slot(2), change));
    applier.learned.send(next).await.unwrap();
    assert_eq!(shows.await.unwrap(), 1);
    let present = applier.cluster.present();
    assert_eq!(**present.configuration(), next_configuration());
    // Slots from there on are of the new era.
    assert_eq!(present.proves_from(), slot(3));
    // The change has no commands.
    let record = applier.knowledge.recent(|recent| recent.record(slot(2))).unwrap();
    assert_eq!((record.commands.len(), record.judgements.len()), (0, 0));
}

#[tokio::test]
async fn change_and_the_configuration_after_it_are_handed_on_together() {
    let mut applier = PacedApplier::start(NEVER);
    applier.apply(0, 1).await;
    let first = applier.transactions.recv().await.unwrap();
    assert_eq!(first.configuration.era(), Era::FIRST);
    let change = wire::stored::change(&next_configuration());
    applier.learned.send(vec![(slot(1), change)]).await.unwrap();
    let second = timeout(PATIENCE, applier.transactions.recv()).await;
    let second = second.expect("an era is handed on at once").unwrap();
    assert_eq!((second.records.len(), second.configuration.era().get()), (1, 1));
    assert_eq!(second.progress.applied_to(), slot(2));
}

#[tokio::test]
async fn configuration_reported_by_an_acceptor_is_handed_on_without_slots() {
    let mut applier = PacedApplier::start(NEVER);
    applier.apply(0, 1).await;
    assert_eq!(applier.next().await, (0, 1));
    applier.cluster.adopt(&next_configuration(), Slot::ZERO);
    let transaction = timeout(PATIENCE, applier.transactions.recv()).await;
    let transaction = transaction.expect("an era is handed on at once").unwrap();
    assert_eq!(
        (transaction.records.len(), transaction.configuration.era().get()),
        (0, 1)
    );
    // The change itself is an ordinary value then.
    let change = wire::stored::change(&next_configuration());
    applier.learned.send(vec![(slot(1), change)]).await.unwrap();
    let beyond = |progress: &Progress| progress.applied_to() > slot(1);
    applier.applied.wait_for(beyond).await.unwrap();
    assert_eq!(applier.cluster.present().proves_from(), Slot::ZERO);
    assert!(applier.transactions.try_recv().is_err(), "handed on once");
}
