//! Trims: an acceptor's log begins where a snapshot on the same disk ends.

use super::{Acceptor, Group};
use crate::paxos::{message::Accept, slot::Slot};

/// Why an acceptor does not trim. Nothing is changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum TrimRefusal {
    /// The acceptor has trimmed as far already.
    #[error("a trim to slot {to} is not above slot {trimmed_to}, the present first slot of the log")]
    NotAbove {
        /// The requested first slot.
        to: Slot,
        /// The present first slot.
        trimmed_to: Slot,
    },
    /// The snapshot reaches further than the acceptor knows to be chosen.
    #[error("a trim to slot {to} is above slot {cap}: no leader has reported the slots between as chosen")]
    AboveCap {
        /// The requested first slot.
        to: Slot,
        /// See [`Acceptor::trim_cap`].
        cap: Slot,
    },
}

impl Acceptor {
    /// Trims the log: `to` becomes the first slot, and the rows below are dropped.
    ///
    /// The caller holds a whole snapshot of the slots below `to`, on this acceptor's own disk, and makes the snapshot
    /// the bottom in the same commit. Above the acceptor's own watermark the trim is a *lift*: the acceptor skips rows
    /// that are missing here, or held at an older ballot. The snapshot holds the result of the chosen values.
    ///
    /// # Errors
    /// When `to` is not above the present first slot, or above [`Self::trim_cap`].
    pub fn trim(&self, group: &mut Group, to: Slot) -> Result<(), TrimRefusal> {
        if to <= group.trimmed_to {
            return Err(TrimRefusal::NotAbove {
                to,
                trimmed_to: group.trimmed_to,
            });
        }
        if to > group.claimed_to {
            let cap = group.claimed_to;
            return Err(TrimRefusal::AboveCap { to, cap });
        }
        group.trimmed_to = to;
        group.known_to = group.known_to.max(to);
        group.voted_to = group.voted_to.max(to);
        group.rows = group.rows.split_off(&to);
        group.durable = true;
        Ok(())
    }

    /// Hears the watermark of a message without granting the message, for lack of space. Only [`Self::trim_cap`] follows
    /// the claim: no promise, no vote, nothing durable. So the acceptor can trim to the end of a new snapshot.
    ///
    /// The claim counts as in [`Self::accept`]: only at a ballot that this acceptor would accept. The claim of a leader is
    /// true whether or not the acceptor has promised the ballot: see the argument in [`crate::paxos`].
    pub fn hear_claim(&self, group: &mut Group, accept: &Accept) {
        if group.check_ballot(accept.ballot).is_ok() {
            group.claim(accept.chosen_to);
        }
    }

    /// The cap on trims: every slot below is chosen, according to the last claim of a leader whose ballot this acceptor
    /// accepted, or would have accepted with space. So a snapshot from a faulty learner cannot move the first slot above
    /// the chosen slots.
    ///
    /// A forged Accept can raise the cap to any slot. The leader's next proposal or question takes the cap back. A forged
    /// claim alone trims nothing: a trim takes a snapshot too.
    pub fn trim_cap(&self) -> Slot {
        self.claimed_to
    }

    /// T, the first readable slot: slots below are trimmed, and the acceptor's own snapshot covers them. 0 before the
    /// first trim.
    pub fn trimmed_to(&self) -> Slot {
        self.trimmed_to
    }
}
