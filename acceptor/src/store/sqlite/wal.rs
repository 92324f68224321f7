//! Walks a write-ahead log as SQLite does, without opening it, and distinguishes a crash from damage.
//!
//! SQLite ends the log silently before the first frame that does not verify. After a crash this is right: each commit
//! is synced before the next commit begins, so a crash tears the last commit only. A frame of a *later* commit behind
//! the first bad frame proves that the log held more. The walk looks for such a frame.
//!
//! Two cases stay undecided here, and the file `COMMITS` decides both: damage in the last commit, and a log that is cut
//! or removed.

use std::{
    fs::File,
    io::{self, BufReader, ErrorKind, Read},
    path::Path,
};

use paxos_common::sqlite::wal_format::{
    Chain, FRAME_HEADER_BYTES, HEADER_BYTES, SALTS, ends_commit, page_of, read_whole, stored_sums,
};

/// Size of a disk sector, in bytes. A disk writes a sector whole or not at all; larger sectors are multiples of this
/// size.
const SECTOR_BYTES: u64 = 512;
/// Bytes of one read from the file.
const BUFFER_BYTES: usize = 256 * 1024;

/// Proof that the log held more commits than SQLite finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Damage {
    /// Offset of the first frame, or of the header, that does not verify.
    pub(super) offset: u64,
}

/// Walks the log `file`; a missing file is an empty log. Returns the number of commits found by SQLite that wrote `page`
/// of the database, or proof of damage. Memory: one page, for a log of any length.
///
/// # Errors
/// The file cannot be read.
pub(super) fn walk(file: &Path, page: u32) -> io::Result<Result<u64, Damage>> {
    match File::open(file) {
        Ok(file) => walk_log(BufReader::with_capacity(BUFFER_BYTES, file), page),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Ok(0)),
        Err(error) => Err(error),
    }
}

fn walk_log(mut log: impl Read, page: u32) -> io::Result<Result<u64, Damage>> {
    let mut header = [0; HEADER_BYTES];
    if !read_whole(&mut log, &mut header)? {
        return Ok(Ok(0));
    }
    let Some(start) = Chain::start(&header) else {
        // SQLite syncs the header before the first frame, so frames never stand behind a torn header.
        let damage = Damage { offset: 0 };
        return Ok(if holds_anything(log, &header)? {
            Err(damage)
        } else {
            Ok(0)
        });
    };
    let mut frames = Frames::new(start, page);
    let mut frame = vec![0; FRAME_HEADER_BYTES + start.page_bytes];
    while read_whole(&mut log, &mut frame)? {
        if let Err(damage) = frames.take(&frame) {
            return Ok(Err(damage));
        }
    }
    Ok(Ok(frames.commits))
}

/// The frames read so far, in bounded memory for a log of any length.
#[derive(Clone, Copy)]
struct Frames {
    /// Verifies the next frame.
    chain: Chain,
    /// Offset of the next frame.
    offset: u64,
    /// The page of the database with counted writes.
    page: u32,
    /// Number of the commits that wrote the page.
    commits: u64,
    /// The commit that has not ended yet wrote the page.
    is_written: bool,
    /// Offset of the first frame that does not verify.
    bad: Option<u64>,
    /// A commit ended at or behind the first bad frame.
    ended: bool,
}

impl Frames {
    fn new(chain: Chain, page: u32) -> Self {
        Self {
            chain,
            offset: HEADER_BYTES as u64,
            page,
            commits: 0,
            is_written: false,
            bad: None,
            ended: false,
        }
    }

    fn take(&mut self, frame: &[u8]) -> Result<(), Damage> {
        let offset = self.offset;
        self.offset += frame.len() as u64;
        let is_present = frame[SALTS] == self.chain.salts;
        let verifies = self.chain.verifies(frame);
        let ends_commit = ends_commit(frame);
        // Behind a bad frame the chain continues from the checksum stored in the bad frame.
        self.chain.sums = stored_sums(frame);
        match self.bad {
            None if verifies => {
                self.is_written |= page_of(frame) == self.page;
                if ends_commit {
                    self.commits += u64::from(std::mem::take(&mut self.is_written));
                }
            }
            None | Some(_) => {
                let bad = *self.bad.get_or_insert(offset);
                if is_present && self.ended {
                    return Err(Damage { offset: bad });
                }
                // A torn header may show the mark of an older frame, but only where a sector ends inside the header.
                let is_whole = offset % SECTOR_BYTES + SALTS.end as u64 <= SECTOR_BYTES;
                self.ended |= is_present && ends_commit && (verifies || is_whole);
            }
        }
        Ok(())
    }
}

/// Whether there is more than a header, and more than the zeros of a file that was extended but not written.
fn holds_anything(mut log: impl Read, header: &[u8; HEADER_BYTES]) -> io::Result<bool> {
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut is_zero = header.iter().all(|&byte| byte == 0);
    let mut more = false;
    loop {
        let read = log.read(&mut buffer)?;
        if read == 0 {
            return Ok(more && !is_zero);
        }
        more = true;
        is_zero &= buffer[..read].iter().all(|&byte| byte == 0);
    }
}

#[cfg(test)]
mod tests {
    use paxos_common::sqlite::wal_format::MAGIC;

    use super::*;

    const PAGE: usize = 512;
    const FRAME: usize = FRAME_HEADER_BYTES + PAGE;

    /// Writes a log as SQLite does.
    struct WalWriter {
        chain: Chain,
        bytes: Vec<u8>,
    }

    impl WalWriter {
        fn new(salts: [u8; 8], big_endian: bool) -> Self {
            let mut bytes = Vec::new();
            bytes.extend((MAGIC | u32::from(big_endian)).to_be_bytes());
            bytes.extend(3_007_000u32.to_be_bytes());
            bytes.extend(u32::try_from(PAGE).unwrap().to_be_bytes());
            bytes.extend([0; 4]);
            bytes.extend(salts);
            let mut chain = Chain {
                sums: (0, 0),
                salts,
                page_bytes: PAGE,
                big_endian,
            };
            chain.sums = chain.add((0, 0), &bytes);
            bytes.extend(chain.sums.0.to_be_bytes());
            bytes.extend(chain.sums.1.to_be_bytes());
            Self { chain, bytes }
        }

        /// Adds a commit with this number of pages.
        fn commit(&mut self, pages: usize) {
            for page in 1..=pages {
                let mut frame = vec![0; FRAME];
                frame[3] = u8::try_from(page).unwrap();
                frame[7] = u8::from(page == pages);
                frame[SALTS].copy_from_slice(&self.chain.salts);
                let fill = u8::try_from(self.bytes.len() % 251).unwrap();
                frame[FRAME_HEADER_BYTES..].fill(fill);
                self.chain.sums = self.chain.sums_after(&frame);
                frame[16..20].copy_from_slice(&self.chain.sums.0.to_be_bytes());
                frame[20..24].copy_from_slice(&self.chain.sums.1.to_be_bytes());
                self.bytes.extend(frame);
            }
        }
    }

    fn log(commits: usize, pages: usize) -> Vec<u8> {
        let mut writer = WalWriter::new(*b"saltsalt", false);
        (0..commits).for_each(|_| writer.commit(pages));
        writer.bytes
    }

    fn found(bytes: &[u8]) -> Result<u64, u64> {
        // Every commit of these logs writes page 1.
        let found = walk_log(bytes, 1).unwrap();
        found.map_err(|damage| damage.offset)
    }

    fn frame_at(frame: usize) -> usize {
        HEADER_BYTES + frame * FRAME
    }

    #[test]
    fn commits_of_a_sound_log_are_counted_in_both_byte_orders() {
        for big_endian in [false, true] {
            let mut writer = WalWriter::new([7; 8], big_endian);
            (1..=5).for_each(|pages| writer.commit(pages));
            assert_eq!(found(&writer.bytes), Ok(5));
        }
        assert_eq!((found(&[]), found(&log(0, 1))), (Ok(0), Ok(0)));
    }

    #[test]
    fn memory_of_a_walk_does_not_grow_with_the_log() {
        fn owns_no_memory<T: Copy>() {}
        owns_no_memory::<Frames>();
    }

    #[test]
    fn commits_are_counted_for_each_page() {
        let mut writer = WalWriter::new([7; 8], false);
        [3, 1, 2].into_iter().for_each(|pages| writer.commit(pages));
        // The last commit lacks its last frame.
        writer.commit(2);
        writer.bytes.truncate(writer.bytes.len() - FRAME);
        let commits_of = |page| walk_log(&writer.bytes[..], page).unwrap().unwrap();
        assert_eq!([1, 2, 3, 4].map(commits_of), [3, 2, 1, 0]);
    }

    #[test]
    fn every_flipped_bit_before_the_last_commits_is_damage() {
        let sound = log(4, 2);
        // The last two commits are left out: behind the first bad frame there must be a whole commit and one frame
        // more.
        for byte in 0..frame_at(4) {
            let mut bytes = sound.clone();
            bytes[byte] ^= 1 << (byte % 8);
            let offset = (byte.max(HEADER_BYTES) - HEADER_BYTES) / FRAME;
            let expected = if byte < HEADER_BYTES { 0 } else { frame_at(offset) };
            assert_eq!(found(&bytes), Err(expected as u64), "byte {byte}");
        }
    }

    #[test]
    fn flipped_bit_in_the_last_commit_is_a_torn_commit() {
        let sound = log(4, 2);
        let mark = frame_at(6) + 4..frame_at(6) + 8;
        for byte in frame_at(6)..sound.len() {
            let mut bytes = sound.clone();
            bytes[byte] ^= 0x10;
            // No crash leaves a mark in the middle of a commit.
            let expected = if mark.contains(&byte) {
                Err(frame_at(6) as u64)
            } else {
                Ok(3)
            };
            assert_eq!(found(&bytes), expected, "byte {byte}");
        }
    }

    #[test]
    fn last_commit_may_be_torn_in_any_order() {
        let mut writer = WalWriter::new([9; 8], false);
        writer.commit(3);
        let old = writer.bytes.len();
        writer.commit(4);
        for kept in 0..15u32 {
            let mut bytes = writer.bytes.clone();
            for frame in (0..4).filter(|frame| kept & (1 << frame) == 0) {
                let at = old + frame * FRAME;
                bytes[at..at + FRAME].fill(0);
            }
            assert_eq!(found(&bytes), Ok(1), "frames {kept:b} of 4");
        }
    }

    #[test]
    fn frames_of_an_older_log_behind_the_end_are_no_damage() {
        let mut writer = WalWriter::new(*b"newsalts", false);
        writer.commit(2);
        let mut bytes = writer.bytes;
        bytes.extend_from_slice(&log(6, 1)[frame_at(2)..]);
        assert_eq!(found(&bytes), Ok(1));
    }

    #[test]
    fn cut_log_has_fewer_commits() {
        let sound = log(4, 2);
        assert_eq!(found(&sound[..frame_at(6)]), Ok(3));
        assert_eq!(found(&sound[..frame_at(5) + 100]), Ok(2));
        assert_eq!(found(&sound[..20]), Ok(0));
    }

    #[test]
    fn blank_wal_header_is_damage_only_before_written_frames() {
        assert_eq!(found(&[0; 3 * FRAME]), Ok(0));
        let mut bytes = log(2, 2);
        bytes[..HEADER_BYTES].fill(0);
        assert_eq!(found(&bytes), Err(0));
    }
}
