//! The digest chain, and its marks.

use super::*;

fn value(slot: Slot) -> Value {
    Value::from_stored(Bytes::from(format!("value {slot}")), Bytes::new())
}

fn batch(from: u64, to: u64) -> Vec<(Slot, Value)> {
    let slot = |number| Slot::new(number).unwrap();
    slot(from).to(slot(to)).map(|slot| (slot, value(slot))).collect()
}

/// The digest as the contract words it.
fn naive(to: u64) -> [u8; 32] {
    let mut digest = [0; 32];
    for slot in 0..to {
        let mut input = digest.to_vec();
        input.extend(slot.to_be_bytes());
        input.extend(format!("value {slot}").as_bytes());
        digest = Sha256::digest(input).into();
    }
    digest
}

#[test]
fn digest_chain_equals_a_naive_one_and_is_marked_at_multiples() {
    let mut progress = Progress::default();
    assert_eq!(progress.digests().len(), 1);
    assert_eq!(progress.latest().digest.as_bytes(), &[0; 32]);
    for (slot, value) in &batch(0, 2_100) {
        progress.pass(*slot, value);
    }
    let told: Vec<_> = progress
        .digests()
        .into_iter()
        .map(|digest| (digest.to, digest.digest))
        .collect();
    let expected = [2_100, 2_048, 1_024].map(|to| (to, Bytes::copy_from_slice(&naive(to))));
    assert_eq!(told, expected);
}

#[test]
fn reports_hold_at_most_eight_digests_the_newest_first_and_none_twice() {
    let mut progress = Progress::default();
    for (slot, value) in &batch(0, 12 * MARK_SLOTS) {
        progress.pass(*slot, value);
    }
    let told: Vec<_> = progress
        .digests()
        .iter()
        .map(|digest| digest.to / MARK_SLOTS)
        .collect();
    assert_eq!(told, [12, 11, 10, 9, 8, 7, 6]);
    progress.pass(progress.applied_to(), &Value::noop());
    assert_eq!(progress.digests().len(), 8);
}

#[test]
#[should_panic(expected = "in order")]
fn gap_is_never_applied() {
    let mut progress = Progress::default();
    progress.pass(Slot::new(1).unwrap(), &Value::noop());
}
