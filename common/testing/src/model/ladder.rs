//! The rungs of the ladder, from small to large.

use super::{
    climb::Case,
    forming,
    prefix::one_knower,
    restoring, rollback,
    scenario::{Allowance, Scenario, Spend},
    sights::Sight,
};

pub(super) mod changes;
mod copies;
mod trims;

pub(super) use copies::{two_copies_and_a_learner, two_copies_and_another};

use Spend::{
    Campaign, Check, Crash, Fill, Heartbeat, Limit, Read, Repeat, Report, RestartLearner, SwitchFeed,
};

/// A case to check, with the number of states.
pub struct Rung {
    pub case: Case,
    /// Number of unique states, for rungs that every test run climbs and counts.
    pub unique_states: Option<usize>,
}

/// Acceptors reached by each proposer: a phase-1 quorum for each proposer, with a single acceptor in common.
const TWO_EACH: &[&[usize]] = &[&[0, 1], &[1, 2]];
/// The first proposer reaches all acceptors, the second reaches a quorum.
const ALL_AND_TWO: &[&[usize]] = &[&[0, 1, 2], &[1, 2]];

/// Rungs climbed in every test run.
pub fn small() -> Vec<Rung> {
    let case = |unique_states, case| Rung {
        case,
        unique_states: Some(unique_states),
    };
    let rung = |unique_states, scenario| case(unique_states, Case::Cluster(scenario));
    let allow = Allowance::new;
    let mut rungs = vec![
        rung(
            113_238,
            Scenario {
                expected: &[Sight::Chosen, Sight::Duel, Sight::CarriedOver, Sight::Answered],
                ..Scenario::small("1 one slot, two ballots")
            },
        ),
        rung(
            4_782,
            Scenario {
                reach: TWO_EACH,
                allowance: allow(&[(Campaign, 3)]),
                expected: &[Sight::SteppedDown, Sight::Duel, Sight::CarriedOver],
                ..Scenario::small("1 one slot, three ballots, two acceptors each")
            },
        ),
        rung(
            54_002,
            Scenario {
                commands: &[2, 1],
                slots: 2,
                reach: TWO_EACH,
                expected: &[Sight::Noop, Sight::ChosenAboveGap, Sight::Answered],
                ..Scenario::small("2 two slots, two acceptors each")
            },
        ),
        rung(
            121_649,
            Scenario {
                slots: 2,
                allowance: allow(&[(Campaign, 1), (Fill, 1)]),
                expected: &[Sight::Noop],
                ..Scenario::small("2 two slots, a fill")
            },
        ),
        rung(
            49_721,
            Scenario {
                commands: &[2, 0],
                slots: 2,
                page_rows: 1,
                pages_apart: true,
                reach: TWO_EACH,
                expected: &[Sight::PromiseOfManyPages, Sight::PageOvertaken],
                ..Scenario::small("2 two slots, pages of one row")
            },
        ),
        rung(
            28_478,
            Scenario {
                reach: ALL_AND_TWO,
                allowance: allow(&[(Campaign, 2), (Crash, 1)]),
                expected: &[Sight::VoteLost, Sight::PromiseLost],
                ..Scenario::small("3 a crash")
            },
        ),
        rung(
            2_486,
            Scenario {
                reach: TWO_EACH,
                groups: true,
                allowance: allow(&[(Campaign, 2), (Crash, 1)]),
                expected: &[Sight::GroupOfMany, Sight::VoteLost],
                ..Scenario::small("3 a crash, groups of many")
            },
        ),
        rung(
            103_302,
            Scenario {
                late_answers: true,
                reach: TWO_EACH,
                allowance: allow(&[(Campaign, 2), (Crash, 1), (Heartbeat, 2), (Report, 1)]),
                expected: &[Sight::WatermarkLost],
                ..Scenario::small("3 a watermark, a crash")
            },
        ),
        rung(
            10_116,
            Scenario {
                learners: 1,
                reach: TWO_EACH,
                allowance: allow(&[(Campaign, 2), (SwitchFeed, 1)]),
                expected: &[Sight::Learned, Sight::FeedSwitched],
                ..Scenario::small("4 a learner, two ballots, another feed")
            },
        ),
        rung(
            46_889,
            Scenario {
                learners: 1,
                slots: 2,
                commands: &[2, 0],
                reach: &[&[0, 1], &[]],
                allowance: allow(&[(Campaign, 1), (RestartLearner, 1)]),
                expected: &[Sight::Learned, Sight::LearnerRestarted],
                ..Scenario::small("4 a learner, two slots, a restart")
            },
        ),
        rung(
            68_134,
            Scenario {
                learners: 1,
                commands: &[1, 0],
                reach: &[&[0, 1], &[]],
                allowance: allow(&[(Campaign, 1), (Read, 2)]),
                expected: &[Sight::ReadAfterWrite, Sight::ReadOverlapsWrite],
                ..Scenario::small("5 two reads beside a write")
            },
        ),
        rung(
            242_314,
            Scenario {
                learners: 1,
                reach: TWO_EACH,
                allowance: allow(&[(Campaign, 2), (Read, 1)]),
                expected: &[Sight::ReadAfterWrite, Sight::ReadAfterFailover],
                ..Scenario::small("5 a read, two leaders")
            },
        ),
        rung(
            34_295,
            Scenario {
                learners: 1,
                commands: &[1, 0],
                reach: &[&[0, 1], &[]],
                allowance: allow(&[(Campaign, 1), (Read, 1), (Limit, 1), (Fill, 1)]),
                expected: &[Sight::ReadAfterLimit],
                ..Scenario::small("5 a read beyond its limit")
            },
        ),
        rung(
            10_320,
            Scenario {
                learners: 1,
                commands: &[1, 0],
                reach: &[&[0, 1], &[]],
                readable_first: true,
                allowance: allow(&[(Campaign, 1), (Crash, 1), (Read, 1)]),
                expected: &[Sight::ReadableUnanswered, Sight::ReadAfterWrite],
                ..Scenario::small("5 a read, commits readable first, a crash")
            },
        ),
        rung(
            5_613,
            Scenario {
                repair: true,
                late_answers: true,
                commands: &[1, 0],
                prefix: one_knower,
                reach: TWO_EACH,
                allowance: allow(&[(Campaign, 1), (Report, 1), (Heartbeat, 2), (Check, 2)]),
                expected: &[Sight::Repair],
                ..Scenario::small("6 repair, the only knower gone")
            },
        ),
        rung(
            137_841,
            Scenario {
                acceptors: 4,
                phase1: 2,
                phase2: 3,
                reach: &[&[0, 1, 2], &[1, 2, 3]],
                expected: &[Sight::Chosen, Sight::CarriedOver],
                ..Scenario::small("7 quorums of 2 and 3 of 4")
            },
        ),
        rung(
            6_985,
            Scenario {
                acceptors: 4,
                phase1: 3,
                phase2: 2,
                reach: &[&[0, 1, 2], &[1, 2, 3]],
                expected: &[Sight::Chosen, Sight::CarriedOver],
                ..Scenario::small("7 quorums of 3 and 2 of 4")
            },
        ),
        case(
            20_337,
            Case::Forming(forming::Scenario {
                expected: &[Sight::FormedByAnother],
                ..forming::Scenario::agreeing("8 forming two, a proposer dies").of_two()
            }),
        ),
        case(
            2_283,
            Case::Forming(forming::Scenario {
                lists: &[&[0, 1]],
                deaths: 0,
                wipes: 1,
                expected: &[Sight::ConflictTold, Sight::LostDiskTold],
                ..forming::Scenario::agreeing("8 forming two by one, a disk is lost").of_two()
            }),
        ),
        case(
            22_878,
            Case::Forming(forming::Scenario {
                expected: &[Sight::ConflictTold],
                ..forming::Scenario::differing("8 forming two, lists that differ").of_two()
            }),
        ),
        case(
            7_977,
            Case::Restoring(restoring::Scenario {
                proposers: 0,
                deaths: 0,
                returns: 1,
                expected: &[Sight::Restored],
                ..restoring::Scenario::small("8 restoring two, a disk goes back")
            }),
        ),
        case(
            172_100,
            Case::Rollback(rollback::Scenario {
                expected: &[Sight::LostDiskRefused],
                ..rollback::Scenario::small("9 a disk that goes back")
            }),
        ),
        case(
            20_918,
            Case::Rollback(rollback::Scenario {
                tables: 1,
                forgets: 1,
                starts: 2,
                commits: 1,
                put_back: true,
                expected: &[Sight::LostDiskRefused, Sight::RightDiskTrusted],
                ..rollback::Scenario::small("9 a disk that goes back, and the right one put back")
            }),
        ),
        case(
            133_102,
            Case::Rollback(rollback::Scenario {
                runs_max: 2,
                tables: 1,
                forgets: 1,
                starts: 3,
                commits: 1,
                expected: &[Sight::LostDiskRefused],
                ..rollback::Scenario::small("9 a disk that goes back, lists of two runs")
            }),
        ),
        case(
            27_030,
            Case::Rollback(rollback::Scenario {
                observers: 2,
                tables: 1,
                others_needed: 1,
                starts: 1,
                commits: 1,
                expected: &[Sight::LostDiskRefused],
                ..rollback::Scenario::small("9 a disk that goes back while one who counts hears nothing")
            }),
        ),
    ];
    rungs.extend(trims::small());
    rungs.extend(copies::small());
    rungs.extend(changes::small());
    rungs
}

/// Rungs with a run time of minutes.
pub fn large() -> Vec<Rung> {
    let case = |case| Rung {
        case,
        unique_states: None,
    };
    let rung = |scenario| case(Case::Cluster(scenario));
    let allow = Allowance::new;
    let mut rungs = vec![
        rung(Scenario {
            reach: ALL_AND_TWO,
            allowance: allow(&[(Campaign, 3)]),
            expected: &[Sight::SteppedDown, Sight::Duel, Sight::CarriedOver],
            ..Scenario::small("1 one slot, three ballots")
        }),
        rung(Scenario {
            allowance: allow(&[(Campaign, 2), (Repeat, 1)]),
            ..Scenario::small("1 one slot, a message twice")
        }),
        rung(Scenario {
            commands: &[2, 0],
            slots: 2,
            expected: &[Sight::Noop, Sight::ChosenAboveGap],
            ..Scenario::small("2 two slots")
        }),
        rung(Scenario {
            allowance: allow(&[(Campaign, 2), (Crash, 1)]),
            expected: &[Sight::VoteLost, Sight::PromiseLost],
            ..Scenario::small("3 a crash")
        }),
        rung(Scenario {
            groups: true,
            allowance: allow(&[(Campaign, 2), (Crash, 1)]),
            expected: &[Sight::GroupOfMany, Sight::VoteLost],
            ..Scenario::small("3 a crash, groups of many")
        }),
        rung(Scenario {
            learners: 1,
            slots: 2,
            commands: &[2, 0],
            reach: &[&[0, 1], &[]],
            allowance: allow(&[(Campaign, 1), (Heartbeat, 1), (RestartLearner, 1)]),
            expected: &[Sight::Learned, Sight::LearnerRestarted],
            ..Scenario::small("4 a learner, two slots, watermarks, a restart")
        }),
        rung(Scenario {
            learners: 2,
            commands: &[1, 0],
            reach: &[&[0, 1], &[]],
            allowance: allow(&[(Campaign, 1), (Read, 2)]),
            expected: &[Sight::ReadAfterWrite, Sight::ReadOverlapsWrite],
            ..Scenario::small("5 two reads at two learners")
        }),
        rung(Scenario {
            learners: 1,
            commands: &[1, 0],
            reach: TWO_EACH,
            allowance: allow(&[(Campaign, 2), (Read, 2)]),
            expected: &[Sight::ReadAfterWrite, Sight::ReadAfterFailover],
            ..Scenario::small("5 two reads, two leaders")
        }),
        rung(Scenario {
            learners: 1,
            commands: &[1, 0],
            reach: &[&[0, 1], &[]],
            readable_first: true,
            allowance: allow(&[(Campaign, 1), (Read, 2), (RestartLearner, 1)]),
            expected: &[Sight::ReadAfterWrite, Sight::ReadOverlapsWrite],
            ..Scenario::small("5 two reads, commits readable first, a learner restarts")
        }),
        rung(Scenario {
            repair: true,
            late_answers: true,
            commands: &[1, 0],
            prefix: one_knower,
            reach: ALL_AND_TWO,
            allowance: allow(&[(Campaign, 1), (Report, 1), (Heartbeat, 2), (Check, 2)]),
            expected: &[Sight::Repair],
            ..Scenario::small("6 repair, the only knower gone")
        }),
        rung(Scenario {
            slots: 2,
            repair: true,
            late_answers: true,
            prefix: one_knower,
            reach: TWO_EACH,
            allowance: allow(&[(Campaign, 1), (Report, 1), (Heartbeat, 2), (Check, 2)]),
            expected: &[Sight::Repair],
            ..Scenario::small("6 repair beside new slots, two acceptors each")
        }),
        rung(Scenario {
            acceptors: 4,
            phase1: 2,
            phase2: 3,
            expected: &[Sight::Chosen, Sight::CarriedOver],
            ..Scenario::small("7 quorums of 2 and 3 of 4")
        }),
        rung(Scenario {
            acceptors: 4,
            phase1: 3,
            phase2: 2,
            expected: &[Sight::Chosen, Sight::CarriedOver],
            ..Scenario::small("7 quorums of 3 and 2 of 4")
        }),
        case(Case::Forming(forming::Scenario {
            wipes: 1,
            expected: &[Sight::FormedByAnother, Sight::ConflictTold, Sight::LostDiskTold],
            ..forming::Scenario::agreeing("8 forming two, a proposer dies, a disk is lost").of_two()
        })),
        case(Case::Forming(forming::Scenario {
            expected: &[Sight::FormedByAnother],
            ..forming::Scenario::agreeing("8 forming three, a proposer dies")
        })),
        case(Case::Forming(forming::Scenario {
            expected: &[Sight::ConflictTold],
            ..forming::Scenario::differing("8 forming three, lists that differ")
        })),
        case(Case::Restoring(restoring::Scenario {
            expected: &[Sight::Restored, Sight::RestoredByAnother, Sight::BackupTold],
            ..restoring::Scenario::small("8 restoring two beside a proposer, one dies")
        })),
        case(Case::Restoring(restoring::Scenario {
            restores: &[1, 2],
            proposers: 0,
            deaths: 0,
            expected: &[Sight::Restored],
            ..restoring::Scenario::small("8 restoring two, two backups")
        })),
        case(Case::Restoring(restoring::Scenario {
            restores: &[1, 1],
            deaths: 2,
            expected: &[Sight::Restored, Sight::RestoredByAnother, Sight::BackupTold],
            ..restoring::Scenario::small("8 restoring two, repeated, beside a proposer")
        })),
        case(Case::Restoring(restoring::Scenario {
            acceptors: 3,
            deaths: 0,
            expected: &[Sight::Restored, Sight::BackupTold],
            ..restoring::Scenario::small("8 restoring three beside a proposer")
        })),
        case(Case::Rollback(rollback::Scenario {
            observers: 2,
            tables: 1,
            starts: 3,
            commits: 1,
            expected: &[Sight::LostDiskRefused],
            ..rollback::Scenario::small("9 a disk that goes back, two who count")
        })),
        case(Case::Rollback(rollback::Scenario {
            runs_max: 1,
            tables: 2,
            forgets: 1,
            starts: 3,
            commits: 1,
            expected: &[Sight::LostDiskRefused],
            ..rollback::Scenario::small("9 a disk that goes back, lists of one run, two tables")
        })),
        case(Case::Rollback(rollback::Scenario {
            observers: 2,
            tables: 1,
            others_needed: 1,
            starts: 2,
            commits: 1,
            expected: &[Sight::LostDiskRefused],
            ..rollback::Scenario::small(
                "9 a disk that goes back while one who counts hears nothing, two starts",
            )
        })),
        case(Case::Rollback(rollback::Scenario {
            observers: 2,
            tables: 2,
            others_needed: 1,
            starts: 2,
            commits: 1,
            put_back: true,
            expected: &[Sight::LostDiskRefused, Sight::RightDiskTrusted],
            ..rollback::Scenario::small(
                "9 a disk that goes back while one who counts hears nothing, two tables",
            )
        })),
    ];
    rungs.extend(trims::large());
    rungs.extend(changes::large());
    rungs
}
