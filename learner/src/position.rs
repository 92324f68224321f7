//! Watches the position of a running learner below the logs of acceptors, until the learner is cut off.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use paxos_common::paxos::slot::Slot;
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::sleep,
};

use crate::{
    cluster::Cluster,
    cut_off::{GivenUp, SlotVoters, Standstill},
    driver::DriverEvent,
    trims::TrimBound,
};

/// Number of looks at the position, from the first look to the last, before a learner that stands still is cut off.
const LOOKS: u32 = 10;

/// The inputs of the task.
#[derive(Debug)]
pub(crate) struct PositionWatch {
    pub(crate) driver: mpsc::Sender<DriverEvent>,
    /// The first slot that is not handed out: at most the position.
    pub(crate) next: watch::Receiver<Slot>,
    pub(crate) trims: Arc<TrimBound>,
    /// How long the position may stand still.
    pub(crate) patience: Duration,
    pub(crate) given_up: GivenUp,
    /// The members of each era prove slots by votes.
    pub(crate) cluster: Arc<Cluster>,
}

impl PositionWatch {
    /// Returns the position once the learner is cut off; `None` once the driver is gone. Looks only while an acceptor
    /// has trimmed beyond the learned slots.
    ///
    /// # Cancel safety
    /// Safe: the task only asks.
    pub(crate) async fn until_cut_off(self) -> Option<Slot> {
        let begin = || {
            let present = self.cluster.present();
            let voters = SlotVoters::of(present.electorate());
            let standstill = Standstill::new(self.patience, self.given_up, voters);
            (present.era(), standstill)
        };
        let (mut era, mut standstill) = begin();
        let mut highest = self.trims.follow_highest();
        loop {
            let is_below = *highest.borrow_and_update() > *self.next.borrow();
            if !is_below || self.cluster.present().era() != era {
                (era, standstill) = begin();
            }
            if !is_below {
                highest.changed().await.ok()?;
                continue;
            }
            let (answer, position) = oneshot::channel();
            self.driver.send(DriverEvent::Position(answer)).await.ok()?;
            let position = position.await.ok()?;
            let now = Instant::now();
            if standstill.look(position, &self.trims.fresh(now), now) {
                return Some(position);
            }
            sleep(self.patience / LOOKS).await;
        }
    }
}
