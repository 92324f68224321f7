//! Exhaustive: every learner in every small cluster, with the real decisions. From every state of the learner, while the
//! acceptors stay as they are, the learner reaches every slot that a proof or a snapshot can reach.
//!
//! All states of the learner are begun with, and not only the states that lead here. So the acceptors may have done anything
//! before.

use std::collections::HashMap;

use super::*;

/// Slots 0 and 1 are chosen.
const CHOSEN_TO: u64 = 2;
/// Of three acceptors; also the size of the other quorum.
const QUORUM: usize = 2;
/// Time between two looks of the modelled learner.
const TICK: Duration = Duration::from_secs(10);
/// Two ticks.
const PATIENCE: Duration = Duration::from_secs(20);

/// An acceptor of a formed cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct ModelAcceptor {
    trimmed_to: u64,
    /// The slots with a row of the ballot that chose the slot.
    rows: [bool; 2],
    /// The own watermark: the rows below are known to be chosen.
    chosen_to: u64,
    answers: bool,
    /// The snapshot arrives whole when asked for.
    gives: bool,
}

impl ModelAcceptor {
    fn every() -> Vec<Self> {
        let mut every = Vec::new();
        for trimmed_to in 0..=CHOSEN_TO {
            for rows in [[false, false], [false, true], [true, false], [true, true]] {
                let row = |slot: u64| rows[usize::try_from(slot).unwrap()];
                if (0..trimmed_to).any(row) {
                    continue;
                }
                let end = (trimmed_to..CHOSEN_TO).find(|&slot| !row(slot));
                for chosen_to in trimmed_to..=end.unwrap_or(CHOSEN_TO) {
                    for (answers, gives) in [(false, false), (true, false), (true, true)] {
                        every.push(Self {
                            trimmed_to,
                            rows,
                            chosen_to,
                            answers,
                            gives,
                        });
                    }
                }
            }
        }
        every
    }

    fn has_row(&self, slot: u64) -> bool {
        self.rows[usize::try_from(slot).unwrap()]
    }

    fn covers(&self, slot: u64) -> bool {
        slot < self.trimmed_to || self.has_row(slot)
    }
}

/// Three acceptors that stay as they are.
#[derive(Clone, Copy, Debug)]
struct ModelCluster([ModelAcceptor; 3]);

impl ModelCluster {
    /// Every cluster in which a quorum covers each chosen slot, but for the order of the acceptors.
    fn every() -> Vec<Self> {
        let every = ModelAcceptor::every();
        let mut clusters = Vec::new();
        for &one in &every {
            for &two in every.iter().filter(|two| **two >= one) {
                for &three in every.iter().filter(|three| **three >= two) {
                    let acceptors = [one, two, three];
                    let is_covered = |slot| acceptors.iter().filter(|it| it.covers(slot)).count() >= QUORUM;
                    if (0..CHOSEN_TO).all(is_covered) {
                        clusters.push(Self(acceptors));
                    }
                }
            }
        }
        clusters
    }

    fn answering(&self) -> impl Iterator<Item = (u128, &ModelAcceptor)> {
        (1..).zip(&self.0).filter(|(_, acceptor)| acceptor.answers)
    }

    fn reports(&self) -> Vec<TrimReport> {
        let report = |(number, acceptor): (u128, &ModelAcceptor)| TrimReport {
            acceptor: AcceptorUuid::from_u128(number),
            trimmed_to: slot(acceptor.trimmed_to),
        };
        self.answering().map(report).collect()
    }

    /// Whether the rows of the answering acceptors prove a slot.
    fn is_proved(&self, slot: u64) -> bool {
        let holders = || self.answering().filter(|(_, acceptor)| acceptor.has_row(slot));
        holders().count() >= QUORUM || holders().any(|(_, acceptor)| acceptor.chosen_to > slot)
    }

    fn learned(&self, mut position: u64) -> u64 {
        while position < CHOSEN_TO && self.is_proved(position) {
            position += 1;
        }
        position
    }

    /// The end of the snapshot that an acceptor gives.
    fn given_by(&self, acceptor: AcceptorUuid) -> Option<u64> {
        let mut answering = self.answering();
        let (_, giver) = answering.find(|(number, _)| AcceptorUuid::from_u128(*number) == acceptor)?;
        giver.gives.then_some(giver.trimmed_to)
    }

    /// The position that proofs and snapshots can reach at all.
    fn best(&self, mut position: u64) -> u64 {
        loop {
            let given = self.answering().filter(|(_, acceptor)| acceptor.gives);
            let given = given.map(|(_, acceptor)| acceptor.trimmed_to).max();
            let next = self.learned(position).max(given.unwrap_or(0));
            if next == position {
                return position;
            }
            position = next;
        }
    }
}

/// Everything that the next step of the learner rests on. Times in ticks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct ModelLearner {
    position: u64,
    given_up: GivenUp,
    phase: Phase,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Phase {
    Start,
    /// The position below a log, and for how long.
    Learning(Option<(u64, u32)>),
    Installing {
        cause: CutOffCause,
        tried: u32,
    },
}

impl ModelLearner {
    fn every() -> Vec<Self> {
        let tried_max = u32::try_from(ATTEMPTS_MAX.as_secs() / TICK.as_secs()).unwrap();
        let mut every = Vec::new();
        for position in 0..=CHOSEN_TO {
            for factor in [0, 2, 4, PATIENCE_FACTOR_MAX] {
                for given_up_at in 0..=position {
                    let given_up = GivenUp {
                        position: slot(given_up_at),
                        factor,
                    };
                    let mut phases = vec![Phase::Start, Phase::Learning(None)];
                    let stood_max = 2 * factor.max(1);
                    phases.extend((0..stood_max).map(|ticks| Phase::Learning(Some((position, ticks)))));
                    for tried in 0..=tried_max {
                        let causes = [CutOffCause::NoAcceptorHas, CutOffCause::NotProved];
                        phases.extend(causes.map(|cause| Phase::Installing { cause, tried }));
                    }
                    every.extend(phases.into_iter().map(|phase| Self {
                        position,
                        given_up,
                        phase,
                    }));
                }
            }
        }
        every
    }

    /// The learner after the next look, as in `start.rs`, `position.rs` and `install.rs`.
    fn step(self, cluster: &ModelCluster, now: Instant) -> Self {
        let (reports, at) = (cluster.reports(), slot(self.position));
        match self.phase {
            Phase::Start => {
                let phase = match at_start(at, QUORUM, &reports) {
                    StartStanding::CutOff => Phase::Installing {
                        cause: CutOffCause::NoAcceptorHas,
                        tried: 0,
                    },
                    StartStanding::Served(_) | StartStanding::Unknown => Phase::Learning(None),
                };
                Self { phase, ..self }
            }
            Phase::Learning(stood) => {
                let position = cluster.learned(self.position);
                let voters = SlotVoters {
                    members: 3,
                    quorum: QUORUM,
                };
                let mut standstill = Standstill::new(PATIENCE, self.given_up, voters);
                standstill.stands = stood.map(|(stood_at, ticks)| (slot(stood_at), now - TICK * ticks));
                if standstill.look(slot(position), &reports, now) {
                    return Self {
                        position,
                        given_up: self.given_up.cut_off_at(slot(position)),
                        phase: Phase::Installing {
                            cause: CutOffCause::NotProved,
                            tried: 0,
                        },
                    };
                }
                let stood = standstill.stands.map(|(stood_at, since)| {
                    let ticks = (now - since).as_secs() / TICK.as_secs();
                    (stood_at.get(), 1 + u32::try_from(ticks).unwrap())
                });
                let phase = Phase::Learning(stood);
                Self {
                    position,
                    phase,
                    ..self
                }
            }
            Phase::Installing { cause, tried } => {
                let standing = at_start(at, QUORUM, &reports);
                let is_useful = reports.iter().any(|report| report.trimmed_to > at);
                let sources = sources(at, reports);
                let mut given = sources
                    .iter()
                    .filter_map(|source| cluster.given_by(source.acceptor));
                if let Some(position) = given.next() {
                    assert!(position > self.position, "an installation raises the position");
                    let phase = Phase::Start;
                    return Self {
                        position,
                        phase,
                        ..self
                    };
                }
                if is_given_up(cause, standing, is_useful, TICK * tried) {
                    let phase = Phase::Start;
                    return Self { phase, ..self };
                }
                let tried = (tried + 1).min(u32::try_from(ATTEMPTS_MAX.as_secs() / TICK.as_secs()).unwrap());
                let phase = Phase::Installing { cause, tried };
                Self { phase, ..self }
            }
        }
    }
}

/// The position that a learner keeps in the end.
fn end(
    mut learner: ModelLearner,
    cluster: &ModelCluster,
    now: Instant,
    ends: &mut HashMap<ModelLearner, u64>,
) -> u64 {
    let mut way = Vec::new();
    let end = loop {
        if let Some(&end) = ends.get(&learner) {
            break end;
        }
        // A state again: the learner goes round, and a position never falls.
        ends.insert(learner, learner.position);
        way.push(learner);
        let next = learner.step(cluster, now);
        assert!(next.position >= learner.position, "{learner:?} {cluster:?}");
        learner = next;
    };
    for passed in way {
        ends.insert(passed, end);
    }
    end
}

#[test]
fn learner_always_reaches_what_proofs_and_snapshots_can_reach() {
    let (learners, clusters) = (ModelLearner::every(), ModelCluster::every());
    // Far from the beginning of the clock.
    let now = Instant::now() + Duration::from_hours(1);
    let (mut unprovable, mut installed) = (0, 0);
    for cluster in &clusters {
        let mut ends = HashMap::new();
        for &learner in &learners {
            let best = cluster.best(learner.position);
            assert_eq!(
                end(learner, cluster, now, &mut ends),
                best,
                "{learner:?} {cluster:?}"
            );
            if learner.position < CHOSEN_TO && !cluster.is_proved(learner.position) {
                unprovable += 1;
                installed += u64::from(best > learner.position);
            }
        }
    }
    println!(
        "{} clusters of {} learners: {unprovable} stand before a slot without a proof, {installed} of these install",
        clusters.len(),
        learners.len()
    );
    assert!(installed > 0 && unprovable > installed);
}
