//! Checks models of small clusters of the real cores, rung by rung: `cargo model`, or `cargo model 3` for rungs with
//! names beginning with 3. A further number limits the steps of each rung.

use std::process::ExitCode;

use paxos_testing::model::{
    climb::{Climbed, HEADING, Order, climb},
    ladder,
};

/// Default limit of the steps of a rung: some minutes, and some gigabytes.
const STEPS_MAX: usize = 30_000_000;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let wanted = arguments.next().unwrap_or_default();
    let steps_max = match arguments.next().map(|steps| steps.parse()) {
        None => STEPS_MAX,
        Some(Ok(steps)) => steps,
        Some(Err(error)) => {
            print(&format!(
                "the most steps of a rung, as in `cargo model 3 1000000`: {error}"
            ));
            return ExitCode::from(2);
        }
    };
    let holds = |climbed: &Climbed| climbed.broken.is_none() && climbed.missing.is_empty();
    let mut all_hold = true;
    print(HEADING);
    for rung in ladder::small().into_iter().chain(ladder::large()) {
        if rung.case.name().starts_with(&wanted) {
            let climbed = climb(rung.case, Order::DepthFirst, steps_max);
            print(&climbed.to_string());
            all_hold &= holds(&climbed);
        }
    }
    if all_hold {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn print(line: &str) {
    use std::io::Write as _;
    // A pipe closed early by the reader is no failure.
    let _ = writeln!(std::io::stdout(), "{line}");
}
