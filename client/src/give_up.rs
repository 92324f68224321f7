//! Gives up a write: withdraws a command that is not sent yet, and begins no further attempt. For a sent command the writer
//! still waits for the outcome.

use tokio::sync::watch;

use crate::{error::Cause, stream::Sending};

/// Whether the caller of a write has given up. `None`: the caller never gives up, and waiting costs nothing.
#[derive(Clone, Debug)]
pub(crate) struct GiveUp(Option<watch::Receiver<bool>>);

/// Gives up.
#[derive(Debug)]
pub(crate) struct GiveUpSwitch(watch::Sender<bool>);

impl GiveUpSwitch {
    pub(crate) fn new() -> (Self, GiveUp) {
        let (switch, given_up) = watch::channel(false);
        (Self(switch), GiveUp(Some(given_up)))
    }

    pub(crate) fn give_up(&self) {
        self.0.send_replace(true);
    }
}

impl GiveUp {
    /// For callers that never give up.
    pub(crate) fn never() -> Self {
        Self(None)
    }

    /// Returns once the caller has given up.
    ///
    /// # Cancel safety
    /// Safe: only waits.
    pub(crate) async fn wait(&self) {
        let has_given_up = match &self.0 {
            // An error: without the switch, the caller cannot give up any more.
            Some(given_up) => given_up.clone().wait_for(|given_up| *given_up).await.is_ok(),
            None => false,
        };
        if !has_given_up {
            std::future::pending::<()>().await;
        }
    }

    /// Withdraws an unsent command once the caller has given up. Does not return for a sent command.
    ///
    /// # Cancel safety
    /// Safe: only waits before the withdrawal.
    pub(crate) async fn withdraw(&self, sending: &Sending) -> Cause {
        self.wait().await;
        if !sending.withdraw() {
            std::future::pending::<()>().await;
        }
        Self::cause()
    }

    /// Why nothing was proposed.
    pub(crate) fn cause() -> Cause {
        Cause::unavailable("the caller gave up")
    }
}
