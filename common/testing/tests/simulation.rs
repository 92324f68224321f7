//! Simulated clusters of the real cores: every invariant after every step, over many seeds.

use std::{
    ops::Range,
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
    thread,
};

use paxos_testing::simulator::{
    Bug, Found, Statistics, Transcript, hunt, quietly, run,
    scenarios::{FLEXIBLE, SCENARIOS, Scenario},
    try_run,
};

/// Number of seeds of each of the two usual runs, unless the environment variable `PAXOS_SIM_SEEDS` gives a number.
const SEEDS: u64 = 300;

/// First seed of the run over fresh seeds: the environment variable `PAXOS_SIM_FROM`, or a random number.
fn fresh_from() -> u64 {
    // Small enough to type, and to distinguish by eye.
    number("PAXOS_SIM_FROM").unwrap_or_else(|| rand::random_range(SEEDS..1_000_000_000_000))
}

fn seeds() -> u64 {
    number("PAXOS_SIM_SEEDS").unwrap_or(SEEDS)
}

fn number(variable: &str) -> Option<u64> {
    let set = std::env::var(variable).ok()?;
    Some(
        set.parse()
            .unwrap_or_else(|_| panic!("{variable}={set} is no number")),
    )
}

/// Runs `check` for every seed on all processors, and merges the statistics.
fn over_seeds(
    seeds: Range<u64>,
    check: impl Fn(u64) -> Result<Statistics, String> + Sync,
) -> Result<Statistics, String> {
    let next = AtomicU64::new(seeds.start);
    thread::scope(|scope| {
        let work = || {
            let mut statistics = Statistics::default();
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= seeds.end {
                    return Ok::<_, String>(statistics);
                }
                statistics.merge(&check(seed)?);
            }
        };
        let running: Vec<_> = (0..workers()).map(|_| scope.spawn(work)).collect();
        let mut all = Statistics::default();
        for worker in running {
            all.merge(&worker.join().expect("a worker reports what fails")?);
        }
        Ok(all)
    })
}

#[test]
fn invariants_hold_and_healed_clusters_make_progress_repeatably() {
    let outcome = over_seeds(0..seeds(), |seed| {
        let first = try_run(seed)?;
        let second = try_run(seed)?;
        if first.trace == second.trace && first.statistics == second.statistics {
            Ok(first.statistics)
        } else {
            Err(format!("seed {seed}: two runs of it differ"))
        }
    });
    let statistics = outcome.unwrap_or_else(|failure| panic!("{failure}"));
    println!("{statistics:#?}");
    assert_eq!(
        statistics.missing(),
        [],
        "over all seeds these never happened: the run does not test what it claims to"
    );
}

#[test]
fn invariants_hold_over_seeds_never_run_before() {
    let from = fresh_from();
    let seeds = from..from + seeds();
    println!("seeds {seeds:?}: again with PAXOS_SIM_FROM={from}, or faster with cargo sim {seeds:?}");
    over_seeds(seeds, |seed| Ok(try_run(seed)?.statistics)).unwrap_or_else(|failure| panic!("{failure}"));
}

#[test]
fn different_seeds_are_different_schedules() {
    let trace = |seed| run(seed, None, &mut Transcript::off()).trace;
    assert_ne!(trace(1_000), trace(1_001));
}

/// Seeds that once found a fault in the cores. Each fault has a separate test beside the code; the schedules of these
/// numbers change whenever the simulator changes.
const FAILED_ONCE: &[u64] = &[187, 588, 2851, 3010, 259_568_155_695];

#[test]
fn seeds_that_failed_once_pass() {
    for &seed in FAILED_ONCE {
        try_run(seed).unwrap_or_else(|failure| panic!("{failure}"));
    }
}

/// Number of seeds of each directed scenario, unless the environment variable `PAXOS_SCENARIO_SEEDS` gives one.
const SCENARIO_SEEDS: u64 = 2;

fn seeds_of_scenarios() -> u64 {
    number("PAXOS_SCENARIO_SEEDS").unwrap_or(SCENARIO_SEEDS)
}

/// A scenario with its quorums, its seed and a bug.
type Play = (&'static Scenario, (usize, usize, usize), u64, Option<Bug>);

/// Runs scenarios on all processors.
fn play_all(plays: &[Play]) -> Vec<Result<(), String>> {
    let next = AtomicUsize::new(0);
    let work = || {
        let mut played = Vec::new();
        quietly(|| {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                let Some(&this) = plays.get(number) else { return };
                played.push((number, play(this)));
            }
        });
        played
    };
    let mut played: Vec<(usize, Result<(), String>)> = thread::scope(|scope| {
        let workers: Vec<_> = (0..workers()).map(|_| scope.spawn(work)).collect();
        let played = workers
            .into_iter()
            .map(|worker| worker.join().expect("a play catches what breaks"));
        played.flatten().collect()
    });
    played.sort_by_key(|(number, _)| *number);
    played.into_iter().map(|(_, outcome)| outcome).collect()
}

/// Runs a scenario. A broken invariant is a failure, like a missed bound.
fn play((scenario, quorums, seed, bug): Play) -> Result<(), String> {
    let run = || scenario.run(quorums, seed, bug, &mut Transcript::off());
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).unwrap_or_else(|panic| {
        let reason = panic.downcast_ref::<String>().cloned().unwrap_or_default();
        Err(format!("{} {quorums:?} seed {seed}: {reason}", scenario.name))
    })
}

/// Runs scenarios without any expected failure.
fn expect_all(plays: &[Play]) {
    let failed: Vec<String> = play_all(plays).into_iter().filter_map(Result::err).collect();
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[test]
fn live_leaders_stay_and_lost_leaders_are_replaced_in_time() {
    let of = |scenario: &'static Scenario| {
        (0..seeds_of_scenarios()).map(move |seed| (scenario, scenario.quorums(), seed, None))
    };
    let plays: Vec<Play> = SCENARIOS.iter().flat_map(of).collect();
    expect_all(&plays);
}

#[test]
fn flexible_quorums_keep_and_replace_leaders_alike() {
    let fit = SCENARIOS.iter().filter(|scenario| scenario.is_for_all_quorums());
    let of = |scenario| FLEXIBLE.iter().map(move |&quorums| (scenario, quorums, 0, None));
    let plays: Vec<Play> = fit.flat_map(of).collect();
    expect_all(&plays);
}

#[test]
fn every_planted_bug_of_failure_detection_is_found_by_a_scenario() {
    // A few seeds, because a fault may happen when there is nothing to disturb.
    let of = |scenario: &'static Scenario| {
        let bugs = scenario.finds.iter();
        let all = bugs.flat_map(|&bug| (0..3).map(move |seed| (bug, seed)));
        all.map(move |(bug, seed)| (scenario, scenario.quorums(), seed, Some(bug)))
    };
    let plays: Vec<Play> = SCENARIOS.iter().flat_map(of).collect();
    let outcomes = play_all(&plays);
    let found = plays
        .iter()
        .zip(&outcomes)
        .filter(|(_, outcome)| outcome.is_err());
    let found: Vec<(Option<Bug>, &str)> = found
        .map(|((scenario, .., bug), _)| (*bug, scenario.name))
        .collect();
    println!("{found:#?}");
    let is_missed = |bug: &Bug| !found.iter().any(|(by, _)| *by == Some(*bug));
    let missed: Vec<Bug> = Bug::OF_PATIENCE.into_iter().filter(is_missed).collect();
    assert_eq!(missed, [], "no scenario finds them");
}

/// Limit of schedules for finding a planted bug: several times the need of the hardest such bug.
const BUG_SEEDS_MAX: u64 = 5_000;

/// The same limit for bugs that only rare schedules show.
const SHY_BUG_SEEDS_MAX: u64 = 50_000;

#[test]
fn every_planted_bug_is_found() {
    let bugs: Vec<Bug> = Bug::SIMULATED
        .into_iter()
        .filter(|bug| !Bug::SHY.contains(bug))
        .collect();
    let (table, missed) = hunt_all(&bugs, BUG_SEEDS_MAX);
    println!("{table}");
    assert_eq!(missed, [], "not found within {BUG_SEEDS_MAX} schedules");
}

#[test]
#[ignore = "takes minutes: cargo long"]
fn every_shy_planted_bug_is_found() {
    let (table, missed) = hunt_all(&Bug::SHY, SHY_BUG_SEEDS_MAX);
    println!("{table}");
    assert_eq!(missed, [], "not found within {SHY_BUG_SEEDS_MAX} schedules");
}

/// Hunts for each of the bugs. Returns a table of the results, and the missed bugs.
fn hunt_all(bugs: &[Bug], seeds_max: u64) -> (String, Vec<Bug>) {
    let next = AtomicUsize::new(0);
    let work = || {
        let mut hunted = Vec::new();
        while let Some(&bug) = bugs.get(next.fetch_add(1, Ordering::Relaxed)) {
            hunted.push((bug, hunt(bug, 0..seeds_max)));
        }
        hunted
    };
    let mut hunted: Vec<(Bug, Option<Found>)> = thread::scope(|scope| {
        let workers: Vec<_> = (0..workers()).map(|_| scope.spawn(work)).collect();
        let hunted = workers
            .into_iter()
            .map(|worker| worker.join().expect("a hunt catches what breaks"));
        hunted.flatten().collect()
    });
    hunted.sort_by_key(|&(bug, _)| bug);
    let mut table = format!("{:<34} {:>5}  found by", "bug", "seeds");
    for (bug, found) in &hunted {
        let (seeds, by) = match found {
            Some(found) => {
                let reason = found.reason.lines().next().unwrap_or_default();
                ((found.seed + 1).to_string(), format!("{}: {reason}", found.by))
            }
            None => (format!("> {seeds_max}"), "nobody".to_owned()),
        };
        let name = format!("{bug:?}");
        table += &format!("\n{name:<34} {seeds:>5}  {by}");
    }
    let missed = hunted.iter().filter(|(_, found)| found.is_none());
    (table, missed.map(|&(bug, _)| bug).collect())
}

fn workers() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}
