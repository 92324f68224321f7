//! Answers `Read`: registers, from the present state.

use bytes::Bytes;
use paxos_common::{
    paxos::{
        machine::{KeyedRegister, Machine, Register},
        slot::Version,
    },
    wire::{
        command::{KEY_BYTES_MAX, check_key, check_prefix},
        status::invalid_argument,
    },
};
use paxos_proto::v1::{self as pb, read_request};
use tonic::Status;

/// Maximum number of registers in an answer; also the default without a limit in the request.
const REGISTERS_MAX: usize = 1_000;
/// Bytes of keys and values after which an answer gets no further register. Even with one more register of the largest
/// size, the answer fits a message.
const ANSWER_BYTES: usize = 2 * 1024 * 1024;

/// A valid request.
#[derive(Debug)]
pub(super) struct ReadQuery {
    target: ReadTarget,
    pub(super) consistency: Consistency,
}

#[derive(Debug)]
enum ReadTarget {
    Key(Bytes),
    Prefix {
        prefix: Bytes,
        after: Option<Bytes>,
        limit: usize,
    },
}

/// How recent the state must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Consistency {
    Linearizable,
    AtLeast(Version),
    Local,
}

impl ReadQuery {
    /// Checks a request.
    ///
    /// # Errors
    /// INVALID_ARGUMENT, naming the limit.
    pub(super) fn new(request: pb::ReadRequest) -> Result<Self, Status> {
        let consistency = match request.consistency {
            None | Some(read_request::Consistency::Linearizable(pb::Linearizable {})) => {
                Consistency::Linearizable
            }
            Some(read_request::Consistency::AtLeast(version)) => Consistency::AtLeast(read_version(version)?),
            Some(read_request::Consistency::Local(pb::Local {})) => Consistency::Local,
        };
        let limit = usize::try_from(request.limit).unwrap_or(usize::MAX);
        let target = match request.target {
            None => return Err(invalid_argument("the read names nothing: give a key or a prefix")),
            Some(read_request::Target::Key(_)) if limit > 0 || !request.after.is_empty() => {
                return Err(invalid_argument(
                    "limit and after belong to a prefix: leave them out when reading one key",
                ));
            }
            Some(read_request::Target::Key(key)) => ReadTarget::Key(read_key(key)?),
            Some(read_request::Target::Prefix(prefix)) => ReadTarget::Prefix {
                after: read_after(request.after, &prefix)?,
                prefix: read_prefix(prefix)?,
                limit: match limit {
                    0 => REGISTERS_MAX,
                    1..=REGISTERS_MAX => limit,
                    _ => {
                        return Err(invalid_argument(format!(
                            "the limit is {limit}: at most {REGISTERS_MAX} registers come at a time"
                        )));
                    }
                },
            },
        };
        Ok(Self { target, consistency })
    }

    /// The answer, from the present state.
    pub(super) fn answer(&self, machine: &Machine) -> pb::ReadResponse {
        let mut answer = pb::ReadResponse {
            applied_to: machine.applied_to().get(),
            ..pb::ReadResponse::default()
        };
        match &self.target {
            ReadTarget::Key(key) => {
                let held = machine.register(key).map(register);
                answer.registers.extend(held);
            }
            ReadTarget::Prefix { prefix, after, limit } => {
                let mut bytes = 0;
                for held in machine.registers(prefix, after.as_deref()) {
                    if answer.registers.len() == *limit || bytes >= ANSWER_BYTES {
                        let last = answer.registers.last();
                        answer.next_after = last.map(|last| last.key.clone()).unwrap_or_default();
                        break;
                    }
                    bytes += held.key().len() + held.value().len();
                    answer.registers.push(register(held));
                }
            }
        }
        answer
    }
}

/// A register on the wire.
pub(super) fn register(held: &KeyedRegister) -> pb::Register {
    let (key, Register { value, version }) = held.shared();
    let version = Some(version.into());
    pb::Register { key, value, version }
}

/// Checks a key.
pub(super) fn read_key(key: Bytes) -> Result<Bytes, Status> {
    check_key(&key).map_err(|error| invalid_argument(error.to_string()))?;
    Ok(key)
}

/// Checks a prefix. Unlike a key, a prefix may be empty.
pub(super) fn read_prefix(prefix: Bytes) -> Result<Bytes, Status> {
    check_prefix(&prefix).map_err(|error| invalid_argument(error.to_string()))?;
    Ok(prefix)
}

fn read_after(after: Bytes, prefix: &Bytes) -> Result<Option<Bytes>, Status> {
    if after.is_empty() {
        return Ok(None);
    }
    if after.len() > KEY_BYTES_MAX || !after.starts_with(prefix) {
        return Err(invalid_argument(
            "after is no key of the prefix: give next_after of the response before",
        ));
    }
    Ok(Some(after))
}

/// Checks a version.
pub(super) fn read_version(version: pb::Version) -> Result<Version, Status> {
    Version::try_from(version).map_err(|error| invalid_argument(error.to_string()))
}

#[cfg(test)]
mod tests;
