//! Replays simulated clusters from their seeds: `cargo sim 42` prints one run, `cargo sim 1..1000` prints failures
//! only. `cargo sim 'the leader dies'` prints the directed scenario with this name. With the name of a bug as last
//! argument, the bug is planted in the cluster: `cargo sim 1..1000 AnswersAboveAGap` hunts for the bug.
#![allow(clippy::print_stderr, reason = "what a person who runs it reads")]

use std::{ops::Range, process::ExitCode, time::Instant};

use paxos_testing::simulator::{
    Bug, Statistics, Transcript, hunt, run,
    scenarios::{SCENARIOS, Scenario},
    try_run,
};

const USAGE: &str =
    "give a seed (cargo sim 42) or a range of seeds (cargo sim 1..1000), and perhaps a bug to plant";

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let seeds = arguments.next().unwrap_or_default();
    let named = arguments.next();
    let bug = named.as_deref().and_then(Bug::named);
    if named.is_some() && bug.is_none() {
        eprintln!("{USAGE}, one of {:?} {:?}", Bug::SIMULATED, Bug::OF_PATIENCE);
        return ExitCode::from(2);
    }
    if let Some(scenario) = SCENARIOS.iter().find(|scenario| scenario.name == seeds) {
        return script(scenario, bug);
    }
    if let Ok(seed) = seeds.parse() {
        return one(seed, bug);
    }
    let range = seeds
        .split_once("..")
        .and_then(|(from, to)| Some(from.parse().ok()?..to.parse().ok()?));
    match (range, bug) {
        (Some(range), None) => many(range),
        (Some(range), Some(bug)) => until_found(range, bug),
        (None, _) => {
            eprintln!("{USAGE}");
            ExitCode::from(2)
        }
    }
}

/// Prints a directed scenario from beginning to end.
fn script(scenario: &Scenario, bug: Option<Bug>) -> ExitCode {
    let mut transcript = Transcript::last(usize::MAX);
    let outcome = scenario.run(scenario.quorums(), 0, bug, &mut transcript);
    print(&transcript.to_string());
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            print(&format!("{reason}\n"));
            ExitCode::FAILURE
        }
    }
}

/// Prints a run from beginning to end.
fn one(seed: u64, bug: Option<Bug>) -> ExitCode {
    let mut transcript = Transcript::last(usize::MAX);
    let guarded = std::panic::AssertUnwindSafe(|| run(seed, bug, &mut transcript));
    let outcome = std::panic::catch_unwind(guarded);
    print(&transcript.to_string());
    match outcome {
        Ok(run) => {
            print(&format!(
                "seed {seed}: trace {:016x}, {:#?}\n",
                run.trace, run.statistics
            ));
            ExitCode::SUCCESS
        }
        Err(_) => ExitCode::FAILURE,
    }
}

/// Runs a range of seeds, and stops at the first failing seed.
fn many(range: Range<u64>) -> ExitCode {
    let mut all = Statistics::default();
    // Each failure is reported once, with its transcript.
    std::panic::set_hook(Box::new(|_| {}));
    let begun = Instant::now();
    for seed in range.clone() {
        match try_run(seed) {
            Ok(run) => all.merge(&run.statistics),
            Err(failure) => {
                print(&format!("{failure}\n"));
                return ExitCode::FAILURE;
            }
        }
    }
    let per_minute = range.clone().count() as f64 * 60.0 / begun.elapsed().as_secs_f64();
    print(&format!(
        "seeds {range:?}: {all:#?}\nnever happened: {:?}\n{per_minute:.0} schedules a minute\n",
        all.missing()
    ));
    ExitCode::SUCCESS
}

/// Runs a range of seeds with a planted bug, and stops when a seed shows the bug.
fn until_found(range: Range<u64>, bug: Bug) -> ExitCode {
    match hunt(bug, range.clone()) {
        Some(found) => {
            print(&format!(
                "seed {} shows it, by {}: {}\n",
                found.seed, found.by, found.reason
            ));
            ExitCode::SUCCESS
        }
        None => {
            print(&format!("seeds {range:?} do not show it\n"));
            ExitCode::FAILURE
        }
    }
}

fn print(text: &str) {
    use std::io::Write as _;
    // A pipe closed early by the reader is no failure.
    let _ = std::io::stdout().write_all(text.as_bytes());
}
