//! The format of a write-ahead log, <https://sqlite.org/fileformat2.html#walformat>: read without SQLite, because SQLite
//! may change a log that it opens.

use std::{
    io::{self, ErrorKind, Read},
    ops::{Range, RangeInclusive},
};

/// Size of the header of a log, in bytes.
pub const HEADER_BYTES: usize = 32;
/// Size of the header of a frame, in bytes. One page follows.
pub const FRAME_HEADER_BYTES: usize = 24;
/// Offset of the salts in the header of a frame.
pub const SALTS: Range<usize> = 8..16;
/// The lowest bit of the magic number gives the byte order of the checksums.
pub const MAGIC: u32 = 0x377f_0682;
/// Page sizes of SQLite, in bytes (inclusive).
const PAGE_BYTES: RangeInclusive<usize> = 512..=65_536;

/// The running checksum of a log, with the fields of the header.
#[derive(Clone, Copy, Debug)]
pub struct Chain {
    /// The checksum of everything before the next frame.
    pub sums: (u32, u32),
    /// The salts of every frame of this log. Frames of an older log in the same file have other salts.
    pub salts: [u8; 8],
    /// Size of a page.
    pub page_bytes: usize,
    /// Byte order of the words in the checksums.
    pub big_endian: bool,
}

impl Chain {
    /// The chain behind the header; `None` when SQLite takes the log for empty.
    pub fn start(header: &[u8; HEADER_BYTES]) -> Option<Self> {
        let magic = number(header, 0);
        let page_bytes = usize::try_from(number(header, 8)).ok()?;
        let mut chain = Self {
            sums: (0, 0),
            salts: header[16..24].try_into().ok()?,
            page_bytes,
            big_endian: magic & 1 == 1,
        };
        chain.sums = chain.add(chain.sums, &header[..24]);
        let is_sound = magic & !1 == MAGIC
            && page_bytes.is_power_of_two()
            && PAGE_BYTES.contains(&page_bytes)
            && chain.sums == (number(header, 24), number(header, 28));
        is_sound.then_some(chain)
    }

    /// The checksum after `frame`, a header and a page.
    pub fn sums_after(&self, frame: &[u8]) -> (u32, u32) {
        let sums = self.add(self.sums, &frame[..8]);
        self.add(sums, &frame[FRAME_HEADER_BYTES..])
    }

    /// Whether SQLite reads `frame` as the next frame of the log.
    pub fn verifies(&self, frame: &[u8]) -> bool {
        frame[SALTS] == self.salts && page_of(frame) != 0 && self.sums_after(frame) == stored_sums(frame)
    }

    /// The checksum `sums`, continued over `bytes`.
    pub fn add(&self, mut sums: (u32, u32), bytes: &[u8]) -> (u32, u32) {
        for pair in bytes.chunks_exact(8) {
            let word = |at: usize| {
                let bytes = [pair[at], pair[at + 1], pair[at + 2], pair[at + 3]];
                if self.big_endian {
                    u32::from_be_bytes(bytes)
                } else {
                    u32::from_le_bytes(bytes)
                }
            };
            sums.0 = sums.0.wrapping_add(word(0)).wrapping_add(sums.1);
            sums.1 = sums.1.wrapping_add(word(4)).wrapping_add(sums.0);
        }
        sums
    }
}

/// Number of the page in `frame`, from 1 on.
pub fn page_of(frame: &[u8]) -> u32 {
    number(frame, 0)
}

/// Whether `frame` is the last frame of a commit.
pub fn ends_commit(frame: &[u8]) -> bool {
    number(frame, 4) != 0
}

/// The checksum stored in `frame`.
pub fn stored_sums(frame: &[u8]) -> (u32, u32) {
    (number(frame, 16), number(frame, 20))
}

/// The big-endian number at an offset.
fn number(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// Fills `buffer`; `false` when the file ends before.
///
/// # Errors
/// The file cannot be read.
pub fn read_whole(file: &mut impl Read, buffer: &mut [u8]) -> io::Result<bool> {
    match file.read_exact(buffer) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}
