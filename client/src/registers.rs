//! Registers: keys with values, written with conditions and read from learners.

use std::time::Duration;

use bytes::Bytes;
use paxos_common::trace::names::method;
use paxos_proto::v1::{
    self, Delete, Linearizable, Local, Put, ReadRequest, ReadResponse, command::Operation, condition,
    learner_client::LearnerClient, read_request,
};
use tokio::time::Instant;

use crate::{
    Client, Slot, Version,
    client::deadline_in,
    error::{Cause, ReadError, Unanswered, WriteError},
    learners::Terms,
    limits,
};

/// A key, the value, and the version of the last write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Register {
    /// 1 byte to [4 KiB](crate::KEY_BYTES_MAX).
    pub key: Bytes,
    /// Up to [1 MiB](crate::VALUE_BYTES_MAX); may be empty.
    pub value: Bytes,
    /// The position of the command that wrote the value.
    pub version: Version,
}

impl Register {
    pub(crate) fn from_wire(register: v1::Register) -> Option<Self> {
        Some(Self {
            key: register.key,
            value: register.value,
            version: Version::try_from(register.version?).ok()?,
        })
    }
}

/// The condition under which a write of a register takes effect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Condition {
    /// No condition: always write.
    #[default]
    Always,
    /// The key has no value.
    Absent,
    /// The last write of the key has exactly this version.
    Version(Version),
}

impl From<Condition> for Option<v1::Condition> {
    fn from(condition: Condition) -> Self {
        let condition = match condition {
            Condition::Always => return None,
            Condition::Absent => condition::Condition::Absent(true),
            Condition::Version(version) => condition::Condition::Version(version.into()),
        };
        Some(v1::Condition {
            condition: Some(condition),
        })
    }
}

/// The outcome of a write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Written {
    /// The write took effect, once, whatever the number of attempts.
    Applied {
        /// Position in the log: after a put, the version of the register.
        version: Version,
    },
    /// The condition was false when the command was applied. Nothing was changed, and nothing will be.
    ConditionFailed {
        /// Position of the command in the log.
        version: Version,
        /// The content of the register at that time.
        current: Current,
    },
}

impl Written {
    /// Whether the write took effect.
    pub fn is_applied(&self) -> bool {
        matches!(self, Self::Applied { .. })
    }
}

/// The content of a register at the time of a failed condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Current {
    /// No value.
    Absent,
    /// This register.
    Register(Register),
    /// The value written by this version. The value has been overwritten since, and is not kept.
    ValueGone(Version),
}

/// The result of [`Client::decide`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The decided value, the same for every caller.
    pub winner: Bytes,
    /// The version of the deciding command.
    pub version: Version,
    /// Whether the command of this call decided, and not merely a command with an equal value.
    pub ours: bool,
}

/// How fresh a read must be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Consistency {
    /// Sees every write acknowledged before the read began, by any client.
    #[default]
    Linearizable,
    /// Sees this version and everything before it; waits for a learner that has applied this version.
    AtLeast(Version),
    /// Sees whatever the asked learner has applied: the fastest read, and possibly an old state.
    Local,
}

impl From<Consistency> for read_request::Consistency {
    fn from(consistency: Consistency) -> Self {
        match consistency {
            Consistency::Linearizable => Self::Linearizable(Linearizable {}),
            Consistency::AtLeast(version) => Self::AtLeast(version.into()),
            Consistency::Local => Self::Local(Local {}),
        }
    }
}

/// The part of the registers with a prefix to read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Part {
    /// Only keys after this key: [`Page::next_after`] of the page before. `None`: from the first key on.
    pub after: Option<Bytes>,
    /// Maximum number of registers to return, up to 1,000; 0 means 1,000.
    pub limit: u32,
}

/// Some of the registers with a prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// Ascending by key.
    pub registers: Vec<Register>,
    /// Watermark of the read state: every slot below is applied.
    pub applied_to: Slot,
    /// Set when more registers follow: continue after this key. A later page shows a later state.
    pub next_after: Option<Bytes>,
}

impl Client {
    /// Writes a register, exactly once. A failed condition is an outcome, not an error.
    ///
    /// Within `timeout`, the command is repeated in a session until it is known to be ordered. A learner then reports
    /// the outcome.
    ///
    /// # Errors
    /// See [`WriteError`]; [`had_no_effect`](WriteError::had_no_effect) says whether a retry is safe.
    ///
    /// # Cancel safety
    /// Dropping the future gives up the outcome: the command may still take effect.
    pub async fn put(
        &self,
        key: impl Into<Bytes>,
        value: impl Into<Bytes>,
        condition: Condition,
        timeout: Duration,
    ) -> Result<Written, WriteError> {
        let writing = self.write(put(key.into(), value.into(), condition), deadline_in(timeout));
        self.tracer.operation("client.put", writing).await
    }

    /// Removes a register, exactly once, like [`put`](Self::put). Removing an absent register counts as applied.
    ///
    /// # Errors
    /// As [`put`](Self::put).
    ///
    /// # Cancel safety
    /// As [`put`](Self::put).
    pub async fn delete(
        &self,
        key: impl Into<Bytes>,
        condition: Condition,
        timeout: Duration,
    ) -> Result<Written, WriteError> {
        let operation = Operation::Delete(Delete {
            key: key.into(),
            condition: condition.into(),
        });
        let writing = self.write(operation, deadline_in(timeout));
        self.tracer.operation("client.delete", writing).await
    }

    /// Decides a name: the value of the first caller ever wins, and every caller gets the same answer.
    ///
    /// The decision lasts as long as no client puts or deletes the register of this name.
    ///
    /// # Errors
    /// As [`put`](Self::put). A retry is always safe: the name is decided once.
    ///
    /// # Cancel safety
    /// As [`put`](Self::put).
    pub async fn decide(
        &self,
        name: impl Into<Bytes>,
        value: impl Into<Bytes>,
        timeout: Duration,
    ) -> Result<Decision, WriteError> {
        let deciding = self.decide_once(name.into(), value.into(), deadline_in(timeout));
        self.tracer.operation("client.decide", deciding).await
    }

    async fn decide_once(
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

    /// Reads a register from some learner, without any proposer. Returns `None` for an absent register.
    ///
    /// # Errors
    /// See [`ReadError`].
    ///
    /// # Cancel safety
    /// Safe: the call only reads.
    pub async fn get(
        &self,
        key: impl Into<Bytes>,
        consistency: Consistency,
        timeout: Duration,
    ) -> Result<Option<Register>, ReadError> {
        let key = key.into();
        limits::check_key(&key)?;
        let reading = self.read_key(key, consistency, deadline_in(timeout));
        Ok(self.tracer.operation("client.get", reading).await?)
    }

    /// Reads the registers whose key starts with `prefix`, in key order, a page at a time. The empty prefix selects all
    /// registers.
    ///
    /// # Errors
    /// See [`ReadError`].
    ///
    /// # Cancel safety
    /// Safe: the call only reads.
    pub async fn get_prefix(
        &self,
        prefix: impl Into<Bytes>,
        part: Part,
        consistency: Consistency,
        timeout: Duration,
    ) -> Result<Page, ReadError> {
        let prefix = prefix.into();
        limits::check_prefix(&prefix)?;
        if let Some(after) = &part.after {
            limits::check_key(after)?;
        }
        let request = ReadRequest {
            target: Some(read_request::Target::Prefix(prefix)),
            consistency: Some(consistency.into()),
            limit: part.limit,
            after: part.after.unwrap_or_default(),
        };
        let reading = self.read(request, deadline_in(timeout));
        let response = self.tracer.operation("client.get_prefix", reading).await?;
        let malformed = || ReadError::Unavailable(malformed());
        let registers = response.registers.into_iter().map(Register::from_wire);
        Ok(Page {
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
            consistency: Some(consistency.into()),
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
        let call = |mut client: LearnerClient<_>, terms: Terms| {
            let request = terms.request(request.clone());
            async move { client.read(request).await }
        };
        self.learners.ask(deadline, method::READ, call).await
    }
}

fn put(key: Bytes, value: Bytes, condition: Condition) -> Operation {
    Operation::Put(Put {
        key,
        value,
        condition: condition.into(),
    })
}

fn malformed() -> Cause {
    Cause::unavailable("the learner answered with an invalid register")
}
