//! Commands: what a client asks to be ordered, as the state machine takes them.

use std::fmt;

use bytes::Bytes;

use super::slot::Version;

/// One client's request, at some position of the log.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Command {
    /// Absent: a retry may take effect a second time.
    pub session: Option<SessionStamp>,
    /// What is asked for.
    pub operation: Operation,
}

/// What a command asks for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// A record that only subscribers of the log care about: changes nothing here, so it is not held here.
    Append,
    /// Writes a register, if the condition holds.
    Put {
        /// 1 byte to 4 KiB.
        key: Bytes,
        /// At most 1 MiB.
        value: Bytes,
        /// What must hold.
        condition: Condition,
    },
    /// Removes a register, if the condition holds.
    Delete {
        /// 1 byte to 4 KiB.
        key: Bytes,
        /// What must hold.
        condition: Condition,
    },
    /// Opens a session, whose name is the version of this command.
    OpenSession {
        /// Who may use the session; `None`: every caller.
        opener: Option<Opener>,
    },
}

/// What must hold of a register, at the moment at which the command is applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Condition {
    /// Nothing.
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

/// Without the bytes: logs show them to no reader.
impl fmt::Debug for Opener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Opener(..)")
    }
}

/// Makes a command's retries take effect once; the same on every retry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SessionStamp {
    /// The session's name: the version of the opening that its client was first answered for.
    pub session: Version,
    /// Counted by the client. Commands in flight together are applied in any order.
    pub sequence: u64,
    /// Below it the client has read, or gave up, every outcome.
    pub acked_below: u64,
    /// As the sender states it.
    pub opener: Option<Opener>,
}
