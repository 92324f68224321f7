//! Drawn: random histories, honest or with a lie, to compare the two checks with each other and with a third check.
//!
//! The third check is stateright's. The check tries every order and remembers nothing: right for short histories, too
//! slow for histories of real clusters.

use rand::{Rng, RngExt as _, SeedableRng as _, rngs::StdRng};
use stateright::semantics::{ConsistencyTester as _, LinearizabilityTester, SequentialSpec};

use super::{
    Answer, Asked, Condition, Found, Held, Position, Record, positions,
    search::{self, Verdict},
};

/// Number of drawn histories.
const HISTORIES: u64 = 1_000;

/// A client of the drawn history.
#[derive(Clone, Debug)]
enum DrawnClient {
    Idle,
    Called(Record),
    Answered(Record, Answer),
}

/// An honest register without replicas.
#[derive(Clone, Debug, Default)]
struct DrawnRegister {
    held: Option<Held>,
    slot: u64,
}

impl DrawnRegister {
    /// Executes a request at this moment, and returns the answer.
    fn serve(&mut self, asked: &Asked) -> Answer {
        let condition = match asked {
            Asked::Read => {
                return Answer::Read {
                    found: self.held.clone(),
                    applied_to: self.slot,
                };
            }
            Asked::Put { condition, .. } | Asked::Delete { condition } => condition,
        };
        let at = Position {
            slot: self.slot,
            offset: 0,
        };
        self.slot += 1;
        let holds = match condition {
            Condition::Always => true,
            Condition::Absent => self.held.is_none(),
            Condition::Holds(held) => self.held.as_ref() == Some(held),
        };
        if !holds {
            let found = self.held.clone().map_or(Found::Nothing, Found::Held);
            return Answer::Failed { at, found };
        }
        self.held = match asked {
            Asked::Put { value, .. } => Some(Held {
                value: value.clone(),
                version: at,
            }),
            Asked::Delete { .. } | Asked::Read => None,
        };
        Answer::Applied(at)
    }
}

fn draw_call(rng: &mut impl Rng, number: usize, seen: &[Held]) -> Asked {
    let condition = match rng.random_range(0..4) {
        0 => Condition::Absent,
        1 if !seen.is_empty() => Condition::Holds(seen[rng.random_range(0..seen.len())].clone()),
        _ => Condition::Always,
    };
    match rng.random_range(0..10) {
        0..4 => Asked::Read,
        4..8 => Asked::Put {
            value: format!("value {number}"),
            condition,
        },
        _ => Asked::Delete { condition },
    }
}

/// The register content that an answer shows to a client.
fn shown(asked: &Asked, answer: &Answer) -> Option<Held> {
    match (answer, asked) {
        (Answer::Read { found, .. }, _) => found.clone(),
        (
            Answer::Failed {
                found: Found::Held(held),
                ..
            },
            _,
        ) => Some(held.clone()),
        (Answer::Applied(version), Asked::Put { value, .. }) => Some(Held {
            value: value.clone(),
            version: *version,
        }),
        (Answer::Applied(_), Asked::Delete { .. } | Asked::Read) | (Answer::Failed { .. }, _) => None,
    }
}

/// Draws the history of clients of an honest register. Each call takes effect at a single moment between begin and end.
/// A call given up takes effect at some moment after the begin, or never.
fn honest(rng: &mut impl Rng, clients: usize, calls: usize) -> Vec<Record> {
    let mut register = DrawnRegister::default();
    let mut clients = vec![DrawnClient::Idle; clients];
    let (mut history, mut given_up, mut seen) = (Vec::new(), Vec::<Record>::new(), Vec::new());
    let mut begun = 0;
    for time in 0.. {
        if rng.random_bool(0.1) && !given_up.is_empty() {
            let late = given_up.swap_remove(rng.random_range(0..given_up.len()));
            register.serve(&late.asked);
        }
        let number = rng.random_range(0..clients.len());
        clients[number] = match clients[number].clone() {
            DrawnClient::Idle if begun == calls => {
                if clients.iter().all(|client| matches!(client, DrawnClient::Idle)) {
                    break;
                }
                DrawnClient::Idle
            }
            DrawnClient::Idle => {
                begun += 1;
                DrawnClient::Called(Record {
                    client: number as u64,
                    key: "key".to_owned(),
                    asked: draw_call(rng, begun, &seen),
                    begun: time,
                    ended: None,
                })
            }
            DrawnClient::Called(record) if rng.random_bool(0.1) => {
                history.push(record.clone());
                given_up.push(record);
                DrawnClient::Idle
            }
            DrawnClient::Called(record) => {
                let answer = register.serve(&record.asked);
                DrawnClient::Answered(record, answer)
            }
            DrawnClient::Answered(record, _) if rng.random_bool(0.05) => {
                history.push(record);
                DrawnClient::Idle
            }
            DrawnClient::Answered(mut record, answer) => {
                seen.extend(shown(&record.asked, &answer));
                record.ended = Some((time, answer));
                history.push(record);
                DrawnClient::Idle
            }
        };
    }
    history
}

/// Changes a single answer, or the times of a single call.
fn lie(rng: &mut impl Rng, history: &mut [Record]) {
    let held: Vec<_> = history
        .iter()
        .filter_map(|record| shown(&record.asked, record.answer()?))
        .collect();
    let any = |rng: &mut dyn Rng| held.get(rng.random_range(0..=held.len())).cloned();
    let record = &mut history[rng.random_range(0..history.len())];
    let Some((over, answer)) = &mut record.ended else {
        return;
    };
    if rng.random_bool(0.4) {
        let shift = rng.random_range(1..20);
        if rng.random_bool(0.5) {
            (record.begun, *over) = (record.begun + shift, *over + shift);
        } else {
            let shift = shift.min(record.begun);
            (record.begun, *over) = (record.begun - shift, *over - shift);
        }
        return;
    }
    match answer {
        Answer::Read { found, applied_to } => {
            *found = any(rng);
            if rng.random_bool(0.5) {
                *applied_to = found.as_ref().map_or(*applied_to, |held| held.version.slot + 1);
            }
        }
        Answer::Applied(at) => {
            *answer = Answer::Failed {
                at: *at,
                found: any(rng).map_or(Found::Nothing, Found::Held),
            }
        }
        Answer::Failed { at, .. } => *answer = Answer::Applied(*at),
    }
}

/// The register as specified for stateright.
#[derive(Clone, Debug, Default)]
struct Reference(Option<String>);

impl Reference {
    fn do_it(&mut self, asked: &Asked) -> (bool, Option<String>) {
        let before = self.0.clone();
        let applies = match asked.condition() {
            None => false,
            Some(Condition::Always) => true,
            Some(Condition::Absent) => self.0.is_none(),
            Some(Condition::Holds(held)) => self.0.as_ref() == Some(&held.value),
        };
        match asked {
            Asked::Put { value, .. } if applies => self.0 = Some(value.clone()),
            Asked::Delete { .. } if applies => self.0 = None,
            Asked::Read | Asked::Put { .. } | Asked::Delete { .. } => {}
        }
        (applies, before)
    }
}

impl SequentialSpec for Reference {
    type Op = Asked;
    type Ret = Answer;

    fn invoke(&mut self, asked: &Asked) -> Answer {
        self.do_it(asked);
        // Never given to a client: the outcome of calls still under way at the end.
        Answer::Applied(Position { slot: 0, offset: 0 })
    }

    fn is_valid_step(&mut self, asked: &Asked, answer: &Answer) -> bool {
        let (applies, before) = self.do_it(asked);
        match answer {
            Answer::Applied(_) => applies,
            Answer::Read { found, .. } => before.as_ref() == found.as_ref().map(|held| &held.value),
            Answer::Failed { found, .. } => {
                let sees = match found {
                    Found::Nothing => before.is_none(),
                    Found::Held(held) => before.as_ref() == Some(&held.value),
                    Found::Gone(_) => before.is_some(),
                };
                !applies && sees
            }
        }
    }
}

/// The verdict of stateright on a single register. Each call is a separate thread, because the times alone determine
/// the order of calls.
fn reference(history: &[Record]) -> bool {
    let mut tester = LinearizabilityTester::new(Reference::default());
    let mut events: Vec<_> = (0..history.len())
        .flat_map(|call| {
            let over = history[call].ended.as_ref().map(|(over, _)| (*over, true, call));
            [Some((history[call].begun, false, call)), over]
        })
        .flatten()
        .collect();
    events.sort_unstable();
    for (_, ends, call) in events {
        let done = match history[call].answer().filter(|_| ends) {
            Some(answer) => tester.on_return(call, answer.clone()),
            None => tester.on_invoke(call, history[call].asked.clone()),
        };
        done.unwrap();
    }
    tester.is_consistent()
}

fn search_accepts(history: &[Record]) -> bool {
    match search::search(history) {
        Verdict::Linearizable { .. } => true,
        Verdict::Impossible(_) => false,
        Verdict::Undecided(key) => panic!("too wide at {key}"),
    }
}

#[test]
fn honest_histories_are_accepted_by_both() {
    for seed in 0..HISTORIES / 10 {
        let mut rng = StdRng::seed_from_u64(seed);
        let history = honest(&mut rng, 5, 60);
        assert!(search_accepts(&history), "seed {seed}: {history:#?}");
        if let Err(breach) = positions::check(&history) {
            panic!("seed {seed}: {breach:?}");
        }
    }
}

#[test]
fn lies_are_seen_by_search_as_by_stateright_and_by_positions_too() {
    let (mut seen, mut seen_by_positions) = (0, 0);
    for seed in 0..HISTORIES {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut history = honest(&mut rng, 3, 9);
        lie(&mut rng, &mut history);
        let accepted = search_accepts(&history);
        assert_eq!(
            accepted,
            reference(&history),
            "seed {seed}: the search and stateright differ about {history:#?}"
        );
        let by_positions = positions::check(&history);
        assert!(
            accepted || by_positions.is_err(),
            "seed {seed}: no order explains it, positions see nothing: {history:#?}"
        );
        seen += usize::from(!accepted);
        seen_by_positions += usize::from(by_positions.is_err());
    }
    let drawn = usize::try_from(HISTORIES).unwrap();
    assert!(seen > drawn / 4, "{seen} of {drawn} lies matter");
    println!(
        "of {drawn} histories with one lie {seen} cannot be explained, {seen_by_positions} contradict their positions"
    );
}
