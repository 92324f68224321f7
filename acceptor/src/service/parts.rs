//! The parts of a new service.

use std::sync::Arc;

use paxos_common::{service::shutdown::Shutdown, trace::Tracer};

use crate::{
    metrics::Instruments, peers::PeerReader, queue::WorkerQueue, shared::Shared, trim_task::Snapshots,
};

/// The names of an acceptor.
#[derive(Debug)]
pub(crate) struct Name {
    /// Chosen by operators.
    pub(crate) id: String,
    /// Advertised address.
    pub(crate) address: String,
}

/// What a service works on.
#[derive(Debug)]
pub(crate) struct ServiceParts<R> {
    pub(crate) name: Name,
    pub(crate) queue: Arc<WorkerQueue>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) reader: PeerReader<R>,
    pub(crate) snapshots: Arc<Snapshots>,
    pub(crate) instruments: Instruments,
    pub(crate) shutdown: Shutdown,
    pub(crate) tracer: Tracer,
}
