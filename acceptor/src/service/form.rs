//! Answers `Form`: the steps of forming, and how far this acceptor is.

use paxos_common::{
    paxos::{acceptor::Membership, quorum::Configuration},
    service::server::Rights,
    tls::RoleName,
    wire::{self, PROTOCOL_VERSION, status},
};
use paxos_proto::v1::{self as pb, form_request::Step};
use tonic::Status;

use super::{
    Inner,
    check::{check_address, check_name, check_version, malformed},
};
use crate::{
    request::{FormStep, QueuedRequest, StepRefusal},
    shared::Published,
    store::Reader,
};

/// Reads the configuration of a change of members.
fn read_change(asked: pb::Configuration, rights: &Rights) -> Result<Configuration, Status> {
    rights.check(&[RoleName::Proposer], "a change of members by Acceptor/Form")?;
    Configuration::try_from(asked).map_err(malformed)
}

impl<R: Reader> Inner<R> {
    /// Carries out a step, or only answers.
    pub(super) async fn form(
        &self,
        request: pb::FormRequest,
        rights: Rights,
    ) -> Result<pb::FormResponse, Status> {
        let asked = check_version(request.caller.as_ref())?;
        if let (Some(ours), Some(asked)) = (self.shared.formed(), asked)
            && ours != asked
        {
            return Err(status::wrong_cluster(format!(
                "this acceptor belongs to cluster {ours}, not {asked}"
            )));
        }
        if request.step.is_some() {
            // Operators restore backups.
            rights.check(
                &[RoleName::Proposer, RoleName::Operator],
                "a step of Acceptor/Form",
            )?;
        }
        let step = match request.step {
            None => return Ok(self.form_response(&self.shared.published())),
            Some(Step::Store(asked)) => FormStep::Store(asked.try_into().map_err(malformed)?),
            Some(Step::Complete(asked)) => {
                self.check_seed()?;
                FormStep::Complete(asked.try_into().map_err(malformed)?)
            }
            Some(Step::Install(asked)) => FormStep::Install(read_change(asked, &rights)?),
            Some(Step::Join(asked)) => FormStep::Join(read_change(asked, &rights)?),
        };
        let configuration = step.configuration();
        if configuration.origin().is_none() {
            rights.check(
                &[RoleName::Proposer],
                "a step of Acceptor/Form without the origin of a backup",
            )?;
        }
        for member in configuration.members().values() {
            check_address("configuration.members.address", &member.address)?;
            check_name("configuration.members.name", &member.name, configuration.era())?;
        }
        let result = self.ask(|answer| QueuedRequest::Form { step, answer }).await?;
        let published = result.map_err(|refusal: StepRefusal| status::wrong_cluster(refusal.to_string()))?;
        Ok(self.form_response(&published))
    }

    fn form_response(&self, published: &Published) -> pb::FormResponse {
        pb::FormResponse {
            stamp: Some(self.stamp_with_runs(&published.stamp)),
            membership: wire::membership_state(&published.membership).into(),
            configuration: published.membership.configuration().map(Into::into),
            id: self.name.id.clone(),
            address: self.name.address.clone(),
            witnesses: wire::witnesses(&self.shared.witnesses()),
            seed: match *published.membership {
                Membership::Seeded(seed) => Some(seed.into()),
                Membership::Blank | Membership::Forming(_) | Membership::Formed(_) => None,
            },
            protocol_version: PROTOCOL_VERSION,
            keeps_earlier_restores: true,
        }
    }

    /// Refuses to begin the log at the end of a seed whose file is damaged: with one acceptor, no other disk has the state.
    fn check_seed(&self) -> Result<(), Status> {
        let published = self.shared.published();
        let is_forming = matches!(*published.membership, Membership::Forming(_));
        let damaged = self.snapshots.files.damaged();
        let waiting = published.snapshots.waiting;
        if is_forming && waiting.is_some_and(|waiting| damaged.contains(&waiting.id)) {
            return Err(status::not_wanted(
                "the backup on the disk of this acceptor is damaged: repeat \"paxos restore\", which sends the backup again",
            ));
        }
        Ok(())
    }
}
