//! `Accept` streams: opened with the campaign, closed at the end; messages sent once, and messages sent again.

use super::{lead::accepted, *};

fn broke(number: u128, ballot: Ballot) -> Event {
    let acceptor = uuid(number);
    Event::StreamBroke { acceptor, ballot }
}

fn opened(number: u128, ballot: Ballot) -> Event {
    let acceptor = uuid(number);
    Event::StreamOpened { acceptor, ballot }
}

fn shut(bench: &Bench) -> Vec<Ballot> {
    let shut = |effect: &Effect| {
        let Effect::ShutStreams(ballot) = effect else {
            return None;
        };
        Some(*ballot)
    };
    bench.effects.iter().filter_map(shut).collect()
}

#[test]
fn streams_open_with_the_campaign_and_before_its_question() {
    let mut bench = Bench::new();
    let mine = bench.campaign();
    let asked: Vec<_> = (1..=3).map(|number| (uuid(number), mine)).collect();
    assert_eq!(bench.asked_streams(), asked);
    let place = |is: fn(&Effect) -> bool| bench.effects.iter().position(is);
    let stream = place(|effect| matches!(effect, Effect::OpenStream(..)));
    assert!(stream < place(|effect| matches!(effect, Effect::Prepare(..))));
    // An acceptor connected later gets a stream too, and the reign continues on the same streams.
    let mut bench = Bench::new();
    bench.handle(Event::Closed(uuid(3)));
    let mine = bench.lead();
    bench.handle(Event::Opened(uuid(3)));
    assert_eq!(bench.asked_streams(), [(uuid(3), mine)]);
    bench.handle(Event::Closed(uuid(3)));
    bench.handle(Event::Opened(uuid(3)));
    assert_eq!(bench.asked_streams(), [], "the driver keeps it open");
}

#[test]
fn proposer_that_gives_way_shuts_its_streams() {
    let mut bench = Bench::new();
    let mine = bench.campaign();
    bench.give_up();
    assert_eq!(shut(&bench), [mine]);

    let mine = bench.lead();
    bench.answer(3, 1, rejection(ballot(9, 1)));
    assert_eq!(shut(&bench), [mine]);

    let mine = bench.campaign();
    bench.handle(Event::Resigned);
    assert_eq!(shut(&bench), [mine]);
}

#[test]
fn a_resignation_is_not_cut_off() {
    let mut bench = Bench::new();
    bench.lead();
    bench.handle(Event::Resigned);
    assert!(bench.accepts().iter().all(|(_, accept)| accept.resign));
    assert_eq!(bench.accepts().len(), 3);
    assert_eq!(shut(&bench), []);
}

#[test]
fn a_broken_link_does_not_end_the_stream() {
    let mut bench = Bench::new();
    bench.lead();
    bench.propose(1, "a");
    bench.handle(Event::Closed(uuid(1)));
    bench.handle(Event::Closed(uuid(2)));
    bench.propose(2, "b");
    assert_eq!(bench.sent_to(1), [(1, value("b"))]);
    bench.vote(1, 0);
    bench.vote(2, 0);
    assert_eq!(bench.chosen_to(), 1);
}

#[test]
fn nothing_is_sent_before_the_stream_is_open_or_while_it_is_broken() {
    let mut bench = Bench::new();
    bench.opens_streams = false;
    let mine = bench.lead();
    bench.propose(1, "a");
    bench.fire(Timer::Heartbeat);
    assert_eq!(bench.accepts(), []);
    bench.handle(opened(1, mine));
    assert_eq!(bench.sent_to(1), [(0, value("a"))]);
    bench.handle(broke(1, mine));
    bench.propose(2, "b");
    bench.fire(Timer::Heartbeat);
    assert_eq!(bench.accepts(), []);
    bench.handle(opened(1, ballot(1, 99)));
    assert_eq!(bench.accepts(), [], "it is a stream of another ballot");
}

#[test]
fn what_was_not_voted_for_is_sent_again_when_the_stream_opens_again() {
    let mut bench = Bench::new();
    let mine = bench.lead();
    bench.propose(1, "a");
    bench.propose(2, "b");
    bench.vote(1, 0);
    bench.handle(broke(1, mine));
    bench.propose(3, "c");
    assert_eq!(bench.sent_to(1), []);
    bench.handle(opened(1, mine));
    assert_eq!(bench.sent_to(1), [(1, value("b")), (2, value("c"))]);
}

#[test]
fn unanswered_messages_on_an_open_stream_are_not_sent_again() {
    let mut bench = Bench::new();
    bench.lead();
    bench.propose(1, "a");
    bench.vote(1, 0);
    bench.vote(2, 0);
    for _ in 0..300 {
        bench.pass(200);
        let ballot = bench.core.ballot().unwrap();
        for number in 1..=3 {
            bench.handle(alive(uuid(number), ballot, 0));
        }
        bench.fire(Timer::Check);
        assert_eq!(bench.sent_to(3), []);
        bench.fire(Timer::Heartbeat);
        assert_eq!(bench.sent_to(3), []);
        bench.fire(Timer::Heartbeat);
        let beats = bench.accepts();
        let to_third: Vec<_> = beats.iter().filter(|(to, _)| *to == uuid(3)).collect();
        assert_eq!(to_third.len(), 1, "however long it takes");
        assert_eq!(to_third[0].1.sequence, 0);
    }
    assert!(bench.leads());
}

#[test]
fn heartbeats_go_on_however_much_is_unanswered_and_have_no_number() {
    let limits = Limits {
        unanswered_max: 2,
        batches_in_flight_max: 100,
        ..Limits::default()
    };
    let mut bench = Bench::with(limits, (3, 2, 2));
    bench.lead();
    for request in 1..=5 {
        bench.propose(request, "a");
    }
    assert_eq!(bench.sent_to(1), [], "two are unanswered");
    bench.fire(Timer::Heartbeat);
    assert_eq!(bench.accepts(), [], "something else was sent lately");
    bench.fire(Timer::Heartbeat);
    let beats = bench.accepts();
    assert_eq!(beats.len(), 3);
    for (_, beat) in beats {
        assert_eq!((beat.sequence, beat.proposals), (0, vec![]));
    }
}

#[test]
fn an_idle_acceptor_whose_watermark_is_not_known_is_asked_for_it_once() {
    let mut bench = Bench::new();
    bench.lead();
    bench.fire(Timer::Heartbeat);
    let asked = |bench: &Bench| -> Vec<u64> {
        let accepts = bench.accepts();
        let to_first = accepts.iter().filter(|(to, _)| *to == uuid(1));
        to_first.map(|(_, accept)| accept.sequence).collect()
    };
    assert_eq!(asked(&bench), [1]);
    bench.fire(Timer::Heartbeat);
    bench.fire(Timer::Heartbeat);
    assert_eq!(asked(&bench), [0], "the question is under way");
    bench.answer(1, 1, accepted(&[], 0));
    bench.fire(Timer::Heartbeat);
    bench.fire(Timer::Heartbeat);
    assert_eq!(asked(&bench), [0], "its watermark is up to ours");
}

#[test]
fn what_was_turned_away_for_space_is_sent_again_when_there_is_space() {
    let mut bench = Bench::new();
    let mine = bench.lead();
    bench.propose(1, "a");
    bench.propose(2, "b");
    let space = |has_space| Event::Alive {
        acceptor: uuid(3),
        ballot: mine,
        silent: Duration::ZERO,
        waiting: Duration::ZERO,
        has_space,
    };
    bench.answer(3, 1, AcceptAnswer::NoSpace);
    bench.propose(3, "c");
    assert_eq!(bench.sent_to(3), []);
    bench.handle(space(false));
    assert_eq!(bench.sent_to(3), []);
    // The second message is still under way, and is not sent again.
    bench.handle(space(true));
    assert_eq!(bench.sent_to(3), [(0, value("a")), (2, value("c"))]);
    bench.handle(space(true));
    assert_eq!(bench.sent_to(3), []);
}

#[test]
fn what_was_refused_is_sent_again_when_the_acceptor_has_climbed() {
    let mut bench = Bench::new();
    let high = ballot(Ballot::ROUND_JUMP_MAX + 9, 1);
    bench.report(3, high, 300);
    let mine = bench.lead();
    bench.propose(1, "a");
    let refused = Refused {
        reason: "too far".to_owned(),
        promised: Ballot::ZERO,
    };
    bench.answer(1, 1, AcceptAnswer::Refused(refused));
    assert_eq!(bench.sent_to(1), []);
    let [(to, step, _)] = bench.prepares()[..] else {
        panic!("{:?}", bench.effects);
    };
    assert!(to == uuid(1) && step < mine);
    bench.promise(1, step);
    let [(_, last, _)] = bench.prepares()[..] else {
        panic!("{:?}", bench.effects);
    };
    assert_eq!(last, mine);
    bench.promise(1, mine);
    assert_eq!(bench.sent_to(1), [(0, value("a"))]);
}

#[test]
fn what_was_trimmed_is_left_out_when_the_rest_is_sent_again() {
    let mut bench = Bench::with_batches_in_flight(1);
    bench.lead();
    bench.propose(1, "a");
    bench.handle(Event::FillWanted(slot(2)));
    bench.answer(1, 1, AcceptAnswer::Trimmed { trimmed_to: slot(1) });
    assert_eq!(bench.sent_to(1), []);
    bench.answer(1, 2, AcceptAnswer::Trimmed { trimmed_to: slot(1) });
    assert_eq!(bench.sent_to(1), [(1, Value::noop())]);
}
