//! Invariants 18 to 22: a chosen change ends an era, the next configuration takes force once its own members hold the log, and
//! no process goes back to an earlier era.

use std::{collections::BTreeSet, sync::Arc};

use paxos_common::paxos::{
    ballot::Ballot, era::Era, identity::AcceptorUuid, quorum::Configuration, slot::Slot, value::Value,
};

use super::chosen_is_final::Chosen;

/// The configurations of all eras, as known to an observer of every disk.
pub(crate) struct Eras {
    /// The configuration of each era, from the first era on. The last may be chosen and not in force yet.
    all: Vec<EraSeen>,
    /// The latest era with a configuration in force, and the latest era with a leader.
    in_force: usize,
    led: usize,
}

struct EraSeen {
    configuration: Arc<Configuration>,
    members: BTreeSet<usize>,
    /// The slot of the change that ends this era, once chosen.
    ends_at: Option<Slot>,
}

impl EraSeen {
    fn new(configuration: Arc<Configuration>) -> Self {
        Self {
            members: configuration
                .members()
                .keys()
                .map(|&member| place(member))
                .collect(),
            configuration,
            ends_at: None,
        }
    }
}

/// The place of a simulated acceptor: its uuid is its place plus one.
pub(crate) fn place(acceptor: AcceptorUuid) -> usize {
    let number = u128::from_be_bytes(acceptor.to_bytes());
    usize::try_from(number).expect("few acceptors") - 1
}

fn index(era: Era) -> usize {
    usize::try_from(era.get()).expect("few eras")
}

impl Eras {
    pub(crate) fn new(first: Configuration) -> Self {
        Self {
            all: vec![EraSeen::new(Arc::new(first))],
            in_force: 0,
            led: 0,
        }
    }

    fn of(&self, era: Era) -> &EraSeen {
        self.all
            .get(index(era))
            .unwrap_or_else(|| panic!("era {era} is in use, and its configuration is not chosen"))
    }

    /// Whether the votes of an acceptor count in an era.
    pub(crate) fn includes(&self, era: Era, acceptor: usize) -> bool {
        self.of(era).members.contains(&acceptor)
    }

    pub(crate) fn phase1(&self, era: Era) -> usize {
        self.of(era).configuration.quorums().phase1()
    }

    pub(crate) fn phase2(&self, era: Era) -> usize {
        self.of(era).configuration.quorums().phase2()
    }

    /// The latest configuration in force.
    pub(crate) fn latest(&self) -> &Arc<Configuration> {
        &self.all[self.in_force].configuration
    }

    /// The configurations whose members are still needed: from the latest era with a leader on.
    pub(crate) fn needed(&self) -> impl Iterator<Item = &Arc<Configuration>> {
        self.all[self.led..].iter().map(|era| &era.configuration)
    }

    /// All configurations that were in force.
    pub(crate) fn were_in_force(&self) -> impl Iterator<Item = &Arc<Configuration>> {
        self.all[..=self.in_force].iter().map(|era| &era.configuration)
    }

    /// A value is chosen, for the first time at this ballot. Invariants 18 and 19.
    pub(crate) fn chosen(&mut self, chosen: &Chosen, ballot: Ballot, slot: Slot, value: &Value) {
        let era = index(ballot.era());
        if let Some(end) = self.of(ballot.era()).ends_at {
            assert!(
                slot <= end,
                "slot {slot} is chosen at {ballot}, above slot {end}, where the change that ends the era is chosen"
            );
        }
        let Some(change) = value.change() else { return };
        let (asked, next) = (change.era(), ballot.era().next());
        assert!(
            asked <= next,
            "a change to era {asked} is chosen in slot {slot} at {ballot}: an era is left out"
        );
        if asked < next {
            return;
        }
        let ends_at = self.all[era].ends_at.get_or_insert(slot);
        assert_eq!(*ends_at, slot, "two changes end the era of {ballot}");
        match self.all.get(era + 1) {
            Some(known) => assert_eq!(
                known.configuration, *change,
                "two configurations of era {asked} are chosen"
            ),
            None => self.all.push(EraSeen::new(Arc::clone(change))),
        }
        if let Some(above) = chosen.first_above(slot, ballot.era()) {
            panic!("slot {above} is chosen in the era that the change in slot {slot} ends");
        }
    }

    /// A configuration is stored, or a process works with it: the configuration is in force. Invariants 18 and 20.
    pub(crate) fn takes_force(
        &mut self,
        chosen: &Chosen,
        configuration: &Configuration,
        covers: impl Fn(usize, Slot, Ballot) -> bool,
    ) -> bool {
        let era = index(configuration.era());
        let known = &self.of(configuration.era()).configuration;
        assert_eq!(
            **known, *configuration,
            "a configuration of era {era} takes force, and another is chosen"
        );
        if era <= self.in_force {
            return false;
        }
        assert_eq!(
            era,
            self.in_force + 1,
            "era {era} takes force, and an era is left out"
        );
        let end = self.all[era - 1]
            .ends_at
            .expect("a later configuration was chosen");
        let phase2 = configuration.quorums().phase2();
        for slot in Slot::ZERO.to(end.next()) {
            let at = chosen.ballot(slot);
            let at =
                at.unwrap_or_else(|| panic!("era {era} takes force, and slot {slot} below is not chosen"));
            let members = self.all[era].members.iter();
            let covering = members.filter(|&&member| covers(member, slot, at)).count();
            assert!(
                covering >= phase2,
                "era {era} takes force, and {covering} of its own members hold slot {slot}, not {phase2}"
            );
        }
        self.in_force = era;
        true
    }

    /// A leader leads in an era.
    pub(crate) fn leads(&mut self, era: Era) {
        self.led = self.led.max(index(era));
    }

    /// An operator hears that an era orders values.
    pub(crate) fn done(&self, era: Era) {
        assert!(
            index(era) <= self.led,
            "a change to era {era} is reported as done, and no proposer has led in this era"
        );
    }

    /// A process of an era claims that every slot below `mark` is chosen: no watermark of an era passes its change.
    pub(crate) fn claimed(&self, who: &str, era: Era, mark: Slot) {
        if let Some(end) = self.of(era).ends_at {
            assert!(
                mark <= end,
                "{who} of era {era} has watermark {mark}, above slot {end}, where the change of the era is chosen"
            );
        }
    }

    /// The era of a learner that has applied every slot below `applied_to`, at least.
    pub(crate) fn applied(&self, applied_to: Slot) -> Era {
        let ends = self.all.iter().map_while(|era| era.ends_at);
        let eras = ends.take_while(|&end| end < applied_to).count();
        self.all[eras].configuration.era()
    }

    /// A learner works with a configuration, and has applied every slot below `applied_to`. Invariant 22.
    pub(crate) fn learner(&self, learner: usize, era: Era, applied_to: Slot) {
        let least = self.applied(applied_to);
        assert!(
            era >= least,
            "learner {learner} works in era {era}, and has applied the change to era {least}, below slot {applied_to}"
        );
    }
}

/// The membership on an acceptor's disk, and its promise. Invariant 21.
pub(crate) fn stored(
    acceptor: usize,
    promised: Ballot,
    before: Option<Era>,
    configuration: Option<&Configuration>,
) {
    let era = configuration.map(Configuration::era);
    assert!(
        era >= before,
        "acceptor {acceptor} goes back from era {before:?} to era {era:?}"
    );
    if let Some(era) = era {
        assert_eq!(
            promised.era(),
            era,
            "acceptor {acceptor} of era {era} promises {promised}"
        );
    }
}
