//! Changes of members: what a leader proposes last, when the change takes force, and what a later era's messages do.

use super::{lead::chosen, *};
use crate::paxos::{era::Era, message::Row};

mod ends;
mod lost_disks;
mod pauses;
mod snapshots;
mod switch;

/// The configuration of the next era, of these acceptors.
fn next(bench: &Bench, uuids: &[u128], phase1: usize, phase2: usize) -> Arc<Configuration> {
    let member = |&number: &u128| (uuid(number), Arc::<str>::from("http://b").into());
    let configuration = bench.core.configuration();
    Arc::new(
        configuration
            .changed_to(uuids.iter().map(member), phase1, phase2)
            .unwrap(),
    )
}

/// The last news of a change, after commands waited for this many milliseconds.
fn done(configuration: &Arc<Configuration>, waited: u64) -> ChangeStage {
    ChangeStage::Done {
        configuration: Arc::clone(configuration),
        waited: Duration::from_millis(waited),
    }
}

fn change_to(configuration: &Configuration) -> Value {
    value("change").with_change(configuration.clone())
}

/// Acceptor `number` accepts, and reports its own watermark.
fn marked(slots: &[(u64, u64)], voted_to: u64, chosen_to: u64) -> AcceptAnswer {
    let range = |&(from, to): &(u64, u64)| SlotRange {
        from: slot(from),
        to: slot(to),
    };
    AcceptAnswer::Accepted {
        slots: slots.iter().map(range).collect(),
        voted_to: slot(voted_to),
        chosen_to: slot(chosen_to),
        known_to: slot(chosen_to),
    }
}

impl Bench {
    fn adopted(&self) -> Option<u64> {
        self.effects.iter().find_map(|effect| {
            let Effect::Adopted(configuration) = effect else {
                return None;
            };
            Some(configuration.era().get())
        })
    }

    fn stages(&self) -> Vec<ChangeStage> {
        let stage = |effect: &Effect| {
            let Effect::Change(stage) = effect else {
                return None;
            };
            Some(stage.clone())
        };
        self.effects.iter().filter_map(stage).collect()
    }

    fn propose_change(&mut self, configuration: &Configuration) {
        self.core.propose_change(change_to(configuration));
        self.core.flush();
        self.effects = self.core.take_effects();
    }

    fn halts(&self) -> Vec<&str> {
        let halts = self.effects.iter().filter_map(|effect| {
            let Effect::Halt(reason) = effect else {
                return None;
            };
            Some(&reason[..])
        });
        halts.collect()
    }

    fn reopens(&self, number: u128) -> bool {
        self.effects.contains(&Effect::Reopen(uuid(number)))
    }
}

/// Leads, with slot 0 chosen, and a change to acceptors 1, 2 and 4 proposed in slot 1.
fn ending() -> (Bench, Arc<Configuration>) {
    let mut bench = Bench::new();
    bench.lead();
    bench.propose(1, "a");
    bench.vote(1, 0);
    bench.vote(2, 0);
    let configuration = next(&bench, &[1, 2, 4], 2, 2);
    bench.propose_change(&configuration);
    bench.handle(Event::Opened(uuid(4)));
    (bench, configuration)
}

#[test]
fn change_is_the_last_value_of_its_era() {
    let (mut bench, _) = ending();
    bench.propose(2, "b");
    assert_eq!(bench.sent_to(1), [], "no command above the change");
    bench.handle(Event::FillWanted(slot(9)));
    assert_eq!(bench.sent_to(1), [], "no fill above the change");
    // The old members choose the change, and the watermark stops at its slot.
    bench.answer(1, 0, marked(&[(1, 2)], 2, 1));
    bench.answer(3, 0, marked(&[(1, 2)], 2, 1));
    assert_eq!(bench.chosen_to(), 1);
    assert_eq!(bench.adopted(), None, "one new member has the change");
    assert_eq!(bench.core.queued().0, 1);
}

#[test]
fn change_takes_force_by_old_votes_new_votes_and_the_copied_log() {
    let (mut bench, configuration) = ending();
    let ballot = bench.core.ballot().unwrap();
    // New members alone: acceptors 1 and 4 accept the change and hold the log; the old members have one vote.
    bench.answer(4, 0, marked(&[(1, 2)], 2, 1));
    bench.answer(1, 0, marked(&[(1, 2)], 2, 1));
    assert_eq!(bench.adopted(), None, "not chosen by the old members");
    // Acceptor 3 makes it chosen. The conditions hold.
    bench.answer(3, 0, marked(&[(1, 2)], 2, 1));
    assert_eq!(bench.adopted(), Some(1));
    assert_eq!(*bench.core.configuration(), configuration);
    let next_ballot = bench.core.ballot().unwrap();
    assert!(
        matches!(bench.core.phase(), Phase::Campaigning(_)),
        "campaigns at once"
    );
    assert_eq!((next_ballot.era().get(), next_ballot.round()), (1, 1));
    assert!(next_ballot > ballot);
    // Streams of the reign stay open until those of the campaign are.
    let is_shut = |bench: &Bench| bench.effects.contains(&Effect::ShutStreams(ballot));
    assert!(!is_shut(&bench));
    let links: Vec<_> = bench.core.links().into_keys().collect();
    assert_eq!(
        links,
        [1, 2, 3, 4].map(uuid),
        "removed members hear of the change"
    );
    bench.handle(Event::Opened(uuid(4)));
    assert!(!is_shut(&bench));
    bench.handle(Event::Opened(uuid(3)));
    assert_eq!(bench.prepares(), [], "a removed member receives no Prepare");
    bench.handle(Event::Opened(uuid(1)));
    assert!(is_shut(&bench));
    assert_eq!(bench.prepares(), [(uuid(1), next_ballot, slot(1))]);
    bench.pass(2_000);
    bench.handle(Event::Bytes(uuid(1)));
    let links: Vec<_> = bench.core.links().into_keys().collect();
    assert_eq!(links, [1, 2, 4].map(uuid));
    assert!(bench.effects.contains(&Effect::LinksChanged));
}

#[test]
fn change_waits_for_the_copied_log_on_a_quorum_of_new_members() {
    let (mut bench, _) = ending();
    bench.answer(1, 0, marked(&[(1, 2)], 2, 1));
    bench.answer(2, 0, marked(&[(1, 2)], 2, 0));
    bench.answer(4, 0, marked(&[(1, 2)], 2, 0));
    bench.answer(3, 0, marked(&[(1, 2)], 2, 1));
    assert_eq!(
        bench.adopted(),
        None,
        "of the new members one holds slot 0; acceptor 3 is none"
    );
    bench.answer(4, 0, marked(&[], 2, 1));
    assert_eq!(bench.adopted(), Some(1));
}

#[test]
fn change_waits_for_the_votes_of_a_quorum_of_new_members() {
    let (mut bench, _) = ending();
    bench.answer(1, 0, marked(&[(1, 2)], 2, 1));
    bench.answer(3, 0, marked(&[(1, 2)], 2, 1));
    // Acceptor 4 holds the log, and has not accepted the change.
    bench.answer(4, 0, marked(&[], 1, 1));
    assert_eq!(bench.adopted(), None);
    bench.answer(4, 0, marked(&[(1, 2)], 2, 1));
    assert_eq!(bench.adopted(), Some(1));
}

#[test]
fn change_waits_for_votes_at_its_own_ballot() {
    let (mut bench, _) = ending();
    let earlier = ballot(0, 7);
    for number in [1, 2, 3, 4] {
        bench.handle(Event::Answered {
            acceptor: uuid(number),
            ballot: earlier,
            sequence: 0,
            answer: marked(&[(1, 2)], 2, 1),
        });
    }
    assert_eq!(bench.adopted(), None);
}

#[test]
fn message_of_a_later_era_only_has_the_acceptor_asked_for_its_configuration() {
    let mut bench = Bench::new();
    let own = bench.lead();
    let later = ballot(40, 3).in_era(Era::FIRST.next());
    let mut word = word(later, 0);
    word.known_to = slot(9);
    word.voted_to = slot(12);
    bench.say(3, word.clone());
    assert!(bench.reopens(3));
    assert_eq!(bench.core.chosen_to(), Slot::ZERO, "its watermark is not used");
    // After a restart, an acceptor has heard of no proposer, and its promise is of the later era.
    bench.handle(Event::Opened(uuid(3)));
    word.heard.ballot = Ballot::ZERO;
    bench.say(3, word);
    assert!(bench.reopens(3));
    assert_eq!(bench.core.chosen_to(), Slot::ZERO, "its watermark is not used");
    bench.answer(2, 0, rejection(later));
    assert!(bench.reopens(2));
    assert!(bench.leads(), "it goes on with the others");
    bench.handle(Event::PrepareRejected {
        acceptor: uuid(1),
        ballot: own,
        promised: later,
    });
    assert!(bench.reopens(1) && bench.leads());
    // The next ballot is one of its own era.
    bench.handle(Event::Opened(uuid(1)));
    bench.answer(1, 0, rejection(ballot(5, 1)));
    assert!(!bench.leads());
    for number in [2, 3] {
        bench.handle(Event::Opened(uuid(number)));
    }
    assert_eq!(bench.campaign(), ballot(6, 7));
}

#[test]
fn later_configuration_is_adopted_and_everything_of_the_era_dropped() {
    let mut bench = Bench::with_batches_in_flight(1);
    let own = bench.lead();
    bench.propose(1, "a");
    bench.propose(2, "b");
    let configuration = next(&bench, &[1, 2, 4], 2, 2);
    let later = next(&bench, &[7], 1, 1);
    bench.handle(Event::LaterConfiguration(Arc::clone(&configuration)));
    assert_eq!(bench.adopted(), Some(1));
    assert!(bench.effects.contains(&Effect::ShutStreams(own)));
    assert_eq!(bench.answers(), [(1, ProposalOutcome::Unknown)]);
    assert_eq!(bench.core.queued().0, 1, "what is queued waits on");
    assert!(matches!(bench.core.phase(), Phase::Standby));
    // A second configuration of one era breaks the protocol.
    assert!(bench.halts().is_empty());
    bench.handle(Event::LaterConfiguration(later));
    assert_eq!(bench.core.configuration(), &configuration);
    assert!(bench.halts()[0].contains("era 1"), "{:?}", bench.halts());
    bench.handle(Event::LaterConfiguration(Arc::clone(&configuration)));
    assert!(bench.halts().is_empty(), "the same configuration is no news");
    // Nothing that was heard in the era before counts: no acceptor is open.
    assert_eq!(bench.timer(Timer::Election), None);
    for number in [1, 4] {
        bench.handle(Event::Opened(uuid(number)));
        bench.report(number, Ballot::before(Era::FIRST.next()), 300);
    }
    bench.fire(Timer::Election);
    bench.report(1, Ballot::before(Era::FIRST.next()), 300);
    bench.report(4, Ballot::before(Era::FIRST.next()), 300);
    assert_eq!(bench.core.ballot(), Some(ballot(1, 7).in_era(Era::FIRST.next())));
}

#[test]
fn standby_that_was_about_to_campaign_starts_over_in_a_later_era() {
    let mut bench = Bench::new();
    for number in [1, 2] {
        bench.report(number, ballot(3, 1), 300);
    }
    let (generation, ..) = bench.timer(Timer::Election).unwrap();
    let configuration = next(&bench, &[1, 2, 3], 2, 2);
    bench.handle(Event::LaterConfiguration(configuration));
    bench.handle(Event::Fired(Timer::Election, generation));
    assert_eq!(bench.core.ballot(), None);
    for number in [1, 2] {
        bench.handle(Event::Opened(uuid(number)));
        bench.report(number, Ballot::before(Era::FIRST.next()), 10);
    }
    assert_eq!(
        bench.core.ballot(),
        None,
        "the leader was heard ten milliseconds ago"
    );
}

#[test]
fn joiners_do_not_keep_a_leader_in_office() {
    let mut bench = Bench::new();
    let ballot = bench.lead();
    let configuration = next(&bench, &[1, 2, 3, 4, 5], 3, 3);
    let change = change_to(&configuration);
    bench.handle(Event::ChangeMembers(ChangeRequest { change }));
    for number in [4, 5] {
        bench.handle(Event::Opened(uuid(number)));
    }
    for _ in 0..21 {
        bench.pass(100);
        for number in [1, 4, 5] {
            bench.handle(alive(uuid(number), ballot, 0));
        }
        bench.fire(Timer::Heartbeat);
        if !bench.leads() {
            return;
        }
    }
    panic!("one member of three and two joiners keep the leader");
}

#[test]
fn joiner_says_nothing_about_the_leader_of_the_era() {
    let mut bench = Bench::new();
    bench.lead();
    let configuration = next(&bench, &[1, 2, 4], 2, 2);
    let change = change_to(&configuration);
    bench.handle(Event::ChangeMembers(ChangeRequest { change }));
    bench.handle(Event::Opened(uuid(4)));
    let mut word = word(ballot(99, 1), 0);
    word.known_to = slot(5);
    bench.say(4, word);
    assert_eq!(bench.core.highest, bench.core.ballot().unwrap());
    assert_eq!(bench.core.chosen_to(), Slot::ZERO);
}

#[test]
fn change_is_proposed_in_a_pause_once_new_members_hold_the_log() {
    let mut bench = Bench::new();
    bench.lead();
    bench.propose(1, "a");
    let configuration = next(&bench, &[1, 4], 2, 1);
    let change = change_to(&configuration);
    bench.handle(Event::ChangeMembers(ChangeRequest { change }));
    assert!(bench.effects.contains(&Effect::LinksChanged));
    assert_eq!(bench.stages(), [ChangeStage::Copying { slots: 0, of: 0 }]);
    bench.vote(1, 0);
    bench.vote(2, 0);
    bench.handle(Event::Opened(uuid(4)));
    assert_eq!(bench.sent_to(4), [(0, value("a"))]);
    bench.answer(4, 0, marked(&[(0, 1)], 1, 0));
    bench.propose(2, "b");
    assert_eq!(bench.sent_to(1), [], "no new batch in a pause");
    let has_change =
        |bench: &Bench| matches!(bench.core.phase(), Phase::Leading(lead) if lead.change().is_some());
    assert!(!has_change(&bench), "no new member is at the tip");
    bench.answer(4, 0, marked(&[], 1, 1));
    assert!(has_change(&bench));
    assert_eq!(bench.sent_to(4), [(1, value("change"))]);
    bench.answer(1, 0, marked(&[(1, 2)], 2, 1));
    bench.answer(2, 0, marked(&[(1, 2)], 2, 1));
    assert!(bench.stages().is_empty() || bench.adopted().is_some());
    assert_eq!(bench.adopted(), Some(1));
    assert!(
        bench
            .stages()
            .contains(&ChangeStage::Switching(Era::FIRST.next()))
    );
    let own = bench.core.ballot().unwrap();
    for number in [1, 4] {
        bench.handle(Event::Opened(uuid(number)));
    }
    let page = PromisePage {
        from: slot(1),
        next: slot(2),
        voted_to: slot(2),
        rows: vec![Row {
            slot: slot(1),
            accepted: Some((ballot(1, 7), change_to(&configuration))),
        }],
        ..empty_promise()
    };
    for number in [1, 4] {
        bench.promise_page(number, own, page.clone());
    }
    assert!(bench.leads());
    assert_eq!(bench.stages(), [], "the leader has chosen nothing yet");
    assert_eq!(
        bench.sent_to(1),
        [
            (1, value("change")),
            (2, Value::batch(&[command("b")], Bytes::new()))
        ],
        "the change is an ordinary value now, and the queue goes on"
    );
    bench.vote(1, 1);
    assert_eq!(bench.stages(), [done(&configuration, 0)]);
    assert_eq!(bench.answers(), []);
    bench.vote(1, 2);
    assert_eq!(bench.answers(), [(2, chosen(2, 0))]);
}

#[test]
fn pause_ends_after_a_leader_timeout_and_a_silent_joiner_ends_the_change() {
    let mut bench = Bench::new();
    bench.lead();
    let configuration = next(&bench, &[1, 2, 4], 2, 2);
    let change = change_to(&configuration);
    bench.handle(Event::ChangeMembers(ChangeRequest {
        change: change.clone(),
    }));
    let keep = |bench: &mut Bench| {
        let ballot = bench.core.ballot().unwrap();
        for number in [1, 2, 3] {
            bench.handle(alive(uuid(number), ballot, 0));
        }
    };
    for _ in 0..49 {
        bench.pass(200);
        keep(&mut bench);
        bench.fire(Timer::Check);
        assert!(bench.core.change_stage().is_some());
    }
    bench.pass(200);
    keep(&mut bench);
    bench.fire(Timer::Check);
    let silent = ChangeStage::Refused(ChangeRefusal::Silent(uuid(4)));
    assert_eq!(bench.stages(), [silent]);
    assert!(bench.leads(), "nothing has changed");
    assert!(!bench.core.links().contains_key(&uuid(4)));
    // A joiner that answers and never catches up: the pauses end, and commands go on.
    bench.propose(1, "a");
    bench.handle(Event::ChangeMembers(ChangeRequest { change }));
    bench.handle(Event::Opened(uuid(4)));
    bench.answer(4, 0, marked(&[], 0, 0));
    for _ in 0..200 {
        bench.pass(200);
        let ballot = bench.core.ballot().unwrap();
        // A pause ends at the first event after a leader timeout.
        bench.handle(alive(uuid(1), ballot, 0));
        if let [ChangeStage::Refused(refusal)] = &bench.stages()[..] {
            assert_eq!(*refusal, ChangeRefusal::TooSlow);
            bench.propose(2, "b");
            assert_eq!(bench.sent_to(1).len(), 1, "batches go on");
            return;
        }
        keep(&mut bench);
        bench.handle(alive(uuid(4), ballot, 0));
        bench.fire(Timer::Check);
    }
    panic!("the change goes on");
}

#[test]
fn change_that_could_never_be_decided_is_refused() {
    let mut bench = Bench::new();
    let configuration = next(&bench, &[1, 2, 4], 2, 2);
    let change = change_to(&configuration);
    bench.handle(Event::ChangeMembers(ChangeRequest { change }));
    assert_eq!(bench.stages(), [ChangeStage::Refused(ChangeRefusal::NotLeading)]);
    let ballot = bench.lead();
    bench.handle(Event::ChangeMembers(ChangeRequest { change: value("a") }));
    assert_eq!(bench.stages(), [ChangeStage::Refused(ChangeRefusal::NoChange)]);
    let skips = configuration.changed_to([], 0, 0);
    assert!(skips.is_err());
    let skips = next_of(&configuration);
    bench.handle(Event::ChangeMembers(ChangeRequest {
        change: change_to(&skips),
    }));
    assert!(matches!(
        bench.stages()[..],
        [ChangeStage::Refused(ChangeRefusal::OtherEra { .. })]
    ));
    // Only acceptor 1 answers: with 2, 3 gone, and the joiner, three of four are not met.
    bench.pass(2_000);
    bench.handle(alive(uuid(1), ballot, 0));
    let four = next(&bench, &[1, 2, 3, 4], 3, 3);
    bench.handle(Event::ChangeMembers(ChangeRequest {
        change: change_to(&four),
    }));
    let never = ChangeRefusal::Never {
        members: 4,
        needed: 3,
        answering: 2,
    };
    assert_eq!(bench.stages(), [ChangeStage::Refused(never)]);
}

fn next_of(configuration: &Configuration) -> Configuration {
    let members = configuration.members().clone();
    configuration.changed_to(members, 2, 2).unwrap()
}
