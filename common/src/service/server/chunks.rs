//! Notifies a handler of arriving bytes of a request, before a message is complete.

use std::{
    fmt,
    sync::{Arc, OnceLock},
};

use tonic::Extensions;

/// The calls whose handlers may ask for chunks: acceptors hear a leader by the bytes of the leader's stream.
const METHODS: [&str; 1] = [crate::trace::names::method::ACCEPT];

type ChunkObserver = Box<dyn Fn(Chunk) + Send + Sync>;

/// Some bytes of a request arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// Number of arrived bytes that belong to an incomplete message of more than 16 KiB.
    pub partial: usize,
}

/// Observes the bytes of one request. Clones share the observer.
#[derive(Clone, Default)]
pub struct Chunks(Arc<OnceLock<ChunkObserver>>);

impl fmt::Debug for Chunks {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Chunks").finish_non_exhaustive()
    }
}

impl Chunks {
    /// Calls `observer` at every chunk read from now on. The observer must not block. A second observer is ignored.
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

/// The chunks of this request; `None` for most methods, and for calls that did not come through a [`Server`].
///
/// [`Server`]: super::Server
pub fn chunks(extensions: &Extensions) -> Option<&Chunks> {
    extensions.get()
}

/// The chunks of a call of this path, if the handler may ask for chunks.
pub(super) fn of_path(path: &str) -> Option<Chunks> {
    let method = path.strip_prefix('/')?;
    METHODS.contains(&method).then(Chunks::default)
}
