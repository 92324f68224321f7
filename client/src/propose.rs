//! An attempt to have a command ordered, over the shared stream; and the repetition of attempts.

use std::time::Duration;

use paxos_common::{peer::Backoff, trace::names::method};
use paxos_proto::v1::Command;
use tokio::{
    sync::oneshot,
    time::{Instant, sleep, timeout_at},
};
use tonic::Code;

use crate::{
    Client, Version,
    error::{Cause, Failed, ProposeError},
    give_up::GiveUp,
    stream::{Sending, Submission},
};

/// Pauses between attempts of a command, from the shortest to the longest.
pub(crate) const ATTEMPT_PAUSE: (Duration, Duration) =
    (Duration::from_millis(10), Duration::from_millis(500));

impl Client {
    /// Why nothing was proposed before the deadline.
    pub(crate) fn too_late(&self) -> Cause {
        self.obstacle.get().unwrap_or_else(Cause::deadline)
    }

    pub(crate) async fn attempt(&self, command: Command, deadline: Instant) -> Result<Version, Failed> {
        let call = self.tracer.call(method::PROPOSE_STREAM);
        let sending = Sending::default();
        let submitting = self.submit(command, deadline, call.traceparent(), sending.clone());
        let result = submitting.await;
        if let Some(address) = sending.sent_to() {
            call.to(address);
        }
        match &result {
            Ok(_) => call.answered(Code::Ok, ""),
            Err(failed) => call.answered(failed.cause().code.grpc(), &failed.cause().message),
        }
        result
    }

    async fn submit(
        &self,
        command: Command,
        deadline: Instant,
        traceparent: String,
        sending: Sending,
    ) -> Result<Version, Failed> {
        let (answer, mut answered) = oneshot::channel();
        let _withdrawn_on_drop = Withdrawal(sending.clone());
        let submission = Submission {
            command,
            deadline,
            sending: sending.clone(),
            traceparent,
            answer,
        };
        let too_late = || Failed::NotProposed(self.too_late());
        let queued = tokio::select! {
            queued = timeout_at(deadline, self.queue.send(submission)) => queued,
            // Cancel safe: the command is dropped before it is queued.
            () = self.given_up.wait() => return Err(Failed::NotProposed(GiveUp::cause())),
        };
        match queued {
            Ok(Ok(())) => {}
            // The courier runs as long as any client exists; only the end of the runtime ends the courier earlier.
            Ok(Err(_closed)) => {
                return Err(Failed::NotProposed(Cause::unavailable("the client is stopping")));
            }
            Err(_elapsed) => return Err(too_late()),
        }
        let waited = tokio::select! {
            // An answer that has arrived counts.
            biased;
            waited = timeout_at(deadline, &mut answered) => waited,
            // Cancel safe: the command is withdrawn.
            cause = self.given_up.withdraw(&sending) => return Err(Failed::NotProposed(cause)),
        };
        match waited {
            Ok(Ok(result)) => result,
            _ if sending.withdraw() => Err(too_late()),
            Ok(Err(_closed)) => Err(Failed::OutcomeUnknown(Cause::deadline())),
            // The answer may have arrived at this very moment.
            Err(_elapsed) => answered
                .try_recv()
                .unwrap_or(Err(Failed::OutcomeUnknown(Cause::deadline()))),
        }
    }
}

/// Withdraws the command of a caller that is gone.
struct Withdrawal(Sending);

impl Drop for Withdrawal {
    fn drop(&mut self) {
        self.0.withdraw();
    }
}

/// Repeats attempts while the result is “not proposed” and the deadline leaves time for a further attempt.
pub(crate) async fn repeat<F>(
    deadline: Instant,
    attempt: impl Fn(Instant) -> F,
) -> Result<Version, ProposeError>
where
    F: Future<Output = Result<Version, Failed>>,
{
    let mut pause = Backoff::new(ATTEMPT_PAUSE.0, ATTEMPT_PAUSE.1);
    let mut last = None;
    loop {
        match attempt(deadline).await {
            Ok(version) => return Ok(version),
            Err(Failed::NotProposed(cause)) => {
                let delay = cause.retry_in(pause.next_delay());
                let cause = cause.after(last);
                last = Some(cause.clone());
                if Instant::now() + delay >= deadline {
                    return Err(ProposeError::NotProposed(cause));
                }
                sleep(delay).await;
            }
            Err(failed @ (Failed::Refused(_) | Failed::OutcomeUnknown(_))) => return Err(failed.into()),
        }
    }
}
