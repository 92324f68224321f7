//! Invariant 7: a new leader proposes the values demanded by the promises, new commands above these slots, and only
//! repairs below. A campaign requests no slot below the highest watermark reported to its proposer, damaged rows or
//! not.
//!
//! In the slots to take over, the first change of members that may be chosen ends the era: nothing is demanded above. A change
//! below a row of a higher ballot is void: a no-op is demanded. No ballot proposes anything above its change.

use std::collections::{BTreeMap, BTreeSet};

use paxos_common::paxos::{ballot::Ballot, message::PromisePage, slot::Slot, value::Value};

use super::{chosen_is_final::Chosen, eras_are_kept::Eras};

/// The received pages of each campaign, and the demands of the pages.
#[derive(Default)]
pub(crate) struct Takeovers {
    campaigns: BTreeMap<Ballot, CampaignSeen>,
    /// Highest watermark reported to each proposer since the proposer's start.
    known: BTreeMap<usize, Slot>,
    /// The same at the beginning of each campaign.
    began: BTreeMap<Ballot, Slot>,
}

#[derive(Default)]
struct CampaignSeen {
    from: Slot,
    promises: BTreeMap<usize, PromiseSeen>,
    demanded: Option<Demanded>,
    /// One past the highest slot proposed.
    proposed_to: Slot,
    /// The slot of the proposed change.
    ends_at: Option<Slot>,
}

#[derive(Default)]
struct PromiseSeen {
    pages: Vec<PromisePage>,
    covered_to: Slot,
    complete: bool,
}

/// The demands of the promises at the moment of winning the campaign.
struct Demanded {
    from: Slot,
    rows: BTreeMap<Slot, (Ballot, Value)>,
    new_from: Slot,
    /// The first change that may be chosen, and the void changes.
    change: Option<Slot>,
    void: BTreeSet<Slot>,
}

impl Demanded {
    /// Finds the changes to the next era.
    fn with_changes(mut self, ballot: Ballot) -> Self {
        for (&slot, (at, value)) in self.rows.range(self.from..) {
            if value
                .change()
                .is_none_or(|change| change.era() != ballot.era().next())
            {
                continue;
            }
            let mut above = self.rows.range(slot.next()..);
            if !above.any(|(_, (above, _))| above > at) {
                self.change = Some(slot);
                break;
            }
            self.void.insert(slot);
        }
        self
    }
}

impl Takeovers {
    /// A proposer starts without any knowledge.
    pub(crate) fn started(&mut self, proposer: usize) {
        self.known.remove(&proposer);
    }

    /// A counted acceptor reports to a proposer that every slot below `known_to` is chosen.
    pub(crate) fn known(&mut self, proposer: usize, known_to: Slot) {
        let known = self.known.entry(proposer).or_default();
        *known = known_to.max(*known);
    }

    /// A campaign begins. Its links may open later, and further slots may be reported until then.
    pub(crate) fn begins(&mut self, proposer: usize, ballot: Ballot) {
        let known = self.known.get(&proposer).copied().unwrap_or_default();
        self.began.insert(ballot, known);
    }

    /// A campaign requests the rows from `from` on from every acceptor. Slots reported to the proposer as chosen before the
    /// campaign are not read again, and not proposed again.
    pub(crate) fn campaign(&mut self, proposer: usize, ballot: Ballot, from: Slot) {
        let known = self.began.get(&ballot).copied().unwrap_or_default();
        assert!(
            from >= known,
            "proposer {proposer} asks for promises from {from} on, although acceptors reported every slot below {known} as chosen"
        );
        let campaign = self.campaigns.entry(ballot).or_insert_with(|| CampaignSeen {
            from,
            ..CampaignSeen::default()
        });
        assert_eq!(
            campaign.from, from,
            "one campaign asks two acceptors for different ranges"
        );
    }

    /// A page arrives, before the core takes the page in.
    pub(crate) fn page(&mut self, ballot: Ballot, acceptor: usize, page: &PromisePage) {
        let Some(campaign) = self.campaigns.get_mut(&ballot) else {
            return;
        };
        if campaign.demanded.is_some() {
            return;
        }
        let from = campaign.from;
        let promise = campaign.promises.entry(acceptor).or_insert_with(|| PromiseSeen {
            covered_to: from,
            ..PromiseSeen::default()
        });
        if page.from <= promise.covered_to && !promise.complete {
            promise.covered_to = promise.covered_to.max(page.next);
            promise.complete = page.last;
            promise.pages.push(page.clone());
        }
    }

    /// The campaign is won, and the leader claims that every slot below `start` is chosen. Returns the number of slots
    /// to take over, and the number of these slots without a row.
    pub(crate) fn won(&mut self, eras: &Eras, ballot: Ballot, start: Slot) -> (u64, u64) {
        let campaign = self.campaigns.get_mut(&ballot).expect("who leads has campaigned");
        campaign
            .promises
            .retain(|&acceptor, _| eras.includes(ballot.era(), acceptor));
        let complete = campaign
            .promises
            .values()
            .filter(|promise| promise.complete)
            .count();
        assert!(
            complete >= eras.phase1(ballot.era()),
            "{ballot} leads with {complete} complete promises"
        );
        let pages = || {
            campaign
                .promises
                .values()
                .flat_map(|promise| promise.pages.iter())
        };
        let highest = |mark: fn(&PromisePage) -> Slot| pages().map(mark).max().unwrap_or_default();
        let from = campaign
            .from
            .max(highest(|page| page.known_to))
            .max(highest(|page| page.trimmed_to));
        assert_eq!(
            start, from,
            "{ballot} does not start where the promises say that all below is chosen"
        );
        let new_from = from.max(highest(|page| page.voted_to));
        let mut rows: BTreeMap<Slot, (Ballot, Value)> = BTreeMap::new();
        for row in pages().flat_map(|page| page.rows.iter()) {
            if let Some((at, value)) = &row.accepted
                && rows.get(&row.slot).is_none_or(|(best, _)| best < at)
            {
                rows.insert(row.slot, (*at, value.clone()));
            }
        }
        let taken_over = new_from.since(from);
        let with_row = rows
            .keys()
            .filter(|&&slot| slot >= from && slot < new_from)
            .count() as u64;
        let demanded = Demanded {
            from,
            rows,
            new_from,
            change: None,
            void: BTreeSet::new(),
        };
        campaign.demanded = Some(demanded.with_changes(ballot));
        (taken_over, taken_over - with_row)
    }

    /// Whether a leader's proposal is a repair: below the leader's start.
    pub(crate) fn is_repair(&self, ballot: Ballot, slot: Slot) -> bool {
        let demanded = self
            .campaigns
            .get(&ballot)
            .and_then(|campaign| campaign.demanded.as_ref());
        demanded.is_some_and(|demanded| slot < demanded.from)
    }

    /// A leader proposes a value for a slot for the first time.
    pub(crate) fn proposed(&mut self, chosen: &Chosen, ballot: Ballot, slot: Slot, value: &Value) {
        let campaign = self.campaigns.get_mut(&ballot);
        let campaign = campaign.expect("who proposes has campaigned");
        if let Some(end) = campaign.ends_at {
            assert!(
                slot < end,
                "{ballot} proposes slot {slot}, above its change in slot {end}"
            );
        }
        if value
            .change()
            .is_some_and(|change| change.era() == ballot.era().next())
        {
            let before = campaign.proposed_to;
            assert!(
                before <= slot,
                "{ballot} proposes a change in slot {slot}, below {before}"
            );
            campaign.ends_at = Some(slot);
        }
        campaign.proposed_to = campaign.proposed_to.max(slot.next());
        let demanded = campaign
            .demanded
            .as_ref()
            .expect("who proposes has won its campaign");
        if let Some(change) = demanded.change {
            assert!(
                slot <= change,
                "{ballot} proposes slot {slot}, above the change that it found in slot {change}"
            );
        }
        if slot >= demanded.new_from {
            return;
        }
        if slot < demanded.from {
            assert_eq!(
                Some(value),
                chosen.value(slot),
                "{ballot} starts at {}, and proposes what is not chosen below it, in slot {slot}",
                demanded.from
            );
            return;
        }
        match demanded.rows.get(&slot) {
            Some((at, _)) if demanded.void.contains(&slot) => assert!(
                value.is_noop(),
                "{ballot} proposes for slot {slot} what is not a no-op, and the change there at {at} is void"
            ),
            Some((at, reported)) => assert_eq!(
                value, reported,
                "{ballot} proposes for slot {slot} what is not the value reported at {at}"
            ),
            None => assert!(
                value.is_noop(),
                "{ballot} proposes a new command for slot {slot}, below {}",
                demanded.new_from
            ),
        }
    }
}
