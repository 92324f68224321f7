//! A reign: upkeep, end, and remaining slots and commands.

use super::{
    lead::{accepted, chosen},
    *,
};

#[test]
fn heartbeats_go_to_those_that_were_sent_nothing_lately() {
    let mut bench = Bench::new();
    let mine = bench.lead();
    bench.fire(Timer::Heartbeat);
    let accepts = bench.accepts();
    assert_eq!(accepts.len(), 3);
    assert!(
        accepts
            .iter()
            .all(|(_, accept)| accept.ballot == mine && accept.proposals.is_empty())
    );
    let (_, at_least, at_most) = bench.timer(Timer::Heartbeat).unwrap();
    assert_eq!((at_least, at_most), (TIMEOUT / 4, TIMEOUT / 4));
    bench.propose(1, "a");
    bench.fire(Timer::Heartbeat);
    assert_eq!(bench.accepts(), []);
}

#[test]
fn an_idle_leader_asks_for_watermarks_in_one_of_five_checks() {
    let mut bench = Bench::new();
    let mine = bench.lead();
    let mut asked = Vec::new();
    for check in 0..11 {
        bench.fire(Timer::Check);
        for _ in 0..4 {
            bench.pass(50);
            bench.fire(Timer::Heartbeat);
            for (acceptor, accept) in bench.accepts() {
                bench.handle(alive(acceptor, mine, 0));
                if accept.sequence > 0 {
                    asked.push((check, acceptor));
                    bench.handle(Event::Answered {
                        acceptor,
                        ballot: mine,
                        sequence: accept.sequence,
                        answer: accepted(&[], 0),
                    });
                }
            }
        }
    }
    let expected = [0, 5, 10]
        .into_iter()
        .flat_map(|check| (1..=3).map(move |number| (check, uuid(number))));
    assert_eq!(asked, expected.collect::<Vec<_>>());
}

#[test]
fn steps_down_when_its_ballot_is_rejected() {
    let mut bench = Bench::new();
    bench.lead();
    bench.propose(1, "a");
    bench.propose(2, "b");
    bench.vote(1, 1);
    bench.vote(2, 1);
    bench.answer(3, 1, rejection(ballot(9, 1)));
    assert!(!bench.leads());
    assert_eq!(
        bench.answers(),
        [(1, ProposalOutcome::Unknown), (2, ProposalOutcome::Unknown)]
    );
    assert_eq!(bench.campaign(), ballot(10, 7));
}

#[test]
fn a_rejection_of_an_earlier_ballot_does_not_end_the_reign() {
    let mut bench = Bench::new();
    let first = bench.campaign();
    bench.give_up();
    bench.lead();
    bench.handle(Event::Answered {
        acceptor: uuid(3),
        ballot: first,
        sequence: 0,
        answer: rejection(ballot(9, 1)),
    });
    assert!(bench.leads());
}

#[test]
fn a_refusal_leaves_the_ballot_standing() {
    let mut bench = Bench::new();
    let mine = bench.lead();
    let refused = Refused {
        reason: "too far".to_owned(),
        promised: mine,
    };
    bench.answer(1, 1, AcceptAnswer::Refused(refused));
    assert!(bench.leads());
}

#[test]
fn an_answer_to_a_message_sent_before_a_refusal_does_not_end_the_wait() {
    let mut bench = Bench::new();
    let mine = bench.lead();
    bench.propose(1, "a");
    bench.propose(2, "b");
    let refused = Refused {
        reason: "upgrade this acceptor".to_owned(),
        promised: mine,
    };
    bench.answer(1, 1, AcceptAnswer::Refused(refused));
    let is_silent = |bench: &Bench| bench.accepts().iter().all(|(to, _)| *to != uuid(1));
    bench.answer(1, 2, accepted(&[(1, 2)], 0));
    assert!(is_silent(&bench), "the message with slot 0 waits for a check");
    bench.fire(Timer::Check);
    assert!(!is_silent(&bench));
    bench.answer(1, 3, accepted(&[(0, 1)], 2));
    bench.propose(3, "c");
    assert_eq!(
        bench.sent_to(1),
        [(2, value("c"))],
        "the acceptor takes values again"
    );
}

/// An acceptor of an earlier release cannot read a value that this leader took over.
#[test]
fn refusing_acceptor_gets_single_messages_at_growing_intervals() {
    let mut bench = Bench::new();
    let mine = bench.lead();
    let refused = || {
        AcceptAnswer::Refused(Refused {
            reason: "upgrade this acceptor".to_owned(),
            promised: mine,
        })
    };
    bench.propose(1, "a");
    bench.propose(2, "b");
    let sent = |bench: &Bench| -> Vec<u64> {
        let to_1 = bench.accepts().into_iter().filter(|(to, _)| *to == uuid(1));
        let proposing = to_1.filter(|(_, accept)| !accept.proposals.is_empty());
        proposing.map(|(_, accept)| accept.sequence).collect()
    };
    for sequence in [1, 2] {
        bench.answer(1, sequence, refused());
    }
    let mut waits = Vec::new();
    let mut checks = 0;
    while waits.len() < 8 {
        bench.fire(Timer::Check);
        checks += 1;
        let messages = sent(&bench);
        for &sequence in &messages {
            bench.answer(1, sequence, refused());
        }
        if !messages.is_empty() {
            assert_eq!(
                messages.len(),
                1,
                "one message shows whether the acceptor takes values"
            );
            waits.push(checks);
            checks = 0;
        }
    }
    assert_eq!(waits, [1, 2, 4, 8, 16, 32, 32, 32]);
    assert!(bench.leads());
    // The other acceptors choose the values meanwhile.
    for acceptor in [2, 3] {
        bench.answer(acceptor, 1, accepted(&[(0, 1)], 2));
        bench.answer(acceptor, 2, accepted(&[(1, 2)], 2));
    }
    assert_eq!(bench.core.chosen_to(), slot(2));
}

#[test]
fn a_vote_above_what_is_proposed_is_filled_with_no_ops() {
    let mut bench = Bench::with_batches_in_flight(100);
    bench.lead();
    bench.propose(1, "a");
    bench.answer(3, 1, accepted(&[(0, 1)], 4));
    assert_eq!(
        bench.sent_to(1),
        [(1, Value::noop()), (2, Value::noop()), (3, Value::noop())]
    );
    bench.propose(2, "b");
    assert_eq!(bench.sent_to(1), [(4, value("b"))]);
}

#[test]
fn reader_may_have_a_bounded_number_of_slots_filled_at_a_time() {
    let limits = Limits {
        slots_in_flight_max: 100_000,
        ..Limits::default()
    };
    let mut bench = Bench::with(limits, (3, 2, 2));
    bench.lead();
    bench.propose(1, "a");
    bench.handle(Event::FillWanted(slot(1)));
    assert_eq!(bench.accepts(), []);
    bench.handle(Event::FillWanted(slot(2)));
    assert_eq!(bench.sent_to(1), [(1, Value::noop())]);
    bench.pass(10_000);
    bench.handle(Event::FillWanted(Slot::MAX));
    let filled = bench.sent_to(1).len();
    assert!((1..=1_024).contains(&filled), "{filled}");
}

#[test]
fn slots_without_known_votes_are_filled_seldom_and_others_at_once() {
    let limits = Limits {
        slots_in_flight_max: 100_000,
        unanswered_max: 31,
        ..Limits::default()
    };
    let mut bench = Bench::with(limits, (3, 2, 2));
    bench.lead();
    bench.propose(1, "a");
    bench.handle(Event::FillWanted(slot(1 << 62)));
    assert_eq!(bench.sent_to(1).len(), 1_024);
    for _ in 0..20 {
        bench.handle(Event::FillWanted(slot(1 << 62)));
        assert_eq!(bench.accepts(), []);
    }
    // An acceptor reports a vote there: the slots are filled at once.
    let voted = ReportAnswer {
        voted_to: slot(1_030),
        ..word(Ballot::ZERO, 0)
    };
    bench.say(3, voted);
    bench.handle(Event::FillWanted(slot(1_030)));
    let filled: Vec<_> = bench.sent_to(1).into_iter().map(|(at, _)| at).collect();
    assert_eq!(filled, (1_025..1_030).collect::<Vec<_>>());
}

#[test]
fn a_vote_too_far_ahead_is_not_filled_up_to() {
    let mut bench = Bench::new();
    bench.lead();
    bench.propose(1, "a");
    bench.answer(3, 1, accepted(&[(0, 1)], 1 << 62));
    assert_eq!(bench.accepts(), []);
    let ballot = Ballot::ZERO;
    let far = ReportAnswer {
        voted_to: slot(1 << 62),
        ..word(ballot, 0)
    };
    bench.say(3, far);
    bench.propose(2, "b");
    assert_eq!(bench.sent_to(1), [(1, value("b"))]);
}

#[test]
fn a_leader_that_is_to_stop_sees_through_what_is_in_flight_then_says_so() {
    let mut bench = Bench::new();
    bench.lead();
    bench.propose(1, "a");
    bench.handle(Event::Resigned);
    assert!(!bench.effects.contains(&Effect::HandedOver));
    bench.propose(2, "b");
    assert_eq!(
        bench.answers(),
        [(2, ProposalOutcome::NotProposed(Reason::Stopping))]
    );
    bench.vote(1, 0);
    bench.vote(2, 0);
    assert_eq!(bench.answers(), [(1, chosen(0, 0))]);
    let last_words = bench.accepts();
    assert_eq!(last_words.len(), 3);
    assert!(
        last_words
            .iter()
            .all(|(_, accept)| accept.resign && accept.chosen_to == slot(1))
    );
    assert!(bench.effects.contains(&Effect::HandedOver));
}

#[test]
fn stopping_leader_that_loses_its_ballot_has_nothing_to_hand_over() {
    let mut bench = Bench::new();
    bench.lead();
    bench.propose(1, "a");
    bench.handle(Event::Resigned);
    bench.answer(3, 1, rejection(ballot(9, 1)));
    assert_eq!(bench.answers(), [(1, ProposalOutcome::Unknown)]);
    assert!(
        bench.effects.contains(&Effect::HandedOver),
        "the process would wait without end"
    );
}

#[test]
fn a_cancelled_command_in_flight_has_an_unknown_outcome() {
    let mut bench = Bench::new();
    bench.lead();
    bench.propose(1, "a");
    bench.handle(Event::Cancelled(RequestId(1)));
    assert_eq!(bench.answers(), [(1, ProposalOutcome::Unknown)]);
}

#[test]
fn slots_that_every_acceptor_has_are_forgotten_and_so_are_too_many() {
    let limits = Limits {
        retained_slots_max: 2,
        ..Limits::default()
    };
    let mut bench = Bench::with(limits, (3, 2, 2));
    bench.lead();
    for (request, at) in (1..).zip(0..5) {
        bench.propose(request, "a");
        bench.vote(1, at);
        bench.vote(2, at);
    }
    // Acceptor 3 has voted for no slot: the last two are kept for the acceptor, the rest is left to repair.
    let (acceptor, ballot) = (uuid(3), bench.core.ballot().unwrap());
    bench.handle(Event::StreamBroke { acceptor, ballot });
    bench.handle(Event::StreamOpened { acceptor, ballot });
    let kept: Vec<u64> = bench.sent_to(3).into_iter().map(|(at, _)| at).collect();
    assert_eq!(kept, [3, 4]);
}

/// The other acceptors need no vote of this acceptor for the refused value, and perhaps for the values around.
#[test]
fn a_refused_value_holds_back_no_value_beside() {
    let mut bench = Bench::new();
    let mine = bench.lead();
    bench.propose(1, "a");
    bench.propose(2, "b");
    bench.propose(3, "c");
    let refused = Refused {
        reason: "upgrade this acceptor".to_owned(),
        promised: mine,
    };
    for sequence in [1, 2, 3] {
        bench.answer(1, sequence, AcceptAnswer::Refused(refused.clone()));
    }
    for acceptor in [2, 3] {
        bench.answer(acceptor, 1, accepted(&[(0, 1)], 1));
    }
    assert_eq!(bench.core.chosen_to(), slot(1));
    bench.fire(Timer::Check);
    assert_eq!(bench.sent_to(1), [(1, value("b"))]);
    bench.answer(1, 4, accepted(&[(1, 2)], 0));
    assert_eq!(bench.sent_to(1), [(2, value("c"))]);
}

#[test]
fn after_a_refusal_a_message_has_a_single_slot() {
    let mut bench = Bench::new();
    let mine = bench.lead();
    for (id, text) in [(1, "a"), (2, "b"), (3, "c")] {
        bench.propose(id, text);
    }
    let refused = Refused {
        reason: "upgrade this acceptor".to_owned(),
        promised: mine,
    };
    for sequence in [1, 2, 3] {
        bench.answer(1, sequence, AcceptAnswer::Refused(refused.clone()));
    }
    bench.fire(Timer::Check);
    assert_eq!(bench.sent_to(1), [(0, value("a"))], "slot 0 alone");
}
