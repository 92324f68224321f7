//! Each planted bug, with the scenario that finds the bug.
//!
//! Bugs planted in the cluster concern promises, votes, values, watermarks, repair, learners and reads. Bugs planted in
//! forming: a second step too early, a second list. Bugs planted in restoring: a log that begins at slot 0, a seed and a
//! list that do not belong together, a leader that starts at slot 0. Bugs planted in the guard against rolled-back disks: a counter
//! alone, an untrusted acceptor heard, a cut list taken as proof, a new run counted unasked. `cargo test --test model
//! -- --nocapture` prints the number of states and the depth at which each bug is found.
//!
//! Not expressible in this model: a slow reader blocking the acceptor, and lost frames never sent again, because no
//! message has to arrive in this model. Pages outliving their promise: the simulator finds this bug. Bugs of trims that are
//! not expressible here: `trims`. Sessions: not modelled yet.

use super::{
    climb::Case,
    forming,
    prefix::{older_row, one_knower, readable_reign},
    restoring, rollback,
    scenario::{Allowance, Scenario, Spend},
};
use crate::bug::Bug;

mod changes;
mod copies;
mod trims;

use Bug::*;
use Spend::{Campaign, Check, Crash, Damage, Heartbeat, Read, Repeat, Report, Restart, RestartLearner};

const TWO_EACH: &[&[usize]] = &[&[0, 1], &[1, 2]];
/// The first proposer reaches a quorum, the second reaches all acceptors.
const TWO_AND_ALL: &[&[usize]] = &[&[0, 1], &[0, 1, 2]];
const FIRST_ALONE: &[&[usize]] = &[&[0, 1], &[]];

/// A bug that breaks property 17 alone: every log begins at the base, and the first leader starts at slot 0.
pub fn versions_below_the_base() -> Case {
    Case::Restoring(restoring::Scenario {
        bug: Some(RestoredLeaderStartsAtZero),
        ..restoring::Scenario::small("a restored cluster whose leader starts at slot 0")
    })
}

/// A bug that breaks property 22 alone: a learner installs a snapshot, and works in an earlier era than its state.
pub fn snapshot_without_configuration() -> Case {
    changes::snapshot_without_configuration()
}

/// Every bug that the model can express.
pub fn planted() -> Vec<Case> {
    let allow = Allowance::new;
    let plant = |bug, name, scenario: Scenario| {
        Case::Cluster(Scenario {
            name,
            bug: Some(bug),
            ..scenario
        })
    };
    let plant_forming = |bug, name| {
        Case::Forming(forming::Scenario {
            bug: Some(bug),
            ..forming::Scenario::differing(name).of_two()
        })
    };
    let plant_restoring = |bug, name| {
        Case::Restoring(restoring::Scenario {
            bug: Some(bug),
            ..restoring::Scenario::small(name)
        })
    };
    let two_each = || Scenario {
        reach: TWO_EACH,
        ..Scenario::small("")
    };
    let pipelined = |allowance| Scenario {
        reach: FIRST_ALONE,
        commands: &[2, 0],
        slots: 2,
        allowance,
        ..Scenario::small("")
    };
    let reads = || Scenario {
        learners: 1,
        commands: &[1, 0],
        reach: FIRST_ALONE,
        allowance: allow(&[(Campaign, 1), (Read, 2)]),
        ..Scenario::small("")
    };
    let mut cases = vec![
        plant(
            AcceptedLeftOutOfPromise,
            "accepted values left out of a promise",
            two_each(),
        ),
        plant(
            AcceptDoesNotPromise,
            "an Accept that does not raise the promise",
            Scenario {
                reach: TWO_AND_ALL,
                ..Scenario::small("")
            },
        ),
        plant(
            BallotReusedAfterRestart,
            "a ballot reused after a restart",
            Scenario {
                allowance: allow(&[(Campaign, 2), (Restart, 1)]),
                ..two_each()
            },
        ),
        plant(
            BallotReusedBySameProcess,
            "a ballot reused by the same process",
            Scenario {
                allowance: allow(&[(Campaign, 2), (Restart, 1), (Repeat, 2)]),
                ..two_each()
            },
        ),
        plant(
            AnswersBeforeTheCommit,
            "answers before the commit",
            Scenario {
                allowance: allow(&[(Campaign, 2), (Crash, 1)]),
                ..two_each()
            },
        ),
        plant(
            LeaderCountsVotesOfOtherBallots,
            "votes of different ballots counted together, by a leader",
            Scenario {
                // The second proposer preempts the first. Then the first leads again, with a different command for the
                // slot.
                reach: &[&[0, 1, 2], &[1, 2]],
                commands: &[2, 0],
                batches_in_flight: 1,
                allowance: allow(&[(Campaign, 3)]),
                ..Scenario::small("")
            },
        ),
        plant(
            LearnerCountsVotesOfOtherBallots,
            "votes of different ballots counted together, by a learner",
            Scenario {
                learners: 1,
                ..two_each()
            },
        ),
        plant(
            LeaderCountsReplies,
            "replies counted instead of acceptors",
            two_each(),
        ),
        plant(
            ValuesPickedFromPartOfTheQuorum,
            "values picked from part of the quorum",
            two_each(),
        ),
        plant(
            StartsBelowFrom,
            "w computed without from: a no-op over what is chosen",
            Scenario {
                slots: 2,
                prefix: one_knower,
                allowance: allow(&[(Campaign, 1), (Report, 1)]),
                ..two_each()
            },
        ),
        plant(
            AnswersAboveAGap,
            "answering above a gap",
            pipelined(allow(&[(Campaign, 1)])),
        ),
        plant(
            WatermarkTrustedForOlderRows,
            "the watermark trusted for older-ballot rows",
            Scenario {
                reach: TWO_AND_ALL,
                allowance: allow(&[(Heartbeat, 2)]),
                prefix: older_row,
                ..Scenario::small("")
            },
        ),
        plant(
            FrameWatermarkForHeldRows,
            "a frame's chosen_to applied to rows held from before",
            Scenario {
                learners: 1,
                reach: TWO_AND_ALL,
                allowance: allow(&[(Heartbeat, 2)]),
                prefix: older_row,
                ..Scenario::small("")
            },
        ),
        plant(
            WatermarkByHearsay,
            "the leader's chosen_to raised by hearsay",
            Scenario {
                prefix: older_row,
                allowance: allow(&[(Heartbeat, 4), (Report, 1)]),
                ..two_each()
            },
        ),
        plant(
            UnreadableRowTakenForEmpty,
            "an unreadable row treated as empty",
            Scenario {
                slots: 2,
                prefix: one_knower,
                allowance: allow(&[(Campaign, 1), (Damage, 1)]),
                ..two_each()
            },
        ),
        plant(
            CampaignFromDamagedRow,
            "a campaign from the watermark of a damaged row",
            Scenario {
                slots: 2,
                prefix: one_knower,
                allowance: allow(&[(Campaign, 1), (Damage, 1), (Report, 1)]),
                ..two_each()
            },
        ),
        plant(
            RepairTakesUnreadableRowForEmpty,
            "repair from pages with an unknown row",
            Scenario {
                repair: true,
                late_answers: true,
                commands: &[1, 0],
                prefix: one_knower,
                allowance: allow(&[
                    (Campaign, 1),
                    (Report, 1),
                    (Heartbeat, 2),
                    (Check, 2),
                    (Damage, 1),
                ]),
                ..two_each()
            },
        ),
        plant(
            ReadReusesEarlierRound,
            "a read that reuses an earlier round",
            reads(),
        ),
        plant(
            ReadCountsReplies,
            "a read that counts replies instead of acceptors",
            reads(),
        ),
        plant(
            PageShownBeforeMemory,
            "a page sent before memory shows its commit",
            Scenario {
                readable_first: true,
                prefix: readable_reign,
                allowance: allow(&[(Read, 2), (RestartLearner, 1)]),
                ..reads()
            },
        ),
        plant(
            LearnerResumesAfterHighest,
            "a learner that resumes after its highest slot",
            Scenario {
                learners: 1,
                ..pipelined(allow(&[(Campaign, 1), (RestartLearner, 1)]))
            },
        ),
        plant_forming(
            CompletesBeforeAllStored,
            "a cluster completed before all have stored it",
        ),
        plant_forming(TakesAnotherList, "a forming acceptor that takes another list"),
        plant_restoring(RestoreWithoutTheJump, "a restore without the jump"),
        Case::Restoring(restoring::Scenario {
            bug: Some(TakesOriginWithoutSeed),
            proposers: 0,
            returns: 1,
            ..restoring::Scenario::small("an acceptor without a seed that takes an origin")
        }),
        plant_restoring(
            SeededTakesAnotherList,
            "an acceptor with a seed that takes another list",
        ),
        versions_below_the_base(),
        Case::Restoring(restoring::Scenario {
            bug: Some(SeedsSentToAllAtOnce),
            restores: &[1, 2],
            proposers: 0,
            deaths: 0,
            ..restoring::Scenario::small("two restores of which none is finished")
        }),
        Case::Rollback(rollback::Scenario {
            bug: Some(CounterAlone),
            ..rollback::Scenario::small("a rolled-back acceptor whose counter catches up")
        }),
        Case::Rollback(rollback::Scenario {
            bug: Some(UntrustedIsHeard),
            tables: 1,
            forgets: 1,
            starts: 2,
            commits: 1,
            put_back: true,
            ..rollback::Scenario::small("an untrusted acceptor heard")
        }),
        Case::Rollback(rollback::Scenario {
            bug: Some(TooOldAgrees),
            runs_max: 2,
            tables: 1,
            starts: 3,
            commits: 1,
            ..rollback::Scenario::small("a list that was cut, taken as proof")
        }),
        Case::Rollback(rollback::Scenario {
            bug: Some(OwnHearingVouches),
            runs_max: 2,
            tables: 1,
            forgets: 1,
            starts: 3,
            commits: 1,
            ..rollback::Scenario::small("a list that was cut, vouched for by what was heard")
        }),
        Case::Rollback(rollback::Scenario {
            bug: Some(NewRunCountsUnasked),
            observers: 2,
            tables: 1,
            others_needed: 1,
            starts: 1,
            commits: 1,
            ..rollback::Scenario::small("a new run that others were not asked about")
        }),
    ];
    cases.extend(copies::planted());
    cases.extend(changes::planted());
    cases.extend(trims::planted());
    cases
}
