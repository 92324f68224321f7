//! Bugs of changes of members.
//!
//! Joiners in the leader's check are no bug of safety, and the model checks no progress: a test of the core finds this bug
//! (`joiners_do_not_keep_a_leader_in_office`).

use super::Bug::*;
use crate::model::{
    climb::Case,
    ladder::changes::{
        ONE_BY_ONE, ONE_TO_THREE, THREE_TO_OTHERS, THREE_TO_THE_LAST, THREE_TO_TWO, TWO_TO_ONE, changing,
        snapshot_of_a_change,
    },
    prefix::{
        changes::{
            change_counted_once, change_voted_once, first_vote_of_three, older_vote_and_a_switch, switched,
            switched_to_the_last, void_change,
        },
        one_knower,
    },
    rollback,
    scenario::{
        Allowance, Scenario,
        Spend::{
            Adopt, Campaign, Change, Heartbeat, Keep, Lose, Read, Report, RestartLearner, Silence, Trim,
        },
    },
};

/// A bug that breaks property 22 alone: the learner has nothing to apply, and answers no read.
pub(super) fn snapshot_without_configuration() -> Case {
    Case::Cluster(Scenario {
        bug: Some(SnapshotWithoutConfiguration),
        ..snapshot_of_a_change("a snapshot without the configuration of its state")
    })
}

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
            ForceWithoutNewVotes,
            "a change in force without the votes of new members",
            Scenario {
                reach: &[&[0, 1, 2], &[]],
                commands: &[0, 0],
                allowance: allow(&[(Campaign, 1), (Change, 1), (Heartbeat, 1)]),
                ..changing("", 3, THREE_TO_THE_LAST)
            },
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
        plant(
            EarlierVotesCountedByLearner,
            "votes of an earlier era counted in a later configuration",
            Scenario {
                learners: 1,
                reach: &[&[0, 1], &[1, 2]],
                commands: &[1, 1],
                prefix: older_vote_and_a_switch,
                allowance: allow(&[(Adopt, 1)]),
                ..changing("", 3, THREE_TO_TWO)
            },
        ),
        plant(
            LaterVotesCountedByLearner,
            "votes of a later era counted in an earlier configuration",
            Scenario {
                learners: 1,
                prefix: first_vote_of_three,
                allowance: allow(&[]),
                ..changing("", 3, ONE_TO_THREE)
            },
        ),
        plant(
            BallotsComparedWithoutEra,
            "ballots compared without their eras",
            Scenario {
                reach: &[&[1, 2], &[0, 1, 2]],
                commands: &[0, 1],
                prefix: switched_to_the_last,
                allowance: allow(&[(Campaign, 1)]),
                ..changing("", 3, THREE_TO_THE_LAST)
            },
        ),
        plant(
            LiftAtALearnersWord,
            "a lift above the change at a learner's word",
            Scenario {
                reach: &[&[1, 2], &[0, 1]],
                commands: &[0, 1],
                prefix: switched_to_the_last,
                allowance: allow(&[(Campaign, 1), (Keep, 1), (Trim, 1)]),
                ..changing("", 3, THREE_TO_THE_LAST)
            },
        ),
        plant(
            BlankCounted,
            "a blank acceptor counted in the place of a member",
            Scenario {
                slots: 1,
                reach: &[&[0, 1], &[1, 2]],
                commands: &[1, 1],
                prefix: one_knower,
                allowance: allow(&[(Campaign, 1), (Lose, 1)]),
                ..changing("", 4, THREE_TO_OTHERS)
            },
        ),
        snapshot_without_configuration(),
        Case::Rollback(rollback::Scenario {
            bug: Some(NewMembersUnasked),
            tables: 1,
            others_needed_later: Some(1),
            forgets: 1,
            starts: 2,
            commits: 1,
            ..rollback::Scenario::small("a run that new members were not asked about")
        }),
    ]
}
