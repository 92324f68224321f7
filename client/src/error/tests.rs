//! Judgements of failed calls.

use super::*;
use paxos_common::wire::status;

#[test]
fn passed_deadline_does_not_hide_the_cause_of_an_earlier_attempt() {
    let full = || Cause::unavailable("acceptor a1 has no space");
    assert_eq!(Cause::deadline().after(Some(full())), full());
    assert_eq!(full().after(Some(Cause::deadline())), full());
    assert_eq!(Cause::deadline().after(None), Cause::deadline());
}

#[test]
fn requested_wait_is_kept_up_to_a_limit_and_never_shortens_a_pause() {
    let (short, long) = (Duration::from_millis(10), Duration::from_secs(1));
    assert_eq!(longer(short, None), short);
    assert_eq!(longer(short, Some(long)), long);
    assert_eq!(longer(long, Some(short)), long);
    assert_eq!(longer(short, Some(Duration::MAX)), RETRY_DELAY_MAX);
}

#[test]
fn fate_is_taken_from_the_answer_and_unknown_when_it_tells_none() {
    for (answer, not_proposed) in [
        (status::no_leader(Fate::NotProposed), true),
        (status::no_leader(Fate::OutcomeUnknown), false),
        (status::overloaded("the queue"), true),
        // As reported by the transport for an oversized answer.
        (Status::resource_exhausted("message too large"), false),
        (Status::unavailable("connection reset"), false),
        (status::deadline(Fate::NotProposed, ""), true),
        (Status::deadline_exceeded(""), false),
        (Status::internal("h2 error"), false),
        (Status::cancelled("timeout"), false),
    ] {
        let expected = if not_proposed {
            Failed::NotProposed(Cause::of(&answer))
        } else {
            Failed::OutcomeUnknown(Cause::of(&answer))
        };
        assert_eq!(Failed::judge(&answer), expected, "{answer:?}");
    }
    for refusal in [
        status::state_full(2, 1),
        Status::invalid_argument(""),
        Status::failed_precondition(""),
        Status::unimplemented(""),
    ] {
        assert!(
            matches!(Failed::judge(&refusal), Failed::Refused(_)),
            "{refusal:?}"
        );
    }
}
