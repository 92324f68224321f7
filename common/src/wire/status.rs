//! Failed calls, written by every service and read by every caller: `tonic::Status` with `google.rpc` details.

use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _, pb};

use crate::paxos::slot::Slot;

/// The `domain` of each of our `google.rpc.ErrorInfo`s.
pub const DOMAIN: &str = "paxos";

/// Wait before the first retry, where a retry helps.
const RETRY_DELAY: Duration = Duration::from_millis(50);

/// The `reason` of an `OUT_OF_RANGE` for slots that are not kept any more.
const TRIMMED: &str = "TRIMMED";
/// The metadata of such an error: [`KeptSlots::from`] and [`KeptSlots::to`], as decimal numbers.
const KEPT_FROM: &str = "from";
const KEPT_TO: &str = "to";

/// The slots of the log that a learner has: `from` and every later slot below `to`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct KeptSlots {
    /// The oldest kept slot.
    pub from: Slot,
    /// The first slot that is not applied yet.
    pub to: Slot,
}

/// The outcome of a command that was not answered with a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fate {
    /// The command may have been ordered, or may be ordered later: retry only with the same session and sequence.
    OutcomeUnknown,
    /// The command was not ordered and will not be: retry freely.
    NotProposed,
}

impl Fate {
    /// The `reason` of the `google.rpc.ErrorInfo`.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::OutcomeUnknown => "OUTCOME_UNKNOWN",
            Self::NotProposed => "NOT_PROPOSED",
        }
    }
}

/// The outcome of the command in a failed call; none without such details, as for errors of the transport.
pub fn fate_of(status: &Status) -> Option<Fate> {
    let info = status.get_details_error_info()?;
    if info.domain != DOMAIN {
        return None;
    }
    [Fate::OutcomeUnknown, Fate::NotProposed]
        .into_iter()
        .find(|fate| fate.reason() == info.reason)
}

/// The wait before a retry, from the failed call; none: a retry does not help, or the call gives no wait.
pub fn retry_delay_of(status: &Status) -> Option<Duration> {
    status.get_details_retry_info()?.retry_delay
}

/// INVALID_ARGUMENT: the message breaks a limit; `text` names the limit.
pub fn invalid_argument(text: impl Into<String>) -> Status {
    Status::invalid_argument(text)
}

/// PERMISSION_DENIED: the caller's certificate does not allow the call; nothing was proposed.
pub fn denied(text: impl Into<String>) -> Status {
    let mut details = ErrorDetails::new();
    details.set_error_info(Fate::NotProposed.reason(), DOMAIN, []);
    Status::with_error_details(Code::PermissionDenied, text, details)
}

/// FAILED_PRECONDITION: wrong cluster, lost disk, conflicting lists, newer protocol.
pub fn wrong_cluster(text: impl Into<String>) -> Status {
    Status::failed_precondition(text)
}

/// FAILED_PRECONDITION: the receiver does not want the message; `text` gives the reason.
pub fn not_wanted(text: impl Into<String>) -> Status {
    Status::failed_precondition(text)
}

/// RESOURCE_EXHAUSTED for the reason in `text`; nothing was done.
pub fn exhausted(text: &str) -> Status {
    detailed(Code::ResourceExhausted, text, Fate::NotProposed)
}

/// RESOURCE_EXHAUSTED: the queue or limit named by `what` is full, and nothing was proposed.
pub fn overloaded(what: &str) -> Status {
    detailed(
        Code::ResourceExhausted,
        &format!("{what} is full: back off and retry"),
        Fate::NotProposed,
    )
}

/// RESOURCE_EXHAUSTED: the registers have the maximum size, and nothing was proposed. A retry does not help before
/// registers are deleted.
pub fn state_full(state_bytes: u64, state_bytes_max: u64) -> Status {
    let mut details = ErrorDetails::new();
    details.set_error_info(Fate::NotProposed.reason(), DOMAIN, []);
    let text = format!(
        "registers and recorded outcomes have {state_bytes} bytes, and the limit (--state-bytes-max) is \
         {state_bytes_max}: delete registers, or raise the limit"
    );
    Status::with_error_details(Code::ResourceExhausted, text, details)
}

/// UNAVAILABLE: there is no leader, or the leader lost the lead before its answer.
pub fn no_leader(fate: Fate) -> Status {
    let text = match fate {
        Fate::OutcomeUnknown => "the leader changed: the command may have been ordered",
        Fate::NotProposed => "no proposer leads at the moment",
    };
    unavailable(text, fate)
}

/// UNAVAILABLE for the reason in `text`.
pub fn unavailable(text: &str, fate: Fate) -> Status {
    detailed(Code::Unavailable, text, fate)
}

/// DEADLINE_EXCEEDED: the caller's deadline passed. `cause` names the awaited event, or is empty.
pub fn deadline(fate: Fate, cause: &str) -> Status {
    let mut details = ErrorDetails::new();
    details.set_error_info(fate.reason(), DOMAIN, []);
    let text = match cause {
        "" => "the deadline passed".to_owned(),
        cause => format!("the deadline passed: {cause}"),
    };
    Status::with_error_details(Code::DeadlineExceeded, text, details)
}

/// UNAVAILABLE: too few acceptors can vote, and other commands already wait for these acceptors. `cause` names the
/// acceptors.
pub fn no_quorum(cause: &str) -> Status {
    let text = match cause {
        "" => "too few acceptors can vote at the moment".to_owned(),
        cause => format!("too few acceptors can vote at the moment: {cause}"),
    };
    unavailable(&text, Fate::NotProposed)
}

/// UNAVAILABLE: this process is stopping; another process will answer.
pub fn stopping() -> Status {
    unavailable("this process is stopping", Fate::NotProposed)
}

/// OUT_OF_RANGE: the position is no longer retained, or not written yet; `text` gives the present range.
pub fn out_of_range(text: impl Into<String>) -> Status {
    Status::out_of_range(text)
}

/// OUT_OF_RANGE with the reason TRIMMED: the position is below the kept log.
pub fn trimmed(kept: KeptSlots) -> Status {
    let KeptSlots { from, to } = kept;
    let mut details = ErrorDetails::new();
    let metadata = [(KEPT_FROM, from), (KEPT_TO, to)];
    let metadata = metadata.map(|(name, slot)| (name.to_owned(), slot.to_string()));
    details.set_error_info(TRIMMED, DOMAIN, metadata);
    let text = format!(
        "slots below {from} are not kept any more: this learner has {from} to {to}. Begin there; \"paxos get\" reads \
         registers"
    );
    Status::with_error_details(Code::OutOfRange, text, details)
}

/// The kept log in a failed call, if the call failed because the position is not kept any more.
pub fn kept_slots_of(status: &Status) -> Option<KeptSlots> {
    let info = status.get_details_error_info()?;
    if status.code() != Code::OutOfRange || info.domain != DOMAIN || info.reason != TRIMMED {
        return None;
    }
    let slot = |name| Slot::new(info.metadata.get(name)?.parse().ok()?).ok();
    let (from, to) = (slot(KEPT_FROM)?, slot(KEPT_TO)?);
    (from <= to).then_some(KeptSlots { from, to })
}

fn detailed(code: Code, text: &str, fate: Fate) -> Status {
    let mut details = ErrorDetails::new();
    details
        .set_error_info(fate.reason(), DOMAIN, [])
        .set_retry_info(Some(RETRY_DELAY));
    Status::with_error_details(code, text, details)
}

/// The status as a message, for answers inside a stream.
pub fn to_proto(status: &Status) -> pb::Status {
    // The details of a Status *are* an encoded google.rpc.Status; without details, code and text make one.
    match prost::Message::decode(status.details()) {
        Ok(proto) if !status.details().is_empty() => proto,
        Ok(_) | Err(_) => pb::Status {
            code: status.code().into(),
            message: status.message().to_owned(),
            details: Vec::new(),
        },
    }
}

/// The status in an answer inside a stream.
pub fn from_proto(proto: &pb::Status) -> Status {
    let details = prost::Message::encode_to_vec(proto).into();
    Status::with_details(Code::from(proto.code), proto.message.clone(), details)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fate_and_retry_survive_the_wire_in_both_forms() {
        for fate in [Fate::OutcomeUnknown, Fate::NotProposed] {
            let status = no_leader(fate);
            let again = from_proto(&to_proto(&status));
            for status in [status, again] {
                assert_eq!((status.code(), fate_of(&status)), (Code::Unavailable, Some(fate)));
                assert_eq!(retry_delay_of(&status), Some(RETRY_DELAY));
            }
        }
    }

    #[test]
    fn status_without_details_says_nothing_of_a_fate() {
        let status = from_proto(&to_proto(&Status::unavailable("connection refused")));
        assert_eq!(
            (status.code(), status.message()),
            (Code::Unavailable, "connection refused")
        );
        assert_eq!((fate_of(&status), retry_delay_of(&status)), (None, None));
    }

    #[test]
    fn reasons_of_other_domains_are_not_ours() {
        let mut details = ErrorDetails::new();
        details.set_error_info(Fate::NotProposed.reason(), "elsewhere", []);
        assert_eq!(
            fate_of(&Status::with_error_details(Code::Unavailable, "", details)),
            None
        );
    }

    #[test]
    fn kept_slots_survive_the_wire_and_no_other_error_has_any() {
        let at = |slot| Slot::new(slot).unwrap();
        let kept = KeptSlots {
            from: at(51_200),
            to: at(98_304),
        };
        let status = trimmed(kept);
        for status in [status.clone(), from_proto(&to_proto(&status))] {
            assert_eq!(status.code(), Code::OutOfRange);
            assert_eq!(
                status.message(),
                "slots below 51200 are not kept any more: this learner has 51200 to 98304. Begin there; \"paxos get\" \
                 reads registers"
            );
            assert_eq!((kept_slots_of(&status), fate_of(&status)), (Some(kept), None));
        }
        let forged = |domain, metadata: [(&str, &str); 2]| {
            let mut details = ErrorDetails::new();
            let metadata = metadata.map(|(name, value)| (name.to_owned(), value.to_owned()));
            details.set_error_info(TRIMMED, domain, metadata);
            kept_slots_of(&Status::with_error_details(Code::OutOfRange, "", details))
        };
        assert!(forged(DOMAIN, [("from", "1"), ("to", "2")]).is_some());
        assert_eq!(forged("elsewhere", [("from", "1"), ("to", "2")]), None);
        for [from, to] in [["2", "1"], ["", "1"], ["-1", "1"], ["1", "9223372036854775808"]] {
            assert_eq!(forged(DOMAIN, [("from", from), ("to", to)]), None, "{from} {to}");
        }
        assert_eq!(kept_slots_of(&out_of_range("beyond the log")), None);
    }

    #[test]
    fn deadline_offers_no_retry_and_says_what_the_command_waited_for() {
        let status = deadline(Fate::OutcomeUnknown, "acceptor a1: no space on its disk");
        let text = "the deadline passed: acceptor a1: no space on its disk";
        assert_eq!(status.message(), text);
        assert_eq!(
            deadline(Fate::OutcomeUnknown, "").message(),
            "the deadline passed"
        );
        assert_eq!(
            (fate_of(&status), retry_delay_of(&status)),
            (Some(Fate::OutcomeUnknown), None)
        );
    }
}
