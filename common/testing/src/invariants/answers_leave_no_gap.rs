//! Invariant 9, the half about writes: no answer is given above an unchosen slot, or with a wrong position.

use paxos_common::paxos::slot::Version;

use super::{chosen_is_final::Chosen, commands_are_ordered_once::Commands};

/// A client's command is answered as chosen at `version`.
pub(crate) fn answered(chosen: &Chosen, commands: &Commands, command: u64, version: Version) {
    assert!(
        version.slot < chosen.prefix(),
        "command {command} is answered at {version}, and slot {} below it is not chosen",
        chosen.prefix()
    );
    assert_eq!(
        commands.version(command),
        Some(version),
        "command {command} is answered where it is not"
    );
}
