//! The change of members that is under way, by the proposer that makes the change.

use std::collections::BTreeMap;

use bytes::Bytes;
use paxos_client::raw::ClusterReport;
use paxos_proto::v1::{
    AcceptorStatusResponse, ChangeMembersResponse, Configuration, Member, Membership, ProposerStatusResponse,
    change_members_response::Stage,
};
use serde_json::{Value, json};

use super::majority::{cluster_answer, cluster_id, era_of};
use crate::{
    json::{self, uint64},
    output::{hex, printable},
};

/// An acceptor of a change under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ChangedPlace {
    pub(crate) acceptor: Bytes,
    /// The operator's name; empty when unknown.
    name: String,
    address: String,
}

impl ChangedPlace {
    /// `acceptor-3 (c07e5a11) at http://acceptor-3:7001`.
    fn shown(&self) -> String {
        let digits: String = hex(&self.acceptor).chars().take(8).collect();
        let address = printable(&self.address);
        match &*self.name {
            "" => format!("{digits} at {address}"),
            name => format!("{} ({digits}) at {address}", printable(name)),
        }
    }

    fn json(&self) -> Value {
        json!({ "acceptor": hex(&self.acceptor), "name": self.name, "address": self.address })
    }
}

/// A change of members under way.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct PendingChange {
    /// The era that the change begins; `None`: the reporting proposer has an older release.
    era: Option<u64>,
    pub(crate) added: Vec<ChangedPlace>,
    pub(crate) removed: Vec<ChangedPlace>,
    /// Members that move, at the new addresses.
    moved: Vec<ChangedPlace>,
    /// The sizes of the new quorums, if other than now.
    quorums: Option<(u32, u32)>,
    /// The latest stage; `None` if no proposer makes the change.
    stage: Option<ChangeMembersResponse>,
    /// Members with the new configuration, and all members: a change in force without a leader.
    installed: Option<(usize, usize)>,
    /// Milliseconds since the request, if known.
    since_ms: Option<u64>,
    /// The address of the proposer that makes the change; empty without one.
    reported_by: String,
}

/// The change under way, if a process knows of one.
pub(super) fn pending(status: &ClusterReport) -> Option<PendingChange> {
    let present = cluster_answer(status)?;
    let of_cluster = |answer: &&ProposerStatusResponse| {
        answer.cluster_id.is_empty() || *answer.cluster_id == *cluster_id(present)
    };
    let answers = status
        .proposers
        .iter()
        .filter_map(|report| report.answer.as_ref().ok());
    let making = answers
        .filter(of_cluster)
        .filter(|answer| answer.change.is_some());
    // A deposed leader may still report its change.
    let latest = making.max_by_key(|answer| {
        let ballot = answer.ballot.unwrap_or_default();
        (ballot.era, ballot.round, ballot.proposer)
    });
    let names = names(status);
    match latest {
        Some(answer) => {
            let own = answer.configuration.as_ref();
            let now = own.or(present.configuration.as_ref())?;
            Some(PendingChange {
                stage: answer.change.clone(),
                since_ms: answer.change_ms,
                reported_by: answer.address.clone(),
                ..between(now, answer.change_to.as_ref(), &names)
            })
        }
        None => unfinished(status, present.configuration.as_ref()?, &names),
    }
}

/// The difference between the present configuration and the next.
fn between(
    now: &Configuration,
    next: Option<&Configuration>,
    names: &BTreeMap<Bytes, String>,
) -> PendingChange {
    let next_members = next.map_or(&[][..], |next| &next.members);
    let missing = |of: &Configuration, uuid: &Bytes| of.members.iter().all(|member| member.acceptor != *uuid);
    let place = |member: &Member| ChangedPlace {
        acceptor: member.acceptor.clone(),
        name: match names.get(&member.acceptor) {
            Some(name) if member.name.is_empty() => name.clone(),
            Some(_) | None => member.name.clone(),
        },
        address: member.address.clone(),
    };
    let moves = |member: &&Member| {
        let mut earlier = now.members.iter();
        earlier.any(|earlier| earlier.acceptor == member.acceptor && earlier.address != member.address)
    };
    let added = next_members
        .iter()
        .filter(|member| missing(now, &member.acceptor));
    let removed = now.members.iter();
    let removed = removed.filter(|member| next.is_some_and(|next| missing(next, &member.acceptor)));
    PendingChange {
        era: next.map(|next| next.era),
        added: added.map(place).collect(),
        removed: removed.map(place).collect(),
        moved: next_members.iter().filter(moves).map(place).collect(),
        quorums: next
            .map(|next| (next.phase1, next.phase2))
            .filter(|quorums| *quorums != (now.phase1, now.phase2)),
        stage: None,
        installed: None,
        since_ms: None,
        reported_by: String::new(),
    }
}

/// A change in force without a candidate in the new era: only some acceptors have the new configuration. The others still
/// have the configuration of the era before.
fn unfinished(
    status: &ClusterReport,
    latest: &Configuration,
    names: &BTreeMap<Bytes, String>,
) -> Option<PendingChange> {
    let is_promised = status.answers().any(|answer| {
        let promised = answer.leadership.as_ref().and_then(|known| known.promised);
        promised.is_some_and(|promised| promised.era == latest.era && promised.round > 0)
    });
    let is_member = |answer: &&AcceptorStatusResponse| {
        let stamp = answer.stamp.as_ref();
        stamp.is_some_and(|stamp| {
            latest
                .members
                .iter()
                .any(|member| member.acceptor == stamp.acceptor)
        })
    };
    let formed = status
        .answers()
        .filter(|answer| answer.membership() == Membership::Formed);
    let formed: Vec<_> = formed.collect();
    let earlier = formed
        .iter()
        .filter(|answer| era_of(answer) < latest.era)
        .filter_map(|answer| answer.configuration.as_ref());
    let earlier = earlier.max_by_key(|configuration| configuration.era);
    // After a promise in the new era, the change is made, and acceptors in the era before are late.
    let before = earlier.filter(|before| !is_promised && before.era + 1 == latest.era)?;
    let installed = formed
        .into_iter()
        .filter(is_member)
        .filter(|answer| era_of(answer) == latest.era);
    Some(PendingChange {
        installed: Some((installed.count(), latest.members.len())),
        ..between(before, Some(latest), names)
    })
}

/// The operators' names of the acceptors that answer.
fn names(status: &ClusterReport) -> BTreeMap<Bytes, String> {
    let named = status.answers().filter_map(|answer| {
        let stamp = answer.stamp.as_ref()?;
        Some((stamp.acceptor.clone(), answer.id.clone()))
    });
    named.collect()
}

impl PendingChange {
    /// One line: the time since the request, the acceptors, and the step.
    pub(crate) fn in_words(&self) -> String {
        let era = self.era.map_or_else(String::new, |era| format!(" to era {era}"));
        let since = self.since_ms.map(|millis| format!(" for {} s", millis / 1_000));
        let by = match &*self.reported_by {
            "" => String::new(),
            address => format!("; leader: {}", printable(address)),
        };
        format!(
            "change of members{era} under way{}: {}step: {}{by}",
            since.unwrap_or_default(),
            self.what(),
            self.step()
        )
    }

    /// The acceptors that come and go, and the new quorums.
    fn what(&self) -> String {
        let mut what = String::new();
        for (kind, places) in [
            ("coming", &self.added),
            ("going", &self.removed),
            ("new address", &self.moved),
        ] {
            let shown: Vec<_> = places.iter().map(ChangedPlace::shown).collect();
            if !shown.is_empty() {
                what += &format!("{kind}: {}; ", shown.join(", "));
            }
        }
        if let Some((phase1, phase2)) = self.quorums {
            what += &format!("new quorums: {phase1} to lead, {phase2} to choose; ");
        }
        what
    }

    /// The step, in the words of `paxos member`.
    fn step(&self) -> String {
        if let Some((installed, members)) = self.installed {
            return format!(
                "switching, {installed} of {members} members have the new configuration, and no leader is elected yet"
            );
        }
        match self.stage.as_ref().and_then(|answer| answer.stage.as_ref()) {
            Some(Stage::Copying(copying)) => {
                let percent = u128::from(copying.slots) * 100 / u128::from(copying.of.max(1));
                format!("copying {percent} % ({} of {} slots)", copying.slots, copying.of)
            }
            Some(Stage::Deciding(deciding)) => {
                let (accepted, of) = (deciding.accepted, deciding.of);
                format!("deciding, {accepted} of {of} new members have the change")
            }
            Some(Stage::Switching(_)) => "switching".to_owned(),
            Some(Stage::Done(_)) => "done".to_owned(),
            None => "in an unknown step".to_owned(),
        }
    }

    /// The name of the step for programs.
    fn step_name(&self) -> &'static str {
        match self.stage.as_ref().and_then(|answer| answer.stage.as_ref()) {
            _ if self.installed.is_some() => "switching",
            Some(Stage::Copying(_)) => "copying",
            Some(Stage::Deciding(_)) => "deciding",
            Some(Stage::Switching(_)) => "switching",
            Some(Stage::Done(_)) => "done",
            None => "unknown",
        }
    }

    /// Whether the change adds this acceptor.
    pub(crate) fn adds(&self, acceptor: &[u8]) -> bool {
        self.added.iter().any(|added| *added.acceptor == *acceptor)
    }

    /// Whether the change removes this acceptor.
    pub(crate) fn removes(&self, acceptor: &[u8]) -> bool {
        self.removed.iter().any(|removed| *removed.acceptor == *acceptor)
    }

    pub(crate) fn json(&self) -> Value {
        let places = |places: &[ChangedPlace]| places.iter().map(ChangedPlace::json).collect::<Vec<_>>();
        json!({
            "era": self.era.map(uint64),
            "added": places(&self.added),
            "removed": places(&self.removed),
            "moved": places(&self.moved),
            "phase1": self.quorums.map(|quorums| quorums.0),
            "phase2": self.quorums.map(|quorums| quorums.1),
            "step": self.step_name(),
            "progress": self.stage.as_ref().map(|stage| json::message("ChangeMembersResponse", stage)),
            "installed": self.installed.map(|installed| installed.0),
            "since_ms": self.since_ms.map(uint64),
            "proposer": self.reported_by,
        })
    }
}
