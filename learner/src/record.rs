//! Records: the applied slots of the log, with their commands and judgements.

use paxos_common::{
    paxos::{
        command::Command,
        machine::Judgement,
        slot::{Slot, Version},
        value::Value,
    },
    wire::{
        command::hide_openers,
        stored::{Contents, Unreadable, read_value},
    },
};
use paxos_proto::v1 as pb;

/// Encoded size of a record beside the value and the trace context, in bytes: tags, lengths and the slot.
const RECORD_BYTES: usize = 32;

/// A chosen value of a later release. This release must not skip the value.
#[derive(Debug, thiserror::Error)]
#[error("the command at {0} has an operation unknown to this release")]
pub(crate) struct TooOld(Version);

/// An applied slot.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) slot: Slot,
    /// The value as chosen.
    pub(crate) value: Value,
    /// The commands in the value, without the openers of sessions.
    pub(crate) commands: Vec<pb::Command>,
    /// The judgement of each command.
    pub(crate) judgements: Vec<Judgement>,
}

impl Record {
    /// Upper bound, in bytes, of the encoded size of this record for a subscriber.
    pub(crate) fn encoded_bytes_max(&self) -> usize {
        RECORD_BYTES + self.value.as_bytes().len() + self.value.traceparent().len()
    }

    /// The commands with their versions and judgements.
    pub(crate) fn commands(&self) -> impl Iterator<Item = (Version, &pb::Command, Judgement)> {
        let slot = self.slot;
        (0..=u16::MAX)
            .zip(self.commands.iter().zip(&self.judgements))
            .map(move |(offset, (command, &judgement))| (Version { slot, offset }, command, judgement))
    }
}

/// The content of a chosen value.
#[derive(Debug)]
pub(crate) struct Decoded {
    /// The commands as shown to readers: without the openers of sessions.
    pub(crate) shown: Vec<pb::Command>,
    /// The commands for the state machine.
    pub(crate) commands: Vec<Command>,
    /// The reason to skip the value: both lists are empty then.
    pub(crate) unreadable: Option<Unreadable>,
}

/// Reads the content of a chosen value.
///
/// # Errors
/// A later release must have proposed the value: a learner of this release cannot go on.
pub(crate) fn read_commands(slot: Slot, value: &Value) -> Result<Decoded, TooOld> {
    match read_value(value) {
        Contents::Batch(mut shown, commands) => {
            shown.iter_mut().for_each(hide_openers);
            Ok(Decoded {
                shown,
                commands,
                unreadable: None,
            })
        }
        Contents::Unreadable(error) => Ok(Decoded {
            shown: Vec::new(),
            commands: Vec::new(),
            unreadable: Some(error),
        }),
        // For the state machine a no-op.
        Contents::Change(_) => Ok(Decoded {
            shown: Vec::new(),
            commands: Vec::new(),
            unreadable: None,
        }),
        Contents::Newer(offset) => Err(TooOld(Version {
            slot,
            offset: u16::try_from(offset).unwrap_or(u16::MAX),
        })),
    }
}
