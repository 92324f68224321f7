//! The end of a change: what proves that the next era orders values, and what may not be ended by a change.

use super::*;

/// The leader of era 0 has put its change in force, and campaigns in era 1.
fn switching() -> (Bench, Arc<Configuration>) {
    let mut bench = Bench::new();
    bench.lead();
    bench.propose(1, "a");
    let configuration = next(&bench, &[1, 2], 2, 2);
    let change = change_to(&configuration);
    bench.handle(Event::ChangeMembers(ChangeRequest { change }));
    for number in [1, 2] {
        bench.answer(number, 0, marked(&[(0, 1)], 1, 0));
    }
    for number in [1, 2] {
        bench.answer(number, 0, marked(&[], 1, 1));
    }
    for number in [1, 2] {
        bench.answer(number, 0, marked(&[(1, 2)], 2, 1));
    }
    assert_eq!(bench.adopted(), Some(1));
    (bench, configuration)
}

#[test]
fn candidate_of_the_next_era_does_not_prove_that_the_change_is_done() {
    let (mut bench, configuration) = switching();
    bench.handle(Event::Opened(uuid(1)));
    let other = ballot(1, 9).in_era(Era::FIRST.next());
    let mut heard = word(other, 0);
    heard.known_to = slot(1);
    bench.say(1, heard.clone());
    assert_eq!(
        bench.stages(),
        [],
        "a candidate is heard, or a leader without a vote"
    );
    heard.known_to = slot(2);
    bench.say(1, heard);
    assert_eq!(bench.stages(), [done(&configuration, 0)]);
}

#[test]
fn later_era_proves_that_the_change_before_is_done() {
    let (mut bench, configuration) = switching();
    let third = next_of(&configuration);
    bench.handle(Event::LaterConfiguration(Arc::new(third)));
    assert_eq!(bench.stages(), [done(&configuration, 0)]);
}

#[test]
fn commands_waited_from_the_pause_until_the_next_era_orders_values() {
    let mut bench = Bench::new();
    bench.lead();
    bench.propose(1, "a");
    let configuration = next(&bench, &[1, 2], 2, 2);
    let change = change_to(&configuration);
    bench.pass(1_000);
    bench.handle(Event::ChangeMembers(ChangeRequest { change }));
    // The pause.
    bench.pass(30);
    for (slots, voted_to, chosen_to) in [(&[(0, 1)][..], 1, 0), (&[][..], 1, 1), (&[(1, 2)][..], 2, 1)] {
        bench.pass(4);
        for number in [1, 2] {
            bench.answer(number, 0, marked(slots, voted_to, chosen_to));
        }
    }
    assert_eq!(bench.adopted(), Some(1));
    bench.handle(Event::Opened(uuid(1)));
    let mut heard = word(ballot(1, 9).in_era(Era::FIRST.next()), 0);
    heard.known_to = slot(2);
    bench.pass(500);
    bench.say(1, heard);
    assert_eq!(bench.stages(), [done(&configuration, 542)]);
}

#[test]
fn change_that_another_leader_made_while_this_one_copied_is_unknown() {
    let mut bench = Bench::new();
    bench.lead();
    let configuration = next(&bench, &[1, 2, 4], 2, 2);
    let change = change_to(&configuration);
    bench.handle(Event::ChangeMembers(ChangeRequest { change }));
    bench.handle(Event::LaterConfiguration(configuration));
    assert_eq!(bench.stages(), [ChangeStage::Unknown]);
}

/// Leads after promises with a vote far above the log.
fn with_a_far_vote() -> (Bench, Slot) {
    let mut bench = Bench::new();
    let ballot_of_campaign = bench.campaign();
    let far = slot(100_000);
    let page = PromisePage {
        next: far.next(),
        voted_to: far.next(),
        rows: vec![Row {
            slot: far,
            accepted: Some((ballot(0, 3), value("far"))),
        }],
        ..empty_promise()
    };
    for (number, page) in [(1, page), (2, empty_promise())] {
        bench.promise_page(number, ballot_of_campaign, page);
    }
    assert!(bench.leads());
    (bench, far)
}

#[test]
fn change_is_not_proposed_below_a_value_that_may_be_chosen() {
    let (mut bench, far) = with_a_far_vote();
    let configuration = next(&bench, &[1, 2, 4], 2, 2);
    let change = change_to(&configuration);
    bench.handle(Event::ChangeMembers(ChangeRequest { change }));
    let refused = ChangeStage::Refused(ChangeRefusal::VotedAhead(far));
    assert_eq!(bench.stages(), [refused]);
    assert!(!bench.core.may_change());
    bench.propose_change(&configuration);
    assert_eq!(bench.sent_to(1), []);
    let Phase::Leading(lead) = bench.core.phase() else {
        panic!("it leads")
    };
    assert_eq!((lead.change(), lead.demanded_ahead()), (None, Some(far)));
}
