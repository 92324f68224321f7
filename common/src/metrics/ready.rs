//! Whether a role is ready, and why not: one truth for `/readyz` and for `grpc.health.v1`.

use std::{borrow::Cow, sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval},
};

/// How often a role looks whether it is ready: soon enough for whoever asks, and seldom enough to cost nothing.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// Why a role is not ready, for people.
pub type Reason = Cow<'static, str>;

/// Whether a role is ready. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub struct Readiness(Arc<watch::Sender<Result<(), Reason>>>);

impl Readiness {
    /// Not ready, because of this.
    pub fn not_yet(reason: impl Into<Reason>) -> Self {
        Self(Arc::new(watch::Sender::new(Err(reason.into()))))
    }

    /// Says over and over what `look` says, which must not block.
    ///
    /// # Cancel safety
    /// Safe: it only looks.
    pub async fn keep(self, look: impl Fn() -> Result<(), Reason>) {
        let mut ticks = interval(LOOK_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.set(look());
        }
    }

    /// Says how it is now; cheap when nothing has changed. Changes are logged.
    pub fn set(&self, ready: Result<(), Reason>) {
        let mut turned = false;
        self.0.send_if_modified(|told| {
            turned = told.is_ok() != ready.is_ok();
            let changed = *told != ready;
            if changed {
                told.clone_from(&ready);
            }
            changed
        });
        if turned {
            match ready {
                Ok(()) => tracing::info!("ready"),
                Err(reason) => tracing::info!(%reason, "not ready any more"),
            }
        }
    }

    /// How it was last told.
    ///
    /// # Errors
    /// Not ready: the reason.
    pub fn get(&self) -> Result<(), Reason> {
        self.0.borrow().clone()
    }

    /// Follows what is told from now on, the present state first.
    pub fn changes(&self) -> watch::Receiver<Result<(), Reason>> {
        let mut changes = self.0.subscribe();
        changes.mark_changed();
        changes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn changes_begin_with_the_present_state_and_tell_each_turn() {
        let readiness = Readiness::not_yet("it starts");
        let mut changes = readiness.changes();
        changes.changed().await.unwrap();
        assert_eq!(*changes.borrow_and_update(), Err(Reason::from("it starts")));
        readiness.set(Ok(()));
        changes.changed().await.unwrap();
        assert_eq!(*changes.borrow_and_update(), Ok(()));
        readiness.set(Ok(()));
        assert!(!changes.has_changed().unwrap());
        assert_eq!(readiness.get(), Ok(()));
    }
}
