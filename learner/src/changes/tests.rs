//! The messages to a watcher about pages of the log.

use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt as _, stream};
use paxos_common::{paxos::value::Value, wire::command::append};

use super::*;

fn slot(number: u64) -> Slot {
    Slot::new(number).unwrap()
}

fn command(operation: Operation) -> pb::Command {
    pb::Command {
        session: None,
        operation: Some(operation),
    }
}

fn put(key: &str, value: &str) -> pb::Command {
    command(Operation::Put(pb::Put {
        key: Bytes::copy_from_slice(key.as_bytes()),
        value: Bytes::copy_from_slice(value.as_bytes()),
        condition: None,
    }))
}

fn delete(key: &str) -> pb::Command {
    command(Operation::Delete(pb::Delete {
        key: Bytes::copy_from_slice(key.as_bytes()),
        condition: None,
    }))
}

const APPLIED: Judgement = Judgement::Executed(Outcome::Applied);
const FAILED: Judgement = Judgement::Executed(Outcome::ConditionFailed { current: None });

fn page(from: u64, slots: &[&[(pb::Command, Judgement)]]) -> Result<RecordPage, LogReadError> {
    let records = slots.iter().zip(from..).map(|(commands, number)| {
        let (commands, judgements) = commands.iter().cloned().unzip();
        Arc::new(Record {
            slot: slot(number),
            value: Value::noop(),
            commands,
            judgements,
        })
    });
    Ok(RecordPage {
        records: records.collect(),
        next: slot(from + slots.len() as u64),
    })
}

/// Changes as “version key=value”, or “version key” when deleted; and the slot reached by each message.
async fn changes_of(
    target: Target,
    from: Version,
    pages: Vec<Result<RecordPage, LogReadError>>,
) -> Vec<(Vec<String>, u64)> {
    changes(stream::iter(pages), target, from, Room::default())
        .map(|page| {
            let page = page.unwrap();
            let text = |change: &pb::Change| {
                let version = Version::try_from(change.version.unwrap()).unwrap();
                let key = String::from_utf8(change.key.to_vec()).unwrap();
                match &change.change {
                    Some(pb::change::Change::Value(value)) => {
                        format!("{version} {key}={}", String::from_utf8(value.to_vec()).unwrap())
                    }
                    Some(pb::change::Change::Deleted(_)) => format!("{version} {key}"),
                    None => panic!("a change without a change"),
                }
            };
            (page.changes.iter().map(text).collect(), page.next.get())
        })
        .collect()
        .await
}

#[tokio::test]
async fn watcher_gets_only_effective_changes_of_its_registers_in_order() {
    let pages = || {
        vec![
            page(
                3,
                &[
                    &[
                        (put("a", "0"), APPLIED),
                        (put("a", "1"), APPLIED),
                        (put("a", "2"), FAILED),
                        (put("b", "3"), APPLIED),
                        (append(Bytes::from_static(b"a")), APPLIED),
                    ],
                    &[],
                ],
            ),
            // No change in this page matters to a watcher: the page is passed over.
            page(
                5,
                &[&[(put("c", "4"), APPLIED), (put("a", "5"), Judgement::Expired)]],
            ),
            page(6, &[&[(delete("ab"), APPLIED), (delete("a"), APPLIED)]]),
            page(7, &[]),
        ]
    };
    let from = Version {
        slot: slot(3),
        offset: 1,
    };
    let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
    assert_eq!(
        changes_of(Target::Key("a".into()), from, pages()).await,
        [
            (texts(&[]), 3),
            (texts(&["3.1 a=1"]), 5),
            (texts(&["6.1 a"]), 7),
            (texts(&[]), 7)
        ]
    );
    assert_eq!(
        changes_of(Target::Prefix("a".into()), from, pages()).await,
        [
            (texts(&[]), 3),
            (texts(&["3.1 a=1"]), 5),
            (texts(&["6.0 ab", "6.1 a"]), 7),
            (texts(&[]), 7)
        ]
    );
    let all = changes_of(Target::Prefix(Bytes::new()), from, pages()).await;
    assert_eq!(all[1].0, ["3.1 a=1", "3.3 b=3"]);
    assert_eq!(all[2].0, ["5.0 c=4"]);
}
