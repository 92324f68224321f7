//! Who may call what: the roles that may call each method, on connections with TLS.
//!
//! A method that is not in the table is refused. `Watch` of `grpc.health.v1` is not in the table: with TLS, probes call
//! `Check`. Some rights depend on the content of a message, and the services check these: a step of `Form`, the role of
//! an `Attach` report, and the mark `forwarded` of a command.

use std::{
    convert::Infallible,
    future::ready,
    net::IpAddr,
    sync::Arc,
    task::{Context, Poll},
};

use tonic::{
    Extensions, Status,
    body::Body,
    codegen::{BoxFuture, Service, http},
};

use super::{address_log::AddressLog, addresses::owner_of, connections::CallerConnection};
use crate::{
    service::metrics::{Counter, Metrics},
    tls::{Caller, RoleName, RoleSet},
    wire::status,
};

const PROPOSERS: RoleSet = RoleSet::of(&[RoleName::Proposer]);
const LEARNERS: RoleSet = RoleSet::of(&[RoleName::Learner]);
const CLIENTS: RoleSet = RoleSet::of(&[RoleName::Client]);
const OPERATORS: RoleSet = RoleSet::of(&[RoleName::Operator]);
const ALL: RoleSet = RoleSet::of(&RoleName::ALL);
/// Who forms clusters, and asks how far an acceptor is. Operators restore backups.
const FORMING: RoleSet = RoleSet::of(&[RoleName::Proposer, RoleName::Learner, RoleName::Operator]);
const PEERS: RoleSet = RoleSet::of(&[RoleName::Proposer, RoleName::Learner]);

/// The roles that may call each method.
const TABLE: [(&str, RoleSet); 24] = [
    ("/paxos.v1.Acceptor/Form", FORMING),
    ("/paxos.v1.Acceptor/Prepare", PROPOSERS),
    ("/paxos.v1.Acceptor/Accept", PROPOSERS),
    ("/paxos.v1.Acceptor/Observe", PEERS),
    ("/paxos.v1.Acceptor/Tail", LEARNERS),
    ("/paxos.v1.Acceptor/Attach", PEERS),
    ("/paxos.v1.Acceptor/Keep", FORMING),
    ("/paxos.v1.Acceptor/Snapshot", PEERS),
    (
        "/paxos.v1.Acceptor/Status",
        RoleSet::of(&[
            RoleName::Proposer,
            RoleName::Learner,
            RoleName::Client,
            RoleName::Operator,
        ]),
    ),
    (
        "/paxos.v1.Proposer/Propose",
        RoleSet::of(&[RoleName::Proposer, RoleName::Client]),
    ),
    (
        "/paxos.v1.Proposer/ProposeStream",
        RoleSet::of(&[RoleName::Proposer, RoleName::Client]),
    ),
    ("/paxos.v1.Proposer/Fill", LEARNERS),
    ("/paxos.v1.Proposer/ChangeMembers", OPERATORS),
    ("/paxos.v1.Proposer/Status", ALL),
    ("/paxos.v1.Learner/Read", CLIENTS),
    ("/paxos.v1.Learner/Result", CLIENTS),
    ("/paxos.v1.Learner/Outcomes", CLIENTS),
    ("/paxos.v1.Learner/Watch", CLIENTS),
    ("/paxos.v1.Learner/Subscribe", CLIENTS),
    ("/paxos.v1.Learner/Backup", OPERATORS),
    ("/paxos.v1.Learner/Status", ALL),
    ("/grpc.health.v1.Health/Check", ALL),
    ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", ALL),
    (
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        ALL,
    ),
];

/// The roles that may call the method on a connection with TLS; none for a method that is not in the table.
pub fn may_call(path: &str) -> RoleSet {
    may_call_by(&TABLE, path)
}

/// The same by this table.
fn may_call_by(table: &[(&str, RoleSet)], path: &str) -> RoleSet {
    let row = table.iter().find(|(method, _)| *method == path);
    row.map_or(RoleSet::NONE, |(_, roles)| *roles)
}

/// The rights of the caller of a request, for the parts of messages that are not for every caller of the method. Cheap to
/// clone.
#[derive(Clone, Debug)]
pub struct Rights(Granted);

#[derive(Clone, Debug)]
enum Granted {
    All,
    None,
    /// Of a certificate, and where refusals are counted.
    Of(DeniedCaller, DeniedCalls),
}

impl Rights {
    /// The name of the caller, by its certificate; `None` without TLS.
    pub fn caller_name(&self) -> Option<&str> {
        match &self.0 {
            Granted::All | Granted::None => None,
            Granted::Of(from, _) => Some(&from.caller.name),
        }
    }

    /// The rights of a caller without TLS: all.
    pub const ALL: Self = Self(Granted::All);
    /// No rights.
    const NONE: Self = Self(Granted::None);

    /// Checks the right to send a part of a message: `what` names the part, as in `a step of Form`. Counts and logs a
    /// refusal.
    ///
    /// # Errors
    /// PERMISSION_DENIED: the caller's certificate names none of these roles.
    pub fn check(&self, roles: &[RoleName], what: &str) -> Result<(), Status> {
        let allowed = RoleSet::of(roles);
        match &self.0 {
            Granted::All => Ok(()),
            Granted::None => Err(denied(what, allowed, RoleSet::NONE)),
            Granted::Of(from, _) if from.caller.roles.intersects(allowed) => Ok(()),
            Granted::Of(from, denied_calls) => {
                denied_calls.count(from, what);
                Err(denied(what, allowed, from.caller.roles))
            }
        }
    }
}

/// The rights of the caller of a request, as stored before the services; none when nothing is stored.
pub fn rights(extensions: &Extensions) -> Rights {
    extensions.get::<Rights>().cloned().unwrap_or(Rights::NONE)
}

/// The refusal of a call: says who may call, and what the certificate says.
fn denied(what: &str, allowed: RoleSet, roles: RoleSet) -> Status {
    let allowed: Vec<_> = allowed.roles().map(|role| format!("{role}s")).collect();
    let allowed = match allowed.split_last() {
        None => "no caller".to_owned(),
        Some((last, [])) => last.clone(),
        Some((last, others)) => format!("{} and {last}", others.join(", ")),
    };
    status::denied(format!("{what} is for {allowed}; this certificate says {roles}"))
}

/// Counts and logs refused calls. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct DeniedCalls {
    /// By role, and one more for callers without a role.
    counters: Option<Arc<[Counter; RoleName::ALL.len() + 1]>>,
    log: AddressLog,
}

/// The caller of a call, and its address.
#[derive(Clone, Debug)]
struct DeniedCaller {
    caller: Arc<Caller>,
    address: Option<IpAddr>,
}

impl DeniedCalls {
    /// Counts refused calls in `metrics`.
    pub(super) fn by(metrics: &Metrics) -> Self {
        let [acceptor, proposer, learner, client, operator] = RoleName::ALL.map(RoleName::as_str);
        let counters = metrics.counters(
            "paxos.rpc.denied",
            "Calls refused because the certificate of the caller does not name a role that may call the method",
            "role",
            [acceptor, proposer, learner, client, operator, "none"],
        );
        Self {
            counters: Some(Arc::new(counters)),
            log: AddressLog::default(),
        }
    }

    /// Counts a refused call, and logs the refusal once a minute for each address.
    fn count(&self, from: &DeniedCaller, what: &str) {
        let DeniedCaller { caller, address } = from;
        let role = caller.roles.roles().next();
        if let Some(counters) = &self.counters {
            counters[role.map_or(RoleName::ALL.len(), |role| role as usize)].increment();
        }
        if let Some(peer) = address.filter(|address| self.log.is_due(*address)) {
            tracing::warn!(
                roles = %caller.roles, method = what, %peer, fingerprint = caller.fingerprint,
                "refused a call: the caller's certificate does not allow the method"
            );
        }
    }
}

/// Services behind the table. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Authorized<S> {
    services: S,
    /// Whether every connection has a caller.
    is_secure: bool,
    denied_calls: DeniedCalls,
}

impl<S> Authorized<S> {
    /// Checks calls when the connections are secure. Otherwise every call passes.
    pub(super) fn new(services: S, is_secure: bool, denied_calls: DeniedCalls) -> Self {
        Self {
            services,
            is_secure,
            denied_calls,
        }
    }

    /// Why the call is refused, if so. Stores the caller and its rights for the services.
    fn refuse(&self, request: &mut http::Request<Body>) -> Option<Status> {
        if !self.is_secure {
            request.extensions_mut().insert(Rights::ALL);
            return None;
        }
        let connection = request.extensions().get::<CallerConnection>();
        let known = connection.and_then(|connection| {
            let address = connection.tcp.remote_addr();
            Some(DeniedCaller {
                caller: connection.caller.clone()?,
                address: address.map(|address| owner_of(address.ip())),
            })
        });
        let Some(from) = known else {
            // Every connection of this server has a caller. A call without one has no rights.
            return Some(status::denied("the caller of this connection is not known"));
        };
        let path = request.uri().path();
        let allowed = may_call(path);
        if !allowed.intersects(from.caller.roles) {
            self.denied_calls.count(&from, path);
            let method = path.strip_prefix("/paxos.v1.").unwrap_or(path);
            return Some(denied(method, allowed, from.caller.roles));
        }
        let caller = Arc::clone(&from.caller);
        let rights = Rights(Granted::Of(from, self.denied_calls.clone()));
        request.extensions_mut().insert(rights);
        request.extensions_mut().insert(caller);
        None
    }
}

impl<S> Service<http::Request<Body>> for Authorized<S>
where
    S: Service<
            http::Request<Body>,
            Response = http::Response<Body>,
            Error = Infallible,
            Future = BoxFuture<http::Response<Body>, Infallible>,
        >,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.services.poll_ready(context)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        match self.refuse(&mut request) {
            Some(refusal) => Box::pin(ready(Ok(refusal.into_http()))),
            None => self.services.call(request),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    use prost::Message as _;
    use prost_types::FileDescriptorSet;

    /// All methods of a descriptor set, as paths.
    fn methods(set: &[u8]) -> Vec<String> {
        let set = FileDescriptorSet::decode(set).unwrap();
        let of_file = |file: prost_types::FileDescriptorProto| {
            let package = file.package().to_owned();
            file.service.into_iter().flat_map(move |service| {
                let name = format!("/{package}.{}", service.name());
                let path =
                    move |method: prost_types::MethodDescriptorProto| format!("{name}/{}", method.name());
                service.method.into_iter().map(path)
            })
        };
        set.file.into_iter().flat_map(of_file).collect()
    }

    /// The rights of the design, and the names of the roles: written again, so that a change of the table shows here.
    const DESIGN: [(&str, &str); 25] = [
        ("/paxos.v1.Acceptor/Form", "proposer, learner and operator"),
        ("/paxos.v1.Acceptor/Prepare", "proposer"),
        ("/paxos.v1.Acceptor/Accept", "proposer"),
        ("/paxos.v1.Acceptor/Observe", "proposer and learner"),
        ("/paxos.v1.Acceptor/Tail", "learner"),
        ("/paxos.v1.Acceptor/Attach", "proposer and learner"),
        ("/paxos.v1.Acceptor/Keep", "proposer, learner and operator"),
        ("/paxos.v1.Acceptor/Snapshot", "proposer and learner"),
        (
            "/paxos.v1.Acceptor/Status",
            "proposer, learner, client and operator",
        ),
        ("/paxos.v1.Proposer/Propose", "proposer and client"),
        ("/paxos.v1.Proposer/ProposeStream", "proposer and client"),
        ("/paxos.v1.Proposer/Fill", "learner"),
        ("/paxos.v1.Proposer/ChangeMembers", "operator"),
        (
            "/paxos.v1.Proposer/Status",
            "acceptor, proposer, learner, client and operator",
        ),
        ("/paxos.v1.Learner/Read", "client"),
        ("/paxos.v1.Learner/Result", "client"),
        ("/paxos.v1.Learner/Outcomes", "client"),
        ("/paxos.v1.Learner/Watch", "client"),
        ("/paxos.v1.Learner/Subscribe", "client"),
        ("/paxos.v1.Learner/Backup", "operator"),
        (
            "/paxos.v1.Learner/Status",
            "acceptor, proposer, learner, client and operator",
        ),
        (
            "/grpc.health.v1.Health/Check",
            "acceptor, proposer, learner, client and operator",
        ),
        // Probes call `Check`.
        ("/grpc.health.v1.Health/Watch", "no role"),
        (
            "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
            "acceptor, proposer, learner, client and operator",
        ),
        (
            "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
            "acceptor, proposer, learner, client and operator",
        ),
    ];

    /// Every method of the served contracts.
    fn served() -> BTreeSet<String> {
        let sets = [
            paxos_proto::FILE_DESCRIPTOR_SET,
            tonic_health::pb::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
        ];
        sets.into_iter().flat_map(methods).collect()
    }

    /// Walks the descriptor sets; returns the methods whose rights in the table are not those of the design.
    fn wrong(table: &[(&str, RoleSet)]) -> Vec<String> {
        let differs = |method: &String| {
            let designed = DESIGN.iter().find(|(path, _)| path == method);
            designed.is_none_or(|(_, roles)| may_call_by(table, method).to_string() != *roles)
        };
        served().into_iter().filter(differs).collect()
    }

    #[test]
    fn every_method_of_the_contracts_has_the_rights_of_the_design() {
        assert_eq!(wrong(&TABLE), Vec::<String>::new());
        let in_table: BTreeSet<_> = TABLE.iter().map(|(path, _)| (*path).to_owned()).collect();
        assert_eq!(in_table.len(), TABLE.len(), "a row twice");
        assert!(in_table.is_subset(&served()), "a row for no method");
        for unknown in ["/paxos.v1.Acceptor/Erase", "/paxos.v1.Acceptor/accept", "/", ""] {
            assert_eq!(may_call(unknown).to_string(), "no role", "{unknown}");
        }
    }

    #[test]
    fn flipped_right_and_a_missing_row_are_found() {
        for at in 0..TABLE.len() {
            for flipped in RoleName::ALL {
                let mut planted = TABLE;
                let (path, roles) = planted[at];
                let others: Vec<_> = roles.roles().filter(|role| *role != flipped).collect();
                let had_it = roles.intersects(RoleSet::of(&[flipped]));
                let with = [&others[..], &[flipped]].concat();
                planted[at].1 = RoleSet::of(if had_it { &others } else { &with });
                assert_eq!(wrong(&planted), [path], "{flipped} of {path}");
            }
            let mut planted = TABLE.to_vec();
            let (path, _) = planted.remove(at);
            assert_eq!(wrong(&planted), [path], "a missing row");
        }
    }

    #[test]
    fn refusal_names_the_method_its_callers_and_the_certificate() {
        let refusal = denied("Acceptor/Accept", PROPOSERS, CLIENTS);
        assert_eq!(refusal.code(), tonic::Code::PermissionDenied);
        assert_eq!(
            refusal.message(),
            "Acceptor/Accept is for proposers; this certificate says client"
        );
    }

    #[test]
    fn part_of_a_message_is_for_its_role_alone() {
        const ADDRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
        let mut extensions = Extensions::new();
        let check = |extensions: &Extensions, role| rights(extensions).check(&[role], "a step of Form");
        assert!(
            check(&extensions, RoleName::Proposer).is_err(),
            "nothing is known"
        );
        extensions.insert(Rights::ALL);
        assert!(check(&extensions, RoleName::Proposer).is_ok(), "without TLS");
        let caller = Arc::new(Caller {
            roles: LEARNERS,
            name: String::new(),
            fingerprint: String::new(),
            valid_until: String::new(),
        });
        let from = DeniedCaller {
            caller,
            address: Some(ADDRESS),
        };
        let denied_calls = DeniedCalls::default();
        extensions.insert(Rights(Granted::Of(from, denied_calls.clone())));
        assert!(check(&extensions, RoleName::Learner).is_ok());
        let refusal = check(&extensions, RoleName::Proposer).unwrap_err();
        assert_eq!(
            refusal.message(),
            "a step of Form is for proposers; this certificate says learner"
        );
        assert!(!denied_calls.log.is_due(ADDRESS), "the refusal is logged");
    }
}
