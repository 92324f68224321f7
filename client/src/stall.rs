//! Whether a silent proposer that owes answers has stopped, or is only slow.
//!
//! A slow disk or link delays answers like a stopped process, so silence alone proves nothing. A proposer counts as
//! replaced when a small call on a separate connection is not answered, and the acceptors name another leader.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use paxos_common::peer::Address;
use tokio::{
    sync::Notify,
    time::{Instant, sleep, sleep_until},
};

use crate::{
    address::{Directory, Leader},
    error::Cause,
    standing::{self, client_at},
};

/// Length of silence after which a proposer that owes answers is probed.
const SILENCE: Duration = Duration::from_millis(250);
/// Pause between two probes of a proposer.
const PROBE_PAUSE: Duration = Duration::from_millis(250);
/// Age up to which a verdict is used again, so that many waiting calls share a probe.
const VERDICT_AGE: Duration = Duration::from_millis(100);

/// The awaited proposer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Suspect {
    pub(crate) address: Address,
    /// The number of the proposer's process; `None` when not reported.
    pub(crate) process: Option<u64>,
}

impl Suspect {
    /// Whether this proposer is `leader`. Numbers are compared first: an address may be an alias.
    fn is(&self, leader: &Leader) -> bool {
        match self.process {
            Some(process) => process == leader.process,
            None => self.address == leader.address,
        }
    }

    /// Why the commands of this proposer are given up.
    pub(crate) fn replaced(&self) -> Cause {
        Cause::unavailable("the proposer does not answer, and another proposer leads").at(&self.address)
    }
}

/// Since when a proposer owes an answer. Shared between the stream and the watching future.
#[derive(Debug, Default)]
pub(crate) struct AnswerWait {
    since: Mutex<Option<Instant>>,
    began: Notify,
}

impl AnswerWait {
    /// The progress of a single call, sent just now.
    pub(crate) fn begun() -> Self {
        let progress = Self::default();
        progress.set(Some(Instant::now()));
        progress
    }

    /// Sets the last sign of life while answers are owed; `None` while no answer is owed.
    pub(crate) fn set(&self, since: Option<Instant>) {
        let before = std::mem::replace(&mut *self.lock(), since);
        if before.is_none() && since.is_some() {
            self.began.notify_one();
        }
    }

    pub(crate) fn since(&self) -> Option<Instant> {
        *self.lock()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Instant>> {
        self.since.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Judges proposers, with one probe at a time for any number of waiting calls.
#[derive(Debug)]
pub(crate) struct Judge {
    directory: Arc<Directory>,
    last: tokio::sync::Mutex<Option<StallVerdict>>,
}

#[derive(Debug)]
struct StallVerdict {
    suspect: Suspect,
    is_replaced: bool,
    at: Instant,
}

impl Judge {
    pub(crate) fn new(directory: Arc<Directory>) -> Self {
        Self {
            directory,
            last: tokio::sync::Mutex::default(),
        }
    }

    /// Returns once `suspect` is silent and replaced. Asks nothing while no answer is owed.
    ///
    /// # Cancel safety
    /// Safe: the call only reads.
    pub(crate) async fn replaced(&self, suspect: &Suspect, progress: &AnswerWait) {
        loop {
            let Some(since) = progress.since() else {
                progress.began.notified().await;
                continue;
            };
            let due = since + SILENCE;
            if Instant::now() < due {
                sleep_until(due).await;
                continue;
            }
            if self.is_replaced(suspect).await && progress.since() == Some(since) {
                tracing::debug!(address = %suspect.address, "proposer is silent, and another proposer leads");
                return;
            }
            sleep(PROBE_PAUSE).await;
        }
    }

    async fn is_replaced(&self, suspect: &Suspect) -> bool {
        let mut last = self.last.lock().await;
        if let Some(verdict) = &*last
            && verdict.suspect == *suspect
            && verdict.at.elapsed() < VERDICT_AGE
        {
            return verdict.is_replaced;
        }
        let is_replaced = self.ask(suspect).await;
        *last = Some(StallVerdict {
            suspect: suspect.clone(),
            is_replaced,
            at: Instant::now(),
        });
        is_replaced
    }

    async fn ask(&self, suspect: &Suspect) -> bool {
        match standing::ask(&mut client_at(&suspect.address, &self.directory.dialer)).await {
            // Another process at the same address does not answer for the earlier process.
            Ok(standing) => {
                (suspect.process.zip(standing.process)).is_some_and(|(before, now)| before != now)
            }
            Err(_silent) => {
                let leader = self.directory.leader().await;
                leader.is_some_and(|leader| !suspect.is(&leader))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leader_is_recognised_by_its_process_and_without_one_by_its_address() {
        let address = |text: &str| text.parse::<Address>().unwrap();
        let leader = Leader {
            address: address("http://leader:7101"),
            process: 7,
        };
        let suspect = |text, process| Suspect {
            address: address(text),
            process,
        };
        assert!(suspect("http://alias:1", Some(7)).is(&leader));
        assert!(!suspect("http://leader:7101", Some(6)).is(&leader));
        assert!(suspect("http://leader:7101", None).is(&leader));
        assert!(!suspect("http://alias:1", None).is(&leader));
    }
}
