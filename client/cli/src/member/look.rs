//! The members as operators see them, and the request for a change.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use bytes::Bytes;
use paxos_client::{Address, Client, raw::ClusterReport};
use paxos_common::{
    paxos::{
        identity::AcceptorUuid,
        quorum::{Configuration, MemberEntry, majority},
    },
    service::failure::Failure,
    wire,
};
use paxos_proto::v1::{self as pb, Membership};

use crate::{
    connection::no,
    output::printable,
    verdict::{PendingChange, Verdict, cluster_answer, era_of, is_same_place, judge, lost_member},
};

/// Why a member is not replaced at its own address.
const ITSELF: &str = "itself answers there: nothing to replace. To replace its disk, stop it and start it with an empty \
                      directory; to replace it by another acceptor, give the address of that acceptor by --with";

/// Fewest hexadecimal digits that name a member.
const DIGITS_MIN: usize = 4;

/// A member of the latest configuration, or an acceptor outside that answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SeenAcceptor {
    pub(super) uuid: AcceptorUuid,
    /// The operator's name; empty when unknown.
    pub(super) name: String,
    pub(super) address: String,
    /// Where the member answers, if at another address than `address`.
    pub(super) answers_at: Option<String>,
    pub(super) state: SeenState,
    /// The acceptor is a member that can vote, as far as the leader reports.
    pub(super) votes: bool,
    /// Slots behind the highest watermark; none without an answer.
    pub(super) lag: Option<u64>,
    /// The era of its own configuration; none without an answer.
    pub(super) era: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SeenState {
    /// A member that can vote.
    Votes,
    /// A member that answers, and cannot vote now.
    Waits,
    /// A member that answers at another address than the configuration says, and not there.
    Elsewhere,
    /// A member without an answer.
    Silent,
    /// A member at whose address a blank acceptor answers.
    Lost,
    /// Formed, and no member: removed, or about to join.
    Outside,
    /// A member of another cluster, or outside of it.
    Foreign,
    /// Blank, and at no member's address.
    Blank,
    /// The change under way makes this acceptor a member.
    Joins,
}

impl SeenState {
    pub(super) fn in_words(self) -> &'static str {
        match self {
            Self::Votes => "votes",
            Self::Waits => "does not vote",
            Self::Elsewhere => "answers elsewhere",
            Self::Silent => "no answer",
            Self::Lost => "lost its disk",
            Self::Outside => "no member",
            Self::Foreign => "of another cluster",
            Self::Blank => "blank, no member",
            Self::Joins => "joins",
        }
    }
}

impl SeenAcceptor {
    /// The first 8 digits of the uuid.
    pub(super) fn digits(&self) -> String {
        short(self.uuid)
    }

    /// Name and digits, for people: `acceptor-3 (c07e5a11)`.
    pub(super) fn shown(&self) -> String {
        match &*self.name {
            "" => self.digits(),
            name => format!("{} ({})", printable(name), self.digits()),
        }
    }

    /// The shortest name for the command line: the operator's name, or otherwise digits.
    pub(super) fn id(&self) -> String {
        match &*self.name {
            "" => self.digits(),
            name => printable(name),
        }
    }
}

/// The members, by the latest configuration that an acceptor reports.
#[derive(Debug)]
pub(super) struct MembersLook {
    pub(super) configuration: Configuration,
    /// In the order of the configuration.
    pub(super) members: Vec<SeenAcceptor>,
    pub(super) outside: Vec<SeenAcceptor>,
    /// The change of members under way.
    pub(super) change: Option<PendingChange>,
    /// The answering acceptors by advertised address. From here they may be reachable by other addresses alone.
    answering: BTreeMap<String, AcceptorUuid>,
}

/// The acceptors named on the command line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct RemovedAndAdded {
    pub(super) removed: Vec<AcceptorUuid>,
    pub(super) added: Vec<Address>,
    /// A member is replaced at its own address.
    pub(super) is_in_place: bool,
}

/// A change as named on the command line.
#[derive(Clone, Debug)]
pub(super) struct AskedPlan {
    pub(super) named: RemovedAndAdded,
    pub(super) quorums: Option<(u32, u32)>,
    pub(super) force: bool,
}

/// A change to be driven.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) request: pb::ChangeMembersRequest,
    /// What is about to happen, as one line.
    pub(super) headline: String,
    /// The acceptors that may be switched off afterwards, for people.
    pub(super) off: Vec<String>,
    /// More advice after a refusal; empty for none.
    pub(super) advice: &'static str,
    /// The members that stay.
    kept: BTreeSet<AcceptorUuid>,
    added: Vec<(Option<AcceptorUuid>, Address)>,
    /// The addresses of the present members.
    pub(super) before: BTreeSet<String>,
}

impl MembersLook {
    /// # Errors
    /// No acceptor of a formed cluster answers.
    pub(super) fn of(report: &ClusterReport) -> Result<Self, Failure> {
        let verdict = judge(report);
        let configuration = cluster_answer(report)
            .filter(|answer| answer.membership() == Membership::Formed)
            .and_then(|answer| answer.configuration.clone());
        let configuration = configuration.ok_or_else(|| no_cluster(&verdict))?;
        let configuration = Configuration::try_from(configuration)
            .map_err(|error| Failure::refused(anyhow::anyhow!("the acceptors' configuration: {error}")))?;
        let answers: Vec<SeenAnswer<'_>> = answers(report, &verdict);
        let members = configuration.members().iter();
        let members = members.map(|(&uuid, member)| {
            let answer = answers.iter().find(|answer| answer.uuid == uuid);
            let blank_there = answers.iter().find(|answer| answer.in_place_of == Some(uuid));
            let votes = answer.is_some_and(|answer| answer.votes && counts(&verdict, uuid));
            let state = match answer {
                Some(_) if votes => SeenState::Votes,
                Some(_) => SeenState::Waits,
                None if blank_there.is_some() => SeenState::Lost,
                None => SeenState::Silent,
            };
            // The configuration of the first era has no names. An acceptor that lost its disk usually keeps its name.
            let name = match (answer, blank_there) {
                (Some(answer), _) => &*answer.status.id,
                (None, Some(blank)) if member.name.is_empty() => &*blank.status.id,
                (None, _) => &*member.name,
            };
            let mut answered_at = answers.iter().filter(|answer| answer.uuid == uuid);
            let is_at_listed = answered_at.any(|answer| is_same_place(answer.asked_at, &member.address));
            let advertised = answer.map(SeenAnswer::advertised).filter(|advertised| {
                !is_at_listed
                    && !is_same_place(advertised, &member.address)
                    && !is_linked_at(report, uuid, &member.address)
            });
            SeenAcceptor {
                uuid,
                answers_at: advertised.map(str::to_owned),
                votes,
                name: name.to_owned(),
                // A lost member is replaced at this address. When a cluster gets TLS, its configuration keeps the old
                // scheme.
                address: match blank_there.map(SeenAnswer::advertised) {
                    Some(advertised) if is_same_place(advertised, &member.address) => advertised.to_owned(),
                    Some(_) | None => member.address.to_string(),
                },
                state,
                lag: answer.map(|answer| verdict.chosen_to.saturating_sub(answer.status.chosen_to)),
                era: answer.map(|answer| era_of(answer.status)),
            }
        });
        let outside = answers.iter().filter(|answer| {
            let is_member = configuration.members().contains_key(&answer.uuid);
            !(is_member || answer.in_place_of.is_some())
        });
        let change = verdict.change.as_ref();
        let state_outside = |answer: &SeenAnswer<'_>| {
            let state = answer.state_outside(&configuration);
            let comes = || change.is_some_and(|change| change.adds(&answer.uuid.to_bytes()));
            if matches!(state, SeenState::Outside | SeenState::Blank) && comes() {
                return SeenState::Joins;
            }
            state
        };
        let outside = outside.map(|answer| SeenAcceptor {
            uuid: answer.uuid,
            answers_at: None,
            votes: false,
            name: answer.status.id.clone(),
            address: answer.advertised().to_owned(),
            state: state_outside(answer),
            lag: matches!(state_outside(answer), SeenState::Outside | SeenState::Joins)
                .then(|| verdict.chosen_to.saturating_sub(answer.status.chosen_to)),
            era: (!answer.is_blank()).then(|| era_of(answer.status)),
        });
        let answering = answers
            .iter()
            .map(|answer| (answer.advertised().to_owned(), answer.uuid));
        Ok(Self {
            members: members.collect(),
            outside: outside.collect(),
            answering: answering.collect(),
            change: verdict.change.clone(),
            configuration,
        })
    }

    /// The member with this address, name, or beginning of the uuid.
    ///
    /// # Errors
    /// No member, or several members, have this name.
    pub(super) fn member(&self, id: &str) -> Result<&SeenAcceptor, Failure> {
        let digits: String = id.chars().filter(|&char| char != '-').collect();
        let is_hex = digits.len() >= DIGITS_MIN && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        let is_named = |member: &&SeenAcceptor| {
            let uuid = member.uuid.to_string().replace('-', "");
            member.name == id
                || is_same_place(&member.address, id.trim_end_matches('/'))
                || is_hex && uuid.starts_with(&digits.to_ascii_lowercase())
        };
        let named: Vec<_> = self.members.iter().filter(is_named).collect();
        match named[..] {
            [member] => Ok(member),
            [] => {
                let mut members: Vec<_> = self.members.iter().map(SeenAcceptor::shown).collect();
                members.sort();
                Err(no(format!(
                    "no member is {}; the members are {}",
                    printable(id),
                    members.join(", ")
                )))
            }
            _ => Err(no(format!(
                "{} names {} members: give more digits of the uuid",
                printable(id),
                named.len()
            ))),
        }
    }

    /// Prepares the request. Asks the added acceptors, so that the request names the acceptors that a person means.
    pub(super) async fn plan(
        &self,
        client: &Client,
        asked: AskedPlan,
        patience: Duration,
    ) -> Result<Plan, Failure> {
        let AskedPlan {
            named,
            quorums,
            force,
        } = asked;
        let mut added = Vec::new();
        for address in &named.added {
            // The leader may reach an acceptor that is out of reach here.
            let answer = client.acceptor_status(address, patience).await.ok();
            let uuid = answer.and_then(|answer| Some(wire::read_stamp(answer.stamp.as_ref()).ok()?.acceptor));
            let uuid = uuid.or_else(|| self.answering.get(address.as_str()).copied());
            added.push((uuid, address.clone()));
        }
        let is_silent = added.iter().any(|(uuid, _)| uuid.is_none());
        if let (Some(removed), true) = (named.removed.first(), named.is_in_place)
            && added.iter().any(|(uuid, _)| *uuid == Some(*removed))
        {
            let member = self.shown(*removed);
            return Err(no(format!("{member} {ITSELF}")));
        }
        let bytes = |uuid: AcceptorUuid| Bytes::copy_from_slice(&uuid.to_bytes());
        let add = added.iter().map(|(uuid, address)| pb::Member {
            acceptor: uuid.map_or_else(Bytes::new, bytes),
            address: address.to_string(),
            name: String::new(),
        });
        let (phase1, phase2) = quorums.unwrap_or_default();
        let request = pb::ChangeMembersRequest {
            cluster_id: Bytes::copy_from_slice(self.configuration.cluster_id().as_bytes()),
            era: self.configuration.era().get(),
            remove: named.removed.iter().copied().map(bytes).collect(),
            add: add.collect(),
            phase1,
            phase2,
            force,
        };
        let removed: Vec<_> = named.removed.iter().map(|&uuid| self.shown(uuid)).collect();
        // A lost disk has no process, and a member that moves stays.
        let is_off = |uuid: &&AcceptorUuid| {
            !named.is_in_place && !added.iter().any(|(added, _)| *added == Some(**uuid))
        };
        let off = named.removed.iter().filter(is_off).map(|&uuid| self.shown(uuid));
        let off: Vec<_> = off.collect();
        let shown_added: Vec<_> = added
            .iter()
            .map(|(uuid, address)| match uuid {
                Some(uuid) => format!("{} at {address}", short(*uuid)),
                None => format!("the acceptor at {address}"),
            })
            .collect();
        let members = self.configuration.members().keys();
        let kept = members.filter(|uuid| !named.removed.contains(uuid)).copied();
        Ok(Plan {
            headline: headline(&removed, &shown_added, quorums),
            off,
            advice: match named.is_in_place && is_silent {
                true => ". Start an acceptor with an empty directory there",
                false => "",
            },
            kept: kept.collect(),
            added,
            before: self.members.iter().map(|member| member.address.clone()).collect(),
            request,
        })
    }

    fn shown(&self, uuid: AcceptorUuid) -> String {
        let member = self.members.iter().find(|member| member.uuid == uuid);
        member.map_or_else(|| short(uuid), SeenAcceptor::shown)
    }
}

impl Plan {
    /// Whether this configuration is the result of the plan.
    pub(super) fn makes(&self, configuration: &Configuration) -> bool {
        let quorum = u32::try_from(majority(configuration.members().len())).unwrap_or(u32::MAX);
        let quorums = match (self.request.phase1, self.request.phase2) {
            (0, 0) => (quorum, quorum),
            quorums => quorums,
        };
        let has = configuration.quorums();
        let mut left = configuration.members().clone();
        for (uuid, address) in &self.added {
            let is_it = |(found, member): &(&AcceptorUuid, &MemberEntry)| {
                uuid.is_none_or(|uuid| uuid == **found) && *member.address == *address.as_str()
            };
            let Some((&found, _)) = left.iter().find(is_it) else {
                return false;
            };
            left.remove(&found);
        }
        configuration.era().get() == self.request.era + 1
            && (has.phase1(), has.phase2()) == (quorums.0 as usize, quorums.1 as usize)
            && left.keys().eq(&self.kept)
    }
}

/// An acceptor's answer, with its verdict.
struct SeenAnswer<'a> {
    uuid: AcceptorUuid,
    /// Where the acceptor was asked.
    asked_at: &'a str,
    status: &'a pb::AcceptorStatusResponse,
    votes: bool,
    /// The member in whose place this blank acceptor runs.
    in_place_of: Option<AcceptorUuid>,
}

impl SeenAnswer<'_> {
    fn is_blank(&self) -> bool {
        self.status.membership() == Membership::Blank
    }

    /// The state of an acceptor that is no member.
    fn state_outside(&self, configuration: &Configuration) -> SeenState {
        let stamp = self.status.stamp.as_ref();
        let cluster = stamp.map_or(&[][..], |stamp| &stamp.cluster_id);
        match () {
            () if self.is_blank() => SeenState::Blank,
            () if cluster.is_empty() || cluster == configuration.cluster_id().as_bytes() => {
                SeenState::Outside
            }
            () => SeenState::Foreign,
        }
    }

    /// The address for the other processes of the cluster.
    fn advertised(&self) -> &str {
        match &*self.status.address {
            "" => self.asked_at,
            address => address,
        }
    }
}

/// Whether a proposer is connected to the acceptor at this address.
fn is_linked_at(report: &ClusterReport, acceptor: AcceptorUuid, address: &str) -> bool {
    let answers = report
        .proposers
        .iter()
        .filter_map(|proposer| proposer.answer.as_ref().ok());
    let mut links = answers.flat_map(|answer| &answer.acceptors);
    links.any(|link| {
        link.attached && *link.acceptor == acceptor.to_bytes() && is_same_place(&link.address, address)
    })
}

/// Whether the leader counts the acceptor; true if the leader does not answer.
fn counts(verdict: &Verdict, acceptor: AcceptorUuid) -> bool {
    let linked = verdict.leader.as_ref().and_then(|leader| leader.linked.as_ref());
    linked.is_none_or(|linked| linked.iter().any(|linked| **linked == acceptor.to_bytes()))
}

fn answers<'a>(report: &'a ClusterReport, verdict: &Verdict) -> Vec<SeenAnswer<'a>> {
    let configuration = cluster_answer(report).and_then(|answer| answer.configuration.as_ref());
    let reports = report.acceptors.iter().zip(&verdict.votes);
    let answers = reports.filter_map(|(acceptor, &votes)| {
        let status = acceptor.answer.as_ref().ok()?;
        let mut answer = SeenAnswer {
            uuid: wire::read_stamp(status.stamp.as_ref()).ok()?.acceptor,
            asked_at: acceptor.address.as_str(),
            status,
            votes,
            in_place_of: None,
        };
        if answer.is_blank() {
            let lost = lost_member(report, configuration?, acceptor);
            answer.in_place_of = lost.and_then(|member| wire::acceptor_uuid(&member.acceptor).ok());
        }
        Some(answer)
    });
    answers.collect()
}

/// Why no list of members is known, and what to do: the gravest finding.
fn no_cluster(verdict: &Verdict) -> Failure {
    let finding = verdict.findings.first();
    let words =
        finding.map(|finding| format!("{}. What to do: {}", printable(&finding.problem), finding.advice));
    Failure::unavailable(anyhow::anyhow!(
        words.unwrap_or_else(|| "no acceptor of a formed cluster answers".to_owned())
    ))
}

fn headline(removed: &[String], added: &[String], quorums: Option<(u32, u32)>) -> String {
    let what = match (removed, added) {
        ([], []) => "changing the quorums".to_owned(),
        (removed, []) => format!("removing {}", removed.join(", ")),
        ([], added) => format!("adding {}", added.join(", ")),
        (removed, added) => format!("replacing {} by {}", removed.join(", "), added.join(", ")),
    };
    let quorums = quorums.map(|(phase1, phase2)| format!(", quorums {phase1} to lead, {phase2} to choose"));
    format!(
        "{what}{}; the cluster serves meanwhile",
        quorums.unwrap_or_default()
    )
}

fn short(uuid: AcceptorUuid) -> String {
    uuid.to_string().chars().take(8).collect()
}
