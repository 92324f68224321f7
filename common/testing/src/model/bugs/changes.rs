//! Bugs of changes of members.
//!
//! Tests of the cores find the other bugs of this kind: ballots compared without era, joiners in the leader's check, a blank
//! acceptor counted, a change in force without the votes of new members, and later ballots counted by a learner. The last bug is harmless in a cluster: a learner hands out the
//! change before any slot of the next era, and drops its votes then. A lift without a cap is among the bugs of trims.

use super::Bug::*;
use crate::model::{
    climb::Case,
    ladder::changes::{ONE_BY_ONE, THREE_TO_OTHERS, THREE_TO_TWO, TWO_TO_ONE, changing, members},
    prefix::{change_counted_once, change_voted_once, switched, switched_to_the_last, void_change},
    scenario::{
        Allowance, Members, Scenario,
        Spend::{Campaign, Change, Heartbeat, Read, Report, RestartLearner, Silence},
    },
};

/// The last of three acceptors is left.
const THREE_TO_THE_LAST: &[Members] = &[members(&[0, 1, 2], 2, 2), members(&[2], 1, 1)];

pub(super) fn planted() -> Vec<Case> {
    let allow = Allowance::new;
    let plant = |bug, name, scenario: Scenario| {
        Case::Cluster(Scenario {
            name,
            bug: Some(bug),
            ..scenario
        })
    };
    let one_by_one = || changing("", 2, ONE_BY_ONE);
    let read = || Scenario {
        learners: 1,
        prefix: switched,
        allowance: allow(&[(Campaign, 1), (Read, 1)]),
        ..one_by_one()
    };
    vec![
        plant(
            ForceBeforeTheCopy,
            "a change in force before the copy",
            one_by_one(),
        ),
        plant(
            ForceByOneVote,
            "a change in force by one vote",
            Scenario {
                commands: &[0, 0],
                ..changing("", 4, THREE_TO_OTHERS)
            },
        ),
        plant(
            ForceByVotesOfDifferentBallots,
            "a change in force by votes of different ballots",
            Scenario {
                reach: &[&[0, 1, 2], &[]],
                commands: &[0, 0],
                prefix: change_voted_once,
                allowance: allow(&[(Campaign, 1), (Silence, 1)]),
                ..changing("", 3, THREE_TO_TWO)
            },
        ),
        plant(
            ForceByNewAlone,
            "a change in force by the new members alone",
            Scenario {
                commands: &[0, 0],
                ..one_by_one()
            },
        ),
        plant(
            CopyCountedFromNonMembers,
            "the copy counted from acceptors that are no new members",
            Scenario {
                allowance: allow(&[(Campaign, 1), (Change, 1), (Heartbeat, 2)]),
                ..one_by_one()
            },
        ),
        plant(
            WatermarkPassesTheChange,
            "a watermark that passes the change",
            Scenario {
                reach: &[&[0, 1], &[0, 1]],
                commands: &[0, 1],
                prefix: change_counted_once,
                allowance: allow(&[(Campaign, 1), (Report, 1), (Heartbeat, 2)]),
                ..changing("", 2, TWO_TO_ONE)
            },
        ),
        plant(
            LaterReportRaisesFrom,
            "a report of a later era that raises the start of a campaign",
            Scenario {
                reach: &[&[1, 2], &[0, 1]],
                commands: &[0, 1],
                prefix: switched_to_the_last,
                allowance: allow(&[(Campaign, 1), (Report, 1)]),
                ..changing("", 3, THREE_TO_THE_LAST)
            },
        ),
        plant(
            VoidChangeCarriedOn,
            "a void change carried on",
            Scenario {
                reach: &[&[0, 1, 2], &[0, 1]],
                commands: &[0, 2],
                prefix: void_change,
                allowance: allow(&[(Campaign, 1)]),
                ..changing("", 3, THREE_TO_TWO)
            },
        ),
        plant(
            ProposesAboveTheChange,
            "a command proposed above a change",
            Scenario {
                commands: &[0, 0],
                ..one_by_one()
            },
        ),
        plant(
            FoundChangeDropped,
            "a found change dropped",
            Scenario {
                reach: &[&[0, 1], &[0, 1]],
                commands: &[0, 1],
                allowance: allow(&[(Campaign, 2), (Change, 1)]),
                ..one_by_one()
            },
        ),
        plant(
            ReadKeepsItsBound,
            "a read that keeps its bound across eras",
            read(),
        ),
        plant(
            ReadKeepsItsRound,
            "a read that keeps its round across eras",
            read(),
        ),
        plant(
            LearnerForgetsItsEra,
            "a learner that forgets its era at a restart",
            Scenario {
                allowance: allow(&[(Campaign, 1), (Read, 1), (RestartLearner, 1)]),
                ..read()
            },
        ),
        plant(
            LearnerAdoptsChosen,
            "a learner that adopts what is chosen and not applied",
            Scenario {
                learners: 1,
                allowance: allow(&[(Campaign, 1), (Change, 1), (Read, 1)]),
                ..one_by_one()
            },
        ),
    ]
}
