//! Check by search: does any order of the calls explain the answers, whatever the positions say?
//!
//! Registers are independent of each other, so each key is searched separately (Herlihy and Wing 1990, locality). The
//! search goes through the begins and ends of calls in time order. The search keeps every possible configuration of the
//! register: the value, and the calls under way that have taken effect. A call takes effect no later than the end of a
//! call that needs the effect ("just in time", Lowe 2017, §4). When no configuration is left, no order explains the
//! answers. Values are unique, so the search treats a condition on a version as a condition on the value.
//!
//! The search covers the whole history, or reports that the limit was exceeded: [`Verdict::Undecided`].

use std::collections::{BTreeMap, HashSet};

use super::{Answer, Asked, Condition, Found, Record};

/// Limit of configurations of a register visited for the end of a call: more than a few clients on a key ever need.
const CONFIGURATIONS_MAX: usize = 1 << 18;

/// The result of a search.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Each key has an order that explains the answers.
    Linearizable {
        /// Largest number of configurations visited for the end of a call.
        widest: usize,
    },
    /// No order explains the answer to this call together with everything before.
    Impossible(Box<Record>),
    /// Too many calls are under way at the same time on this key.
    Undecided(String),
}

/// A possible configuration of a register.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct SearchState<'a> {
    held: Option<&'a str>,
    /// Calls under way that have taken effect, ascending.
    done: Vec<usize>,
}

/// Searches for an order of each key's calls.
pub fn search(history: &[Record]) -> Verdict {
    search_within(history, CONFIGURATIONS_MAX)
}

/// The same, with a limit of configurations visited for the end of a call.
pub fn search_within(history: &[Record], configurations_max: usize) -> Verdict {
    let mut keys: BTreeMap<&str, Vec<&Record>> = BTreeMap::new();
    for record in history {
        keys.entry(&record.key).or_default().push(record);
    }
    let mut widest = 0;
    for (key, calls) in keys {
        let calls = needed(&calls);
        match search_key(&calls, configurations_max) {
            Ok(width) => widest = widest.max(width),
            Err(Some(call)) => return Verdict::Impossible(Box::new(calls[call].clone())),
            Err(None) => return Verdict::Undecided(key.to_owned()),
        }
    }
    Verdict::Linearizable { widest }
}

/// Leaves out calls that explain nothing: reads without an answer, and unknown puts with a value not shown by any
/// answer. Such a put might as well not have taken effect.
fn needed<'a>(calls: &[&'a Record]) -> Vec<&'a Record> {
    let mut seen = HashSet::new();
    let mut blind = false;
    for call in calls {
        match call.answer() {
            Some(Answer::Read {
                found: Some(held), ..
            }) => _ = seen.insert(&held.value),
            Some(Answer::Failed { found, .. }) => match found {
                Found::Held(held) => _ = seen.insert(&held.value),
                Found::Gone(_) => blind = true,
                Found::Nothing => {}
            },
            Some(Answer::Read { found: None, .. } | Answer::Applied(_)) | None => {}
        }
        if let Some(Condition::Holds(held)) = call.asked.condition() {
            seen.insert(&held.value);
        }
    }
    let explains = |call: &&&'a Record| match (&call.ended, &call.asked) {
        (Some(_), _) | (None, Asked::Delete { .. }) => true,
        (None, Asked::Put { value, .. }) => blind || seen.contains(value),
        (None, Asked::Read) => false,
    };
    calls.iter().filter(explains).copied().collect()
}

/// The width of the search. Error: the call without an explanation, or `None` after giving up.
fn search_key(calls: &[&Record], configurations_max: usize) -> Result<usize, Option<usize>> {
    // A begin comes before an end at the same instant, so that the two calls overlap.
    let mut events: Vec<(u64, bool, usize)> = Vec::new();
    for (number, call) in calls.iter().enumerate() {
        events.push((call.begun, false, number));
        if let Some((over, _)) = call.ended {
            events.push((over, true, number));
        }
    }
    events.sort_unstable();
    let mut under_way: Vec<usize> = Vec::new();
    let mut configurations = HashSet::from([SearchState {
        held: None,
        done: Vec::new(),
    }]);
    let mut widest = 1;
    for (_, ends, number) in events {
        if !ends {
            under_way.push(number);
            continue;
        }
        let (left, width) =
            take_effect(calls, &under_way, configurations, number, configurations_max).ok_or(None)?;
        if left.is_empty() {
            return Err(Some(number));
        }
        widest = widest.max(width);
        configurations = left;
        under_way.retain(|other| *other != number);
    }
    Ok(widest)
}

/// Every configuration in which the ending call has taken effect, and the number of visited configurations. `None` if
/// this number exceeds the limit.
fn take_effect<'a>(
    calls: &[&'a Record],
    under_way: &[usize],
    configurations: HashSet<SearchState<'a>>,
    ending: usize,
    configurations_max: usize,
) -> Option<(HashSet<SearchState<'a>>, usize)> {
    let mut left = HashSet::new();
    let mut seen = HashSet::new();
    let mut open: Vec<_> = configurations.into_iter().collect();
    while let Some(mut configuration) = open.pop() {
        // A call without effect, whose answer fits the present state, takes effect now: no order is lost by doing so.
        for &call in under_way {
            if !configuration.done.contains(&call) && looks_right(calls[call], configuration.held) {
                configuration.add(call);
            }
        }
        if !seen.insert(configuration.clone()) {
            continue;
        }
        if seen.len() > configurations_max {
            return None;
        }
        if let Ok(at) = configuration.done.binary_search(&ending) {
            configuration.done.remove(at);
            left.insert(configuration);
            continue;
        }
        let mut tried: Vec<&Asked> = Vec::new();
        for &call in under_way {
            // Equal deletes with unknown outcome are interchangeable, so only the first is tried.
            let lost = calls[call].ended.is_none();
            let alike = lost && tried.contains(&&calls[call].asked);
            if alike || configuration.done.contains(&call) {
                continue;
            }
            if lost {
                tried.push(&calls[call].asked);
            }
            if let Some(held) = writes(calls[call], configuration.held) {
                let mut next = SearchState {
                    held,
                    done: configuration.done.clone(),
                };
                next.add(call);
                open.push(next);
            }
        }
    }
    Some((left, seen.len()))
}

impl SearchState<'_> {
    fn add(&mut self, call: usize) {
        let at = self.done.partition_point(|other| *other < call);
        self.done.insert(at, call);
    }
}

fn holds(condition: &Condition, held: Option<&str>) -> bool {
    match condition {
        Condition::Always => true,
        Condition::Absent => held.is_none(),
        Condition::Holds(expected) => held == Some(&expected.value),
    }
}

/// Whether a call without effect would get its recorded answer in this state.
fn looks_right(call: &Record, held: Option<&str>) -> bool {
    match call.answer() {
        Some(Answer::Read { found, .. }) => held == found.as_ref().map(|found| found.value.as_str()),
        Some(Answer::Failed { found, .. }) => {
            let sees = match found {
                Found::Nothing => held.is_none(),
                Found::Held(found) => held == Some(&found.value),
                Found::Gone(_) => held.is_some(),
            };
            sees && call
                .asked
                .condition()
                .is_some_and(|condition| !holds(condition, held))
        }
        Some(Answer::Applied(_)) | None => false,
    }
}

/// Content of the register after a command takes effect here; `None` if the command cannot take effect here.
fn writes<'a>(call: &'a Record, held: Option<&str>) -> Option<Option<&'a str>> {
    match call.answer() {
        Some(Answer::Read { .. } | Answer::Failed { .. }) => return None,
        Some(Answer::Applied(_)) | None => {}
    }
    let (condition, left) = match &call.asked {
        Asked::Put { value, condition } => (condition, Some(value.as_str())),
        Asked::Delete { condition } => (condition, None),
        Asked::Read => return None,
    };
    // A command with unknown outcome is not tried where the command changes nothing.
    let idle = call.ended.is_none() && left == held;
    (holds(condition, held) && !idle).then_some(left)
}
