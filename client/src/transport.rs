//! Failures of the transport that prove that the peer did not take a call.
//!
//! - No connection was made.
//! - The connection ended while the call was queued. `hyper` hands the call back and says "canceled".
//! - The peer reset the call with REFUSED_STREAM: closed "prior to any processing" (RFC 9113, section 8.7).
//! - The peer sent GOAWAY, and the call is above the last stream named by the GOAWAY: the call "was not or will not be
//!   processed" (RFC 9113, section 6.8). `h2` reports this error for such calls, and for calls made after the GOAWAY.
//!   Calls at or below the last stream wait on; when the connection closes, `h2` reports an I/O error for these calls.
//! - The peer answered a plaintext connection with an alert of TLS. Such a peer reads no call.
//!
//! All of this applies only to a call without an answer so far. A stream with received headers was taken.

use std::{error::Error, io};

use paxos_common::peer::{NoTlsConnection, SpeaksTls};
use tonic::{ConnectError, Status};

/// Whether the peer certainly did not take the call, given the failure status of a call without any answer.
pub(crate) fn was_not_taken(status: &Status) -> bool {
    let mut source = status.source();
    while let Some(error) = source {
        if error.is::<ConnectError>() || is_tls_alert(error) || is_handed_back(error) || is_refused(error) {
            return true;
        }
        source = error.source();
    }
    false
}

/// Whether TLS, or the scheme of the address, kept a connection from being made.
pub(crate) fn is_about_tls(error: &(dyn Error + 'static)) -> bool {
    error.is::<NoTlsConnection>() || is_tls_alert(error)
}

/// `h2` keeps only the text of an I/O error.
fn is_tls_alert(error: &(dyn Error + 'static)) -> bool {
    let of_h2 = error.downcast_ref::<h2::Error>().and_then(h2::Error::get_io);
    let io_error = of_h2.or_else(|| error.downcast_ref::<io::Error>());
    io_error.is_some_and(|error| error.to_string() == SpeaksTls.to_string())
}

fn is_handed_back(error: &(dyn Error + 'static)) -> bool {
    error
        .downcast_ref::<hyper::Error>()
        .is_some_and(hyper::Error::is_canceled)
}

fn is_refused(error: &(dyn Error + 'static)) -> bool {
    error.downcast_ref::<h2::Error>().is_some_and(|error| {
        let is_reset = error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM);
        error.is_remote() && (error.is_go_away() || is_reset)
    })
}
