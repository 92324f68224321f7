//! Presence: which acceptors are present, as seen by a candidate or leader.
//!
//! An acceptor is *present* while bytes of its answers keep arriving here, and while it reports that bytes from here
//! keep arriving there. Completed writes do not matter: an acceptor with a hung disk is present.

use std::{collections::BTreeMap, time::Duration};

use super::{
    Phase, Proposer, Timer,
    notice::{Absent, End, Late, Lateness},
    patience::patience,
};
use crate::paxos::identity::AcceptorUuid;

/// Least time without bytes after which an acceptor is absent: behind a slow shared link, answers come late. A waiting
/// leader does no harm, because standbys judge by the bytes heard by acceptors.
const ABSENT_MIN: Duration = Duration::from_secs(2);

/// D: an acceptor silent or deaf for this long is absent.
pub(super) fn absent_after(leader_timeout: Duration) -> Duration {
    ABSENT_MIN.max(leader_timeout)
}

/// Observations of the acceptors in this campaign and reign. All times are on a clock that stops while this process is
/// paused.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Presence {
    members: BTreeMap<AcceptorUuid, MemberPresence>,
    /// When the campaign began.
    began: Duration,
    /// When this process last resumed after a pause: no acceptor could hear this process during the pause.
    resumed: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct MemberPresence {
    /// When bytes of an answer last arrived.
    bytes_at: Duration,
    /// Last reported time without bytes from here.
    silent: Duration,
    /// Last reported age of the oldest undecided request.
    waiting: Duration,
    has_space: bool,
}

impl Presence {
    /// A campaign begins: connected acceptors have until D to answer.
    pub(super) fn begin<'a>(&mut self, connected: impl Iterator<Item = &'a AcceptorUuid>, now: Duration) {
        self.began = now;
        self.members.clear();
        for &acceptor in connected {
            self.bytes(acceptor, now);
        }
    }

    /// Time since the campaign began.
    pub(super) fn lasted(&self, now: Duration) -> Duration {
        now.saturating_sub(self.began)
    }

    /// Bytes of an answer arrived.
    pub(super) fn bytes(&mut self, acceptor: AcceptorUuid, now: Duration) {
        let seen = self.members.entry(acceptor).or_insert(MemberPresence {
            bytes_at: now,
            silent: Duration::ZERO,
            waiting: Duration::ZERO,
            has_space: true,
        });
        seen.bytes_at = now;
    }

    /// A stream is open: reports on an earlier stream say nothing about the new stream.
    pub(super) fn opened(&mut self, acceptor: AcceptorUuid, now: Duration) {
        self.members.remove(&acceptor);
        self.bytes(acceptor, now);
    }

    /// An acceptor reports its presence.
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

    /// An answer shows whether its sender's disk has space.
    pub(super) fn space(&mut self, acceptor: AcceptorUuid, has_space: bool) {
        if let Some(seen) = self.members.get_mut(&acceptor) {
            seen.has_space = has_space;
        }
    }

    /// This process was paused: silence during the pause is not the acceptors' fault.
    pub(super) fn resumed(&mut self, now: Duration) {
        self.resumed = now;
        for seen in self.members.values_mut() {
            seen.silent = Duration::ZERO;
        }
    }

    /// Why an acceptor is absent; `None` if the acceptor is present.
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

    /// Whether the acceptor's last report showed space on the disk.
    pub(super) fn has_space(&self, acceptor: AcceptorUuid) -> bool {
        self.members.get(&acceptor).is_some_and(|seen| seen.has_space)
    }

    /// Why an acceptor cannot vote in time; `None` without such a reason.
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

/// Least time until a candidate checks again for a promise.
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

    /// Steps down when too few acceptors are present: a leader needs votes, a candidate needs promises as well.
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
                // The waiting commands have waited long enough. Another proposer may reach the acceptors.
                self.give_back();
            }
        }
    }

    /// Gives up the campaign if no part of a promise came for too long. Late pages are no reason.
    pub(super) fn judge_campaign(&mut self) {
        let patience = patience(self.vain_campaigns);
        let lasted = self.awake().saturating_sub(self.promised_at);
        if lasted >= patience {
            self.vain_campaigns += 1;
            let contested = match &self.phase {
                Phase::Campaigning(campaign) => campaign.contested(&self.electorate),
                Phase::Standby | Phase::Leading(_) => None,
            };
            let why = contested.map(|(slot, awaited)| End::Contested { slot, awaited });
            self.step_down(why.unwrap_or(End::NoPromise(lasted)));
        } else {
            // A driver's clock may be coarser than the remaining time, and the timer must not fire early.
            let left = (patience - lasted).max(GIVE_UP_LOOK_MIN);
            self.arm(Timer::GiveUp, left, left);
        }
    }

    /// Whether bytes of an acceptor arrive, and the acceptor hears this proposer.
    pub(super) fn is_present(&self, acceptor: AcceptorUuid) -> bool {
        let limit = absent_after(self.settings.leader_timeout);
        self.presence.absent(acceptor, self.awake(), limit).is_none()
    }

    /// Whether a new value would only wait: an earlier value already waits, and too few acceptors could vote.
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
