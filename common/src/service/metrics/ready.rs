//! Whether a role is ready, and why not: one source for `/readyz` and for `grpc.health.v1`.

use std::{borrow::Cow, sync::Arc, time::Duration};

use tokio::{sync::watch, time::sleep};

/// How often a role that is not ready checks again: callers wait for the role.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// How often a ready role checks again. Seldom, because each check wakes an idle process.
const LOOK_AGAIN_INTERVAL: Duration = Duration::from_secs(1);

/// Why a role is not ready, for people.
pub type UnreadyReason = Cow<'static, str>;

/// Whether a role is ready. Cheap to clone; clones share the state.
#[derive(Clone, Debug)]
pub struct Readiness(Arc<watch::Sender<Result<(), UnreadyReason>>>);

impl Readiness {
    /// Not ready, for this reason.
    pub fn not_yet(reason: impl Into<UnreadyReason>) -> Self {
        Self(Arc::new(watch::Sender::new(Err(reason.into()))))
    }

    /// Reports the result of `look` repeatedly. `look` must not block.
    ///
    /// # Cancel safety
    /// Safe: only checks are lost.
    pub async fn keep(self, look: impl Fn() -> Result<(), UnreadyReason>) {
        loop {
            let ready = look();
            let wait = if ready.is_ok() {
                LOOK_AGAIN_INTERVAL
            } else {
                LOOK_INTERVAL
            };
            self.set(ready);
            sleep(wait).await;
        }
    }

    /// Reports the present state; cheap without a change. Changes are logged.
    pub fn set(&self, ready: Result<(), UnreadyReason>) {
        let mut turned = false;
        self.0.send_if_modified(|shown| {
            turned = shown.is_ok() != ready.is_ok();
            let changed = *shown != ready;
            if changed {
                shown.clone_from(&ready);
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

    /// The last reported state.
    ///
    /// # Errors
    /// Not ready: the reason.
    pub fn get(&self) -> Result<(), UnreadyReason> {
        self.0.borrow().clone()
    }

    /// Follows the reported states from now on, the present state first.
    pub fn changes(&self) -> watch::Receiver<Result<(), UnreadyReason>> {
        let mut changes = self.0.subscribe();
        changes.mark_changed();
        changes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn changes_begin_with_the_present_state_and_report_each_turn() {
        let readiness = Readiness::not_yet("it starts");
        let mut changes = readiness.changes();
        changes.changed().await.unwrap();
        assert_eq!(
            *changes.borrow_and_update(),
            Err(UnreadyReason::from("it starts"))
        );
        readiness.set(Ok(()));
        changes.changed().await.unwrap();
        assert_eq!(*changes.borrow_and_update(), Ok(()));
        readiness.set(Ok(()));
        assert!(!changes.has_changed().unwrap());
        assert_eq!(readiness.get(), Ok(()));
    }
}
