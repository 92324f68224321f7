//! What can go wrong, as the caller must tell it apart.

use std::{error::Error as _, fmt};

use paxos_common::status::{Fate, fate_of};
use tonic::{Code, Status};

/// Why a call failed: what the other side said, or what became of the connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    /// The gRPC code.
    pub code: Code,
    /// For people.
    pub message: String,
}

impl Cause {
    pub(crate) fn unavailable(message: impl Into<String>) -> Self {
        Self {
            code: Code::Unavailable,
            message: message.into(),
        }
    }

    pub(crate) fn deadline() -> Self {
        Self {
            code: Code::DeadlineExceeded,
            message: "the deadline passed without an answer".to_owned(),
        }
    }

    /// Names the process that `self` is about.
    pub(crate) fn at(mut self, address: &impl fmt::Display) -> Self {
        self.message = format!("{address}: {}", self.message);
        self
    }
}

impl From<&Status> for Cause {
    fn from(status: &Status) -> Self {
        let mut message = status.message().to_owned();
        // The transport's own text is the wrapping; what happened is at the bottom of the chain.
        let mut source = status.source();
        while let Some(error) = source {
            source = error.source();
            let text = error.to_string();
            if source.is_none() && !message.contains(&text) {
                message = if message.is_empty() {
                    text
                } else {
                    format!("{message}: {text}")
                };
            }
        }
        Self {
            code: status.code(),
            message,
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.message.is_empty() {
            return formatter.write_str(self.code.description());
        }
        formatter.write_str(&self.message)
    }
}

/// A client cannot be made of this configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// There is nobody to ask.
    #[error("no acceptor's address was given: give at least one")]
    NoAcceptors,
}

/// A command was not ordered, or nobody knows.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// The command breaks a limit, which the text names. Nothing was sent.
    #[error("{0}")]
    Invalid(String),
    /// A proposer refused the command for good: it belongs to another cluster, or the contract does not serve it yet.
    /// Nothing was ordered; a retry does not help.
    #[error("refused: {0}")]
    Refused(Cause),
    /// No proposer could take the command before the deadline. Nothing was ordered: retry freely.
    #[error("nothing was proposed: {0}")]
    NotProposed(Cause),
    /// The command was sent, and may have been ordered or may yet be. Read the log to learn which. The library never
    /// sends such a command again.
    #[error("outcome unknown, the command may have been ordered: {0}")]
    OutcomeUnknown(Cause),
}

/// A subscription ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubscribeError {
    /// The position is not retained any more, or beyond the log's end; the text gives the range.
    #[error("{0}")]
    OutOfRange(Cause),
    /// No learner could be reached for as long as the caller was ready to wait.
    #[error("no learner answers: {0}")]
    Unavailable(Cause),
}

/// How one attempt to have a command ordered failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Failed {
    NotProposed(Cause),
    Refused(Cause),
    OutcomeUnknown(Cause),
}

impl Failed {
    /// Judges the answer to a command that was sent.
    pub(crate) fn judge(status: &Status) -> Self {
        let cause = Cause::from(status);
        match (fate_of(status), status.code()) {
            (Some(Fate::NotProposed), _) | (None, Code::ResourceExhausted) => Self::NotProposed(cause),
            (Some(Fate::OutcomeUnknown), _) => Self::OutcomeUnknown(cause),
            (
                None,
                Code::InvalidArgument
                | Code::FailedPrecondition
                | Code::Unimplemented
                | Code::OutOfRange
                | Code::Aborted,
            ) => Self::Refused(cause),
            // It says nothing of the command's fate, or comes from the transport: anything may have happened.
            (None, _) => Self::OutcomeUnknown(cause),
        }
    }
}

impl From<Failed> for ProposeError {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::NotProposed(cause) => Self::NotProposed(cause),
            Failed::Refused(cause) => Self::Refused(cause),
            Failed::OutcomeUnknown(cause) => Self::OutcomeUnknown(cause),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use paxos_common::status;

    #[test]
    fn fate_is_taken_from_the_answer_and_unknown_when_it_tells_none() {
        for (answer, not_proposed) in [
            (status::no_leader(Fate::NotProposed), true),
            (status::no_leader(Fate::OutcomeUnknown), false),
            (status::overloaded("the queue"), true),
            (Status::resource_exhausted("somebody else's queue"), true),
            (Status::unavailable("connection reset"), false),
            (status::deadline(Fate::NotProposed), true),
            (Status::deadline_exceeded(""), false),
            (Status::internal("h2 error"), false),
            (Status::cancelled("timeout"), false),
        ] {
            let expected = if not_proposed {
                Failed::NotProposed(Cause::from(&answer))
            } else {
                Failed::OutcomeUnknown(Cause::from(&answer))
            };
            assert_eq!(Failed::judge(&answer), expected, "{answer:?}");
        }
        for refusal in [
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
}
