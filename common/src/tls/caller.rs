//! The caller of a connection: the identity that the certificate of the other side proves.

use rustls::{Error, pki_types::CertificateDer};

use super::{
    certificate::{date, fingerprint, names},
    names::{Domain, RoleName, RoleSet},
};

/// The identity that the certificate of a connection's other side proves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// What the caller may act as; the union of all names in the certificate.
    pub roles: RoleSet,
    /// The name of the caller, for sessions: the client's own name as in `billing.client`, or the roles.
    pub name: String,
    /// SHA-256 of the certificate, in hexadecimal digits.
    pub fingerprint: String,
    /// The last moment of the certificate's validity, as a date.
    pub valid_until: String,
}

impl Caller {
    /// The caller that a verified certificate proves.
    ///
    /// # Errors
    /// The certificate is malformed.
    pub(super) fn of(certificate: &CertificateDer<'_>, domain: &Domain) -> Result<Self, Error> {
        let found = names(certificate)?;
        let (roles, own_name) = domain.roles_of(found.iter().map(String::as_str));
        let name = own_name.map_or_else(
            || roles.to_string(),
            |name| format!("{name}.{}", RoleName::Client),
        );
        Ok(Self {
            roles,
            name,
            fingerprint: fingerprint(certificate),
            valid_until: date(super::certificate::Validity::of(certificate)?.not_after),
        })
    }

    /// Whether the caller is an application or a tool, and no process of the cluster.
    pub fn is_outside(&self) -> bool {
        !self.roles.intersects(RoleSet::of(&RoleName::SERVERS))
    }
}
