//! The ledger of votes, chosen values, proposals and answers, kept outside the cluster. Every step is checked against
//! the ledger.
//!
//! The ledger shares no code with the cores beyond the vocabulary types. The ledger is a function of the messages ever
//! sent, so the ledger adds no states.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
    sync::Arc,
};

use paxos_common::paxos::{
    ballot::Ballot,
    era::Era,
    quorum::Configuration,
    reading::ReadId,
    slot::{Slot, Version},
    value::Value,
};

/// The property broken by a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Broken {
    /// Two values of the same slot are chosen.
    Agreement,
    /// A (slot, ballot) has two values, or a vote for a value not proposed there.
    OneValuePerBallot,
    /// A value is proposed above the ballot at which a different value was chosen.
    ChosenIsFinal,
    /// A promise decreased, an acceptor voted below a promise, or an answer says more than the disk holds.
    PromisesAreKept,
    /// A watermark covers an unchosen slot, or a row below the watermark does not hold the chosen value.
    WatermarksAreTrue,
    /// A learner hands out an unchosen value, or hands out values out of order.
    LearnersAgree,
    /// A caller is answered with a slot above an unchosen slot, or with the slot of a different command.
    AnswersLeaveNoGap,
    /// A new command is proposed below a mark reported in a promise, or a campaign requests a slot reported as chosen.
    NewSlotsStartAbove,
    /// A read misses a write answered before the read began.
    ReadsAreLinearizable,
    /// A lost or rolled-back disk is counted.
    LostDisksAreRefused,
    /// Fewer acceptors than a phase-2 quorum cover a chosen slot.
    ChosenIsCovered,
    /// An acceptor's first slot is not the end of a whole snapshot on the same disk.
    TrimsRestOnSnapshots,
    /// A snapshot does not hold the result of the chosen values below its end.
    SnapshotsAreTrue,
    /// Two configurations of one era are in force, or a configuration goes back.
    OneConfigurationPerEra,
    /// A value is chosen in an era above the change that ended the era.
    NothingAboveAChange,
    /// A configuration takes force, and a slot up to its change is not covered by a phase-2 quorum of its own.
    ForceRestsOnTheLog,
    /// A learner works with a configuration below a change that the learner has applied.
    LearnersKeepTheirEra,
    /// A process finds the protocol broken, or a core panics.
    NoProcessHalts,
}

impl Broken {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Agreement => "at most one value of a slot is chosen",
            Self::OneValuePerBallot => "one value for a slot and ballot",
            Self::ChosenIsFinal => "what is chosen is what later ballots propose",
            Self::PromisesAreKept => "promises are kept, and nothing is answered before it is durable",
            Self::WatermarksAreTrue => "watermarks are true of the claimant's own rows",
            Self::LearnersAgree => "learners hand out what is chosen, without gaps",
            Self::AnswersLeaveNoGap => "nothing is answered above a gap",
            Self::NewSlotsStartAbove => "new slots start above every promise's marks",
            Self::ReadsAreLinearizable => "reads are linearizable",
            Self::LostDisksAreRefused => "a disk that lost or went back is not counted",
            Self::ChosenIsCovered => "a phase-2 quorum covers what is chosen",
            Self::TrimsRestOnSnapshots => "a trim rests on a whole snapshot on the same disk",
            Self::SnapshotsAreTrue => "a snapshot is the result of what is chosen",
            Self::OneConfigurationPerEra => "18: one configuration of an era is in force, and none goes back",
            Self::NothingAboveAChange => "19: nothing is chosen in an era above its change",
            Self::ForceRestsOnTheLog => "20: what takes force has the log on a quorum of its own",
            Self::LearnersKeepTheirEra => {
                "22: a learner's configuration is not below a change that it applied"
            }
            Self::NoProcessHalts => "no process finds the protocol broken",
        }
    }
}

/// Votes for a single value.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Votes {
    value: Value,
    /// The voters, a bit for each acceptor.
    by: u32,
}

/// Circumstances of an answered read.
pub(crate) struct Saw {
    /// The read had to see a write.
    pub(crate) earlier_write: bool,
    /// The read saw a write beyond the required writes.
    pub(crate) overlapping_write: bool,
    /// Values had been proposed at several ballots.
    pub(crate) failover: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Ledger {
    /// Of each era: the members, a bit for each acceptor, and the phase-2 quorum.
    eras: Vec<(u32, u32)>,
    /// The configuration in force of each era after the first.
    in_force: BTreeMap<Era, Arc<Configuration>>,
    /// Several processes speak at one ballot: a (slot, ballot) may have several values. An acceptor still votes for at
    /// most one of the values.
    has_copies: bool,
    proposed: BTreeMap<(Slot, Ballot), Vec<Value>>,
    votes: BTreeMap<(Slot, Ballot), Vec<Votes>>,
    /// Commands answered to a writer, or seen by a reader. Empty in a scenario without reads.
    answered: BTreeSet<u8>,
    /// Commands that each read under way must see, by learner and read.
    reads: BTreeMap<(usize, ReadId), BTreeSet<u8>>,
    has_readers: bool,
}

impl Ledger {
    pub(crate) fn new(eras: Vec<(u32, u32)>, has_readers: bool, has_copies: bool) -> Self {
        Self {
            has_copies,
            eras,
            in_force: BTreeMap::new(),
            proposed: BTreeMap::new(),
            votes: BTreeMap::new(),
            answered: BTreeSet::new(),
            reads: BTreeMap::new(),
            has_readers,
        }
    }

    /// The lowest ballot at which a slot is chosen, and the chosen value.
    pub(crate) fn chosen(&self, slot: Slot) -> Option<(Ballot, &Value)> {
        let mut votes = self.votes_of(slot);
        votes
            .find(|(ballot, votes)| self.is_quorum(*ballot, votes.by))
            .map(|(ballot, votes)| (ballot, &votes.value))
    }

    /// Whether these voters are a phase-2 quorum in the configuration of the ballot's era.
    pub(crate) fn is_quorum(&self, ballot: Ballot, by: u32) -> bool {
        let era = usize::try_from(ballot.era().get()).expect("few eras");
        let (members, phase2) = self.eras[era];
        (by & members).count_ones() >= phase2
    }

    /// A configuration takes force.
    pub(crate) fn takes_force(&mut self, configuration: &Arc<Configuration>) -> Result<(), Broken> {
        let held = self.in_force.entry(configuration.era());
        if held.or_insert_with(|| Arc::clone(configuration)) == configuration {
            Ok(())
        } else {
            Err(Broken::OneConfigurationPerEra)
        }
    }

    /// Whether a change to the next era was proposed for a slot below this ballot, in the ballot's own era.
    pub(crate) fn had_change_below(&self, ballot: Ballot, slot: Slot) -> bool {
        let mut below = self
            .proposed
            .range((slot, Ballot::before(ballot.era()))..(slot, ballot));
        below.any(|(_, proposed)| {
            let mut changes = proposed.iter().filter_map(Value::change);
            changes.any(|change| change.era() > ballot.era())
        })
    }

    /// The slot of the change that begins an era, if chosen.
    pub(crate) fn change_to(&self, configuration: &Configuration, slots: u64) -> Option<Slot> {
        let is_it = |slot: &Slot| {
            let change = self.chosen(*slot).and_then(|(_, value)| value.change());
            change.is_some_and(|change| **change == *configuration)
        };
        Slot::ZERO.to(Slot::ZERO.plus(slots)).find(is_it)
    }

    /// Whether the lowest change that is chosen in an era has a slot chosen above, in the same era.
    fn check_above_changes(&self, slots: impl Iterator<Item = Slot>) -> Result<(), Broken> {
        let mut ended = None;
        for slot in slots {
            let mut eras = self
                .votes_of(slot)
                .filter(|(ballot, votes)| self.is_quorum(*ballot, votes.by));
            if eras.any(|(ballot, _)| ended.is_some_and(|ended| ballot.era() <= ended)) {
                return Err(Broken::NothingAboveAChange);
            }
            if let Some((at, value)) = self.chosen(slot)
                && value.change().is_some_and(|change| change.era() > at.era())
            {
                ended = Some(at.era());
            }
        }
        Ok(())
    }

    /// Whether this value was proposed for this slot below this ballot. A copy may take over a value of the other copy at
    /// their common ballot.
    pub(crate) fn was_proposed_below(&self, ballot: Ballot, slot: Slot, value: &Value) -> bool {
        let end = if self.has_copies {
            Bound::Included((slot, ballot))
        } else {
            Bound::Excluded((slot, ballot))
        };
        let mut below = self.proposed.range((Bound::Included((slot, Ballot::ZERO)), end));
        below.any(|(_, proposed)| proposed.contains(value))
    }

    /// A leader sends a proposal out.
    pub(crate) fn proposes(&mut self, ballot: Ballot, slot: Slot, value: &Value) -> Result<(), Broken> {
        let proposed = self.proposed.entry((slot, ballot)).or_default();
        if !proposed.contains(value) {
            if !proposed.is_empty() && !self.has_copies {
                return Err(Broken::OneValuePerBallot);
            }
            proposed.push(value.clone());
            proposed.sort_by(|one, other| one.as_bytes().cmp(other.as_bytes()));
        }
        match self.chosen(slot) {
            Some((at, chosen)) if at < ballot && chosen != value => Err(Broken::ChosenIsFinal),
            Some(_) | None => Ok(()),
        }
    }

    /// A vote becomes durable.
    pub(crate) fn votes(
        &mut self,
        acceptor: usize,
        ballot: Ballot,
        slot: Slot,
        value: &Value,
    ) -> Result<(), Broken> {
        let proposed = self.proposed.get(&(slot, ballot));
        if !proposed.is_some_and(|proposed| proposed.contains(value)) {
            return Err(Broken::OneValuePerBallot);
        }
        let voter = 1 << acceptor;
        let of_ballot = self.votes.entry((slot, ballot)).or_default();
        let is_other = |votes: &Votes| votes.value != *value && (votes.by & voter != 0 || !self.has_copies);
        if of_ballot.iter().any(is_other) {
            return Err(Broken::OneValuePerBallot);
        }
        let by = match of_ballot.iter_mut().find(|votes| votes.value == *value) {
            Some(votes) => {
                votes.by |= voter;
                votes.by
            }
            None => {
                of_ballot.push(Votes {
                    value: value.clone(),
                    by: voter,
                });
                of_ballot.sort_by(|one, other| one.value.as_bytes().cmp(other.value.as_bytes()));
                voter
            }
        };
        if !self.is_quorum(ballot, by) {
            return Ok(());
        }
        if self.eras.len() > 1 {
            let slots: BTreeSet<Slot> = self.votes.keys().map(|(slot, _)| *slot).collect();
            self.check_above_changes(slots.into_iter())?;
        }
        let mut chosen = self
            .votes_of(slot)
            .filter(|(ballot, votes)| self.is_quorum(*ballot, votes.by));
        if chosen.any(|(_, votes)| votes.value != *value) {
            return Err(Broken::Agreement);
        }
        let mut above = self.proposed.range((
            Bound::Excluded((slot, ballot)),
            Bound::Excluded((slot.next(), Ballot::ZERO)),
        ));
        if above.all(|(_, proposed)| proposed.iter().all(|proposed| proposed == value)) {
            Ok(())
        } else {
            Err(Broken::ChosenIsFinal)
        }
    }

    /// A process claims that every slot below `claimed` is chosen.
    pub(crate) fn watermark(&self, claimed: Slot) -> Result<(), Broken> {
        let mut claimed = Slot::ZERO.to(claimed);
        if claimed.all(|slot| self.chosen(slot).is_some()) {
            Ok(())
        } else {
            Err(Broken::WatermarksAreTrue)
        }
    }

    /// A process claims that `values` are the chosen values, in the slots from 0 on.
    pub(crate) fn hold(&self, values: &[Value]) -> Result<(), Broken> {
        let mut slots = (0..).map(|number| Slot::ZERO.plus(number)).zip(values);
        if slots.all(|(slot, held)| self.chosen(slot).is_some_and(|(_, chosen)| chosen == held)) {
            Ok(())
        } else {
            Err(Broken::WatermarksAreTrue)
        }
    }

    /// The chosen values below `to`; `None` if a slot below is not chosen.
    pub(crate) fn result(&self, to: Slot) -> Option<Vec<Value>> {
        let value = |slot| Some(self.chosen(slot)?.1.clone());
        Slot::ZERO.to(to).map(value).collect()
    }

    /// A process keeps or installs `values` as the result of the slots below `to`.
    pub(crate) fn snapshot(&self, to: Slot, values: &[Value]) -> Result<(), Broken> {
        if self.result(to).as_deref() == Some(values) {
            Ok(())
        } else {
            Err(Broken::SnapshotsAreTrue)
        }
    }

    /// A caller learns that its command was chosen.
    pub(crate) fn answers(&mut self, version: Version, command: &[u8]) -> Result<(), Broken> {
        let below = Slot::ZERO
            .to(version.slot)
            .all(|slot| self.chosen(slot).is_some());
        let its_own = self
            .chosen(version.slot)
            .is_some_and(|(_, value)| value.as_bytes() == command && version.offset == 0);
        if self.has_readers {
            self.answered.extend(command);
        }
        if below && its_own {
            Ok(())
        } else {
            Err(Broken::AnswersLeaveNoGap)
        }
    }

    /// A learner hands out a slot.
    pub(crate) fn learns(&self, slot: Slot, value: &Value) -> Result<(), Broken> {
        match self.chosen(slot) {
            Some((_, chosen)) if chosen == value => Ok(()),
            Some(_) | None => Err(Broken::LearnersAgree),
        }
    }

    /// A read begins at a learner.
    pub(crate) fn read_begins(&mut self, learner: usize, read: ReadId) {
        self.reads.insert((learner, read), self.answered.clone());
    }

    /// A read is answered from a state with `values` applied. The check trusts no position: the read must have seen
    /// every command that any client had learned of before the read began.
    pub(crate) fn read_ends(
        &mut self,
        learner: usize,
        read: ReadId,
        values: &[Value],
    ) -> Result<Saw, Broken> {
        let commands = values.iter().filter(|value| value.change().is_none());
        let saw: BTreeSet<u8> = commands.flat_map(Value::as_bytes).copied().collect();
        let Some(must_see) = self.reads.remove(&(learner, read)) else {
            return Err(Broken::ReadsAreLinearizable);
        };
        if !must_see.is_subset(&saw) {
            return Err(Broken::ReadsAreLinearizable);
        }
        let ballots: BTreeSet<Ballot> = self.proposed.keys().map(|(_, ballot)| *ballot).collect();
        let kind = Saw {
            earlier_write: !must_see.is_empty(),
            overlapping_write: must_see.len() < saw.len(),
            failover: ballots.len() > 1,
        };
        self.answered.extend(saw);
        Ok(kind)
    }

    fn votes_of(&self, slot: Slot) -> impl Iterator<Item = (Ballot, &Votes)> {
        let of_slot = self
            .votes
            .range((slot, Ballot::ZERO)..(slot.next(), Ballot::ZERO));
        of_slot.flat_map(|(&(_, ballot), votes)| votes.iter().map(move |votes| (ballot, votes)))
    }
}
