//! The acceptors as this learner sees them: where they are, whether they answer, and whether they are who they
//! must be.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use paxos_common::{
    paxos::{
        acceptor::Membership,
        forming::FormReport,
        identity::{AcceptorUuid, ClusterId, RunNumber},
        quorum::{Configuration, Electorate},
        witness::{Guard, Run, WentBack, Witnesses},
    },
    peer::{Address, Backoff, MESSAGE_BYTES_MAX, connect_lazy},
    wire::{self, Malformed},
};
use paxos_proto::v1::{self as pb, acceptor_client::AcceptorClient};
use tokio::time::timeout;
use tonic::{Status, transport::Channel};

/// How long a call may take to be answered, or a stream to open.
pub(crate) const CALL_DEADLINE: Duration = Duration::from_secs(2);

/// Waits between attempts: short at first, since an acceptor that restarts is back within a second.
const BACKOFF_MIN: Duration = Duration::from_millis(50);
/// The longest wait between attempts.
const BACKOFF_MAX: Duration = Duration::from_secs(2);

/// The waits between attempts to reach an acceptor.
pub(crate) fn backoff() -> Backoff {
    Backoff::new(BACKOFF_MIN, BACKOFF_MAX)
}

/// Why an acceptor's answers cannot be used now.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fault {
    /// Waiting helps.
    #[error("no answer within {CALL_DEADLINE:?}")]
    Deadline,
    /// Waiting helps.
    #[error("{}", told(.0))]
    Call(#[from] Status),
    /// The stream came to its end: the acceptor stops, or lets a slow reader start over.
    #[error("it ended the stream")]
    Ended,
    /// Waiting helps: a proposer completes it.
    #[error("it has stored the configuration but is not formed yet")]
    Forming,
    /// It must never be counted.
    #[error(
        "it is blank, although the cluster is formed: it has lost its disk, and cannot come back as a blank one"
    )]
    Blank,
    /// It must never be counted.
    #[error("it belongs to cluster {found}, not to {expected}")]
    OtherCluster { found: ClusterId, expected: ClusterId },
    /// It must never be counted.
    #[error("it answers as acceptor {0}, which is no member of the cluster")]
    Stranger(AcceptorUuid),
    /// It must never be counted.
    #[error("it answers as acceptor {found} and was acceptor {expected} when the stream opened")]
    Changed {
        found: AcceptorUuid,
        expected: AcceptorUuid,
    },
    /// Waiting helps, unless it shows the same again: it may have restarted since it showed its runs.
    #[error("it must show its runs anew")]
    Suspected,
    /// It must never be counted.
    #[error(transparent)]
    WentBack(WentBack),
    /// It does not speak the protocol.
    #[error("it sends what cannot be read: {0}")]
    Malformed(#[from] Malformed),
}

fn told(status: &Status) -> String {
    format!("{}: {}", status.code(), status.message())
}

impl Fault {
    fn is_refusal(&self) -> bool {
        match self {
            Self::Deadline | Self::Call(_) | Self::Ended | Self::Forming | Self::Suspected => false,
            Self::Blank
            | Self::OtherCluster { .. }
            | Self::Stranger(_)
            | Self::Changed { .. }
            | Self::WentBack(_)
            | Self::Malformed(_) => true,
        }
    }
}

/// How an acceptor introduces itself.
#[derive(Debug)]
pub(crate) struct Introduction {
    pub(crate) report: FormReport,
    /// The present one last.
    runs: Vec<Run>,
    remembers: Witnesses,
}

/// What was last logged of an acceptor, so that each change is logged once, whichever task notices it.
#[derive(Debug, PartialEq, Eq)]
enum Standing {
    Unheard,
    Answering,
    Silent,
    Refused(String),
}

/// One address of the list.
#[derive(Debug)]
pub(crate) struct Acceptor {
    address: Address,
    client: AcceptorClient<Channel>,
    standing: Mutex<Standing>,
}

impl Acceptor {
    /// Connects when it is first called.
    pub(crate) fn new(address: Address) -> Arc<Self> {
        let client = AcceptorClient::new(connect_lazy(&address))
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        let standing = Mutex::new(Standing::Unheard);
        Arc::new(Self {
            address,
            client,
            standing,
        })
    }

    pub(crate) fn address(&self) -> &Address {
        &self.address
    }

    pub(crate) fn client(&self) -> AcceptorClient<Channel> {
        self.client.clone()
    }

    /// Asks how far it is in forming, and changes nothing there.
    pub(crate) async fn ask(&self) -> Result<Introduction, Fault> {
        let request = pb::FormRequest {
            caller: Some(wire::caller(None)),
            step: None,
        };
        let answer = within_deadline(self.client().form(request)).await?.into_inner();
        let stamp = wire::read_stamp(answer.stamp.as_ref())?;
        let runs = answer.stamp.as_ref().map(|stamp| wire::runs(&stamp.runs));
        let remembers = wire::read_witnesses(&answer.witnesses)?;
        let membership = wire::membership(answer.membership(), answer.configuration)?;
        Ok(Introduction {
            report: FormReport {
                acceptor: stamp.acceptor,
                address: Arc::from(self.address.as_str()),
                membership,
            },
            runs: runs.unwrap_or_default(),
            remembers,
        })
    }

    /// Asks which acceptor stands behind the address. Succeeds only for a formed member on the disk that it had.
    pub(crate) async fn identify(&self, cluster: &Cluster) -> Result<AcceptorUuid, Fault> {
        let introduction = self.ask().await?;
        match &introduction.report.membership {
            Membership::Blank => Err(Fault::Blank),
            Membership::Forming(configuration) => {
                cluster.check_id(configuration.cluster_id())?;
                Err(Fault::Forming)
            }
            Membership::Formed(configuration) => {
                cluster.check_id(configuration.cluster_id())?;
                cluster.introduce(introduction)
            }
        }
    }

    /// It answered. One that was refused stays so: a call that opens is no proof yet.
    pub(crate) fn answered(&self) {
        let refused = matches!(*self.standing(), Standing::Refused(_));
        if !refused {
            self.proved();
        }
    }

    /// It answered as the member that it must be.
    pub(crate) fn proved(&self) {
        if let Some(Standing::Silent | Standing::Refused(_)) = self.change(Standing::Answering) {
            tracing::info!(address = %self.address, "acceptor answers again");
        }
    }

    /// It did not. Logged once for each kind of trouble, until it answers again.
    pub(crate) fn failed(&self, fault: &Fault) {
        tracing::debug!(address = %self.address, %fault, "acceptor failed");
        if fault.is_refusal() {
            if self.change(Standing::Refused(fault.to_string())).is_some() {
                tracing::error!(address = %self.address, %fault, "acceptor refused: its votes are not counted");
            }
        } else if self.change(Standing::Silent).is_some() {
            tracing::warn!(address = %self.address, %fault, "waiting for acceptor");
        }
    }

    fn standing(&self) -> MutexGuard<'_, Standing> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What it was before, when it is something else now.
    fn change(&self, standing: Standing) -> Option<Standing> {
        let mut held = self.standing();
        (*held != standing).then(|| std::mem::replace(&mut *held, standing))
    }
}

/// Awaits a call, or the opening of a stream, for [`CALL_DEADLINE`] at most.
pub(crate) async fn within_deadline<T>(call: impl Future<Output = Result<T, Status>>) -> Result<T, Fault> {
    match timeout(CALL_DEADLINE, call).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(Fault::Deadline),
    }
}

/// The cluster that was found. Every answer is held against it.
#[derive(Debug)]
pub(crate) struct Cluster {
    id: ClusterId,
    electorate: Electorate,
    known: Mutex<Known>,
}

/// What is known of the members' runs, for as long as this learner runs.
#[derive(Debug, Default)]
struct Known {
    guard: Guard,
    /// The run that each member showed last, of those that agreed with all that is remembered of it.
    shown: BTreeMap<AcceptorUuid, RunNumber>,
}

impl Cluster {
    pub(crate) fn new(configuration: &Configuration) -> Self {
        Self {
            id: configuration.cluster_id(),
            electorate: configuration.electorate(),
            known: Mutex::default(),
        }
    }

    pub(crate) fn id(&self) -> ClusterId {
        self.id
    }

    pub(crate) fn electorate(&self) -> &Electorate {
        &self.electorate
    }

    /// Who answers, if it is a member that speaks of this cluster and has not been found out.
    pub(crate) fn member(&self, stamp: Option<&pb::Stamp>) -> Result<AcceptorUuid, Fault> {
        let stamp = wire::read_stamp(stamp)?;
        self.check_id(stamp.cluster.ok_or(Fault::Blank)?)?;
        self.check_member(stamp.acceptor)?;
        let mut known = self.known();
        known.guard.hear(stamp.acceptor, stamp.run, stamp.commit_counter);
        passed(&known.guard, stamp.acceptor)
    }

    /// Who answers a single call, if it answers in the run that it showed last. [`Fault::Suspected`] when it has to be
    /// identified first: it may have restarted, or the answer may be late. Nothing is taken from such a one.
    pub(crate) fn vouch(&self, stamp: Option<&pb::Stamp>) -> Result<AcceptorUuid, Fault> {
        let stamp = wire::read_stamp(stamp)?;
        self.check_id(stamp.cluster.ok_or(Fault::Blank)?)?;
        self.check_member(stamp.acceptor)?;
        let mut known = self.known();
        let acceptor = passed(&known.guard, stamp.acceptor)?;
        if known.shown.get(&acceptor) != Some(&stamp.run) {
            return Err(Fault::Suspected);
        }
        known.guard.hear(acceptor, stamp.run, stamp.commit_counter);
        Ok(acceptor)
    }

    /// A way to an acceptor opens: its runs are held against what is remembered of them.
    fn introduce(&self, introduction: Introduction) -> Result<AcceptorUuid, Fault> {
        let acceptor = introduction.report.acceptor;
        self.check_member(acceptor)?;
        let mut known = self.known();
        let present = introduction.runs.last().map(|present| present.run);
        let remembers = introduction.remembers.iter();
        // Others who are found out by it are refused at their next answer.
        known.guard.introduce(acceptor, introduction.runs, remembers);
        passed(&known.guard, acceptor)?;
        known.shown.extend(present.map(|run| (acceptor, run)));
        Ok(acceptor)
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check_id(&self, found: ClusterId) -> Result<(), Fault> {
        if found == self.id {
            Ok(())
        } else {
            let expected = self.id;
            Err(Fault::OtherCluster { found, expected })
        }
    }

    fn check_member(&self, acceptor: AcceptorUuid) -> Result<AcceptorUuid, Fault> {
        if self.electorate.includes(acceptor) {
            Ok(acceptor)
        } else {
            Err(Fault::Stranger(acceptor))
        }
    }
}

fn passed(guard: &Guard, acceptor: AcceptorUuid) -> Result<AcceptorUuid, Fault> {
    match guard.refusal(acceptor) {
        Some(went_back) => Err(Fault::WentBack(went_back)),
        None if guard.trusts(acceptor) => Ok(acceptor),
        None => Err(Fault::Suspected),
    }
}

impl fmt::Display for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.id.fmt(f)
    }
}
