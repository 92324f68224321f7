//! The load of the comparison with etcd: a fixed number of operations in flight, and one JSON line a measurement.

mod cpu;
mod etcd;
mod load;
mod system;

use std::{io::Write as _, time::Duration};

use clap::{Parser, Subcommand, ValueEnum};

use load::{Failover, Measurement};
use system::{LoadedSystem, SystemKind};

/// Put load on a running paxos or etcd cluster, and print a JSON line with rate, latencies and CPU time
#[derive(Debug, Parser)]
struct Args {
    #[command(subcommand)]
    command: Task,

    /// etcd, paxos (unary calls), paxos-stream or paxos-session (the client library)
    #[arg(long, global = true, default_value = "paxos")]
    system: SystemKind,

    /// URLs: of etcd's members, of proposers, or, for the client library, of acceptors
    #[arg(long, global = true, value_delimiter = ',')]
    addresses: Vec<String>,

    /// URLs of learners, for reads with --system paxos
    #[arg(long, global = true, value_delimiter = ',')]
    learners: Vec<String>,

    /// Operations in flight
    #[arg(long, global = true, default_value_t = 64)]
    in_flight: usize,

    /// Size of each value
    #[arg(long, global = true, default_value_t = 256)]
    value_bytes: usize,

    /// Send unary writes to a proposer that does not lead, instead of to the leader
    #[arg(long, global = true)]
    standby: bool,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Measure for a while
    Run {
        #[arg(long, default_value = "put")]
        operation: OperationKind,

        /// Seconds of load before the measurement
        #[arg(long, default_value_t = 1)]
        warm_up: u64,

        #[arg(long, default_value_t = 5)]
        seconds: u64,

        /// Write this number of keys again and again, instead of a new key each time
        #[arg(long)]
        keys: Option<u64>,

        /// End after this number of operations
        #[arg(long, default_value_t = u64::MAX)]
        operations_max: u64,

        /// Processes whose CPU time and memory are printed
        #[arg(long, value_delimiter = ',')]
        processes: Vec<u32>,
    },
    /// Send the leader a signal under load, and measure the time to the next success
    Failover {
        /// KILL, or TERM for an orderly end
        #[arg(long, default_value = "KILL")]
        signal: EndingSignal,

        /// The process of each address, in the same order
        #[arg(long, value_delimiter = ',')]
        processes: Vec<u32>,
    },
    /// Print the version of etcd's first member, and end once the system has a leader
    Wait,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum OperationKind {
    Put,
    Get,
    /// A unary call that a learner answers from its memory: what the calls alone cost, without Paxos. Only with
    /// --system paxos
    Look,
}

/// The signal that ends the leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "UPPER")]
pub(crate) enum EndingSignal {
    Kill,
    Term,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let operation_max = match args.command {
        // A dead leader must not hold an operation for long.
        Task::Failover { .. } => Duration::from_millis(100),
        Task::Run { .. } | Task::Wait => Duration::from_secs(10),
    };
    let mut system =
        LoadedSystem::connect(args.system, &args.addresses, &args.learners, operation_max).await?;
    if args.standby {
        system.rotate();
    }
    let printed = match args.command {
        Task::Run {
            operation,
            warm_up,
            seconds,
            keys,
            operations_max,
            processes,
        } => {
            let measurement = Measurement {
                operation,
                in_flight: args.in_flight,
                value_bytes: args.value_bytes,
                keys,
                warm_up: Duration::from_secs(warm_up),
                seconds: Duration::from_secs(seconds),
                operations_max,
                processes,
            };
            measurement.run(system).await?
        }
        Task::Failover { signal, processes } => {
            let failover = Failover {
                in_flight: args.in_flight,
                value_bytes: args.value_bytes,
                signal,
                processes,
            };
            failover.run(system).await?
        }
        Task::Wait => serde_json::Value::Null,
    };
    if !printed.is_null() {
        writeln!(std::io::stdout(), "{printed}")?;
    }
    Ok(())
}
