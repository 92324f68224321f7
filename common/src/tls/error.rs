//! Why certificate files cannot be used. Each text names the file, and what would be right.

use std::{io, path::PathBuf};

/// Why the files of a process's TLS identity cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// Missing, or not readable by this user.
    #[error("cannot read {}: {error}", file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// The error of the system.
        error: io::Error,
    },
    /// Larger than any chain of certificates.
    #[error("{} has more than {limit} bytes: give a PEM file", file.display())]
    TooLarge {
        /// The file.
        file: PathBuf,
        /// The limit in bytes.
        limit: u64,
    },
    /// Other users of this machine can use the key.
    #[error(
        "the key file {} is accessible by other users (mode {mode:03o}): remove this access, as with chmod o= {}",
        file.display(), file.display()
    )]
    OpenKey {
        /// The file.
        file: PathBuf,
        /// The permission bits.
        mode: u32,
    },
    /// The PEM text is damaged, or has nothing of this kind.
    #[error("{} has no usable {what}: {reason}", file.display())]
    Malformed {
        /// The file.
        file: PathBuf,
        /// What was looked for, as in `certificate`.
        what: &'static str,
        /// What was found.
        reason: String,
    },
    /// The key does not belong to the certificate.
    #[error("{} and {} are not a pair: the key belongs to another certificate", cert.display(), key.display())]
    NotAPair {
        /// The file of the certificate.
        cert: PathBuf,
        /// The file of the key.
        key: PathBuf,
    },
    /// The certificate does not name the role of this process.
    #[error("{} does not have the DNS name {wanted}; its DNS names: {found}", file.display())]
    WrongName {
        /// The file.
        file: PathBuf,
        /// The right name.
        wanted: String,
        /// The names in the certificate.
        found: String,
    },
    /// The certificate is valid no longer.
    #[error("the certificate in {} expired at {at}: renew it", file.display())]
    Expired {
        /// The file.
        file: PathBuf,
        /// The last moment of its validity.
        at: String,
    },
    /// The certificate is not valid yet.
    #[error("the certificate in {} is valid from {from} on: check the clock of this machine", file.display())]
    NotYetValid {
        /// The file.
        file: PathBuf,
        /// The first moment of its validity.
        from: String,
    },
    /// Some of the three files are missing on the command line.
    #[error("TLS needs three files: give --tls-cert, --tls-key and --tls-ca, or none of these flags")]
    Incomplete,
}

impl TlsError {
    /// Whether the same files can become usable: a date or the clock is the trouble.
    pub(super) fn is_of_the_clock(&self) -> bool {
        match self {
            Self::Expired { .. } | Self::NotYetValid { .. } => true,
            Self::Unreadable { .. }
            | Self::TooLarge { .. }
            | Self::OpenKey { .. }
            | Self::Malformed { .. }
            | Self::NotAPair { .. }
            | Self::WrongName { .. }
            | Self::Incomplete => false,
        }
    }
}
