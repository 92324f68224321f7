//! The digest chain and the marks.

use super::*;

fn value(slot: Slot) -> Value {
    Value::from_stored(Bytes::from(format!("value {slot}")), Bytes::new())
}

fn batch(from: u64, to: u64) -> Vec<(Slot, Value)> {
    let slot = |number| Slot::new(number).unwrap();
    slot(from).to(slot(to)).map(|slot| (slot, value(slot))).collect()
}

/// The digest as worded in the contract.
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
        progress.pass(*slot, value, None);
    }
    let reported: Vec<_> = progress
        .digests()
        .into_iter()
        .map(|digest| (digest.to, digest.digest))
        .collect();
    let expected = [2_100, 2_080, 2_048, 1_792, 1_024].map(|to| (to, Bytes::copy_from_slice(&naive(to))));
    assert_eq!(reported, expected);
}

#[test]
fn reports_hold_at_most_eight_digests_the_newest_first_and_none_twice() {
    let mut progress = Progress::default();
    for (slot, value) in &batch(0, 12 * MARK_SLOTS) {
        progress.pass(*slot, value, None);
    }
    let reported: Vec<_> = progress
        .digests()
        .iter()
        .map(|digest| digest.to / MARK_SLOTS)
        .collect();
    assert_eq!(reported, [12, 11, 11, 11, 10, 9, 8, 7]);
    for (slot, value) in &batch(12 * MARK_SLOTS, 12 * MARK_SLOTS + 343) {
        progress.pass(*slot, value, None);
    }
    let beyond: Vec<_> = progress
        .digests()
        .iter()
        .map(|digest| i64::try_from(digest.to).unwrap() - 12 * 1_024)
        .collect();
    assert_eq!(beyond, [343, 320, 288, 256, 0, -1_024, -2_048, -3_072]);
}

#[test]
fn learners_of_a_short_log_have_a_point_in_common_and_a_restart_keeps_it() {
    let mut one = Progress::default();
    let mut other = Progress::default();
    for (slot, value) in &batch(0, 430) {
        one.pass(*slot, value, None);
        if slot.get() < 405 {
            other.pass(*slot, value, None);
        }
    }
    let points =
        |progress: &Progress| -> Vec<u64> { progress.digests().iter().map(|digest| digest.to).collect() };
    assert_eq!(points(&one), [430, 416, 384, 256]);
    assert_eq!(points(&other), [405, 384, 352, 256]);
    // The content of a file, and the slots after the file's last mark.
    let mut recovered = Progress::recovered(other.latest(), VecDeque::new())
        .at_earlier_mark(Slot::ZERO)
        .unwrap();
    for (slot, value) in &batch(0, 405) {
        recovered.pass(*slot, value, None);
    }
    assert_eq!(recovered, other);
}

#[test]
fn digests_of_the_state_are_reported_where_known() {
    let state = |byte| StateDigest::from_slice(&[byte; 16]);
    let mut progress = Progress::default();
    for (slot, value) in &batch(0, 33) {
        progress.pass(*slot, value, None);
    }
    for (slot, value) in &batch(33, 64) {
        progress.pass(*slot, value, state(2));
    }
    progress.pass(Slot::new(64).unwrap(), &Value::noop(), state(1));
    let reported: Vec<_> = progress
        .digests()
        .into_iter()
        .map(|digest| (digest.to, digest.state.to_vec()))
        .collect();
    assert_eq!(reported, [(65, vec![1; 16]), (64, vec![2; 16]), (32, Vec::new())]);
}

#[test]
#[should_panic(expected = "in order")]
fn gap_is_never_applied() {
    let mut progress = Progress::default();
    progress.pass(Slot::new(1).unwrap(), &Value::noop(), None);
}
