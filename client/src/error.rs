//! The errors of the library, as far as callers must distinguish them.

use std::{error::Error as _, fmt, time::Duration};

use paxos_common::{
    escape::escape,
    wire::status::{Fate, KeptSlots, fate_of, kept_slots_of, retry_delay_of},
};
use tonic::{Code, Status};

use crate::{Version, code::ErrorCode, limits::LimitExceeded, transport};

/// Longest requested wait that the client keeps, so that a single process cannot stop the client.
const RETRY_DELAY_MAX: Duration = Duration::from_secs(5);

/// The cause of a failed call: the answer of the peer, or the fate of the connection.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Cause {
    /// The gRPC code.
    pub code: ErrorCode,
    /// A message for people.
    pub message: String,
    /// Shortest wait before a retry, as requested by the cluster. `None`: no request, or a retry does not help.
    pub retry_delay: Option<Duration>,
    /// TLS, or the scheme of the address, kept a connection from being made.
    is_about_tls: bool,
    /// The client needs other addresses.
    is_permanent: bool,
}

impl Cause {
    /// A cause with this code and message.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            retry_delay: None,
            is_about_tls: false,
            is_permanent: false,
        }
    }

    pub(crate) fn unavailable(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::Unavailable, message)
    }

    pub(crate) fn deadline() -> Self {
        Self::new(
            ErrorCode::DeadlineExceeded,
            "the deadline passed without an answer",
        )
    }

    /// The cause to report after several attempts: the last cause. If the last attempt only ran into the deadline, the
    /// cause before says more.
    pub(crate) fn after(self, before: Option<Self>) -> Self {
        match before {
            Some(before) if self == Self::deadline() => before,
            Some(_) | None => self,
        }
    }

    /// The wait before a retry: `pause`, or the wait requested by the cluster, if longer.
    pub(crate) fn retry_in(&self, pause: Duration) -> Duration {
        longer(pause, self.retry_delay)
    }

    /// Whether TLS kept a connection from being made: a certificate, the scheme of an address, or a process that does not
    /// speak TLS. For the advice of `paxos status`.
    #[doc(hidden)]
    pub fn is_about_tls(&self) -> bool {
        self.is_about_tls
    }

    /// Whether a retry does not help: the client needs another certificate, or other addresses.
    pub(crate) fn is_permanent(&self) -> bool {
        self.code == ErrorCode::PermissionDenied || self.is_permanent
    }

    /// The same cause, of an error that a retry does not help.
    pub(crate) fn permanent(mut self) -> Self {
        self.is_permanent = true;
        self
    }

    /// Names the process in question.
    pub(crate) fn at(mut self, address: &impl fmt::Display) -> Self {
        self.message = format!("{address}: {}", self.message);
        self
    }

    /// The cause of a failed call, off the wire.
    pub(crate) fn of(status: &Status) -> Self {
        let mut message = status.message().to_owned();
        // The transport's own text is only the wrapping; the actual event is at the bottom of the chain.
        let (mut source, mut is_about_tls) = (status.source(), false);
        while let Some(error) = source {
            is_about_tls |= transport::is_about_tls(error);
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
            code: ErrorCode::of(status.code()),
            // The text comes from a peer, and appears on terminals and in logs.
            message: escape(&message).into_owned(),
            retry_delay: retry_delay_of(status),
            is_about_tls,
            is_permanent: false,
        }
    }
}

/// The longer of a pause of the client and a wait requested by the cluster.
pub(crate) fn longer(pause: Duration, requested: Option<Duration>) -> Duration {
    let requested = requested.unwrap_or_default();
    pause.max(requested.min(RETRY_DELAY_MAX))
}

impl fmt::Display for Cause {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.message.is_empty() {
            return self.code.fmt(formatter);
        }
        formatter.write_str(&self.message)
    }
}

/// The configuration cannot be used for a client.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The list of acceptors is empty.
    #[error("no acceptor's address was given: give at least one address")]
    NoAcceptors,
    /// A text is not the URL of an acceptor.
    #[error("{0}")]
    Address(String),
    /// The files of the TLS identity cannot be used.
    #[error("{0}")]
    Tls(String),
}

/// A command was not ordered, or its outcome is unknown.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProposeError {
    /// The command breaks a limit; the text names the limit. Nothing was sent.
    #[error("{0}")]
    Invalid(String),
    /// A proposer refused the command permanently: the command belongs to another cluster, or the contract does not
    /// serve the command yet. Or the given acceptors were removed, and no member answers. Nothing was ordered; a retry does not
    /// help.
    #[error("refused: {0}")]
    Refused(Cause),
    /// No proposer could take the command before the deadline. Nothing was ordered: a retry is safe.
    #[error("nothing was proposed: {0}")]
    NotProposed(Cause),
    /// The command was sent, and may have been ordered or may still be ordered. The log shows the outcome. The library
    /// never sends such a command again.
    #[error("outcome unknown, the command may have been ordered: {0}")]
    OutcomeUnknown(Cause),
}

/// A write of a register, or an append that takes effect once, failed or has no known outcome.
///
/// A failed condition is an outcome, not an error.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// The command breaks a limit; the text names the limit. Nothing was sent.
    #[error("{0}")]
    Invalid(String),
    /// A proposer refused the command permanently, or the given acceptors were removed and no member answers. Nothing was
    /// ordered; a retry does not help.
    #[error("refused: {0}")]
    Refused(Cause),
    /// No proposer could take the command before the deadline. Nothing was ordered: a retry is safe.
    #[error("nothing was proposed: {0}")]
    NotProposed(Cause),
    /// The session had expired before the command was applied, so the command had no effect. A retry is safe, and opens
    /// a new session.
    #[error("the session had expired, so the command had no effect: try again")]
    Expired,
    /// The deadline passed, or the session expired, after the command was sent. The command may have taken effect, or
    /// may still take effect. Read the target of the write, and write again on the condition of the version that was
    /// read.
    #[error("outcome unknown, the command may have taken effect: {0}")]
    OutcomeUnknown(Cause),
    /// The command is ordered at this version permanently, but no learner reported the outcome in time:
    /// [`Client::outcome`](crate::Client::outcome) asks again.
    #[error("ordered at version {version}, but the outcome was not read in time: {cause}")]
    OutcomeNotRead {
        /// Position of the command in the log.
        version: Version,
        /// Why no learner reported the outcome.
        cause: Cause,
    },
}

impl WriteError {
    /// Whether the command certainly had no effect, and never will have.
    pub fn had_no_effect(&self) -> bool {
        match self {
            Self::Invalid(_) | Self::Refused(_) | Self::NotProposed(_) | Self::Expired => true,
            Self::OutcomeUnknown(_) | Self::OutcomeNotRead { .. } => false,
        }
    }
}

/// A read was not answered. Reads change nothing: a retry is safe.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The request breaks a limit; the text names the limit.
    #[error("{0}")]
    Invalid(String),
    /// The learner refused the request permanently, or the given acceptors were removed and no member answers.
    #[error("refused: {0}")]
    Refused(Cause),
    /// The requested version is beyond the cluster's tail; the text gives the range.
    #[error("{0}")]
    OutOfRange(Cause),
    /// The requested version is below the kept log of every learner.
    #[error("{cause}")]
    Trimmed {
        /// The longest kept log of a learner.
        kept: KeptSlots,
        /// The answer of this learner.
        cause: Cause,
    },
    /// The request was for the outcome of a command in an expired session: at this version, the command had no effect.
    /// An earlier attempt of the same command may have been ordered at another version, while the session lived.
    #[error("at this version the command had no effect: {0}")]
    Expired(Cause),
    /// No learner answered before the deadline.
    #[error("no learner answered in time: {0}")]
    Unavailable(Cause),
}

/// A subscription or watch ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SubscribeError {
    /// The position is beyond the end of the log; the text gives the range.
    #[error("{0}")]
    OutOfRange(Cause),
    /// The position is below the kept log of every learner. The updates before this error are complete.
    #[error("{cause}")]
    Trimmed {
        /// The longest kept log of a learner.
        kept: KeptSlots,
        /// The answer of this learner.
        cause: Cause,
    },
    /// The request breaks a limit; the text names the limit.
    #[error("{0}")]
    Invalid(String),
    /// A learner refused the request permanently: the client needs another certificate. Or the given acceptors were removed,
    /// and no member answers.
    #[error("refused: {0}")]
    Refused(Cause),
    /// No learner could be reached within the client's timeout.
    #[error("no learner answers: {0}")]
    Unavailable(Cause),
}

/// How an attempt to have a command ordered failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Failed {
    NotProposed(Cause),
    Refused(Cause),
    OutcomeUnknown(Cause),
}

impl Failed {
    /// No proposer was found for the command.
    pub(crate) fn no_proposer(cause: Cause) -> Self {
        if cause.is_permanent() {
            Self::Refused(cause)
        } else {
            Self::NotProposed(cause)
        }
    }

    /// The cause of the failure.
    pub(crate) fn cause(&self) -> &Cause {
        match self {
            Self::NotProposed(cause) | Self::Refused(cause) | Self::OutcomeUnknown(cause) => cause,
        }
    }

    /// Judges the answer to a sent command.
    pub(crate) fn judge(status: &Status) -> Self {
        let cause = Cause::of(status);
        match (fate_of(status), status.code()) {
            // The registers have the maximum size: a retry does not help.
            (Some(Fate::NotProposed), Code::ResourceExhausted) if cause.retry_delay.is_none() => {
                Self::Refused(cause)
            }
            // Another certificate is needed.
            (Some(Fate::NotProposed), Code::PermissionDenied) => Self::Refused(cause),
            (Some(Fate::NotProposed), _) => Self::NotProposed(cause),
            (Some(Fate::OutcomeUnknown), _) => Self::OutcomeUnknown(cause),
            (
                None,
                Code::InvalidArgument
                | Code::FailedPrecondition
                | Code::Unimplemented
                | Code::OutOfRange
                | Code::Aborted,
            ) => Self::Refused(cause),
            // The answer says nothing about the command's fate, or comes from the transport: anything may have
            // happened.
            (None, _) => Self::OutcomeUnknown(cause),
        }
    }
}

/// The answer of learners that do not keep the requested slot any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TrimmedAnswer {
    pub(crate) kept: KeptSlots,
    pub(crate) cause: Cause,
}

impl TrimmedAnswer {
    /// A learner's answer, if the learner does not keep the requested slot any more.
    pub(crate) fn of(status: &Status) -> Option<Self> {
        let kept = kept_slots_of(status)?;
        let cause = Cause::of(status);
        Some(Self { kept, cause })
    }

    /// The answer of the learner that keeps more slots.
    pub(crate) fn or_longer(self, other: Option<Self>) -> Self {
        match other {
            Some(other) if other.kept.from < self.kept.from => other,
            Some(_) | None => self,
        }
    }
}

/// How a request to the learners failed finally.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unanswered {
    #[error("{0}")]
    Invalid(Cause),
    #[error("{0}")]
    Refused(Cause),
    #[error("{0}")]
    OutOfRange(Cause),
    /// Every learner of a round has answered so.
    #[error("{}", .0.cause)]
    Trimmed(TrimmedAnswer),
    #[error("{0}")]
    Aborted(Cause),
    /// No learner answered before the deadline.
    #[error("{0}")]
    Unavailable(Cause),
}

impl Unanswered {
    /// Judges a learner's error; `None`: another learner may do better. A log that is too short is judged elsewhere, for
    /// all learners together.
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "any other code, and any future one, says nothing about the other learners"
    )]
    pub(crate) fn judge(status: &Status) -> Option<Self> {
        let cause = Cause::of(status);
        match status.code() {
            Code::InvalidArgument => Some(Self::Invalid(cause)),
            Code::FailedPrecondition | Code::PermissionDenied => Some(Self::Refused(cause)),
            Code::OutOfRange => Some(Self::OutOfRange(cause)),
            Code::Aborted => Some(Self::Aborted(cause)),
            _ => None,
        }
    }
}

impl Unanswered {
    pub(crate) fn into_cause(self) -> Cause {
        match self {
            Self::Invalid(cause)
            | Self::Refused(cause)
            | Self::OutOfRange(cause)
            | Self::Aborted(cause)
            | Self::Trimmed(TrimmedAnswer { cause, .. })
            | Self::Unavailable(cause) => cause,
        }
    }
}

impl From<Unanswered> for ReadError {
    fn from(unanswered: Unanswered) -> Self {
        match unanswered {
            Unanswered::Invalid(cause) => Self::Invalid(cause.to_string()),
            Unanswered::Refused(cause) => Self::Refused(cause),
            Unanswered::OutOfRange(cause) => Self::OutOfRange(cause),
            Unanswered::Trimmed(TrimmedAnswer { kept, cause }) => Self::Trimmed { kept, cause },
            Unanswered::Aborted(cause) => Self::Expired(cause),
            Unanswered::Unavailable(cause) => Self::Unavailable(cause),
        }
    }
}

impl From<TrimmedAnswer> for SubscribeError {
    fn from(TrimmedAnswer { kept, cause }: TrimmedAnswer) -> Self {
        Self::Trimmed { kept, cause }
    }
}

impl From<LimitExceeded> for ProposeError {
    fn from(LimitExceeded(text): LimitExceeded) -> Self {
        Self::Invalid(text)
    }
}

impl From<LimitExceeded> for WriteError {
    fn from(LimitExceeded(text): LimitExceeded) -> Self {
        Self::Invalid(text)
    }
}

impl From<LimitExceeded> for ReadError {
    fn from(LimitExceeded(text): LimitExceeded) -> Self {
        Self::Invalid(text)
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

/// Reads the version in a proposer's answer.
///
/// # Errors
/// No version of a log: the proposer is faulty.
pub(crate) fn read_version(version: paxos_proto::v1::Version) -> Result<Version, Cause> {
    Version::try_from(version)
        .map_err(|_| Cause::unavailable("the proposer answered with an impossible version"))
}

#[cfg(test)]
mod tests;
