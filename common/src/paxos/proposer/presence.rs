//! Presence: which acceptors are there, as a candidate or leader sees them.
//!
//! An acceptor is *there* while bytes of its answers keep coming, and while it says that bytes from here keep coming to
//! it. Whether it has written anything is another question: an acceptor whose disk hangs is there.

use std::{collections::BTreeMap, time::Duration};

use super::{
    Phase, Proposer, Timer,
    challenge::patience,
    notice::{Absent, End, Late, Lateness},
};
use crate::paxos::identity::AcceptorUuid;

/// The least time without bytes after which an acceptor is not there: behind a slow link that others share, answers come
/// late. A leader that waits does no harm, because standbys judge by what acceptors hear.
const ABSENT_MIN: Duration = Duration::from_secs(2);

/// D: how long an acceptor may be silent, or deaf, and still be there.
pub(super) fn absent_after(leader_timeout: Duration) -> Duration {
    ABSENT_MIN.max(leader_timeout)
}

/// What the acceptors showed of themselves in this campaign and reign. All times are on the clock that stops while this
/// process stands still.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Presence {
    members: BTreeMap<AcceptorUuid, Seen>,
    /// When the campaign began.
    began: Duration,
    /// When this process went on last after it stood still: nobody could hear it before.
    resumed: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Seen {
    /// When bytes of an answer arrived last.
    bytes_at: Duration,
    /// How long it had heard nothing from here when it told last.
    silent: Duration,
    /// Age of its oldest undecided request when it told last.
    waiting: Duration,
    has_space: bool,
}

impl Presence {
    /// A campaign begins: those that are connected have until D to answer.
    pub(super) fn begin<'a>(&mut self, connected: impl Iterator<Item = &'a AcceptorUuid>, now: Duration) {
        self.began = now;
        self.members.clear();
        for &acceptor in connected {
            self.bytes(acceptor, now);
        }
    }

    /// Bytes of an answer arrived.
    pub(super) fn bytes(&mut self, acceptor: AcceptorUuid, now: Duration) {
        let seen = self.members.entry(acceptor).or_insert(Seen {
            bytes_at: now,
            silent: Duration::ZERO,
            waiting: Duration::ZERO,
            has_space: true,
        });
        seen.bytes_at = now;
    }

    /// A stream is open: what was told on an earlier one says nothing of it.
    pub(super) fn opened(&mut self, acceptor: AcceptorUuid, now: Duration) {
        self.members.remove(&acceptor);
        self.bytes(acceptor, now);
    }

    /// An acceptor tells that it is there.
    pub(super) fn alive(
        &mut self,
        acceptor: AcceptorUuid,
        (silent, waiting, has_space): (Duration, Duration, bool),
        now: Duration,
    ) {
        self.bytes(acceptor, now);
        if let Some(seen) = self.members.get_mut(&acceptor) {
            seen.silent = silent.min(now.saturating_sub(self.resumed));
            seen.waiting = waiting;
            seen.has_space = has_space;
        }
    }

    /// An answer says whether there is space on its sender's disk.
    pub(super) fn space(&mut self, acceptor: AcceptorUuid, has_space: bool) {
        if let Some(seen) = self.members.get_mut(&acceptor) {
            seen.has_space = has_space;
        }
    }

    /// This process stood still: what acceptors did not hear meanwhile is no fault of theirs.
    pub(super) fn resumed(&mut self, now: Duration) {
        self.resumed = now;
        for seen in self.members.values_mut() {
            seen.silent = Duration::ZERO;
        }
    }

    /// Why an acceptor is not there; `None` when it is.
    pub(super) fn absent(
        &self,
        acceptor: AcceptorUuid,
        now: Duration,
        absent_after: Duration,
    ) -> Option<Absent> {
        let Some(seen) = self.members.get(&acceptor) else {
            return Some(Absent::Silent(now.saturating_sub(self.began)));
        };
        let quiet = now.saturating_sub(seen.bytes_at);
        if quiet >= absent_after {
            Some(Absent::Silent(quiet))
        } else if seen.silent >= absent_after {
            Some(Absent::Deaf(seen.silent))
        } else {
            None
        }
    }

    /// Whether an acceptor told last that there is space on its disk.
    pub(super) fn has_space(&self, acceptor: AcceptorUuid) -> bool {
        self.members.get(&acceptor).is_some_and(|seen| seen.has_space)
    }

    /// What keeps an acceptor from voting in time, if anything does.
    pub(super) fn late(
        &self,
        acceptor: AcceptorUuid,
        now: Duration,
        (absent_after, late_after): (Duration, Duration),
    ) -> Option<Late> {
        let seen = self.members.get(&acceptor);
        let why = match (self.absent(acceptor, now, absent_after), seen) {
            (Some(absent), _) => Lateness::Absent(absent),
            (None, Some(seen)) if !seen.has_space => Lateness::NoSpace,
            (None, Some(seen)) if seen.waiting >= late_after => Lateness::Waiting(seen.waiting),
            (None, _) => return None,
        };
        Some(Late { acceptor, why })
    }
}

/// The least time until a candidate looks again whether a promise came.
const GIVE_UP_LOOK_MIN: Duration = Duration::from_millis(1);

impl Proposer {
    /// Bytes of pages or rows arrived.
    pub(super) fn bytes(&mut self, acceptor: AcceptorUuid) {
        if self.known.contains(&acceptor) && !matches!(self.phase, Phase::Standby) {
            let now = self.awake();
            self.presence.bytes(acceptor, now);
            self.promised_at = now;
        }
    }

    /// Gives way when too few acceptors are there: a leader needs votes, a candidate promises as well.
    pub(super) fn judge(&mut self) {
        let quorums = self.electorate.quorums();
        let needed = match self.phase {
            Phase::Standby => return,
            Phase::Campaigning(_) => quorums.phase1().max(quorums.phase2()),
            Phase::Leading(_) => quorums.phase2(),
        };
        let (now, limit) = (self.awake(), absent_after(self.settings.leader_timeout));
        let members = self.electorate.members();
        let is_absent = |&member: &AcceptorUuid| Some((member, self.presence.absent(member, now, limit)?));
        let absent: Vec<(AcceptorUuid, Absent)> = members.iter().filter_map(is_absent).collect();
        if members.len() - absent.len() < needed {
            let led = matches!(self.phase, Phase::Leading(_));
            self.step_down(End::Alone { needed, absent });
            if led && matches!(self.phase, Phase::Standby) {
                // What waited has waited for the acceptors long enough. Another proposer may reach them.
                self.give_back();
            }
        }
    }

    /// Gives the campaign up if nothing of a promise came for too long. Late pages are no reason.
    pub(super) fn judge_campaign(&mut self) {
        let patience = patience(self.vain_campaigns);
        let lasted = self.awake().saturating_sub(self.promised_at);
        if lasted >= patience {
            self.vain_campaigns += 1;
            self.step_down(End::NoPromise(lasted));
        } else {
            // Clocks of drivers may be coarser than what is left, and the timer must not fire before the time has come.
            let left = (patience - lasted).max(GIVE_UP_LOOK_MIN);
            self.arm(Timer::GiveUp, left, left);
        }
    }

    /// Whether a value that comes in now would only wait: one waits already, and too few acceptors could vote for it.
    pub(super) fn is_blocked(&self) -> bool {
        let Phase::Leading(lead) = &self.phase else {
            return false;
        };
        let (now, limit) = (self.awake(), absent_after(self.settings.leader_timeout));
        let can_vote = |member: &&AcceptorUuid| {
            self.presence.has_space(**member) && self.presence.absent(**member, now, limit).is_none()
        };
        let able = self.electorate.members().iter().filter(can_vote).count();
        !lead.is_drained() && able < self.electorate.quorums().phase2()
    }
}
