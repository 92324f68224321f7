//! What a leader sends to acceptors whose disks are damaged or full.

use std::sync::Arc;

use bytes::Bytes;

use super::*;
use crate::paxos::{
    ballot::{Ballot, ProposerId},
    message::Accept,
    proposer::{Takeover, lead::Marks, queue::Queue},
    quorum::{Configuration, Electorate},
    slot::SlotRange,
};

fn slot(number: u64) -> Slot {
    Slot::new(number).unwrap()
}

fn uuid(number: u128) -> AcceptorUuid {
    AcceptorUuid::from_u128(number)
}

/// A leader of three acceptors, driven message by message.
struct Reign {
    electorate: Electorate,
    open: BTreeSet<AcceptorUuid>,
    limits: Limits,
    lead: Lead,
}

impl Reign {
    /// Takes over so many values, and has sent them to everybody.
    fn of(values: u64) -> (Self, Vec<Effect>) {
        let members = [1, 2, 3].map(|number| (uuid(number), Arc::from("http://a:1")));
        let electorate = Configuration::new(members, 2, 2).unwrap().electorate();
        let ballot = Ballot::new(7, ProposerId::from_random(1)).unwrap();
        let value = |number: u64| Value::from_stored(Bytes::from(number.to_string()), Bytes::new());
        let takeover = Takeover {
            from: Slot::ZERO,
            values: (0..values).map(value).collect(),
        };
        let limits = Limits::default();
        let mut lead = Lead::new(ballot, "http://p:1".into(), takeover, electorate.members());
        lead.fill_window(&mut Queue::new(1, 1), &limits);
        let mut reign = Self {
            open: electorate.members().iter().copied().collect(),
            electorate,
            limits,
            lead,
        };
        let sent = reign.send();
        (reign, sent)
    }

    fn send(&mut self) -> Vec<Effect> {
        let mut effects = Vec::new();
        let limits = self.limits.clone();
        self.lead
            .send(&self.electorate, &self.open, &limits, &mut effects);
        self.lead.plan_repair(&self.open, &limits, &mut effects);
        effects
    }

    fn heartbeat(&mut self) -> Vec<Effect> {
        let mut effects = Vec::new();
        let limits = self.limits.clone();
        self.lead
            .heartbeat(&self.electorate, &self.open, &limits, &mut effects);
        effects
    }

    /// Time passes, and no watermark moves.
    fn stand_still(&mut self) {
        for _ in 0..2 {
            self.lead.check(&self.electorate);
        }
    }

    /// An acceptor grants a message, and tells its watermark.
    fn grant(&mut self, acceptor: u128, message: &Accept, chosen_to: u64) {
        let slots = SlotRange::collect(message.proposals.iter().map(|&(slot, _)| slot));
        let marks = Marks {
            voted_to: self.lead.proposed_to(),
            chosen_to: slot(chosen_to),
        };
        let mut effects = Vec::new();
        let sequence = message.sequence;
        self.lead.accepted(
            &self.electorate,
            uuid(acceptor),
            sequence,
            &slots,
            marks,
            &mut effects,
        );
        self.lead.retire(&self.electorate, &self.limits);
    }
}

/// What goes to one acceptor.
fn to(acceptor: u128, effects: &[Effect]) -> Vec<Accept> {
    let accept = |effect: &Effect| {
        let Effect::Accept(to, accept) = effect else {
            return None;
        };
        (*to == uuid(acceptor)).then(|| accept.clone())
    };
    effects.iter().filter_map(accept).collect()
}

fn slots(messages: &[Accept]) -> Vec<u64> {
    messages
        .iter()
        .flat_map(|message| &message.proposals)
        .map(|(slot, _)| slot.get())
        .collect()
}

#[test]
fn rows_that_an_acceptor_lost_are_sent_again_from_what_the_leader_holds() {
    // The third acceptor is away, so everything is held for it.
    let (mut reign, sent) = Reign::of(6);
    for acceptor in [1, 2] {
        reign.grant(acceptor, &to(acceptor, &sent)[0], 0);
    }
    assert_eq!(reign.lead.chosen_to(), slot(6));
    assert_eq!(reign.lead.base, Slot::ZERO);
    // Both are told; the second has found a damaged row.
    let beat = |reign: &mut Reign| {
        reign.heartbeat();
        let sent = reign.heartbeat();
        reign.grant(1, &to(1, &sent)[0], 6);
        reign.grant(2, &to(2, &sent)[0], 4);
    };
    beat(&mut reign);
    assert_eq!(reign.send(), [], "it may yet come of itself");
    reign.lead.check(&reign.electorate);
    beat(&mut reign);
    reign.lead.check(&reign.electorate);
    beat(&mut reign);
    reign.open.remove(&uuid(3));
    let again = reign.send();
    assert_eq!(slots(&to(2, &again)), [4, 5]);
    assert_eq!(slots(&to(1, &again)), [0; 0]);
    reign.grant(2, &to(2, &again)[0], 6);
    assert_eq!(reign.lead.repair, None, "and then it is done");
}

#[test]
fn acceptor_without_space_is_not_heard_gets_heartbeats_alone_and_then_all_that_it_turned_away() {
    let (mut reign, sent) = Reign::of(6);
    for acceptor in [1, 2] {
        reign.grant(acceptor, &to(acceptor, &sent)[0], 0);
    }
    reign.lead.no_space(uuid(3), to(3, &sent)[0].sequence);
    for _ in 0..3 {
        assert_eq!(slots(&to(3, &reign.send())), [0; 0]);
        let beat = reign.heartbeat();
        assert_eq!(slots(&to(3, &beat)), [0; 0]);
        for message in to(3, &beat) {
            reign.lead.no_space(uuid(3), message.sequence);
        }
    }
    reign.heartbeat();
    let beat = reign.heartbeat();
    assert_eq!(to(3, &beat).len(), 1, "it is asked on and on");
    reign.grant(3, &to(3, &beat)[0], 0);
    assert_eq!(slots(&to(3, &reign.send())), [0, 1, 2, 3, 4, 5]);
}

#[test]
fn leader_whose_quorum_has_no_space_gives_way() {
    let (mut reign, sent) = Reign::of(1);
    reign.grant(1, &to(1, &sent)[0], 0);
    for acceptor in [2, 3] {
        reign
            .lead
            .no_space(uuid(acceptor), to(acceptor, &sent)[0].sequence);
    }
    assert_eq!(reign.lead.chosen_to(), Slot::ZERO, "one vote is no quorum");
    assert!(!reign.lead.check(&reign.electorate), "and one answer is none");
}

#[test]
fn acceptor_without_space_keeps_nobody_else_from_being_repaired() {
    let (mut reign, sent) = Reign::of(3);
    for acceptor in [1, 2, 3] {
        reign.grant(acceptor, &to(acceptor, &sent)[0], 0);
    }
    assert_eq!(reign.lead.base, slot(3), "nothing is held any more");
    reign.heartbeat();
    let beat = reign.heartbeat();
    reign.grant(1, &to(1, &beat)[0], 3);
    reign.grant(2, &to(2, &beat)[0], 1);
    reign.lead.no_space(uuid(3), to(3, &beat)[0].sequence);
    reign.stand_still();
    let fetch = Effect::FetchChosen {
        source: uuid(1),
        from: slot(1),
        to: slot(3),
    };
    assert_eq!(reign.send(), [fetch]);
}

#[test]
fn acceptor_whose_watermark_trails_under_load_is_not_repaired_and_one_that_is_far_behind_is_at_once() {
    let (mut reign, sent) = Reign::of(1_000);
    for acceptor in [1, 2, 3] {
        reign.grant(acceptor, &to(acceptor, &sent)[0], 0);
    }
    assert_eq!(reign.lead.base, slot(1_000), "nothing is held any more");
    assert_eq!(reign.send(), [], "their watermarks come with the next message");
    reign.stand_still();
    let begun = reign.send();
    assert_eq!(begun.len(), 3, "a quorum is asked: {begun:?}");

    let mut far = Reign::of(0).0;
    far.lead.base = slot(STRETCH_SLOTS_MAX + 2);
    for (acceptor, chosen_to) in [(1, STRETCH_SLOTS_MAX + 2), (2, 1)] {
        let follower = far.lead.followers.get_mut(&uuid(acceptor)).unwrap();
        follower.chosen_to = Some(slot(chosen_to));
    }
    let fetch = Effect::FetchChosen {
        source: uuid(1),
        from: slot(1),
        to: slot(STRETCH_SLOTS_MAX + 1),
    };
    assert_eq!(far.send(), [fetch]);
}
