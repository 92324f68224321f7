//! Asks every process of the cluster at once, and decides how long to wait for late processes.
//!
//! The acceptors' answers name the other members, the proposers and the learners. Each process is asked as soon as its
//! name is known.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures::{StreamExt as _, stream::FuturesUnordered};
use paxos_common::{
    peer::{Address, Dialer, MESSAGE_BYTES_MAX, without_scheme},
    tls::RoleName,
};
use paxos_proto::v1::{
    AcceptorStatusRequest, AcceptorStatusResponse, LearnerStatusRequest, LearnerStatusResponse, Membership,
    ProposerStatusRequest, ProposerStatusResponse, Role, acceptor_client::AcceptorClient,
    learner_client::LearnerClient, proposer_client::ProposerClient,
};
use tokio::time::{Instant, timeout_at};
use tonic::{Status, transport::Channel};

use super::{ClusterReport, RoleReport, acceptor_client};
use crate::{address::Directory, code::ErrorCode, error::Cause};

/// Shortest wait for late processes once a quorum of acceptors has answered, counted from the last answer.
const EXTRA_MIN: Duration = Duration::from_millis(200);
/// The same wait as a multiple of the slowest answer so far: on a slow network or a busy machine, all processes are
/// slow.
const EXTRA_FACTOR: u32 = 2;
/// Maximum number of found processes to ask, for each role. The lists in answers are not trusted to be short.
const FOUND_MAX: usize = 256;

/// Asks every process, for at most `patience`.
///
/// # Cancel safety
/// Safe: the call only reads.
pub(crate) async fn survey(directory: &Directory, patience: Duration) -> ClusterReport {
    let begun = Instant::now();
    let limit = begun + patience;
    let mut survey = Survey {
        dialer: directory.dialer.clone(),
        targets: Vec::new(),
    };
    let mut asked = FuturesUnordered::new();
    for (address, client) in &directory.acceptors.clients {
        let index = survey.add(Role::Acceptor, address.clone(), true, None);
        asked.extend(index.map(|index| survey.ask(index, Some(client.clone()))));
    }
    for (role, given) in [
        (Role::Proposer, directory.given_proposers()),
        (Role::Learner, directory.given_learners()),
    ] {
        for address in given {
            let index = survey.add(role, address.clone(), true, None);
            asked.extend(index.map(|index| survey.ask(index, None)));
        }
    }
    let (mut last, mut slowest) = (begun, Duration::ZERO);
    while !survey.is_complete() {
        let extra = EXTRA_MIN.max(slowest * EXTRA_FACTOR);
        let until = if survey.has_quorum() {
            limit.min(last + extra)
        } else {
            limit
        };
        // Cancel safe: an untaken answer stays in the set.
        let Ok(Some((index, took, answer))) = timeout_at(until, asked.next()).await else {
            break;
        };
        if answer.is_ok() {
            last = Instant::now();
            slowest = slowest.max(took);
        }
        for index in survey.record(index, answer) {
            asked.push(survey.ask(index, None));
        }
    }
    survey.into_status(begun.elapsed())
}

/// An answer of any role.
#[derive(Debug)]
enum RoleStatus {
    Acceptor(Box<AcceptorStatusResponse>),
    Proposer(Box<ProposerStatusResponse>),
    Learner(Box<LearnerStatusResponse>),
}

impl RoleStatus {
    fn acceptor(self) -> Option<AcceptorStatusResponse> {
        match self {
            Self::Acceptor(answer) => Some(*answer),
            Self::Proposer(_) | Self::Learner(_) => None,
        }
    }

    fn proposer(self) -> Option<ProposerStatusResponse> {
        match self {
            Self::Proposer(answer) => Some(*answer),
            Self::Acceptor(_) | Self::Learner(_) => None,
        }
    }

    fn learner(self) -> Option<LearnerStatusResponse> {
        match self {
            Self::Learner(answer) => Some(*answer),
            Self::Acceptor(_) | Self::Proposer(_) => None,
        }
    }
}

impl RoleReport<RoleStatus> {
    /// The report on a single role.
    fn of<T>(self, take: impl FnOnce(RoleStatus) -> Option<T>) -> RoleReport<T> {
        let other = || Cause::unavailable("a process of another role answered");
        RoleReport {
            address: self.address,
            given: self.given,
            answer: self.answer.and_then(|answer| take(answer).ok_or_else(other)),
        }
    }
}

/// The uuid of the answering acceptor.
fn uuid(report: &RoleReport<AcceptorStatusResponse>) -> Option<&Bytes> {
    Some(&report.answer.as_ref().ok()?.stamp.as_ref()?.acceptor)
}

/// Asks a process. `connected` becomes true when the process has accepted the connection.
async fn ask(
    index: usize,
    role: Role,
    (address, dialer): (Address, Dialer),
    acceptor: Option<AcceptorClient<Channel>>,
    connected: Arc<AtomicBool>,
) -> (usize, Duration, Result<RoleStatus, Cause>) {
    let begun = Instant::now();
    let answer = match role {
        Role::Proposer | Role::Learner => ask_peer(role, (&address, &dialer), &connected).await,
        Role::Acceptor | Role::Unspecified => acceptor
            .unwrap_or_else(|| acceptor_client(&dialer, &address))
            .status(AcceptorStatusRequest {})
            .await
            .map(|response| RoleStatus::Acceptor(Box::new(response.into_inner()))),
    };
    (
        index,
        begun.elapsed(),
        answer.map_err(|status| Cause::of(&status)),
    )
}

async fn ask_peer(
    role: Role,
    (address, dialer): (&Address, &Dialer),
    connected: &AtomicBool,
) -> Result<RoleStatus, Status> {
    let is_proposer = role == Role::Proposer;
    let wanted = if is_proposer {
        RoleName::Proposer
    } else {
        RoleName::Learner
    };
    let channel = dialer.connect(address, Some(wanted)).await?;
    connected.store(true, Ordering::Relaxed);
    if is_proposer {
        let mut proposer = ProposerClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
        let response = proposer.status(ProposerStatusRequest {}).await?;
        Ok(RoleStatus::Proposer(Box::new(response.into_inner())))
    } else {
        let mut learner = LearnerClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
        let response = learner.status(LearnerStatusRequest {}).await?;
        Ok(RoleStatus::Learner(Box::new(response.into_inner())))
    }
}

/// A process to ask.
#[derive(Debug)]
struct AskedProcess {
    role: Role,
    address: Address,
    given: bool,
    /// The expected member of the configuration, at an address not given to the client.
    member: Option<Bytes>,
    /// The process has accepted the connection. Not known of an acceptor.
    connected: Arc<AtomicBool>,
    answer: Option<Result<RoleStatus, Cause>>,
}

impl AskedProcess {
    fn acceptor(&self) -> Option<&AcceptorStatusResponse> {
        match &self.answer {
            Some(Ok(RoleStatus::Acceptor(answer))) => Some(answer),
            Some(_) | None => None,
        }
    }

    /// The cause of a missing answer.
    fn late(&self, elapsed: Duration) -> Cause {
        let elapsed = elapsed.as_millis();
        let connects = matches!(self.role, Role::Proposer | Role::Learner);
        if connects && !self.connected.load(Ordering::Relaxed) {
            return Cause::unavailable(format!("no connection within {elapsed} ms"));
        }
        Cause::new(
            ErrorCode::DeadlineExceeded,
            format!("no answer within {elapsed} ms"),
        )
    }
}

/// The asked processes, and the answers.
#[derive(Debug, Default)]
struct Survey {
    dialer: Dialer,
    targets: Vec<AskedProcess>,
}

impl Survey {
    /// Adds a process, unless already asked or beyond the limit.
    fn add(&mut self, role: Role, address: Address, given: bool, member: Option<Bytes>) -> Option<usize> {
        let mut of_role = self.targets.iter().filter(|target| target.role == role);
        if of_role.clone().any(|target| target.address == address)
            || !given && of_role.by_ref().filter(|target| !target.given).count() >= FOUND_MAX
        {
            return None;
        }
        self.targets.push(AskedProcess {
            role,
            address,
            given,
            member,
            connected: Arc::default(),
            answer: None,
        });
        Some(self.targets.len() - 1)
    }

    /// Asks the process at this index.
    fn ask(
        &self,
        index: usize,
        acceptor: Option<AcceptorClient<Channel>>,
    ) -> impl Future<Output = (usize, Duration, Result<RoleStatus, Cause>)> + use<> {
        let target = &self.targets[index];
        let place = (target.address.clone(), self.dialer.clone());
        let connected = Arc::clone(&target.connected);
        ask(index, target.role, place, acceptor, connected)
    }

    /// Takes an answer; returns the newly found processes to ask.
    fn record(&mut self, index: usize, answer: Result<RoleStatus, Cause>) -> Vec<usize> {
        self.targets[index].answer = Some(answer);
        let Some(answer) = self.targets[index].acceptor() else {
            return Vec::new();
        };
        let mut found = Vec::new();
        for member in answer.configuration.iter().flat_map(|known| &known.members) {
            if let Ok(address) = member.address.parse() {
                found.push((Role::Acceptor, address, Some(member.acceptor.clone())));
            }
        }
        for peer in answer.attached.iter().chain(&answer.departed) {
            if let Some(report) = &peer.report
                && let Ok(address) = report.address.parse()
                && matches!(report.role(), Role::Proposer | Role::Learner)
            {
                found.push((report.role(), address, None));
            }
        }
        let answered = self.answered();
        found.retain(|(_, _, member)| member.as_ref().is_none_or(|uuid| !answered.contains(uuid)));
        found
            .into_iter()
            .filter_map(|(role, address, member)| self.add(role, address, false, member))
            .collect()
    }

    /// The answering acceptors, by uuid.
    fn answered(&self) -> BTreeSet<Bytes> {
        let answers = self.targets.iter().filter_map(AskedProcess::acceptor);
        answers
            .filter_map(|answer| Some(answer.stamp.as_ref()?.acceptor.clone()))
            .collect()
    }

    /// Whether enough acceptors have answered for a quorum of both phases. Before a configuration is known: a majority
    /// of the given acceptors.
    fn has_quorum(&self) -> bool {
        let mut answers = self.targets.iter().filter_map(AskedProcess::acceptor);
        let needed = answers
            .find_map(|answer| answer.configuration.as_ref())
            .map_or_else(
                || {
                    let given = |target: &&AskedProcess| target.role == Role::Acceptor && target.given;
                    self.targets.iter().filter(given).count() / 2 + 1
                },
                |known| usize::try_from(known.phase1.max(known.phase2)).unwrap_or(usize::MAX),
            );
        self.answered().len() >= needed
    }

    /// Whether no further answer is awaited.
    fn is_complete(&self) -> bool {
        let answered = self.answered();
        self.targets
            .iter()
            .all(|target| target.answer.is_some() || is_elsewhere(target, &answered))
    }

    fn into_status(self, elapsed: Duration) -> ClusterReport {
        let answered = self.answered();
        let members: BTreeSet<String> = self
            .targets
            .iter()
            .filter_map(AskedProcess::acceptor)
            .flat_map(|answer| answer.configuration.iter().flat_map(|known| &known.members))
            .map(|member| member.address.clone())
            .collect();
        // The given address of an acceptor may differ from the advertised address, for example outside a container
        // network. Such addresses without an answer stand for the same number of members that are not found.
        let mut aliases = self
            .targets
            .iter()
            .filter(|target| target.role == Role::Acceptor && target.given && target.acceptor().is_none())
            .filter(|target| !members.contains(target.address.as_str()))
            .count();
        // A blank acceptor that advertises the address of a silent member has answered for this address.
        let blank: BTreeSet<String> = self
            .targets
            .iter()
            .filter_map(AskedProcess::acceptor)
            .filter(|answer| answer.membership() == Membership::Blank)
            .map(|answer| without_scheme(&answer.address).to_owned())
            .collect();
        let mut status = ClusterReport::default();
        for target in self.targets {
            if !target.given && target.role == Role::Acceptor && target.acceptor().is_none() {
                if is_elsewhere(&target, &answered) || blank.contains(target.address.host_and_port()) {
                    continue;
                }
                if aliases > 0 {
                    aliases -= 1;
                    continue;
                }
            }
            let late = target.late(elapsed);
            let report = RoleReport {
                address: target.address,
                given: target.given,
                answer: target.answer.unwrap_or(Err(late)),
            };
            match target.role {
                Role::Proposer => status.proposers.push(report.of(RoleStatus::proposer)),
                Role::Learner => status.learners.push(report.of(RoleStatus::learner)),
                Role::Acceptor | Role::Unspecified => {
                    let report = report.of(RoleStatus::acceptor);
                    // The same acceptor at two addresses, one of them not given.
                    let is_known = uuid(&report).is_some()
                        && status.acceptors.iter().any(|known| uuid(known) == uuid(&report));
                    if report.given || !is_known {
                        status.acceptors.push(report);
                    }
                }
            }
        }
        status
    }
}

/// Whether the expected member has answered at another address.
fn is_elsewhere(target: &AskedProcess, answered: &BTreeSet<Bytes>) -> bool {
    !target.given && target.member.as_ref().is_some_and(|uuid| answered.contains(uuid))
}

#[cfg(test)]
mod tests;
