//! Scans of a slot with two values at one ballot: a copied proposer, or a forged message.

use super::*;
use crate::paxos::message::Row;

/// A page on slot 0 alone.
fn page(text: &'static str, known_to: u64) -> PromisePage {
    let ballot = Ballot::new(3, ProposerId::from_random(1)).unwrap();
    let value = Value::from_stored(Bytes::from_static(text.as_bytes()), Bytes::new());
    PromisePage {
        chosen_to: slot(known_to),
        known_to: slot(known_to),
        rows: vec![Row {
            slot: slot(0),
            accepted: Some((ballot, value)),
        }],
        ..page_of(0, 1, |_| true)
    }
}

/// The conclusion on slot 0 after each page; none while the slot is open.
fn conclusions(pages: &[(u128, PromisePage)]) -> Vec<Option<Bytes>> {
    let (reign, _) = Reign::of(1);
    let mut reports = StretchReports::default();
    let mut end = slot(1);
    let mut conclude = |(acceptor, page): &(u128, PromisePage)| {
        reports.page(
            &reign.electorate,
            (slot(0), &mut end),
            uuid(*acceptor),
            page.clone(),
        );
        match reports.conclusion(&reign.electorate, slot(0)) {
            SlotConclusion::Chosen(value) => Some(value.as_bytes().clone()),
            SlotConclusion::Lost => panic!("rows were reported"),
            SlotConclusion::Open => None,
        }
    };
    pages.iter().map(&mut conclude).collect()
}

const A: Option<Bytes> = Some(Bytes::from_static(b"a"));

#[test]
fn a_scan_waits_until_one_of_two_values_can_be_chosen() {
    let pages = [(1, page("forged", 0)), (2, page("a", 0)), (3, page("a", 0))];
    assert_eq!(conclusions(&pages), [None, None, A]);
}

#[test]
fn a_scan_takes_the_value_below_a_watermark_whatever_others_hold() {
    let pages = [(1, page("forged", 0)), (2, page("a", 1))];
    assert_eq!(conclusions(&pages), [None, A]);
}

#[test]
fn watermarks_above_two_values_leave_the_slot_to_the_votes() {
    let pages = [(2, page("a", 1)), (1, page("copied", 1)), (3, page("a", 0))];
    assert_eq!(conclusions(&pages), [A, None, A]);
}
