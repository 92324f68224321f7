//! The next configuration of a cluster, from an operator's request: made, or refused with the reason and the remedy. The
//! leader's core checks the rules of the protocol again; here are the rules for people.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use paxos_common::{
    paxos::{
        acceptor::Membership,
        era::{CHANGES_VERSION, Era},
        identity::AcceptorUuid,
        proposer::ChangeStage,
        quorum::{Configuration, InvalidConfiguration, MEMBER_NAME_BYTES_MAX, MemberEntry, majority},
    },
    peer::Address,
};

mod denied;

pub(crate) use denied::ChangeDenied;

/// An acceptor to add.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Added {
    pub(crate) address: Address,
    /// The acceptor that the operator has seen there; `None`: any.
    pub(crate) acceptor: Option<AcceptorUuid>,
}

/// A request for other members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AskedMembers {
    /// The era that the operator has seen.
    pub(crate) era: Era,
    pub(crate) remove: BTreeSet<AcceptorUuid>,
    pub(crate) add: Vec<Added>,
    /// The sizes of the quorums; `None`: majorities.
    pub(crate) quorums: Option<(usize, usize)>,
    /// Makes also a change that leaves no acceptor to spare.
    pub(crate) force: bool,
}

/// An acceptor's answer to `Form`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AcceptorForm {
    pub(crate) acceptor: AcceptorUuid,
    /// The operator's name for the acceptor.
    pub(crate) name: String,
    pub(crate) membership: Membership,
    pub(crate) protocol_version: u32,
}

/// What the leader knows for the check of a request.
#[derive(Debug)]
pub(crate) struct Known<'a> {
    pub(crate) present: &'a Configuration,
    /// The acceptors that the leader counts, with the operator's names.
    pub(crate) counted: &'a BTreeMap<AcceptorUuid, Arc<str>>,
    /// The acceptors that went back on their disks.
    pub(crate) refused: &'a BTreeSet<AcceptorUuid>,
    /// The protocol versions of the members that answer.
    pub(crate) versions: &'a BTreeMap<AcceptorUuid, u32>,
    /// Attached peers with an older protocol, in words.
    pub(crate) outdated: &'a [String],
}

impl AskedMembers {
    /// The next configuration. `joiners`: the answers of the added acceptors, in the order of `add`.
    pub(crate) fn next(
        &self,
        known: &Known<'_>,
        joiners: Vec<Result<AcceptorForm, String>>,
    ) -> Result<Configuration, ChangeDenied> {
        let present = known.present;
        if self.era != present.era() {
            let (present, asked) = (present.era(), self.era);
            return Err(ChangeDenied::OtherEra { present, asked });
        }
        let unknown = self
            .remove
            .iter()
            .find(|removed| !present.members().contains_key(removed));
        if let Some(unknown) = unknown {
            return Err(ChangeDenied::NoMember(short(*unknown)));
        }
        let mut members: BTreeMap<AcceptorUuid, MemberEntry> = BTreeMap::new();
        for (&uuid, member) in present.members() {
            if !self.remove.contains(&uuid) {
                let name = known.counted.get(&uuid).filter(|name| !name.is_empty());
                let name = name.map_or_else(|| Arc::clone(&member.name), |name| name_of(name));
                let address = Arc::clone(&member.address);
                members.insert(uuid, MemberEntry { address, name });
            }
        }
        let kept = members.len();
        let mut joined = BTreeSet::new();
        for (added, answer) in self.add.iter().zip(joiners) {
            let answer = self.check_joiner(known, added, answer)?;
            joined.insert(answer.acceptor);
            let entry = MemberEntry {
                address: added.address.as_str().into(),
                name: name_of(&answer.name),
            };
            if members.insert(answer.acceptor, entry).is_some() {
                return Err(InvalidConfiguration::Twice(answer.acceptor).into());
            }
        }
        let quorum = majority(members.len());
        let (phase1, phase2) = self.quorums.unwrap_or((quorum, quorum));
        let next = present.changed_to(members, phase1, phase2)?;
        let places = |of: &Configuration| -> Vec<_> {
            let members = of.members().iter();
            members
                .map(|(&uuid, member)| (uuid, Arc::clone(&member.address)))
                .collect()
        };
        if places(&next) == places(present) && next.quorums() == present.quorums() {
            return Err(ChangeDenied::Nothing);
        }
        let outdated = known
            .versions
            .iter()
            .find(|&(_, &version)| version < CHANGES_VERSION);
        if let Some((&outdated, _)) = outdated {
            return Err(ChangeDenied::Outdated(name_in(present, outdated)));
        }
        // An acceptor at a new address is a member with its votes.
        let stayed = joined
            .iter()
            .filter(|joined| self.remove.contains(joined))
            .count();
        self.check_quorum(known, &next, &joined, kept + stayed)?;
        match known.outdated.first().filter(|_| !self.force) {
            Some(outdated) => Err(ChangeDenied::OutdatedPeer(outdated.clone())),
            None => Ok(next),
        }
    }

    fn check_joiner(
        &self,
        known: &Known<'_>,
        added: &Added,
        answer: Result<AcceptorForm, String>,
    ) -> Result<AcceptorForm, ChangeDenied> {
        let address = || added.address.clone();
        let answer = answer.map_err(|reason| ChangeDenied::Silent {
            address: address(),
            reason,
        })?;
        let found = answer.acceptor;
        if let Some(expected) = added.acceptor.filter(|expected| *expected != found) {
            return Err(ChangeDenied::Another {
                address: address(),
                found: short(found),
                expected: short(expected),
            });
        }
        let member = known.present.members().get(&found);
        let is_removed = self.remove.contains(&found);
        match member {
            Some(member) if is_removed && *member.address == *added.address.as_str() => {
                return Err(ChangeDenied::Itself(name_in(known.present, found)));
            }
            Some(_) if !is_removed => return Err(ChangeDenied::Member(address())),
            Some(_) | None => {}
        }
        let cluster = known.present.cluster_id();
        match &answer.membership {
            Membership::Blank => {}
            Membership::Formed(held) if held.cluster_id() == cluster => {}
            Membership::Formed(_) => return Err(ChangeDenied::OtherCluster(address())),
            Membership::Forming(_) | Membership::Seeded(_) => return Err(ChangeDenied::Forming(address())),
        }
        if known.refused.contains(&found) {
            return Err(ChangeDenied::WentBack(address()));
        }
        if answer.protocol_version < CHANGES_VERSION {
            return Err(ChangeDenied::Outdated(added.address.to_string()));
        }
        Ok(answer)
    }

    fn check_quorum(
        &self,
        known: &Known<'_>,
        next: &Configuration,
        joined: &BTreeSet<AcceptorUuid>,
        kept: usize,
    ) -> Result<(), ChangeDenied> {
        let members = next.members().len();
        let needed = next.quorums().phase1().max(next.quorums().phase2());
        let answers = |uuid: &AcceptorUuid| joined.contains(uuid) || known.counted.contains_key(uuid);
        let silent: Vec<_> = next.members().keys().filter(|uuid| !answers(uuid)).collect();
        let answering = members - silent.len();
        if answering < needed {
            let silent = silent.into_iter().map(|&uuid| name_in(next, uuid));
            let silent: Vec<_> = silent
                .map(|name| format!("{name}, which does not answer"))
                .collect();
            return Err(ChangeDenied::Never {
                members,
                needed,
                answering,
                silent: silent.join("; "),
            });
        }
        if self.force {
            return Ok(());
        }
        if answering == needed {
            return Err(ChangeDenied::NoneToSpare {
                members,
                needed,
                answering,
            });
        }
        if kept < needed {
            return Err(ChangeDenied::MostlyNew {
                members,
                needed,
                kept,
            });
        }
        Ok(())
    }

    /// Whether this request, made to `before`, makes `after`: then the request is fulfilled, or under way.
    pub(crate) fn makes(&self, before: &Configuration, after: &Configuration) -> bool {
        if self.era != before.era() || after.era() != before.era().next() {
            return false;
        }
        let quorum = majority(after.members().len());
        let quorums = (after.quorums().phase1(), after.quorums().phase2());
        if quorums != self.quorums.unwrap_or((quorum, quorum)) {
            return false;
        }
        let mut left = after.members().clone();
        for added in &self.add {
            let is_added = |(uuid, member): &(&AcceptorUuid, &MemberEntry)| {
                *member.address == *added.address.as_str()
                    && added.acceptor.is_none_or(|expected| expected == **uuid)
            };
            let Some((&uuid, _)) = left.iter().find(is_added) else {
                return false;
            };
            left.remove(&uuid);
        }
        let kept = before.members().keys().filter(|uuid| !self.remove.contains(uuid));
        left.keys().eq(kept)
    }
}

/// A change in words: `replace acceptor-3 by e41d90aa`.
pub(crate) fn describe(before: &Configuration, after: &Configuration) -> String {
    let except = |of: &Configuration, others: &Configuration| {
        let members = of.members().keys();
        let members = members.filter(|uuid| !others.members().contains_key(uuid));
        members.map(|&uuid| name_in(of, uuid)).collect::<Vec<_>>()
    };
    let (removed, added) = (except(before, after), except(after, before));
    match (&removed[..], &added[..]) {
        ([], []) => {
            let quorums = after.quorums();
            format!("quorums {} and {}", quorums.phase1(), quorums.phase2())
        }
        (removed, []) => format!("remove {}", removed.join(", ")),
        ([], added) => format!("add {}", added.join(", ")),
        (removed, added) => format!("replace {} by {}", removed.join(", "), added.join(", ")),
    }
}

/// A stage of a change in words: `copying 41 %`.
pub(crate) fn stage_in_words(stage: &ChangeStage) -> String {
    match stage {
        ChangeStage::Copying { slots, of } => {
            let percent = u128::from(*slots) * 100 / u128::from((*of).max(1));
            format!("copying {percent} %")
        }
        ChangeStage::Deciding { accepted, of } => format!("deciding {accepted} of {of}"),
        ChangeStage::Switching(era) => format!("switching to era {era}"),
        ChangeStage::Done { .. } => "done".to_owned(),
        ChangeStage::Refused(_) => "not made".to_owned(),
        ChangeStage::Unknown => "the leader has changed".to_owned(),
    }
}

/// The first 8 digits of a uuid, enough for people.
fn short(acceptor: AcceptorUuid) -> String {
    acceptor.to_string().chars().take(8).collect()
}

/// The operator's name of a member; without a name, the first digits of the uuid.
fn name_in(configuration: &Configuration, acceptor: AcceptorUuid) -> String {
    let member = configuration.members().get(&acceptor);
    let name = member.map(|member| &*member.name).unwrap_or_default();
    if name.is_empty() {
        short(acceptor)
    } else {
        name.to_owned()
    }
}

fn name_of(name: &str) -> Arc<str> {
    name[..name.floor_char_boundary(MEMBER_NAME_BYTES_MAX)].into()
}

#[cfg(test)]
mod tests;
