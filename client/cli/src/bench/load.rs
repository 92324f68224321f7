//! The load of the measurement: proposals and linearizable reads, in the given shares.

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use paxos_client::{Client, ProposeError, ReadError, Register, Version, WriteError};
use paxos_common::service::failure::Failure;
use paxos_proto::v1::{Append, Command, Put, command::Operation};
use tokio::{sync::watch, time::Instant};

use super::tally::BenchTally;
use crate::{connection::propose_failure, key::write_failure};

/// Number of registers written at the same time before the measurement.
const WRITES_MAX: usize = 256;

/// The work of each worker.
#[derive(Clone)]
pub(super) struct Load {
    pub(super) client: Client,
    pub(super) value: Bytes,
    pub(super) unary: bool,
    /// Each write belongs to a session, and its outcome is read.
    pub(super) exactly_once: bool,
    /// The share of reads, in per cent, 0 to 100.
    pub(super) reads_percent: u8,
    /// Number of registers for reads and writes, at least 1.
    pub(super) registers: usize,
}

impl Load {
    /// Connects, writes the registers for later reads, and fails at once when the cluster cannot be measured.
    pub(super) async fn prepare(&self) -> Result<(), Failure> {
        if self.reads_percent == 0 {
            return self.propose(0).await.map(drop).map_err(propose_failure);
        }
        let writes = stream::iter(0..self.registers).map(|place| {
            let value = self.value.clone();
            self.client.put(self.key(place), value)
        });
        let written = writes.buffer_unordered(WRITES_MAX).map_ok(drop);
        written.try_collect().await.map_err(write_failure)
    }

    /// Keeps one operation in flight until `stopped` is true. Waits for the last operation, and counts the last
    /// operation too.
    pub(super) async fn work(self, worker: usize, stopped: watch::Receiver<bool>) -> BenchTally {
        let mut tally = BenchTally::new();
        let mut turns = Turns::new(self.reads_percent, worker);
        let mut place = worker;
        while !*stopped.borrow() {
            place = place.wrapping_add(1);
            let begun = Instant::now();
            if turns.next_is_read() {
                let result = self.read(place).await;
                tally.count_read(&result, begun.elapsed());
            } else if self.exactly_once {
                let result = self.write(place).await;
                tally.count_write(&result, begun.elapsed());
            } else {
                let result = self.propose(place).await;
                tally.count_proposal(&result, begun.elapsed());
            }
        }
        tally
    }

    async fn propose(&self, place: usize) -> Result<Version, ProposeError> {
        let value = self.value.clone();
        let operation = if self.reads_percent == 0 {
            Operation::Append(Append { record: value })
        } else {
            Operation::Put(Put {
                key: self.key(place),
                value,
                condition: None,
            })
        };
        let command = Command {
            session: None,
            operation: Some(operation),
        };
        if self.unary {
            self.client.propose_unary(command).await
        } else {
            self.client.propose(command).await
        }
    }

    async fn write(&self, place: usize) -> Result<Version, WriteError> {
        let value = self.value.clone();
        if self.reads_percent == 0 {
            self.client.append(value).await
        } else {
            self.client.put(self.key(place), value).await
        }
    }

    async fn read(&self, place: usize) -> Result<Option<Register>, ReadError> {
        self.client.get(self.key(place)).await
    }

    fn key(&self, place: usize) -> Bytes {
        format!("paxos-bench/{:02}", place % self.registers).into()
    }
}

/// Chooses between reads and proposals, evenly mixed.
struct Turns {
    percent: u8,
    /// Hundredths of a read that are due; below 100.
    owed: u8,
}

impl Turns {
    /// Workers start at different places, so that proposals of different workers do not coincide.
    fn new(percent: u8, worker: usize) -> Self {
        let owed = u8::try_from(worker * 37 % 100).expect("below 100");
        Self { percent, owed }
    }

    fn next_is_read(&mut self) -> bool {
        self.owed += self.percent;
        let is_read = self.owed >= 100;
        if is_read {
            self.owed -= 100;
        }
        is_read
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_each_hundred_turns_so_many_are_reads_as_the_share_says() {
        for percent in 0..=100 {
            for worker in [0, 1, 99, 65_535] {
                let mut turns = Turns::new(percent, worker);
                let reads = (0..100).filter(|_| turns.next_is_read()).count();
                assert_eq!(reads, usize::from(percent), "worker {worker}");
            }
        }
    }
}
