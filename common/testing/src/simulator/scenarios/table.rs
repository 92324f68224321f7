//! The scenarios, each with its bound.

use super::{members, *};

const USUAL: (usize, usize, usize) = (3, 2, 2);
const FIVE: (usize, usize, usize) = (5, 3, 3);

/// Phase 1 above phase 2, phase 1 below phase 2, and five acceptors.
pub const FLEXIBLE: [(usize, usize, usize); 6] =
    [(4, 3, 2), (4, 2, 3), (5, 3, 3), (5, 4, 2), (3, 3, 1), (3, 1, 3)];

/// The usual: two proposers, three acceptors, and nothing special.
pub(super) const PLAIN: Scenario = Scenario {
    name: "",
    quorums: USUAL,
    proposers: 2,
    change: |_| (),
    script: &[],
    finds: &[],
    changes: false,
    for_all_quorums: false,
    lasts: 10 * SECOND,
    check: nothing_changes,
};

/// Limit of the time to replace a dead leader: L / 8, an equally long random wait, and clocks wrong by a quarter.
const AFTER_DEATH: Time = 100 * MILLISECOND;

/// Limit of the time to replace a silent leader: L, a random L, and one more report, with clocks wrong by a quarter.
pub(super) const AFTER_SILENCE: Time = 600 * MILLISECOND;

/// Time until a deaf proposer gives way: D, on a clock slow by a quarter, and a round of heartbeats.
const ABSENT: Time = 2_600 * MILLISECOND;

/// Every scenario.
pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "no fault at all",
        for_all_quorums: true,
        ..PLAIN
    },
    Scenario {
        name: "all disks stall for 3 s",
        finds: &[Bug::AliveWaitsForTheWriter, Bug::HeartbeatsStop],
        for_all_quorums: true,
        script: &[Step(0, |world| world.stall(world.all(), 3 * SECOND))],
        check: |log| {
            nothing_changes(log)?;
            answers_within(log, 3 * SECOND, 100 * MILLISECOND)
        },
        ..PLAIN
    },
    Scenario {
        name: "all disks stall for a minute",
        script: &[Step(0, |world| world.stall(world.all(), 60 * SECOND))],
        change: |knobs| knobs.clients = 16,
        lasts: 65 * SECOND,
        check: |log| {
            nothing_changes(log)?;
            answers_within(log, 60 * SECOND, 100 * MILLISECOND)
        },
        ..PLAIN
    },
    Scenario {
        name: "all disks stall for 250 ms every 2 s",
        script: &[
            Step(0, |world| world.stall(world.all(), 250 * MILLISECOND)),
            Step(2 * SECOND, |world| world.stall(world.all(), 250 * MILLISECOND)),
            Step(4 * SECOND, |world| world.stall(world.all(), 250 * MILLISECOND)),
            Step(6 * SECOND, |world| world.stall(world.all(), 800 * MILLISECOND)),
        ],
        ..PLAIN
    },
    Scenario {
        name: "one disk stalls, then another",
        script: &[
            Step(0, |world| world.stall([0], 4 * SECOND)),
            Step(5 * SECOND, |world| world.stall([1], 4 * SECOND)),
        ],
        check: |log| {
            nothing_changes(log)?;
            let answers = log.count(BEGIN, BEGIN + 4 * SECOND, answered);
            expect(answers > 20, || {
                format!("{answers} answers while one disk stalled")
            })
        },
        ..PLAIN
    },
    Scenario {
        name: "disks take 400 ms for each commit",
        script: &[Step(0, |world| {
            (world.knobs.disk_min, world.knobs.disk_max) = (400 * MILLISECOND, 400 * MILLISECOND);
        })],
        ..PLAIN
    },
    Scenario {
        name: "all disks are full for 2 s",
        finds: &[Bug::TurnedAwayNeverSentAgain],
        for_all_quorums: true,
        script: &[Step(0, |world| world.fill_disks(2 * SECOND))],
        check: |log| {
            nothing_changes(log)?;
            answers_within(log, 2 * SECOND, 300 * MILLISECOND)
        },
        ..PLAIN
    },
    Scenario {
        name: "the leader dies",
        for_all_quorums: true,
        script: &[Step(0, |world| world.crash_proposer(0))],
        check: |log| {
            replaced_within(log, 0, AFTER_DEATH)?;
            leaders_at_most(log, 1)
        },
        ..PLAIN
    },
    Scenario {
        name: "the leader dies, with three who may follow",
        proposers: 4,
        script: &[Step(0, |world| world.crash_proposer(0))],
        check: |log| replaced_within(log, 0, 3 * AFTER_DEATH),
        ..PLAIN
    },
    Scenario {
        name: "the leader dies while all disks stall",
        for_all_quorums: true,
        script: &[
            Step(0, |world| world.stall(world.all(), 3 * SECOND)),
            Step(SECOND, |world| world.crash_proposer(0)),
        ],
        check: |log| {
            let began = log.first(BEGIN + SECOND, campaigns).map(|at| at - BEGIN - SECOND);
            expect(began.is_some_and(|began| began <= AFTER_DEATH), || {
                format!("the candidate after {began:?} µs")
            })?;
            replaced_within(log, 3 * SECOND, 50 * MILLISECOND)?;
            leaders_at_most(log, 1)
        },
        ..PLAIN
    },
    Scenario {
        name: "the leader stands still for 3 s",
        for_all_quorums: true,
        script: &[Step(0, |world| world.stop(Node::Proposer(0), 3 * SECOND))],
        check: |log| {
            replaced_within(log, 0, AFTER_SILENCE)?;
            leaders_at_most(log, 1)
        },
        ..PLAIN
    },
    Scenario {
        name: "the leader stands still for less than the leader timeout",
        script: &[
            Step(0, |world| world.stop(Node::Proposer(0), 90 * MILLISECOND)),
            Step(2 * SECOND, |world| {
                world.stop(Node::Proposer(0), 90 * MILLISECOND);
            }),
        ],
        ..PLAIN
    },
    Scenario {
        name: "a leader without others stands still for 5 s",
        proposers: 1,
        script: &[Step(0, |world| world.stop(Node::Proposer(0), 5 * SECOND))],
        ..PLAIN
    },
    Scenario {
        name: "an acceptor stands still for 5 s",
        script: &[Step(0, |world| world.stop(Node::Acceptor(2), 5 * SECOND))],
        ..PLAIN
    },
    Scenario {
        name: "an acceptor restarts",
        script: &[Step(0, |world| world.crash(Node::Acceptor(1)))],
        ..PLAIN
    },
    Scenario {
        name: "nothing of the leader arrives",
        for_all_quorums: true,
        script: &[Step(0, |world| world.cut_out(0, world.all(), 5 * SECOND))],
        check: |log| {
            replaced_within(log, 0, AFTER_SILENCE)?;
            leaders_at_most(log, 1)
        },
        ..PLAIN
    },
    Scenario {
        name: "nothing arrives at the leader",
        finds: &[Bug::KeepsStreams],
        for_all_quorums: true,
        script: &[Step(0, |world| world.cut_in(0, world.all(), 9 * SECOND))],
        check: |log| {
            replaced_within(log, 0, ABSENT + AFTER_DEATH)?;
            leaders_at_most(log, 1)
        },
        ..PLAIN
    },
    Scenario {
        name: "the leader and one acceptor do not reach each other",
        script: &[
            Step(0, |world| world.cut_out(0, [0], 2 * SECOND)),
            Step(3 * SECOND, |world| world.cut_in(0, [1], 2 * SECOND)),
            Step(6 * SECOND, |world| world.cut_off(0, [2], 3 * SECOND)),
        ],
        ..PLAIN
    },
    Scenario {
        name: "a standby and two acceptors do not reach each other",
        script: &[
            Step(0, |world| world.cut_out(1, [0, 1], 3 * SECOND)),
            Step(4 * SECOND, |world| world.cut_in(1, [0, 1], 3 * SECOND)),
        ],
        ..PLAIN
    },
    Scenario {
        name: "all connections of the leader are reset, again and again",
        for_all_quorums: true,
        script: &[
            Step(0, |world| world.reset_all_of(0)),
            Step(SECOND, |world| world.reset_all_of(0)),
            Step(2 * SECOND, |world| world.reset_all_of(0)),
            Step(3 * SECOND, |world| {
                world.reset_streams(|stream| stream.acceptor == 1);
            }),
        ],
        ..PLAIN
    },
    Scenario {
        name: "all connections of the leader are reset, and a standby cannot ask the leader",
        finds: &[Bug::EndedThoughReopened],
        for_all_quorums: true,
        script: &[
            Step(0, |world| world.cut_proposers(3 * SECOND)),
            Step(SECOND, |world| world.reset_all_of(0)),
            Step(2 * SECOND, |world| world.reset_all_of(0)),
        ],
        ..PLAIN
    },
    Scenario {
        name: "all connections of the leader are reset, and its busy machine needs 90 ms for new ones",
        finds: &[Bug::ConnectedCountsAsNoAnswer],
        for_all_quorums: true,
        change: |knobs| knobs.first_redial_after = 90 * MILLISECOND,
        script: &[
            Step(0, |world| world.reset_streams(|stream| stream.proposer == 0)),
            Step(2 * SECOND, |world| {
                world.reset_streams(|stream| stream.proposer == 0);
            }),
        ],
        ..PLAIN
    },
    Scenario {
        name: "all connections of the leader are reset while the leader stands still",
        for_all_quorums: true,
        script: &[Step(0, |world| {
            world.stop(Node::Proposer(0), 3 * SECOND);
            world.reset_streams(|stream| stream.proposer == 0);
        })],
        check: |log| {
            replaced_within(log, 0, AFTER_SILENCE)?;
            leaders_at_most(log, 1)
        },
        ..PLAIN
    },
    Scenario {
        name: "the leader hands over",
        for_all_quorums: true,
        script: &[Step(0, |world| world.resign_proposer(0))],
        check: |log| {
            replaced_within(log, 0, 3 * AFTER_DEATH)?;
            leaders_at_most(log, 1)
        },
        ..PLAIN
    },
    Scenario {
        name: "the leader hands over to a proposer that the leader cannot ask",
        finds: &[Bug::EndedHitsTheSuccessor],
        for_all_quorums: true,
        script: &[
            Step(0, |world| world.cut_proposers(3 * SECOND)),
            Step(0, |world| world.resign_proposer(0)),
        ],
        check: |log| {
            replaced_within(log, 0, 3 * AFTER_DEATH)?;
            leaders_at_most(log, 1)
        },
        ..PLAIN
    },
    Scenario {
        name: "a giant ballot is asked for while all disks stall",
        finds: &[Bug::RefusedBallotIsHeard],
        for_all_quorums: true,
        script: &[
            Step(0, |world| world.stall(world.all(), 3 * SECOND)),
            Step(SECOND, |world| world.ask_giant()),
            Step(5 * SECOND, |world| world.ask_giant()),
        ],
        ..PLAIN
    },
    Scenario {
        name: "values of 1 MiB on links of 16 Mbit/s",
        change: |knobs| {
            knobs.weight = (1 << 20) / 8;
            knobs.limits.batch_commands_max = 1;
            knobs.client_patience = 30 * SECOND;
        },
        script: &[Step(0, |world| {
            for acceptor in world.all() {
                world.slow_down(0, acceptor, 2_000);
            }
        })],
        lasts: 30 * SECOND,
        ..PLAIN
    },
    Scenario {
        name: "a former leader that hears nothing, and the next one dies",
        finds: &[Bug::BytesOfLowerBallotsAreHeard],
        proposers: 3,
        script: &[
            // The streams of proposer 0 stay open, and no process can inform proposer 0 of the new leader.
            Step(0, |world| world.stop(Node::Proposer(0), 500 * MILLISECOND)),
            Step(0, |world| world.cut_in(0, world.all(), 20 * SECOND)),
            Step(SECOND, |world| {
                let next = (1..3).find(|&proposer| world.proposers[proposer].leads());
                if let Some(next) = next {
                    world.crash_proposer(next);
                }
            }),
        ],
        check: |log| replaced_within(log, SECOND, AFTER_DEATH),
        ..PLAIN
    },
    Scenario {
        name: "a candidate that hears no answers",
        finds: &[Bug::CandidateWaitsForHung],
        proposers: 3,
        script: &[
            // Proposer 1 will be the first candidate.
            Step(0, |world| {
                world.stop(Node::Proposer(2), 300 * MILLISECOND);
                world.crash_proposer(0);
            }),
            Step(0, |world| world.stall(world.all(), 400 * MILLISECOND)),
            Step(250 * MILLISECOND, |world| {
                world.cut_in(1, world.all(), 20 * SECOND);
            }),
        ],
        check: |log| {
            let first = log.first(BEGIN, |happened| happened.campaigner() == Some(1));
            expect(first.is_some_and(|at| at < BEGIN + 250 * MILLISECOND), || {
                "proposer 1 is not the first".to_owned()
            })?;
            replaced_within(log, 250 * MILLISECOND, ABSENT + AFTER_SILENCE)
        },
        ..PLAIN
    },
    Scenario {
        name: "two of the leader's disks take 7 s, and the third waits for them",
        finds: &[Bug::WorkDoesNotCount],
        quorums: FIVE,
        change: |knobs| {
            knobs.limits.batches_in_flight_max = 2;
            knobs.targets = Some(vec![0, 1]);
        },
        script: &[
            Step(0, |world| {
                world.cut_off(0, [3, 4], 60 * SECOND);
                world.acceptors[0].takes = Some(7 * SECOND);
                world.acceptors[1].takes = Some(3_500 * MILLISECOND);
            }),
            Step(SECOND, |world| world.acceptors[1].takes = Some(7 * SECOND)),
        ],
        lasts: 12 * SECOND,
        ..PLAIN
    },
    Scenario {
        name: "the leader reaches two stuck disks and one slow link, and a standby reaches others",
        finds: &[Bug::ForwardedDoNotCount],
        quorums: FIVE,
        change: |knobs| {
            knobs.weight = (1 << 20) / 8;
            knobs.targets = Some(vec![1]);
            knobs.think_max = 400 * MILLISECOND;
            knobs.client_patience = 8 * SECOND;
        },
        script: &[Step(0, |world| {
            // No vote is above the known chosen slots, so only the forwarded commands wait.
            if world.is_quiet() {
                world.cut_off(0, [3, 4], 60 * SECOND);
                world.stall([0, 1], 60 * SECOND);
                world.slow_down(0, 2, 10);
            } else {
                world.plan(world.now + 5 * MILLISECOND, Happening::Scripted(0));
            }
        })],
        lasts: 20 * SECOND,
        check: |log| {
            let challenge = log.first(BEGIN, Happened::is_challenge).map(|at| at - BEGIN);
            expect(
                challenge.is_some_and(|at| (4 * SECOND..9 * SECOND).contains(&at)),
                || format!("challenged after {challenge:?} µs"),
            )?;
            replaced_within(log, 0, 9 * SECOND)
        },
        ..PLAIN
    },
    Scenario {
        name: "a standby that reaches a phase-1 quorum alone, and the leader dies",
        finds: &[Bug::NoPhase2QuorumNeeded],
        quorums: (4, 2, 3),
        proposers: 3,
        script: &[Step(0, |world| {
            world.cut_off(1, [2, 3], 3 * SECOND);
            world.stop(Node::Proposer(2), 2 * SECOND);
            world.crash_proposer(0);
        })],
        check: |log| {
            let futile = log.count(BEGIN, BEGIN + 2 * SECOND, |happened| {
                happened.campaigner() == Some(1)
            });
            expect(futile == 0, || {
                format!("{futile} campaigns that could choose nothing")
            })?;
            replaced_within(log, 2 * SECOND, AFTER_SILENCE)
        },
        ..PLAIN
    },
    Scenario {
        name: "a standby that hears everything 3 s late, and the leader dies",
        finds: &[Bug::StaleAnswersCount],
        proposers: 3,
        script: &[
            Step(0, |world| {
                for acceptor in world.all() {
                    let way = (Node::Acceptor(acceptor), Node::Proposer(1));
                    world.network.distance.insert(way, 3 * SECOND);
                }
            }),
            Step(100 * MILLISECOND, |world| {
                world.stop(Node::Proposer(2), SECOND);
                world.crash_proposer(0);
            }),
        ],
        check: |log| {
            replaced_within(log, SECOND, AFTER_SILENCE)?;
            leaders_at_most(log, 1)?;
            let late = log.count(BEGIN, Time::MAX, |happened| happened.campaigner() == Some(1));
            expect(late == 0, || format!("{late} campaigns on old news"))
        },
        ..PLAIN
    },
    Scenario {
        name: "the leader reaches one acceptor, and a standby all",
        script: &[Step(0, |world| world.cut_off(0, [0, 1], 9 * SECOND))],
        check: |log| {
            replaced_within(log, 0, AFTER_SILENCE)?;
            leaders_at_most(log, 1)
        },
        ..PLAIN
    },
    members::REPLACED,
    members::REPLACED_BY_A_SILENT_ONE,
    members::LEADER_CUT_OFF_AT_THE_SWITCH,
    members::LEADER_DIES,
];
