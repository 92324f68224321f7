//! Replays simulated clusters from their seeds: `cargo sim 42` prints what happens, `cargo sim 1..1000` only what fails.

use std::process::ExitCode;

#[path = "../tests/simulator/mod.rs"]
mod simulator;

use simulator::{Statistics, Transcript, run, try_run};

fn main() -> ExitCode {
    let argument = std::env::args().nth(1).unwrap_or_default();
    if let Ok(seed) = argument.parse() {
        return one(seed);
    }
    let range = argument
        .split_once("..")
        .and_then(|(from, to)| Some(from.parse().ok()?..to.parse().ok()?));
    if let Some(range) = range {
        return many(range);
    }
    eprintln!("give a seed (cargo sim 42) or a range of seeds (cargo sim 1..1000)");
    ExitCode::from(2)
}

/// Prints one run from beginning to end.
fn one(seed: u64) -> ExitCode {
    let mut transcript = Transcript::last(usize::MAX);
    let guarded = std::panic::AssertUnwindSafe(|| run(seed, &mut transcript));
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

/// Runs a range of seeds, and stops at the first that fails.
fn many(range: std::ops::Range<u64>) -> ExitCode {
    let mut all = Statistics::default();
    // What fails is told once, with its transcript.
    std::panic::set_hook(Box::new(|_| {}));
    for seed in range.clone() {
        match try_run(seed) {
            Ok(run) => all.merge(&run.statistics),
            Err(failure) => {
                print(&format!("{failure}\n"));
                return ExitCode::FAILURE;
            }
        }
    }
    print(&format!(
        "seeds {range:?}: {all:#?}\nnever happened: {:?}\n",
        all.missing()
    ));
    ExitCode::SUCCESS
}

fn print(text: &str) {
    use std::io::Write as _;
    // A reader that has seen enough closes the pipe; that is no failure.
    let _ = std::io::stdout().write_all(text.as_bytes());
}
