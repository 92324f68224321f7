//! Reading within a deadline: registers, decisions, and the end of the log.

use bytes::Bytes;
use paxos_common::trace::names::method;
use paxos_proto::v1::{ReadRequest, ReadResponse, read_request};
use tokio::time::Instant;

use crate::{
    Client, Slot,
    error::{Cause, Unanswered, WriteError},
    learners::{CallOptions, LearnerConnection},
    registers::{
        Condition, Consistency, Current, Decision, PageRequest, Register, RegisterPage, Written, put,
    },
};

impl Client {
    pub(crate) async fn decide_once(
        &self,
        name: Bytes,
        value: Bytes,
        deadline: Instant,
    ) -> Result<Decision, WriteError> {
        loop {
            let operation = put(name.clone(), value.clone(), Condition::Absent);
            let (own, current) = match self.write(operation, deadline).await? {
                Written::Applied { version } => {
                    return Ok(Decision {
                        winner: value,
                        version,
                        ours: true,
                    });
                }
                Written::ConditionFailed { version, current } => (version, current),
            };
            let winner = match current {
                Current::Register(register) => Some(register),
                // Another client wrote over the decision: from now on, every caller gets the present content.
                Current::Absent | Current::ValueGone(_) => {
                    let found = self
                        .read_key(name.clone(), Consistency::Linearizable, deadline)
                        .await;
                    found.map_err(|unanswered| WriteError::OutcomeNotRead {
                        version: own,
                        cause: unanswered.into_cause(),
                    })?
                }
            };
            if let Some(Register { value, version, .. }) = winner {
                return Ok(Decision {
                    winner: value,
                    version,
                    ours: false,
                });
            }
            // Deleted since. The command of this call certainly had no effect, so the next command is a new one.
        }
    }

    /// How much of the log is included in a read of this consistency.
    pub(crate) async fn end_of_log(&self, consistency: Consistency) -> Result<Slot, Unanswered> {
        // Any register will do.
        let key = Bytes::from_static(b"\0");
        let (_, applied_to) = self.look_up(key, consistency, self.deadline()).await?;
        Ok(applied_to)
    }

    /// A page of the registers whose key starts with `prefix`.
    pub(crate) async fn read_page(
        &self,
        prefix: Bytes,
        page: PageRequest,
        deadline: Instant,
    ) -> Result<RegisterPage, Unanswered> {
        let request = ReadRequest {
            target: Some(read_request::Target::Prefix(prefix)),
            consistency: Some(page.consistency.to_wire()),
            limit: page.limit,
            after: page.after.unwrap_or_default(),
        };
        let response = self.read(request, deadline).await?;
        let malformed = || Unanswered::Unavailable(malformed());
        let registers = response.registers.into_iter().map(Register::from_wire);
        Ok(RegisterPage {
            registers: registers.collect::<Option<_>>().ok_or_else(malformed)?,
            applied_to: Slot::new(response.applied_to).map_err(|_| malformed())?,
            next_after: Some(response.next_after).filter(|key| !key.is_empty()),
        })
    }

    pub(crate) async fn read_key(
        &self,
        key: Bytes,
        consistency: Consistency,
        deadline: Instant,
    ) -> Result<Option<Register>, Unanswered> {
        let (register, _) = self.look_up(key, consistency, deadline).await?;
        Ok(register)
    }

    /// A register, and the watermark of the read state.
    pub(crate) async fn look_up(
        &self,
        key: Bytes,
        consistency: Consistency,
        deadline: Instant,
    ) -> Result<(Option<Register>, Slot), Unanswered> {
        let request = ReadRequest {
            target: Some(read_request::Target::Key(key.clone())),
            consistency: Some(consistency.to_wire()),
            ..ReadRequest::default()
        };
        let response = self.read(request, deadline).await?;
        let applied_to = Slot::new(response.applied_to).map_err(|_| Unanswered::Refused(malformed()))?;
        match response.registers.into_iter().next() {
            None => Ok((None, applied_to)),
            Some(register) => Register::from_wire(register)
                .filter(|register| register.key == key)
                .map(|register| (Some(register), applied_to))
                .ok_or_else(|| Unanswered::Refused(malformed())),
        }
    }

    async fn read(&self, request: ReadRequest, deadline: Instant) -> Result<ReadResponse, Unanswered> {
        let call = |mut learner: LearnerConnection, options: CallOptions| {
            let request = options.request(request.clone());
            async move { learner.client.read(request).await }
        };
        self.learners.ask(deadline, method::READ, call).await
    }
}

fn malformed() -> Cause {
    Cause::unavailable("the learner answered with a register that cannot be")
}
