//! Bugs of trims, snapshots and lifts.
//!
//! Tests find the bugs that no core of this model can have, because a snapshot here is a list of values, and an installation is
//! a single step:
//!
//! | bug | test |
//! | --- | --- |
//! | sessions or outcomes left out of a snapshot | `paxos_common::paxos::machine`, `kept`; `paxos_learner::store::import` |
//! | an installation served before its end | `paxos_learner::store::import`, `power` |
//! | an empty page for a trimmed range | `paxos_learner::store`, `trimmed` |
//! | a trim although digests differ | `paxos_acceptor::trim_policy`, `held_back` |
//! | an Accept judged by a trim from before its group, repair stuck on an acceptor without a source | `paxos_common::paxos` |

use super::{Bug::*, FIRST_ALONE, TWO_AND_ALL, TWO_EACH};
use crate::model::{
    climb::Case,
    prefix::{older_row, older_row_lifted, older_row_of_five, one_knower, two_chosen, two_claimed},
    scenario::{
        Allowance, Scenario,
        Spend::{Campaign, Check, FillDisk, Heartbeat, Install, Keep, Report, Trim},
    },
};

pub(super) fn planted() -> Vec<Case> {
    let allow = Allowance::new;
    let plant = |bug, name, scenario: Scenario| {
        Case::Cluster(Scenario {
            name,
            bug: Some(bug),
            ..scenario
        })
    };
    let trims = || Scenario {
        prefix: one_knower,
        reach: TWO_EACH,
        commands: &[1, 0],
        allowance: allow(&[(Campaign, 1), (Keep, 1), (Trim, 1)]),
        ..Scenario::small("")
    };
    let two_slots = |allowance| Scenario {
        slots: 2,
        commands: &[2, 0],
        reach: FIRST_ALONE,
        prefix: two_chosen,
        allowance,
        ..Scenario::small("")
    };
    vec![
        plant(
            RowsDroppedWithoutSnapshot,
            "rows dropped without an own snapshot",
            trims(),
        ),
        plant(
            TrimBeforeTheFileIsWhole,
            "a trim committed before the file is whole",
            trims(),
        ),
        plant(
            TrimOneAboveTheSnapshot,
            "a trim one slot above the snapshot",
            two_slots(allow(&[(Keep, 1), (Trim, 1)])),
        ),
        plant(
            NoCapAndALearnerAhead,
            "no cap, and a learner one slot ahead",
            trims(),
        ),
        plant(
            NoCapAndALeaderLifts,
            "no cap, and a leader that raises its chosen_to to a trim",
            Scenario {
                acceptors: 5,
                phase1: 3,
                phase2: 3,
                prefix: older_row_of_five,
                reach: &[&[0, 1, 2], &[2, 3, 4]],
                allowance: allow(&[(Heartbeat, 2), (Keep, 1), (Trim, 1)]),
                ..Scenario::small("")
            },
        ),
        plant(
            AttachedTrimCountsAsVote,
            "a trim reported over Attach counted as a vote",
            Scenario {
                prefix: older_row,
                reach: TWO_EACH,
                allowance: allow(&[(Heartbeat, 2), (Keep, 1), (Trim, 1), (Report, 1)]),
                ..Scenario::small("")
            },
        ),
        plant(
            ScanTakesTrimmedForNoRow,
            "a scan that takes a trimmed slot for an empty slot",
            Scenario {
                repair: true,
                late_answers: true,
                reach: &[&[0, 1], &[0, 2]],
                allowance: allow(&[
                    (Campaign, 1),
                    (Report, 1),
                    (Heartbeat, 2),
                    (Check, 2),
                    (Keep, 1),
                    (Trim, 1),
                ]),
                ..trims()
            },
        ),
        plant(
            UnsweptRowShown,
            "an unswept older row shown after a lift",
            Scenario {
                learners: 1,
                prefix: older_row,
                reach: TWO_AND_ALL,
                allowance: allow(&[(Heartbeat, 2), (Keep, 1), (Trim, 1)]),
                ..Scenario::small("")
            },
        ),
        plant(
            FetchByWatermarkAlone,
            "repair that fetches by the watermark alone",
            Scenario {
                repair: true,
                late_answers: true,
                prefix: older_row_lifted,
                reach: TWO_AND_ALL,
                commands: &[1, 1],
                allowance: allow(&[(Campaign, 1), (Heartbeat, 2), (Check, 2), (Trim, 1)]),
                ..Scenario::small("")
            },
        ),
        plant(
            LiftLeavesTheWatermark,
            "a campaign without trims, and lifts that leave chosen_to",
            Scenario {
                prefix: two_claimed,
                allowance: allow(&[(Campaign, 2), (Keep, 2), (Trim, 2)]),
                ..trims()
            },
        ),
        plant(
            OldFileUnlinkedBeforeTheCommit,
            "an old file unlinked before the commit",
            two_slots(allow(&[(Keep, 2), (Trim, 2)])),
        ),
        plant(
            LearnerJumpsWithoutSnapshot,
            "a learner that jumps without a snapshot",
            Scenario {
                learners: 1,
                ..two_slots(allow(&[(Keep, 1), (Trim, 1), (Install, 1)]))
            },
        ),
        plant(
            StateOfAnotherMoment,
            "a state read at another moment than its end",
            trims(),
        ),
        plant(
            ClaimHeardForOlderRows,
            "a claim heard by a full acceptor, and trusted for older rows",
            Scenario {
                prefix: older_row,
                reach: TWO_AND_ALL,
                allowance: allow(&[(Heartbeat, 2), (FillDisk, 1)]),
                ..Scenario::small("")
            },
        ),
        plant(
            RecordedAboveTheCap,
            "a snapshot recorded above the cap of a full acceptor, and a learner one slot ahead",
            Scenario {
                allowance: allow(&[(Campaign, 1), (FillDisk, 1), (Keep, 1), (Trim, 1)]),
                ..trims()
            },
        ),
    ]
}
