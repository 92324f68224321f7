//! Observing an election: the holder, and each change of the holder.

use std::time::Duration;

use futures::{StreamExt as _, stream};

use super::{ElectionError, Holder, seat::Seat};
use crate::{Updates, Version, error::SubscribeError};

/// The holders of an election, one after the other; `None`: no holder.
pub(crate) fn start(seat: impl Seat, timeout: Duration) -> Updates<Option<Holder>, ElectionError> {
    let observer = LeaderObserver {
        seat,
        timeout,
        watch: None,
        reported: None,
    };
    Updates::new(stream::unfold(Some(observer), |observer| async {
        let mut observer = observer?;
        match observer.next().await {
            Ok(holder) => Some((Ok(holder), Some(observer))),
            Err(error) => Some((Err(error), None)),
        }
    }))
}

struct LeaderObserver<S: Seat> {
    seat: S,
    timeout: Duration,
    watch: Option<S::Watch>,
    /// The last report; `None`: no report yet.
    reported: Option<Option<Holder>>,
}

impl<S: Seat> LeaderObserver<S> {
    async fn next(&mut self) -> Result<Option<Holder>, ElectionError> {
        loop {
            let Some(watch) = &mut self.watch else {
                let look = self.seat.look(self.timeout).await?;
                self.watch = Some(self.seat.watch(look.next, self.timeout));
                if let Some(news) =
                    self.news(look.held.as_ref().map(|(version, value)| (*version, &value[..])))?
                {
                    return Ok(news);
                }
                continue;
            };
            match watch.next().await {
                Some(Ok(changes)) => {
                    let last = changes.changes.last();
                    let Some(last) = last else { continue };
                    let held = last.value.as_deref().map(|value| (last.version, value));
                    if let Some(news) = self.news(held)? {
                        return Ok(news);
                    }
                }
                // The learners no longer keep the later changes: look at the present state.
                Some(Err(SubscribeError::OutOfRange(_) | SubscribeError::Trimmed { .. })) | None => {
                    self.watch = None;
                }
                Some(Err(error)) => return Err(error.into()),
            }
        }
    }

    /// The news about the content of the register; `None`: the same holder as before.
    fn news(&mut self, held: Option<(Version, &[u8])>) -> Result<Option<Option<Holder>>, ElectionError> {
        let holder = held
            .map(|(version, value)| Holder::read(value, version))
            .transpose()?;
        if self.reported.as_ref() == Some(&holder) {
            return Ok(None);
        }
        self.reported = Some(holder.clone());
        Ok(Some(holder))
    }
}
