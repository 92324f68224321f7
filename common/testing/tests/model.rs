//! Small clusters of the real cores, checked exhaustively: `cargo model` checks larger clusters.

use paxos_testing::model::{
    bugs,
    climb::{HEADING, Order, climb},
    ladder,
};

#[test]
fn every_state_of_the_small_rungs_keeps_every_invariant() {
    println!("{HEADING}");
    let mut failed = Vec::new();
    for rung in ladder::small() {
        let climbed = climb(rung.case, Order::DepthFirst, usize::MAX);
        println!("{climbed}");
        let counted = Some(climbed.unique_states) == rung.unique_states;
        if !counted || climbed.broken.is_some() || !climbed.missing.is_empty() {
            failed.push(climbed.name);
        }
    }
    assert!(
        failed.is_empty(),
        "broken, or not what was checked before (look at what changed, then pin the new counts): {failed:?}"
    );
}

#[test]
fn every_planted_bug_is_found() {
    println!("{HEADING}");
    let mut missed = Vec::new();
    for case in bugs::planted() {
        let climbed = climb(case, Order::BreadthFirst, BUG_STEPS_MAX);
        println!("{climbed}");
        if climbed.broken.is_none() {
            missed.push(climbed.name);
        }
    }
    assert!(missed.is_empty(), "not found: {missed:?}");
}

#[test]
fn version_below_the_base_is_found_by_property_17() {
    let climbed = climb(
        bugs::versions_below_the_base(),
        Order::BreadthFirst,
        BUG_STEPS_MAX,
    );
    let (property, _) = climbed.broken.expect("the bug is found");
    assert!(property.starts_with("17: "), "{property}");
}

#[test]
fn configuration_below_an_applied_change_is_found_by_property_22() {
    let climbed = climb(
        bugs::snapshot_without_configuration(),
        Order::BreadthFirst,
        BUG_STEPS_MAX,
    );
    let (property, _) = climbed.broken.expect("the bug is found");
    assert!(property.starts_with("22: "), "{property}");
}

/// Limit of steps for finding a planted bug.
const BUG_STEPS_MAX: usize = 3_000_000;
