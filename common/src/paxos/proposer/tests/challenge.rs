//! Challenges: a leader is heard without progress, while acceptors here could vote.

use super::*;

/// For `millis` milliseconds, acceptors answer every 50 ms, each with the result of `say` for the passed time. Returns
/// the time and the delay range of the first armed challenge.
fn live(
    bench: &mut Bench,
    millis: u64,
    say: impl Fn(u64, u128) -> Option<ReportAnswer>,
) -> Option<(u64, Duration, Duration)> {
    let begun = bench.now;
    let mut armed = None;
    for _ in 0..millis / 50 {
        bench.pass(50);
        let passed = u64::try_from((bench.now - begun).as_millis()).unwrap();
        for number in 1..=3 {
            if let Some(word) = say(passed, number) {
                bench.say(number, word);
                if let Some((_, at_least, at_most)) = bench.timer(Timer::Challenge) {
                    armed.get_or_insert((passed, at_least, at_most));
                }
            }
        }
    }
    armed
}

/// A leader is heard, and nothing moves.
fn stuck(_: u64, _: u128) -> Option<ReportAnswer> {
    Some(word(ballot(3, 1), 10))
}

#[test]
fn leader_that_makes_no_progress_is_challenged_after_five_seconds() {
    let mut bench = Bench::new();
    live(&mut bench, 10_000, stuck);
    bench.propose(1, "a");
    assert_eq!(bench.forwards().len(), 1, "it is forwarded, and not answered");
    let (after, at_least, at_most) = live(&mut bench, 6_000, stuck).expect("a challenge");
    assert!((5_000..=5_050).contains(&after), "{after}");
    assert_eq!((at_least, at_most), (Duration::ZERO, TIMEOUT));
    bench.fire(Timer::Challenge);
    assert_eq!(bench.core.ballot(), Some(ballot(4, 7)));
    let [Notice::Campaign { why, .. }] = &bench.notices()[..] else {
        panic!("{:?}", bench.effects);
    };
    assert!(
        matches!(why, Why::NoProgress { heard, .. } if *heard == ballot(3, 1)),
        "{why:?}"
    );
}

#[test]
fn votes_above_what_is_chosen_are_a_reason_as_well() {
    let mut bench = Bench::new();
    let voted = |_, _| {
        let mut word = word(ballot(3, 1), 10);
        (word.known_to, word.voted_to) = (slot(4), slot(5));
        Some(word)
    };
    assert!(live(&mut bench, 6_000, voted).is_some());
}

#[test]
fn leader_is_not_challenged_while_no_command_waits() {
    let mut bench = Bench::new();
    bench.report(1, ballot(3, 1), 10);
    bench.propose(1, "a");
    assert_eq!(bench.forwards().len(), 1);
    bench.handle(Event::ForwardAnswered(RequestId(1)));
    assert_eq!(live(&mut bench, 20_000, stuck), None);
    bench.propose(2, "a");
    bench.handle(Event::Cancelled(RequestId(2)));
    assert_eq!(live(&mut bench, 20_000, stuck), None);
}

#[test]
fn callers_that_try_again_and_again_make_one_wait() {
    let mut bench = Bench::new();
    bench.report(1, ballot(3, 1), 10);
    for request in 1..=6 {
        bench.propose(request, "a");
        live(&mut bench, 500, stuck);
        bench.handle(Event::Cancelled(RequestId(request)));
        live(&mut bench, 500, stuck);
    }
    assert!(
        bench.core.generations.contains_key(&Timer::Challenge),
        "it was armed"
    );
    bench.propose(7, "a");
    bench.fire(Timer::Challenge);
    assert!(bench.core.ballot().is_some());
}

#[test]
fn work_that_moves_is_progress() {
    let with = |change: fn(u64, &mut ReportAnswer)| {
        move |passed: u64, number: u128| {
            let mut word = word(ballot(3, 1), 10);
            if number == 1 {
                change(passed, &mut word);
            }
            Some(word)
        }
    };
    let moving: [fn(u64, &mut ReportAnswer); 3] = [
        // Votes are committed, or values arrive, now and then.
        |passed, word| word.heard.work = passed / 4_000,
        |passed, word| {
            word.known_to = slot(passed / 4_000);
            word.voted_to = slot(1_000);
        },
        // A new candidate each time.
        |passed, word| word.heard.ballot = ballot(3 + passed / 4_000, 1),
    ];
    for change in moving {
        let mut bench = Bench::new();
        bench.report(1, ballot(3, 1), 10);
        bench.propose(1, "a");
        assert_eq!(live(&mut bench, 60_000, with(change)), None);
    }
}

#[test]
fn acceptors_that_could_not_vote_for_all_of_the_time_do_not_count() {
    let unable: [fn(u64, &mut ReportAnswer) -> bool; 4] = [
        |_, word| {
            word.has_space = false;
            true
        },
        |passed, word| {
            word.waiting = Duration::from_millis(passed % 4_000);
            true
        },
        |_, _| false,
        |passed, _| passed % 4_000 > 1_100,
    ];
    for (number, change) in unable.into_iter().enumerate() {
        let mut bench = Bench::new();
        bench.report(1, ballot(3, 1), 10);
        bench.propose(1, "a");
        let say = move |passed: u64, number: u128| {
            let mut word = word(ballot(3, 1), 10);
            let answers = number == 1 || change(passed, &mut word);
            answers.then_some(word)
        };
        assert_eq!(live(&mut bench, 20_000, say), None, "{number}");
    }
}

#[test]
fn acceptors_that_are_asked_seldom_and_answer_each_time_count() {
    let mut bench = Bench::new();
    bench.report(1, ballot(3, 1), 10);
    bench.propose(1, "a");
    let say = |passed: u64, _| passed.is_multiple_of(500).then(|| word(ballot(3, 1), 10));
    assert!(live(&mut bench, 10_000, say).is_some());
}

#[test]
fn flexible_quorums_need_as_many_as_the_larger() {
    for (quorums, challenged) in [((3, 3, 1), false), ((3, 1, 3), false), ((3, 2, 2), true)] {
        let mut bench = Bench::with(Limits::default(), quorums);
        bench.report(1, ballot(3, 1), 10);
        bench.propose(1, "a");
        let say = |_, number| (number != 3).then(|| word(ballot(3, 1), 10));
        assert_eq!(live(&mut bench, 10_000, say).is_some(), challenged, "{quorums:?}");
    }
}

#[test]
fn failed_challenges_delay_the_next_until_a_value_is_chosen() {
    let mut bench = Bench::new();
    let mut round = 3;
    let mut patience = Vec::new();
    for _ in 0..6 {
        let stuck = |_, _| {
            let mut word = word(ballot(round, 1), 10);
            (word.known_to, word.voted_to) = (slot(4), slot(5));
            Some(word)
        };
        let (after, ..) = live(&mut bench, 70_000, stuck).expect("a challenge");
        patience.push(after / 1_000);
        bench.fire(Timer::Challenge);
        let mine = bench.core.ballot().expect("it campaigns");
        round = mine.round() + 1;
        bench.handle(Event::PrepareRejected {
            acceptor: uuid(1),
            ballot: mine,
            promised: ballot(round, 1),
        });
    }
    assert_eq!(patience, [5, 10, 20, 40, 60, 60]);
    let moved = |_, _| {
        let mut word = word(ballot(round, 1), 10);
        (word.known_to, word.voted_to) = (slot(6), slot(7));
        Some(word)
    };
    let (after, ..) = live(&mut bench, 70_000, moved).expect("a challenge");
    assert_eq!(after / 1_000, 5);
}
