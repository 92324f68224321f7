//! Parts shared between states: cloned by reference, hashed once, copied on change.

use std::{
    hash::{Hash, Hasher},
    ops::Deref,
    sync::Arc,
};

use xxhash_rust::xxh3::xxh3_64;

/// A value with its hash. A step changes one or two parts of a state. Each other part costs a reference.
#[derive(Debug)]
pub(crate) struct Shared<T>(Arc<(u64, T)>);

impl<T: Hash + Clone> Shared<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(Arc::new((hash_of(&value), value)))
    }

    /// Changes a copy, and replaces this value with the copy.
    pub(crate) fn change<R>(&mut self, change: impl FnOnce(&mut T) -> R) -> R {
        let mut value = self.0.1.clone();
        let result = change(&mut value);
        *self = Self::new(value);
        result
    }

    pub(crate) fn hash(&self) -> u64 {
        self.0.0
    }
}

impl<T> Deref for Shared<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0.1
    }
}

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T: PartialEq> PartialEq for Shared<T> {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || (self.0.0 == other.0.0 && self.0.1 == other.0.1)
    }
}

impl<T: Eq> Eq for Shared<T> {}

impl<T> Hash for Shared<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.0.0);
    }
}

pub(crate) fn hash_of<T: Hash>(value: &T) -> u64 {
    let mut bytes = Bytes(Vec::with_capacity(512));
    value.hash(&mut bytes);
    xxh3_64(&bytes.0)
}

/// Collects the hashed bytes and hashes all bytes in a single call: many small writes make hashing slow.
struct Bytes(Vec<u8>);

impl Hasher for Bytes {
    fn write(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    fn finish(&self) -> u64 {
        xxh3_64(&self.0)
    }
}
