//! Registers: keys with values, the conditions and outcomes of writes, and how fresh a read is.

use bytes::Bytes;
use paxos_proto::v1::{self, Delete, Linearizable, Local, Put, command::Operation, condition, read_request};

use crate::{Slot, Version};

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
#[non_exhaustive]
pub enum Condition {
    /// No condition: always write.
    #[default]
    Always,
    /// The key has no value.
    Absent,
    /// The last write of the key has exactly this version.
    Version(Version),
}

impl Condition {
    pub(crate) fn to_wire(self) -> Option<v1::Condition> {
        let condition = match self {
            Self::Always => return None,
            Self::Absent => condition::Condition::Absent(true),
            Self::Version(version) => condition::Condition::Version(version.into()),
        };
        Some(v1::Condition {
            condition: Some(condition),
        })
    }

    /// `None` for an invalid condition.
    pub(crate) fn from_wire(condition: Option<v1::Condition>) -> Option<Self> {
        match condition {
            None => Some(Self::Always),
            Some(v1::Condition { condition }) => match condition? {
                condition::Condition::Absent(_) => Some(Self::Absent),
                condition::Condition::Version(version) => Version::try_from(version).ok().map(Self::Version),
            },
        }
    }
}

/// The outcome of a write.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
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

    /// Position of the command in the log.
    pub fn version(&self) -> Version {
        match self {
            Self::Applied { version } | Self::ConditionFailed { version, .. } => *version,
        }
    }
}

/// The content of a register at the time of a failed condition.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Current {
    /// No value.
    Absent,
    /// This register.
    Register(Register),
    /// The value written by this version. The value is not known any more: a later write has replaced the value, or the
    /// command is below the kept log.
    ValueGone(Version),
}

/// The result of [`Client::decide`](crate::Client::decide).
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
#[non_exhaustive]
pub enum Consistency {
    /// Sees every write acknowledged before the read began, by any client.
    #[default]
    Linearizable,
    /// Sees this version and everything before it; waits for a learner that has applied this version.
    AtLeast(Version),
    /// Sees whatever the asked learner has applied: the fastest read, and possibly an old state.
    Local,
}

impl Consistency {
    pub(crate) fn to_wire(self) -> read_request::Consistency {
        match self {
            Self::Linearizable => read_request::Consistency::Linearizable(Linearizable {}),
            Self::AtLeast(version) => read_request::Consistency::AtLeast(version.into()),
            Self::Local => read_request::Consistency::Local(Local {}),
        }
    }
}

/// The page of registers to read, and how fresh.
///
/// ```
/// # use paxos_client::PageRequest;
/// let mut request = PageRequest::default();
/// request.limit = 100;
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PageRequest {
    /// Only keys after this key: [`RegisterPage::next_after`] of the page before. `None`: from the first key on.
    pub after: Option<Bytes>,
    /// Maximum number of registers to return, up to 1,000; 0 means 1,000.
    pub limit: u32,
    /// How fresh the page must be.
    pub consistency: Consistency,
}

/// Some of the registers with a prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegisterPage {
    /// Ascending by key.
    pub registers: Vec<Register>,
    /// Watermark of the read state: every slot below is applied.
    pub applied_to: Slot,
    /// Set when more registers follow: continue after this key. A later page shows a later state.
    pub next_after: Option<Bytes>,
}

/// The operation that writes a register.
pub(crate) fn put(key: Bytes, value: Bytes, condition: Condition) -> Operation {
    Operation::Put(Put {
        key,
        value,
        condition: condition.to_wire(),
    })
}

/// The operation that removes a register.
pub(crate) fn delete(key: Bytes, condition: Condition) -> Operation {
    Operation::Delete(Delete {
        key,
        condition: condition.to_wire(),
    })
}
