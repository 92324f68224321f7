//! Check by position: answers give the position of each command and read. Does the order of positions explain
//! everything?
//!
//! The positions are a total order of all commands and reads of all keys. The check takes O(n log n) for n calls, and
//! asks two questions. Does the order respect real time across keys and clients? Does a replay in this order give every
//! client the recorded answer? An accepted history is linearizable. The check is stricter than linearizability: a
//! history explained by a different order, but not by its positions, is refused.

use std::collections::{BTreeMap, HashMap};

use super::{Answer, Asked, Condition, Found, Held, Position, Record};

/// A rule broken by a history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Two commands have the same position.
    OnePlaceEach,
    /// An answer shows a value that no command put there.
    NothingFromNowhere,
    /// An answer shows a value at a position other than the position of the value's command, or at two positions.
    OneEffect,
    /// A call begun after the end of an earlier call has a position before the earlier call.
    RealTime,
    /// A condition held, or did not hold, and the answer says the opposite.
    Conditions,
    /// An answer shows a state other than the state at the position of the call.
    State,
}

/// The first contradiction found.
#[derive(Clone, Debug)]
pub struct Breach {
    pub rule: Rule,
    /// Description of the contradiction, for people.
    pub text: String,
}

/// Counts of a checked history.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    pub calls: usize,
    pub keys: usize,
    /// Commands with unknown outcome.
    pub unknown: usize,
    /// Commands with unknown outcome that certainly took effect, because an answer shows the effect.
    pub unknown_seen: usize,
}

/// A point in the total order. The point of a read of the state after every slot below `s` is `(s, 0)`. The point of
/// the command at `(s, o)` is `(s, 2o + 1)`.
type Point = (u64, u32);

fn command_point(position: Position) -> Point {
    (position.slot, 2 * u32::from(position.offset) + 1)
}

fn breach<T>(rule: Rule, text: String) -> Result<T, Breach> {
    Err(Breach { rule, text })
}

/// Checks a history against its positions.
///
/// # Panics
/// If two commands put the same value: such a history cannot be checked.
pub fn check(history: &[Record]) -> Result<Summary, Breach> {
    let places = place(history)?;
    let bounds = bounds(history, &places)?;
    let mut keys: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (index, record) in history.iter().enumerate() {
        keys.entry(&record.key).or_default().push(index);
    }
    for calls in keys.values() {
        replay(history, &places, &bounds, calls)?;
    }
    let unknown = |record: &&Record| record.ended.is_none() && record.asked != Asked::Read;
    let mut summary = Summary {
        calls: history.len(),
        keys: keys.len(),
        unknown: history.iter().filter(unknown).count(),
        unknown_seen: 0,
    };
    for (record, place) in history.iter().zip(&places) {
        summary.unknown_seen += usize::from(record.ended.is_none() && place.is_some());
    }
    Ok(summary)
}

/// Every register content shown by an answer or implied by the condition of an applied command, with the call.
fn sightings(history: &[Record]) -> impl Iterator<Item = (&Record, &Held)> {
    history.iter().filter_map(|record| {
        let answer = match record.answer() {
            Some(Answer::Applied(_)) => match record.asked.condition() {
                Some(Condition::Holds(held)) => Some(held),
                Some(Condition::Always | Condition::Absent) | None => None,
            },
            Some(
                Answer::Read {
                    found: Some(held), ..
                }
                | Answer::Failed {
                    found: Found::Held(held),
                    ..
                },
            ) => Some(held),
            Some(Answer::Read { found: None, .. } | Answer::Failed { .. }) | None => None,
        };
        answer.map(|held| (record, held))
    })
}

/// The point of each call; `None` for calls with unknown outcome and without a visible effect.
fn place(history: &[Record]) -> Result<Vec<Option<Point>>, Breach> {
    let mut places: Vec<Option<Point>> = Vec::with_capacity(history.len());
    let mut writers: HashMap<&str, usize> = HashMap::new();
    for (index, record) in history.iter().enumerate() {
        places.push(record.answer().map(|answer| match answer {
            Answer::Read { applied_to, .. } => (*applied_to, 0),
            Answer::Applied(at) | Answer::Failed { at, .. } => command_point(*at),
        }));
        if let Asked::Put { value, .. } = &record.asked {
            let twice = writers.insert(value, index);
            assert_eq!(twice, None, "{value} is put twice");
        }
    }
    for (reader, held) in sightings(history) {
        let Some(&writer) = writers.get(held.value.as_str()) else {
            return breach(
                Rule::NothingFromNowhere,
                format!("nobody wrote what {reader:?} found"),
            );
        };
        let put = &history[writer];
        let failed = matches!(put.answer(), Some(Answer::Failed { .. }));
        if put.key != reader.key || failed {
            return breach(
                Rule::NothingFromNowhere,
                format!("{reader:?} found what {put:?} did not write there"),
            );
        }
        let point = command_point(held.version);
        if *places[writer].get_or_insert(point) != point {
            return breach(
                Rule::OneEffect,
                format!("{reader:?} found what {put:?} wrote elsewhere"),
            );
        }
    }
    let mut taken: HashMap<Point, usize> = HashMap::new();
    for (index, record) in history.iter().enumerate() {
        let command = record.asked != Asked::Read;
        if let Some(other) = places[index]
            .filter(|_| command)
            .and_then(|point| taken.insert(point, index))
        {
            return breach(
                Rule::OnePlaceEach,
                format!("{record:?} stands where {:?} stands", history[other]),
            );
        }
    }
    Ok(places)
}

/// A lower bound for the point of each call: the highest point among the calls that were over before the call began.
fn bounds(history: &[Record], places: &[Option<Point>]) -> Result<Vec<Point>, Breach> {
    let mut by_begin: Vec<usize> = (0..history.len()).collect();
    by_begin.sort_by_key(|&index| history[index].begun);
    let mut by_end: Vec<usize> = (0..history.len()).collect();
    by_end.sort_by_key(|&index| history[index].over());
    let mut over = by_end.into_iter().peekable();
    let mut last: Option<usize> = None;
    let mut bounds = vec![(0, 0); history.len()];
    for index in by_begin {
        while let Some(before) = over.next_if(|&before| history[index].follows(&history[before])) {
            if last.is_none_or(|last| places[last] < places[before]) {
                last = Some(before);
            }
        }
        let Some(last) = last else { continue };
        bounds[index] = places[last].expect("what is over has a place");
        if places[index].is_some_and(|place| place < bounds[index]) {
            return breach(
                Rule::RealTime,
                format!("{:?} stands before {:?}", history[index], history[last]),
            );
        }
    }
    Ok(bounds)
}

/// A delete with unknown outcome. Explains a single absence.
struct LostDelete<'a> {
    record: &'a Record,
    bound: Point,
    used: bool,
}

/// The replay of one register.
struct Replay<'a> {
    state: Option<Held>,
    lost_deletes: Vec<LostDelete<'a>>,
    /// Number of puts with unknown outcome and unseen value.
    lost_puts: usize,
}

fn replay(
    history: &[Record],
    places: &[Option<Point>],
    bounds: &[Point],
    calls: &[usize],
) -> Result<(), Breach> {
    let mut replay = Replay {
        state: None,
        lost_deletes: Vec::new(),
        lost_puts: 0,
    };
    let mut order = Vec::new();
    for &index in calls {
        let record = &history[index];
        match (places[index], &record.asked) {
            (Some(point), _) => order.push((point, record)),
            (None, Asked::Put { .. }) => replay.lost_puts += 1,
            (None, Asked::Delete { .. }) => replay.lost_deletes.push(LostDelete {
                record,
                bound: bounds[index],
                used: false,
            }),
            (None, Asked::Read) => {}
        }
    }
    order.sort_by_key(|(point, _)| *point);
    for (point, record) in order {
        replay.step(record, point)?;
    }
    Ok(())
}

impl Replay<'_> {
    fn step(&mut self, record: &Record, point: Point) -> Result<(), Breach> {
        match record.answer() {
            Some(Answer::Read { found, .. }) => {
                let found = found.clone().map_or(Found::Nothing, Found::Held);
                self.agree(record, point, &found)
            }
            Some(Answer::Failed { found, .. }) => {
                self.agree(record, point, found)?;
                let version = match found {
                    Found::Nothing => None,
                    Found::Held(Held { version, .. }) | Found::Gone(version) => Some(*version),
                };
                let held = match record.asked.condition() {
                    Some(Condition::Always) | None => true,
                    Some(Condition::Absent) => version.is_none(),
                    Some(Condition::Holds(held)) => version == Some(held.version),
                };
                if held {
                    self.odd(Rule::Conditions, record)
                } else {
                    Ok(())
                }
            }
            Some(Answer::Applied(_)) | None => {
                if !self.holds(record, point) {
                    return self.odd(Rule::Conditions, record);
                }
                self.state = match &record.asked {
                    Asked::Put { value, .. } => Some(Held {
                        value: value.clone(),
                        version: position(point),
                    }),
                    Asked::Delete { .. } | Asked::Read => None,
                };
                Ok(())
            }
        }
    }

    /// Checks that the register is in the state found by a call.
    fn agree(&mut self, record: &Record, point: Point, found: &Found) -> Result<(), Breach> {
        let agrees = match found {
            Found::Nothing => self.explain_absence(record, point),
            Found::Held(held) => self.state.as_ref() == Some(held),
            Found::Gone(version) => {
                let here = self.state.as_ref().is_some_and(|held| held.version == *version);
                here || self.lost_puts > 0
            }
        };
        if agrees {
            Ok(())
        } else {
            self.odd(Rule::State, record)
        }
    }

    /// Whether the condition of a command that took effect holds here.
    fn holds(&mut self, record: &Record, point: Point) -> bool {
        match record.asked.condition() {
            Some(Condition::Always) | None => true,
            Some(Condition::Absent) => self.explain_absence(record, point),
            Some(Condition::Holds(held)) => self.state.as_ref() == Some(held),
        }
    }

    /// Whether the register is empty here, if necessary because a delete with unknown outcome took effect just before.
    ///
    /// Among several such deletes the check guesses, the delete with the narrowest condition first. So a history with
    /// many such deletes could be refused although a different guess would explain the history. No history is accepted
    /// wrongly.
    fn explain_absence(&mut self, observer: &Record, point: Point) -> bool {
        let Some(state) = &self.state else { return true };
        let fits = |lost: &LostDelete<'_>, picky: bool| {
            let condition = match lost.record.asked.condition() {
                Some(Condition::Holds(held)) => picky && held == state,
                Some(Condition::Always) => !picky,
                Some(Condition::Absent) | None => false,
            };
            !lost.used && condition && lost.bound <= point && lost.record.begun <= observer.over()
        };
        let find = |picky| self.lost_deletes.iter().position(|lost| fits(lost, picky));
        let Some(chosen) = find(true).or_else(|| find(false)) else {
            return false;
        };
        self.lost_deletes[chosen].used = true;
        self.state = None;
        true
    }

    fn odd<T>(&self, rule: Rule, record: &Record) -> Result<T, Breach> {
        breach(rule, format!("{record:?}, where there was {:?}", self.state))
    }
}

fn position(point: Point) -> Position {
    Position {
        slot: point.0,
        offset: u16::try_from(point.1 / 2).expect("made of an offset"),
    }
}
