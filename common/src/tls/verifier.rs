//! Checks of a server's certificate: the chain, the dates, and the exact name of the wanted role.

use std::sync::Arc;

use rustls::{
    CertificateError, DigitallySignedStruct, Error, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    pki_types::{CertificateDer, ServerName, UnixTime},
};

use super::{
    certificate::names,
    names::{Domain, RoleName},
};

/// Checks that a server has the wanted role. The name of the connection is the DNS name of the role, and not of a host:
/// replicas come and go under many addresses. The bare domain stands for any role that accepts connections.
#[derive(Debug)]
pub(crate) struct RoleVerifier {
    chains: Arc<WebPkiServerVerifier>,
    domain: Domain,
}

impl RoleVerifier {
    pub(super) fn new(chains: Arc<WebPkiServerVerifier>, domain: Domain) -> Self {
        Self { chains, domain }
    }

    /// The name to check: for the bare domain, the name of the role that the certificate has.
    fn wanted<'a>(&self, asked: &ServerName<'a>, found: &[String]) -> ServerName<'a> {
        let is_domain = matches!(asked, ServerName::DnsName(name) if name.as_ref() == self.domain.as_str());
        if !is_domain {
            return asked.clone();
        }
        let (roles, _) = self.domain.roles_of(found.iter().map(String::as_str));
        let mut servers = RoleName::SERVERS.into_iter();
        let role = servers.find(|&role| roles.contains(role));
        let name = self.domain.name_of(role.unwrap_or(RoleName::Acceptor));
        ServerName::try_from(name).unwrap_or_else(|_| asked.clone())
    }
}

impl ServerCertVerifier for RoleVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let found = names(end_entity)?;
        let wanted = self.wanted(server_name, &found);
        let verified =
            self.chains
                .verify_server_cert(end_entity, intermediates, &wanted, ocsp_response, now)?;
        // The library also accepts a wildcard for the name.
        let has = |name: &str| found.iter().any(|one| one.eq_ignore_ascii_case(name));
        let is_exact = matches!(&wanted, ServerName::DnsName(name) if has(name.as_ref()));
        if !is_exact {
            return Err(Error::InvalidCertificate(
                CertificateError::NotValidForNameContext {
                    expected: wanted.to_owned(),
                    presented: found,
                },
            ));
        }
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chains
            .verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chains
            .verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chains.supported_verify_schemes()
    }
}
