//! The registers in memory: key, version and value of a register in one allocation, ordered by key.
//!
//! Most of the memory of a learner are registers, and two allocations with their places in the tree would cost as much
//! as a small register itself.

use std::{borrow::Borrow, cmp::Ordering, collections::BTreeSet, fmt, ops::Bound, sync::Arc};

use bytes::Bytes;

use super::{Register, digest::DigestRecord, retained::Retained};
use crate::paxos::slot::{Slot, Version};

/// Before the key: slot, offset, and the length of the key.
const HEAD_BYTES: usize = 8 + 2 + 4;

/// A key and its content. Cheap to clone. Two of the same key compare as equal, whatever the content: the order of the
/// table.
#[derive(Clone)]
pub struct KeyedRegister(Arc<[u8]>);

impl KeyedRegister {
    /// Copies: the given bytes may be slices of much larger buffers, and would keep the buffers in memory.
    ///
    /// # Panics
    /// With a key of 4 GiB or more.
    pub fn new(key: &[u8], value: &[u8], version: Version) -> Self {
        let mut packed = Vec::with_capacity(HEAD_BYTES + key.len() + value.len());
        packed.extend_from_slice(&version.slot.get().to_le_bytes());
        packed.extend_from_slice(&version.offset.to_le_bytes());
        let key_len = u32::try_from(key.len()).expect("the limit of a key is far lower");
        packed.extend_from_slice(&key_len.to_le_bytes());
        packed.extend_from_slice(key);
        packed.extend_from_slice(value);
        Self(packed.into())
    }

    /// The bytes of a part of the head.
    fn head<const N: usize>(&self, at: usize) -> [u8; N] {
        self.0[at..at + N].try_into().expect("N bytes")
    }

    fn key_end(&self) -> usize {
        HEAD_BYTES + u32::from_le_bytes(self.head(10)) as usize
    }

    /// The key.
    pub fn key(&self) -> &[u8] {
        &self.0[HEAD_BYTES..self.key_end()]
    }

    /// The value, as put.
    pub fn value(&self) -> &[u8] {
        &self.0[self.key_end()..]
    }

    /// Version of the command that put the value.
    pub fn version(&self) -> Version {
        Version {
            slot: Slot::new(u64::from_le_bytes(self.head(0))).expect("the number of a slot"),
            offset: u16::from_le_bytes(self.head(8)),
        }
    }

    /// Key and content, without a copy of the bytes.
    pub fn shared(&self) -> (Bytes, Register) {
        let key_end = self.key_end();
        let version = self.version();
        let all = Bytes::from_owner(self.clone());
        let value = all.slice(key_end..);
        (all.slice(HEAD_BYTES..key_end), Register { value, version })
    }

    /// The record of this register, for the state digest.
    pub fn record(&self) -> DigestRecord<'_> {
        DigestRecord::Register {
            key: self.key(),
            value: self.value(),
            version: self.version(),
        }
    }
}

impl AsRef<[u8]> for KeyedRegister {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Borrow<[u8]> for KeyedRegister {
    fn borrow(&self) -> &[u8] {
        self.key()
    }
}

impl PartialEq for KeyedRegister {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for KeyedRegister {}

impl PartialOrd for KeyedRegister {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for KeyedRegister {
    fn cmp(&self, other: &Self) -> Ordering {
        self.key().cmp(other.key())
    }
}

impl fmt::Debug for KeyedRegister {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.shared().fmt(f)
    }
}

/// All registers, by key.
#[derive(Clone, Default)]
pub(super) struct RegisterTable {
    present: BTreeSet<KeyedRegister>,
    pub(super) kept: Option<Retained<BTreeSet<KeyedRegister>>>,
}

impl RegisterTable {
    pub(super) fn get(&self, key: &[u8]) -> Option<&KeyedRegister> {
        self.present.get(key)
    }

    /// Adds a register. Returns `false`, and changes nothing, if the key is present.
    pub(super) fn add(&mut self, register: KeyedRegister) -> bool {
        self.present.insert(register)
    }

    /// Returns the replaced register of this key, if any, and the new register.
    pub(super) fn put(
        &mut self,
        key: &[u8],
        value: &[u8],
        version: Version,
    ) -> (Option<KeyedRegister>, KeyedRegister) {
        let register = KeyedRegister::new(key, value, version);
        let replaced = self.present.replace(register.clone());
        self.retain(replaced.as_ref());
        (replaced, register)
    }

    /// Returns the removed register, if any.
    pub(super) fn remove(&mut self, key: &[u8]) -> Option<KeyedRegister> {
        let removed = self.present.take(key);
        self.retain(removed.as_ref());
        removed
    }

    /// Retains a replaced or removed register of the kept state.
    fn retain(&mut self, register: Option<&KeyedRegister>) {
        if let Some(kept) = &mut self.kept
            && let Some(register) = register.filter(|register| register.version().slot < kept.to)
        {
            kept.records.insert(register.clone());
        }
    }

    pub(super) fn count(&self) -> usize {
        self.present.len()
    }

    /// The registers from a key on.
    pub(super) fn range_from<'t>(
        &'t self,
        start: Bound<&[u8]>,
    ) -> impl Iterator<Item = &'t KeyedRegister> + use<'t> {
        self.present.range::<[u8], _>((start, Bound::Unbounded))
    }

    /// The whole content, for comparisons.
    fn bytes(&self) -> impl Iterator<Item = &[u8]> {
        self.present.iter().map(|register| &register.0[..])
    }
}

impl PartialEq for RegisterTable {
    fn eq(&self, other: &Self) -> bool {
        self.bytes().eq(other.bytes())
    }
}

impl Eq for RegisterTable {}

impl std::hash::Hash for RegisterTable {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        state.write_usize(self.present.len());
        self.bytes().for_each(|bytes| bytes.hash(state));
    }
}

impl fmt::Debug for RegisterTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.present.fmt(f)
    }
}
