//! The values that a new leader must propose, compared with a plain version of the rule; and pages that are no promise.

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::paxos::{
    ballot::ProposerId,
    message::Row,
    proposer::{Effect, Lead},
    quorum::Configuration,
};

mod changes;
mod contested;

fn slot(number: u64) -> Slot {
    Slot::new(number).unwrap()
}

fn ballot(round: u64) -> Ballot {
    Ballot::new(round, ProposerId::from_random(round)).unwrap()
}

fn value(text: &str) -> Value {
    Value::from_stored(Bytes::copy_from_slice(text.as_bytes()), Bytes::new())
}

fn uuid(number: u128) -> AcceptorUuid {
    AcceptorUuid::from_u128(number)
}

fn row(number: u64, round: u64, text: &str) -> Row {
    Row {
        slot: slot(number),
        accepted: Some((ballot(round), value(text))),
    }
}

fn unknown(number: u64) -> Row {
    Row {
        slot: slot(number),
        accepted: None,
    }
}

/// The last page of a promise, covering everything from `from` on.
fn last_page(from: u64, chosen_to: u64, rows: Vec<Row>) -> PromisePage {
    let next = rows.last().map_or(slot(from), |row| row.slot.next());
    PromisePage {
        from: slot(from),
        next,
        last: true,
        chosen_to: slot(chosen_to),
        known_to: slot(chosen_to),
        trimmed_to: Slot::ZERO,
        voted_to: next,
        rows,
    }
}

/// A page with more to come.
fn page(from: u64, next: u64, voted_to: u64, rows: Vec<Row>) -> PromisePage {
    PromisePage {
        next: slot(next),
        last: false,
        voted_to: slot(voted_to),
        ..last_page(from, 0, rows)
    }
}

fn electorate(acceptors: u128, phase1: usize, phase2: usize) -> Electorate {
    let members = (1..=acceptors).map(|number| (uuid(number), Arc::from("http://a:1")));
    Configuration::new(members, phase1, phase2).unwrap().electorate()
}

fn majority_of_3() -> Electorate {
    electorate(3, 2, 2)
}

impl Campaign {
    /// Takes a page of one of three acceptors.
    fn hear(&mut self, acceptor: u128, page: PromisePage) {
        self.page(&majority_of_3(), uuid(acceptor), page);
    }
}

fn campaign(from: u64) -> Campaign {
    Campaign::new(ballot(10), slot(from))
}

fn takeover(from: u64, values: &[&str]) -> Option<Takeover> {
    Some(Takeover {
        from: slot(from),
        values: values.iter().map(|text| value(text)).collect(),
        far: BTreeMap::new(),
    })
}

const NOOP: &str = "";

#[test]
fn asks_every_acceptor_for_the_same_range() {
    let campaign = campaign(7);
    let address = Arc::from("http://p");
    let prepare = campaign.prepare(&address);
    assert_eq!((prepare.from, prepare.ballot), (slot(7), ballot(10)));
    assert_eq!(prepare, campaign.prepare(&address));
}

#[test]
fn heartbeat_while_paging_claims_and_proposes_nothing() {
    let heartbeat = campaign(7).heartbeat(&Arc::from("http://p"));
    assert_eq!(heartbeat.chosen_to, Slot::ZERO);
    assert_eq!(heartbeat.proposals, []);
    assert_eq!(heartbeat.ballot, ballot(10));
}

#[test]
fn less_than_a_quorum_of_promises_wins_nothing() {
    let mut campaign = campaign(0);
    assert_eq!(campaign.takeover(&majority_of_3()), None);
    campaign.hear(1, last_page(0, 0, vec![]));
    assert_eq!(campaign.takeover(&majority_of_3()), None);
    campaign.hear(1, last_page(0, 0, vec![]));
    assert_eq!(
        campaign.takeover(&majority_of_3()),
        None,
        "an acceptor counts once, however often it answers"
    );
    campaign.hear(2, last_page(0, 0, vec![]));
    assert_eq!(campaign.takeover(&majority_of_3()), takeover(0, &[]));
}

#[test]
fn flexible_quorums_decide_how_many_promises_are_enough() {
    let all = electorate(3, 3, 1);
    let one = electorate(3, 1, 3);
    let mut campaign = campaign(0);
    campaign.hear(1, last_page(0, 0, vec![]));
    assert_eq!(campaign.takeover(&all), None);
    assert_eq!(campaign.takeover(&one), takeover(0, &[]));
    campaign.hear(2, last_page(0, 0, vec![]));
    assert_eq!(campaign.takeover(&all), None);
}

#[test]
fn takes_the_value_of_the_highest_ballot_and_noop_without_any_row() {
    let mut campaign = campaign(0);
    campaign.hear(1, last_page(0, 0, vec![row(0, 1, "low"), row(3, 2, "d")]));
    campaign.hear(2, last_page(0, 0, vec![row(0, 2, "high"), row(1, 1, "b")]));
    assert_eq!(
        campaign.takeover(&majority_of_3()),
        takeover(0, &["high", "b", NOOP, "d"])
    );
}

#[test]
fn rows_of_promises_beyond_the_quorum_and_of_incomplete_ones_are_heeded() {
    let mut campaign = campaign(0);
    campaign.hear(3, page(0, 1, 5, vec![row(0, 3, "third")]));
    campaign.hear(1, last_page(0, 0, vec![row(0, 1, "first")]));
    campaign.hear(2, last_page(0, 0, vec![]));
    assert_eq!(
        campaign.takeover(&majority_of_3()),
        takeover(0, &["third", NOOP, NOOP, NOOP, NOOP])
    );
}

#[test]
fn starts_at_from_even_when_who_reported_it_is_gone() {
    let mut campaign = campaign(2);
    campaign.hear(1, last_page(2, 0, vec![row(3, 1, "d")]));
    campaign.hear(2, last_page(2, 1, vec![]));
    assert_eq!(campaign.takeover(&majority_of_3()), takeover(2, &[NOOP, "d"]));
}

#[test]
fn starts_at_the_highest_watermark_of_the_promises() {
    let mut campaign = campaign(0);
    campaign.hear(1, last_page(0, 0, vec![row(0, 1, "a")]));
    campaign.hear(
        2,
        last_page(0, 2, vec![row(0, 1, "a"), row(1, 1, "b"), row(2, 1, "c")]),
    );
    assert_eq!(campaign.takeover(&majority_of_3()), takeover(2, &["c"]));
}

#[test]
fn starts_at_or_above_every_trim_and_every_vote() {
    let mut campaign = campaign(0);
    let trimmed = PromisePage {
        trimmed_to: slot(4),
        voted_to: slot(4),
        ..last_page(0, 0, vec![])
    };
    campaign.hear(1, trimmed);
    campaign.hear(2, last_page(0, 0, vec![row(1, 1, "b"), row(5, 1, "f")]));
    assert_eq!(campaign.takeover(&majority_of_3()), takeover(4, &[NOOP, "f"]));
}

#[test]
fn unknown_rows_do_not_count_as_word_on_their_slot() {
    let mut campaign = campaign(0);
    campaign.hear(1, last_page(0, 0, vec![unknown(0)]));
    campaign.hear(2, last_page(0, 0, vec![]));
    assert_eq!(
        campaign.takeover(&majority_of_3()),
        None,
        "the lost row may have been the chosen value"
    );
    campaign.hear(3, last_page(0, 0, vec![row(0, 1, "a")]));
    assert_eq!(campaign.takeover(&majority_of_3()), takeover(0, &["a"]));
}

#[test]
fn unknown_rows_below_the_watermark_delay_no_candidate() {
    let mut campaign = campaign(0);
    campaign.hear(1, last_page(0, 0, vec![unknown(0)]));
    campaign.hear(2, last_page(0, 1, vec![row(0, 1, "a")]));
    assert_eq!(campaign.takeover(&majority_of_3()), takeover(1, &[]));
}

#[test]
fn a_vote_too_far_ahead_is_kept_and_the_slots_before_it_are_not_filled() {
    let far = 1 << 62;
    let mut campaign = campaign(0);
    campaign.hear(
        1,
        last_page(0, 0, vec![row(0, 1, "a"), row(2, 1, "c"), row(far, 3, "far")]),
    );
    campaign.hear(2, last_page(0, 0, vec![row(1, 1, "b")]));
    let won = campaign.takeover(&majority_of_3()).unwrap();
    assert_eq!(won.values, ["a", "b", "c"].map(value));
    // The value may be chosen: a leader at this slot must propose the value.
    assert_eq!(won.far, BTreeMap::from([(slot(far), value("far"))]));
    // An honest leader can have left this vote: every slot below 3 may be chosen.
    let last = 3 + SLOTS_AHEAD_MAX - 1;
    campaign.hear(3, last_page(0, 0, vec![row(last, 2, "near")]));
    let won = campaign.takeover(&majority_of_3()).unwrap();
    assert_eq!(won.values.len() as u64, last + 1);
    assert_eq!(won.values.last(), Some(&value("near")));
    assert_eq!(won.far.len(), 1);
}

#[test]
fn an_unreadable_row_too_far_ahead_waits_for_others_to_say_what_is_there() {
    let mut campaign = campaign(0);
    campaign.hear(1, last_page(0, 0, vec![unknown(1 << 62)]));
    campaign.hear(2, last_page(0, 0, vec![]));
    assert_eq!(campaign.takeover(&majority_of_3()), None);
    campaign.hear(3, last_page(0, 0, vec![]));
    assert_eq!(campaign.takeover(&majority_of_3()), takeover(0, &[]));
}

#[test]
fn leader_proposes_the_value_of_a_far_vote_before_new_commands() {
    use crate::paxos::{
        proposer::{Limits, Pending, RequestId, queue::CommandQueue},
        value::EncodedCommand,
    };
    let electorate = majority_of_3();
    let won = Takeover {
        from: slot(0),
        values: vec![value("a")],
        far: BTreeMap::from([(slot(2), value("far"))]),
    };
    let mut lead = Lead::new(
        ballot(10),
        "http://p:1".into(),
        won,
        electorate.members().iter().copied(),
    );
    let (mut queue, limits) = (CommandQueue::new(10, 1_000), Limits::default());
    for (number, text) in [(1, "b"), (2, "d")] {
        let command = EncodedCommand::from_batch_of_one(Bytes::from_static(text.as_bytes()));
        queue.push(Pending::new(RequestId(number), command));
        lead.fill_window(&electorate, &mut queue, &limits);
    }
    let mut effects = Vec::new();
    lead.send(&electorate, &BTreeSet::from([uuid(1)]), &limits, &mut effects);
    let proposed: Vec<_> = effects
        .into_iter()
        .flat_map(|effect| {
            let Effect::Accept(_, accept) = effect else {
                panic!("{effect:?}")
            };
            accept.proposals
        })
        .collect();
    let expected = ["a", "b", "far", "d"].map(value);
    assert_eq!(proposed, (0..4).map(slot).zip(expected).collect::<Vec<_>>());
}

#[test]
fn an_incomplete_set_of_pages_is_no_promise() {
    let mut campaign = campaign(0);
    campaign.hear(1, page(0, 2, 4, vec![row(0, 1, "a")]));
    campaign.hear(2, page(0, 2, 4, vec![row(0, 1, "a")]));
    assert_eq!(campaign.takeover(&majority_of_3()), None);
}

#[test]
fn pages_after_a_lost_one_do_not_count_until_the_stream_restarts() {
    let mut campaign = campaign(0);
    campaign.hear(2, last_page(0, 0, vec![]));
    campaign.hear(1, page(0, 1, 4, vec![row(0, 1, "a")]));
    campaign.hear(1, last_page(2, 0, vec![row(3, 1, "d")]));
    assert_eq!(
        campaign.takeover(&majority_of_3()),
        None,
        "slot 1 was never reported"
    );
    campaign.hear(1, page(0, 2, 4, vec![row(0, 1, "a"), row(1, 1, "b")]));
    campaign.hear(1, last_page(2, 0, vec![row(3, 1, "d")]));
    assert_eq!(
        campaign.takeover(&majority_of_3()),
        takeover(0, &["a", "b", NOOP, "d"])
    );
}

#[test]
fn a_damaged_row_does_not_lower_the_watermark_that_a_campaign_starts_from() {
    let mut campaign = campaign(0);
    // Slot 1 is damaged; nevertheless every slot below 4 is known to be chosen.
    let damaged = PromisePage {
        known_to: slot(4),
        voted_to: slot(5),
        ..last_page(
            0,
            1,
            vec![
                row(0, 1, "a"),
                unknown(1),
                row(2, 1, "c"),
                row(3, 1, "d"),
                row(4, 1, "e"),
            ],
        )
    };
    campaign.hear(1, damaged);
    campaign.hear(2, last_page(0, 0, vec![row(0, 1, "a")]));
    assert_eq!(campaign.takeover(&majority_of_3()), takeover(4, &["e"]));
    assert_eq!(campaign.votes.len(), 1, "nothing below is held");
}

#[test]
fn slots_are_beyond_repair_only_when_all_have_reported() {
    let electorate = majority_of_3();
    let mut campaign = campaign(0);
    campaign.hear(1, last_page(0, 0, vec![unknown(0), row(1, 1, "b")]));
    campaign.hear(2, last_page(0, 0, vec![unknown(0), row(1, 1, "b")]));
    assert_eq!(campaign.takeover(&majority_of_3()), None);
    assert_eq!(
        campaign.beyond_repair(&electorate),
        None,
        "the third may know it to be chosen"
    );
    let mut healthy = campaign.clone();
    healthy.hear(3, last_page(0, 1, vec![row(0, 1, "a"), row(1, 1, "b")]));
    assert_eq!(healthy.beyond_repair(&electorate), None);
    assert_eq!(healthy.takeover(&majority_of_3()), takeover(1, &["b"]));
    campaign.hear(3, last_page(0, 0, vec![row(0, 1, "a"), row(1, 1, "b")]));
    assert_eq!(campaign.takeover(&majority_of_3()), None);
    assert_eq!(campaign.beyond_repair(&electorate), Some(vec![slot(0)]));
}

/// Rows of one acceptor, for the plain version of the rule.
#[derive(Clone, Debug)]
struct Holding {
    chosen_to: u64,
    /// By slot; `None` for an unreadable row.
    rows: BTreeMap<u64, Option<u64>>,
}

const SLOTS: u64 = 8;

fn holding() -> impl Strategy<Value = Holding> {
    let row = prop_oneof![8 => (1u64..9).prop_map(Some), 1 => Just(None)];
    (0..4u64, proptest::collection::btree_map(0..SLOTS, row, 0..6))
        .prop_map(|(chosen_to, rows)| Holding { chosen_to, rows })
}

/// The value of a slot, as proposed by the proposer of `round`.
fn proposed(slot: u64, round: u64) -> String {
    format!("{slot} at {round}")
}

/// The rule of protocol.md: plain, slow, over whole promises.
fn naive(from: u64, holdings: &[Holding], phase1: usize) -> Option<Takeover> {
    if holdings.len() < phase1 {
        return None;
    }
    let reported = |holding: &Holding| {
        holding
            .rows
            .keys()
            .filter(|&&at| at >= from)
            .max()
            .map_or(0, |at| at + 1)
    };
    let start = holdings.iter().map(|holding| holding.chosen_to).max()?.max(from);
    let end = holdings.iter().map(reported).max()?.max(start);
    let mut values = Vec::new();
    for at in start..end {
        let rows: Vec<Option<&Option<u64>>> = holdings.iter().map(|holding| holding.rows.get(&at)).collect();
        let heard = rows.iter().filter(|row| **row != Some(&None)).count();
        if heard < phase1 {
            return None;
        }
        let highest = rows.iter().filter_map(|row| row.copied().flatten()).max();
        values.push(highest.map_or_else(Value::noop, |round| value(&proposed(at, round))));
    }
    Some(Takeover {
        from: slot(start),
        values,
        far: BTreeMap::new(),
    })
}

/// A promise cut into pages of `size` rows.
fn pages(from: u64, holding: &Holding, size: usize) -> Vec<PromisePage> {
    let rows: Vec<Row> = holding
        .rows
        .range(from..)
        .map(|(&at, round)| round.map_or_else(|| unknown(at), |round| row(at, round, &proposed(at, round))))
        .collect();
    let voted_to = rows.last().map_or(Slot::ZERO, |row| row.slot.next());
    let mut pages = Vec::new();
    let mut next = slot(from);
    for rows in rows.chunks(size) {
        let page_from = next;
        next = rows.last().map_or(next, |row| row.slot.next());
        pages.push(PromisePage {
            from: page_from,
            next,
            voted_to,
            ..page(0, 0, 0, rows.to_vec())
        });
    }
    pages.push(PromisePage {
        from: next,
        next,
        voted_to,
        ..last_page(0, 0, vec![])
    });
    for page in &mut pages {
        // Damage may have lowered the sound watermark to anywhere.
        page.known_to = slot(holding.chosen_to);
    }
    pages
}

proptest! {
    #[test]
    fn chooses_what_the_plain_rule_chooses(
        from in 0..4u64,
        holdings in proptest::collection::vec(holding(), 1..=5),
        phase1 in 1usize..=5,
        size in 1usize..=3,
        repeat in any::<bool>(),
    ) {
        let electorate = electorate(5, phase1, 6 - phase1);
        let mut campaign = campaign(from);
        // The pages of all promises, in turn, and perhaps all once more.
        let promises: Vec<Vec<PromisePage>> = holdings.iter().map(|holding| pages(from, holding, size)).collect();
        for _ in 0..=usize::from(repeat) {
            for turn in 0..promises.iter().map(Vec::len).max().unwrap_or_default() {
                for (number, promise) in (1..).zip(&promises) {
                    if let Some(page) = promise.get(turn) {
                        campaign.page(&electorate, uuid(number), page.clone());
                    }
                }
            }
        }
        prop_assert_eq!(campaign.takeover(&electorate), naive(from, &holdings, phase1));
    }

    #[test]
    fn losing_any_page_but_the_last_leaves_no_promise(
        holding in holding(), size in 1usize..=2, lost in 0usize..4,
    ) {
        let mut promise = pages(0, &holding, size);
        prop_assume!(lost + 1 < promise.len());
        promise.remove(lost);
        let mut campaign = campaign(0);
        for page in promise {
            campaign.page(&electorate(3, 1, 3), uuid(1), page);
        }
        prop_assert_eq!(campaign.takeover(&electorate(3, 1, 3)), None);
    }
}
