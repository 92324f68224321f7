//! Changes of members, for the command `paxos member`: requests at the leader, and the stages of the change.

use std::time::Duration;

use paxos_common::{
    peer::{Address, Dialer, MESSAGE_BYTES_MAX},
    tls::RoleName,
    wire::status::{Fate, fate_of},
};
use paxos_proto::v1::{
    AcceptorStatusRequest, AcceptorStatusResponse, ChangeMembersRequest, ChangeMembersResponse,
    proposer_client::ProposerClient,
};
use tokio::time::timeout;
use tonic::{Code, Status, Streaming};

use crate::{Client, error::Cause, status::acceptor_client};

/// Shortest time for a leader to check a request: the leader asks all acceptors first.
const CHECK_MIN: Duration = Duration::from_secs(10);

/// A change under way.
#[derive(Debug)]
pub struct ChangeStream {
    proposer: Address,
    stream: Streaming<ChangeMembersResponse>,
}

/// Why a change, or the news of a change, ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// Nothing has changed. The same request is refused again, unless the cluster changes.
    #[error("{0}")]
    Refused(Cause),
    /// No leader took the request: nothing has changed by this attempt. Repeat the request.
    #[error("{0}")]
    NotMade(Cause),
    /// The change may be made, or may still be made. Repeat the request.
    #[error("{0}")]
    Unknown(Cause),
}

impl ChangeError {
    fn of(status: &Status, proposer: &Address) -> Self {
        let cause = Cause::of(status);
        match status.code() {
            Code::FailedPrecondition | Code::InvalidArgument | Code::PermissionDenied => Self::Refused(cause),
            Code::Unimplemented => Self::Refused(cause.at(proposer)),
            Code::Ok
            | Code::Cancelled
            | Code::Unknown
            | Code::DeadlineExceeded
            | Code::NotFound
            | Code::AlreadyExists
            | Code::ResourceExhausted
            | Code::Aborted
            | Code::OutOfRange
            | Code::Internal
            | Code::Unavailable
            | Code::DataLoss
            | Code::Unauthenticated => match fate_of(status) {
                Some(Fate::NotProposed) => Self::NotMade(cause.at(proposer)),
                Some(Fate::OutcomeUnknown) | None => Self::Unknown(cause.at(proposer)),
            },
        }
    }
}

impl ChangeStream {
    /// The next answer, with a stage; the last stage is `Done`. Stages of a slow caller are left out, and never the last.
    ///
    /// # Errors
    /// The change was refused after all, or the proposer has lost the lead or the connection.
    ///
    /// # Cancel safety
    /// Safe: no answer is lost.
    pub async fn next(&mut self) -> Result<ChangeMembersResponse, ChangeError> {
        let closed = || ChangeError::Unknown(Cause::unavailable("the proposer closed the stream"));
        match self.stream.message().await {
            Ok(Some(answer)) if answer.stage.is_some() => Ok(answer),
            Ok(_) => Err(closed()),
            Err(status) => Err(ChangeError::of(&status, &self.proposer)),
        }
    }
}

impl Client {
    /// Requests a change of members at the leader: asks each proposer once, the leader first.
    ///
    /// # Errors
    /// See [`ChangeError`].
    ///
    /// # Cancel safety
    /// A change that was begun goes on.
    #[doc(hidden)]
    pub async fn change_members(&self, request: &ChangeMembersRequest) -> Result<ChangeStream, ChangeError> {
        let proposers = self.directory.proposers().await.map_err(|cause| {
            if cause.is_permanent() {
                ChangeError::Refused(cause)
            } else {
                ChangeError::NotMade(cause)
            }
        })?;
        let patience = self.timeout().max(CHECK_MIN);
        let mut first = None;
        for proposer in proposers {
            let begun = begin(&self.directory.dialer, &proposer, request, patience).await;
            match begun {
                Err(error @ (ChangeError::NotMade(_) | ChangeError::Unknown(_))) => {
                    // The answer of the likely leader says most. An open outcome must not be lost.
                    if first.is_none() || matches!(error, ChangeError::Unknown(_)) {
                        first = Some(error);
                    }
                }
                begun => return begun,
            }
        }
        Err(first.unwrap_or_else(|| ChangeError::NotMade(Cause::unavailable("no proposer is known"))))
    }

    /// The status of any acceptor, whether or not it belongs to the cluster.
    ///
    /// # Errors
    /// No answer within `patience`.
    ///
    /// # Cancel safety
    /// Safe: the call only reads.
    #[doc(hidden)]
    pub async fn acceptor_status(
        &self,
        address: &Address,
        patience: Duration,
    ) -> Result<AcceptorStatusResponse, Cause> {
        let mut client = acceptor_client(&self.directory.dialer, address);
        match timeout(patience, client.status(AcceptorStatusRequest {})).await {
            Ok(Ok(answer)) => Ok(answer.into_inner()),
            Ok(Err(status)) => Err(Cause::of(&status)),
            Err(_elapsed) => Err(Cause::deadline()),
        }
    }
}

async fn begin(
    dialer: &Dialer,
    proposer: &Address,
    request: &ChangeMembersRequest,
    patience: Duration,
) -> Result<ChangeStream, ChangeError> {
    let channel = match timeout(patience, dialer.connect(proposer, Some(RoleName::Proposer))).await {
        Ok(Ok(channel)) => channel,
        Ok(Err(status)) => {
            return Err(match ChangeError::of(&status, proposer) {
                // Without a connection no request was sent.
                ChangeError::Unknown(cause) => ChangeError::NotMade(cause),
                known @ (ChangeError::NotMade(_) | ChangeError::Refused(_)) => known,
            });
        }
        Err(_elapsed) => return Err(ChangeError::NotMade(Cause::deadline().at(proposer))),
    };
    let mut client = ProposerClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
    match timeout(patience, client.change_members(request.clone())).await {
        Ok(Ok(answer)) => Ok(ChangeStream {
            proposer: proposer.clone(),
            stream: answer.into_inner(),
        }),
        Ok(Err(status)) => Err(ChangeError::of(&status, proposer)),
        Err(_elapsed) => Err(ChangeError::Unknown(Cause::deadline().at(proposer))),
    }
}

#[cfg(test)]
mod tests {
    use paxos_common::wire::status;

    use super::*;

    #[test]
    fn only_a_refusal_ends_the_attempts() {
        let proposer: Address = "http://p:1".parse().unwrap();
        let of = |status: Status| ChangeError::of(&status, &proposer);
        for status in [
            status::not_wanted("no"),
            Status::unimplemented("older"),
            status::denied("no operator"),
            status::invalid_argument("era"),
        ] {
            assert!(matches!(of(status), ChangeError::Refused(_)));
        }
        let standby = of(status::no_leader(Fate::NotProposed));
        assert!(matches!(&standby, ChangeError::NotMade(cause) if cause.message.starts_with("http://p:1: ")));
        for status in [
            status::no_leader(Fate::OutcomeUnknown),
            Status::unavailable("the connection broke"),
            Status::unknown("h2"),
        ] {
            assert!(matches!(of(status), ChangeError::Unknown(_)));
        }
    }

    #[tokio::test]
    async fn request_without_a_connection_is_not_made() {
        // No process listens at the discard port.
        let proposer: Address = "http://127.0.0.1:9".parse().unwrap();
        let request = ChangeMembersRequest::default();
        let begun = begin(&Dialer::default(), &proposer, &request, CHECK_MIN).await;
        let error = begun.unwrap_err();
        assert!(matches!(&error, ChangeError::NotMade(_)), "{error:?}");
        assert!(error.to_string().starts_with("http://127.0.0.1:9: "), "{error}");
    }
}
