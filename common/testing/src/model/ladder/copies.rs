//! Rungs with a copied proposer: two processes that speak at the same ballots.
//!
//! Watermarks are left out: an acceptor takes a watermark for a claim about its own rows of the same ballot, and these
//! rows may be of the other copy. See "A copied proposer" in the documents of the protocol.

use super::{Rung, Spend::Campaign};
use crate::model::{
    climb::Case,
    scenario::{Allowance, Scenario},
    sights::Sight,
};

/// Two copies that reach two acceptors each, and a third proposer that reaches all acceptors.
pub(in crate::model) fn two_copies_and_another() -> Scenario {
    Scenario {
        copies: true,
        proposers: 3,
        commands: &[1, 1, 0],
        reach: &[&[0, 1], &[1, 2], &[0, 1, 2]],
        allowance: Allowance::new(&[(Campaign, 3)]),
        ..Scenario::small("")
    }
}

/// The same two copies, and a learner.
pub(in crate::model) fn two_copies_and_a_learner() -> Scenario {
    Scenario {
        copies: true,
        learners: 1,
        reach: &[&[0, 1], &[1, 2]],
        ..Scenario::small("")
    }
}

pub(super) fn small() -> Vec<Rung> {
    let rung = |unique_states, scenario| Rung {
        case: Case::Cluster(scenario),
        unique_states: Some(unique_states),
    };
    vec![
        rung(
            366_576,
            Scenario {
                name: "11 two copies of a proposer, and another proposer",
                expected: &[Sight::Chosen, Sight::CarriedOver, Sight::Answered],
                ..two_copies_and_another()
            },
        ),
        rung(
            6_432,
            Scenario {
                name: "11 two copies of a proposer, and a learner",
                expected: &[Sight::Chosen, Sight::Learned],
                ..two_copies_and_a_learner()
            },
        ),
    ]
}
