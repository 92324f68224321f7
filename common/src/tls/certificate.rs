//! What a certificate says: its dates, its DNS names, and its fingerprint.

use std::time::{Duration, UNIX_EPOCH};

use rustls::{
    CertificateError, Error,
    pki_types::{CertificateDer, UnixTime, pem::PemObject as _},
};
use sha2::{Digest as _, Sha256};
use webpki::{EndEntityCert, KeyUsage};

/// The dates of a certificate, in seconds since 1970, both inclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Validity {
    pub(super) not_before: u64,
    pub(super) not_after: u64,
}

impl Validity {
    /// Reads the dates of a certificate. `webpki` checks the dates first, and reports the violated date.
    ///
    /// # Errors
    /// The certificate is malformed.
    pub(super) fn of(certificate: &CertificateDer<'_>) -> Result<Self, Error> {
        let parsed = EndEntityCert::try_from(certificate).map_err(|_| bad_encoding())?;
        let at = |seconds| {
            let time = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
            let usage = KeyUsage::server_auth();
            parsed
                .verify_for_usage(&[], &[], &[], time, usage, None, None)
                .err()
        };
        let Some(webpki::Error::CertExpired { not_after, .. }) = at(u64::MAX) else {
            return Err(bad_encoding());
        };
        // Without this error the certificate is valid from 1970 on.
        let not_before = if let Some(webpki::Error::CertNotValidYet { not_before, .. }) = at(0) {
            not_before.as_secs()
        } else {
            0
        };
        Ok(Self {
            not_before,
            not_after: not_after.as_secs(),
        })
    }

    /// Time left, and the whole lifetime.
    pub(super) fn left(self, now: u64) -> (Duration, Duration) {
        let whole = self.not_after.saturating_sub(self.not_before);
        let left = self.not_after.saturating_sub(now);
        (Duration::from_secs(left), Duration::from_secs(whole))
    }
}

fn bad_encoding() -> Error {
    Error::InvalidCertificate(CertificateError::BadEncoding)
}

/// Seconds since 1970. Dates of certificates are wall-clock times.
pub(super) fn now() -> u64 {
    UnixTime::now().as_secs()
}

/// A date of a certificate, as in `2026-11-30T06:05:00Z`.
pub(super) fn date(seconds: u64) -> String {
    // The year 9999, the last that certificates can name: later dates are shown as this date.
    const LAST: u64 = 253_402_300_799;
    let at = UNIX_EPOCH + Duration::from_secs(seconds.min(LAST));
    humantime::format_rfc3339_seconds(at).to_string()
}

/// The DNS names of a certificate; wildcards included.
///
/// # Errors
/// The certificate is malformed.
pub(super) fn names(certificate: &CertificateDer<'_>) -> Result<Vec<String>, Error> {
    let parsed = EndEntityCert::try_from(certificate).map_err(|_| bad_encoding())?;
    Ok(parsed.valid_dns_names().map(str::to_owned).collect())
}

/// What the first certificate of a PEM file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateSummary {
    /// The DNS names; wildcards included.
    pub names: Vec<String>,
    /// Time until the certificate expires; zero for an expired certificate.
    pub left: Duration,
    /// From the first to the last moment of its validity.
    pub lifetime: Duration,
    /// The last moment of its validity, as a date.
    pub valid_until: String,
}

impl CertificateSummary {
    /// Reads the first certificate of a PEM text; `None`: there is no usable certificate.
    pub fn of_pem(text: &[u8]) -> Option<Self> {
        let certificate = CertificateDer::from_pem_slice(text).ok()?;
        let validity = Validity::of(&certificate).ok()?;
        let (left, lifetime) = validity.left(now());
        Some(Self {
            names: names(&certificate).ok()?,
            left,
            lifetime,
            valid_until: date(validity.not_after),
        })
    }
}

/// The SHA-256 of a certificate in hexadecimal digits.
pub(super) fn fingerprint(certificate: &CertificateDer<'_>) -> String {
    use std::fmt::Write as _;
    let digest = Sha256::digest(certificate.as_ref());
    digest.iter().fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The first moment after `now` at which a certificate of the chain expires, in seconds since 1970.
pub(super) fn next_expiry(chain: &[CertificateDer<'_>], now: u64) -> Option<u64> {
    let ends = chain.iter().filter_map(|one| Validity::of(one).ok());
    ends.map(|validity| validity.not_after)
        .filter(|&end| end >= now)
        .min()
}
