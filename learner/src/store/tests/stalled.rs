//! Readers that stop in the middle of a read keep no connection.

use std::{future::poll_fn, pin::pin, task::Poll, time::Duration};

use tokio::time::timeout;

use super::*;

#[tokio::test]
async fn log_closes_although_readers_stop_in_the_middle_of_reads() {
    let directory = tempfile::tempdir().unwrap();
    let mut writer = TestWriter::open(directory.path()).await;
    writer.write_numbered(3_000).await;
    let to = writer.progress.applied_to();
    // Polled a few times, and never again: as streams whose callers take nothing.
    let mut pages: Vec<_> = (0..8)
        .map(|_| Box::pin(writer.log.page(Slot::ZERO, to)))
        .collect();
    for _ in 0..3 {
        for page in &mut pages {
            let mut page = pin!(page);
            poll_fn(|context| {
                let _ = page.as_mut().poll(context);
                Poll::Ready(())
            })
            .await;
        }
    }
    let closed = timeout(Duration::from_secs(20), writer.log.close()).await;
    assert!(closed.is_ok(), "a stopped reader keeps a connection");
    drop(pages);
}
