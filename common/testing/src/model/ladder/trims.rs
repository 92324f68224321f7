//! The rungs with trims: names that begin with 10.

use super::{Rung, TWO_EACH};
use crate::model::{
    climb::Case,
    prefix::{
        one_knower, one_knower_of_four, one_knower_of_many, two_chosen, two_chosen_once, two_recorded,
        two_recorded_and_one_claimed,
    },
    scenario::{
        Allowance, Scenario,
        Spend::{
            Campaign, Check, Crash, FillDisk, Heartbeat, Install, Keep, Report, RestartLearner, SwitchFeed,
            Trim,
        },
    },
    sights::Sight,
};

/// The first proposer reaches a quorum, the second reaches all acceptors.
const TWO_AND_ALL: &[&[usize]] = &[&[0, 1], &[0, 1, 2]];
const FIRST_ALONE: &[&[usize]] = &[&[0, 1], &[]];

/// Rungs climbed in every test run.
pub(super) fn small() -> Vec<Rung> {
    let rung = |unique_states, scenario| Rung {
        case: Case::Cluster(scenario),
        unique_states: Some(unique_states),
    };
    let allow = Allowance::new;
    vec![
        rung(
            34_670,
            Scenario {
                slots: 2,
                prefix: one_knower,
                reach: TWO_EACH,
                commands: &[1, 1],
                allowance: allow(&[(Campaign, 2), (Keep, 1), (Trim, 1)]),
                expected: &[
                    Sight::Trimmed,
                    Sight::Duel,
                    Sight::TrimmedPage,
                    Sight::CarriedOver,
                ],
                ..Scenario::small("10 a trim while leaders duel")
            },
        ),
        rung(
            9_299,
            Scenario {
                prefix: one_knower,
                reach: TWO_AND_ALL,
                commands: &[1, 0],
                allowance: allow(&[(Campaign, 1), (Keep, 2), (Trim, 2), (Heartbeat, 1)]),
                expected: &[Sight::Trimmed, Sight::TrimTold, Sight::CarriedOver],
                ..Scenario::small("10 trims count as votes")
            },
        ),
        rung(
            60_786,
            Scenario {
                slots: 2,
                prefix: one_knower,
                reach: TWO_EACH,
                commands: &[1, 1],
                allowance: allow(&[(Campaign, 1), (Report, 1), (Heartbeat, 2), (Keep, 1), (Trim, 1)]),
                expected: &[Sight::Lifted, Sight::Chosen],
                ..Scenario::small("10 a laggard is lifted")
            },
        ),
        rung(
            42_635,
            Scenario {
                repair: true,
                late_answers: true,
                prefix: one_knower,
                reach: TWO_EACH,
                commands: &[1, 0],
                allowance: allow(&[
                    (Campaign, 1),
                    (Report, 1),
                    (Heartbeat, 2),
                    (Check, 2),
                    (Keep, 1),
                    (Trim, 1),
                ]),
                expected: &[Sight::Repair, Sight::Trimmed],
                ..Scenario::small("10 repair beside a trim")
            },
        ),
        rung(
            2_593,
            Scenario {
                slots: 2,
                page_rows: 1,
                pages_apart: true,
                prefix: two_chosen_once,
                reach: TWO_EACH,
                commands: &[2, 0],
                allowance: allow(&[(Campaign, 1), (Keep, 1), (Trim, 1)]),
                expected: &[Sight::PromiseOfManyPages, Sight::TrimmedPage, Sight::CarriedOver],
                ..Scenario::small("10 pages apart while trimming")
            },
        ),
        rung(
            590,
            Scenario {
                prefix: one_knower,
                reach: TWO_EACH,
                commands: &[1, 0],
                allowance: allow(&[(Campaign, 1), (Crash, 1), (Keep, 1), (Trim, 1)]),
                expected: &[Sight::Trimmed, Sight::TrimLost],
                ..Scenario::small("10 a crash during a trim")
            },
        ),
        rung(
            1_498,
            Scenario {
                groups: true,
                prefix: one_knower,
                reach: TWO_AND_ALL,
                commands: &[1, 0],
                allowance: allow(&[(Campaign, 1), (Keep, 1), (Trim, 1)]),
                expected: &[Sight::Trimmed, Sight::GroupOfMany, Sight::TrimTold],
                ..Scenario::small("10 a trim in a group")
            },
        ),
        rung(
            145_010,
            Scenario {
                learners: 1,
                slots: 2,
                commands: &[2, 0],
                reach: FIRST_ALONE,
                prefix: two_chosen,
                allowance: allow(&[
                    (RestartLearner, 1),
                    (SwitchFeed, 1),
                    (Keep, 1),
                    (Trim, 1),
                    (Install, 1),
                ]),
                expected: &[Sight::Installed, Sight::Learned, Sight::FeedSwitched],
                ..Scenario::small("10 a learner installs a snapshot")
            },
        ),
    ]
}

/// Rungs with a run time of minutes.
pub(super) fn large() -> Vec<Rung> {
    let rung = |scenario| Rung {
        case: Case::Cluster(scenario),
        unique_states: None,
    };
    let allow = Allowance::new;
    vec![
        rung(Scenario {
            slots: 2,
            prefix: one_knower,
            reach: TWO_AND_ALL,
            allowance: allow(&[(Campaign, 2), (Keep, 1), (Trim, 1)]),
            expected: &[Sight::Trimmed, Sight::Duel, Sight::TrimmedPage, Sight::TrimTold],
            ..Scenario::small("10 a trim while leaders duel, all acceptors")
        }),
        rung(Scenario {
            repair: true,
            late_answers: true,
            slots: 2,
            prefix: one_knower,
            reach: TWO_EACH,
            commands: &[1, 1],
            allowance: allow(&[
                (Campaign, 1),
                (Report, 1),
                (Heartbeat, 2),
                (Check, 2),
                (Keep, 2),
                (Trim, 2),
            ]),
            expected: &[Sight::Repair, Sight::Trimmed, Sight::Lifted],
            ..Scenario::small("10 repair beside new slots and two trims")
        }),
        rung(Scenario {
            slots: 2,
            prefix: one_knower,
            reach: TWO_EACH,
            allowance: allow(&[(Campaign, 2), (Report, 1), (Heartbeat, 2), (Keep, 2), (Trim, 2)]),
            expected: &[Sight::Lifted, Sight::Duel],
            ..Scenario::small("10 two laggards are lifted while leaders duel")
        }),
        rung(Scenario {
            acceptors: 4,
            phase1: 3,
            phase2: 2,
            prefix: one_knower_of_four,
            commands: &[1, 0],
            reach: &[&[0, 1, 2], &[1, 2, 3]],
            allowance: allow(&[(Campaign, 2), (Report, 1), (Heartbeat, 2), (Keep, 2), (Trim, 2)]),
            expected: &[Sight::Trimmed],
            ..Scenario::small("10 trims with quorums of 3 and 2 of 4")
        }),
        rung(Scenario {
            acceptors: 4,
            phase1: 2,
            phase2: 3,
            prefix: one_knower_of_many,
            commands: &[1, 0],
            reach: &[&[0, 1, 2], &[1, 2, 3]],
            allowance: allow(&[(Campaign, 2), (Report, 1), (Heartbeat, 2), (Keep, 2), (Trim, 2)]),
            expected: &[Sight::Trimmed],
            ..Scenario::small("10 trims with quorums of 2 and 3 of 4")
        }),
        rung(Scenario {
            learners: 1,
            slots: 2,
            commands: &[2, 0],
            reach: FIRST_ALONE,
            prefix: two_chosen,
            allowance: allow(&[
                (RestartLearner, 2),
                (SwitchFeed, 1),
                (Heartbeat, 1),
                (Keep, 2),
                (Trim, 2),
                (Install, 2),
            ]),
            expected: &[Sight::Installed, Sight::Learned, Sight::FeedSwitched],
            ..Scenario::small("10 a learner installs two snapshots")
        }),
        rung(Scenario {
            slots: 2,
            commands: &[2, 0],
            reach: &[&[0, 1, 2], &[0, 1, 2]],
            prefix: two_recorded_and_one_claimed,
            allowance: allow(&[(Campaign, 1), (Heartbeat, 2), (FillDisk, 1), (Trim, 1)]),
            expected: &[Sight::ClaimHeard, Sight::TrimmedAboveCap, Sight::TrimmedPage],
            ..Scenario::small("10 a full acceptor trims to its record")
        }),
        rung(Scenario {
            slots: 2,
            commands: &[2, 0],
            reach: &[&[0, 1, 2], &[0, 1, 2]],
            prefix: two_recorded,
            allowance: allow(&[
                (Campaign, 2),
                (Heartbeat, 2),
                (FillDisk, 2),
                (Keep, 1),
                (Trim, 2),
                (Crash, 1),
            ]),
            expected: &[Sight::ClaimHeard, Sight::TrimmedAboveCap, Sight::TrimLost],
            ..Scenario::small("10 full acceptors trim while leaders duel, a crash")
        }),
    ]
}
