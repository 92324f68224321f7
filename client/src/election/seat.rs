//! The operations of an election on the register, as a trait, so that the timing can be tested without a cluster.

use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use paxos_proto::v1;
use prost::Message as _;

use crate::{
    Changes, Client, Condition, Consistency, Target, Version, Watch, Written,
    client::deadline_in,
    error::{SubscribeError, Unanswered, WriteError},
};

/// The content of the register, and the version from which changes follow.
#[derive(Clone, Debug)]
pub(crate) struct Look {
    pub(crate) held: Option<(Version, Bytes)>,
    pub(crate) next: Version,
}

pub(crate) trait Seat: Clone + Send + Sync + 'static {
    type Watch: Stream<Item = Result<Changes, SubscribeError>> + Unpin + Send;

    /// A linearizable read.
    fn look(&self, timeout: Duration) -> impl Future<Output = Result<Look, Unanswered>> + Send;

    fn put(
        &self,
        holder: v1::Holder,
        condition: Condition,
        timeout: Duration,
    ) -> impl Future<Output = Result<Written, WriteError>> + Send;

    /// Deletes the register if `version` is the last write.
    fn remove(
        &self,
        version: Version,
        timeout: Duration,
    ) -> impl Future<Output = Result<Written, WriteError>> + Send;

    fn watch(&self, from: Version, patience: Duration) -> Self::Watch;
}

/// The register with the election's name as the key.
#[derive(Clone, Debug)]
pub(crate) struct Register {
    pub(crate) client: Client,
    pub(crate) name: Bytes,
}

impl Seat for Register {
    type Watch = Watch;

    async fn look(&self, timeout: Duration) -> Result<Look, Unanswered> {
        let name = self.name.clone();
        let look_up = self
            .client
            .look_up(name, Consistency::Linearizable, deadline_in(timeout));
        let (register, slot) = look_up.await?;
        Ok(Look {
            held: register.map(|register| (register.version, register.value)),
            next: Version { slot, offset: 0 },
        })
    }

    async fn put(
        &self,
        holder: v1::Holder,
        condition: Condition,
        timeout: Duration,
    ) -> Result<Written, WriteError> {
        let value = holder.encode_to_vec();
        self.client
            .put(self.name.clone(), value, condition, timeout)
            .await
    }

    async fn remove(&self, version: Version, timeout: Duration) -> Result<Written, WriteError> {
        let condition = Condition::Version(version);
        self.client.delete(self.name.clone(), condition, timeout).await
    }

    fn watch(&self, from: Version, patience: Duration) -> Watch {
        self.client
            .watch(Target::Key(self.name.clone()), Some(from), patience)
    }
}
