//! Invariant 10: a (session, sequence) takes effect once, and only for the session's opener. Every learner judges each
//! command the same.

use std::collections::{BTreeMap, BTreeSet};

use paxos_common::paxos::{
    command::{Command, Opener, Operation},
    machine::{Judgement, Outcome},
    slot::Version,
};

/// The fate of every command of a session.
#[derive(Default)]
pub(crate) struct Retries {
    judged: BTreeMap<Version, Judgement>,
    openers: BTreeMap<Version, Opener>,
    /// The position and the outcome of each executed sequence.
    executed: BTreeMap<(Version, u64), (Version, Outcome)>,
    /// Sequences with a known outcome at the client, or given up by the client.
    resolved: BTreeSet<(Version, u64)>,
    duplicates: u64,
    late: u64,
    foreign: u64,
}

impl Retries {
    /// A client has learned the outcome of a sequence, or has given up.
    pub(crate) fn resolved(&mut self, session: Version, sequence: u64) {
        self.resolved.insert((session, sequence));
    }

    /// A learner has applied a command.
    pub(crate) fn judged(&mut self, version: Version, command: &Command, judgement: Judgement) {
        if let Some(&before) = self.judged.get(&version) {
            assert_eq!(
                before, judgement,
                "two learners judge the command at {version} differently"
            );
            return;
        }
        self.judged.insert(version, judgement);
        if let Operation::OpenSession { opener: Some(opener) } = command.operation {
            self.openers.insert(version, opener);
        }
        let Some(stamp) = command.session else {
            assert!(
                matches!(judgement, Judgement::Executed(_)),
                "the command at {version} belongs to no session, and was skipped: {judgement:?}"
            );
            return;
        };
        let of = (stamp.session, stamp.sequence);
        let opener = self.openers.get(&stamp.session).copied();
        assert_eq!(
            judgement == Judgement::Foreign,
            opener.is_some() && opener != stamp.opener,
            "the command at {version} states one opener, and session {} has another, or it was skipped for that: {judgement:?}",
            stamp.session
        );
        match judgement {
            Judgement::Executed(outcome) => {
                let before = self.executed.insert(of, (version, outcome));
                assert_eq!(
                    before, None,
                    "sequence {} of session {} took effect twice, the second time at {version}",
                    stamp.sequence, stamp.session
                );
            }
            Judgement::Duplicate { first, outcome } => {
                assert_eq!(
                    self.executed.get(&of),
                    Some(&(first, outcome)),
                    "sequence {} of session {} is skipped at {version} as a duplicate of what it is not",
                    stamp.sequence,
                    stamp.session
                );
                self.duplicates += 1;
            }
            Judgement::Acknowledged => {
                assert!(
                    self.resolved.contains(&of),
                    "sequence {} of session {} is skipped at {version}, and its client waits for the outcome",
                    stamp.sequence,
                    stamp.session
                );
                self.late += 1;
            }
            Judgement::Foreign => self.foreign += 1,
            Judgement::Expired => panic!("session {} is in use, and expired", stamp.session),
        }
    }

    /// Number of retries skipped as duplicates.
    pub(crate) fn duplicates(&self) -> u64 {
        self.duplicates
    }

    /// Number of commands skipped because a client other than the opener sent the command.
    pub(crate) fn foreign(&self) -> u64 {
        self.foreign
    }

    /// Number of retries that came after the client knew the outcome or had given up.
    pub(crate) fn late(&self) -> u64 {
        self.late
    }
}
