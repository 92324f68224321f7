//! Acceptors that have trimmed their log: which reports of a trim count as votes.

use super::{
    lead::{accepted, chosen},
    *,
};
use crate::paxos::message::Row;

fn trimmed(to: u64) -> AcceptAnswer {
    AcceptAnswer::Trimmed { trimmed_to: slot(to) }
}

impl Bench {
    /// Takes over `values` from acceptor 1, with acceptor 2 in the quorum.
    fn take_over(&mut self, values: &[&'static str]) {
        let mine = self.campaign();
        let row = |(at, &text): (u64, &&'static str)| Row {
            slot: slot(at),
            accepted: Some((ballot(1, 1), value(text))),
        };
        let end = slot(values.len() as u64);
        let page = PromisePage {
            next: end,
            voted_to: end,
            rows: (0..).zip(values).map(row).collect(),
            ..empty_promise()
        };
        self.promise_page(1, mine, page);
        self.promise(2, mine);
    }
}

#[test]
fn trim_reported_at_the_own_ballot_is_a_vote_for_every_slot_below() {
    let mut bench = Bench::new();
    bench.take_over(&["a", "b", "c"]);
    bench.answer(3, 1, trimmed(2));
    bench.vote(1, 1);
    assert_eq!(
        bench.chosen_to(),
        0,
        "slot 0 has the vote of the trimmed acceptor alone"
    );
    bench.vote(1, 0);
    assert_eq!(bench.chosen_to(), 2);
    bench.vote(1, 2);
    assert_eq!(bench.chosen_to(), 2, "the trim ends below slot 2");
}

#[test]
fn trims_of_a_quorum_choose_without_any_other_vote() {
    let mut bench = Bench::new();
    bench.take_over(&["a", "b", "c"]);
    bench.propose(1, "new");
    bench.answer(3, 1, trimmed(2));
    bench.answer(2, 1, trimmed(3));
    assert_eq!(bench.chosen_to(), 2);
    bench.answer(3, 2, accepted(&[(2, 4)], 4));
    assert_eq!((bench.chosen_to(), bench.answers()), (3, vec![]));
    bench.answer(2, 2, accepted(&[(3, 4)], 4));
    assert_eq!(bench.answers(), [(1, chosen(3, 0))]);
}

#[test]
fn slots_proposed_after_the_report_of_a_trim_are_covered_too() {
    let limits = Limits {
        slots_in_flight_max: 1,
        ..Limits::default()
    };
    let mut bench = Bench::with(limits, (3, 2, 2));
    bench.take_over(&["a", "b", "c", "d"]);
    bench.answer(3, 1, trimmed(3));
    assert_eq!(bench.sent_to(3), []);
    bench.answer(2, 1, trimmed(2));
    assert_eq!(
        bench.chosen_to(),
        2,
        "slot 1 is covered as soon as it is proposed"
    );
    assert_eq!(bench.sent_to(2), [(2, value("c"))]);
    assert_eq!(bench.sent_to(3), [], "nothing below its first slot");
    bench.vote(2, 2);
    assert_eq!(bench.chosen_to(), 3);
    assert_eq!(bench.sent_to(3), [(3, value("d"))]);
}

#[test]
fn trim_reported_at_another_ballot_is_no_vote() {
    let mut bench = Bench::new();
    let mine = bench.lead();
    bench.propose(1, "a");
    bench.vote(1, 0);
    bench.handle(Event::Answered {
        acceptor: uuid(2),
        ballot: ballot(mine.round() - 1, 7),
        sequence: 1,
        answer: trimmed(1),
    });
    assert_eq!((bench.chosen_to(), bench.answers()), (0, vec![]));
}

#[test]
fn trim_reported_over_attach_is_no_vote() {
    let mut bench = Bench::new();
    let mine = bench.lead();
    bench.propose(1, "a");
    bench.vote(1, 0);
    bench.say(
        2,
        ReportAnswer {
            trimmed_to: slot(1),
            ..word(mine, 0)
        },
    );
    assert_eq!((bench.chosen_to(), bench.answers()), (0, vec![]));
}

#[test]
fn reports_of_a_trim_do_not_raise_the_watermark_of_a_leader() {
    let mut bench = Bench::new();
    bench.take_over(&["a", "b"]);
    bench.answer(3, 1, trimmed(2));
    assert_eq!(bench.chosen_to(), 0);
    bench.fire(Timer::Heartbeat);
    let claims: Vec<_> = bench
        .accepts()
        .iter()
        .map(|(_, accept)| accept.chosen_to)
        .collect();
    assert!(claims.iter().all(|claim| *claim == slot(0)), "{claims:?}");
}

#[test]
fn campaign_starts_above_every_trim_in_its_promises() {
    let mut bench = Bench::new();
    let mine = bench.campaign();
    let row = |at| Row {
        slot: slot(at),
        accepted: Some((ballot(1, 1), value("older"))),
    };
    let page = PromisePage {
        next: slot(2),
        voted_to: slot(2),
        rows: vec![row(0), row(1)],
        ..empty_promise()
    };
    let trimmed = PromisePage {
        next: slot(2),
        known_to: slot(2),
        trimmed_to: slot(2),
        voted_to: slot(2),
        ..empty_promise()
    };
    for (acceptor, page) in [(1, page), (2, trimmed)] {
        bench.promise_page(acceptor, mine, page);
    }
    assert_eq!(bench.chosen_to(), 2);
    bench.propose(1, "new");
    assert_eq!(bench.sent_to(1), [(2, value("new"))]);
}
