//! Changes of members found by a campaign.

use super::*;
use crate::paxos::era::Era;

fn change() -> Value {
    let members = (1..=3).map(|number| (uuid(number), Arc::from("http://a:1")));
    let first = Configuration::new(members, 2, 2).unwrap();
    let next = first.changed_to(first.members().clone(), 2, 2).unwrap();
    value("change").with_change(next)
}

fn change_at(number: u64, round: u64) -> Row {
    Row {
        slot: slot(number),
        accepted: Some((ballot(round), change())),
    }
}

/// The values of a takeover at ballot 10, from promises of the first two of three acceptors.
fn values(first: Vec<Row>, second: Vec<Row>) -> Vec<Value> {
    let electorate = majority_of_3();
    let mut campaign = Campaign::new(ballot(10), Slot::ZERO);
    campaign.page(&electorate, uuid(1), last_page(0, 0, first));
    campaign.page(&electorate, uuid(2), last_page(0, 0, second));
    campaign.takeover(&electorate).unwrap().values
}

#[test]
fn first_change_that_may_be_chosen_is_the_last_value() {
    let rows = vec![row(0, 3, "a"), change_at(1, 3)];
    assert_eq!(values(rows.clone(), vec![]), [value("a"), change()]);
    // Rows above the change, at its ballot or below, are dropped: they were not chosen.
    let above = vec![row(2, 2, "b"), row(3, 3, "c")];
    assert_eq!(values(rows, above), [value("a"), change()]);
    // The first of two changes ends the era.
    let two = vec![change_at(0, 3), change_at(1, 2)];
    assert_eq!(values(two, vec![]), [change()]);
}

#[test]
fn change_below_a_row_of_a_higher_ballot_is_void_and_becomes_a_noop() {
    let void = vec![change_at(0, 3)];
    assert_eq!(
        values(void.clone(), vec![row(1, 4, "b")]),
        [Value::noop(), value("b")]
    );
    // A later change may still end the era.
    let later = vec![row(1, 4, "b"), change_at(2, 4), row(3, 3, "c")];
    assert_eq!(values(void, later), [Value::noop(), value("b"), change()]);
}

#[test]
fn change_of_another_cluster_is_an_ordinary_value() {
    let members = (7..=9).map(|number| (uuid(number), Arc::from("http://a:1")));
    let other = Configuration::new(members, 2, 2).unwrap();
    let next = other.changed_to(other.members().clone(), 2, 2).unwrap();
    let foreign = value("foreign").with_change(next);
    let rows = vec![
        Row {
            slot: slot(0),
            accepted: Some((ballot(3), foreign.clone())),
        },
        row(1, 3, "b"),
    ];
    assert_eq!(values(rows, vec![]), [foreign, value("b")]);
}

#[test]
fn configuration_of_the_present_era_is_an_ordinary_value() {
    let electorate = {
        let members = (1..=3).map(|number| (uuid(number), Arc::from("http://a:1")));
        let first = Configuration::new(members, 2, 2).unwrap();
        first
            .changed_to(first.members().clone(), 2, 2)
            .unwrap()
            .electorate()
    };
    let own = ballot(1).in_era(Era::FIRST.next());
    let mut campaign = Campaign::new(own, Slot::ZERO);
    let rows = vec![change_at(0, 3), row(1, 3, "old")];
    campaign.page(&electorate, uuid(1), last_page(0, 0, rows));
    campaign.page(&electorate, uuid(2), last_page(0, 0, vec![]));
    let takeover = campaign.takeover(&electorate).unwrap();
    assert_eq!(takeover.values, [change(), value("old")]);
}

#[test]
fn damaged_row_above_a_change_is_waited_for() {
    let electorate = majority_of_3();
    let mut campaign = Campaign::new(ballot(10), Slot::ZERO);
    campaign.page(
        &electorate,
        uuid(1),
        last_page(0, 0, vec![change_at(0, 3), unknown(1)]),
    );
    campaign.page(&electorate, uuid(2), last_page(0, 0, vec![]));
    assert_eq!(
        campaign.takeover(&electorate),
        None,
        "the row may make the change void"
    );
    campaign.page(&electorate, uuid(3), last_page(0, 0, vec![row(1, 4, "b")]));
    let takeover = campaign.takeover(&electorate).unwrap();
    assert_eq!(takeover.values, [Value::noop(), value("b")]);
}

#[test]
fn acceptor_outside_the_configuration_counts_nowhere() {
    let electorate = majority_of_3();
    let mut campaign = Campaign::new(ballot(10), Slot::ZERO);
    campaign.page(&electorate, uuid(1), last_page(0, 0, vec![]));
    campaign.page(&electorate, uuid(9), last_page(0, 7, vec![row(8, 9, "x")]));
    assert_eq!(campaign.takeover(&electorate), None);
    campaign.page(&electorate, uuid(2), last_page(0, 0, vec![]));
    let takeover = campaign.takeover(&electorate).unwrap();
    assert_eq!((takeover.from, takeover.values.len()), (Slot::ZERO, 0));
}
