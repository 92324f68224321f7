//! Processes that the certificate of this command, or a certificate of the process, keeps from this command.

use paxos_client::{
    Cause, ErrorCode,
    raw::{AcceptorReport, ClusterReport},
};

use super::{Finding, Subject};

/// What to do when a right or TLS is missing; `None`: the cause is another.
pub(super) fn advice(cause: &Cause) -> Option<&'static str> {
    if cause.code == ErrorCode::PermissionDenied {
        return Some(
            "the process runs. Give the certificate of a client or of an operator with --tls-cert and --tls-key",
        );
    }
    cause.is_about_tls().then_some(
        "the process may run. Make this command fit the cluster: --tls-cert, --tls-key and --tls-ca with files of this \
         cluster, --tls-domain, and https:// addresses. Renew an expired certificate; no process needs a restart",
    )
}

/// No acceptor answers, and the first cause that needs another certificate or other flags says why.
pub(super) fn refused(status: &ClusterReport) -> Option<Finding> {
    let reason = |report: &AcceptorReport| {
        let cause = report.answer.as_ref().err()?;
        let advice = advice(cause)?;
        Some((
            format!("no acceptor answers this command; {}: {cause}", report.address),
            advice,
        ))
    };
    let (problem, advice) = status.acceptors.iter().find_map(reason)?;
    Some(Finding::unavailable(Subject::cluster(), problem, advice))
}
