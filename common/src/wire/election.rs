//! The record of an election: the content of the election's register. See `election.proto`.

use std::ops::RangeInclusive;

use paxos_proto::v1::Holder;
use prost::Message as _;

/// The time to live of a holder, in milliseconds: half a second to an hour.
pub const TTL_MS: RangeInclusive<u64> = 500..=3_600_000;

/// Whether `value` is a record as a candidate writes it: with a valid time to live, and without unknown fields.
pub fn is_record(value: &[u8]) -> bool {
    let holder = Holder::decode(value);
    holder.is_ok_and(|holder| TTL_MS.contains(&holder.ttl_ms) && holder.encoded_len() == value.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_records_with_a_valid_time_to_live_are_records() {
        let record = |ttl_ms| {
            let candidate = b"node-1".as_slice().into();
            let holder = Holder {
                candidate,
                token: None,
                ttl_ms,
            };
            holder.encode_to_vec()
        };
        for ttl_ms in [500, 3_600_000] {
            assert!(is_record(&record(ttl_ms)), "{ttl_ms}");
        }
        for ttl_ms in [0, 499, 3_600_001] {
            assert!(!is_record(&record(ttl_ms)), "{ttl_ms}");
        }
        // A field that no record has.
        assert!(!is_record(&[record(500), vec![0x22, 1, 7]].concat()));
        assert!(!is_record(b""));
        assert!(!is_record(b"other"));
    }
}
