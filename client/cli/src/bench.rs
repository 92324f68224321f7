//! `paxos bench`: proposals and reads per second, and their latencies.

mod load;
mod processes;
mod tally;

use std::time::Duration;

use bytes::Bytes;
use clap::value_parser;
use indicatif::{ProgressBar, ProgressStyle};
use paxos_client::VALUE_BYTES_MAX;
use paxos_common::service::{config::parse_duration, failure::Failure};
use serde_json::{Value, json};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, interval},
};

use crate::{
    connection::ConnectionArgs,
    json::uint64,
    output::{OutputArgs, judged},
    signals::{self, Left, interruptible},
};
use load::Load;
use processes::{RoleProcesses, UsedCpu};
use tally::BenchTally;

/// Update interval of the progress bar.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);

/// Measure the cluster: proposals and reads per second, and latency percentiles
///
/// Appends to the log as fast as the cluster allows, with a fixed number of operations in flight.
///
/// With --reads, this share of the operations are linearizable reads, answered by learners, of registers with keys that
/// begin with paxos-bench/. The registers are written first, and written again by the other operations. The registers stay
/// in the cluster.
///
/// Also prints the CPU time of each role that runs on this machine, for each operation. Several roles in one process,
/// as in `paxos dev`, share one number.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Operations in flight at any time
    #[arg(long, value_name = "N", default_value = "64", value_parser = value_parser!(u32).range(1..=65_536))]
    in_flight: u32,

    /// How long to measure, with unit
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = parse_duration)]
    duration: Duration,

    /// Size of each value, in bytes
    #[arg(long, value_name = "BYTES", default_value = "256", value_parser = value_parser!(u32).range(1..=VALUE_BYTES_MAX as i64))]
    value_bytes: u32,

    /// Share of linearizable reads among the operations, in per cent; the rest are proposals
    #[arg(long, value_name = "PERCENT", default_value = "0", value_parser = value_parser!(u8).range(0..=100))]
    reads: u8,

    /// With --reads: number of registers, 1 to 10,000,000
    #[arg(long, value_name = "N", default_value = "64", value_parser = value_parser!(u32).range(1..=10_000_000))]
    registers: u32,

    /// Send each proposal as a separate call, instead of through the client library's stream
    #[arg(long)]
    unary: bool,

    /// Write exactly once: each write belongs to a session, and ends once its outcome is read from a learner
    #[arg(long, conflicts_with = "unary")]
    exactly_once: bool,

    #[command(flatten)]
    output: OutputArgs,

    #[command(flatten)]
    connection: ConnectionArgs,
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
        exactly_once: args.exactly_once,
        reads_percent: args.reads,
        registers: usize::try_from(args.registers).unwrap_or(usize::MAX),
    };
    Box::pin(interruptible(Left::Write, load.prepare())).await?;
    let processes = Box::pin(interruptible(Left::Nothing, async {
        Ok(RoleProcesses::find(&load.client).await)
    }));
    let processes = processes.await?;

    let mut signals = signals::listen()?;
    let processes = processes.begin();
    let begun = Instant::now();
    let (stop, stopped) = watch::channel(false);
    let mut workers = JoinSet::new();
    for worker in (0..args.in_flight).filter_map(|worker| usize::try_from(worker).ok()) {
        workers.spawn(load.clone().work(worker, stopped.clone()));
    }
    tokio::select! {
        // Cancel safe: only shows the time.
        () = show_progress(begun, args.duration) => {}
        // Cancel safe: an unreturned signal stays pending. Measurements up to the signal count.
        _ = signals.next() => {}
    }
    // Workers hold receivers. Sending fails only when no worker is left to stop.
    let _ = stop.send(true);
    let mut tally = BenchTally::new();
    while let Some(worker) = workers.join_next().await {
        tally.add(&worker.map_err(|error| Failure::internal(anyhow::Error::new(error)))?);
    }
    let elapsed = begun.elapsed();
    let used = processes.used();
    let operations = tally.proposals.count() + tally.reads.count();
    let text = || tally.text(args.reads, elapsed) + &processes::text(&used, operations);
    let printed = tokio::select! {
        // Cancel safe: the command ends.
        printed = args.output.print(text, || report(&args, &tally, &used, elapsed)) => printed,
        // Cancel safe: an unreturned signal stays pending.
        signal = signals.next() => return Err(Failure::ended_by(signal, ": the result was not printed")),
    };
    if operations == 0 {
        let failure = anyhow::anyhow!("nothing succeeded; `paxos status` shows what is wrong");
        return judged(printed, Err(Failure::unavailable(failure)));
    }
    printed
}

fn report(args: &Args, tally: &BenchTally, used: &[UsedCpu], elapsed: Duration) -> Value {
    let mut report = tally.json(elapsed);
    report["processes"] = processes::json(used, tally.proposals.count() + tally.reads.count());
    report["in_flight"] = json!(args.in_flight);
    report["value_bytes"] = json!(args.value_bytes);
    report["reads_percent"] = json!(args.reads);
    report["registers"] = uint64(args.registers.into());
    report["unary"] = json!(args.unary);
    report["exactly_once"] = json!(args.exactly_once);
    report
}

/// Shows a bar on standard error, if standard error is a terminal. Returns after `duration`.
async fn show_progress(begun: Instant, duration: Duration) {
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let style = ProgressStyle::with_template("measuring {wide_bar} {elapsed_precise}")
        .expect("the template is a tested constant");
    let bar = ProgressBar::new(millis(duration)).with_style(style);
    let mut ticks = interval(PROGRESS_INTERVAL);
    while begun.elapsed() < duration {
        ticks.tick().await;
        bar.set_position(millis(begun.elapsed()));
    }
    bar.finish_and_clear();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn progress_ends_when_the_time_is_over() {
        show_progress(Instant::now(), Duration::from_millis(1)).await;
    }
}
