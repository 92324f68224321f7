//! Selects the witnesses (a leader's memory of the acceptors) for one stream: the changes, and periodically all
//! witnesses.

use std::time::Duration;

use paxos_common::paxos::{ballot::Ballot, witness::Witnesses};
use tokio::time::Instant;

/// Interval of passing on changes to an acceptor.
const CHANGES_INTERVAL: Duration = Duration::from_millis(50);

/// Interval of passing on all witnesses. A message may fail to be granted; its witnesses are then not stored.
const WHOLE_INTERVAL: Duration = Duration::from_secs(1);

/// The witnesses sent on a stream since the opening.
#[derive(Debug, Default)]
pub(crate) struct Witnessing {
    /// The ballot of the carrying messages. At a different ballot the acceptor's state may differ.
    ballot: Ballot,
    sent: Witnesses,
    sent_at: Option<Instant>,
    whole_at: Option<Instant>,
}

impl Witnessing {
    /// The witnesses for a message at this ballot; empty most of the time. `all` returns all remembered witnesses.
    pub(crate) fn due(&mut self, now: Instant, ballot: Ballot, all: impl FnOnce() -> Witnesses) -> Witnesses {
        if self.ballot != ballot {
            *self = Self {
                ballot,
                ..Self::default()
            };
        }
        let has_passed = |at: Option<Instant>, interval| at.is_none_or(|at| now - at >= interval);
        if !has_passed(self.sent_at, CHANGES_INTERVAL) {
            return Witnesses::default();
        }
        self.sent_at = Some(now);
        let all = all();
        let due = if has_passed(self.whole_at, WHOLE_INTERVAL) {
            self.whole_at = Some(now);
            all.clone()
        } else {
            all.beyond(&self.sent)
        };
        self.sent = all;
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use paxos_common::paxos::{
        ballot::ProposerId,
        identity::{AcceptorUuid, CommitCounter, RunNumber},
    };

    fn witnesses(of: &[(u128, u64)]) -> Witnesses {
        let witness = |&(acceptor, counter)| {
            let run = RunNumber::from_random(1);
            (
                AcceptorUuid::from_u128(acceptor),
                run,
                CommitCounter::new(counter),
            )
        };
        of.iter().map(witness).collect()
    }

    #[test]
    fn changes_go_alone_and_all_goes_first_and_after_a_while() {
        let ballot = |round| Ballot::new(round, ProposerId::from_random(1)).unwrap();
        let begin = Instant::now();
        let at = |millis| begin + Duration::from_millis(millis);
        let mut stream = Witnessing::default();
        let none = Witnesses::default();
        let all = witnesses(&[(1, 5), (2, 7)]);
        assert_eq!(stream.due(at(0), ballot(1), || all.clone()), all);
        assert_eq!(
            stream.due(at(60), ballot(1), || all.clone()),
            none,
            "nothing changed"
        );
        let changed = witnesses(&[(1, 5), (2, 8)]);
        assert_eq!(
            stream.due(at(70), ballot(1), || changed.clone()),
            none,
            "too soon"
        );
        let news = witnesses(&[(2, 8)]);
        assert_eq!(stream.due(at(120), ballot(1), || changed.clone()), news);
        assert_eq!(stream.due(at(180), ballot(1), || changed.clone()), none);
        assert_eq!(
            stream.due(at(300), ballot(2), || changed.clone()),
            changed,
            "another ballot"
        );
        assert_eq!(stream.due(at(1_200), ballot(2), || changed.clone()), none);
        assert_eq!(
            stream.due(at(1_300), ballot(2), || changed.clone()),
            changed,
            "a second later"
        );
    }
}
