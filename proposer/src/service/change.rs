//! Answers `ChangeMembers`: builds the next configuration after a look at the joiners and the members, asks the driver, and
//! streams the stages.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use futures::future::join_all;
use paxos_common::{
    paxos::{
        era::{CHANGES_VERSION, Era},
        identity::{AcceptorUuid, ClusterId},
        proposer::{ChangeRefusal, ChangeRequest, ChangeStage},
        quorum::{ACCEPTORS_MAX, Configuration},
    },
    peer::{
        Address, MessageLimits as _,
        acceptor::{Unusable, answer_within, form},
    },
    wire::{
        self,
        status::{self, Fate},
        stored,
    },
};
use paxos_proto::v1::{self as pb, acceptor_client::AcceptorClient, change_members_response::Stage};
use tokio::{
    sync::{mpsc, oneshot},
    time::{MissedTickBehavior, interval},
};
use tonic::{Status, transport::Channel};

use super::Service;
use crate::{
    changes::{AskedChange, ChangeNews, ShownChange},
    input::Input,
    members::{AcceptorForm, Added, AskedMembers, ChangeDenied, Known, describe, stage_in_words},
    view::View,
};

/// Maximum time of an acceptor to answer about itself.
const ASK_MAX: Duration = Duration::from_secs(2);

/// Interval of answers while only the number of copied bytes changes.
const BYTES_INTERVAL: Duration = Duration::from_secs(1);

/// Answers of a stream that wait for the caller.
const ANSWERS_MAX: usize = 1;

pub(super) type ChangeAnswers = mpsc::Receiver<Result<pb::ChangeMembersResponse, Status>>;

impl Service {
    pub(super) async fn change(&self, request: pb::ChangeMembersRequest) -> Result<ChangeAnswers, Status> {
        let (cluster, asked) = read(request)?;
        let view = self.views.borrow().clone();
        let present = view.configuration.clone();
        let present = present.filter(|_| view.phase == pb::ProposerPhase::Leading);
        let present = present.ok_or_else(|| status::no_leader(Fate::NotProposed))?;
        if cluster != present.cluster_id() {
            let ours = present.cluster_id();
            return Err(status::wrong_cluster(format!(
                "this proposer works with cluster {ours}, not {cluster}"
            )));
        }
        let (answers, receiver) = mpsc::channel(ANSWERS_MAX);
        if view
            .before
            .as_ref()
            .is_some_and(|before| asked.makes(before, &present))
        {
            // The channel is empty.
            let _ = answers.try_send(Ok(done(&present, None)));
            return Ok(receiver);
        }
        let next = match &view.change {
            Some(change) if is_in_force(change, &present) => {
                let text = "the last change of members is about to end: ask again";
                return Err(status::unavailable(text, Fate::NotProposed));
            }
            Some(change) => joined(&asked, &present, change),
            None => self.next(&asked, &present, &view).await,
        };
        let next = next.map_err(|refusal| status::not_wanted(refusal.to_string()))?;
        let (reply, answer) = oneshot::channel();
        let change = stored::change(&next);
        let request = ChangeRequest { change };
        let input = Input::ChangeMembers(AskedChange { request, reply });
        self.inputs.send(input).await.map_err(|_| status::stopping())?;
        let answer = answer.await.map_err(|_| unknown())?;
        let news = answer.map_err(|refusal| refused(&refusal, &next))?;
        self.shutdown.spawn(pass_on(news, next, answers));
        Ok(receiver)
    }

    /// The configuration for a new change, after a look at all acceptors of the present and the next configuration.
    async fn next(
        &self,
        asked: &AskedMembers,
        present: &Configuration,
        view: &View,
    ) -> Result<Configuration, ChangeDenied> {
        let members: Vec<_> = view
            .links
            .iter()
            .filter(|(uuid, _)| present.members().contains_key(uuid))
            .collect();
        let joiners = join_all(asked.add.iter().map(|added| self.ask(&added.address)));
        let versions = join_all(members.iter().map(|(_, link)| self.ask(&link.address)));
        let peers = join_all(members.iter().map(|(_, link)| self.outdated_peers(&link.address)));
        let (joiners, versions, peers) = tokio::join!(joiners, versions, peers);
        let versions: BTreeMap<AcceptorUuid, u32> = versions
            .into_iter()
            .filter_map(|answer| answer.ok())
            .map(|answer| (answer.acceptor, answer.protocol_version))
            .collect();
        let outdated: BTreeSet<String> = peers.into_iter().flatten().collect();
        let outdated: Vec<String> = outdated.into_iter().collect();
        let counted: BTreeMap<AcceptorUuid, Arc<str>> = members
            .into_iter()
            .map(|(&uuid, link)| (uuid, Arc::clone(&link.name)))
            .collect();
        let known = Known {
            present,
            counted: &counted,
            refused: &view.refused.keys().copied().collect(),
            versions: &versions,
            outdated: &outdated,
        };
        asked.next(&known, joiners)
    }

    /// Asks an acceptor about itself; the reason if it gives no usable answer.
    async fn ask(&self, address: &Address) -> Result<AcceptorForm, String> {
        let mut client = self.acceptor(address);
        let answer = async {
            let answer = form(&mut client, None, ASK_MAX).await?;
            Ok::<_, Unusable>(AcceptorForm {
                acceptor: wire::read_stamp(answer.stamp.as_ref())?.acceptor,
                membership: wire::membership(&answer)?,
                protocol_version: answer.protocol_version,
                name: answer.id,
            })
        };
        answer.await.map_err(|unusable| unusable.to_string())
    }

    /// The attached proposers and learners that do not know changes of members, by the list of an acceptor.
    async fn outdated_peers(&self, address: &Address) -> Vec<String> {
        let mut client = self.acceptor(address);
        let asking = client.status(pb::AcceptorStatusRequest {});
        let Ok(answer) = answer_within(ASK_MAX, asking).await else {
            return Vec::new();
        };
        let reports = answer.into_inner().attached.into_iter();
        let reports = reports.filter_map(|attached| attached.report);
        reports.filter_map(|report| outdated(&report)).collect()
    }

    fn acceptor(&self, address: &Address) -> AcceptorClient<Channel> {
        AcceptorClient::new(self.dialer.to_acceptor(address)).with_message_limits()
    }
}

/// Names an attached process with an older protocol.
fn outdated(report: &pb::AttachRequest) -> Option<String> {
    let version = report.caller.as_ref()?.protocol_version;
    let role = match report.role() {
        pb::Role::Learner => "learner",
        pb::Role::Proposer | pb::Role::Acceptor | pb::Role::Unspecified => "proposer",
    };
    (version < CHANGES_VERSION).then(|| format!("{role} {}", report.address))
}

/// Whether the change is made, and ends with the first value of its era: in a moment.
fn is_in_force(change: &ShownChange, present: &Configuration) -> bool {
    change.configuration.era() <= present.era()
}

/// The configuration of the change under way, if the request asks for the same.
fn joined(
    asked: &AskedMembers,
    present: &Configuration,
    change: &ShownChange,
) -> Result<Configuration, ChangeDenied> {
    if asked.makes(present, &change.configuration) {
        return Ok(Configuration::clone(&change.configuration));
    }
    let words = describe(present, &change.configuration);
    let stage = stage_in_words(&change.stage);
    Err(ChangeDenied::UnderWay(format!("{words}, {stage}")))
}

fn read(request: pb::ChangeMembersRequest) -> Result<(ClusterId, AskedMembers), Status> {
    let invalid = |reason: String| status::invalid_argument(reason);
    let malformed = |malformed: wire::Malformed| invalid(malformed.to_string());
    if request.remove.len() > ACCEPTORS_MAX || request.add.len() > ACCEPTORS_MAX {
        return Err(invalid(format!(
            "a cluster has at most {ACCEPTORS_MAX} acceptors"
        )));
    }
    let cluster = wire::cluster_id(&request.cluster_id).map_err(malformed)?;
    let cluster = cluster.ok_or_else(|| invalid("cluster_id is missing".to_owned()))?;
    let remove = request.remove.iter().map(|uuid| wire::acceptor_uuid(uuid));
    let add = request.add.into_iter().map(|member| {
        let acceptor = match &member.acceptor[..] {
            [] => None,
            uuid => Some(wire::acceptor_uuid(uuid).map_err(malformed)?),
        };
        let address = member.address.parse();
        let address = address.map_err(|error| invalid(format!("add: {error}")))?;
        Ok(Added { address, acceptor })
    });
    let quorums = match (request.phase1 as usize, request.phase2 as usize) {
        (0, 0) => None,
        (0, _) | (_, 0) => return Err(invalid("give both phase1 and phase2, or none".to_owned())),
        both => Some(both),
    };
    let asked = AskedMembers {
        era: Era::new(request.era).map_err(|error| invalid(error.to_string()))?,
        remove: remove.collect::<Result<_, _>>().map_err(malformed)?,
        add: add.collect::<Result<_, Status>>()?,
        quorums,
        force: request.force,
    };
    Ok((cluster, asked))
}

/// Sends each stage to the caller, up to the last.
async fn pass_on(
    mut news: ChangeNews,
    next: Configuration,
    answers: mpsc::Sender<Result<pb::ChangeMembersResponse, Status>>,
) {
    let mut ticks = interval(BYTES_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last = None;
    loop {
        let stage = news.stages.borrow_and_update().clone();
        let answer = answer_of(&stage, &next, news.taken.load(Ordering::Relaxed));
        let is_last = matches!(
            &answer,
            Err(_)
                | Ok(pb::ChangeMembersResponse {
                    stage: Some(Stage::Done(_)),
                    ..
                })
        );
        let is_news = answer
            .as_ref()
            .map_or(true, |answer| last.as_ref() != Some(answer));
        last = answer.as_ref().ok().cloned();
        if is_news && answers.send(answer).await.is_err() || is_last {
            return;
        }
        tokio::select! {
            // All arms only wait.
            changed = news.stages.changed() => if changed.is_err() {
                // The driver has ended.
                let _ = answers.send(Err(unknown())).await;
                return;
            },
            _ = ticks.tick() => {}
            () = answers.closed() => return,
        }
    }
}

/// A stage of the change to `next`, in the words of the contract; `taken`: the bytes of snapshots that joiners have received.
pub(super) fn answer_of(
    stage: &ChangeStage,
    next: &Configuration,
    taken: u64,
) -> Result<pb::ChangeMembersResponse, Status> {
    let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    let stage = match stage {
        ChangeStage::Copying { slots, of } => Stage::Copying(pb::Copying {
            slots: *slots,
            of: *of,
            bytes: taken,
        }),
        ChangeStage::Deciding { accepted, of } => Stage::Deciding(pb::Deciding {
            accepted: count(*accepted),
            of: count(*of),
        }),
        ChangeStage::Switching(era) => Stage::Switching(pb::Switching { era: era.get() }),
        ChangeStage::Done {
            configuration,
            waited,
        } => return Ok(done(configuration, Some(*waited))),
        ChangeStage::Refused(refusal) => return Err(refused(refusal, next)),
        ChangeStage::Unknown => return Err(unknown()),
    };
    Ok(pb::ChangeMembersResponse {
        stage: Some(stage),
        waited_ms: None,
    })
}

/// The change is made. `waited`: how long commands waited, if known.
fn done(configuration: &Configuration, waited: Option<Duration>) -> pb::ChangeMembersResponse {
    // A part of a millisecond counts as one.
    let millis = |waited: Duration| u64::try_from(waited.as_micros().div_ceil(1_000)).unwrap_or(u64::MAX);
    pb::ChangeMembersResponse {
        stage: Some(Stage::Done(configuration.into())),
        waited_ms: waited.map(millis),
    }
}

fn refused(refusal: &ChangeRefusal, next: &Configuration) -> Status {
    let words = ChangeDenied::of_core(refusal, next).to_string();
    match refusal {
        ChangeRefusal::NotLeading | ChangeRefusal::Deposed => status::unavailable(&words, Fate::NotProposed),
        ChangeRefusal::NoChange
        | ChangeRefusal::OtherEra { .. }
        | ChangeRefusal::UnderWay
        | ChangeRefusal::Never { .. }
        | ChangeRefusal::VotedAhead(_)
        | ChangeRefusal::Silent(_)
        | ChangeRefusal::TooSlow
        | ChangeRefusal::Another => status::not_wanted(words),
    }
}

fn unknown() -> Status {
    let text =
        "this proposer leads no more: whether the change is made is not known. Repeat the same request";
    status::unavailable(text, Fate::OutcomeUnknown)
}

#[cfg(test)]
mod tests;
