//! The records in memory, and the content of a page.

use paxos_common::paxos::value::Value;

use super::*;

fn slot(number: u64) -> Slot {
    Slot::new(number).unwrap()
}

fn record(number: u64, bytes: usize) -> Arc<Record> {
    Arc::new(Record {
        slot: slot(number),
        value: Value::from_stored(vec![0; bytes].into(), Default::default()),
        commands: Vec::new(),
        judgements: Vec::new(),
    })
}

fn page(recent: &Recent, from: u64) -> Option<Vec<u64>> {
    let page = recent.page(slot(from))?;
    Some(page.iter().map(|record| record.slot.get()).collect())
}

#[test]
fn what_is_not_on_disk_stays_in_memory_however_much_it_is() {
    let most = RECENT_SLOTS as u64;
    let mut recent = Recent::new(slot(5));
    for number in 5..5 + 2 * most {
        recent.push(record(number, 0));
    }
    assert_eq!(page(&recent, 5).unwrap()[0], 5);
    recent.made_durable(slot(10));
    assert_eq!(page(&recent, 9), None);
    assert_eq!(page(&recent, 10).unwrap()[0], 10);
    recent.made_durable(slot(5 + 2 * most));
    assert_eq!(page(&recent, 4 + most), None);
    assert_eq!(page(&recent, 5 + most).unwrap()[0], 5 + most);
}

#[test]
fn bytes_in_memory_are_bounded_too() {
    let mut recent = Recent::new(Slot::ZERO);
    for number in 0..20 {
        recent.push(record(number, RECENT_BYTES / 8));
        recent.made_durable(slot(number + 1));
    }
    assert_eq!(recent.records.len(), 8);
    assert_eq!(recent.bytes, RECENT_BYTES);
}

#[test]
fn page_is_bounded_and_holds_at_least_one_slot() {
    let mut recent = Recent::new(Slot::ZERO);
    let page_bytes = PAGE_BYTES_MAX;
    for (number, bytes) in [page_bytes / 2, page_bytes / 2, 1, 3 * page_bytes, 1]
        .into_iter()
        .enumerate()
    {
        recent.push(record(number as u64, bytes));
    }
    assert_eq!(page(&recent, 0).unwrap(), [0, 1]);
    assert_eq!(page(&recent, 2).unwrap(), [2]);
    assert_eq!(page(&recent, 3).unwrap(), [3]);
    assert_eq!(page(&recent, 4).unwrap(), [4]);
    assert_eq!(page(&recent, 5).unwrap(), [0; 0]);
    for number in 5..5 + 2 * PAGE_SLOTS_MAX {
        recent.push(record(number, 0));
    }
    assert_eq!(page(&recent, 5).unwrap().len() as u64, PAGE_SLOTS_MAX);
}
