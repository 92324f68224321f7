//! Simulated clusters of the real cores: every invariant after every step, over many seeds.

use std::{
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
    thread,
};

#[allow(dead_code, reason = "what only the example uses is here too")]
mod simulator;

use simulator::{Bug, Found, Statistics, Transcript, hunt, run, try_run};

/// The seeds of the usual run.
const SEEDS: u64 = 300;

/// Runs `check` for every seed on all processors, and gathers what was exercised.
fn over_seeds(
    seeds: u64,
    check: impl Fn(u64) -> Result<Statistics, String> + Sync,
) -> Result<Statistics, String> {
    let next = AtomicU64::new(0);
    thread::scope(|scope| {
        let work = || {
            let mut statistics = Statistics::default();
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= seeds {
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
fn invariants_hold_and_healed_clusters_make_progress_the_same_way_each_time() {
    let outcome = over_seeds(SEEDS, |seed| {
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
fn different_seeds_are_different_schedules() {
    let trace = |seed| run(seed, None, &mut Transcript::off()).trace;
    assert_ne!(trace(1_000), trace(1_001));
}

/// Seeds that found a fault in the cores once. What they found is tested by itself beside the code; the schedules of
/// these numbers change whenever the simulator does.
const FAILED_ONCE: &[u64] = &[187, 588, 2851, 3010];

#[test]
fn seeds_that_failed_once_pass() {
    for &seed in FAILED_ONCE {
        try_run(seed).unwrap_or_else(|failure| panic!("{failure}"));
    }
}

/// How many schedules a planted bug may survive: several times what the shyest of them needs.
const BUG_SEEDS_MAX: u64 = 1_000;

#[test]
fn every_planted_bug_is_found() {
    let next = AtomicUsize::new(0);
    let work = || {
        let mut hunted = Vec::new();
        while let Some(&bug) = Bug::ALL.get(next.fetch_add(1, Ordering::Relaxed)) {
            hunted.push((bug, hunt(bug, 0..BUG_SEEDS_MAX)));
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
    println!("{:<34} {:>5}  found by", "bug", "seeds");
    for (bug, found) in &hunted {
        let name = format!("{bug:?}");
        match found {
            Some(found) => {
                let reason = found.reason.lines().next().unwrap_or_default();
                println!("{name:<34} {:>5}  {}: {reason}", found.seed + 1, found.by);
            }
            None => println!("{name:<34}     -"),
        }
    }
    let missed = hunted.iter().filter(|(_, found)| found.is_none());
    let missed: Vec<Bug> = missed.map(|&(bug, _)| bug).collect();
    assert_eq!(missed, [], "not found within {BUG_SEEDS_MAX} schedules");
}

fn workers() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}
