//! Mutual TLS between the processes of a cluster and its clients.
//!
//! | file | job |
//! | --- | --- |
//! | `names.rs` | names of roles in certificates |
//! | `certificate.rs` | dates, names and fingerprint of a certificate |
//! | `files.rs` | the files of a process, checked, and the configurations of TLS |
//! | `verifier.rs` | the check of a server's role |
//! | `caller.rs` | the identity of a connection's other side |
//! | `reload.rs` | new files while the process runs |
//! | `stream.rs` | the bytes of a connection, in plaintext or over TLS |
//!
//! A role is an exact DNS name in a certificate: `acceptor.DOMAIN`, `proposer.DOMAIN`, `learner.DOMAIN`,
//! `client.DOMAIN`, `operator.DOMAIN`. A client may have a name of its own, `NAME.client.DOMAIN`. The connecting side
//! checks the role of the other side, not its host: so one certificate serves all replicas of a role.
//!
//! All connections use TLS 1.3, and no session is resumed: a resumed session would not check the caller's certificate
//! again. New files are taken without a restart. A standing connection ends when the certificate of the other side
//! expires, or when its CA is trusted no longer.

use std::{
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use rustls::{
    ClientConfig, Error, ServerConfig,
    client::danger::ServerCertVerifier as _,
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use tokio::{sync::watch, time::sleep};

mod caller;
mod certificate;
mod error;
mod files;
mod names;
mod reload;
mod stream;
#[cfg(test)]
pub(crate) mod testing;
mod verifier;

use certificate::{date, next_expiry, now};
use files::{FileContents, TlsIdentity, certificates};
use reload::Reloading;

pub use caller::Caller;
pub use certificate::CertificateSummary;
pub use error::TlsError;
pub(crate) use files::ALPN;
pub use files::{OwnRole, TlsFiles};
pub use names::{DOMAIN_DEFAULT, Domain, RoleName, RoleSet};
pub(crate) use stream::{ConnectionBytes, ReadObserver};

/// Longest sleep before the dates are compared with the clock again: the clock of the machine may be set.
const LOOK_INTERVAL: Duration = Duration::from_secs(60);

/// Where the TLS identity of a process comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsSettings {
    /// The files.
    pub files: TlsFiles,
    /// The domain of the cluster.
    pub domain: Domain,
}

impl TlsSettings {
    /// Checks that the files are usable for `role`, and that the CA file proves the certificate.
    ///
    /// # Errors
    /// As of [`Tls::load`], or the certificate is from another CA.
    pub fn check(&self, role: RoleName) -> Result<(), TlsError> {
        let Self { files, domain } = self;
        let contents = FileContents::read(files)?;
        let identity = TlsIdentity::of(&contents, files, domain, OwnRole::Exactly(role))?;
        let chain = certificates(&contents.cert, &files.cert)?;
        identity
            .verify(&chain, &OtherSide::Caller)
            .map_err(|error| TlsError::Malformed {
                file: files.cert.clone(),
                what: "certificate of the CA",
                reason: error.to_string(),
            })
    }
}

/// The TLS identity of a process, always the latest. Cheap to clone; clones share the identity.
#[derive(Clone, Debug)]
pub struct Tls(Arc<TlsState>);

#[derive(Debug)]
struct TlsState {
    settings: TlsSettings,
    own: OwnRole,
    current: watch::Sender<Arc<TlsIdentity>>,
    /// Taken by the task that compares the files.
    reloading: Mutex<Option<Reloading>>,
}

/// A reference that does not keep the identity in use.
#[derive(Clone, Debug)]
struct WeakTls(Weak<TlsState>);

impl WeakTls {
    fn upgrade(&self) -> Option<Tls> {
        self.0.upgrade().map(Tls)
    }
}

/// Which side of a connection the other process is.
#[derive(Clone, Debug)]
pub(crate) enum OtherSide {
    /// The process called this process.
    Caller,
    /// This process called, and wants this name.
    Server(ServerName<'static>),
}

impl Tls {
    /// Reads and checks the files. `own` is the role of this process.
    ///
    /// # Errors
    /// A file is missing, unreadable or damaged, the certificate lacks the name of the role, or has expired.
    pub fn load(settings: TlsSettings, own: OwnRole) -> Result<Self, TlsError> {
        let contents = FileContents::read(&settings.files)?;
        let identity = TlsIdentity::of(&contents, &settings.files, &settings.domain, own)?;
        Ok(Self(Arc::new(TlsState {
            settings,
            own,
            current: watch::Sender::new(Arc::new(identity)),
            reloading: Mutex::new(Some(Reloading::new(contents))),
        })))
    }

    /// Compares the files every 10 seconds from now on, and takes new files. Ends when the last clone is dropped. Only
    /// the first call has an effect.
    ///
    /// # Panics
    /// Outside a Tokio runtime.
    pub fn keep_reloaded(&self) {
        let mut reloading = self.0.reloading.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(reloading) = reloading.take() {
            tokio::spawn(reload::keep(WeakTls(Arc::downgrade(&self.0)), reloading));
        }
    }

    /// The domain of the cluster.
    pub fn domain(&self) -> &Domain {
        &self.0.settings.domain
    }

    /// What the certificate of this process proves.
    pub fn own_roles(&self) -> RoleSet {
        self.current().roles
    }

    /// Seconds until the certificate of this process expires, and until the first CA certificate expires.
    pub fn expires_in(&self) -> (u64, u64) {
        let (identity, now) = (self.current(), now());
        let left = |end: u64| end.saturating_sub(now);
        (left(identity.validity.not_after), left(identity.ca_not_after))
    }

    /// The certificate of this process, for texts: the file and its dates.
    pub fn describe(&self) -> String {
        let validity = self.current().validity;
        format!(
            "the certificate {} is valid from {} to {}",
            self.0.settings.files.cert.display(),
            date(validity.not_before),
            date(validity.not_after)
        )
    }

    pub(crate) fn server_config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.current().server)
    }

    pub(crate) fn client_config(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.current().client)
    }

    /// The name to check on a connection to a role; `None`: any role that accepts connections.
    pub(crate) fn server_name(&self, role: Option<RoleName>) -> ServerName<'static> {
        let domain = self.domain();
        let name = role.map_or_else(|| domain.as_str().to_owned(), |role| domain.name_of(role));
        ServerName::try_from(name).expect("a domain is a valid DNS name, also with a role before it")
    }

    /// The caller that a verified chain of certificates proves.
    ///
    /// # Errors
    /// There is no certificate, or it is malformed.
    pub(crate) fn caller(&self, chain: &[CertificateDer<'_>]) -> Result<Caller, Error> {
        let certificate = chain.first().ok_or(Error::NoCertificatesPresented)?;
        Caller::of(certificate, self.domain())
    }

    /// Waits until the verified chain of a connection's other side is trusted no longer: expired, or from a CA that was
    /// removed. Returns the reason.
    ///
    /// # Cancel safety
    /// Safe: the call only waits.
    pub(crate) async fn distrusted(&self, chain: &[CertificateDer<'static>], side: &OtherSide) -> Error {
        let mut changes = self.0.current.subscribe();
        loop {
            let identity = Arc::clone(&changes.borrow_and_update());
            if let Err(error) = identity.verify(chain, side) {
                return error;
            }
            let now = now();
            // One second more: a certificate is valid to the end of its last second.
            let end = next_expiry(chain, now).map_or(LOOK_INTERVAL, |end| Duration::from_secs(end - now + 1));
            tokio::select! {
                // Both arms only wait.
                () = sleep(end.min(LOOK_INTERVAL)) => {}
                changed = changes.changed() => if changed.is_err() {
                    // The sender lives as long as `self`.
                    std::future::pending::<()>().await;
                }
            }
        }
    }

    /// Where the identity comes from.
    fn settings(&self) -> (&TlsFiles, &Domain, OwnRole) {
        (&self.0.settings.files, &self.0.settings.domain, self.0.own)
    }

    fn current(&self) -> Arc<TlsIdentity> {
        Arc::clone(&self.0.current.borrow())
    }

    fn replace(&self, identity: TlsIdentity) {
        self.0.current.send_replace(Arc::new(identity));
    }
}

/// Seconds since 1970, by the wall clock: certificates have dates.
pub fn unix_now() -> u64 {
    now()
}

impl TlsIdentity {
    /// Checks a chain again, now.
    fn verify(&self, chain: &[CertificateDer<'_>], side: &OtherSide) -> Result<(), Error> {
        let (first, others) = chain.split_first().ok_or(Error::NoCertificatesPresented)?;
        let now = UnixTime::now();
        match side {
            OtherSide::Caller => self.callers.verify_client_cert(first, others, now).map(|_| ()),
            OtherSide::Server(name) => self
                .servers
                .verify_server_cert(first, others, name, &[], now)
                .map(|_| ()),
        }
    }
}

#[cfg(test)]
mod tests;
