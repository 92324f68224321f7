//! Commands whose forwarding found no leader: handed in again after a growing delay, or at once when another proposer
//! leads.

use std::{sync::Arc, time::Duration};

use paxos_common::{
    paxos::proposer::{Pending, RequestId},
    peer::Backoff,
};
use tokio::time::Instant;

/// Upper bound of the delay between two attempts, without the jitter.
const DELAY_MAX: Duration = Duration::from_millis(500);

/// The commands, and the time of their next attempt.
#[derive(Debug)]
pub(crate) struct Returned {
    commands: Vec<Pending>,
    bytes: usize,
    /// The leader's address when the first of the commands returned.
    leader: Option<Arc<str>>,
    hand_in_at: Option<Instant>,
    backoff: Backoff,
}

impl Returned {
    /// The first delay is `delay_min`.
    pub(crate) fn new(delay_min: Duration) -> Self {
        Self {
            commands: Vec::new(),
            bytes: 0,
            leader: None,
            hand_in_at: None,
            backoff: Backoff::new(delay_min.min(DELAY_MAX), DELAY_MAX),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.commands.is_empty()
    }

    /// Bytes of the commands.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Time of the next attempt; `None` when no command waits.
    pub(crate) fn hand_in_at(&self) -> Option<Instant> {
        self.hand_in_at
    }

    /// Keeps a command. `leader`: the leader's address as known now.
    pub(crate) fn add(&mut self, command: Pending, leader: Option<Arc<str>>, now: Instant) {
        self.bytes += command.command.as_bytes().len();
        self.commands.push(command);
        if self.hand_in_at.is_none() {
            self.leader = leader;
            self.hand_in_at = Some(now + self.backoff.next_delay());
        }
    }

    /// A leader has answered: the next delay is the shortest one.
    pub(crate) fn answered(&mut self) {
        self.backoff.reset();
    }

    /// Removes a command whose caller has gone. Returns whether the command was here.
    pub(crate) fn remove(&mut self, request: RequestId) -> bool {
        let Some(at) = self
            .commands
            .iter()
            .position(|command| command.request == request)
        else {
            return false;
        };
        self.bytes -= self.commands.remove(at).command.as_bytes().len();
        if self.commands.is_empty() {
            self.hand_in_at = None;
        }
        true
    }

    /// Takes the commands due for another attempt: all of them, or none. `leader`: the leader's address as known now.
    pub(crate) fn due(&mut self, leader: impl FnOnce() -> Option<Arc<str>>, now: Instant) -> Vec<Pending> {
        let Some(at) = self.hand_in_at else {
            return Vec::new();
        };
        if now < at {
            if leader() == self.leader {
                return Vec::new();
            }
            self.backoff.reset();
        }
        self.take()
    }

    /// Takes all commands.
    pub(crate) fn take(&mut self) -> Vec<Pending> {
        self.hand_in_at = None;
        self.bytes = 0;
        std::mem::take(&mut self.commands)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use paxos_common::paxos::{proposer::RequestId, value::EncodedCommand};

    use super::*;

    fn command() -> Pending {
        Pending::new(
            RequestId(1),
            EncodedCommand::from_batch_of_one(Bytes::from_static(b"c")),
        )
    }

    fn leader(address: &str) -> Option<Arc<str>> {
        Some(address.into())
    }

    /// Delay of the next attempt, taken when due.
    fn attempt(returned: &mut Returned, now: &mut Instant) -> Duration {
        returned.add(command(), leader("a"), *now);
        let at = returned.hand_in_at().unwrap();
        let delay = at - *now;
        *now = at;
        assert_eq!(returned.due(|| leader("a"), at).len(), 1);
        delay
    }

    #[test]
    fn attempts_at_an_address_without_an_answer_become_rare() {
        let (mut returned, mut now) = (Returned::new(Duration::from_millis(25)), Instant::now());
        assert!(attempt(&mut returned, &mut now) <= Duration::from_millis(50));
        let total: Duration = (0..20).map(|_| attempt(&mut returned, &mut now)).sum();
        assert!(total > Duration::from_secs(7), "{total:?}");
        returned.answered();
        assert!(attempt(&mut returned, &mut now) <= Duration::from_millis(50));
    }

    #[test]
    fn new_leader_gets_the_commands_at_once() {
        let (mut returned, now) = (Returned::new(Duration::from_millis(25)), Instant::now());
        returned.add(command(), leader("a"), now);
        assert!(returned.due(|| leader("a"), now).is_empty());
        assert_eq!(returned.due(|| leader("b"), now).len(), 1);
        assert!(returned.is_empty() && returned.hand_in_at().is_none());
    }

    #[test]
    fn late_return_from_the_former_leader_delays_no_other_command() {
        let (mut returned, now) = (Returned::new(Duration::from_millis(25)), Instant::now());
        returned.add(command(), leader("a"), now);
        returned.add(command(), leader("b"), now);
        assert_eq!(returned.due(|| leader("b"), now).len(), 2);
    }

    #[test]
    fn removed_command_frees_its_bytes() {
        let (mut returned, now) = (Returned::new(Duration::from_millis(25)), Instant::now());
        returned.add(command(), None, now);
        assert_eq!(returned.bytes(), 1);
        assert!(returned.remove(RequestId(1)) && !returned.remove(RequestId(1)));
        assert_eq!((returned.bytes(), returned.hand_in_at()), (0, None));
    }
}
