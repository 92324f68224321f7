//! How a process secures its connections: the flags of TLS, and the checks at the start.

use std::{net::SocketAddr, path::PathBuf};

use clap::{Args, builder::FalseyValueParser};

use super::failure::Failure;
use crate::{
    peer::{Address, Dialer},
    tls::{DOMAIN_DEFAULT, Domain, OwnRole, RoleName, Tls, TlsError, TlsFiles, TlsSettings},
};

/// The TLS identity of a process, for roles and clients alike.
#[derive(Args, Clone, Debug)]
pub struct TlsArgs {
    /// PEM file of this process's certificate: with the three files all connections use TLS
    #[arg(long, env = "PAXOS_TLS_CERT", value_name = "FILE", help_heading = "TLS")]
    pub tls_cert: Option<PathBuf>,

    /// PEM file of the certificate's private key; other users must have no access
    #[arg(long, env = "PAXOS_TLS_KEY", value_name = "FILE", help_heading = "TLS")]
    pub tls_key: Option<PathBuf>,

    /// PEM file of the CA certificates to trust
    #[arg(long, env = "PAXOS_TLS_CA", value_name = "FILE", help_heading = "TLS")]
    pub tls_ca: Option<PathBuf>,

    /// Domain of the role names in certificates, as in acceptor.DOMAIN
    #[arg(
        long,
        env = "PAXOS_TLS_DOMAIN",
        value_name = "DOMAIN",
        default_value = DOMAIN_DEFAULT,
        help_heading = "TLS"
    )]
    pub tls_domain: Domain,
}

impl TlsArgs {
    /// The settings that the flags give; `None`: no TLS.
    ///
    /// # Errors
    /// Only some of the files are given.
    pub fn settings(self) -> Result<Option<TlsSettings>, TlsError> {
        let files = TlsFiles::all_or_none(self.tls_cert, self.tls_key, self.tls_ca)?;
        let domain = self.tls_domain;
        Ok(files.map(|files| TlsSettings { files, domain }))
    }
}

/// How a role secures its connections.
#[derive(Args, Clone, Debug)]
pub struct SecurityArgs {
    /// The TLS identity
    #[command(flatten)]
    pub tls: TlsArgs,

    /// Accept plaintext connections from other machines: every machine that reaches the port can destroy the cluster
    #[arg(long, env = "PAXOS_INSECURE", value_parser = FalseyValueParser::new(), help_heading = "TLS")]
    pub insecure: bool,
}

/// How a role secures its connections, as configured.
#[derive(Clone, Debug, Default)]
pub struct SecuritySettings {
    /// Where the TLS identity comes from; `None`: plaintext.
    pub tls: Option<TlsSettings>,
    /// Whether plaintext connections from other machines are accepted.
    pub insecure: bool,
    /// Why the flags cannot be used, reported at the start of the role.
    pub fault: Option<String>,
}

impl From<SecurityArgs> for SecuritySettings {
    fn from(args: SecurityArgs) -> Self {
        let insecure = args.insecure;
        let (tls, fault) = match args.tls.settings() {
            Ok(Some(_)) if insecure => (
                None,
                Some("--insecure contradicts --tls-cert, --tls-key and --tls-ca: give either".to_owned()),
            ),
            Ok(tls) => (tls, None),
            Err(error) => (None, Some(error.to_string())),
        };
        Self { tls, insecure, fault }
    }
}

/// The security of a running role. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Security {
    tls: Option<Tls>,
    dialer: Dialer,
}

impl Security {
    /// Reads the files of `role`, and checks that the role may listen at `local`, and that the scheme of each configured
    /// address fits.
    ///
    /// # Errors
    /// Exit 2: the flags or files cannot be used, an address has the other scheme, or the role would accept plaintext
    /// connections from other machines without --insecure.
    pub fn open<'a>(
        settings: SecuritySettings,
        role: RoleName,
        local: SocketAddr,
        addresses: impl IntoIterator<Item = &'a Address>,
    ) -> Result<Self, Failure> {
        let SecuritySettings { tls, insecure, fault } = settings;
        if let Some(fault) = fault {
            return Err(Failure::usage(fault));
        }
        let own = OwnRole::Exactly(role);
        let tls = tls.map(|settings| Tls::load(settings, own)).transpose();
        let tls = tls.map_err(Failure::usage)?;
        if tls.is_none() && !insecure && !local.ip().to_canonical().is_loopback() {
            return Err(Failure::usage(format!(
                "{role} would accept plaintext connections from other machines at {local}: give --tls-cert, --tls-key \
                 and --tls-ca, or accept the danger with --insecure"
            )));
        }
        if let Some(tls) = &tls {
            tls.keep_reloaded();
            tracing::info!(identity = tls.describe(), "connections use TLS");
        }
        let dialer = Dialer::new(tls.clone());
        check_schemes(&dialer, addresses)?;
        Ok(Self { tls, dialer })
    }

    /// Opens connections to other processes.
    pub fn dialer(&self) -> &Dialer {
        &self.dialer
    }

    /// The TLS identity; `None`: plaintext.
    pub fn tls(&self) -> Option<&Tls> {
        self.tls.as_ref()
    }

    /// The scheme of this process's address.
    pub fn scheme(&self) -> &'static str {
        if self.tls.is_some() { "https" } else { "http" }
    }
}

/// Checks that the configured addresses have the right scheme.
///
/// # Errors
/// Exit 2: an address has the other scheme.
pub fn check_schemes<'a>(
    dialer: &Dialer,
    addresses: impl IntoIterator<Item = &'a Address>,
) -> Result<(), Failure> {
    let refusal = addresses.into_iter().find_map(|address| dialer.refusal(address));
    refusal.map_or(Ok(()), |refusal| Err(Failure::usage(refusal)))
}
