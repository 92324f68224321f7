//! Check by search: is there any order of the calls that explains what clients were told, whatever the positions say?
//!
//! Registers are independent of each other, so each key is searched by itself (Herlihy and Wing 1990, locality). The
//! search goes through the calls' begins and ends in time, and keeps every configuration the register can be in: what
//! it holds, and which of the calls under way have taken effect. A call takes effect no later than the end of a call
//! that needs it ("just in time", Lowe 2017, §4). When no configuration is left, no order explains what was told.
//! Values are unique, so a command whose condition names a version is searched as one that names the value.
//!
//! It covers the whole history, or says that it could not: [`Verdict::Undecided`].

use std::collections::{BTreeMap, HashSet};

use super::{Asked, Condition, Found, Record, Told};

/// Most configurations of one register looked at for the end of one call: more than a few clients on one key ever need.
const CONFIGURATIONS_MAX: usize = 1 << 18;

/// What a search came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// There is an order, for each key.
    Linearizable {
        /// The most configurations looked at for the end of one call.
        widest: usize,
    },
    /// No order explains what this call was told, together with everything before it.
    Impossible(Box<Record>),
    /// Too many calls are under way together on this key.
    Undecided(String),
}

/// What a register may be in.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Configuration<'a> {
    held: Option<&'a str>,
    /// Calls under way that have taken effect, ascending.
    done: Vec<usize>,
}

/// Looks for an order of each key's calls.
pub fn search(history: &[Record]) -> Verdict {
    search_within(history, CONFIGURATIONS_MAX)
}

/// The same, looking at so many configurations for the end of one call at most.
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

/// Leaves out what explains nothing: reads that told nothing, and unknown puts of values that nobody ever saw, which
/// might as well not have taken effect.
fn needed<'a>(calls: &[&'a Record]) -> Vec<&'a Record> {
    let mut seen = HashSet::new();
    let mut blind = false;
    for call in calls {
        match call.told() {
            Some(Told::Read {
                found: Some(held), ..
            }) => _ = seen.insert(&held.value),
            Some(Told::Failed { found, .. }) => match found {
                Found::Held(held) => _ = seen.insert(&held.value),
                Found::Gone(_) => blind = true,
                Found::Nothing => {}
            },
            Some(Told::Read { found: None, .. } | Told::Applied(_)) | None => {}
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

/// The width of the search; or the call that cannot be, or none when the search was given up.
fn search_key(calls: &[&Record], configurations_max: usize) -> Result<usize, Option<usize>> {
    // A begin comes before an end at the same instant: then the two calls overlap.
    let mut events: Vec<(u64, bool, usize)> = Vec::new();
    for (number, call) in calls.iter().enumerate() {
        events.push((call.begun, false, number));
        if let Some((over, _)) = call.ended {
            events.push((over, true, number));
        }
    }
    events.sort_unstable();
    let mut under_way: Vec<usize> = Vec::new();
    let mut configurations = HashSet::from([Configuration {
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

/// Every configuration in which the call that ends has taken effect, and how many were looked at; none when they are
/// too many.
fn take_effect<'a>(
    calls: &[&'a Record],
    under_way: &[usize],
    configurations: HashSet<Configuration<'a>>,
    ending: usize,
    configurations_max: usize,
) -> Option<(HashSet<Configuration<'a>>, usize)> {
    let mut left = HashSet::new();
    let mut seen = HashSet::new();
    let mut open: Vec<_> = configurations.into_iter().collect();
    while let Some(mut configuration) = open.pop() {
        // What only looks, and sees what it was told, may as well look now: that takes nothing from anybody.
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
            // Of equal deletes that are never over, one is as good as the other.
            let lost = calls[call].ended.is_none();
            let alike = lost && tried.contains(&&calls[call].asked);
            if alike || configuration.done.contains(&call) {
                continue;
            }
            if lost {
                tried.push(&calls[call].asked);
            }
            if let Some(held) = writes(calls[call], configuration.held) {
                let mut next = Configuration {
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

impl Configuration<'_> {
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

/// Whether a call that changed nothing would be told here what it was told.
fn looks_right(call: &Record, held: Option<&str>) -> bool {
    match call.told() {
        Some(Told::Read { found, .. }) => held == found.as_ref().map(|found| found.value.as_str()),
        Some(Told::Failed { found, .. }) => {
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
        Some(Told::Applied(_)) | None => false,
    }
}

/// What the register holds once a command took effect that may take effect here; none when it may not.
fn writes<'a>(call: &'a Record, held: Option<&str>) -> Option<Option<&'a str>> {
    match call.told() {
        Some(Told::Read { .. } | Told::Failed { .. }) => return None,
        Some(Told::Applied(_)) | None => {}
    }
    let (condition, left) = match &call.asked {
        Asked::Put { value, condition } => (condition, Some(value.as_str())),
        Asked::Delete { condition } => (condition, None),
        Asked::Read => return None,
    };
    // What need not have taken effect is not tried where it changes nothing.
    let idle = call.ended.is_none() && left == held;
    (holds(condition, held) && !idle).then_some(left)
}
