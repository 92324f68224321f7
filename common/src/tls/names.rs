//! Names of roles in certificates: exact DNS names below the domain of the cluster.

use std::{fmt, str::FromStr, sync::Arc};

use rustls::pki_types::DnsName;

/// The domain of a cluster when no other domain is given.
pub const DOMAIN_DEFAULT: &str = "paxos.internal";

/// Longest domain in bytes (inclusive): leaves room for a role, for the name of a client, and for the dots.
const DOMAIN_BYTES_MAX: usize = 180;
/// Longest label of a DNS name in bytes (inclusive), RFC 1035, section 2.3.4.
const LABEL_BYTES_MAX: usize = 63;

/// What a process may do, as its certificate says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RoleName {
    /// Votes.
    Acceptor,
    /// Leads, and forms the cluster.
    Proposer,
    /// Learns, and serves readers.
    Learner,
    /// Proposes and reads.
    Client,
    /// Takes backups and restores a cluster.
    Operator,
}

impl RoleName {
    /// All roles.
    pub const ALL: [Self; 5] = [
        Self::Acceptor,
        Self::Proposer,
        Self::Learner,
        Self::Client,
        Self::Operator,
    ];
    /// The roles that accept connections.
    pub const SERVERS: [Self; 3] = [Self::Acceptor, Self::Proposer, Self::Learner];

    /// The first label of the role's DNS name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Acceptor => "acceptor",
            Self::Proposer => "proposer",
            Self::Learner => "learner",
            Self::Client => "client",
            Self::Operator => "operator",
        }
    }

    const fn bit(self) -> u8 {
        1 << self as u8
    }
}

impl fmt::Display for RoleName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// A set of roles.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RoleSet(u8);

impl RoleSet {
    /// No role.
    pub const NONE: Self = Self(0);

    /// The set of these roles.
    pub const fn of(roles: &[RoleName]) -> Self {
        let (mut bits, mut at) = (0, 0);
        while at < roles.len() {
            bits |= roles[at].bit();
            at += 1;
        }
        Self(bits)
    }

    /// The set with one more role.
    #[must_use]
    pub const fn with(self, role: RoleName) -> Self {
        Self(self.0 | role.bit())
    }

    /// Whether the role is in the set.
    pub const fn contains(self, role: RoleName) -> bool {
        self.0 & role.bit() != 0
    }

    /// Whether a role is in both sets.
    pub const fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Whether no role is in the set.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The roles of the set.
    pub fn roles(self) -> impl Iterator<Item = RoleName> {
        RoleName::ALL.into_iter().filter(move |&role| self.contains(role))
    }
}

/// As in `client`, `proposer and learner`, `no role`.
impl fmt::Display for RoleSet {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let roles: Vec<_> = self.roles().map(RoleName::as_str).collect();
        match roles.split_last() {
            None => formatter.write_str("no role"),
            Some((last, [])) => formatter.write_str(last),
            Some((last, others)) => write!(formatter, "{} and {last}", others.join(", ")),
        }
    }
}

/// The DNS domain below which a cluster's certificates name roles. One domain for each cluster of a shared CA.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Domain(Arc<str>);

impl Domain {
    /// The domain, in lower case.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The DNS name of a role, as in `acceptor.paxos.internal`.
    pub fn name_of(&self, role: RoleName) -> String {
        format!("{role}.{}", self.0)
    }

    /// The DNS name of a client with a name of its own, as in `billing.client.paxos.internal`; `None`: the name is no label
    /// of a DNS name, in lower case.
    pub fn name_of_client(&self, name: &str) -> Option<String> {
        is_label(name).then(|| format!("{name}.{}.{}", RoleName::Client, self.0))
    }

    /// The roles that DNS names of a certificate prove, and the client's own name, if any: of several, the first in the
    /// alphabet. Wildcards prove nothing.
    pub fn roles_of<'a>(&self, names: impl IntoIterator<Item = &'a str>) -> (RoleSet, Option<String>) {
        let (mut roles, mut own_name) = (RoleSet::NONE, None::<String>);
        for name in names {
            let Some(prefix) = self.prefix_of(name) else {
                continue;
            };
            if let Some(role) = RoleName::ALL.into_iter().find(|role| *role.as_str() == prefix) {
                roles = roles.with(role);
            } else if let Some((label, "client")) = prefix.split_once('.')
                && is_label(label)
            {
                roles = roles.with(RoleName::Client);
                if own_name.as_deref().is_none_or(|first| label < first) {
                    own_name = Some(label.to_owned());
                }
            }
        }
        (roles, own_name)
    }

    /// The labels before the domain, in lower case; `None`: the name is not below the domain.
    fn prefix_of(&self, name: &str) -> Option<String> {
        let name = name.to_ascii_lowercase();
        let prefix = name.strip_suffix(self.as_str())?.strip_suffix('.')?;
        Some(prefix.to_owned())
    }
}

impl Default for Domain {
    fn default() -> Self {
        Self(DOMAIN_DEFAULT.into())
    }
}

impl fmt::Display for Domain {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl FromStr for Domain {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let domain = text.to_ascii_lowercase();
        // The library of TLS refuses some names more, as names that end in a number.
        let is_usable = domain.split('.').all(is_label) && DnsName::try_from(domain.as_str()).is_ok();
        if domain.len() > DOMAIN_BYTES_MAX || !is_usable {
            return Err(format!(
                "give a DNS name of at most {DOMAIN_BYTES_MAX} bytes, without a wildcard and with letters after the last \
                 dot, as in {DOMAIN_DEFAULT}"
            ));
        }
        Ok(Self(domain.into()))
    }
}

/// Whether the text is one label of a DNS name, in lower case.
fn is_label(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=LABEL_BYTES_MAX).contains(&text.len())
        && text.bytes().all(inner)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn roles(names: &[&str]) -> (String, Option<String>) {
        let (roles, own_name) = Domain::default().roles_of(names.iter().copied());
        (roles.to_string(), own_name)
    }

    #[test]
    fn role_is_an_exact_name_below_the_domain() {
        assert_eq!(roles(&["acceptor.paxos.internal"]).0, "acceptor");
        assert_eq!(roles(&["Learner.Paxos.Internal", "host.example"]).0, "learner");
        assert_eq!(
            roles(&["proposer.paxos.internal", "learner.paxos.internal"]).0,
            "proposer and learner"
        );
        for name in [
            "*.paxos.internal",
            "paxos.internal",
            "acceptor.paxos.internal.",
            "acceptor.paxos.internal.evil.example",
            "xacceptor.paxos.internal",
            "acceptor.other.internal",
            "acceptor.evil.paxos.internal",
            "acceptorpaxos.internal",
            "acceptor",
            "",
        ] {
            assert_eq!(roles(&[name]), ("no role".to_owned(), None), "{name:?}");
        }
    }

    #[test]
    fn client_may_have_a_name_of_its_own() {
        let name = Domain::default().name_of_client("billing").unwrap();
        assert_eq!(Domain::default().name_of_client("a.b"), None);
        let own = roles(&[&name]);
        assert_eq!(own, ("client".to_owned(), Some("billing".to_owned())));
        for order in [["b", "a"], ["a", "b"]] {
            let names = order.map(|label| format!("{label}.client.paxos.internal"));
            let own = roles(&names.each_ref().map(String::as_str)).1;
            assert_eq!(own.as_deref(), Some("a"));
        }
        for name in [
            "*.client.paxos.internal",
            "a.b.client.paxos.internal",
            ".client.paxos.internal",
            "-.client.paxos.internal",
            "billing.acceptor.paxos.internal",
        ] {
            assert_eq!(roles(&[name]).0, "no role", "{name:?}");
        }
    }

    #[test]
    fn domain_is_a_dns_name_without_a_wildcard() {
        assert_eq!(
            "Cluster-7.Example".parse::<Domain>().unwrap().as_str(),
            "cluster-7.example"
        );
        for text in [
            "",
            ".",
            "a..b",
            "*.example",
            "a b",
            "-a.example",
            "prod.7",
            &"a".repeat(64),
            &"a.".repeat(91),
        ] {
            let error = text.parse::<Domain>().unwrap_err();
            assert!(error.contains(DOMAIN_DEFAULT), "{text:?}: {error}");
        }
    }

    #[test]
    fn sets_are_unions_of_roles() {
        let set = RoleSet::of(&[RoleName::Client, RoleName::Acceptor]);
        assert!(set.contains(RoleName::Acceptor) && !set.contains(RoleName::Operator));
        assert!(set.intersects(RoleSet::of(&[RoleName::Client])) && !set.intersects(RoleSet::NONE));
        assert_eq!(
            set.with(RoleName::Operator).to_string(),
            "acceptor, client and operator"
        );
        assert!(RoleSet::NONE.is_empty() && !set.is_empty());
    }
}
