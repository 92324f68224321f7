//! Repair beside acceptors that have trimmed the slots under repair.

use super::*;

impl Reign {
    /// An acceptor answers a scan with the rows from `trimmed_to` to `rows`, which it knows to be chosen.
    fn report_trimmed(&mut self, acceptor: u128, scan: Scan, trimmed_to: u64, rows: u64) -> Vec<Effect> {
        self.scanned(acceptor, scan, page_of(trimmed_to, rows, |_| true))
    }

    /// Four chosen slots, forgotten by the leader. The first acceptor has none, the others have all.
    fn with_a_laggard() -> Self {
        let mut reign = forgotten(4);
        reign.find_damage([0, 4, 4], 4);
        reign
    }

    fn scan(&mut self) -> Option<Scan> {
        let begun = self.send();
        scans(&begun).first().map(|&(number, to)| Scan { number, to })
    }
}

fn sources(effects: &[Effect]) -> Vec<AcceptorUuid> {
    let source = |effect: &Effect| {
        let Effect::FetchChosen { source, .. } = effect else {
            return None;
        };
        Some(*source)
    };
    effects.iter().filter_map(source).collect()
}

#[test]
fn rows_are_fetched_from_an_acceptor_that_has_not_trimmed_them() {
    for (trimmed, source) in [(2, uuid(3)), (3, uuid(2))] {
        let mut reign = Reign::with_a_laggard();
        reign.lead.heard_trimmed(uuid(trimmed), slot(1));
        assert_eq!(sources(&reign.send()), [source]);
    }
}

#[test]
fn without_an_untrimmed_source_all_acceptors_are_asked() {
    let mut reign = Reign::with_a_laggard();
    reign.lead.heard_trimmed(uuid(2), slot(1));
    reign.lead.heard_trimmed(uuid(3), slot(2));
    let begun = reign.send();
    assert_eq!((sources(&begun), scans(&begun).len()), (vec![], 1));
}

#[test]
fn trimmed_slot_is_no_report_of_an_empty_slot() {
    let mut reign = Reign::with_a_laggard();
    reign.lead.heard_trimmed(uuid(2), slot(1));
    reign.lead.heard_trimmed(uuid(3), slot(1));
    let scan = reign.scan().unwrap();
    assert_eq!(reign.report(1, scan, 0, 0, |_| false), []);
    assert_eq!(reign.report_trimmed(2, scan, 1, 4), []);
    let effects = reign.report_trimmed(3, scan, 1, 4);
    assert_eq!(halts(&effects), None, "slot 0 is trimmed, not lost");
    assert_eq!(to(1, &effects), [], "no value is guessed");
}

#[test]
fn acceptor_without_a_source_is_skipped_until_another_acceptor_comes() {
    let mut reign = Reign::with_a_laggard();
    reign.open.remove(&uuid(3));
    reign.lead.heard_trimmed(uuid(2), slot(1));
    reign.lead.heard_trimmed(uuid(3), slot(1));
    let scan = reign.scan().unwrap();
    reign.report(1, scan, 0, 0, |_| false);
    assert_eq!(reign.report_trimmed(2, scan, 1, 4), []);
    for _ in 0..5 * IDLE_CHECKS_MAX {
        reign.lead.check();
        assert_eq!(reign.send(), [], "no acceptor that was asked can have the row");
    }
    reign.open.insert(uuid(3));
    let scan = reign.scan().expect("the third acceptor may have the row");
    reign.report(1, scan, 0, 0, |_| false);
    let sent = reign.report(3, scan, 4, 4, |_| false);
    assert_eq!(slots(&to(1, &sent)), [0, 1, 2, 3]);
}

#[test]
fn lifted_acceptor_is_repaired_above_its_snapshot() {
    let mut reign = Reign::with_a_laggard();
    reign.lead.heard_trimmed(uuid(2), slot(1));
    reign.lead.heard_trimmed(uuid(3), slot(1));
    let scan = reign.scan().unwrap();
    reign.report(1, scan, 0, 0, |_| false);
    for acceptor in [2, 3] {
        reign.report_trimmed(acceptor, scan, 1, 4);
    }
    assert_eq!(reign.send(), []);
    // A snapshot lifts the acceptor to slot 2.
    reign.heartbeat();
    let beat = reign.heartbeat();
    reign.grant(1, &to(1, &beat)[0], 2);
    assert_eq!(sources(&reign.send()), [uuid(3)]);
}

#[test]
fn skipped_acceptor_does_not_hold_up_the_repair_of_another() {
    let mut reign = forgotten(4);
    reign.find_damage([0, 2, 4], 4);
    reign.lead.heard_trimmed(uuid(2), slot(1));
    reign.lead.heard_trimmed(uuid(3), slot(1));
    let begun = reign.send();
    assert_eq!(
        sources(&begun),
        [uuid(3)],
        "slots 2 and 3 for the second acceptor"
    );
    let &(number, end) = scans(&begun).first().expect("and slot 0 for the first acceptor");
    let scan = Scan { number, to: end };
    reign.report(1, scan, 0, 0, |_| false);
    reign.report_trimmed(2, scan, 1, 2);
    reign.report_trimmed(3, scan, 1, 4);
    let hopeless = reign.lead.views[&uuid(1)].hopeless.as_ref();
    assert_eq!(hopeless.map(|hopeless| hopeless.slot), Some(slot(0)));
    assert!(reign.lead.repairs.contains_key(&uuid(2)));
    assert!(!reign.lead.repairs.contains_key(&uuid(1)));
}

#[test]
fn trim_reported_during_a_repair_ends_the_repair() {
    let mut reign = Reign::with_a_laggard();
    reign.send();
    let values = (0..4).map(|at| (slot(at), Value::from_stored(Bytes::from("a"), Bytes::new())));
    let mut effects = Vec::new();
    reign
        .lead
        .fetched(1, slot(0), values.collect(), &reign.limits, &mut effects);
    let message = &to(1, &effects)[0];
    assert_eq!(message.proposals.len(), 4);
    let answer = AcceptAnswer::Trimmed { trimmed_to: slot(3) };
    reign.lead.settled(uuid(1), message.sequence, &answer);
    let electorate = reign.electorate.clone();
    reign.lead.trimmed(&electorate, uuid(1), slot(3), &mut effects);
    let begun = reign.send();
    let from = begun.iter().find_map(|effect| {
        let Effect::FetchChosen { from, .. } = effect else {
            return None;
        };
        Some(*from)
    });
    assert_eq!(from, Some(slot(3)), "nothing below the trim is sent again");
}

#[test]
fn damage_beside_a_trim_does_not_halt_the_leader() {
    let mut reign = forgotten(4);
    reign.find_damage([2, 4, 2], 4);
    reign.lead.heard_trimmed(uuid(2), slot(3));
    let scan = reign.scan().unwrap();
    reign.report(1, scan, 4, 4, |at| at == 2);
    reign.report_trimmed(2, scan, 3, 4);
    let effects = reign.report(3, scan, 4, 4, |at| at == 2);
    assert_eq!(halts(&effects), None, "a snapshot covers slot 2");
    assert_eq!(to(1, &effects), []);
}
