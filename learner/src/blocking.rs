//! Work that blocks a thread, beside the tasks.

use std::panic::resume_unwind;

use tokio::task::spawn_blocking;

/// Runs `work` on a thread for blocking calls. A panic goes on here.
///
/// # Cancel safety
/// Safe: the work ends in the background.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match spawn_blocking(work).await {
        Ok(done) => done,
        Err(ended) => match ended.try_into_panic() {
            Ok(panic) => resume_unwind(panic),
            // The runtime ends.
            Err(_) => std::future::pending().await,
        },
    }
}
