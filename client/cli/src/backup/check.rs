//! Verifies a snapshot file.

use std::{fs::File, io::Read as _, path::Path};

use indicatif::{ProgressBar, ProgressStyle};
use paxos_common::{
    service::failure::Failure,
    snapshot::{SnapshotError, SnapshotSummary, decoder::SnapshotDecoder},
};
use tokio::task::spawn_blocking;

use super::refused;

/// Bytes read at a time.
const PART_BYTES: usize = 1024 * 1024;

/// Verifies every byte of a file.
///
/// # Cancel safety
/// The file is read on a thread. The thread ends with the process.
pub(crate) async fn check(file: &Path) -> Result<SnapshotSummary, Failure> {
    let path = file.to_owned();
    let checked = spawn_blocking(move || check_now(&path)).await;
    checked.map_err(|error| Failure::internal(anyhow::Error::new(error)))?
}

fn check_now(path: &Path) -> Result<SnapshotSummary, Failure> {
    let unreadable =
        |error| Failure::storage(anyhow::Error::new(error).context(format!("read {}", path.display())));
    let mut file = File::open(path).map_err(unreadable)?;
    let bar = progress("checking", file.metadata().map_err(unreadable)?.len());
    let mut decoder = SnapshotDecoder::new(None);
    let mut part = vec![0; PART_BYTES];
    loop {
        let bytes = file.read(&mut part).map_err(unreadable)?;
        if bytes == 0 {
            break;
        }
        verify(&mut decoder, &part[..bytes]).map_err(|error| refused(path, error))?;
        bar.inc(bytes as u64);
    }
    bar.finish_and_clear();
    decoder.finish().map_err(|error| refused(path, error))
}

/// Verifies the next bytes.
pub(super) fn verify(decoder: &mut SnapshotDecoder, bytes: &[u8]) -> Result<(), SnapshotError> {
    decoder.push(bytes);
    while decoder.next_part()?.is_some() {}
    Ok(())
}

/// A bar on standard error, if standard error is a terminal.
pub(crate) fn progress(what: &'static str, bytes: u64) -> ProgressBar {
    let template = "{msg} {wide_bar} {binary_bytes} of {binary_total_bytes}";
    let style = ProgressStyle::with_template(template).expect("the template is a tested constant");
    ProgressBar::new(bytes).with_style(style).with_message(what)
}

#[cfg(test)]
mod tests {
    use std::{fs, sync::Arc};

    use bytes::Bytes;
    use paxos_common::{
        paxos::{
            identity::AcceptorUuid,
            machine::Register,
            quorum::Configuration,
            slot::{Slot, Version},
        },
        service::failure::Exit,
        snapshot::encoder::SnapshotEncoder,
        wire::snapshot::SnapshotHeader,
    };

    use super::*;

    fn whole() -> (Vec<u8>, SnapshotSummary) {
        let members = [(AcceptorUuid::from_u128(1), Arc::from("http://a:1"))];
        let configuration = Configuration::new(members, 1, 1).unwrap();
        let to = Slot::new(9).unwrap();
        let mut encoder = SnapshotEncoder::new(SnapshotHeader {
            cluster: configuration.cluster_id(),
            to,
            log_digest: [3; 32],
            configuration,
        });
        for key in ["a", "b"] {
            let register = Register {
                value: Bytes::from(vec![7; 1_000]),
                version: Version {
                    slot: Slot::ZERO,
                    offset: 0,
                },
            };
            encoder.register(key.as_bytes(), &register).unwrap();
        }
        let first = encoder.take();
        let (last, summary) = encoder.finish().unwrap();
        ([first, last].concat(), summary)
    }

    #[test]
    fn whole_file_is_described() {
        let (bytes, summary) = whole();
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        fs::write(&file, bytes).unwrap();
        assert_eq!(check_now(&file).unwrap(), summary);
    }

    #[test]
    fn every_other_file_is_refused_with_its_reason() {
        let (bytes, _) = whole();
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        let changed = |at: usize, byte| {
            let mut bytes = bytes.clone();
            bytes[at] = byte;
            bytes
        };
        let cases = [
            (Vec::new(), Exit::Storage, "cut off after 0 bytes"),
            (bytes[..bytes.len() / 2].to_vec(), Exit::Storage, "cut off"),
            (bytes[..bytes.len() - 1].to_vec(), Exit::Storage, "cut off"),
            (changed(bytes.len() / 2, 8), Exit::Storage, "copy the file again"),
            (changed(bytes.len() - 1, 8), Exit::Storage, "SHA-256"),
            ([&bytes[..], b"x"].concat(), Exit::Storage, "bytes follow the end"),
            (b"SQLite format 3".to_vec(), Exit::Refused, "no backup"),
            (changed(3, b'2'), Exit::Refused, "a newer release wrote this file"),
        ];
        for (bytes, code, text) in cases {
            fs::write(&file, bytes).unwrap();
            let failure = check_now(&file).unwrap_err();
            let shown = failure.to_string();
            assert!(failure.code == code && shown.contains(text), "{text}: {shown}");
            assert!(shown.contains(file.to_str().unwrap()), "{shown}");
        }
        let missing = check_now(&directory.path().join("missing")).unwrap_err();
        assert_eq!(missing.code, Exit::Storage, "{missing}");
    }
}
