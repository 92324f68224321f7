//! Observing an election: the holder, and each change of the holder.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use futures::{Stream, StreamExt as _, stream};

use super::{ElectionError, Holding, seat::Seat};
use crate::{Version, error::SubscribeError};

type News = Result<Option<Holding>, ElectionError>;

/// The holders of an election, one after the other; `None`: no holder. An error is the last item.
pub struct Observation(Pin<Box<dyn Stream<Item = News> + Send>>);

impl std::fmt::Debug for Observation {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Observation")
    }
}

impl Observation {
    pub(crate) fn start(seat: impl Seat, timeout: Duration) -> Self {
        let observer = Observer {
            seat,
            timeout,
            watch: None,
            told: None,
        };
        let news = stream::unfold(Some(observer), |observer| async {
            let mut observer = observer?;
            match observer.next().await {
                Ok(holding) => Some((Ok(holding), Some(observer))),
                Err(error) => Some((Err(error), None)),
            }
        });
        Self(Box::pin(news))
    }

    /// The present holder on the first call; then each change.
    ///
    /// # Errors
    /// See [`ElectionError`].
    ///
    /// # Cancel safety
    /// Safe: nothing is lost or repeated.
    pub async fn next(&mut self) -> Option<News> {
        self.0.next().await
    }
}

impl Stream for Observation {
    type Item = News;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<News>> {
        self.0.poll_next_unpin(context)
    }
}

struct Observer<S: Seat> {
    seat: S,
    timeout: Duration,
    watch: Option<S::Watch>,
    /// The last report; `None`: no report yet.
    told: Option<Option<Holding>>,
}

impl<S: Seat> Observer<S> {
    async fn next(&mut self) -> News {
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
                Some(Err(SubscribeError::OutOfRange(_))) | None => self.watch = None,
                Some(Err(error)) => return Err(error.into()),
            }
        }
    }

    /// The news about the content of the register; `None`: the same holder as before.
    fn news(&mut self, held: Option<(Version, &[u8])>) -> Result<Option<Option<Holding>>, ElectionError> {
        let holding = held
            .map(|(version, value)| Holding::read(value, version))
            .transpose()?;
        if self.told.as_ref() == Some(&holding) {
            return Ok(None);
        }
        self.told = Some(holding.clone());
        Ok(Some(holding))
    }
}
