//! Counts and latencies of a measurement, and their output.

use std::time::Duration;

use hdrhistogram::Histogram;
use paxos_client::{ProposeError, ReadError, Register, Version, WriteError};
use serde_json::{Value, json};

use crate::json::uint64;

/// Longest recorded latency in microseconds: an hour. Longer latencies are recorded as an hour.
const LATENCY_MAX_US: u64 = 3_600_000_000;
/// The reported percentiles: name, and share of operations in per cent.
const PERCENTILES: [(&str, f64); 4] = [("p50", 50.0), ("p90", 90.0), ("p99", 99.0), ("p99.9", 99.9)];

/// Latencies of the successful operations of one kind.
#[derive(Debug)]
pub(super) struct Latencies(Histogram<u64>);

impl Latencies {
    fn new() -> Self {
        Self(Histogram::new_with_max(LATENCY_MAX_US, 3).expect("the bounds are constants that fit"))
    }

    fn record(&mut self, elapsed: Duration) {
        let micros = u64::try_from(elapsed.as_micros()).unwrap_or(LATENCY_MAX_US);
        self.0.saturating_record(micros);
    }

    fn add(&mut self, other: &Self) {
        self.0.add(&other.0).expect("all have the same bounds");
    }

    pub(super) fn count(&self) -> u64 {
        self.0.len()
    }

    #[expect(clippy::cast_precision_loss, reason = "counts for people stay far below 2^52")]
    fn per_second(&self, elapsed: Duration) -> f64 {
        self.0.len() as f64 / elapsed.as_secs_f64()
    }

    /// Each percentile and the maximum, by name, in milliseconds.
    fn in_ms(&self) -> impl Iterator<Item = (&'static str, f64)> {
        let percentiles =
            PERCENTILES.map(|(name, percentile)| (name, self.0.value_at_percentile(percentile)));
        percentiles
            .into_iter()
            .chain([("max", self.0.max())])
            .map(|(name, micros)| (name, millis(micros)))
    }

    fn text(&self, what: &str, elapsed: Duration) -> String {
        let latency: Vec<_> = self
            .in_ms()
            .map(|(name, ms)| format!("{name} {ms:.2} ms"))
            .collect();
        format!(
            "{what:<9}  {} in {:.1} s, {:.0} a second\nlatency    {}\n",
            self.count(),
            elapsed.as_secs_f64(),
            self.per_second(elapsed),
            latency.join("  "),
        )
    }

    fn json(&self) -> Value {
        self.in_ms()
            .map(|(name, ms)| (name.to_owned(), json!(ms)))
            .collect()
    }
}

/// The outcomes of the operations.
#[derive(Debug)]
pub(super) struct BenchTally {
    pub(super) proposals: Latencies,
    refused: u64,
    not_proposed: u64,
    outcome_unknown: u64,
    pub(super) reads: Latencies,
    reads_failed: u64,
}

impl BenchTally {
    pub(super) fn new() -> Self {
        Self {
            proposals: Latencies::new(),
            refused: 0,
            not_proposed: 0,
            outcome_unknown: 0,
            reads: Latencies::new(),
            reads_failed: 0,
        }
    }

    pub(super) fn count_proposal(&mut self, result: &Result<Version, ProposeError>, elapsed: Duration) {
        match result {
            Ok(_) => self.proposals.record(elapsed),
            Err(ProposeError::NotProposed(_)) => self.not_proposed += 1,
            Err(ProposeError::OutcomeUnknown(_)) => self.outcome_unknown += 1,
            Err(ProposeError::Invalid(_) | ProposeError::Refused(_)) => self.refused += 1,
            Err(_) => self.outcome_unknown += 1,
        }
    }

    pub(super) fn count_write(&mut self, result: &Result<Version, WriteError>, elapsed: Duration) {
        match result {
            Ok(_) => self.proposals.record(elapsed),
            Err(WriteError::Invalid(_) | WriteError::Refused(_)) => self.refused += 1,
            Err(error) if error.had_no_effect() => self.not_proposed += 1,
            Err(_) => self.outcome_unknown += 1,
        }
    }

    /// A read without the previously written value has failed.
    pub(super) fn count_read(&mut self, result: &Result<Option<Register>, ReadError>, elapsed: Duration) {
        match result {
            Ok(Some(_)) => self.reads.record(elapsed),
            Ok(None) | Err(_) => self.reads_failed += 1,
        }
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.proposals.add(&other.proposals);
        self.refused += other.refused;
        self.not_proposed += other.not_proposed;
        self.outcome_unknown += other.outcome_unknown;
        self.reads.add(&other.reads);
        self.reads_failed += other.reads_failed;
    }

    /// For people: the kinds of operations in use, by the share of reads in per cent.
    pub(super) fn text(&self, reads_percent: u8, elapsed: Duration) -> String {
        let mut text = String::new();
        if reads_percent < 100 {
            text += &self.proposals.text("proposals", elapsed);
            text += &format!(
                "failed     {} outcome unknown, {} not proposed, {} refused\n",
                self.outcome_unknown, self.not_proposed, self.refused
            );
        }
        if reads_percent > 0 {
            text += &self.reads.text("reads", elapsed);
            text += &format!("failed     {}\n", self.reads_failed);
        }
        text
    }

    /// For programs.
    pub(super) fn json(&self, elapsed: Duration) -> Value {
        json!({
            "seconds": elapsed.as_secs_f64(),
            "proposals": uint64(self.proposals.count()),
            "per_second": self.proposals.per_second(elapsed),
            "latency_ms": self.proposals.json(),
            "outcome_unknown": uint64(self.outcome_unknown),
            "not_proposed": uint64(self.not_proposed),
            "refused": uint64(self.refused),
            "reads": {
                "answered": uint64(self.reads.count()),
                "per_second": self.reads.per_second(elapsed),
                "latency_ms": self.reads.json(),
                "failed": uint64(self.reads_failed),
            },
        })
    }
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
    use paxos_client::{Cause, ErrorCode, Slot};

    fn cause() -> Cause {
        Cause::new(ErrorCode::Unavailable, "")
    }

    fn version() -> Version {
        Version {
            slot: Slot::ZERO,
            offset: 0,
        }
    }

    fn twice(tally: &BenchTally) -> BenchTally {
        let mut sum = BenchTally::new();
        sum.add(tally);
        sum.add(tally);
        sum
    }

    #[test]
    fn failures_are_counted_by_fate_and_do_not_enter_the_latencies() {
        let mut tally = BenchTally::new();
        tally.count_proposal(&Ok(version()), Duration::from_millis(2));
        let unknown = Err(ProposeError::OutcomeUnknown(cause()));
        tally.count_proposal(&unknown, Duration::from_secs(1));
        let not_proposed = Err(ProposeError::NotProposed(cause()));
        tally.count_proposal(&not_proposed, Duration::from_secs(1));
        let text = twice(&tally).text(0, Duration::from_secs(4));
        let latency = "p50 2.00 ms  p90 2.00 ms  p99 2.00 ms  p99.9 2.00 ms  max 2.00 ms";
        assert_eq!(
            text,
            format!(
                "proposals  2 in 4.0 s, 0 a second\nlatency    {latency}\n\
                 failed     2 outcome unknown, 2 not proposed, 0 refused\n"
            )
        );
    }

    #[test]
    fn read_that_finds_no_value_counts_as_failed() {
        let mut tally = BenchTally::new();
        let found = Register {
            key: "key".into(),
            value: "value".into(),
            version: version(),
        };
        tally.count_proposal(&Ok(version()), Duration::from_millis(9));
        tally.count_read(&Ok(Some(found)), Duration::from_millis(1));
        tally.count_read(&Ok(None), Duration::from_secs(1));
        tally.count_read(&Err(ReadError::Unavailable(cause())), Duration::from_secs(1));
        let sum = twice(&tally);
        let json = sum.json(Duration::from_secs(1));
        assert_eq!(json["reads"]["answered"], "2");
        assert_eq!(json["reads"]["per_second"], 2.0);
        assert_eq!(json["reads"]["failed"], "4");
        assert!(
            json["reads"]["latency_ms"]["max"].as_f64().unwrap() < 2.0,
            "{json}"
        );
        assert_eq!(json["proposals"], "2");
        let only = sum.text(100, Duration::from_secs(1));
        assert!(only.starts_with("reads      2 in 1.0 s, 2 a second\n"), "{only}");
        assert!(only.ends_with("failed     4\n"), "{only}");
        let both = sum.text(50, Duration::from_secs(1));
        assert!(
            both.starts_with("proposals  2 in") && both.ends_with(&only),
            "{both}"
        );
    }
}
