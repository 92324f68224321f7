//! Answers `Result`: the outcome of a command.

use paxos_common::{
    paxos::{
        command::SessionStamp,
        machine::{Judgement, Machine, Outcome, sessions::Recorded},
        slot::Version,
    },
    service::server::{Room, rights},
    trace::SpanContext,
    wire::{
        command::read_stamp,
        opener::bind_stamp,
        status::{invalid_argument, kept_slots_of, out_of_range},
    },
};
use paxos_proto::v1::{self as pb, command::Operation, duplicate, result_response};
use prost::Message as _;
use tonic::{Extensions, Status};

use super::{ServingState, reads::register, streams};
use crate::record::Record;

impl ServingState {
    /// The outcome of the command at a version, once applied.
    pub(super) async fn result_of(
        &self,
        version: Version,
        room: &Room,
        trace: Option<&SpanContext>,
    ) -> Result<pb::ResultResponse, Status> {
        self.check_kept(version.slot)?;
        self.reach(version.slot, trace).await?;
        loop {
            let record = self
                .history
                .record(version.slot)
                .await
                .map_err(|error| streams::read_failed(&error, &self.history, &self.installing))?
                .ok_or_else(|| Status::internal("an applied slot is missing in the history"))?;
            let answer = self
                .knowledge
                .machine(|machine| of_version(version, &record, machine))?;
            let bytes = answer.encoded_len();
            if room.is_enough(bytes) {
                room.built(&answer);
                return Ok(answer);
            }
            // As for a read.
            drop((record, answer));
            room.take_soon(bytes).await?;
        }
    }

    /// The outcome of a session's command.
    pub(super) async fn result_of_session(
        &self,
        stamp: &pb::SessionStamp,
        room: &Room,
        trace: Option<&SpanContext>,
    ) -> Result<pb::ResultResponse, Status> {
        let stamp = read_stamp(stamp).map_err(|error| invalid_argument(error.to_string()))?;
        self.pass_barrier(trace).await?;
        let recorded = self.knowledge.machine(|machine| recorded(stamp, machine))?;
        match self.result_of(recorded.version, room, trace).await {
            // Sessions live longer than the log.
            Err(status) if kept_slots_of(&status).is_some() => {
                let answer = |machine: &Machine| of_recorded(recorded, machine);
                Ok(self.knowledge.machine(answer))
            }
            other => other,
        }
    }
}

/// Binds a stamp to the caller, as the proposer did for the commands of the session.
pub(super) fn bind(stamp: &mut pb::SessionStamp, extensions: &Extensions) {
    if let Some(name) = rights(extensions).caller_name() {
        bind_stamp(stamp, name);
    }
}

/// The outcome of the command at `version`, in `record`.
///
/// # Errors
/// OUT_OF_RANGE and ABORTED, as in the contract.
pub(super) fn of_version(
    version: Version,
    record: &Record,
    machine: &Machine,
) -> Result<pb::ResultResponse, Status> {
    let (_, command, judgement) = record
        .commands()
        .nth(version.offset.into())
        .ok_or_else(|| match record.commands.len() {
            0 => out_of_range(format!("slot {} holds no commands", record.slot)),
            count => out_of_range(format!(
                "slot {} holds {count} commands, offsets 0 to {}",
                record.slot,
                count - 1
            )),
        })?;
    let key = command.operation.as_ref().and_then(key_of);
    let outcome = match judgement {
        Judgement::Executed(outcome) => match message_of(outcome, key, machine) {
            OutcomeMessage::Applied(applied) => result_response::Outcome::Applied(applied),
            OutcomeMessage::Failed(failed) => result_response::Outcome::ConditionFailed(failed),
        },
        Judgement::Duplicate { first, outcome } => {
            let outcome = match message_of(outcome, key, machine) {
                OutcomeMessage::Applied(applied) => duplicate::Outcome::Applied(applied),
                OutcomeMessage::Failed(failed) => duplicate::Outcome::ConditionFailed(failed),
            };
            result_response::Outcome::Duplicate(pb::Duplicate {
                first: Some(first.into()),
                outcome: Some(outcome),
            })
        }
        Judgement::Expired => return Err(expired()),
        Judgement::Foreign => return Err(foreign()),
        Judgement::Acknowledged => {
            return Err(out_of_range(
                "the command was skipped: its session had acknowledged this sequence before the command was applied",
            ));
        }
    };
    Ok(pb::ResultResponse {
        version: Some(version.into()),
        outcome: Some(outcome),
        applied_to: machine.applied_to().get(),
    })
}

/// The record of the command executed by a session under a sequence.
///
/// # Errors
/// ABORTED: the session is unknown, has expired, or has another opener. OUT_OF_RANGE: nothing is recorded.
fn recorded(stamp: SessionStamp, machine: &Machine) -> Result<Recorded, Status> {
    let session = machine.sessions().get(stamp.session).ok_or_else(expired)?;
    if session.is_foreign(stamp) {
        return Err(foreign());
    }
    let (sequence, acked_below) = (stamp.sequence, session.acked_below);
    match session.recorded.get(&sequence) {
        Some(recorded) => Ok(*recorded),
        None if sequence < acked_below => Err(out_of_range(format!(
            "outcomes of sequences below {acked_below} are acknowledged and not kept"
        ))),
        None => Err(out_of_range(format!(
            "no command with sequence {sequence} is applied yet"
        ))),
    }
}

/// The outcome of a command below the learned log: the key is not known any more.
fn of_recorded(recorded: Recorded, machine: &Machine) -> pb::ResultResponse {
    let outcome = match message_of(recorded.outcome, None, machine) {
        OutcomeMessage::Applied(applied) => result_response::Outcome::Applied(applied),
        OutcomeMessage::Failed(failed) => result_response::Outcome::ConditionFailed(failed),
    };
    pb::ResultResponse {
        version: Some(recorded.version.into()),
        outcome: Some(outcome),
        applied_to: machine.applied_to().get(),
    }
}

fn expired() -> Status {
    Status::aborted(
        "the session is unknown or has expired: the command had no effect; open a session for other commands, and \
         send this command again only if every earlier attempt was answered",
    )
}

fn foreign() -> Status {
    Status::aborted(
        "session.opener is not the opener of the session: the command had no effect; give the opener of the \
         OpenSession request, or open a session",
    )
}

enum OutcomeMessage {
    Applied(pb::Applied),
    Failed(pb::ConditionFailed),
}

fn message_of(outcome: Outcome, key: Option<&bytes::Bytes>, machine: &Machine) -> OutcomeMessage {
    let current = match outcome {
        Outcome::Applied => return OutcomeMessage::Applied(pb::Applied {}),
        Outcome::ConditionFailed { current } => current,
    };
    let Some(winner) = current else {
        return OutcomeMessage::Failed(pb::ConditionFailed::default());
    };
    // The register still holds the winner's value, or that value is gone.
    let held = key
        .and_then(|key| machine.register(key))
        .filter(|held| held.version() == winner);
    OutcomeMessage::Failed(pb::ConditionFailed {
        value_gone: held.is_none(),
        current: Some(match held {
            Some(held) => register(held),
            None => pb::Register {
                key: key.cloned().unwrap_or_default(),
                value: bytes::Bytes::new(),
                version: Some(winner.into()),
            },
        }),
    })
}

fn key_of(operation: &Operation) -> Option<&bytes::Bytes> {
    match operation {
        Operation::Put(put) => Some(&put.key),
        Operation::Delete(delete) => Some(&delete.key),
        Operation::Append(_) | Operation::OpenSession(_) => None,
    }
}
