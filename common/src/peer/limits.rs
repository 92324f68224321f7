//! The limit of messages, in both directions, for every generated client and server of the roles.

use bytes::Bytes;
use paxos_proto::v1::{
    acceptor_client::AcceptorClient, acceptor_server::AcceptorServer, learner_client::LearnerClient,
    learner_server::LearnerServer, proposer_client::ProposerClient, proposer_server::ProposerServer,
};
use tonic::{
    body::Body,
    client::GrpcService,
    codegen::{Body as HttpBody, StdError},
};

use super::MESSAGE_BYTES_MAX;

/// A generated client or server.
pub trait MessageLimits: Sized {
    /// Sends and receives messages of at most [`MESSAGE_BYTES_MAX`] bytes.
    #[must_use]
    fn with_message_limits(self) -> Self;
}

macro_rules! limit {
    ($($client:ident, $server:ident;)*) => {$(
        impl<T> MessageLimits for $client<T>
        where
            T: GrpcService<Body, Error: Into<StdError>>,
            T::ResponseBody: HttpBody<Data = Bytes, Error: Into<StdError> + Send> + Send + 'static,
        {
            fn with_message_limits(self) -> Self {
                self.max_decoding_message_size(MESSAGE_BYTES_MAX)
                    .max_encoding_message_size(MESSAGE_BYTES_MAX)
            }
        }

        impl<T> MessageLimits for $server<T> {
            fn with_message_limits(self) -> Self {
                self.max_decoding_message_size(MESSAGE_BYTES_MAX)
                    .max_encoding_message_size(MESSAGE_BYTES_MAX)
            }
        }
    )*};
}

limit! {
    AcceptorClient, AcceptorServer;
    ProposerClient, ProposerServer;
    LearnerClient, LearnerServer;
}
