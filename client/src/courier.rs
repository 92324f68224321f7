//! The only task that carries commands to a proposer: to another proposer after a failure, and from a standby to the
//! leader.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::{StreamExt as _, stream::FuturesUnordered};
use paxos_common::peer::Backoff;
use tokio::{
    sync::mpsc,
    time::{MissedTickBehavior, interval, sleep},
};

use crate::{
    address::Directory,
    error::{Cause, Failed},
    leader::{self, SearchPace},
    stall::Judge,
    stream::{Arrival, ProposeStream, Submission},
};

/// Capacity of the queue of unsent commands. Commands wait here only while no proposer is connected or the stream is
/// full. A caller without room waits in line, within the caller's own deadline.
pub(crate) const QUEUE_MAX: usize = 1024;
/// Pauses before the next search for a proposer, from the shortest to the longest.
const ROUND_PAUSE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));
/// Head start of a proposer for opening the stream. After this time, the next proposer is tried in parallel.
const OPEN_HEAD_START: Duration = Duration::from_millis(250);
/// Time between checks whether a stream is stuck.
const STUCK_CHECK: Duration = Duration::from_millis(500);

/// Why no proposer is connected at present, for callers whose deadline passes meanwhile.
#[derive(Clone, Debug, Default)]
pub(crate) struct Obstacle(Arc<Mutex<Option<Cause>>>);

impl Obstacle {
    pub(crate) fn get(&self) -> Option<Cause> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, cause: Option<Cause>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = cause;
    }
}

pub(crate) struct Courier {
    pub(crate) directory: Arc<Directory>,
    pub(crate) judge: Arc<Judge>,
    pub(crate) queue: mpsc::Receiver<Submission>,
    pub(crate) obstacle: Obstacle,
}

/// Why a stream is left.
enum LeaveReason {
    /// The proposer failed. `proven`: the proposer had served.
    Failed { proven: bool },
    /// Another proposer leads: a stream to the leader.
    ForLeader(Box<ProposeStream>),
    /// All clients are gone.
    Unused,
}

/// Why no stream was opened.
enum UnopenedReason {
    /// The caller withdrew the command.
    Withdrawn,
    /// The client needs another certificate, or other addresses.
    Denied(Cause),
}

impl Courier {
    /// Runs until the last client is gone; then no caller waits for an answer any more.
    pub(crate) async fn run(mut self) {
        let mut pause = Backoff::new(ROUND_PAUSE.0, ROUND_PAUSE.1);
        let (mut to_leader, mut pace) = (None, SearchPace::new());
        loop {
            let mut stream = match to_leader.take() {
                Some(stream) => stream,
                None => {
                    let Some(first) = self.queue.recv().await else {
                        return;
                    };
                    let mut stream = match self.open(&first, &mut pause).await {
                        Ok(stream) => stream,
                        Err(UnopenedReason::Withdrawn) => continue,
                        Err(UnopenedReason::Denied(cause)) => {
                            // Without a waiting caller, the answer is no loss.
                            let _ = first.answer.send(Err(Failed::Refused(cause)));
                            continue;
                        }
                    };
                    stream.send(first);
                    stream
                }
            };
            let left = self.serve(&mut stream, &mut pause, &mut pace).await;
            let proven = match left {
                LeaveReason::Unused => return,
                LeaveReason::ForLeader(leader) => {
                    to_leader = Some(*leader);
                    true
                }
                LeaveReason::Failed { proven } => {
                    self.directory.shun(&stream.suspect.address);
                    proven
                }
            };
            // Commands sent on the left stream still get their answers.
            tokio::spawn(stream.drain(self.judge.clone()));
            // When a proven proposer stops, another proposer takes over at once: no pause is needed.
            if !proven {
                sleep(pause.next_delay()).await;
            }
        }
    }

    /// Opens a stream to the first proposer that answers; gives up when `first` is withdrawn, or when this client's
    /// certificate gives no right to propose.
    async fn open(&self, first: &Submission, pause: &mut Backoff) -> Result<ProposeStream, UnopenedReason> {
        while !first.sending.is_withdrawn() {
            match self.open_any().await {
                Ok(stream) => {
                    self.obstacle.set(None);
                    return Ok(stream);
                }
                Err(cause) if cause.is_permanent() => return Err(UnopenedReason::Denied(cause)),
                Err(cause) => {
                    tracing::debug!(%cause, "no proposer can be reached");
                    let delay = cause.retry_in(pause.next_delay());
                    self.obstacle.set(Some(cause));
                    sleep(delay).await;
                }
            }
        }
        Err(UnopenedReason::Withdrawn)
    }

    async fn open_any(&self) -> Result<ProposeStream, Cause> {
        let mut last = Cause::unavailable("no proposer is known");
        let mut candidates = self.directory.proposers().await?.into_iter();
        let mut opening = FuturesUnordered::new();
        loop {
            if let Some(address) = candidates.next() {
                let dialer = &self.directory.dialer;
                opening.push(async move { (address.clone(), ProposeStream::open(address, dialer).await) });
            }
            tokio::select! {
                // Cancel safe: a late stream is dropped, and no command was handed to the stream.
                Some((address, opened)) = opening.next() => match opened {
                    Ok(stream) => return Ok(stream),
                    Err(cause) => {
                        self.directory.shun(&address);
                        // A denial says more than the silence of another proposer.
                        if !last.is_permanent() {
                            last = cause;
                        }
                    }
                },
                // Cancel safe: a timer.
                () = sleep(OPEN_HEAD_START), if candidates.len() > 0 => {}
                else => return Err(last),
            }
        }
    }

    /// Sends and answers until the stream should be left. `pace`: of the searches for the leader.
    async fn serve(
        &mut self,
        stream: &mut ProposeStream,
        pause: &mut Backoff,
        pace: &mut SearchPace,
    ) -> LeaveReason {
        let mut stuck_check = interval(STUCK_CHECK);
        stuck_check.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (judge, suspect, progress) = (self.judge.clone(), stream.suspect.clone(), stream.progress());
        let mut replaced = std::pin::pin!(judge.replaced(&suspect, &progress));
        let directory = self.directory.clone();
        let cluster = stream.standing.cluster.clone();
        let current = (&suspect.address, cluster.as_ref());
        let at_leader = leader::stream(&directory, current, stream.leader(), pace);
        let mut at_leader = std::pin::pin!(at_leader);
        let mut proven = false;
        loop {
            tokio::select! {
                // Cancel safe: a command is either taken or still queued.
                submission = self.queue.recv(), if stream.has_room() => match submission {
                    Some(submission) => stream.send(submission),
                    None => return LeaveReason::Unused,
                },
                // Cancel safe, as documented.
                arrival = stream.arrival() => match arrival {
                    Arrival::Good if proven => {}
                    Arrival::Good => {
                        proven = true;
                        self.directory.trust(&stream.suspect.address);
                        pause.reset();
                    }
                    Arrival::Helpless | Arrival::Over => return LeaveReason::Failed { proven },
                },
                // Cancel safe: a missed tick only delays the check.
                _ = stuck_check.tick() => if stream.is_stuck() {
                    tracing::debug!(address = %stream.suspect.address, "proposer owes answers, trying another");
                    return LeaveReason::Failed { proven };
                },
                // Not cancelled by the other arms: polled again.
                () = &mut replaced => {
                    stream.give_up();
                    return LeaveReason::Failed { proven: true };
                }
                // Likewise.
                leader = &mut at_leader => {
                    tracing::debug!(from = %suspect.address, to = %leader.suspect.address, "moving to the leader");
                    return LeaveReason::ForLeader(Box::new(leader));
                }
            }
        }
    }
}
