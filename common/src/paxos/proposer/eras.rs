//! Eras: a proposer adopts the latest configuration in force.
//!
//! A proposer gets a later configuration in an acceptor's answer to `Form`, or by putting a change in force. A ballot of a later
//! era, in a report or a rejection, says only that a later configuration exists. The proposer then opens the link to this
//! acceptor again, and asks for the configuration. Nothing else of such a message is used. Until the proposer has the later
//! configuration, the proposer goes on in its own era with the other acceptors: votes and promises of this era keep their value.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::{
    Challenge, Effect, ElectionStage, End, Notice, Phase, Presence, Proposer, Timer, Why,
    halt::two_of_one_era, streams::AcceptStreams,
};
use crate::paxos::{ballot::Ballot, identity::AcceptorUuid, quorum::Configuration};

/// How long removed acceptors keep their links, so that they hear of the change.
const LEAVING_TIME: Duration = Duration::from_secs(2);

/// Members removed by the last change, until they have heard of the change.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Leaving {
    acceptors: BTreeMap<AcceptorUuid, Arc<str>>,
    until: Duration,
}

impl Proposer {
    /// The configuration that this proposer works with: the latest in force that it has heard of.
    pub fn configuration(&self) -> &Arc<Configuration> {
        &self.configuration
    }

    /// The acceptors to keep a link with, and their addresses: the members, joiners and all members of a proposed change, and
    /// for some time the members removed by the last change.
    pub fn links(&self) -> BTreeMap<AcceptorUuid, Arc<str>> {
        let mut links = self.leaving.acceptors.clone();
        let asked = self.change.as_ref().map(|change| &change.configuration);
        let found = match &self.phase {
            Phase::Leading(lead) => lead.change().map(|(_, configuration)| configuration),
            Phase::Standby | Phase::Campaigning(_) => None,
        };
        for configuration in asked.into_iter().chain(found).chain([&self.configuration]) {
            let members = configuration.members().iter();
            links.extend(members.map(|(&uuid, member)| (uuid, Arc::clone(&member.address))));
        }
        links
    }

    /// Whether this proposer keeps a link with an acceptor.
    pub(super) fn follows(&self, acceptor: AcceptorUuid) -> bool {
        self.electorate.includes(acceptor)
            || self.leaving.acceptors.contains_key(&acceptor)
            || self.is_of_change(acceptor)
    }

    /// Whether an acceptor is a member of the change that this proposer prepares, proposed or found.
    pub(super) fn is_of_change(&self, acceptor: AcceptorUuid) -> bool {
        let asked = self.change.as_ref().map(|change| &change.configuration);
        asked.is_some_and(|asked| asked.members().contains_key(&acceptor)) || self.votes_in_change(acceptor)
    }

    /// Whether the votes of an acceptor count for the change that this leader has proposed.
    pub(super) fn votes_in_change(&self, acceptor: AcceptorUuid) -> bool {
        let Phase::Leading(lead) = &self.phase else {
            return false;
        };
        let change = lead.change();
        change.is_some_and(|(_, configuration)| configuration.members().contains_key(&acceptor))
    }

    /// An acceptor holds the configuration of a later era, so this configuration is in force.
    pub(super) fn heard_configuration(&mut self, configuration: &Arc<Configuration>) {
        let is_ours = configuration.cluster_id() == self.configuration.cluster_id();
        if is_ours
            && configuration.era() == self.configuration.era()
            && !configuration.same_cluster(&self.configuration)
        {
            self.effects
                .push(Effect::Halt(two_of_one_era(configuration.era())));
        } else if is_ours && configuration.era() > self.configuration.era() {
            if let Some(ballot) = self.ballot() {
                self.notice_era(ballot, configuration);
                self.shut_streams(ballot);
            }
            self.leave_phase();
            self.refuse_forwarded();
            self.adopt(Arc::clone(configuration));
            self.change_adopted();
            if self.stopping {
                self.effects.push(Effect::HandedOver);
            }
            self.consider();
        }
    }

    /// Puts this leader's change in force, once the three conditions hold (`lead/change`): installs the configuration at the
    /// acceptors of both configurations, and campaigns in the next era at once.
    pub(super) fn put_in_force(&mut self) {
        let Phase::Leading(lead) = &self.phase else {
            return;
        };
        let Some(configuration) = lead.in_force(&self.electorate).cloned() else {
            return;
        };
        let ballot = lead.ballot();
        self.notice_era(ballot, &configuration);
        self.leave_phase();
        if self.stopping {
            self.shut_streams(ballot);
            self.refuse_forwarded();
            self.adopt(configuration);
            self.change_adopted();
            self.effects.push(Effect::HandedOver);
            return;
        }
        // Acceptors hear the streams of this reign until the next streams are open, so that no standby campaigns meanwhile.
        self.old_streams = Some(ballot);
        let connected = self.open.clone();
        self.adopt(configuration);
        self.change_adopted();
        self.campaign(Why::Changed);
        // The switch itself has closed the links, and the links are opened again at once. So the acceptors connected until now
        // have as long to answer as connected acceptors.
        let now = self.awake();
        self.presence.begin(connected.iter(), now);
    }

    fn notice_era(&mut self, ballot: Ballot, configuration: &Configuration) {
        let led = matches!(self.phase, Phase::Leading(_));
        let why = End::LaterEra(configuration.era());
        let notice = Notice::SteppedDown { ballot, led, why };
        self.effects.push(Effect::Notify(notice));
    }

    /// Begins a later era, as a standby. What was heard in the era before is dropped, except watermarks and runs: both are
    /// facts.
    fn adopt(&mut self, configuration: Arc<Configuration>) {
        let members = self.configuration.members().iter();
        let removed = members.filter(|(uuid, _)| !configuration.members().contains_key(uuid));
        self.leaving = Leaving {
            acceptors: removed
                .map(|(&uuid, member)| (uuid, Arc::clone(&member.address)))
                .collect(),
            until: self.now + LEAVING_TIME,
        };
        self.electorate = configuration.electorate();
        self.configuration = Arc::clone(&configuration);
        self.highest = Ballot::before(configuration.era());
        let is_member = |acceptor| configuration.members().contains_key(&acceptor);
        self.guard.adopt(configuration.quorums(), is_member);
        self.reports.clear();
        self.open.clear();
        self.known.clear();
        self.counted.clear();
        self.streams = AcceptStreams::default();
        self.presence = Presence::default();
        for timer in [Timer::Election, Timer::Challenge] {
            self.disarm(timer);
        }
        self.election = ElectionStage::Idle;
        self.challenge = Challenge::default();
        self.inquiry.forget();
        self.forwarded.clear();
        self.failures = 0;
        self.vain_campaigns = 0;
        self.effects.push(Effect::Adopted(configuration));
    }

    /// Ends the links of removed members after their time.
    pub(super) fn forget_leavers(&mut self) {
        if !self.leaving.acceptors.is_empty() && self.now >= self.leaving.until {
            let gone = std::mem::take(&mut self.leaving.acceptors);
            for acceptor in gone.into_keys() {
                if !self.follows(acceptor) {
                    self.unfollow(acceptor);
                }
            }
            self.effects.push(Effect::LinksChanged);
        }
    }

    /// The link to an acceptor is given up. What it reported counts for no later change.
    pub(super) fn unfollow(&mut self, acceptor: AcceptorUuid) {
        self.known.remove(&acceptor);
        self.counted.remove(&acceptor);
        self.closed(acceptor);
        self.streams.forget(acceptor);
        if let Phase::Leading(lead) = &mut self.phase {
            lead.closed(acceptor);
        }
    }

    /// Opens the link to an acceptor again, to ask for its configuration, or to install ours.
    pub(super) fn reopen(&mut self, acceptor: AcceptorUuid) {
        if self.open.contains(&acceptor) {
            self.known.remove(&acceptor);
            self.closed(acceptor);
            self.effects.push(Effect::Reopen(acceptor));
        }
    }
}
