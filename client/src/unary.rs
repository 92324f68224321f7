//! Commands as single calls; each call goes to the last proposer that served, or to the leader named by this proposer.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use paxos_common::peer::Address;
use paxos_proto::v1::{Command, ProposeRequest, proposer_client::ProposerClient};
use tokio::time::{Instant, timeout_at};
use tonic::{Code, Request, transport::Channel};

use crate::{
    Version,
    address::Directory,
    code::ErrorCode,
    error::{Cause, Failed, read_version},
    leader::{self, SearchPace},
    stall::{AnswerWait, Judge, Suspect},
    standing::{self, client_at},
    trace::CallSpan,
    transport::was_not_taken,
};

/// The proposer in use.
#[derive(Clone, Debug)]
struct ChosenProposer {
    suspect: Suspect,
    cluster: Option<Bytes>,
    client: ProposerClient<Channel>,
}

#[derive(Debug)]
pub(crate) struct Unary {
    directory: Arc<Directory>,
    /// The proposer in use; `None` before the first call and after a failure.
    chosen: Mutex<Option<ChosenProposer>>,
    /// Held while a call chooses a proposer; the other calls wait for the choice.
    choosing: tokio::sync::Mutex<()>,
    judge: Arc<Judge>,
    /// Of the searches for the leader.
    pace: Mutex<SearchPace>,
}

impl Unary {
    pub(crate) fn new(directory: Arc<Directory>, judge: Arc<Judge>) -> Self {
        Self {
            directory,
            chosen: Mutex::new(None),
            choosing: tokio::sync::Mutex::default(),
            judge,
            pace: Mutex::new(SearchPace::new()),
        }
    }

    pub(crate) async fn attempt(
        self: &Arc<Self>,
        command: Command,
        deadline: Instant,
        call: CallSpan,
    ) -> Result<Version, Failed> {
        let chosen = timeout_at(deadline, self.choose())
            .await
            .map_err(|_elapsed| Failed::NotProposed(Cause::deadline()))?
            .map_err(Failed::no_proposer)?;
        let (suspect, mut client) = (&chosen.suspect, chosen.client.clone());
        let mut request = Request::new(ProposeRequest {
            command: Some(command),
            forwarded: false,
        });
        request.set_timeout(deadline.saturating_duration_since(Instant::now()));
        let address = &suspect.address;
        call.to(address);
        call.inject(&mut request);
        let progress = AnswerWait::begun();
        let answer = tokio::select! {
            // Cancelled only together with the call: the outcome is then unknown.
            answer = timeout_at(deadline, client.propose(request)) => answer,
            // Cancel safe: only reads.
            () = self.judge.replaced(suspect, &progress) => {
                self.leave(address);
                let cause = suspect.replaced();
                call.answered(cause.code.grpc(), &cause.message);
                return Err(Failed::OutcomeUnknown(cause));
            }
        };
        let status = match answer {
            Ok(Ok(response)) => {
                call.answered(Code::Ok, "");
                let response = response.into_inner();
                if let Ok(leader) = response.leader_address.parse() {
                    self.move_to(leader, &chosen);
                }
                return read_version(response.version.unwrap_or_default()).map_err(Failed::OutcomeUnknown);
            }
            Ok(Err(status)) => status,
            Err(_elapsed) => {
                call.answered(Code::DeadlineExceeded, "");
                return Err(Failed::OutcomeUnknown(Cause::deadline().at(address)));
            }
        };
        call.answered(status.code(), status.message());
        let not_taken = was_not_taken(&status);
        let failed = if not_taken {
            Failed::NotProposed(Cause::of(&status).at(address))
        } else {
            Failed::judge(&status)
        };
        let overloaded = !not_taken && failed.cause().code == ErrorCode::ResourceExhausted;
        let helpless = matches!(failed, Failed::NotProposed(_)) && !overloaded;
        if helpless || matches!(failed, Failed::OutcomeUnknown(_)) {
            self.leave(address);
        }
        Err(failed)
    }

    async fn choose(self: &Arc<Self>) -> Result<ChosenProposer, Cause> {
        if let Some(chosen) = self.chosen().clone() {
            return Ok(chosen);
        }
        let _turn = self.choosing.lock().await;
        if let Some(chosen) = self.chosen().clone() {
            return Ok(chosen);
        }
        let mut silent = None;
        for address in self.directory.proposers().await? {
            let mut client = client_at(&address, &self.directory.dialer);
            let answer = standing::ask(&mut client).await;
            let is_silent = answer.is_err();
            let standing = answer.unwrap_or_default();
            let chosen = ChosenProposer {
                suspect: Suspect {
                    address,
                    process: standing.process,
                },
                cluster: standing.cluster,
                client,
            };
            if is_silent {
                silent.get_or_insert(chosen);
                continue;
            }
            *self.chosen() = Some(chosen.clone());
            if let Some(leader) = standing.leader {
                self.move_to(leader, &chosen);
            }
            return Ok(chosen);
        }
        // No proposer answers: the call will say why.
        let chosen = silent.ok_or_else(|| Cause::unavailable("no proposer is known"))?;
        *self.chosen() = Some(chosen.clone());
        Ok(chosen)
    }

    /// Searches in the background for the leader named by the proposer `current`, and uses the leader from then on.
    fn move_to(self: &Arc<Self>, named: Address, current: &ChosenProposer) {
        let mut pace = self.pace.lock().unwrap_or_else(PoisonError::into_inner);
        if Instant::now() < pace.due(&named) {
            return;
        }
        pace.began(&named);
        drop(pace);
        let (unary, current) = (self.clone(), current.clone());
        tokio::spawn(async move {
            let at = &current.suspect.address;
            let found = leader::find(&unary.directory, (at, current.cluster.as_ref()), &named).await;
            let Some((address, standing, client)) = found else {
                return;
            };
            if let Some(chosen) = &mut *unary.chosen()
                && chosen.suspect.address == *at
            {
                tracing::debug!(from = %at, to = %address, "moving to the leader");
                let process = standing.process;
                *chosen = ChosenProposer {
                    suspect: Suspect { address, process },
                    cluster: standing.cluster,
                    client,
                };
            }
        });
    }

    fn leave(&self, address: &Address) {
        self.directory.shun(address);
        self.chosen().take_if(|chosen| chosen.suspect.address == *address);
    }

    fn chosen(&self) -> std::sync::MutexGuard<'_, Option<ChosenProposer>> {
        self.chosen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
