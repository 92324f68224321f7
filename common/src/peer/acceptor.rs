//! How every role begins with an acceptor: the call `Form`, the checks of the sender, and the texts of refusals and warnings.

use std::{sync::Arc, time::Duration};

use paxos_proto::v1::{self as pb, acceptor_client::AcceptorClient, form_request::Step};
use tokio::time::timeout;
use tonic::{Status, transport::Channel};

use super::reason;
use crate::{
    paxos::{
        era::Era,
        forming::{FormReport, Forming, WrongList},
        identity::{AcceptorUuid, ClusterId, Stamp},
        quorum::Configuration,
        witness::{Run, WentBack},
    },
    wire::{self, Malformed},
};

/// Time without a connection after which an acceptor needs a person.
pub const AWAY_LONG: Duration = Duration::from_secs(30);

/// Longest time that a stop waits for an acceptor to take the last report of an `Attach` stream. After a longer wait, the
/// acceptor lists the sender as departed. An acceptor that is cut off delays a stop by this time.
pub const LEAVING_MAX: Duration = Duration::from_millis(500);

/// Deadline of a [`form`] that may carry a step: the answer comes after a commit to disk.
pub const FORM_TIMEOUT: Duration = Duration::from_secs(5);

/// Why an acceptor's answers cannot be used now.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// No answer within the deadline of the call.
    #[error("no answer in time")]
    Silent,
    /// The call failed.
    #[error("{}", reason(.0))]
    Call(#[from] Status),
    /// The acceptor stops, or lets a slow reader start over.
    #[error("the acceptor closed the stream")]
    Closed,
    /// The acceptor does not speak the protocol.
    #[error("the acceptor sent an invalid message: {0}")]
    Malformed(#[from] Malformed),
    /// The acceptor must not be counted before a change of members adds this acceptor.
    #[error(
        "the acceptor is blank, but its cluster is formed: a member has lost its disk, or the acceptor is new. `paxos member \
         list` prints the command that replaces the member, or adds the acceptor"
    )]
    Blank,
    /// A proposer completes the forming.
    #[error("the acceptor has stored the list of members, but is not a member yet")]
    Forming,
    /// The acceptor must never be counted.
    #[error(
        "the acceptor belongs to cluster {found}, not to {expected}, and is not counted: correct --acceptors"
    )]
    OtherCluster {
        /// The acceptor's cluster.
        found: ClusterId,
        /// The cluster of the other acceptors.
        expected: ClusterId,
    },
    /// The acceptor must never be counted.
    #[error("acceptor {0} is no member of this cluster, and is not counted: correct --acceptors")]
    Stranger(AcceptorUuid),
    /// The address leads to another acceptor of the cluster, or to an acceptor that was a member.
    #[error("acceptor {found} answers at this address, and acceptor {expected} is looked for")]
    Another {
        /// The sender of the answer.
        found: AcceptorUuid,
        /// The acceptor to be reached.
        expected: AcceptorUuid,
    },
    /// No address of the acceptor can be called.
    #[error("no usable address of the acceptor is known")]
    NoAddress,
    /// The members have changed: the caller takes the later configuration first.
    #[error("the acceptor holds the configuration of era {0}, which is later than the era of this process")]
    LaterEra(Era),
    /// The address leads to another acceptor by now.
    #[error(
        "acceptor {found} answers at this address, but acceptor {expected} answered when the stream opened"
    )]
    Changed {
        /// The sender of the answer.
        found: AcceptorUuid,
        /// The sender of the introduction.
        expected: AcceptorUuid,
    },
    /// The acceptor may have restarted since showing its runs, or the answer may be late.
    #[error("the acceptor must show its runs again")]
    Unshown,
    /// Something remembered of the acceptor is missing from the shown runs.
    #[error("the acceptor is not counted until its runs agree with the remembered runs of this acceptor")]
    Distrusted,
    /// Other acceptors may remember more of this acceptor.
    #[error(
        "the acceptor is not counted yet: its run is new, and only {reported} of the {needed} required other acceptors \
         report their tables"
    )]
    Unwitnessed {
        /// How many other acceptors have reported.
        reported: usize,
        /// How many other acceptors have to report.
        needed: usize,
    },
    /// The acceptor must not be counted on this disk.
    #[error(transparent)]
    WentBack(WentBack),
}

impl Unusable {
    /// Whether an acceptor outside the caller's wish answered: another member, or no member.
    pub fn is_of_another(&self) -> bool {
        matches!(
            self,
            Self::Blank | Self::OtherCluster { .. } | Self::Stranger(_) | Self::Another { .. }
        )
    }

    /// Whether a person must act. Otherwise waiting helps.
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Silent
            | Self::Call(_)
            | Self::Closed
            | Self::Forming
            | Self::Unshown
            | Self::Distrusted
            | Self::LaterEra(_)
            | Self::Unwitnessed { .. } => false,
            Self::Malformed(_)
            | Self::Blank
            | Self::OtherCluster { .. }
            | Self::Stranger(_)
            | Self::Another { .. }
            | Self::NoAddress
            | Self::Changed { .. }
            | Self::WentBack(_) => true,
        }
    }
}

/// Awaits a call, or the opening of a stream, for `deadline` at most.
///
/// # Errors
/// The call failed, or the deadline passed.
pub async fn answer_within<T>(
    deadline: Duration,
    call: impl Future<Output = Result<T, Status>>,
) -> Result<T, Unusable> {
    let answer = timeout(deadline, call).await;
    Ok(answer.map_err(|_| Unusable::Silent)??)
}

/// Calls `Form`. A call without a step changes nothing at the acceptor.
///
/// # Errors
/// As [`answer_within`].
pub async fn form(
    client: &mut AcceptorClient<Channel>,
    step: Option<Step>,
    deadline: Duration,
) -> Result<pb::FormResponse, Unusable> {
    let request = pb::FormRequest {
        caller: Some(wire::caller(None)),
        step,
    };
    let answer = answer_within(deadline, client.form(request)).await?;
    Ok(answer.into_inner())
}

/// Reads how far the acceptor at `address` is in forming.
///
/// # Errors
/// The answer is malformed.
pub fn form_report(address: &str, form: &pb::FormResponse) -> Result<FormReport, Malformed> {
    let stamp = wire::read_stamp(form.stamp.as_ref())?;
    Ok(FormReport {
        acceptor: stamp.acceptor,
        address: Arc::from(address),
        membership: wire::membership(form)?,
    })
}

/// Reads all runs of an acceptor, the present run last.
///
/// # Errors
/// The stamp is malformed, or its run is not the last of the list.
pub fn shown_runs(form: &pb::FormResponse) -> Result<Vec<Run>, Malformed> {
    let present = wire::read_stamp(form.stamp.as_ref())?.run;
    let runs = form.stamp.as_ref().map(|stamp| wire::runs(&stamp.runs));
    runs.filter(|runs| runs.last().is_some_and(|last| last.run == present))
        .ok_or(Malformed::Missing("the present run"))
}

/// Checks that the sender of an answer belongs to `cluster`.
///
/// # Errors
/// The stamp is malformed, or the sender belongs to no cluster or to another cluster.
pub fn check_cluster(stamp: Option<&pb::Stamp>, cluster: ClusterId) -> Result<Stamp, Unusable> {
    let stamp = wire::read_stamp(stamp)?;
    match stamp.cluster {
        None => Err(Unusable::Blank),
        Some(found) if found != cluster => Err(Unusable::OtherCluster {
            found,
            expected: cluster,
        }),
        Some(_) => Ok(stamp),
    }
}

/// Warns once of a list of acceptors that is not the list of the members. The addresses are hints: the members are found.
pub fn warn_of_list(forming: &Forming, configuration: &Configuration) {
    if let Some(WrongList {
        no_members_at,
        right_list,
    }) = forming.wrong_list(configuration)
    {
        tracing::warn!(
            era = %configuration.era(), ?no_members_at, right_list,
            "the given list of acceptors is not the list of the members: correct --acceptors"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::paxos::identity::{CommitCounter, RunNumber};

    fn stamp(cluster: Option<ClusterId>, runs: &[u64]) -> pb::Stamp {
        let stamp = Stamp {
            cluster,
            acceptor: AcceptorUuid::from_u128(1),
            run: RunNumber::from_random(2),
            commit_counter: CommitCounter::new(9),
        };
        let run = |run: &u64| pb::Run {
            run: *run,
            ..pb::Run::default()
        };
        wire::stamp(&stamp, runs.iter().map(run).collect())
    }

    #[test]
    fn sender_outside_the_cluster_is_a_refusal() {
        let (ours, other) = (ClusterId::from_bytes([1; 16]), ClusterId::from_bytes([2; 16]));
        assert!(check_cluster(Some(&stamp(Some(ours), &[])), ours).is_ok());
        let refusals = [None, Some(stamp(None, &[])), Some(stamp(Some(other), &[]))];
        for stamp in refusals {
            let refusal = check_cluster(stamp.as_ref(), ours).unwrap_err();
            assert!(refusal.is_refusal(), "{refusal}");
        }
    }

    #[test]
    fn list_of_runs_ends_with_the_present_run() {
        let runs = |runs: &[u64]| {
            let stamp = Some(stamp(None, runs));
            shown_runs(&pb::FormResponse {
                stamp,
                ..pb::FormResponse::default()
            })
        };
        assert_eq!(runs(&[1, 2]).unwrap().len(), 2);
        assert!(runs(&[2, 1]).is_err());
        assert!(runs(&[]).is_err());
    }
}
