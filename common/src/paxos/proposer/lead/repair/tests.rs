//! Messages of a leader to acceptors with damaged or full disks.

use std::sync::Arc;

use bytes::Bytes;

use super::{reports::STRETCH_BYTES_MAX, *};
use crate::paxos::{
    ballot::{Ballot, ProposerId},
    message::{Accept, AcceptAnswer},
    proposer::{Takeover, lead::Marks, queue::CommandQueue},
    quorum::{Configuration, Electorate},
    slot::SlotRange,
};

mod contested;
mod refused;
mod trimmed;

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
    /// Takes over `values` values, already sent to every acceptor.
    fn of(values: u64) -> (Self, Vec<Effect>) {
        let members = [1, 2, 3].map(|number| (uuid(number), Arc::from("http://a:1")));
        let electorate = Configuration::new(members, 2, 2).unwrap().electorate();
        let ballot = Ballot::new(7, ProposerId::from_random(1)).unwrap();
        let value = |number: u64| Value::from_stored(Bytes::from(number.to_string()), Bytes::new());
        let takeover = Takeover {
            from: Slot::ZERO,
            values: (0..values).map(value).collect(),
            far: Default::default(),
        };
        let limits = Limits::default();
        let mut lead = Lead::new(
            ballot,
            "http://p:1".into(),
            takeover,
            electorate.members().iter().copied(),
        );
        lead.fill_window(&electorate, &mut CommandQueue::new(1, 1), &limits);
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
        self.lead
            .plan_repair((&self.electorate, &self.open), &self.open, &limits, &mut effects);
        effects
    }

    fn heartbeat(&mut self) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.lead.heartbeat(&self.open, &mut effects);
        effects
    }

    /// Time passes, and no watermark moves.
    fn stand_still(&mut self) {
        for _ in 0..2 {
            for view in self.lead.views.values_mut() {
                view.marked = true;
            }
            self.lead.check();
        }
    }

    /// An acceptor has no space for a message.
    fn no_space(&mut self, acceptor: u128, message: &Accept) {
        let answer = AcceptAnswer::NoSpace;
        self.lead.settled(uuid(acceptor), message.sequence, &answer);
    }

    /// An acceptor grants a message, and reports its watermark.
    fn grant(&mut self, acceptor: u128, message: &Accept, chosen_to: u64) {
        self.grant_knowing(acceptor, message, chosen_to, chosen_to);
    }

    /// The same, with damaged rows from `chosen_to` on.
    fn grant_knowing(&mut self, acceptor: u128, message: &Accept, chosen_to: u64, known_to: u64) {
        let slots = SlotRange::collect(message.proposals.iter().map(|&(slot, _)| slot));
        let marks = Marks {
            voted_to: self.lead.proposed_to(),
            chosen_to: slot(chosen_to),
            known_to: slot(known_to),
        };
        let mut effects = Vec::new();
        let Marks {
            voted_to,
            chosen_to,
            known_to,
        } = marks;
        let answer = AcceptAnswer::Accepted {
            slots: slots.clone(),
            voted_to,
            chosen_to,
            known_to,
        };
        self.lead.settled(uuid(acceptor), message.sequence, &answer);
        self.lead
            .accepted(&self.electorate, uuid(acceptor), &slots, marks, &mut effects);
        self.lead.retire(&self.electorate, &self.limits);
    }
}

/// Messages to a single acceptor.
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
    // The third acceptor is away, so the leader keeps everything.
    let (mut reign, sent) = Reign::of(6);
    for acceptor in [1, 2] {
        reign.grant(acceptor, &to(acceptor, &sent)[0], 0);
    }
    assert_eq!(reign.lead.chosen_to(), slot(6));
    assert_eq!(reign.lead.base, Slot::ZERO);
    // Both acceptors hear of the chosen slots; the second has found a damaged row.
    let beat = |reign: &mut Reign| {
        let mut sent = reign.heartbeat();
        sent.extend(reign.heartbeat());
        for (acceptor, chosen_to) in [(1, 6), (2, 4)] {
            for message in to(acceptor, &sent) {
                reign.grant(acceptor, &message, chosen_to);
            }
        }
    };
    beat(&mut reign);
    assert_eq!(reign.send(), [], "it may yet come of itself");
    reign.lead.check();
    beat(&mut reign);
    reign.lead.check();
    beat(&mut reign);
    reign.open.remove(&uuid(3));
    let again = reign.send();
    assert_eq!(slots(&to(2, &again)), [4, 5]);
    assert_eq!(slots(&to(1, &again)), [0; 0]);
    reign.grant(2, &to(2, &again)[0], 6);
    assert!(!reign.lead.is_repairing(), "and then it is done");
}

#[test]
fn acceptor_without_space_gets_heartbeats_alone_and_later_the_rest() {
    let (mut reign, sent) = Reign::of(6);
    for acceptor in [1, 2] {
        reign.grant(acceptor, &to(acceptor, &sent)[0], 0);
    }
    reign.no_space(3, &to(3, &sent)[0]);
    for _ in 0..3 {
        assert_eq!(slots(&to(3, &reign.send())), [0; 0]);
        let beat = reign.heartbeat();
        assert_eq!(slots(&to(3, &beat)), [0; 0]);
        for message in to(3, &beat) {
            reign.no_space(3, &message);
        }
    }
    reign.heartbeat();
    let beat = reign.heartbeat();
    assert_eq!(to(3, &beat).len(), 1, "it is asked on and on");
    reign.grant(3, &to(3, &beat)[0], 0);
    assert_eq!(slots(&to(3, &reign.send())), [0, 1, 2, 3, 4, 5]);
}

#[test]
fn unanswered_repair_is_not_sent_again_but_a_failed_one_is() {
    let (mut reign, sent) = Reign::of(6);
    for acceptor in [1, 2] {
        reign.grant(acceptor, &to(acceptor, &sent)[0], 0);
    }
    reign.heartbeat();
    let beat = reign.heartbeat();
    reign.grant(1, &to(1, &beat)[0], 6);
    reign.grant_knowing(2, &to(2, &beat)[0], 4, 6);
    let sent = to(2, &reign.send());
    assert_eq!(slots(&sent), [4, 5]);
    for _ in 0..10 * IDLE_CHECKS_MAX {
        reign.lead.check();
        reign.heartbeat();
        assert_eq!(slots(&to(2, &reign.send())), [0; 0], "its disk hangs");
    }
    reign.grant_knowing(2, &sent[0], 4, 6);
    for _ in 0..IDLE_CHECKS_MAX {
        reign.lead.check();
    }
    assert_eq!(slots(&to(2, &reign.send())), [4, 5]);
}

#[test]
fn no_repair_begins_for_an_acceptor_that_does_not_answer() {
    let (mut reign, sent) = Reign::of(1_000);
    for acceptor in [1, 2, 3] {
        reign.grant(acceptor, &to(acceptor, &sent)[0], 0);
    }
    for _ in 0..10 {
        reign.lead.check();
        assert_eq!(reign.send(), []);
    }
}

#[test]
fn repair_leaves_room_for_a_resignation() {
    let mut reign = forgotten(1);
    let values = (0..100).map(|at| (slot(at), Value::from_stored(Bytes::from("a"), Bytes::new())));
    reign.limits.message_bytes_max = 0;
    let repair = Repair {
        number: 1,
        from: slot(0),
        to: slot(100),
        stage: RepairStage::Fetching,
        bytes: 0,
        idle_checks: 0,
    };
    reign.lead.repairs.insert(uuid(1), repair);
    let mut effects = Vec::new();
    reign
        .lead
        .fetched(1, slot(0), values.collect(), &reign.limits, &mut effects);
    assert_eq!(to(1, &effects).len() as u64, UNANSWERED_MAX - 1);
    assert_eq!(reign.lead.repairs[&uuid(1)].to, slot(UNANSWERED_MAX - 1));
    reign.lead.say_resigned(&reign.open, &mut effects);
    assert_eq!(reign.lead.outstanding(uuid(1)), UNANSWERED_MAX);
}

#[test]
fn acceptor_without_space_does_not_block_the_repair_of_others() {
    let (mut reign, sent) = Reign::of(3);
    for acceptor in [1, 2, 3] {
        reign.grant(acceptor, &to(acceptor, &sent)[0], 0);
    }
    assert_eq!(reign.lead.base, slot(3), "nothing is held any more");
    reign.heartbeat();
    let beat = reign.heartbeat();
    reign.grant(1, &to(1, &beat)[0], 3);
    reign.grant(2, &to(2, &beat)[0], 1);
    reign.no_space(3, &to(3, &beat)[0]);
    reign.stand_still();
    let fetch = Effect::FetchChosen {
        source: uuid(1),
        number: 1,
        from: slot(1),
        to: slot(3),
    };
    assert_eq!(reign.send(), [fetch]);
}

#[test]
fn acceptor_trailing_under_load_is_not_repaired_unless_far_behind() {
    let (mut reign, sent) = Reign::of(1_000);
    for acceptor in [1, 2, 3] {
        reign.grant(acceptor, &to(acceptor, &sent)[0], 0);
    }
    assert_eq!(reign.lead.base, slot(1_000), "nothing is held any more");
    assert_eq!(reign.send(), [], "their watermarks come with the next message");
    reign.stand_still();
    let begun = reign.send();
    // No acceptor knows anything: for each of the three, all acceptors are asked.
    assert_eq!(begun.len(), 9, "{begun:?}");

    let mut far = Reign::of(0).0;
    far.lead.base = slot(STRETCH_SLOTS_MAX + 2);
    for (acceptor, chosen_to) in [(1, STRETCH_SLOTS_MAX + 2), (2, 1)] {
        let view = far.lead.views.get_mut(&uuid(acceptor)).unwrap();
        view.chosen_to = Some(slot(chosen_to));
    }
    let fetch = Effect::FetchChosen {
        source: uuid(1),
        number: 1,
        from: slot(1),
        to: slot(STRETCH_SLOTS_MAX + 1),
    };
    assert_eq!(far.send(), [fetch]);
}

/// All slots are chosen, and the leader no longer holds any slot.
fn forgotten(values: u64) -> Reign {
    let (mut reign, sent) = Reign::of(values);
    for acceptor in [1, 2, 3] {
        reign.grant(acceptor, &to(acceptor, &sent)[0], 0);
    }
    assert_eq!(reign.lead.base, slot(values));
    reign
}

impl Reign {
    /// Every acceptor answers a heartbeat with its first damaged slot.
    fn find_damage(&mut self, sound: [u64; 3], known_to: u64) {
        self.heartbeat();
        let beat = self.heartbeat();
        for (acceptor, sound) in (1..).zip(sound) {
            if let Some(beat) = to(acceptor, &beat).first() {
                self.grant_knowing(acceptor, beat, sound, known_to);
            }
        }
    }

    /// An acceptor answers a scan with its rows from slot 0 on; `damaged` rows are unknown.
    fn report(
        &mut self,
        acceptor: u128,
        scan: Scan,
        rows: u64,
        known_to: u64,
        damaged: impl Fn(u64) -> bool,
    ) -> Vec<Effect> {
        let page = PromisePage {
            chosen_to: Slot::ZERO,
            known_to: slot(known_to),
            ..page_of(0, rows, |at| !damaged(at))
        };
        self.scanned(acceptor, scan, page)
    }

    /// An acceptor answers a scan with this page.
    fn scanned(&mut self, acceptor: u128, scan: Scan, page: PromisePage) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.lead.scanned(
            (&self.electorate, &self.open),
            scan,
            uuid(acceptor),
            page,
            &self.limits,
            &mut effects,
        );
        effects
    }
}

/// A page with the rows of slots from `from` to `to`, all known to be chosen; rows that are not `sound` are unknown.
fn page_of(from: u64, to: u64, sound: impl Fn(u64) -> bool) -> PromisePage {
    let ballot = Ballot::new(7, ProposerId::from_random(1)).unwrap();
    let value = |at: u64| Value::from_stored(Bytes::from(at.to_string()), Bytes::new());
    let row = |at| crate::paxos::message::Row {
        slot: slot(at),
        accepted: sound(at).then(|| (ballot, value(at))),
    };
    PromisePage {
        from: Slot::ZERO,
        next: slot(to),
        last: true,
        chosen_to: slot(to),
        known_to: slot(to),
        trimmed_to: slot(from),
        voted_to: slot(to),
        rows: (from..to).map(row).collect(),
    }
}

/// The begun scans, without duplicates.
fn scans(effects: &[Effect]) -> BTreeSet<(u64, Slot)> {
    let scan = |effect: &Effect| {
        let Effect::Prepare(_, _, Some(scan)) = effect else {
            return None;
        };
        Some((scan.number, scan.to))
    };
    effects.iter().filter_map(scan).collect()
}

fn halts(effects: &[Effect]) -> Option<&str> {
    effects.iter().find_map(|effect| {
        let Effect::Halt(reason) = effect else {
            return None;
        };
        Some(reason.as_str())
    })
}

#[test]
fn interleaved_damage_is_repaired_on_all_acceptors_at_once() {
    const SLOTS: u64 = 465;
    let mut reign = forgotten(SLOTS);
    reign.find_damage([0, 1, 2], SLOTS);
    let begun = reign.send();
    let begun = scans(&begun);
    assert_eq!(begun.len(), 3, "a repair for each: {begun:?}");
    for (acceptor, (number, end)) in (1..).zip(begun) {
        let scan = Scan { number, to: end };
        let mut sent = reign.report(1, scan, SLOTS, SLOTS, |at| at % 3 == 0);
        sent.extend(reign.report(2, scan, SLOTS, SLOTS, |at| at % 3 == 1));
        sent.extend(reign.report(3, scan, SLOTS, SLOTS, |at| at % 3 == 2));
        // Each slot is readable below the watermark of two acceptors, so two reports are enough.
        let messages = to(acceptor, &sent);
        assert_eq!(messages.len(), 1);
        assert_eq!(
            slots(&messages),
            (u64::try_from(acceptor).unwrap() - 1..SLOTS).collect::<Vec<_>>()
        );
        reign.grant(acceptor, &messages[0], SLOTS);
    }
    assert!(!reign.lead.is_repairing());
    assert_eq!(reign.send(), []);
}

#[test]
fn slot_that_no_report_covers_holds_up_no_other() {
    let mut reign = forgotten(4);
    reign.open.remove(&uuid(3));
    // Of the acceptors with slot 1 known to be chosen, only the third can read the row, and the third is away.
    reign.find_damage([1, 1, 1], 4);
    let (number, end) = *scans(&reign.send()).first().unwrap();
    let scan = Scan { number, to: end };
    assert_eq!(reign.report(1, scan, 4, 4, |at| at == 1), []);
    let sent = reign.report(2, scan, 4, 0, |at| at == 1);
    assert_eq!(slots(&to(1, &sent)), [2, 3], "what is known goes at once");
    reign.grant_knowing(1, &to(1, &sent)[0], 1, 4);
    for _ in 0..IDLE_CHECKS_MAX {
        reign.lead.check();
    }
    let (_, end) = *scans(&reign.send()).first().unwrap();
    assert_eq!(end, slot(2), "and the other is asked for alone");
}

#[test]
fn damage_on_every_acceptor_halts_the_leader_once_all_reported() {
    let mut reign = forgotten(4);
    reign.find_damage([2, 2, 2], 4);
    let (number, end) = *scans(&reign.send()).first().unwrap();
    let scan = Scan { number, to: end };
    for acceptor in [1, 2] {
        let effects = reign.report(acceptor, scan, 4, 4, |at| at == 2);
        assert_eq!(halts(&effects), None, "another may still say");
    }
    let effects = reign.report(3, scan, 4, 4, |at| at == 2);
    let reason = halts(&effects).expect("no acceptor can say");
    assert!(reason.contains("slot 2 cannot be read"), "{reason}");
    assert!(reason.contains(&uuid(3).to_string()), "{reason}");
    assert_eq!(to(1, &effects), [], "nothing is guessed");
}

#[test]
fn scan_is_bounded_in_bytes_and_goes_on_behind_what_it_brought() {
    let mut reports = StretchReports::default();
    let (from, mut end) = (slot(0), slot(10));
    let value = Value::from_stored(Bytes::from(vec![1; STRETCH_BYTES_MAX / 3]), Bytes::new());
    let ballot = Ballot::new(7, ProposerId::from_random(1)).unwrap();
    let row = |at| crate::paxos::message::Row {
        slot: slot(at),
        accepted: Some((ballot, value.clone())),
    };
    let page = PromisePage {
        from,
        next: end,
        last: true,
        chosen_to: end,
        known_to: end,
        trimmed_to: Slot::ZERO,
        voted_to: end,
        rows: (0..10).map(row).collect(),
    };
    reports.page(&Reign::of(1).0.electorate, (from, &mut end), uuid(1), page);
    assert_eq!(end, slot(3));
    assert!(reports.bytes <= STRETCH_BYTES_MAX);
    assert_eq!(reports.votes.len(), 3);
}
