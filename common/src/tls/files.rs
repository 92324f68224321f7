//! The files of a TLS identity: read, checked, and made into the configurations of both sides of connections.

use std::{
    fmt,
    fs::File,
    io::Read as _,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    ClientConfig, Error, RootCertStore, ServerConfig,
    client::{Resumption, WebPkiServerVerifier},
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::{NoServerSessionStorage, WebPkiClientVerifier, danger::ClientCertVerifier},
    version::TLS13,
};

use super::{
    certificate::{Validity, date, names, now},
    error::TlsError,
    names::{Domain, RoleName, RoleSet},
    verifier::RoleVerifier,
};

/// Largest file in bytes: hundreds of certificates.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Access of other users to the key file.
const OTHERS: u32 = 0o007;

/// The application protocol of all connections: HTTP/2.
pub(crate) const ALPN: &[u8] = b"h2";

/// The PEM files of a process's TLS identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate of the process, followed by intermediate certificates, if any.
    pub cert: PathBuf,
    /// The private key of the certificate. Other users of the machine must have no access.
    pub key: PathBuf,
    /// The CA certificates that the process trusts; several during a change of the CA.
    pub ca: PathBuf,
}

impl TlsFiles {
    /// The three files, or none.
    ///
    /// # Errors
    /// Only some of the three are given.
    pub fn all_or_none(
        cert: Option<PathBuf>,
        key: Option<PathBuf>,
        ca: Option<PathBuf>,
    ) -> Result<Option<Self>, TlsError> {
        match (cert, key, ca) {
            (Some(cert), Some(key), Some(ca)) => Ok(Some(Self { cert, key, ca })),
            (None, None, None) => Ok(None),
            (Some(_), _, _) | (_, Some(_), _) | (_, _, Some(_)) => Err(TlsError::Incomplete),
        }
    }
}

/// The bytes of the three files at one moment.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct FileContents {
    pub(super) cert: Vec<u8>,
    key: Vec<u8>,
    ca: Vec<u8>,
}

/// Without the private key.
impl fmt::Debug for FileContents {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("FileContents").finish_non_exhaustive()
    }
}

impl FileContents {
    /// Reads the files.
    ///
    /// # Errors
    /// A file is missing, unreadable or too large, or other users have access to the key.
    pub(super) fn read(files: &TlsFiles) -> Result<Self, TlsError> {
        let read = |path: &Path| read_file(path).map(|(bytes, _)| bytes);
        let (cert, ca) = (read(&files.cert)?, read(&files.ca)?);
        let (key, mode) = read_file(&files.key)?;
        if mode & OTHERS != 0 {
            return Err(TlsError::OpenKey {
                file: files.key.clone(),
                mode: mode & 0o777,
            });
        }
        Ok(Self { cert, key, ca })
    }
}

/// Reads a file; returns also the mode of the opened file.
fn read_file(path: &Path) -> Result<(Vec<u8>, u32), TlsError> {
    let unreadable = |error| TlsError::Unreadable {
        file: path.to_owned(),
        error,
    };
    let file = File::open(path).map_err(unreadable)?;
    let mode = file.metadata().map_err(unreadable)?.mode();
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(unreadable)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(TlsError::TooLarge {
            file: path.to_owned(),
            limit: FILE_BYTES_MAX,
        });
    }
    Ok((bytes, mode))
}

/// The usable content of the files.
#[derive(Debug)]
pub(crate) struct TlsIdentity {
    pub(crate) server: Arc<ServerConfig>,
    pub(crate) client: Arc<ClientConfig>,
    /// Checks the certificates of callers.
    pub(super) callers: Arc<dyn ClientCertVerifier>,
    /// Checks the certificates of servers.
    pub(super) servers: Arc<RoleVerifier>,
    /// The dates of the own certificate.
    pub(super) validity: Validity,
    /// The earliest end of a CA certificate, in seconds since 1970.
    pub(super) ca_not_after: u64,
    /// What the own certificate proves.
    pub(super) roles: RoleSet,
}

/// The role of a process that its own certificate must name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OwnRole {
    /// Exactly this role.
    Exactly(RoleName),
    /// Some role: for command-line tools and applications.
    Any,
}

impl TlsIdentity {
    /// Checks the contents of the files.
    ///
    /// # Errors
    /// Not PEM, no pair, the name of the own role is missing, or a certificate has expired.
    pub(super) fn of(
        contents: &FileContents,
        files: &TlsFiles,
        domain: &Domain,
        own: OwnRole,
    ) -> Result<Self, TlsError> {
        let chain = certificates(&contents.cert, &files.cert)?;
        let key = PrivateKeyDer::from_pem_slice(&contents.key).map_err(|error| TlsError::Malformed {
            file: files.key.clone(),
            what: "private key",
            reason: error.to_string(),
        })?;
        let malformed = |file: &Path| {
            let file = file.to_owned();
            move |error: Error| TlsError::Malformed {
                file,
                what: "certificate",
                reason: error.to_string(),
            }
        };
        let validity = Validity::of(&chain[0]).map_err(malformed(&files.cert))?;
        let roles = own_roles(&chain[0], &files.cert, domain, own)?;
        let (roots, ca_not_after) = roots(&contents.ca, &files.ca)?;
        let provider = Arc::new(ring::default_provider());
        let callers = WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider));
        let callers = callers.build().map_err(|error| unusable_ca(&files.ca, &error))?;
        let servers = WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&provider));
        let servers = servers.build().map_err(|error| unusable_ca(&files.ca, &error))?;
        let servers = Arc::new(RoleVerifier::new(servers, domain.clone()));
        let unusable = |error: Error| {
            if let Error::InconsistentKeys(_) = error {
                return TlsError::NotAPair {
                    cert: files.cert.clone(),
                    key: files.key.clone(),
                };
            }
            malformed(&files.key)(error)
        };
        let server = server_config(&provider, Arc::clone(&callers), chain.clone(), key.clone_key());
        let client = client_config(&provider, Arc::clone(&servers), chain, key);
        check_dates(validity, &files.cert)?;
        Ok(Self {
            server: Arc::new(server.map_err(unusable)?),
            client: Arc::new(client.map_err(unusable)?),
            callers,
            servers,
            validity,
            ca_not_after,
            roles,
        })
    }
}

/// The certificates of a PEM file, at least one.
pub(super) fn certificates(bytes: &[u8], file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let malformed = |reason: String| TlsError::Malformed {
        file: file.to_owned(),
        what: "certificate",
        reason,
    };
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(bytes).collect();
    let all = all.map_err(|error| malformed(error.to_string()))?;
    if all.is_empty() {
        return Err(malformed("no section BEGIN CERTIFICATE was found".to_owned()));
    }
    Ok(all)
}

/// The trusted CA certificates that are valid now, and the earliest end of these.
fn roots(bytes: &[u8], file: &Path) -> Result<(Arc<RootCertStore>, u64), TlsError> {
    let mut roots = RootCertStore::empty();
    let (now, mut last_end, mut first_end) = (now(), 0, u64::MAX);
    for certificate in certificates(bytes, file)? {
        let added = Validity::of(&certificate).and_then(|validity| {
            last_end = last_end.max(validity.not_after);
            // The library does not check the dates of trusted certificates.
            if validity.not_after < now {
                return Ok(());
            }
            first_end = first_end.min(validity.not_after);
            roots.add(certificate)
        });
        added.map_err(|error| unusable_ca(file, &error))?;
    }
    if roots.is_empty() {
        return Err(TlsError::Expired {
            file: file.to_owned(),
            at: date(last_end),
        });
    }
    Ok((Arc::new(roots), first_end))
}

fn unusable_ca(file: &Path, error: &dyn std::error::Error) -> TlsError {
    TlsError::Malformed {
        file: file.to_owned(),
        what: "CA certificate",
        reason: error.to_string(),
    }
}

/// What the own certificate proves.
fn own_roles(
    certificate: &CertificateDer<'_>,
    file: &Path,
    domain: &Domain,
    own: OwnRole,
) -> Result<RoleSet, TlsError> {
    let found = names(certificate).map_err(|error| TlsError::Malformed {
        file: file.to_owned(),
        what: "certificate",
        reason: error.to_string(),
    })?;
    let (roles, _) = domain.roles_of(found.iter().map(String::as_str));
    let (is_right, wanted) = match own {
        OwnRole::Exactly(role) => (roles.contains(role), domain.name_of(role)),
        OwnRole::Any => {
            let (client, operator) = (RoleName::Client, RoleName::Operator);
            let wanted = format!("{} or {}", domain.name_of(client), domain.name_of(operator));
            (!roles.is_empty(), wanted)
        }
    };
    if is_right {
        return Ok(roles);
    }
    let found = if found.is_empty() {
        "none".to_owned()
    } else {
        found.join(", ")
    };
    Err(TlsError::WrongName {
        file: file.to_owned(),
        wanted,
        found,
    })
}

fn check_dates(validity: Validity, file: &Path) -> Result<(), TlsError> {
    let (file, now) = (file.to_owned(), now());
    if validity.not_after < now {
        let at = date(validity.not_after);
        return Err(TlsError::Expired { file, at });
    }
    if validity.not_before > now {
        let from = date(validity.not_before);
        return Err(TlsError::NotYetValid { file, from });
    }
    Ok(())
}

/// TLS 1.3 alone, a certificate from every caller, no resumption, no early data.
fn server_config(
    provider: &Arc<CryptoProvider>,
    callers: Arc<dyn ClientCertVerifier>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<ServerConfig, Error> {
    let builder = ServerConfig::builder_with_provider(Arc::clone(provider));
    let mut config = builder
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(callers)
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    // A resumed session would not check the caller's certificate again.
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    Ok(config)
}

/// TLS 1.3 alone, a certificate for every server, no resumption, no early data.
fn client_config(
    provider: &Arc<CryptoProvider>,
    servers: Arc<RoleVerifier>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<ClientConfig, Error> {
    let builder = ClientConfig::builder_with_provider(Arc::clone(provider));
    let mut config = builder
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(servers)
        .with_client_auth_cert(chain, key)?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    Ok(config)
}
