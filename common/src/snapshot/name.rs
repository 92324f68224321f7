//! Names of snapshot files on the disks of acceptors and learners: the end, and the beginning of the SHA-256.

use super::HASH_BYTES;
use crate::paxos::slot::Slot;

/// Number of bytes of the SHA-256 in a name.
const NAMED_BYTES: usize = 4;

/// The name of a snapshot file, as in `snapshot-51200-0ab100ff.pxs`.
pub fn file_name(to: Slot, sha256: &[u8; HASH_BYTES]) -> String {
    let [a, b, c, d, ..] = *sha256;
    written(to, [a, b, c, d])
}

/// The end of the snapshot and the beginning of the SHA-256 in the name of a snapshot file. `None`: [`file_name`] makes
/// no such name, so the file belongs to an operator.
pub fn parse_file_name(name: &str) -> Option<(Slot, [u8; NAMED_BYTES])> {
    let (to, hash) = name
        .strip_prefix("snapshot-")?
        .strip_suffix(".pxs")?
        .split_once('-')?;
    let to = Slot::new(to.parse().ok()?).ok()?;
    let hash = u32::from_str_radix(hash, 16).ok()?.to_be_bytes();
    // Numbers with a sign, leading zeros or capital letters are not exact.
    (written(to, hash) == name).then_some((to, hash))
}

fn written(to: Slot, hash: [u8; NAMED_BYTES]) -> String {
    let hash = u32::from_be_bytes(hash);
    format!("snapshot-{to}-{hash:08x}.pxs")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_is_named_after_its_end_and_its_hash() {
        let mut sha256 = [7; HASH_BYTES];
        sha256[..4].copy_from_slice(&[0x0a, 0xb1, 0x00, 0xff]);
        let to = Slot::new(51_200).unwrap();
        let name = file_name(to, &sha256);
        assert_eq!(name, "snapshot-51200-0ab100ff.pxs");
        assert_eq!(parse_file_name(&name), Some((to, [0x0a, 0xb1, 0x00, 0xff])));
    }

    #[test]
    fn only_exact_names_are_names_of_snapshot_files() {
        for name in [
            "",
            "snapshot-.pxs",
            "snapshot-5.pxs",
            "snapshot-5-0ab100f.pxs",
            "snapshot-5-0ab100ff0.pxs",
            "snapshot-5-0AB100FF.pxs",
            "snapshot-05-0ab100ff.pxs",
            "snapshot-+5-0ab100ff.pxs",
            "snapshot-5-+ab100ff.pxs",
            "snapshot--0ab100ff.pxs",
            "snapshot-monday-0ab100ff.pxs",
            "snapshot-9223372036854775808-0ab100ff.pxs",
            "snapshot-5-0ab100ff.pxs.partial",
            "my-snapshot-5-0ab100ff.pxs",
            "backup.pxs",
        ] {
            assert_eq!(parse_file_name(name), None, "{name}");
        }
    }
}
