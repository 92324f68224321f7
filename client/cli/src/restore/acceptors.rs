//! The acceptors of a restore: each call is repeated until the acceptor answers, or the time is over.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures::{future::try_join_all, stream};
use indicatif::ProgressBar;
use paxos_common::{
    paxos::forming::{FormReport, restoring::Restoring},
    peer::{
        Address, Backoff, Dialer, MessageLimits as _,
        acceptor::{FORM_TIMEOUT, Unusable, form, form_report},
        reason,
    },
    service::failure::Failure,
};
use paxos_proto::v1::{self as pb, acceptor_client::AcceptorClient, form_request::Step};
use tokio::{
    sync::mpsc,
    task::spawn_blocking,
    time::{Instant, sleep, timeout},
};
use tonic::{Code, Status, transport::Channel};

use super::seed::PreparedSeed;
use crate::backup::check::progress;

/// Waits between two attempts.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// Slowest upload in bytes a second: acceptors end slower uploads.
const RATE_MIN: u64 = 256 * 1024;
/// The refusal of an acceptor of an earlier release, before anything is written.
const TOO_OLD: &str = "an earlier release runs there, which forgets the versions lost by the restores before this one: update \
                       the acceptor, then repeat the same command";
/// Parts on the way to the connection.
const PARTS_MAX: usize = 2;

/// The acceptors, by address.
#[derive(Debug)]
pub(super) struct RestoreTargets {
    acceptors: BTreeMap<Arc<str>, Target>,
    timeout: Duration,
}

/// Whether an acceptor leaves out what the restore needs: only the backup of a restored cluster has earlier restores.
fn is_too_old(answer: &pb::FormResponse, is_chained: bool) -> bool {
    is_chained && !answer.keeps_earlier_restores
}

#[derive(Debug)]
struct Target {
    address: Address,
    dialer: Dialer,
    client: AcceptorClient<Channel>,
    /// The backup is of a restored cluster.
    is_chained: bool,
}

/// Why an attempt has not succeeded.
enum AttemptError {
    /// Another attempt may succeed.
    Again(String),
    /// The acceptor refuses.
    Refused(String),
    /// The command cannot go on.
    Failed(Failure),
}

impl RestoreTargets {
    /// `is_chained`: the backup is of a restored cluster.
    pub(super) fn new(addresses: &[Address], dialer: &Dialer, timeout: Duration, is_chained: bool) -> Self {
        let target = |address: &Address| Target {
            address: address.clone(),
            dialer: dialer.clone(),
            client: AcceptorClient::new(dialer.to_acceptor(address)).with_message_limits(),
            is_chained,
        };
        let acceptors = addresses.iter();
        let acceptors = acceptors.map(|address| (Arc::from(address.as_str()), target(address)));
        Self {
            acceptors: acceptors.collect(),
            timeout,
        }
    }

    pub(super) fn addresses(&self) -> impl Iterator<Item = Arc<str>> {
        self.acceptors.keys().cloned()
    }

    /// Sends a step of forming, or only asks, and reports the answers. Returns the reason of an acceptor that refuses.
    ///
    /// # Errors
    /// An acceptor does not answer in time.
    pub(super) async fn step(
        &self,
        step: Option<&Step>,
        to: &[Arc<str>],
        restoring: &mut Restoring,
    ) -> Result<Option<String>, Failure> {
        let calls = self.targets(to).map(async |target| {
            let stepped = self
                .repeat(target, async |left| target.form(step, left).await)
                .await?;
            match stepped {
                Ok(report) => Ok((report, None)),
                Err(refusal) => Ok::<_, Failure>((self.ask(target).await?, Some(refusal))),
            }
        });
        let mut refusal = None;
        for (report, refused) in try_join_all(calls).await? {
            restoring.report(report);
            refusal = refusal.or(refused);
        }
        Ok(refusal)
    }

    /// Sends the seed, and reports the state of the acceptors afterwards. Returns the reason of an acceptor that refuses.
    ///
    /// # Errors
    /// An acceptor does not answer in time, or the backup cannot be read any more.
    pub(super) async fn keep(
        &self,
        seed: &Arc<PreparedSeed>,
        to: &[Arc<str>],
        restoring: &mut Restoring,
    ) -> Result<Option<String>, Failure> {
        let bar = progress("sending", seed.bytes() * to.len() as u64);
        let calls = self.targets(to).map(async |target| {
            let kept = self
                .repeat(target, async |_| target.keep(seed, &bar, self.timeout).await)
                .await?;
            Ok::<_, Failure>((self.ask(target).await?, kept.err()))
        });
        let mut refusal = None;
        for (report, refused) in try_join_all(calls).await? {
            if refused.is_none() {
                restoring.kept(&report.address);
            }
            restoring.report(report);
            refusal = refusal.or(refused);
        }
        bar.finish_and_clear();
        Ok(refusal)
    }

    fn targets(&self, addresses: &[Arc<str>]) -> impl Iterator<Item = &Target> {
        addresses.iter().filter_map(|address| self.acceptors.get(address))
    }

    /// The present state of an acceptor.
    async fn ask(&self, target: &Target) -> Result<FormReport, Failure> {
        let asked = self
            .repeat(target, async |left| target.form(None, left).await)
            .await?;
        asked.map_err(|refusal| Failure::refused(anyhow::anyhow!(refusal)))
    }

    /// Attempts a call until the acceptor answers. Each attempt gets the time that is left. Returns the answer, or the reason
    /// of a refusal.
    ///
    /// # Errors
    /// No answer in time.
    async fn repeat<T>(
        &self,
        target: &Target,
        attempt: impl AsyncFn(Duration) -> Result<T, AttemptError>,
    ) -> Result<Result<T, String>, Failure> {
        let until = Instant::now() + self.timeout;
        let mut pauses = Backoff::new(PAUSE_MIN, PAUSE_MAX);
        loop {
            let cause = match attempt(until.saturating_duration_since(Instant::now())).await {
                Ok(answer) => return Ok(Ok(answer)),
                Err(AttemptError::Refused(cause)) => return Ok(Err(format!("{}: {cause}", target.address))),
                Err(AttemptError::Failed(failure)) => return Err(failure),
                Err(AttemptError::Again(cause)) => cause,
            };
            let pause = pauses.next_delay();
            if Instant::now() + pause >= until {
                return Err(Failure::unavailable(anyhow::anyhow!(
                    "acceptor {} does not take part: {cause}. When every listed acceptor runs and has space, repeat the same command",
                    target.address
                )));
            }
            sleep(pause).await;
        }
    }
}

impl Target {
    async fn form(&self, step: Option<&Step>, left: Duration) -> Result<FormReport, AttemptError> {
        let answer = form(&mut self.client.clone(), step.cloned(), left.min(FORM_TIMEOUT)).await;
        if answer
            .as_ref()
            .is_ok_and(|answer| is_too_old(answer, self.is_chained))
        {
            return Err(AttemptError::Refused(TOO_OLD.to_owned()));
        }
        let report = answer.and_then(|answer| Ok(form_report(self.address.as_str(), &answer)?));
        report.map_err(|unusable| match unusable {
            Unusable::Call(status) => failed(&status),
            Unusable::Malformed(_) => AttemptError::Refused(unusable.to_string()),
            Unusable::Silent
            | Unusable::Closed
            | Unusable::Blank
            | Unusable::Forming
            | Unusable::OtherCluster { .. }
            | Unusable::Stranger(_)
            | Unusable::Another { .. }
            | Unusable::NoAddress
            | Unusable::LaterEra(_)
            | Unusable::Changed { .. }
            | Unusable::Unshown
            | Unusable::Distrusted
            | Unusable::Unwitnessed { .. }
            | Unusable::WentBack(_) => AttemptError::Again(unusable.to_string()),
        })
    }

    /// Sends the seed on a connection of its own. Returns once the seed is durable. The acceptor has `patience` or more, for
    /// its disk, and the time of the slowest upload.
    async fn keep(
        &self,
        seed: &Arc<PreparedSeed>,
        bar: &ProgressBar,
        patience: Duration,
    ) -> Result<(), AttemptError> {
        let (parts_in, mut parts) = mpsc::channel(PARTS_MAX);
        let (channel, _socket) = self.dialer.dedicated(&self.address);
        let mut client = AcceptorClient::new(channel).with_message_limits();
        let (sent, shown) = (Arc::clone(seed), bar.clone());
        let sending = spawn_blocking(move || sent.send(&parts_in, &shown));
        let parts = stream::poll_fn(move |context| parts.poll_recv(context));
        let patience = patience.max(FORM_TIMEOUT * 2) + Duration::from_secs(seed.bytes() / RATE_MIN);
        let answer = timeout(patience, client.keep(parts)).await;
        // With the connection, the receiver of the parts goes, and the thread ends.
        drop(client);
        let sent = sending
            .await
            .map_err(anyhow::Error::new)
            .map_err(Failure::internal);
        if let Err(failure) = sent.and_then(|sent| sent) {
            return Err(AttemptError::Failed(failure));
        }
        let error = match answer {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(status)) => failed(&status),
            Err(_) => AttemptError::Again("no answer in time".to_owned()),
        };
        bar.inc_length(seed.bytes());
        Err(error)
    }
}

/// The meaning of a failed call.
fn failed(status: &Status) -> AttemptError {
    match status.code() {
        Code::FailedPrecondition | Code::InvalidArgument | Code::OutOfRange => {
            AttemptError::Refused(status.message().to_owned())
        }
        Code::PermissionDenied => AttemptError::Refused(format!(
            "{}; restoring needs the certificate of an operator",
            status.message()
        )),
        Code::Unimplemented => AttemptError::Refused(
            "the release of this acceptor cannot restore: update the acceptor, then repeat the same command"
                .to_owned(),
        ),
        Code::Ok
        | Code::Cancelled
        | Code::Unknown
        | Code::DeadlineExceeded
        | Code::NotFound
        | Code::AlreadyExists
        | Code::ResourceExhausted
        | Code::Aborted
        | Code::Internal
        | Code::Unavailable
        | Code::DataLoss
        | Code::Unauthenticated => AttemptError::Again(reason(status)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_backup_of_a_restored_cluster_needs_acceptors_that_keep_earlier_restores() {
        let of_earlier_release = pb::FormResponse::default();
        let of_this_release = pb::FormResponse {
            keeps_earlier_restores: true,
            ..of_earlier_release.clone()
        };
        assert!(is_too_old(&of_earlier_release, true));
        assert!(!is_too_old(&of_earlier_release, false));
        assert!(!is_too_old(&of_this_release, true));
    }
}
