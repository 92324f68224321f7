//! Commands: client requests to be ordered, in the form used by the state machine.

use std::fmt;

use bytes::Bytes;

use super::slot::Version;

/// A client's request, at some position of the log.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Command {
    /// Absent: a retry may take effect a second time.
    pub session: Option<SessionStamp>,
    /// The requested operation.
    pub operation: Operation,
}

/// The operation of a command.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// A record for subscribers of the log only. The record changes nothing in the state machine, and is not held
    /// there.
    Append,
    /// Writes a register, if the condition holds.
    Put {
        /// 1 byte to 4 KiB.
        key: Bytes,
        /// At most 1 MiB.
        value: Bytes,
        /// The condition to hold.
        condition: Condition,
    },
    /// Removes a register, if the condition holds.
    Delete {
        /// 1 byte to 4 KiB.
        key: Bytes,
        /// The condition to hold.
        condition: Condition,
    },
    /// Opens a session. The version of this command becomes the session's name.
    OpenSession {
        /// Who may use the session; `None`: every caller.
        opener: Option<Opener>,
    },
}

/// Condition on a register, at the moment of applying the command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Condition {
    /// No condition.
    Always,
    /// The register holds nothing.
    Absent,
    /// The register was last written by this very version.
    Version(Version),
}

/// The secret of a session's opener. A caller that knows the secret and the session's name can use the session.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Opener([u8; Self::BYTES]);

impl Opener {
    /// Length of an opener in bytes: too long to guess.
    pub const BYTES: usize = 16;

    /// Takes the bytes as they are.
    pub const fn from_bytes(bytes: [u8; Self::BYTES]) -> Self {
        Self(bytes)
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8; Self::BYTES] {
        &self.0
    }
}

/// Omits the bytes, so that no log shows the secret.
impl fmt::Debug for Opener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Opener(..)")
    }
}

/// Makes a command's retries take effect once. Every retry carries the same stamp.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SessionStamp {
    /// The session's name: the version of the first opening answered to the client.
    pub session: Version,
    /// Counted by the client. Commands in flight together are applied in any order.
    pub sequence: u64,
    /// The client has read, or gave up, every outcome below this sequence.
    pub acked_below: u64,
    /// The opener, as stated by the sender.
    pub opener: Option<Opener>,
}
