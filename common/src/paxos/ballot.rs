//! Ballots: the totally ordered numbers of attempts to lead.

use std::{cmp::Ordering, fmt};

use super::{era::Era, slot::OutOfRange};

/// Largest round or proposer number: SQLite's integers are signed.
const NUMBER_MAX: u64 = i64::MAX as u64;

/// Number of one run of a proposer, drawn at random at the start of the run; at most 2⁶³ − 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProposerId(u64);

impl ProposerId {
    /// Takes a number from the wire or a disk.
    ///
    /// # Errors
    /// When the number is above 2⁶³ − 1.
    pub fn new(number: u64) -> Result<Self, OutOfRange> {
        OutOfRange::check("proposer", number, NUMBER_MAX).map(Self)
    }

    /// Makes a number from any 64 random bits.
    pub fn from_random(bits: u64) -> Self {
        Self(bits & NUMBER_MAX)
    }

    /// The bare number.
    pub fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for ProposerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

/// Number of an attempt to lead, ordered by era, then round, then proposer. Rounds begin at 1 in each era.
///
/// A vote counts in the configuration of its ballot's era alone. Because the era comes first, votes of two sets of members
/// are never mixed.
///
/// No two runs of proposers share a ballot, because no two runs share a [`ProposerId`]. Within a run a proposer never
/// uses a round of an era twice. Source: *Paxos Made Simple* §2.2, “different proposers choose their numbers from disjoint
/// sets”.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ballot {
    // The order of the fields is the order of ballots.
    era: Era,
    round: u64,
    proposer: ProposerId,
}

impl Ballot {
    /// Below every ballot in use: nothing was promised yet.
    pub const ZERO: Self = Self::before(Era::FIRST);

    /// Largest jump above its promise, in rounds, that an acceptor grants (inclusive). Prevents a few messages from
    /// using up the rounds.
    pub const ROUND_JUMP_MAX: u64 = 1 << 32;

    /// Takes a ballot of the first era from the wire or a disk.
    ///
    /// # Errors
    /// When the round is above 2⁶³ − 1.
    pub fn new(round: u64, proposer: ProposerId) -> Result<Self, OutOfRange> {
        OutOfRange::check("round", round, NUMBER_MAX).map(|round| Self {
            era: Era::FIRST,
            round,
            proposer,
        })
    }

    /// The same round and proposer in another era.
    #[must_use]
    pub const fn in_era(self, era: Era) -> Self {
        Self { era, ..self }
    }

    /// Below every ballot in use of an era, and above every ballot of the eras before.
    pub const fn before(era: Era) -> Self {
        Self {
            era,
            round: 0,
            proposer: ProposerId(0),
        }
    }

    /// The era whose configuration counts the votes at this ballot.
    pub fn era(self) -> Era {
        self.era
    }

    /// The round, from 1 for ballots in use; at most 2⁶³ − 1.
    pub fn round(self) -> u64 {
        self.round
    }

    /// The owner of the ballot.
    pub fn proposer(self) -> ProposerId {
        self.proposer
    }

    /// The ballot of `proposer` in the next round of the same era: above this ballot, no matter which proposer owns this
    /// ballot.
    ///
    /// At the last round, the round stays the same: 2⁶³ campaigns away.
    pub fn next_of(self, proposer: ProposerId) -> Self {
        Self {
            era: self.era,
            round: self.round.saturating_add(1).min(NUMBER_MAX),
            proposer,
        }
    }

    /// Whether an acceptor with the promise `self` may grant `asked`, unless the promise is higher. A ballot of a later era
    /// is refused until the acceptor has installed the configuration of that era. For the rounds of one era see
    /// [`Self::ROUND_JUMP_MAX`].
    pub fn admits_jump_to(self, asked: Self) -> bool {
        match asked.era.cmp(&self.era) {
            Ordering::Less => true,
            Ordering::Equal => asked.round.saturating_sub(self.round) <= Self::ROUND_JUMP_MAX,
            Ordering::Greater => false,
        }
    }

    /// This ballot, or, if too far above `promised`, the highest ballot of the same era and proposer that an acceptor with
    /// this promise grants.
    pub fn within_jump_of(self, promised: Self) -> Self {
        Self {
            round: self
                .round
                .min(promised.round.saturating_add(Self::ROUND_JUMP_MAX)),
            ..self
        }
    }
}

impl fmt::Display for Ballot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.era > Era::FIRST {
            write!(f, "{}/", self.era)?;
        }
        write!(f, "{}.{}", self.round, self.proposer)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ballot() -> impl Strategy<Value = Ballot> {
        (0..4u64, 0..=NUMBER_MAX, 0..=NUMBER_MAX).prop_map(|(era, round, proposer)| Ballot {
            era: Era::new(era).unwrap(),
            round,
            proposer: ProposerId(proposer),
        })
    }

    proptest! {
        #[test]
        fn orders_by_era_then_round_then_proposer(a in ballot(), b in ballot()) {
            let naive = (a.era.get(), a.round, a.proposer.0).cmp(&(b.era.get(), b.round, b.proposer.0));
            prop_assert_eq!(a.cmp(&b), naive);
        }

        #[test]
        fn next_ballot_is_higher_and_ours(a in ballot(), proposer in 0..=NUMBER_MAX) {
            prop_assume!(a.round < NUMBER_MAX);
            let next = a.next_of(ProposerId(proposer));
            prop_assert!(next > a);
            prop_assert_eq!(next.era(), a.era());
            prop_assert_eq!(next.proposer(), ProposerId(proposer));
            prop_assert!(a.admits_jump_to(next));
        }

        #[test]
        fn ballots_of_two_proposers_never_meet(a in ballot(), b in ballot(), p in 0..NUMBER_MAX) {
            prop_assert_ne!(a.next_of(ProposerId(p)), b.next_of(ProposerId(p + 1)));
        }

        #[test]
        fn climbing_within_the_jump_is_always_admitted(a in ballot(), b in ballot()) {
            let b = b.in_era(a.era);
            prop_assert!(a.admits_jump_to(b.within_jump_of(a)));
        }

        #[test]
        fn eras_lie_apart(a in ballot(), b in ballot()) {
            let start = Ballot::before(b.era);
            prop_assert!(start <= b);
            prop_assert_eq!(a < start, a.era < b.era);
        }
    }

    #[test]
    fn ballot_of_the_first_era_is_written_as_before_eras() {
        let ballot = Ballot::new(12, ProposerId(0xab)).unwrap();
        assert_eq!(ballot.to_string(), "12.ab");
        assert_eq!(ballot.in_era(Era::new(3).unwrap()).to_string(), "3/12.ab");
    }

    #[test]
    fn refuses_numbers_that_sqlite_cannot_hold() {
        assert!(ProposerId::new(u64::MAX).is_err());
        assert!(Ballot::new(1 << 63, ProposerId(1)).is_err());
        assert!(Ballot::new((1 << 63) - 1, ProposerId(1)).is_ok());
    }
}
