//! Writing within a session: a command is proposed until it is known to be ordered, and the outcome is read.

use std::{sync::Arc, time::Duration};

use futures::{StreamExt as _, stream::FuturesUnordered};
use paxos_common::{peer::Backoff, trace::names::method};
use paxos_proto::v1::{
    Applied, Command, ConditionFailed, Duplicate, OpenSession, ResultRequest, ResultResponse, SessionStamp,
    command::Operation, duplicate, result_request, result_response,
};
use tokio::time::{Instant, sleep_until, timeout_at};
use tonic::{Response, Status};

use crate::{
    Client, Version,
    error::{Cause, Failed, Unanswered, WriteError},
    give_up::GiveUp,
    learners::{CallOptions, LearnerConnection},
    limits,
    propose::ATTEMPT_PAUSE,
    registers::{Current, Register, Written},
    session::{Session, Ticket},
};

/// Share of the remaining time, 1 / this, before the same command is proposed again. So several attempts fit before the
/// deadline, for example before the end of a tenure under renewal.
const ATTEMPT_SHARE: u32 = 4;
/// Bounds of this time: the minimum, the maximum after the first attempt, and the maximum after later attempts. The
/// second bound doubles, so that a slow cluster does not get more and more requests.
const ATTEMPT_PATIENCE: (Duration, Duration, Duration) = (
    Duration::from_millis(250),
    Duration::from_secs(3),
    Duration::from_secs(12),
);
/// Maximum number of unanswered attempts of a command.
const ATTEMPTS_MAX: usize = 8;

/// The result of the attempts to have a command ordered.
struct Ordered {
    version: Version,
    /// Sending time of the answered attempt.
    sent_at: Instant,
    /// Another attempt may have been ordered too.
    repeated: bool,
}

impl Client {
    /// Executes an operation exactly once: proposes the command in a session until it is known to be ordered, with any
    /// number of attempts, and then reads the outcome.
    pub(crate) async fn write(&self, operation: Operation, deadline: Instant) -> Result<Written, WriteError> {
        let mut command = Command {
            session: None,
            operation: Some(operation),
        };
        limits::check(&command)?;
        let (session, ticket) = tokio::select! {
            ready = self.ready(deadline) => ready?,
            // Cancel safe: an abandoned opening leaves an unused session.
            () = self.given_up.wait() => return Err(WriteError::NotProposed(GiveUp::cause())),
        };
        command.session = Some(ticket.stamp.clone());
        let ordered = self.order(&command, deadline).await?;
        ticket.ordered(ordered.sent_at);
        // One learner without the slot is enough: every learner has the outcome recorded in the session.
        let outcome = match self.read_outcome_unless_trimmed(ordered.version, deadline).await {
            Err(Unanswered::Trimmed(_)) => {
                let recorded = self.read_recorded(ticket.stamp.clone(), deadline).await;
                if let Err(Unanswered::Aborted(cause)) = recorded {
                    // The outcome is forgotten with the session.
                    self.sessions.leave(&session);
                    return Err(WriteError::OutcomeUnknown(cause));
                }
                recorded
            }
            Err(Unanswered::Aborted(cause)) => {
                self.sessions.leave(&session);
                // Another attempt may have taken effect while the session lived. The outcome is forgotten with the
                // session.
                return Err(if ordered.repeated {
                    WriteError::OutcomeUnknown(cause)
                } else {
                    WriteError::Expired
                });
            }
            outcome => outcome,
        };
        outcome.map_err(|unanswered| WriteError::OutcomeNotRead {
            version: ordered.version,
            cause: unanswered.into_cause(),
        })
    }

    /// A session, and a sequence for a command.
    async fn ready(&self, deadline: Instant) -> Result<(Arc<Session>, Ticket), WriteError> {
        let session = match timeout_at(deadline, self.session(deadline)).await {
            Ok(session) => session?,
            Err(_elapsed) => return Err(WriteError::NotProposed(self.too_late())),
        };
        match session.ticket(deadline).await {
            Some(ticket) => Ok((session, ticket)),
            None => Err(WriteError::NotProposed(Cause::unavailable(
                "too many commands of this client wait for their outcome",
            ))),
        }
    }

    async fn session(&self, deadline: Instant) -> Result<Arc<Session>, WriteError> {
        self.sessions
            .current(async |opener| self.open_session(opener, deadline).await)
            .await
    }

    /// Opens a session. Returns the version of the first answered opening, as the name of the session, and its sending
    /// time.
    async fn open_session(
        &self,
        opener: bytes::Bytes,
        deadline: Instant,
    ) -> Result<(Version, Instant), WriteError> {
        let command = Command {
            session: None,
            operation: Some(Operation::OpenSession(OpenSession { opener })),
        };
        match self.order(&command, deadline).await {
            Ok(ordered) => Ok((ordered.version, ordered.sent_at)),
            // An opening with a lost answer is never used, and expires.
            Err(WriteError::OutcomeUnknown(cause)) => Err(WriteError::NotProposed(cause)),
            Err(error) => Err(error),
        }
    }

    /// Proposes the same command until it is known to be ordered. An unanswered attempt stays open while the next
    /// attempt begins. So a slow cluster is heard, and a hanging proposer does not use up all the time.
    async fn order(&self, command: &Command, deadline: Instant) -> Result<Ordered, WriteError> {
        let mut attempts = Attempts::new(deadline);
        let mut open = FuturesUnordered::new();
        let mut next_at = Instant::now();
        let mut unknown = false;
        let mut last = None;
        let mut given_up = false;
        loop {
            if open.is_empty() && (given_up || next_at >= deadline) {
                let why = if given_up {
                    GiveUp::cause()
                } else {
                    Cause::deadline()
                };
                let cause = last.unwrap_or(why);
                return Err(if unknown {
                    WriteError::OutcomeUnknown(cause)
                } else {
                    WriteError::NotProposed(cause)
                });
            }
            tokio::select! {
                biased;
                // Cancel safe: an ended attempt is taken out, the other attempts stay.
                Some((sent_at, result)) = open.next() => {
                    let cause = match result {
                        Ok(version) => {
                            let repeated = unknown || !open.is_empty();
                            return Ok(Ordered { version, sent_at, repeated });
                        }
                        Err(Failed::Refused(cause)) if unknown || !open.is_empty() => {
                            return Err(WriteError::OutcomeUnknown(cause));
                        }
                        Err(Failed::Refused(cause)) => return Err(WriteError::Refused(cause)),
                        Err(Failed::NotProposed(cause)) => cause,
                        Err(Failed::OutcomeUnknown(cause)) => {
                            unknown = true;
                            cause
                        }
                    };
                    let retry_at = Instant::now() + cause.retry_in(attempts.pause.next_delay());
                    next_at = if cause.retry_delay.is_some() {
                        retry_at
                    } else {
                        next_at.min(retry_at)
                    };
                    last = Some(cause.after(last));
                }
                // Cancel safe: a timer.
                () = sleep_until(next_at), if open.len() < ATTEMPTS_MAX && next_at < deadline && !given_up => {
                    let sent_at = Instant::now();
                    open.push(async move { (sent_at, self.attempt(command.clone(), deadline).await) });
                    next_at = attempts.next_at(sent_at);
                }
                // Cancel safe: only waits. Open attempts go on: an unsent command is withdrawn.
                () = self.given_up.wait(), if !given_up => given_up = true,
            }
        }
    }

    /// The outcome of the command at `version`.
    pub(crate) async fn read_outcome(
        &self,
        version: Version,
        deadline: Instant,
    ) -> Result<Written, Unanswered> {
        let request = |learner, options| by_version(learner, options, version);
        let response = self.learners.ask(deadline, method::RESULT, request).await?;
        written(version, response).ok_or_else(unknown_outcome)
    }

    /// As [`Self::read_outcome`], but ends when one learner does not keep the slot any more.
    async fn read_outcome_unless_trimmed(
        &self,
        version: Version,
        deadline: Instant,
    ) -> Result<Written, Unanswered> {
        let request = |learner, options| by_version(learner, options, version);
        let response = self
            .learners
            .ask_unless_trimmed(deadline, method::RESULT, request)
            .await?;
        written(version, response).ok_or_else(unknown_outcome)
    }

    /// The outcome recorded for a command of a session. Recorded outcomes may live longer than the log.
    async fn read_recorded(&self, stamp: SessionStamp, deadline: Instant) -> Result<Written, Unanswered> {
        let request = |learner, options| {
            let command = result_request::Command::Session(stamp.clone());
            call_result(learner, options, command)
        };
        let response = self.learners.ask(deadline, method::RESULT, request).await?;
        let version = response
            .version
            .and_then(|version| Version::try_from(version).ok());
        version
            .and_then(|version| written(version, response))
            .ok_or_else(unknown_outcome)
    }
}

/// Asks one learner for the outcome of the command at `version`: over the stream of outcomes, or by a call.
async fn by_version(
    learner: LearnerConnection,
    options: CallOptions,
    version: Version,
) -> Result<Response<ResultResponse>, Status> {
    // A traced call has spans of its own, at the learner too.
    if !options.is_traced()
        && let Some(answer) = learner.outcomes.outcome(&learner.client, version).await
    {
        return answer.map(Response::new);
    }
    let command = result_request::Command::Version(version.into());
    call_result(learner, options, command).await
}

/// Calls one learner for the outcome of a command.
async fn call_result(
    mut learner: LearnerConnection,
    options: CallOptions,
    command: result_request::Command,
) -> Result<Response<ResultResponse>, Status> {
    let request = options.request(ResultRequest {
        command: Some(command),
    });
    learner.client.result(request).await
}

fn unknown_outcome() -> Unanswered {
    Unanswered::Refused(Cause::unavailable(
        "the learner answered with an outcome unknown to this client",
    ))
}

/// The schedule of a command's attempts.
struct Attempts {
    deadline: Instant,
    longest: Duration,
    pause: Backoff,
}

impl Attempts {
    fn new(deadline: Instant) -> Self {
        Self {
            deadline,
            longest: ATTEMPT_PATIENCE.1,
            pause: Backoff::new(ATTEMPT_PAUSE.0, ATTEMPT_PAUSE.1),
        }
    }

    /// When the next attempt begins, if an attempt begun at `now` has no answer by then.
    fn next_at(&mut self, now: Instant) -> Instant {
        let share = self.deadline.saturating_duration_since(now) / ATTEMPT_SHARE;
        let patience = share.clamp(ATTEMPT_PATIENCE.0, self.longest);
        self.longest = (2 * self.longest).min(ATTEMPT_PATIENCE.2);
        now + patience
    }
}

/// Reads an outcome off the wire. A duplicate has the first outcome: the command's own. `None` for an invalid response.
fn written(version: Version, response: ResultResponse) -> Option<Written> {
    match response.outcome? {
        result_response::Outcome::Applied(Applied {}) => Some(Written::Applied { version }),
        result_response::Outcome::ConditionFailed(failed) => condition_failed(version, failed),
        result_response::Outcome::Duplicate(Duplicate { first, outcome }) => {
            let first = Version::try_from(first?).ok()?;
            match outcome? {
                duplicate::Outcome::Applied(Applied {}) => Some(Written::Applied { version: first }),
                duplicate::Outcome::ConditionFailed(failed) => condition_failed(first, failed),
            }
        }
    }
}

fn condition_failed(version: Version, failed: ConditionFailed) -> Option<Written> {
    let current = match failed.current {
        None => Current::Absent,
        Some(register) if failed.value_gone => Current::ValueGone(Version::try_from(register.version?).ok()?),
        Some(register) => Current::Register(Register::from_wire(register)?),
    };
    Some(Written::ConditionFailed { version, current })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Slot, give_up::GiveUpSwitch};
    use paxos_proto::v1;

    fn version(slot: u64) -> Version {
        Version {
            slot: Slot::new(slot).unwrap(),
            offset: 0,
        }
    }

    fn read(outcome: result_response::Outcome) -> Option<Written> {
        let response = ResultResponse {
            version: Some(version(9).into()),
            outcome: Some(outcome),
            applied_to: 10,
        };
        written(version(9), response)
    }

    #[tokio::test(start_paused = true)]
    async fn attempts_leave_time_for_others_before_a_tenure_ends() {
        let begins = |millis| {
            let begun = Instant::now();
            let deadline = begun + Duration::from_millis(millis);
            let mut attempts = Attempts::new(deadline);
            let times = std::iter::successors(Some(begun), |&at| Some(attempts.next_at(at)));
            times.take_while(|&at| at < deadline).count()
        };
        // The rest of a time to live of 5 s when the first renewal begins.
        assert!(begins(2_830) >= 6, "{}", begins(2_830));
        assert!(begins(500) >= 2, "{}", begins(500));
        assert!(begins(60_000) <= 20, "{}", begins(60_000));
    }

    #[tokio::test]
    async fn write_that_is_given_up_before_it_is_sent_was_not_proposed() {
        let closed = || "http://127.0.0.1:1".parse().unwrap();
        let mut config = crate::ClientConfig::new(["http://127.0.0.1:1"]).unwrap();
        config.proposers = vec![closed()];
        config.timeout = Duration::from_secs(3_600);
        let (switch, given_up) = GiveUpSwitch::new();
        let client = Client::new(config).unwrap().with_give_up(given_up);
        let opening = Command {
            session: None,
            operation: Some(Operation::OpenSession(OpenSession::default())),
        };
        let giving_up = async {
            // The command is queued, and the proposer was tried.
            while client.obstacle.get().is_none() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            switch.give_up();
        };
        let ordering = client.order(&opening, client.deadline());
        let (ordered, ()) = tokio::join!(ordering, giving_up);
        assert!(matches!(ordered, Err(WriteError::NotProposed(_))));
        // The next write begins nothing.
        let written = client.put("key", "value").await;
        assert!(matches!(written, Err(WriteError::NotProposed(_))), "{written:?}");
    }

    #[test]
    fn duplicate_reports_the_first_outcome_and_its_version() {
        let duplicate = |outcome| {
            result_response::Outcome::Duplicate(Duplicate {
                first: Some(version(4).into()),
                outcome,
            })
        };
        let applied = Some(duplicate::Outcome::Applied(Applied {}));
        assert_eq!(
            read(duplicate(applied)),
            Some(Written::Applied { version: version(4) })
        );
        let failed = Some(duplicate::Outcome::ConditionFailed(ConditionFailed::default()));
        assert_eq!(
            read(duplicate(failed)),
            Some(Written::ConditionFailed {
                version: version(4),
                current: Current::Absent
            })
        );
        assert_eq!(read(duplicate(None)), None);
    }

    #[test]
    fn failed_condition_reports_the_register_or_that_its_value_is_gone() {
        let failed = |value_gone| {
            result_response::Outcome::ConditionFailed(ConditionFailed {
                current: Some(v1::Register {
                    key: "key".into(),
                    value: if value_gone { "" } else { "value" }.into(),
                    version: Some(version(3).into()),
                }),
                value_gone,
            })
        };
        let Some(Written::ConditionFailed {
            current: Current::Register(register),
            ..
        }) = read(failed(false))
        else {
            panic!("the register is reported")
        };
        assert_eq!(
            (&register.value[..], register.version),
            (&b"value"[..], version(3))
        );
        assert_eq!(
            read(failed(true)),
            Some(Written::ConditionFailed {
                version: version(9),
                current: Current::ValueGone(version(3))
            })
        );
    }
}
