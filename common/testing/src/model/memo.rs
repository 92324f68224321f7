//! A memory of steps of single processes: many states of a cluster differ only in the other processes.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use super::{outputs::Output, shared::Shared};

/// Limit of remembered steps. At the limit, all steps are dropped and computed again when needed.
const STEPS_MAX: usize = 1 << 20;

/// The process after a step, and the outputs of the step.
pub(crate) type Outcome<T> = (Shared<T>, Arc<[Output]>);

/// Steps, keyed by the hashes of the process and of its input.
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
            // An unchanged process keeps the same allocation.
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
        // A panicking step does not hold the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
