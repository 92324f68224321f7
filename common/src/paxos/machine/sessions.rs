//! Sessions: what has been carried out for each client, so that a retry takes effect once.
//!
//! A command that belongs to a session carries the session's name, a *sequence* that its retries keep, and
//! `acked_below`: the client has read, or gave up, the outcome of every sequence below it. When a command's turn comes:
//!
//! - its session is unknown or has expired: it is skipped, and its client told;
//! - its session has an opener, and the command states another or none: it is skipped, as if it had never come up;
//! - its sequence is below the highest `acked_below` that came in: skipped, there is no outcome any more;
//! - its sequence is recorded: skipped, the first outcome stands;
//! - else it is carried out and recorded.
//!
//! “Skip what is at or below the highest sequence” would be wrong: commands 5 and 6 of one client may be applied as 6, 5.
//!
//! What is held is bounded by constants that belong to the stored format. All learners must agree on who has expired,
//! so these can never be settings.

use std::collections::{BTreeMap, BTreeSet};

use super::{Judgement, Outcome};
use crate::paxos::{
    command::{Opener, SessionStamp},
    slot::{Slot, Version},
};

/// A session expires when so many slots pass without a command of its.
pub const IDLE_SLOTS_MAX: u64 = 1 << 20;

/// Most sessions at a time (inclusive): one more, and the one expires that was not used for longest.
pub const SESSIONS_MAX: usize = 1 << 16;

/// Most outcomes recorded in all sessions together (inclusive): one more, and the session expires that was not used for
/// longest.
pub const RECORDED_MAX: usize = 1 << 20;

/// One client's commands.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Session {
    /// Who may use it; `None`: every caller. A caller that knows the name of such a session can state no opener as well,
    /// so commands that state one are taken too.
    pub opener: Option<Opener>,
    /// The latest command of the session, or its opening.
    pub last_used: Version,
    /// The highest that came in.
    pub acked_below: u64,
    /// By sequence, from `acked_below` on: what was carried out.
    pub recorded: BTreeMap<u64, Recorded>,
}

impl Session {
    /// Whether a stamp does not state the session's opener.
    pub fn is_foreign(&self, stamp: SessionStamp) -> bool {
        self.opener.is_some() && self.opener != stamp.opener
    }
}

/// A command that was carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Recorded {
    /// Which.
    pub version: Version,
    /// What it did.
    pub outcome: Outcome,
}

/// Whether a command is to be carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admission {
    New,
    Skipped(Judgement),
}

/// All sessions that have not expired.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Sessions {
    open: BTreeMap<Version, Session>,
    /// The name of each session by its last use. A command belongs to one session, so no two share one.
    by_use: BTreeMap<Version, Version>,
    /// Outcomes recorded in all of them.
    recorded: usize,
    /// Changed or expired since [`Sessions::take_changes`].
    changed: BTreeSet<Version>,
}

impl Sessions {
    pub(super) fn recovered(sessions: impl IntoIterator<Item = (Version, Session)>) -> Self {
        let open: BTreeMap<_, _> = sessions.into_iter().collect();
        let by_use: BTreeMap<_, _> = open
            .iter()
            .map(|(&name, session)| (session.last_used, name))
            .collect();
        assert_eq!(open.len(), by_use.len(), "a command belongs to one session");
        Self {
            recorded: open.values().map(|session| session.recorded.len()).sum(),
            open,
            by_use,
            changed: BTreeSet::new(),
        }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.open.len()
    }

    /// The session of that name, unless it is unknown or has expired.
    pub fn get(&self, name: Version) -> Option<&Session> {
        self.open.get(&name)
    }

    /// Those that nobody has used for too long expire before the slot is applied.
    pub(super) fn expire_idle(&mut self, slot: Slot) {
        while let Some((used, _)) = self.by_use.first_key_value()
            && slot.since(used.slot) > IDLE_SLOTS_MAX
        {
            self.expire_oldest();
        }
    }

    pub(super) fn open(&mut self, version: Version, opener: Option<Opener>) {
        let session = Session {
            opener,
            last_used: version,
            acked_below: 0,
            recorded: BTreeMap::new(),
        };
        self.open.insert(version, session);
        self.by_use.insert(version, version);
        self.changed.insert(version);
        while self.open.len() > SESSIONS_MAX {
            self.expire_oldest();
        }
    }

    /// Decides whether the command at `version` is to be carried out. To come up is to use the session, even when the
    /// command is skipped, unless the command is foreign.
    pub(super) fn admit(&mut self, version: Version, stamp: SessionStamp) -> Admission {
        let Some(session) = self.open.get_mut(&stamp.session) else {
            return Admission::Skipped(Judgement::Expired);
        };
        if session.is_foreign(stamp) {
            return Admission::Skipped(Judgement::Foreign);
        }
        self.by_use.remove(&session.last_used);
        self.by_use.insert(version, stamp.session);
        self.changed.insert(stamp.session);
        session.last_used = version;
        if stamp.acked_below > session.acked_below {
            session.acked_below = stamp.acked_below;
            let kept = session.recorded.split_off(&stamp.acked_below);
            self.recorded -= session.recorded.len();
            session.recorded = kept;
        }
        if stamp.sequence < session.acked_below {
            return Admission::Skipped(Judgement::Acknowledged);
        }
        match session.recorded.get(&stamp.sequence) {
            Some(&Recorded { version, outcome }) => Admission::Skipped(Judgement::Duplicate {
                first: version,
                outcome,
            }),
            None => Admission::New,
        }
    }

    /// Records what was admitted.
    pub(super) fn record(&mut self, version: Version, stamp: SessionStamp, outcome: Outcome) {
        // It is gone when its own command opened one session too many.
        let Some(session) = self.open.get_mut(&stamp.session) else {
            return;
        };
        session
            .recorded
            .insert(stamp.sequence, Recorded { version, outcome });
        self.recorded += 1;
        while self.recorded > RECORDED_MAX {
            self.expire_oldest();
        }
    }

    pub(super) fn take_changes(&mut self) -> Vec<(Version, Option<Session>)> {
        let changed = std::mem::take(&mut self.changed);
        changed
            .into_iter()
            .map(|name| (name, self.open.get(&name).cloned()))
            .collect()
    }

    fn expire_oldest(&mut self) {
        let Some((_, name)) = self.by_use.pop_first() else {
            return;
        };
        let expired = self.open.remove(&name);
        self.recorded -= expired.map_or(0, |session| session.recorded.len());
        self.changed.insert(name);
    }
}
