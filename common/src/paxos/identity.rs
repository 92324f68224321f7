//! Identities: clusters, acceptors, and the runs that distinguish a disk from an older copy of the same disk.

use std::{fmt, str::FromStr};

/// An acceptor's own name, drawn at random at the first use of the data directory. Votes are counted by this name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AcceptorUuid(u128);

impl AcceptorUuid {
    /// Takes 128 random bits.
    pub const fn from_u128(bits: u128) -> Self {
        Self(bits)
    }

    /// The 16 bytes of the wire and the disk.
    pub fn to_bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }

    /// Reads [`Self::to_bytes`]; `None` unless there are 16 bytes.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        Some(Self(u128::from_be_bytes(bytes.try_into().ok()?)))
    }
}

impl fmt::Display for AcceptorUuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        uuid::Uuid::from_u128(self.0).fmt(f)
    }
}

/// Name of a cluster: a hash of the acceptors' uuids, the quorums and the origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterId([u8; 16]);

impl ClusterId {
    /// Takes the first 16 bytes of the hash.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The 16 bytes of the wire and the disk.
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// Reads [`Self::as_bytes`]; `None` unless there are 16 bytes.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        Some(Self(bytes.try_into().ok()?))
    }
}

impl FromStr for ClusterId {
    type Err = String;

    /// Reads the [`Display`](fmt::Display) form: 32 hexadecimal digits.
    fn from_str(text: &str) -> Result<Self, String> {
        let number = u128::from_str_radix(text, 16).ok();
        let number = number.filter(|_| text.len() == 32 && !text.starts_with('+'));
        let number =
            number.ok_or("give the 32 hexadecimal digits of a cluster id, as `paxos status` shows them")?;
        Ok(Self(number.to_be_bytes()))
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A process lifetime of an acceptor, numbered at random; at most 2⁶³ − 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RunNumber(u64);

impl RunNumber {
    /// Makes a number from any 64 bits. The highest bit is dropped, because SQLite's integers are signed.
    pub const fn from_random(bits: u64) -> Self {
        Self(bits & i64::MAX as u64)
    }

    /// The bare number.
    pub const fn get(self) -> u64 {
        self.0
    }
}

/// Number of commits on an acceptor's disk in all runs; at most 2⁶³ − 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CommitCounter(u64);

impl CommitCounter {
    /// Takes a count.
    pub const fn new(count: u64) -> Self {
        Self(count)
    }

    /// The bare count.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The counter of the next commit.
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// The answering acceptor, and the commits covered by the answer. Part of every answer of an acceptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Stamp {
    /// `None` while the acceptor belongs to no cluster.
    pub cluster: Option<ClusterId>,
    /// The acceptor.
    pub acceptor: AcceptorUuid,
    /// The acceptor's present run.
    pub run: RunNumber,
    /// The last commit covered by the answer.
    pub commit_counter: CommitCounter,
}

impl Stamp {
    /// Whether a page read from the disk as of `commit` may be sent to a peer, now that memory answers with this stamp.
    ///
    /// A disk shows a commit to its readers before memory does: the commit call returns later, perhaps after a
    /// checkpoint. A page sent in between would show votes missing from the acceptor's next `Tail`, and a read at
    /// another learner would go back in time. So a page waits until memory shows the page's commit.
    pub fn covers(&self, commit: CommitCounter) -> bool {
        commit <= self.commit_counter
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cluster_id_is_read_from_its_digits_alone() {
        let id = ClusterId::from_bytes(*b"0123456789abcdef");
        assert_eq!(id.to_string().parse(), Ok(id));
        let digits = id.to_string();
        for wrong in [
            "",
            "12",
            &digits[1..],
            &format!("+{}", &digits[1..]),
            &format!("{digits}0"),
        ] {
            let refused = wrong.parse::<ClusterId>().unwrap_err();
            assert!(refused.contains("32 hexadecimal digits"), "{refused}");
        }
    }
}
