//! Eras of a learner: which votes count, and when a later configuration is adopted.

use super::*;
use crate::paxos::era::Era;

fn era(number: u64) -> Era {
    Era::new(number).unwrap()
}

/// The configurations of era 0 (acceptors 1 to 3) and of era 1 (acceptors 3 to 5).
fn eras() -> [Configuration; 2] {
    let address = |number| (uuid(number), Arc::from("http://a"));
    let first = Configuration::new((1..=3).map(address), 2, 2).unwrap();
    let members = (3..=5).map(|number| (uuid(number), Arc::<str>::from("http://a").into()));
    let second = first.changed_to(members, 2, 2).unwrap();
    [first, second]
}

fn vote_in(learner: &mut Learner, acceptor: u128, at: u64, ballot: Ballot) {
    let votes = VoteRange {
        ballot,
        slots: range(at, at + 1),
        values: Vec::new(),
    };
    assert_eq!(learner.votes(uuid(acceptor), &votes), Intake::Whole);
}

#[test]
fn votes_count_in_the_learners_own_era_alone() {
    let [first, second] = eras();
    let mut learner = Learner::new(first.electorate(), Slot::ZERO);
    rows(&mut learner, &[row(0, 9, "a")], 0);
    for acceptor in 1..=5 {
        vote_in(&mut learner, acceptor, 0, ballot(9).in_era(era(1)));
    }
    assert_eq!(learner.take_learned(9), [], "votes of a later era");
    assert!(learner.adopt(&second.electorate()));
    rows(&mut learner, &[row(0, 9, "a")], 0);
    for acceptor in 1..=5 {
        vote_in(&mut learner, acceptor, 0, ballot(9));
    }
    assert_eq!(
        learner.take_learned(9),
        [],
        "votes of an earlier era: another value may be chosen here"
    );
    // A row of a later ballot of any era has the chosen value; here the row is older than the votes.
    for acceptor in [3, 4] {
        vote_in(&mut learner, acceptor, 0, ballot(1).in_era(era(1)));
    }
    assert_eq!(learner.take_learned(9), []);
    let later = Row {
        slot: slot(0),
        accepted: Some((ballot(1).in_era(era(1)), value("b"))),
    };
    rows(&mut learner, &[later], 0);
    assert_eq!(learner.take_learned(9), [(slot(0), value("b"))]);
}

#[test]
fn configuration_that_is_no_change_to_the_next_era_of_the_cluster_is_an_ordinary_value() {
    let [first, second] = eras();
    let skipping = second.changed_to(second.members().clone(), 2, 2).unwrap();
    let member = |number| (uuid(number), Arc::from("http://a"));
    let other_cluster = Configuration::new((6..=8).map(member), 2, 2).unwrap();
    let foreign = other_cluster.changed_to(first.members().clone(), 1, 3).unwrap();
    for configuration in [skipping, foreign.clone()] {
        let mut learner = Learner::new(first.electorate(), Slot::ZERO);
        let row_of = |at, value: &Value| Row {
            slot: slot(at),
            accepted: Some((ballot(1), value.clone())),
        };
        let configuration = value("change").with_change(configuration);
        rows(&mut learner, &[row_of(0, &configuration), row(1, 1, "a")], 2);
        assert_eq!(learner.take_learned(9).len(), 2);
        assert_eq!(learner.electorate(), &first.electorate());
    }
    let mut learner = Learner::new(first.electorate(), Slot::ZERO);
    assert!(!learner.adopt(&foreign.electorate()), "another cluster");
    assert_eq!(learner.electorate(), &first.electorate());
}

#[test]
fn change_that_is_handed_out_is_adopted_and_ends_the_batch() {
    let [first, second] = eras();
    let mut learner = Learner::new(first.electorate(), Slot::ZERO);
    let change = value("change").with_change(second.clone());
    let row_of = |at, value: &Value| Row {
        slot: slot(at),
        accepted: Some((ballot(1), value.clone())),
    };
    // Slot 1 is chosen before slot 0, and nothing is adopted: the change is not applied.
    rows(&mut learner, &[row_of(1, &change), row(2, 1, "b")], 3);
    assert_eq!(learner.take_learned(9), []);
    assert_eq!(learner.electorate().era(), Era::FIRST);
    rows(&mut learner, &[row(0, 1, "a")], 3);
    assert_eq!(
        learner.take_learned(9),
        [(slot(0), value("a")), (slot(1), change.clone())]
    );
    assert_eq!(learner.electorate(), &second.electorate());
    assert_eq!(
        learner.take_learned(9),
        [],
        "held rows are dropped, and read again"
    );
    rows(&mut learner, &[row(2, 1, "b")], 3);
    assert_eq!(learner.take_learned(9), [(slot(2), value("b"))]);
    // Neither an earlier era nor the present one is adopted.
    for electorate in [first.electorate(), second.electorate()] {
        assert!(!learner.adopt(&electorate));
    }
    let again = Row {
        slot: slot(3),
        accepted: Some((ballot(1), change)),
    };
    rows(&mut learner, &[again, row(4, 1, "c")], 5);
    assert_eq!(
        learner.take_learned(9).len(),
        2,
        "a configuration of the present era is an ordinary value"
    );
}
