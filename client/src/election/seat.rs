//! The operations of an election on the register, as a trait, so that the timing can be tested without a cluster.

use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use paxos_proto::v1;
use prost::Message as _;

use crate::{
    ChangePage, Client, Condition, Consistency, Target, Updates, Version, Written,
    error::{SubscribeError, Unanswered, WriteError},
};

/// The content of the register, and the version from which changes follow.
#[derive(Clone, Debug)]
pub(crate) struct Look {
    pub(crate) held: Option<(Version, Bytes)>,
    pub(crate) next: Version,
}

pub(crate) trait Seat: Clone + Send + Sync + 'static {
    type Watch: Stream<Item = Result<ChangePage, SubscribeError>> + Unpin + Send;

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

    fn watch(&self, from: Version, timeout: Duration) -> Self::Watch;
}

/// The register with the election's name as the key.
#[derive(Clone, Debug)]
pub(crate) struct ElectionRegister {
    pub(crate) client: Client,
    pub(crate) name: Bytes,
}

impl Seat for ElectionRegister {
    type Watch = Updates<ChangePage, SubscribeError>;

    async fn look(&self, timeout: Duration) -> Result<Look, Unanswered> {
        let (client, name) = (self.client.with_timeout(timeout), self.name.clone());
        let look_up = client.look_up(name, Consistency::Linearizable, client.deadline());
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
        let (client, value) = (self.client.with_timeout(timeout), holder.encode_to_vec());
        client.put_if(self.name.clone(), value, condition).await
    }

    async fn remove(&self, version: Version, timeout: Duration) -> Result<Written, WriteError> {
        let (client, condition) = (self.client.with_timeout(timeout), Condition::Version(version));
        client.delete_if(self.name.clone(), condition).await
    }

    fn watch(&self, from: Version, timeout: Duration) -> Self::Watch {
        let target = Target::Key(self.name.clone());
        self.client.with_timeout(timeout).watch_with(target, Some(from))
    }
}
