//! Reload of certificate files while the process runs: by content, whole or not at all.

use std::time::Duration;

use tokio::{task::spawn_blocking, time::sleep};

use super::{
    Tls, WeakTls,
    certificate::{date, now},
    error::TlsError,
    files::{FileContents, TlsIdentity},
};

/// Interval of the comparisons. Kubernetes replaces the files of a secret within a minute or two.
const INTERVAL: Duration = Duration::from_secs(10);

/// Part of the lifetime, as one in N, from which a warning is logged.
const WARNING_PART: u32 = 3;
/// Part of the lifetime, as one in N, from which an error is logged.
const ERROR_PART: u32 = 10;

/// How much of the own certificate's lifetime is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Age {
    Fresh,
    Warning,
    Error,
    Expired,
}

/// What the reload has reported already.
#[derive(Debug)]
pub(super) struct Reloading {
    /// The contents in use.
    taken: FileContents,
    /// The contents of the last attempt, when no later attempt can take these contents.
    unusable: Option<FileContents>,
    /// The text of the last failure; `None`: the files in use are the current files.
    failure: Option<String>,
    age: Age,
}

impl Reloading {
    pub(super) fn new(contents: FileContents) -> Self {
        Self {
            taken: contents,
            unusable: None,
            failure: None,
            age: Age::Fresh,
        }
    }

    /// Compares the files once. `read` reads the files.
    pub(super) fn look(&mut self, tls: &Tls, read: impl Fn() -> Result<FileContents, TlsError>) {
        match self.load(tls, read) {
            Ok(None) => {}
            Ok(Some(identity)) => {
                tracing::info!(
                    file = %tls.settings().0.cert.display(), valid_until = date(identity.validity.not_after),
                    "took new certificate files"
                );
                self.failure = None;
                self.age = Age::Fresh;
                tls.replace(identity);
            }
            Err(error) => self.failed(&error.to_string()),
        }
        self.report_age(tls);
    }

    /// The identity in new files; `None`: there are no new files, or they are being replaced.
    fn load(
        &mut self,
        tls: &Tls,
        read: impl Fn() -> Result<FileContents, TlsError>,
    ) -> Result<Option<TlsIdentity>, TlsError> {
        let contents = read()?;
        if self.taken == contents {
            (self.unusable, self.failure) = (None, None);
            return Ok(None);
        }
        if self.unusable.as_ref() == Some(&contents) {
            return Ok(None);
        }
        // A second read shows whether the files are being replaced just now. The next look reads them again.
        if read()? != contents {
            return Ok(None);
        }
        let (files, domain, own) = tls.settings();
        match TlsIdentity::of(&contents, files, domain, own) {
            Ok(identity) => {
                (self.taken, self.unusable) = (contents, None);
                Ok(Some(identity))
            }
            Err(error) => {
                // Time may make the same contents usable: each look tries these again.
                self.unusable = (!error.is_of_the_clock()).then_some(contents);
                Err(error)
            }
        }
    }

    /// Warns once of each trouble.
    fn failed(&mut self, error: &str) {
        if self.failure.as_deref() != Some(error) {
            tracing::warn!(
                error,
                "new certificate files are not usable: the old ones stay in use"
            );
            self.failure = Some(error.to_owned());
        }
    }

    /// Warns when little of the lifetime is left, once for each stage.
    fn report_age(&mut self, tls: &Tls) {
        let validity = tls.current().validity;
        let now = now();
        let (left, whole) = validity.left(now);
        let age = if validity.not_after < now {
            Age::Expired
        } else if left * ERROR_PART <= whole {
            Age::Error
        } else if left * WARNING_PART <= whole {
            Age::Warning
        } else {
            Age::Fresh
        };
        if age == self.age {
            return;
        }
        self.age = age;
        let (file, valid_until) = (tls.settings().0.cert.display(), date(validity.not_after));
        match age {
            Age::Fresh => {}
            Age::Warning => {
                tracing::warn!(%file, valid_until, "a third of the certificate's lifetime is left: renew it");
            }
            Age::Error => {
                tracing::error!(%file, valid_until, "less than a tenth of the certificate's lifetime is left: renew it");
            }
            Age::Expired => tracing::error!(
                %file, valid_until,
                "the certificate has expired, and other processes refuse this process: renew it; no restart is needed"
            ),
        }
    }
}

/// Compares the files at intervals, until no user of the identity is left.
pub(super) async fn keep(tls: WeakTls, mut reloading: Reloading) {
    loop {
        let Some(strong) = tls.upgrade() else { return };
        let looked = spawn_blocking(move || {
            let files = strong.settings().0.clone();
            reloading.look(&strong, || FileContents::read(&files));
            reloading
        });
        let Ok(again) = looked.await else { return };
        reloading = again;
        sleep(INTERVAL).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use tempfile::TempDir;

    use crate::tls::{
        RoleName,
        testing::{TestCa, load},
    };

    #[test]
    fn age_is_reported_from_a_third_and_from_a_tenth_of_the_lifetime_on() {
        let (dir, ca) = (TempDir::new().unwrap(), TestCa::new());
        // The test may take some of these seconds.
        const SLACK: i64 = 100;
        for (left, age) in [
            (3_000 + SLACK, Age::Fresh),
            (3_000, Age::Warning),
            (900 + SLACK, Age::Warning),
            (900, Age::Error),
        ] {
            let files = ca.issue_with(dir.path(), &["acceptor.paxos.internal"], left, |params| {
                params.not_before = params.not_after - time::Duration::seconds(9_000);
            });
            let acceptor = load(&files, RoleName::Acceptor);
            let mut reloading = Reloading::new(FileContents::read(&files).unwrap());
            reloading.look(&acceptor, || FileContents::read(&files));
            assert_eq!(reloading.age, age, "{left} s of 9,000 are left");
        }
    }

    #[test]
    fn trouble_that_ended_is_reported_again() {
        let (dir, ca) = (TempDir::new().unwrap(), TestCa::new());
        let files = ca.issue(dir.path(), &["acceptor.paxos.internal"], 3_600);
        let acceptor = load(&files, RoleName::Acceptor);
        let mut reloading = Reloading::new(FileContents::read(&files).unwrap());
        let key = std::fs::read(&files.key).unwrap();
        std::fs::write(&files.key, "no key").unwrap();
        reloading.look(&acceptor, || FileContents::read(&files));
        assert!(reloading.failure.is_some());
        // The same files are not reported again, and the trouble lasts.
        reloading.look(&acceptor, || FileContents::read(&files));
        assert!(reloading.failure.is_some() && reloading.unusable.is_some());
        std::fs::write(&files.key, key).unwrap();
        reloading.look(&acceptor, || FileContents::read(&files));
        assert!(reloading.failure.is_none() && reloading.unusable.is_none());
    }
}
