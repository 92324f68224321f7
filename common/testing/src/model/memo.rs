//! Steps of single processes, remembered: many states of a cluster differ only in what others do.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use super::{outputs::Output, shared::Shared};

/// How many steps are kept: beyond, all are forgotten, and computed again.
const STEPS_MAX: usize = 1 << 20;

/// What a process becomes, and what it brings about.
pub(crate) type Outcome<T> = (Shared<T>, Arc<[Output]>);

/// Steps by the hashes of the process and of what happens to it.
pub(crate) struct Memo<T>(Mutex<HashMap<(u64, u64), Outcome<T>>>);

impl<T> Default for Memo<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T> Memo<T> {
    pub(crate) fn outcome(
        &self,
        node: &Shared<T>,
        happens: u64,
        compute: impl FnOnce() -> Outcome<T>,
    ) -> Outcome<T>
    where
        T: std::hash::Hash + Clone,
    {
        let key = (node.hash(), happens);
        let known = self.lock().get(&key).cloned();
        known.unwrap_or_else(|| {
            let (after, outputs) = compute();
            // What does not change stays the very same.
            let after = if after.hash() == node.hash() {
                node.clone()
            } else {
                after
            };
            let mut steps = self.lock();
            if steps.len() >= STEPS_MAX {
                steps.clear();
            }
            steps.insert(key, (after.clone(), Arc::clone(&outputs)));
            (after, outputs)
        })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<(u64, u64), Outcome<T>>> {
        // A step that panics does not hold the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
