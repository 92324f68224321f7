//! Why a proposer halts.

use crate::paxos::{era::Era, quorum::Electorate, slot::Slot};

/// Most slots named in the reason of a halt.
const SLOTS_NAMED_MAX: usize = 8;

/// Why a proposer halts: every acceptor has reported the slots, and no quorum can determine the values.
pub(super) fn beyond_repair(slots: &[Slot], electorate: &Electorate) -> String {
    let named: Vec<String> = slots.iter().take(SLOTS_NAMED_MAX).map(Slot::to_string).collect();
    let more = match slots.len().saturating_sub(SLOTS_NAMED_MAX) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let acceptors: Vec<String> = electorate.members().iter().map(ToString::to_string).collect();
    format!(
        "damage beyond repair: the rows of slot {}{more} cannot be read any more on too many acceptors, so the other \
         acceptors cannot prove the chosen value; all acceptors have reported: {}. This proposer proposes nothing, \
         because a guess could replace an acknowledged value. Keep every data directory unchanged, and check the \
         disks. If a disk cannot be read because of its device or file system, repair the device or file system and \
         start the acceptor again on the same directory, never on an older copy. Learners still serve all applied \
         slots",
        named.join(", "),
        acceptors.join(", ")
    )
}

/// Why a proposer halts: two configurations of one era are in force, so two sets of members may each choose values.
pub(super) fn two_of_one_era(era: Era) -> String {
    format!(
        "an acceptor holds another configuration of era {era} than this proposer: a process broke the protocol, or a message \
         was forged. Stop all proposers, keep every data directory unchanged, and compare the configurations that the \
         acceptors report (paxos status)"
    )
}
