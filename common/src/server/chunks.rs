//! Has a handler hear of the bytes of its request as they arrive, before they are a whole message.

use std::{
    fmt,
    sync::{Arc, OnceLock},
};

use tonic::Extensions;

/// The calls whose handlers may ask for it: a leader is heard by the bytes that it sends.
const METHODS: [&str; 1] = [crate::trace::names::method::ACCEPT];

type Observer = Box<dyn Fn(Chunk) + Send + Sync>;

/// Some bytes of a request arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// How many of them belong to a message of more than 16 KiB that is not whole yet.
    pub partial: usize,
}

/// Where the bytes of one request are observed. Clones are one.
#[derive(Clone, Default)]
pub struct Chunks(Arc<OnceLock<Observer>>);

impl fmt::Debug for Chunks {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Chunks").finish_non_exhaustive()
    }
}

impl Chunks {
    /// Calls `observer` at every chunk that is read from now on. The observer must not block. A second one is ignored.
    pub fn observe(&self, observer: impl Fn(Chunk) + Send + Sync + 'static) {
        // An error returns an observer that comes too late.
        drop(self.0.set(Box::new(observer)));
    }

    pub(super) fn arrived(&self, chunk: Chunk) {
        if let Some(observer) = self.0.get() {
            observer(chunk);
        }
    }
}

/// Where the bytes of this request are observed; `None` for most methods, and for calls that came by no [`Server`].
///
/// [`Server`]: super::Server
pub fn chunks(extensions: &Extensions) -> Option<&Chunks> {
    extensions.get()
}

/// A place to observe the bytes of a call of this path, if its handler may ask for it.
pub(super) fn of_path(path: &str) -> Option<Chunks> {
    let method = path.strip_prefix('/')?;
    METHODS.contains(&method).then(Chunks::default)
}
