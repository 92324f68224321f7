//! Calls: a client's reads and writes of a few registers, recorded in a history as the calls happen.

use paxos_client::{Client, Condition as Asks, Current, PageRequest, Register, Written};
use rand::RngExt as _;

use super::{Answer, Asked, Condition, Found, Held, Recorder};

const KEYS: [&str; 3] = ["a", "b", "c"];

/// A client that reads and writes, one call at a time.
pub struct Caller {
    pub client: Client,
    pub recorder: Recorder,
    /// Unique among all callers.
    pub number: u64,
}

pub fn held(register: &Register) -> Held {
    Held {
        value: String::from_utf8(register.value.to_vec()).unwrap(),
        version: register.version.into(),
    }
}

impl Caller {
    /// A random key among the keys shared by all callers.
    pub fn any_key() -> &'static str {
        KEYS[rand::rng().random_range(0..KEYS.len())]
    }

    /// Reads a key. The error gives the reason for a failed read.
    pub async fn read(&self, key: &str) -> Result<Option<Register>, String> {
        let call = self.recorder.begin(self.number, key, Asked::Read);
        let prefix = key.to_owned();
        match self.client.get_prefix(prefix, PageRequest::default()).await {
            Ok(page) => {
                let found = page.registers.into_iter().find(|register| register.key == key);
                call.answered(Answer::Read {
                    found: found.as_ref().map(held),
                    applied_to: page.applied_to.get(),
                });
                Ok(found)
            }
            Err(error) => {
                call.without_effect();
                Err(format!("read {key}: {error}"))
            }
        }
    }

    /// Puts or deletes a key in the caller's `step`, under a random condition on the `seen` register. The error gives
    /// the reason for the missing answer.
    pub async fn write(&self, key: &str, step: u64, seen: Option<Register>) -> Result<(), String> {
        let (recorded, condition) = match rand::random_range(0..3) {
            0 => (Condition::Always, Asks::Always),
            1 => (Condition::Absent, Asks::Absent),
            _ => match &seen {
                Some(register) => (Condition::Holds(held(register)), Asks::Version(register.version)),
                None => (Condition::Absent, Asks::Absent),
            },
        };
        let value = format!("{}.{step}", self.number);
        let deletes = rand::random_bool(0.25);
        let asked = if deletes {
            Asked::Delete { condition: recorded }
        } else {
            Asked::Put {
                value: value.clone(),
                condition: recorded,
            }
        };
        let call = self.recorder.begin(self.number, key, asked);
        let written = if deletes {
            self.client.delete_if(key.to_owned(), condition).await
        } else {
            self.client.put_if(key.to_owned(), value, condition).await
        };
        match written {
            Ok(Written::Applied { version }) => call.answered(Answer::Applied(version.into())),
            Ok(Written::ConditionFailed { version, current }) => call.answered(Answer::Failed {
                at: version.into(),
                found: match current {
                    Current::Absent => Found::Nothing,
                    Current::Register(register) => Found::Held(held(&register)),
                    Current::ValueGone(version) => Found::Gone(version.into()),
                    unknown => panic!("{unknown:?} is not known here"),
                },
            }),
            Ok(unknown) => panic!("{unknown:?} is not known here"),
            Err(error) => {
                if error.had_no_effect() {
                    call.without_effect();
                } else {
                    call.unknown();
                }
                return Err(format!("write {key}: {error}"));
            }
        }
        Ok(())
    }
}
