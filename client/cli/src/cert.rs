//! `paxos cert`: makes and renews the certificates of a cluster, without a public key infrastructure.

use std::{
    collections::BTreeSet,
    fs::{self, DirBuilder, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use clap::value_parser;
use paxos_common::{
    service::failure::Failure,
    tls::{CertificateSummary, DOMAIN_DEFAULT, Domain, RoleName, TlsFiles, TlsSettings},
};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use time::{Duration, OffsetDateTime};

use crate::output::write_bytes_now;

/// Lifetime of the certificates in days, unless another one is given.
pub(crate) const DAYS_DEFAULT: u32 = 90;
/// Validity of the CA in days: ten years.
const CA_DAYS: i64 = 3_650;
/// Time before the moment of issue from which certificates are valid: the clocks of other machines may be late.
const CLOCK_SKEW: Duration = Duration::minutes(5);
/// Part of the lifetime, as one in N, from which a certificate is renewed.
const RENEWAL_PART: u32 = 3;
/// End of the directory of a client with a name of its own.
const CLIENT_SUFFIX: &str = ".client";

/// Make the certificates of a cluster, and renew them when run again
///
/// Makes a CA, and one directory for each role: acceptor, proposer, learner, client and operator. Each has cert.pem,
/// key.pem and ca.pem, for --tls-cert, --tls-key and --tls-ca. One certificate serves all processes of its role.
///
/// With --client billing, the directory billing.client has a certificate of a client with a name of its own: sessions
/// belong to this name.
///
/// Run again, the command renews certificates past two thirds of their lifetime, and certificates whose names changed.
/// Running processes take renewed files within ten seconds. The CA is made once, and valid for ten years.
///
/// No process needs ca.key: keep the file away from the machines of the cluster. A holder of this key can make acceptors.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Directory for the files; created when missing
    #[arg(long, value_name = "DIR")]
    out: PathBuf,

    /// Domain of the role names, as in acceptor.DOMAIN: one for each cluster
    #[arg(long, value_name = "DOMAIN", default_value = DOMAIN_DEFAULT)]
    domain: Domain,

    /// Lifetime of the certificates in days
    #[arg(long, value_name = "N", default_value_t = DAYS_DEFAULT, value_parser = value_parser!(u32).range(1..=825))]
    days: u32,

    /// Further host names or IP addresses of servers, for clients that check the host: once for each name
    #[arg(long = "host", value_name = "NAME")]
    hosts: Vec<String>,

    /// A client with a name of its own, as in NAME.client.DOMAIN: once for each name; later runs renew the certificate
    #[arg(long = "client", value_name = "NAME")]
    clients: Vec<String>,
}

/// Names beside the names of the roles.
#[derive(Debug, Default)]
pub(crate) struct MoreNames<'a> {
    /// Host names and IP addresses of servers.
    hosts: &'a [String],
    /// Own names of clients.
    clients: &'a [String],
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let more = MoreNames {
        hosts: &args.hosts,
        clients: &args.clients,
    };
    let lines = make(&args.out, &args.domain, args.days, &more)?;
    write_bytes_now(lines.as_bytes())
}

/// Makes or renews the files below `out`; returns what was done, a line for each file.
pub(crate) fn make(out: &Path, domain: &Domain, days: u32, more: &MoreNames<'_>) -> Result<String, Failure> {
    check_hosts(domain, more.hosts)?;
    let holders = holders(out, domain, more)?;
    create_dir(out)?;
    let ca = Ca::open(out)?;
    let mut lines = String::new();
    if ca.is_new {
        lines += &format!("made     {}\n", out.join("ca.pem").display());
    }
    for CertificateHolder { role, name, names } in holders {
        let dir = out.join(&name);
        let cert = dir.join("cert.pem");
        let shown = cert.display();
        let before = fs::read(&cert)
            .ok()
            .and_then(|pem| CertificateSummary::of_pem(&pem));
        if let Some(before) = &before
            && is_good(before, &names)
            && is_whole(&dir, domain, role, &ca)
        {
            lines += &format!("kept     {shown}, valid until {}\n", before.valid_until);
            continue;
        }
        create_dir(&dir)?;
        let issued = ca.issue(role, &name, &names, days)?;
        // The key first: a process reads both again until both fit.
        write_file(&dir.join("key.pem"), &issued.key, 0o600)?;
        write_file(&cert, &issued.cert, 0o644)?;
        write_file(&dir.join("ca.pem"), &ca.pem, 0o644)?;
        let verb = if before.is_some() { "renewed " } else { "made    " };
        let until = CertificateSummary::of_pem(issued.cert.as_bytes());
        let until = until.map(|summary| summary.valid_until).unwrap_or_default();
        lines += &format!("{verb} {shown}, valid until {until}\n");
    }
    Ok(lines)
}

/// The holder of a certificate.
struct CertificateHolder {
    role: RoleName,
    /// The directory, and the common name.
    name: String,
    /// The DNS names and IP addresses.
    names: Vec<String>,
}

/// The holders of certificates: the roles, and clients with names of their own, also those of earlier runs.
fn holders(out: &Path, domain: &Domain, more: &MoreNames<'_>) -> Result<Vec<CertificateHolder>, Failure> {
    let mut holders: Vec<_> = RoleName::ALL
        .into_iter()
        .map(|role| {
            let mut names = vec![domain.name_of(role)];
            if RoleName::SERVERS.contains(&role) {
                names.extend(more.hosts.iter().cloned());
            }
            let name = role.as_str().to_owned();
            CertificateHolder { role, name, names }
        })
        .collect();
    let mut clients: BTreeSet<String> = more
        .clients
        .iter()
        .map(|name| name.to_ascii_lowercase())
        .collect();
    clients.extend(earlier_clients(out, domain)?);
    for client in clients {
        let dns_name = domain.name_of_client(&client).ok_or_else(|| {
            Failure::usage(format!(
                "--client {client} is no label of a DNS name: give letters, digits and hyphens, as in billing for \
                 billing.client.{domain}"
            ))
        })?;
        holders.push(CertificateHolder {
            role: RoleName::Client,
            name: client + CLIENT_SUFFIX,
            names: vec![dns_name],
        });
    }
    Ok(holders)
}

/// Names of clients with a directory of an earlier run.
fn earlier_clients(out: &Path, domain: &Domain) -> Result<Vec<String>, Failure> {
    let entries = match fs::read_dir(out) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed("read", out, &error)),
    };
    let name = |entry: io::Result<fs::DirEntry>| {
        let entry = entry.ok().filter(|entry| entry.path().is_dir())?;
        let name = entry.file_name().into_string().ok()?;
        let name = name.strip_suffix(CLIENT_SUFFIX)?;
        domain.name_of_client(name).map(|_| name.to_owned())
    };
    Ok(entries.filter_map(name).collect())
}

/// Refuses host names that prove a role: with such a name, each holder of a certificate has the rights of the role.
fn check_hosts(domain: &Domain, hosts: &[String]) -> Result<(), Failure> {
    for host in hosts {
        let (roles, _) = domain.roles_of([host.as_str()]);
        let name = host.to_ascii_lowercase();
        let parent = name.strip_prefix("*.");
        if !roles.is_empty() || parent.is_some_and(|parent| domain.as_str() == parent) {
            return Err(Failure::usage(format!(
                "--host {host} would give the rights of a role to other certificates: give the name of a host, without a \
                 wildcard, that is no role of {domain}"
            )));
        }
    }
    Ok(())
}

/// Whether the three files of a role fit together, and are of this CA.
fn is_whole(dir: &Path, domain: &Domain, role: RoleName, ca: &Ca) -> bool {
    let files = TlsFiles {
        cert: dir.join("cert.pem"),
        key: dir.join("key.pem"),
        ca: dir.join("ca.pem"),
    };
    let is_of_ca = fs::read(&files.ca).is_ok_and(|pem| pem == ca.pem.as_bytes());
    let domain = domain.clone();
    is_of_ca && TlsSettings { files, domain }.check(role).is_ok()
}

/// Whether a certificate need not be renewed.
fn is_good(summary: &CertificateSummary, names: &[String]) -> bool {
    let has = |name: &String| summary.names.contains(name) || name.parse::<std::net::IpAddr>().is_ok();
    summary.left > summary.lifetime / RENEWAL_PART && names.iter().all(has)
}

/// The CA of a directory.
struct Ca {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
    is_new: bool,
}

/// A certificate and its key, as PEM texts.
struct Issued {
    cert: String,
    key: String,
}

impl Ca {
    /// Reads the CA, or makes it. Half of a CA is never completed: certificates of the lost half may be in use.
    fn open(out: &Path) -> Result<Self, Failure> {
        let (cert_file, key_file) = (out.join("ca.pem"), out.join("ca.key"));
        let (cert, key) = (read(&cert_file)?, read(&key_file)?);
        match (cert, key) {
            (Some(pem), Some(key)) => {
                let unusable = |error: rcgen::Error| {
                    Failure::usage(format!("the CA in {} cannot be used: {error}", out.display()))
                };
                let key = KeyPair::from_pem(&key).map_err(unusable)?;
                let issuer = Issuer::from_ca_cert_pem(&pem, key).map_err(unusable)?;
                Ok(Self {
                    pem,
                    issuer,
                    is_new: false,
                })
            }
            (None, None) => Self::make(&cert_file, &key_file),
            (Some(_), None) | (None, Some(_)) => Err(Failure::usage(format!(
                "{} and {} belong together, and one is missing: restore it, or give another --out",
                cert_file.display(),
                key_file.display()
            ))),
        }
    }

    fn make(cert_file: &Path, key_file: &Path) -> Result<Self, Failure> {
        let key = KeyPair::generate().map_err(Failure::internal)?;
        let mut params = CertificateParams::default();
        // A name of its own: two CAs of the same name could not be distinguished during a change of the CA.
        let name = format!("paxos CA {:016x}", rand::random::<u64>());
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        (params.not_before, params.not_after) = dates(CA_DAYS);
        let cert = params.self_signed(&key).map_err(Failure::internal)?;
        let pem = cert.pem();
        write_file(key_file, &key.serialize_pem(), 0o600)?;
        write_file(cert_file, &pem, 0o644)?;
        Ok(Self {
            pem,
            issuer: Issuer::new(params, key),
            is_new: true,
        })
    }

    /// A certificate of `role` with this common name and these names, and a new key.
    fn issue(&self, role: RoleName, name: &str, names: &[String], days: u32) -> Result<Issued, Failure> {
        let bad_name =
            |error: rcgen::Error| Failure::usage(format!("a certificate cannot have these names: {error}"));
        let mut params = CertificateParams::new(names.to_vec()).map_err(bad_name)?;
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = if RoleName::SERVERS.contains(&role) {
            vec![
                ExtendedKeyUsagePurpose::ServerAuth,
                ExtendedKeyUsagePurpose::ClientAuth,
            ]
        } else {
            vec![ExtendedKeyUsagePurpose::ClientAuth]
        };
        params.use_authority_key_identifier_extension = true;
        (params.not_before, params.not_after) = dates(days.into());
        let key = KeyPair::generate().map_err(Failure::internal)?;
        let cert = params.signed_by(&key, &self.issuer).map_err(Failure::internal)?;
        Ok(Issued {
            cert: cert.pem(),
            key: key.serialize_pem(),
        })
    }
}

/// First and last moment of a validity that begins about now.
fn dates(days: i64) -> (OffsetDateTime, OffsetDateTime) {
    let now = i64::try_from(paxos_common::tls::unix_now()).unwrap_or(i64::MAX);
    let now = OffsetDateTime::from_unix_timestamp(now).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    (now - CLOCK_SKEW, now + Duration::days(days))
}

/// The text of a file; `None`: there is no such file.
fn read(file: &Path) -> Result<Option<String>, Failure> {
    match fs::read_to_string(file) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed("read", file, &error)),
    }
}

fn create_dir(dir: &Path) -> Result<(), Failure> {
    let created = DirBuilder::new().recursive(true).mode(0o755).create(dir);
    created.map_err(|error| failed("create", dir, &error))
}

/// Replaces a file in one step. The file has this mode from the start.
fn write_file(file: &Path, text: &str, mode: u32) -> Result<(), Failure> {
    let new = file.with_extension("new");
    let written = || {
        // A file of an interrupted run may have another mode.
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let mut opened = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&new)?;
        opened.write_all(text.as_bytes())?;
        opened.sync_all()?;
        fs::rename(&new, file)
    };
    written().map_err(|error| failed("write", file, &error))
}

fn failed(step: &str, file: &Path, error: &io::Error) -> Failure {
    Failure::storage(anyhow::anyhow!("{step} {}: {error}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    use tempfile::TempDir;

    #[test]
    fn hosts_are_names_of_servers_and_no_roles() {
        let (dir, domain) = (TempDir::new().unwrap(), Domain::default());
        let make = |host: &str| {
            let more = MoreNames {
                hosts: &[host.to_owned()],
                clients: &[],
            };
            make(dir.path(), &domain, 90, &more)
        };
        for host in [
            "acceptor.paxos.internal",
            "Operator.Paxos.Internal",
            "billing.client.paxos.internal",
            "*.paxos.internal",
        ] {
            let failure = make(host).unwrap_err();
            assert!(format!("{failure:?}").contains(host), "{failure:?}");
        }
        make("host.example").unwrap();
        for role in RoleName::ALL {
            let pem = fs::read(dir.path().join(role.as_str()).join("cert.pem")).unwrap();
            let names = CertificateSummary::of_pem(&pem).unwrap().names;
            let is_server = RoleName::SERVERS.contains(&role);
            assert_eq!(names.contains(&"host.example".to_owned()), is_server, "{role}");
        }
    }

    #[test]
    fn named_client_is_a_client_alone_and_renewed_by_later_runs() {
        let (dir, domain) = (TempDir::new().unwrap(), Domain::default());
        let make = |clients: &[&str]| {
            let clients: Vec<_> = clients.iter().map(ToString::to_string).collect();
            let more = MoreNames {
                hosts: &["host.example".to_owned()],
                clients: &clients,
            };
            make(dir.path(), &domain, 90, &more)
        };
        for wrong in ["", "a.b", "*", "-a", "a b", "../operator"] {
            let failure = make(&[wrong]).unwrap_err();
            assert!(format!("{failure:?}").contains("billing.client"), "{failure:?}");
        }
        make(&["Billing"]).unwrap();
        let cert = dir.path().join("billing.client").join("cert.pem");
        let names = |cert: &Path| {
            CertificateSummary::of_pem(&fs::read(cert).unwrap())
                .unwrap()
                .names
        };
        assert_eq!(names(&cert), ["billing.client.paxos.internal"]);
        // Entries of other origin are left alone.
        fs::create_dir(dir.path().join("My.client")).unwrap();
        fs::write(dir.path().join("notes.client"), "").unwrap();
        fs::remove_file(&cert).unwrap();
        let lines = make(&[]).unwrap();
        let of_client = |line: &&str| line.contains("billing.client/cert.pem");
        assert!(
            lines.lines().find(of_client).unwrap().starts_with("made"),
            "{lines}"
        );
        assert_eq!(names(&cert), ["billing.client.paxos.internal"]);
    }

    #[test]
    fn incomplete_or_foreign_files_are_made_again() {
        let (dir, domain) = (TempDir::new().unwrap(), Domain::default());
        let renewed = || {
            let lines = make(dir.path(), &domain, 90, &MoreNames::default()).unwrap();
            lines.lines().filter(|line| !line.starts_with("kept")).count()
        };
        assert_eq!((renewed(), renewed()), (6, 0));
        let file = |role: &str, name: &str| dir.path().join(role).join(name);
        fs::remove_file(file("acceptor", "key.pem")).unwrap();
        fs::remove_file(file("learner", "ca.pem")).unwrap();
        fs::copy(file("operator", "key.pem"), file("client", "key.pem")).unwrap();
        assert_eq!((renewed(), renewed()), (3, 0));
    }
}
