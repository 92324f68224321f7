//! Leading: order, answers, messages sent again, and reasons to step down.

use super::*;
use crate::paxos::{message::Row, slot::Version};

pub(super) fn accepted(slots: &[(u64, u64)], voted_to: u64) -> AcceptAnswer {
    let range = |&(from, to)| SlotRange {
        from: slot(from),
        to: slot(to),
    };
    AcceptAnswer::Accepted {
        slots: slots.iter().map(range).collect(),
        voted_to: slot(voted_to),
        chosen_to: Slot::ZERO,
        known_to: Slot::ZERO,
    }
}

impl Bench {
    /// Acceptor `number` answers message `sequence` of the current ballot.
    pub(super) fn answer(&mut self, number: u128, sequence: u64, answer: AcceptAnswer) -> &[Effect] {
        let ballot = self.core.ballot().expect("it leads");
        self.handle(Event::Answered {
            acceptor: uuid(number),
            ballot,
            sequence,
            answer,
        })
    }

    /// Acceptor `number` votes for a single slot.
    pub(super) fn vote(&mut self, number: u128, at: u64) -> &[Effect] {
        self.answer(number, 0, accepted(&[(at, at + 1)], at + 1))
    }

    /// Proposals just sent to an acceptor, as (slot, value).
    pub(super) fn sent_to(&self, number: u128) -> Vec<(u64, Value)> {
        let messages = self.accepts().into_iter().filter(|(to, _)| *to == uuid(number));
        messages
            .flat_map(|(_, accept)| accept.proposals)
            .map(|(at, value)| (at.get(), value))
            .collect()
    }

    pub(super) fn leads(&self) -> bool {
        matches!(self.core.phase(), Phase::Leading(_))
    }

    pub(super) fn chosen_to(&self) -> u64 {
        match self.core.phase() {
            Phase::Leading(lead) => lead.chosen_to().get(),
            Phase::Standby | Phase::Campaigning(_) => panic!("it does not lead"),
        }
    }
}

pub(super) fn chosen(at: u64, offset: u16) -> ProposalOutcome {
    ProposalOutcome::Chosen(Version {
        slot: slot(at),
        offset,
    })
}

#[test]
fn proposes_what_the_promises_demand_first_and_new_commands_above_it() {
    let mut bench = Bench::new();
    bench.propose(1, "new");
    let mine = bench.campaign();
    bench.promise(1, mine);
    let rows = vec![
        Row {
            slot: slot(0),
            accepted: Some((ballot(1, 1), value("old"))),
        },
        Row {
            slot: slot(2),
            accepted: Some((ballot(1, 1), value("older"))),
        },
    ];
    bench.promise_page(
        2,
        mine,
        PromisePage {
            next: slot(3),
            voted_to: slot(3),
            rows,
            ..empty_promise()
        },
    );
    let expected = [
        (0, value("old")),
        (1, Value::noop()),
        (2, value("older")),
        (3, value("new")),
    ];
    for number in 1..=3 {
        assert_eq!(bench.sent_to(number), expected, "to acceptor {number}");
    }
}

#[test]
fn several_slots_are_in_flight_in_order() {
    let mut bench = Bench::new();
    bench.lead();
    bench.propose(1, "a");
    assert_eq!(
        bench.sent_to(1),
        [(0, value("a"))],
        "an idle leader sends at once"
    );
    bench.propose(2, "b");
    assert_eq!(bench.sent_to(1), [(1, value("b"))]);
}

#[test]
fn what_waits_while_batches_are_in_flight_becomes_one_batch() {
    let mut bench = Bench::with_batches_in_flight(1);
    bench.lead();
    bench.propose(1, "a");
    bench.propose(2, "b");
    bench.propose(3, "c");
    assert_eq!(bench.accepts(), []);
    bench.vote(1, 0);
    bench.vote(2, 0);
    assert_eq!(bench.answers(), [(1, chosen(0, 0))]);
    assert_eq!(bench.sent_to(1), [(1, value("bc"))]);
    bench.vote(1, 1);
    bench.vote(3, 1);
    assert_eq!(bench.answers(), [(2, chosen(1, 0)), (3, chosen(1, 1))]);
}

#[test]
fn batches_and_the_window_are_bounded() {
    let limits = Limits {
        batch_commands_max: 2,
        batch_bytes_max: 3,
        slots_in_flight_max: 3,
        batches_in_flight_max: 10,
        ..Limits::default()
    };
    let mut bench = Bench::with(limits, (3, 2, 2));
    for (request, text) in [
        (1, "a"),
        (2, "b"),
        (3, "c"),
        (4, "long one"),
        (5, "e"),
        (6, "fff"),
        (7, "g"),
    ] {
        bench.propose(request, text);
    }
    bench.lead();
    assert_eq!(
        bench.sent_to(1),
        [(0, value("ab")), (1, value("c")), (2, value("long one"))],
        "a single command may be larger than a batch"
    );
    bench.vote(1, 0);
    bench.vote(2, 0);
    assert_eq!(bench.sent_to(1), [(3, value("e"))]);
}

#[test]
fn a_message_is_bounded_in_bytes_unless_one_value_is_larger() {
    let limits = Limits {
        message_bytes_max: 3,
        batch_commands_max: 1,
        ..Limits::default()
    };
    let mut bench = Bench::with(limits, (3, 2, 2));
    for (request, text) in [(1, "aa"), (2, "b"), (3, "too long"), (4, "d")] {
        bench.propose(request, text);
    }
    bench.lead();
    let sizes: Vec<usize> = bench
        .accepts()
        .into_iter()
        .filter(|(to, _)| *to == uuid(1))
        .map(|(_, accept)| accept.proposals.len())
        .collect();
    assert_eq!(sizes, [2, 1, 1]);
}

#[test]
fn an_acceptor_that_does_not_answer_is_sent_a_bounded_number_of_messages() {
    let limits = Limits {
        unanswered_max: 2,
        batches_in_flight_max: 100,
        ..Limits::default()
    };
    let mut bench = Bench::with(limits, (3, 2, 2));
    bench.lead();
    let texts = ["a", "b", "c", "d"];
    let sent: Vec<usize> = (1..)
        .zip(texts)
        .map(|(request, text)| {
            bench.propose(request, text);
            bench.accepts().len()
        })
        .collect();
    assert_eq!(sent, [3, 3, 0, 0]);
    bench.answer(1, 1, accepted(&[(0, 1)], 1));
    assert_eq!(bench.sent_to(1), [(2, value("c")), (3, value("d"))]);
    assert_eq!(bench.sent_to(2), []);
}

#[test]
fn a_client_is_answered_only_when_everything_below_is_chosen_too() {
    let mut bench = Bench::new();
    bench.lead();
    bench.propose(1, "a");
    bench.propose(2, "b");
    bench.vote(1, 1);
    bench.vote(2, 1);
    assert_eq!(bench.answers(), [], "slot 0 is not chosen");
    assert_eq!(bench.chosen_to(), 0);
    bench.vote(1, 0);
    bench.vote(3, 0);
    assert_eq!(bench.answers(), [(1, chosen(0, 0)), (2, chosen(1, 0))]);
    assert_eq!(bench.chosen_to(), 2);
}

#[test]
fn an_acceptor_counts_once_for_a_slot_and_a_stranger_never() {
    let mut bench = Bench::new();
    bench.lead();
    bench.propose(1, "a");
    for number in [1, 1, 9, 9] {
        bench.vote(number, 0);
        assert_eq!(bench.answers(), []);
    }
    bench.vote(2, 0);
    assert_eq!(bench.answers(), [(1, chosen(0, 0))]);
    bench.vote(3, 0);
    bench.vote(2, 0);
    assert_eq!(bench.answers(), [], "a caller is answered once");
}

#[test]
fn votes_of_another_ballot_are_not_counted() {
    let mut bench = Bench::new();
    let mine = bench.lead();
    bench.propose(1, "a");
    bench.vote(1, 0);
    bench.handle(Event::Answered {
        acceptor: uuid(2),
        ballot: ballot(mine.round() - 1, 7),
        sequence: 1,
        answer: accepted(&[(0, 1)], 1),
    });
    assert_eq!(bench.answers(), []);
}

#[test]
fn the_watermark_advances_by_the_leaders_own_tally_and_never_by_hearsay() {
    let mut bench = Bench::new();
    bench.lead();
    bench.propose(1, "a");
    let hearsay = AcceptAnswer::Accepted {
        slots: vec![],
        voted_to: slot(1),
        chosen_to: slot(1),
        known_to: slot(1),
    };
    bench.answer(1, 1, hearsay);
    bench.report(2, bench.core.ballot().unwrap(), 0);
    assert_eq!(bench.chosen_to(), 0);
    assert_eq!(bench.answers(), []);
}

#[test]
fn acceptors_receive_the_watermark() {
    let mut bench = Bench::new();
    bench.lead();
    bench.propose(1, "a");
    bench.vote(1, 0);
    bench.vote(2, 0);
    bench.propose(2, "b");
    for (_, accept) in bench.accepts() {
        assert_eq!(accept.chosen_to, slot(1));
    }
}
