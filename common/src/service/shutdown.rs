//! Stop of a role: the stop token, the tasks to finish first, and the failure that caused the stop.

use std::{
    io, process,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{task::JoinHandle, time::timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::service::{failure::Failure, signals::EndSignals};

/// Stops one role. Cheap to clone; clones share the stop.
///
/// Correctness never depends on an orderly stop: a killed role loses nothing.
#[derive(Clone, Debug)]
pub struct Shutdown {
    token: CancellationToken,
    /// Cancelled by a failure: the token of the whole role.
    role: CancellationToken,
    tracker: TaskTracker,
    /// The first reported failure of the role; later failures are consequences.
    failure: Arc<Mutex<Option<Failure>>>,
}

impl Shutdown {
    /// A stop that begins when `parent` is cancelled, or at the role's own request. Never cancels `parent`.
    pub fn new(parent: &CancellationToken) -> Self {
        let token = parent.child_token();
        Self {
            role: token.clone(),
            token,
            tracker: TaskTracker::new(),
            failure: Arc::default(),
        }
    }

    /// A stop of a part of the role, for tasks that end earlier than the role: begins with the stop of the role, or at
    /// [`begin`](Self::begin). A failure of a task ends the role. The role's [`drain`](Self::drain) waits for the tasks
    /// of the part, too.
    ///
    /// # Panics
    /// Outside a Tokio runtime.
    #[must_use]
    pub fn child(&self) -> Self {
        let child = Self {
            token: self.token.child_token(),
            role: self.role.clone(),
            tracker: TaskTracker::new(),
            failure: Arc::clone(&self.failure),
        };
        let (token, tracker) = (child.token.clone(), child.tracker.clone());
        self.tracker.spawn(async move {
            token.cancelled().await;
            tracker.close();
            tracker.wait().await;
        });
        child
    }

    /// A stop that begins at SIGTERM, SIGINT or SIGHUP. A second signal ends the process at once, with 128 + its
    /// number.
    ///
    /// # Errors
    /// The signals cannot be listened to.
    ///
    /// # Panics
    /// Outside a Tokio runtime.
    pub fn on_signals() -> io::Result<Self> {
        let shutdown = Self::new(&CancellationToken::new());
        let token = shutdown.token.clone();
        let mut signals = EndSignals::listen()?;
        // Not tracked: this task outlives the role to see the second signal.
        tokio::spawn(async move {
            loop {
                let signal = signals.next().await;
                if token.is_cancelled() {
                    process::exit(128 + i32::from(signal.number()));
                }
                tracing::info!(%signal, "stopping");
                token.cancel();
            }
        });
        Ok(shutdown)
    }

    /// The token, cancelled when the stop begins.
    pub fn token(&self) -> &CancellationToken {
        &self.token
    }

    /// Begins the stop.
    pub fn begin(&self) {
        self.token.cancel();
    }

    /// Whether the stop has begun.
    pub fn has_begun(&self) -> bool {
        self.token.is_cancelled()
    }

    /// Whether something has failed.
    pub fn has_failed(&self) -> bool {
        self.failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_some()
    }

    /// Waits for the stop to begin.
    ///
    /// # Cancel safety
    /// Safe: only waits.
    pub async fn begun(&self) {
        self.token.cancelled().await;
    }

    /// Waits until the stop has begun and every task has ended.
    ///
    /// # Cancel safety
    /// Safe: only waits.
    pub async fn drained(&self) {
        self.tracker.wait().await;
    }

    /// Begins the stop because of a failure. [`drain`](Self::drain) returns the first failure.
    pub fn fail(&self, failure: Failure) {
        let mut first = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        if first.is_none() {
            // The caller of `drain` reports the failure: the last line of a process has the text.
            tracing::info!(exit_code = failure.code as u8, "stopping because of a failure");
            *first = Some(failure);
        }
        drop(first);
        self.role.cancel();
    }

    /// Runs a task; [`drain`](Self::drain) waits for the task.
    ///
    /// # Panics
    /// Outside a Tokio runtime.
    pub fn spawn<F>(&self, task: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.tracker.spawn(task)
    }

    /// Runs a task until the task ends or the stop begins. The task must be cancel safe.
    ///
    /// # Panics
    /// Outside a Tokio runtime.
    pub fn spawn_until_stop<F>(&self, task: F)
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let stop = self.token.clone();
        self.tracker.spawn(stop.run_until_cancelled_owned(task));
    }

    /// Runs a vital task: its failure, or its end before the stop has begun, ends the role. `name` identifies the task
    /// in the error.
    ///
    /// # Panics
    /// Outside a Tokio runtime.
    pub fn spawn_vital<F>(&self, name: &'static str, task: F)
    where
        F: Future<Output = Result<(), Failure>> + Send + 'static,
    {
        let shutdown = self.clone();
        self.tracker.spawn(async move {
            match task.await {
                Ok(()) if shutdown.has_begun() => {}
                Ok(()) => shutdown.fail(Failure::internal(anyhow::anyhow!("task {name} ended early"))),
                Err(failure) => shutdown.fail(failure),
            }
        });
    }

    /// Begins the stop, waits at most `grace` for the tasks, and returns the failure that caused the stop, if any.
    ///
    /// # Errors
    /// The first [`fail`](Self::fail).
    pub async fn drain(&self, grace: Duration) -> Result<(), Failure> {
        self.begin();
        self.tracker.close();
        if timeout(grace, self.tracker.wait()).await.is_err() {
            tracing::warn!(
                tasks = self.tracker.len(),
                "stopping without waiting for the remaining tasks"
            );
        }
        self.failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
            .map_or(Ok(()), Err)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::service::failure::Exit;

    fn shutdown() -> Shutdown {
        Shutdown::new(&CancellationToken::new())
    }

    #[tokio::test]
    async fn first_failure_is_the_one_reported() {
        let shutdown = shutdown();
        shutdown.spawn_vital("disk", async {
            Err(Failure::storage(anyhow::anyhow!("disk full")))
        });
        shutdown.begun().await;
        shutdown.fail(Failure::internal(anyhow::anyhow!("a consequence")));
        let failure = shutdown
            .drain(Duration::from_secs(60))
            .await
            .expect_err("it failed");
        assert_eq!(
            (failure.code, failure.to_string().as_str()),
            (Exit::Storage, "disk full")
        );
    }

    #[test]
    fn text_of_a_failure_is_left_to_the_last_line() {
        let log = tempfile::NamedTempFile::new().unwrap();
        let subscriber = tracing_subscriber::fmt()
            .with_writer(Arc::new(log.reopen().unwrap()))
            .with_ansi(false)
            .finish();
        let shutdown = shutdown();
        tracing::subscriber::with_default(subscriber, || {
            shutdown.fail(Failure::storage(anyhow::anyhow!("disk full")));
        });
        let lines = std::fs::read_to_string(log.path()).unwrap();
        assert!(
            lines.contains("stopping because of a failure exit_code=74") && !lines.contains("disk full"),
            "{lines}"
        );
    }

    #[tokio::test]
    async fn vital_task_that_ends_early_ends_the_role() {
        let shutdown = shutdown();
        shutdown.spawn_vital("worker", async { Ok(()) });
        shutdown.begun().await;
        let failure = shutdown
            .drain(Duration::from_secs(60))
            .await
            .expect_err("it ended early");
        assert!(failure.to_string().contains("worker"), "{failure}");
    }

    #[tokio::test]
    async fn roles_of_one_process_stop_with_their_parent_but_not_with_each_other() {
        let parent = CancellationToken::new();
        let (one, other) = (Shutdown::new(&parent), Shutdown::new(&parent));
        one.begin();
        assert!(!other.has_begun() && !parent.is_cancelled());
        parent.cancel();
        other.begun().await;
        assert!(other.drain(Duration::from_secs(60)).await.is_ok());
    }

    #[tokio::test]
    async fn part_of_a_role_ends_alone_and_before_the_role() {
        let role = shutdown();
        let part = role.child();
        let ended = Arc::new(Mutex::new(Vec::new()));
        for (shutdown, name) in [(&role, "role"), (&part, "part")] {
            let (stop, ended) = (shutdown.clone(), Arc::clone(&ended));
            shutdown.spawn(async move {
                stop.begun().await;
                tokio::task::yield_now().await;
                ended.lock().unwrap().push(name);
            });
        }
        part.begin();
        part.drained().await;
        assert_eq!(*ended.lock().unwrap(), ["part"]);
        assert!(!role.has_begun());
        // The next part ends with the role.
        let next = role.child();
        let (stop, seen) = (next.clone(), Arc::clone(&ended));
        next.spawn(async move {
            stop.begun().await;
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
            seen.lock().unwrap().push("next");
        });
        assert!(role.drain(Duration::from_secs(60)).await.is_ok());
        assert_eq!(*ended.lock().unwrap(), ["part", "role", "next"]);
    }

    #[tokio::test]
    async fn failure_of_a_part_ends_the_role() {
        let role = shutdown();
        let (part, other) = (role.child(), role.child());
        part.spawn_vital("disk", async {
            Err(Failure::storage(anyhow::anyhow!("disk full")))
        });
        role.begun().await;
        other.begun().await;
        assert!(part.has_failed() && other.has_failed());
        let failure = role.drain(Duration::from_secs(60)).await.unwrap_err();
        assert_eq!(failure.to_string(), "disk full");
    }

    #[tokio::test]
    async fn task_until_the_stop_delays_no_stop() {
        let (shutdown, begun) = (shutdown(), Instant::now());
        shutdown.spawn_until_stop(std::future::pending::<()>());
        assert!(shutdown.drain(Duration::from_secs(60)).await.is_ok());
        assert!(begun.elapsed() < Duration::from_secs(30));
    }

    #[tokio::test]
    async fn drain_waits_for_tasks_no_longer_than_the_grace() {
        let shutdown = shutdown();
        shutdown.spawn(std::future::pending::<()>());
        assert!(shutdown.drain(Duration::from_millis(1)).await.is_ok());
    }
}
