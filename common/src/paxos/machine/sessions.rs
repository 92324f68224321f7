//! Sessions: the executed commands of each client, so that a retry takes effect once.
//!
//! A command of a session carries the session's name, a *sequence* kept by all retries, and `acked_below`: the client
//! has read, or gave up, the outcome of every sequence below `acked_below`. When a command's turn comes:
//!
//! - The session is unknown or has expired: the command is skipped, and the client is notified.
//! - The session has an opener, and the command states a different opener or none: the command is skipped, as if it had
//!   never come up.
//! - The sequence is below the highest `acked_below` so far: the command is skipped, and the outcome is no longer
//!   known.
//! - The sequence is recorded: the command is skipped, and the first outcome stands.
//! - Otherwise the command is executed and recorded.
//!
//! “Skip every sequence up to the highest” would be wrong: commands 5 and 6 of a client may be applied as 6, 5.
//!
//! Constants of the stored format bound the kept state. All learners must agree on the expired sessions, so the
//! constants can never be settings.

use std::collections::BTreeMap;

use super::{
    Judgement, Outcome,
    digest::{DigestRecord, StateDigest},
    retained::Retained,
};
use crate::paxos::{
    command::{Opener, SessionStamp},
    slot::{Slot, Version},
};

/// A session expires after this many slots without a command of the session.
pub const IDLE_SLOTS_MAX: u64 = 1 << 20;

/// Limit of sessions at a time (inclusive). Beyond this limit the least recently used session expires.
pub const SESSIONS_MAX: usize = 1 << 16;

/// Limit of recorded outcomes in all sessions together (inclusive). Beyond this limit the least recently used session
/// expires.
pub const RECORDED_MAX: usize = 1 << 20;

/// A client's session.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SessionState {
    /// Who may use the session; `None`: every caller. A caller that knows the name of such a session can also state no
    /// opener, so commands with an opener are accepted too.
    pub opener: Option<Opener>,
    /// The latest command of the session, or its opening.
    pub last_used: Version,
    /// The highest `acked_below` so far.
    pub acked_below: u64,
    /// Executed commands by sequence, from `acked_below` on.
    pub recorded: BTreeMap<u64, Recorded>,
}

impl SessionState {
    /// Whether a stamp does not state the session's opener.
    pub fn is_foreign(&self, stamp: SessionStamp) -> bool {
        self.opener.is_some() && self.opener != stamp.opener
    }

    /// The session of this name alone, for the state digest.
    pub fn record(&self, name: Version) -> DigestRecord<'static> {
        DigestRecord::Session {
            name,
            last_used: self.last_used,
            acked_below: self.acked_below,
            opener: self.opener,
        }
    }

    /// The records of the session of this name: the session alone, then the recorded outcomes by sequence.
    pub fn records(&self, name: Version) -> impl Iterator<Item = DigestRecord<'_>> {
        let outcomes = self.recorded.iter();
        let outcomes = outcomes.map(move |(&sequence, recorded)| recorded.record(name, sequence));
        std::iter::once(self.record(name)).chain(outcomes)
    }
}

/// An executed command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Recorded {
    /// Version of the command.
    pub version: Version,
    /// Outcome of the command.
    pub outcome: Outcome,
}

impl Recorded {
    /// The outcome of this sequence of a session, for the state digest.
    pub fn record(&self, session: Version, sequence: u64) -> DigestRecord<'static> {
        DigestRecord::Outcome {
            session,
            sequence,
            version: self.version,
            outcome: self.outcome,
        }
    }
}

/// Whether to execute a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SessionDecision {
    New,
    Skipped(Judgement),
}

/// All sessions that have not expired.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct SessionTable {
    pub(super) open: BTreeMap<Version, SessionState>,
    /// The name of each session by last use. A command belongs to one session, so no two sessions share a last use.
    by_use: BTreeMap<Version, Version>,
    /// Number of recorded outcomes in all sessions.
    recorded: usize,
    /// Of all sessions and recorded outcomes.
    digest: StateDigest,
    pub(super) kept: Option<Retained<BTreeMap<Version, SessionState>>>,
}

impl SessionTable {
    /// Adds a stored session. Returns `false`, and changes nothing, if the name or the last use is present already.
    pub(super) fn restore(&mut self, name: Version, session: SessionState) -> bool {
        if self.open.contains_key(&name) || self.by_use.contains_key(&session.last_used) {
            return false;
        }
        session.records(name).for_each(|record| self.digest.add(&record));
        self.recorded += session.recorded.len();
        self.by_use.insert(session.last_used, name);
        self.open.insert(name, session);
        true
    }

    /// Number of sessions.
    pub fn count(&self) -> usize {
        self.open.len()
    }

    /// Number of recorded outcomes in all sessions.
    pub(super) fn recorded_count(&self) -> usize {
        self.recorded
    }

    /// The digest of all sessions and recorded outcomes.
    pub(super) fn digest(&self) -> StateDigest {
        self.digest
    }

    /// The session of this name; `None` if unknown or expired.
    pub fn get(&self, name: Version) -> Option<&SessionState> {
        self.open.get(&name)
    }

    /// Expires sessions unused for too long, before the slot is applied.
    pub(super) fn expire_idle(&mut self, slot: Slot) {
        while let Some((used, _)) = self.by_use.first_key_value()
            && slot.since(used.slot) > IDLE_SLOTS_MAX
        {
            self.expire_oldest();
        }
    }

    pub(super) fn open(&mut self, version: Version, opener: Option<Opener>) {
        let session = SessionState {
            opener,
            last_used: version,
            acked_below: 0,
            recorded: BTreeMap::new(),
        };
        self.digest.add(&session.record(version));
        self.open.insert(version, session);
        self.by_use.insert(version, version);
        while self.open.len() > SESSIONS_MAX {
            self.expire_oldest();
        }
    }

    /// Decides whether to execute the command at `version`. A skipped command uses the session too, unless the command
    /// is foreign.
    pub(super) fn admit(&mut self, version: Version, stamp: SessionStamp) -> SessionDecision {
        let Some(session) = self.open.get_mut(&stamp.session) else {
            return SessionDecision::Skipped(Judgement::Expired);
        };
        if session.is_foreign(stamp) {
            return SessionDecision::Skipped(Judgement::Foreign);
        }
        // Every change of a session begins here, and is the last use of the session.
        if let Some(kept) = &mut self.kept
            && session.last_used.slot < kept.to
        {
            kept.records.insert(stamp.session, session.clone());
        }
        self.by_use.remove(&session.last_used);
        self.by_use.insert(version, stamp.session);
        self.digest.remove(&session.record(stamp.session));
        session.last_used = version;
        if stamp.acked_below > session.acked_below {
            session.acked_below = stamp.acked_below;
            let kept = session.recorded.split_off(&stamp.acked_below);
            let acknowledged = std::mem::replace(&mut session.recorded, kept);
            self.recorded -= acknowledged.len();
            for (sequence, recorded) in &acknowledged {
                self.digest.remove(&recorded.record(stamp.session, *sequence));
            }
        }
        self.digest.add(&session.record(stamp.session));
        if stamp.sequence < session.acked_below {
            return SessionDecision::Skipped(Judgement::Acknowledged);
        }
        match session.recorded.get(&stamp.sequence) {
            Some(&Recorded { version, outcome }) => SessionDecision::Skipped(Judgement::Duplicate {
                first: version,
                outcome,
            }),
            None => SessionDecision::New,
        }
    }

    /// Records the outcome of an admitted command.
    pub(super) fn record(&mut self, version: Version, stamp: SessionStamp, outcome: Outcome) {
        // The session is gone if its own command opened one session too many.
        let Some(session) = self.open.get_mut(&stamp.session) else {
            return;
        };
        let recorded = Recorded { version, outcome };
        self.digest.add(&recorded.record(stamp.session, stamp.sequence));
        session.recorded.insert(stamp.sequence, recorded);
        self.recorded += 1;
        while self.recorded > RECORDED_MAX {
            self.expire_oldest();
        }
    }

    fn expire_oldest(&mut self) {
        let Some((_, name)) = self.by_use.pop_first() else {
            return;
        };
        if let Some(expired) = self.open.remove(&name) {
            self.recorded -= expired.recorded.len();
            expired
                .records(name)
                .for_each(|record| self.digest.remove(&record));
            if let Some(kept) = &mut self.kept
                && expired.last_used.slot < kept.to
            {
                kept.records.insert(name, expired);
            }
        }
    }
}
