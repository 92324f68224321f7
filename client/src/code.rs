//! The gRPC code of a failed call.

use std::fmt;

use tonic::Code;

/// The gRPC code of a failed call. The head of `proto/paxos/v1/types.proto` says which code stands for which failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorCode {
    /// No failure; never the code of an error.
    Ok = 0,
    /// The call was cancelled.
    Cancelled = 1,
    /// A failure without a known code.
    Unknown = 2,
    /// The message breaks a limit.
    InvalidArgument = 3,
    /// The deadline passed.
    DeadlineExceeded = 4,
    /// Not used by the cluster.
    NotFound = 5,
    /// Not used by the cluster.
    AlreadyExists = 6,
    /// The certificate of the client does not allow the call.
    PermissionDenied = 7,
    /// A queue or a disk is full.
    ResourceExhausted = 8,
    /// Another cluster, a lost disk, or a newer protocol.
    FailedPrecondition = 9,
    /// The session has expired, or has another opener.
    Aborted = 10,
    /// The position is no longer kept, or not written yet.
    OutOfRange = 11,
    /// The process does not serve this part of the contract.
    Unimplemented = 12,
    /// A failure of the transport.
    Internal = 13,
    /// No leader, no quorum, or no connection.
    Unavailable = 14,
    /// Not used by the cluster.
    DataLoss = 15,
    /// Not used by the cluster.
    Unauthenticated = 16,
}

/// All codes, by number.
const CODES: [ErrorCode; 17] = [
    ErrorCode::Ok,
    ErrorCode::Cancelled,
    ErrorCode::Unknown,
    ErrorCode::InvalidArgument,
    ErrorCode::DeadlineExceeded,
    ErrorCode::NotFound,
    ErrorCode::AlreadyExists,
    ErrorCode::PermissionDenied,
    ErrorCode::ResourceExhausted,
    ErrorCode::FailedPrecondition,
    ErrorCode::Aborted,
    ErrorCode::OutOfRange,
    ErrorCode::Unimplemented,
    ErrorCode::Internal,
    ErrorCode::Unavailable,
    ErrorCode::DataLoss,
    ErrorCode::Unauthenticated,
];

impl ErrorCode {
    /// The code off the wire.
    pub(crate) fn of(code: Code) -> Self {
        let number = usize::try_from(i32::from(code)).ok();
        number
            .and_then(|number| CODES.get(number).copied())
            .unwrap_or(Self::Unknown)
    }

    /// The code as on the wire.
    pub(crate) fn grpc(self) -> Code {
        Code::from(self as i32)
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.grpc().description())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_of_grpc_has_its_own_and_comes_back() {
        for number in 0..17 {
            let code = Code::from(number);
            assert_eq!(ErrorCode::of(code).grpc(), code);
        }
    }
}
