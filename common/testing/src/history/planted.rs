//! Planted: hand-written histories, right and wrong, given to both checks.

use std::ops::Range;

use super::{
    Answer, Asked, Condition, Found, Held, Position, Record, Recorder, from_lines,
    positions::{self, Rule},
    search::{self, Verdict},
    to_lines,
};

/// The first command of a slot.
fn at(slot: u64) -> Position {
    Position { slot, offset: 0 }
}

fn held(value: &str, slot: u64) -> Held {
    Held {
        value: value.to_owned(),
        version: at(slot),
    }
}

fn call(time: Range<u64>, asked: Asked, answer: Answer) -> Record {
    Record {
        client: time.start,
        key: "key".to_owned(),
        asked,
        begun: time.start,
        ended: Some((time.end, answer)),
    }
}

/// A call with a known begin and an unknown outcome.
fn lost(begun: u64, asked: Asked) -> Record {
    Record {
        ended: None,
        ..call(begun..begun, asked, Answer::Applied(at(0)))
    }
}

fn putting(value: &str, condition: Condition) -> Asked {
    Asked::Put {
        value: value.to_owned(),
        condition,
    }
}

fn put(time: Range<u64>, value: &str, slot: u64) -> Record {
    put_if(time, value, Condition::Always, slot)
}

fn put_if(time: Range<u64>, value: &str, condition: Condition, slot: u64) -> Record {
    call(time, putting(value, condition), Answer::Applied(at(slot)))
}

fn put_failed(time: Range<u64>, value: &str, condition: Condition, slot: u64, found: Found) -> Record {
    call(
        time,
        putting(value, condition),
        Answer::Failed { at: at(slot), found },
    )
}

fn deleting(condition: Condition) -> Asked {
    Asked::Delete { condition }
}

fn delete(time: Range<u64>, slot: u64) -> Record {
    call(time, deleting(Condition::Always), Answer::Applied(at(slot)))
}

fn read(time: Range<u64>, found: Option<Held>, applied_to: u64) -> Record {
    call(time, Asked::Read, Answer::Read { found, applied_to })
}

fn accepted(what: &str, history: &[Record]) -> positions::Summary {
    let verdict = search::search(history);
    assert!(
        matches!(verdict, Verdict::Linearizable { .. }),
        "{what}: {verdict:?}"
    );
    positions::check(history).unwrap_or_else(|breach| panic!("{what}: {breach:?}"))
}

/// Expects both checks to refuse a history, the check by position by this rule.
fn refused(what: &str, rule: Rule, history: &[Record]) {
    let breach = positions::check(history).expect_err(what);
    assert_eq!(breach.rule, rule, "{what}: {}", breach.text);
    let verdict = search::search(history);
    assert!(matches!(verdict, Verdict::Impossible(_)), "{what}: {verdict:?}");
}

#[test]
fn what_one_client_after_the_other_does_is_accepted() {
    let history = [
        read(0..1, None, 0),
        put_if(2..3, "a", Condition::Absent, 0),
        read(4..5, Some(held("a", 0)), 1),
        put_failed(6..7, "b", Condition::Absent, 1, Found::Held(held("a", 0))),
        put_if(8..9, "c", Condition::Holds(held("a", 0)), 2),
        put_failed(
            10..11,
            "d",
            Condition::Holds(held("a", 0)),
            3,
            Found::Held(held("c", 2)),
        ),
        call(
            12..13,
            deleting(Condition::Holds(held("c", 2))),
            Answer::Applied(at(4)),
        ),
        read(14..15, None, 5),
        put_failed(16..17, "e", Condition::Holds(held("c", 2)), 5, Found::Nothing),
        delete(18..19, 6),
        read(20..21, None, 7),
    ];
    let summary = accepted("in turn", &history);
    assert_eq!((summary.calls, summary.keys, summary.unknown), (11, 1, 0));
    let lines = to_lines(&history);
    assert_eq!(lines.lines().count(), 11);
    assert_eq!(from_lines(&lines), history, "processes pass on what they saw");
}

#[test]
fn calls_that_overlap_may_be_seen_in_either_order() {
    let writes = [put(0..100, "a", 1), put(0..100, "b", 2)];
    accepted("neither yet", &[&writes[..], &[read(10..20, None, 1)]].concat());
    accepted(
        "one",
        &[&writes[..], &[read(10..20, Some(held("a", 1)), 2)]].concat(),
    );
    accepted(
        "both, one after the other",
        &[
            &writes[..],
            &[
                read(10..20, None, 1),
                read(21..30, Some(held("a", 1)), 2),
                read(31..40, Some(held("b", 2)), 3),
            ],
        ]
        .concat(),
    );
    accepted(
        "of twenty who decide one wins",
        &(0..20)
            .map(|name| {
                let value = format!("name {name}");
                if name == 0 {
                    put_if(0..100, &value, Condition::Absent, 1)
                } else {
                    let found = Found::Held(held("name 0", 1));
                    put_failed(0..100, &value, Condition::Absent, 1 + name, found)
                }
            })
            .collect::<Vec<_>>(),
    );
}

#[test]
fn unknown_outcomes_may_come_late_or_never() {
    let write = lost(0, putting("a", Condition::Always));
    let early = [write, read(10..20, None, 1)];
    accepted("never", &early);
    let late = [&early[..], &[read(30..40, Some(held("a", 7)), 8)]].concat();
    let summary = accepted("late", &late);
    assert_eq!((summary.unknown, summary.unknown_seen), (1, 1));

    let removal = lost(15, deleting(Condition::Always));
    let gone = [put(0..10, "a", 1), removal, read(30..40, None, 3)];
    accepted("a removal without an answer", &gone);
    let back = [&gone[..], &[put_if(50..60, "b", Condition::Absent, 4)]].concat();
    accepted("and what it makes possible", &back);

    let overwritten = [
        put(0..10, "a", 1),
        lost(15, putting("b", Condition::Always)),
        put_failed(20..30, "c", Condition::Holds(held("a", 1)), 3, Found::Gone(at(2))),
    ];
    accepted("written over, by whom is not kept", &overwritten);
}

#[test]
fn stale_read_is_refused() {
    let writes = [put(0..10, "a", 1), put(20..30, "b", 2)];
    let behind = read(40..50, Some(held("a", 1)), 2);
    refused(
        "a learner that lags",
        Rule::RealTime,
        &[&writes[..], &[behind]].concat(),
    );
    let lies = read(40..50, Some(held("a", 1)), 3);
    refused(
        "a learner that says that it does not lag",
        Rule::State,
        &[&writes[..], &[lies]].concat(),
    );
    let removed = [
        put(0..10, "a", 1),
        delete(20..30, 2),
        read(40..50, Some(held("a", 1)), 3),
    ];
    refused("what was removed", Rule::State, &removed);
    let found = Found::Held(held("a", 1));
    let failed = put_failed(40..50, "c", Condition::Absent, 3, found);
    refused(
        "a stale reason to refuse",
        Rule::State,
        &[&writes[..], &[failed]].concat(),
    );
}

#[test]
fn read_ahead_of_the_log_is_refused() {
    let history = [put(0..100, "a", 5), read(10..20, Some(held("a", 5)), 2)];
    let breach = positions::check(&history).unwrap_err();
    assert_eq!(breach.rule, Rule::State, "{}", breach.text);
}

#[test]
fn lost_write_is_refused() {
    let history = [put(0..10, "a", 1), read(20..30, None, 2)];
    refused("the first", Rule::State, &history);
    let history = [
        put(0..10, "a", 1),
        put(20..30, "b", 2),
        put_if(40..50, "c", Condition::Holds(held("a", 1)), 3),
    ];
    refused("written over as if it were not there", Rule::Conditions, &history);
    let history = [put(0..10, "a", 1), put_if(20..30, "b", Condition::Absent, 2)];
    refused("a second winner", Rule::Conditions, &history);
}

#[test]
fn write_that_takes_effect_twice_is_refused() {
    let history = [
        put(0..10, "a", 1),
        put(20..30, "b", 2),
        read(40..50, Some(held("a", 3)), 4),
    ];
    refused("acknowledged", Rule::OneEffect, &history);
    let history = [
        lost(0, putting("a", Condition::Always)),
        read(10..20, Some(held("a", 1)), 2),
        put(30..40, "b", 2),
        read(50..60, Some(held("a", 3)), 4),
    ];
    refused("of unknown outcome", Rule::OneEffect, &history);
    let history = [
        put(0..10, "a", 1),
        lost(15, deleting(Condition::Always)),
        read(20..30, None, 3),
        put(40..50, "b", 3),
        read(60..70, None, 5),
    ];
    refused("a removal of unknown outcome", Rule::State, &history);
    let history = [
        put(0..10, "a", 1),
        delete(20..30, 2),
        put(40..50, "b", 3),
        read(60..70, None, 5),
    ];
    refused("a removal that was acknowledged", Rule::State, &history);
}

#[test]
fn value_that_was_never_written_is_refused() {
    let history = [put(0..10, "a", 1), read(20..30, Some(held("b", 2)), 3)];
    refused("out of thin air", Rule::NothingFromNowhere, &history);
    let mut elsewhere = put(20..30, "b", 2);
    elsewhere.key = "other".to_owned();
    let history = [put(0..10, "a", 1), elsewhere, read(40..50, Some(held("b", 2)), 3)];
    refused("of another register", Rule::NothingFromNowhere, &history);
    let history = [
        put(0..10, "a", 1),
        put_failed(20..30, "b", Condition::Absent, 2, Found::Held(held("a", 1))),
        read(40..50, Some(held("b", 2)), 3),
    ];
    refused("of a command that failed", Rule::NothingFromNowhere, &history);
}

#[test]
fn condition_that_was_judged_wrongly_is_refused() {
    let history = [
        put(0..10, "a", 1),
        put(20..30, "b", 2),
        put_if(40..50, "c", Condition::Holds(held("a", 1)), 3),
    ];
    refused("applied against another version", Rule::Conditions, &history);
    let failed = |condition, found| [put(0..10, "a", 1), put_failed(20..30, "b", condition, 2, found)];
    let history = failed(Condition::Holds(held("a", 1)), Found::Held(held("a", 1)));
    refused("failed though it held", Rule::Conditions, &history);
    let history = [put_failed(20..30, "b", Condition::Absent, 2, Found::Nothing)];
    refused("failed though there was nothing", Rule::Conditions, &history);
    let history = [
        put(0..10, "a", 1),
        put(20..30, "b", 2),
        call(
            40..50,
            deleting(Condition::Holds(held("a", 1))),
            Answer::Applied(at(3)),
        ),
    ];
    refused("removed against another version", Rule::Conditions, &history);
}

#[test]
fn order_against_real_time_is_refused() {
    let history = [
        put(0..10, "a", 5),
        put(20..30, "b", 4),
        read(40..50, Some(held("a", 5)), 6),
    ];
    refused("of two writers", Rule::RealTime, &history);
    let history = [
        put(0..10, "a", 1),
        put(20..100, "b", 2),
        read(30..40, Some(held("b", 2)), 3),
        read(50..60, Some(held("a", 1)), 2),
    ];
    refused("of two readers, while it is written", Rule::RealTime, &history);
    let history = [
        put(0..5, "a", 1),
        read(10..20, Some(held("b", 0)), 2),
        lost(100, putting("b", Condition::Always)),
    ];
    let verdict = search::search(&history);
    assert!(matches!(verdict, Verdict::Impossible(_)), "{verdict:?}");
    assert_eq!(positions::check(&history).unwrap_err().rule, Rule::RealTime);
}

#[test]
fn positions_see_more_than_values() {
    let mut other = put(20..30, "b", 4);
    other.key = "other".to_owned();
    let history = [put(0..10, "a", 5), other];
    let breach = positions::check(&history).unwrap_err();
    assert_eq!(breach.rule, Rule::RealTime, "across keys: {}", breach.text);
    let lost_later = lost(40, putting("b", Condition::Always));
    let history = [
        put(20..30, "a", 2),
        lost_later,
        read(50..60, Some(held("b", 1)), 3),
    ];
    let breach = positions::check(&history).unwrap_err();
    assert_eq!(breach.rule, Rule::RealTime, "before it was sent: {}", breach.text);
    let history = [put(0..10, "a", 1), put(20..30, "b", 1)];
    let breach = positions::check(&history).unwrap_err();
    assert_eq!(breach.rule, Rule::OnePlaceEach, "{}", breach.text);
    assert!(matches!(search::search(&history), Verdict::Linearizable { .. }));
}

#[test]
fn search_says_when_it_was_too_much() {
    let mut history: Vec<_> = (0..32)
        .map(|number| put(0..100, &format!("value {number}"), number))
        .collect();
    history.push(read(0..200, Some(held("value 31", 31)), 32));
    assert_eq!(
        search::search_within(&history, 1_000),
        Verdict::Undecided("key".to_owned())
    );
}

#[test]
fn tasks_record_together_and_what_is_dropped_is_unknown() {
    let recorder = Recorder::default();
    std::thread::scope(|scope| {
        for client in 0..4 {
            let recorder = recorder.clone();
            scope.spawn(move || {
                for number in 0..100_u64 {
                    let value = format!("{number} of {client}");
                    let call = recorder.begin(client, "key", putting(&value, Condition::Always));
                    match number % 4 {
                        0 => call.unknown(),
                        1 => call.without_effect(),
                        _ => call.answered(Answer::Applied(at(number * 4 + client))),
                    }
                }
            });
        }
    });
    let history = recorder.history();
    assert_eq!((recorder.calls(), history.len()), (300, 300));
    assert_eq!(
        history.iter().filter(|record| record.answer().is_none()).count(),
        100
    );
    assert!(history.iter().all(|record| record.begun <= record.over()));
}
