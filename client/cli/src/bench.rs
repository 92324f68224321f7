//! `paxos bench`: how many proposals a second, and how long each takes.

use std::time::Duration;

use bytes::Bytes;
use clap::value_parser;
use hdrhistogram::Histogram;
use indicatif::{ProgressBar, ProgressStyle};
use paxos_client::{
    Client, ProposeError, VALUE_BYTES_MAX, Version,
    proto::{Append, Command, command::Operation},
};
use paxos_common::{config::parse_duration, exit::Failure};
use serde_json::json;
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, interval},
};

use crate::{
    connection::{ConnectionArgs, propose_failure},
    output::OutputArgs,
};

/// How often the progress bar moves.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);
/// Longest latency recorded, in microseconds: an hour; a longer one counts as that.
const LATENCY_MAX_US: u64 = 3_600_000_000;
/// The share of operations, in per cent, and what it is called.
const PERCENTILES: [(&str, f64); 4] = [("p50", 50.0), ("p90", 90.0), ("p99", 99.0), ("p99.9", 99.9)];

/// Measure the cluster: proposals a second and latency percentiles
///
/// Appends to the log as fast as the cluster takes it, with a fixed number of proposals in flight.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Proposals in flight at any time
    #[arg(long, value_name = "N", default_value = "64", value_parser = value_parser!(u32).range(1..=65_536))]
    in_flight: u32,

    /// How long to measure, with its unit
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = parse_duration)]
    duration: Duration,

    /// Size of each value, in bytes
    #[arg(long, value_name = "BYTES", default_value = "256", value_parser = value_parser!(u32).range(1..=VALUE_BYTES_MAX as i64))]
    value_bytes: u32,

    /// Make a call of each proposal, instead of using the client library's stream
    #[arg(long)]
    unary: bool,

    #[command(flatten)]
    output: OutputArgs,

    #[command(flatten)]
    connection: ConnectionArgs,
}

/// What came of the proposals.
#[derive(Debug)]
struct Tally {
    latency_us: Histogram<u64>,
    refused: u64,
    not_proposed: u64,
    outcome_unknown: u64,
}

impl Tally {
    fn new() -> Self {
        let latency_us =
            Histogram::new_with_max(LATENCY_MAX_US, 3).expect("the bounds are constants that fit");
        Self {
            latency_us,
            refused: 0,
            not_proposed: 0,
            outcome_unknown: 0,
        }
    }

    fn count(&mut self, result: &Result<Version, ProposeError>, elapsed: Duration) {
        match result {
            Ok(_) => {
                self.latency_us
                    .saturating_record(u64::try_from(elapsed.as_micros()).unwrap_or(LATENCY_MAX_US));
            }
            Err(ProposeError::NotProposed(_)) => self.not_proposed += 1,
            Err(ProposeError::OutcomeUnknown(_)) => self.outcome_unknown += 1,
            Err(ProposeError::Invalid(_) | ProposeError::Refused(_)) => self.refused += 1,
        }
    }

    fn add(&mut self, other: &Self) {
        self.latency_us
            .add(&other.latency_us)
            .expect("all have the same bounds");
        self.refused += other.refused;
        self.not_proposed += other.not_proposed;
        self.outcome_unknown += other.outcome_unknown;
    }
}

pub(crate) async fn run(args: Args) -> Result<(), Failure> {
    let client = args.connection.client()?;
    let value = Bytes::from(vec![
        b'x';
        usize::try_from(args.value_bytes).unwrap_or(VALUE_BYTES_MAX)
    ]);
    let load = Load {
        client,
        value,
        unary: args.unary,
        timeout: args.connection.timeout,
    };
    // Connects, and fails at once when there is nothing to measure.
    load.propose().await.map_err(propose_failure)?;

    let begun = Instant::now();
    let (stop, stopped) = watch::channel(false);
    let mut workers = JoinSet::new();
    for _ in 0..args.in_flight {
        workers.spawn(load.clone().work(stopped.clone()));
    }
    tokio::select! {
        // Cancel safe: it only shows the time.
        () = show_progress(begun, args.duration) => {}
        // Cancel safe: it only waits. What was measured until then counts.
        _ = tokio::signal::ctrl_c() => {}
    }
    // Workers hold receivers; were they all gone, there would be nobody to stop.
    let _ = stop.send(true);
    let mut tally = Tally::new();
    while let Some(worker) = workers.join_next().await {
        tally.add(&worker.map_err(|error| Failure::internal(anyhow::Error::new(error)))?);
    }
    let elapsed = begun.elapsed();
    args.output
        .print(|| text(&tally, elapsed), || report(&args, &tally, elapsed))?;
    if tally.latency_us.is_empty() {
        return Err(Failure::unavailable(anyhow::anyhow!(
            "no proposal succeeded; `paxos status` shows what is wrong"
        )));
    }
    Ok(())
}

#[derive(Clone)]
struct Load {
    client: Client,
    value: Bytes,
    unary: bool,
    timeout: Duration,
}

impl Load {
    async fn propose(&self) -> Result<Version, ProposeError> {
        let operation = Operation::Append(Append {
            record: self.value.clone(),
        });
        let command = Command {
            session: None,
            operation: Some(operation),
        };
        if self.unary {
            self.client.propose_unary(command, self.timeout).await
        } else {
            self.client.propose(command, self.timeout).await
        }
    }

    /// Keeps one proposal in flight until told to stop; the last one is waited for, and counts.
    async fn work(self, stopped: watch::Receiver<bool>) -> Tally {
        let mut tally = Tally::new();
        while !*stopped.borrow() {
            let begun = Instant::now();
            let result = self.propose().await;
            tally.count(&result, begun.elapsed());
        }
        tally
    }
}

/// A bar on standard error, when that is a terminal; returns when the time is over.
async fn show_progress(begun: Instant, duration: Duration) {
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let style = ProgressStyle::with_template("measuring {wide_bar} {elapsed_precise}")
        .expect("the template is a constant that is tested");
    let bar = ProgressBar::new(millis(duration)).with_style(style);
    let mut ticks = interval(PROGRESS_INTERVAL);
    while begun.elapsed() < duration {
        ticks.tick().await;
        bar.set_position(millis(begun.elapsed()));
    }
    bar.finish_and_clear();
}

fn text(tally: &Tally, elapsed: Duration) -> String {
    let latency = &tally.latency_us;
    let seconds = elapsed.as_secs_f64();
    let mut text = format!(
        "proposals  {} in {seconds:.1} s, {:.0} a second\nlatency    ",
        latency.len(),
        per_second(tally, elapsed),
    );
    for (name, percentile) in PERCENTILES {
        text += &format!(
            "{name} {:.2} ms  ",
            millis(latency.value_at_percentile(percentile))
        );
    }
    text += &format!("max {:.2} ms\n", millis(latency.max()));
    text += &format!(
        "failed     {} outcome unknown, {} not proposed, {} refused\n",
        tally.outcome_unknown, tally.not_proposed, tally.refused
    );
    text
}

fn report(args: &Args, tally: &Tally, elapsed: Duration) -> serde_json::Value {
    let mut latency = serde_json::Map::new();
    for (name, percentile) in PERCENTILES {
        latency.insert(
            name.to_owned(),
            json!(millis(tally.latency_us.value_at_percentile(percentile))),
        );
    }
    latency.insert("max".to_owned(), json!(millis(tally.latency_us.max())));
    json!({
        "in_flight": args.in_flight,
        "value_bytes": args.value_bytes,
        "unary": args.unary,
        "seconds": elapsed.as_secs_f64(),
        "proposals": tally.latency_us.len(),
        "per_second": per_second(tally, elapsed),
        "latency_ms": latency,
        "outcome_unknown": tally.outcome_unknown,
        "not_proposed": tally.not_proposed,
        "refused": tally.refused,
    })
}

#[expect(clippy::cast_precision_loss, reason = "counts for people stay far below 2^52")]
fn per_second(tally: &Tally, elapsed: Duration) -> f64 {
    tally.latency_us.len() as f64 / elapsed.as_secs_f64()
}

#[expect(
    clippy::cast_precision_loss,
    reason = "an hour in microseconds is far below 2^52"
)]
fn millis(micros: u64) -> f64 {
    micros as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use paxos_client::{Cause, Slot};

    #[test]
    fn failures_are_counted_by_fate_and_do_not_enter_the_latencies() {
        let cause = || Cause {
            code: tonic::Code::Unavailable,
            message: String::new(),
        };
        let mut tally = Tally::new();
        let version = Version {
            slot: Slot::ZERO,
            offset: 0,
        };
        tally.count(&Ok(version), Duration::from_millis(2));
        tally.count(
            &Err(ProposeError::OutcomeUnknown(cause())),
            Duration::from_secs(1),
        );
        tally.count(&Err(ProposeError::NotProposed(cause())), Duration::from_secs(1));
        let mut sum = Tally::new();
        sum.add(&tally);
        sum.add(&tally);
        assert_eq!(
            (
                sum.latency_us.len(),
                sum.outcome_unknown,
                sum.not_proposed,
                sum.refused
            ),
            (2, 2, 2, 0)
        );
        let text = text(&sum, Duration::from_secs(4));
        assert!(
            text.starts_with("proposals  2 in 4.0 s, 0 a second\nlatency    p50 2.00 ms"),
            "{text}"
        );
        assert!(
            text.ends_with("failed     2 outcome unknown, 2 not proposed, 0 refused\n"),
            "{text}"
        );
    }

    #[tokio::test]
    async fn progress_ends_when_the_time_is_over() {
        show_progress(Instant::now(), Duration::from_millis(1)).await;
    }
}
