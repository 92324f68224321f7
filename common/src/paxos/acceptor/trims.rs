//! Trims: an acceptor's log begins where a snapshot on the same disk ends.
//!
//! **A trim is as good as a vote.** An acceptor *covers* a slot by its bottom, or by a row whose ballot is at or above
//! the first ballot that chose the slot. Such a row has the chosen value. Five rules keep trims safe:
//!
//! - Rows stop counting only in the commit that makes a whole snapshot on the same disk the bottom. A later sweep
//!   deletes the rows from the file. So the number of acceptors that cover a slot never falls, and a phase-2 quorum
//!   covers every chosen slot.
//! - A campaign starts at or above the highest `trimmed_to` of its promises. The campaign's phase-1 quorum contains an
//!   acceptor that covers the slot. This acceptor reports the value, or the campaign starts above the slot.
//! - An acceptor answers an Accept below its first slot with `Trimmed`. At the leader's own ballot, this answer counts
//!   as the acceptor's vote for every slot below `trimmed_to` that this leader proposed. The acceptor has promised no
//!   higher ballot. So a later campaign that counts this acceptor starts above these slots. A trim reported in any
//!   other way is no vote: the acceptor may have promised a higher ballot, and the slots may be chosen there with other
//!   values.
//! - A trim never passes the *cap*, the larger of two marks: the known watermark, and the last claim of a leader. A
//!   claim counts if the acceptor accepts the ballot, or would accept it with enough disk ([`Acceptor::hear_claim`]).
//!   So a faulty learner cannot move the first slot above the chosen slots. A forged claim raises the cap until the
//!   leader's next claim. The record of a snapshot stands for the claim below which the snapshot was recorded, because
//!   claims end with the process ([`Acceptor::with_recorded_claim`]): otherwise acceptors on full disks could not trim
//!   after a restart, and without space the acceptors elect no leader that could repeat the claim. For the same reason the
//!   record stands for its claim beside a later leader that claims less, if there is no space
//!   ([`Acceptor::trim_to_recorded`]): a true claim stays true, and such a trim is a restart followed by a trim.
//! - No leader raises its watermark because of a trim, and no acceptor drops rows because of a leader's message. A
//!   leader's watermark rises only over slots that the leader has counted.
//!
//! **A claim is true without a promise of its ballot.** To show: the leader of b may count X's `Trimmed` for slot s,
//! although X trimmed because of a claim at a ballot c that X never promised. Let X promise ballot p, hear the claim at
//! c > p while the disk is full, trim to T, and then answer `Trimmed` to the leader of b, with p ≤ b ≤ c. Let slot s
//! below T be chosen first at ballot d. The claim covers s, so d ≤ c.
//!
//! - If d = b: the leader of b itself proposed the chosen value.
//! - If d < b: take a quorum that chose s at d. Some members may count through `Trimmed`. The phase-1 quorum of b
//!   shares an acceptor with this quorum. The common acceptor reports the value, or a first slot above s. So the leader
//!   of b proposes the same value, or starts above s.
//! - If d > b, let the leader of b count a phase-2 quorum for s. The phase-1 quorum of d meets this quorum in an
//!   acceptor Y. If Y voted at b, the vote came before the promise of d, so the leader of d saw the value. If Y is
//!   counted by `Trimmed`, then Y promised d before s was chosen. A true claim above s, and so the trim of Y, came later.
//!   After the promise of d, Y answers no leader of a ballot below d: a contradiction.
//!
//! No step uses a promise of c by X.
//!
//! Repair reads rows only from acceptors that still have the rows. In a scan, a trimmed slot is no report of an empty
//! slot. If trims leave no source for a slot, the leader skips the acceptor that lacks the slot. A snapshot then lifts
//! this acceptor. Rows below the first slot may stay on a disk until they are swept. No reader sees such rows: after a
//! lift they may differ from the chosen values.

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

impl Group {
    /// The log begins at `to` from this commit on.
    pub(super) fn begin_at(&mut self, to: Slot) {
        self.trimmed_to = to;
        self.known_to = self.known_to.max(to);
        self.voted_to = self.voted_to.max(to);
        self.claimed_to = self.claimed_to.max(to);
        self.rows = self.rows.split_off(&to);
        self.needs_commit = true;
    }
}

impl Acceptor {
    /// Trims the log: `to` becomes the first slot, and the rows below are dropped.
    ///
    /// The caller holds a whole snapshot of the slots below `to`, on this acceptor's own disk, and makes the snapshot
    /// the bottom in the same commit. Above the known watermark the trim is a *lift*: the acceptor skips rows that are
    /// missing here, or held at an older ballot. The snapshot holds the result of the chosen values.
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
        group.begin_at(to);
        Ok(())
    }

    /// [`Self::trim`] to the end of the waiting snapshot, for lack of space: the record of the snapshot stands for the claim
    /// below which the snapshot was recorded, whatever a later leader claims.
    ///
    /// The caller has a record of a whole snapshot to `to`, recorded below [`Self::trim_cap`].
    ///
    /// # Errors
    /// When `to` is not above the present first slot.
    pub fn trim_to_recorded(&self, group: &mut Group, to: Slot) -> Result<(), TrimRefusal> {
        group.claimed_to = group.claimed_to.max(to);
        self.trim(group, to)
    }

    /// Hears the watermark of a message without granting the message, for lack of space. [`Self::trim_cap`] follows the
    /// claim, and so does the known watermark over rows of the leader's ballot: no promise, no vote. So the acceptor can
    /// trim to the end of a new snapshot. A raised watermark must be durable: while nothing is granted, no other commit
    /// stores it, and after a restart no leader may be left to repeat the claim.
    ///
    /// The claim counts as in [`Self::accept`]: only at a ballot that this acceptor would accept. The claim of a leader is
    /// true whether or not the acceptor has promised the ballot: see the head of this file.
    pub fn hear_claim(&self, group: &mut Group, accept: &Accept) {
        if group.check_ballot(accept.ballot).is_ok() {
            let known_to = group.known_to;
            self.advance_known_to(group, accept.ballot, accept.chosen_to);
            group.needs_commit |= group.known_to > known_to;
            group.claim(accept.chosen_to);
        }
    }

    /// Raises the cap at the start of a run to the end of the waiting snapshot: when the snapshot was recorded, its end was
    /// not above the cap. As every claim, this claim lasts until the next claim of a leader.
    #[must_use]
    pub fn with_recorded_claim(mut self, waiting_to: Slot) -> Self {
        self.claimed_to = self.claimed_to.max(waiting_to);
        self
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
