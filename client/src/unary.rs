//! Commands as single calls, each to the proposer that served the last one.

use std::{
    error::Error as _,
    sync::{Arc, Mutex, PoisonError},
};

use paxos_common::peer::{Address, MESSAGE_BYTES_MAX, connect_lazy};
use paxos_proto::v1::{Command, ProposeRequest, proposer_client::ProposerClient};
use tokio::time::{Instant, timeout_at};
use tonic::{Code, ConnectError, Request, Status, transport::Channel};

use crate::{
    Version,
    address::Directory,
    client::version_of,
    error::{Cause, Failed},
    trace::Call,
};

type Chosen = (Address, ProposerClient<Channel>);

#[derive(Debug)]
pub(crate) struct Unary {
    directory: Arc<Directory>,
    /// The proposer in use; none before the first call and after a failure.
    chosen: Mutex<Option<Chosen>>,
}

impl Unary {
    pub(crate) fn new(directory: Arc<Directory>) -> Self {
        Self {
            directory,
            chosen: Mutex::new(None),
        }
    }

    pub(crate) async fn attempt(
        &self,
        command: Command,
        deadline: Instant,
        call: Call,
    ) -> Result<Version, Failed> {
        let (address, mut client) = timeout_at(deadline, self.choose())
            .await
            .map_err(|_elapsed| Failed::NotProposed(Cause::deadline()))?
            .map_err(Failed::NotProposed)?;
        let mut request = Request::new(ProposeRequest {
            command: Some(command),
            forwarded: false,
        });
        request.set_timeout(deadline.saturating_duration_since(Instant::now()));
        call.to(&address);
        call.inject(&mut request);
        let status = match timeout_at(deadline, client.propose(request)).await {
            Ok(Ok(response)) => {
                call.answered(Code::Ok, "");
                let version = response.into_inner().version.unwrap_or_default();
                return version_of(version).map_err(Failed::OutcomeUnknown);
            }
            Ok(Err(status)) => status,
            Err(_elapsed) => {
                call.answered(Code::DeadlineExceeded, "");
                return Err(Failed::OutcomeUnknown(Cause::deadline().at(&address)));
            }
        };
        call.answered(status.code(), status.message());
        let failed = if never_sent(&status) {
            Failed::NotProposed(Cause::from(&status).at(&address))
        } else {
            Failed::judge(&status)
        };
        let helpless = matches!(&failed, Failed::NotProposed(cause) if cause.code != Code::ResourceExhausted);
        if helpless || matches!(failed, Failed::OutcomeUnknown(_)) {
            self.leave(&address);
        }
        Err(failed)
    }

    async fn choose(&self) -> Result<Chosen, Cause> {
        if let Some(chosen) = self.chosen().clone() {
            return Ok(chosen);
        }
        let addresses = self.directory.proposers().await?;
        let address = addresses
            .into_iter()
            .next()
            .ok_or_else(|| Cause::unavailable("no proposer is known"))?;
        // Many calls may get here together after a failure; the first that returns serves all.
        Ok(self
            .chosen()
            .get_or_insert_with(|| {
                let client = ProposerClient::new(connect_lazy(&address))
                    .max_decoding_message_size(MESSAGE_BYTES_MAX)
                    .max_encoding_message_size(MESSAGE_BYTES_MAX);
                (address, client)
            })
            .clone())
    }

    fn leave(&self, address: &Address) {
        self.directory.shun(address);
        self.chosen().take_if(|(chosen, _)| chosen == address);
    }

    fn chosen(&self) -> std::sync::MutexGuard<'_, Option<Chosen>> {
        self.chosen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the call failed before there was a connection to send it on.
fn never_sent(status: &Status) -> bool {
    let mut source = status.source();
    while let Some(error) = source {
        if error.is::<ConnectError>() {
            return true;
        }
        source = error.source();
    }
    false
}
