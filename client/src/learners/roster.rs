//! The learners in use: a list from the acceptors, refreshed now and then, with a connection to each learner.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicUsize},
    time::Duration,
};

use paxos_common::peer::{Address, Dialer, MESSAGE_BYTES_MAX};
use paxos_proto::v1::learner_client::LearnerClient;
use tokio::time::Instant;
use tonic::transport::Channel;

use super::hedge::Slowness;
use crate::{address::Directory, error::Cause, outcomes::OutcomeStream};

/// Age of a roster after which the next call refreshes the roster in the background. So added learners get their share
/// of calls.
const ROSTER_AGE: Duration = Duration::from_secs(5);

/// The learners in use.
#[derive(Debug)]
pub(super) struct LearnerRoster {
    directory: Arc<Directory>,
    list: Mutex<MemberList>,
    /// Held while a call asks the acceptors; the other calls wait for the result.
    refreshing: tokio::sync::Mutex<()>,
}

/// The learners in use at a moment.
pub(super) type Members = Arc<[Arc<KnownLearner>]>;

#[derive(Debug, Default)]
struct MemberList {
    members: Members,
    /// Time of the last question to the acceptors; `None`: not asked yet, or all learners have failed since.
    asked_at: Option<Instant>,
}

/// The connection to a learner. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct LearnerConnection {
    pub(crate) client: LearnerClient<Channel>,
    pub(crate) outcomes: OutcomeStream,
}

/// A learner in use.
#[derive(Debug)]
pub(super) struct KnownLearner {
    pub(super) address: Address,
    pub(super) connection: LearnerConnection,
    /// Number of calls in flight.
    pub(super) in_flight: AtomicUsize,
    pub(super) slowness: Slowness,
}

impl LearnerRoster {
    pub(super) fn new(directory: Arc<Directory>) -> Self {
        Self {
            directory,
            list: Mutex::default(),
            refreshing: tokio::sync::Mutex::default(),
        }
    }

    /// The known learners. Asks the acceptors when no learner is known, or in the background when the last question is
    /// long ago.
    pub(super) async fn members(self: &Arc<Self>) -> Result<Members, Cause> {
        let (members, asked_at) = self.known();
        match asked_at {
            None => {
                let _turn = self.refreshing.lock().await;
                let (members, asked_at) = self.known();
                if asked_at.is_some() {
                    // Another call asked meanwhile.
                    return Ok(members);
                }
                match self.refresh().await {
                    Ok(members) => Ok(members),
                    Err(cause) if members.is_empty() => Err(cause),
                    Err(_) => Ok(members),
                }
            }
            Some(at) if at.elapsed() > ROSTER_AGE && !self.directory.has_fixed_learners() => {
                let roster = self.clone();
                tokio::spawn(async move {
                    let Ok(_turn) = roster.refreshing.try_lock() else {
                        return;
                    };
                    if let Err(cause) = roster.refresh().await {
                        tracing::debug!(%cause, "still using the previously known learners");
                        // Counts as asked: the next calls do not ask again.
                        roster.lock().asked_at = Some(Instant::now());
                    }
                });
                Ok(members)
            }
            Some(_) => Ok(members),
        }
    }

    /// The known learners, and the time of the last question to the acceptors.
    pub(super) fn known(&self) -> (Members, Option<Instant>) {
        let list = self.lock();
        (list.members.clone(), list.asked_at)
    }

    async fn refresh(&self) -> Result<Members, Cause> {
        let addresses = self.directory.learners().await?;
        let mut list = self.lock();
        let known = list.members.clone();
        // Connections are kept.
        list.members = addresses
            .into_iter()
            .map(|address| {
                let same = known.iter().find(|member| member.address == address).cloned();
                same.unwrap_or_else(|| Arc::new(KnownLearner::new(address, &self.directory.dialer)))
            })
            .collect();
        list.asked_at = Some(Instant::now());
        Ok(list.members.clone())
    }

    /// All learners have failed: the next call asks the acceptors first.
    pub(super) fn expire(&self) {
        self.lock().asked_at = None;
    }

    fn lock(&self) -> MutexGuard<'_, MemberList> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl KnownLearner {
    fn new(address: Address, dialer: &Dialer) -> Self {
        let client = LearnerClient::new(dialer.to_learner(&address))
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        Self {
            address,
            connection: LearnerConnection {
                client,
                outcomes: OutcomeStream::default(),
            },
            in_flight: AtomicUsize::new(0),
            slowness: Slowness::default(),
        }
    }
}
