//! Rewrites a backup as the seed of a restored cluster: bytes of the backup in, bytes of the seed out.
//!
//! The seed has all registers of the backup with their versions, and no session: a retried command of the cluster before
//! must fail, because the restored cluster may have lost the command. The seed is a function of the backup and the
//! configuration.

use super::{
    SnapshotError, SnapshotSummary,
    decoder::{SnapshotDecoder, SnapshotPart},
    encoder::SnapshotEncoder,
};
use crate::{
    paxos::{acceptor::Seed, quorum::Configuration},
    wire::snapshot::SnapshotHeader,
};

/// Rewrites one backup.
#[derive(Debug)]
pub struct SeedWriter {
    configuration: Configuration,
    seed: Seed,
    backup: SnapshotDecoder,
    /// `None` until the header of the backup is read.
    out: Option<SnapshotEncoder>,
}

impl SeedWriter {
    /// Begins the seed of a restored cluster; `None` for a configuration without an origin.
    pub fn new(configuration: Configuration) -> Option<Self> {
        Some(Self {
            seed: Seed::of(&configuration)?,
            configuration,
            backup: SnapshotDecoder::new(None),
            out: None,
        })
    }

    /// Takes the next bytes of the backup. Returns the next bytes of the seed, possibly none.
    ///
    /// # Errors
    /// The backup is damaged, or the seed becomes too large.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Vec<u8>, SnapshotError> {
        self.backup.push(bytes);
        while let Some(part) = self.backup.next_part()? {
            match (part, &mut self.out) {
                (SnapshotPart::Header(header), out) => {
                    *out = Some(SnapshotEncoder::new(SnapshotHeader {
                        cluster: self.seed.cluster,
                        to: self.seed.base,
                        log_digest: header.log_digest,
                        configuration: self.configuration.clone(),
                    }));
                }
                (SnapshotPart::Register(key, register), Some(out)) => out.register(&key, &register)?,
                (SnapshotPart::Register(..), None) | (SnapshotPart::Session(..), _) => {}
            }
        }
        Ok(self.out.as_mut().map(SnapshotEncoder::take).unwrap_or_default())
    }

    /// Ends the seed. Returns its last bytes, and the summaries of the backup and of the seed.
    ///
    /// # Errors
    /// The backup ends early, or the seed is too large.
    pub fn finish(self) -> Result<(Vec<u8>, SnapshotSummary, SnapshotSummary), SnapshotError> {
        let backup = self.backup.finish()?;
        let Some(out) = self.out else {
            return Err(SnapshotError::Truncated { bytes: backup.bytes });
        };
        let (last, seed) = out.finish()?;
        Ok((last, backup, seed))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;

    use super::*;
    use crate::{
        paxos::{
            identity::AcceptorUuid,
            machine::{Register, sessions::SessionState},
            origin::Origin,
            slot::{Slot, Version},
        },
        snapshot::decoder::SnapshotDecoder,
    };

    fn at(slot: u64) -> Version {
        Version {
            slot: Slot::new(slot).unwrap(),
            offset: 3,
        }
    }

    fn configuration(number: u128) -> Configuration {
        let members = [(AcceptorUuid::from_u128(number), Arc::from("http://a:1"))];
        Configuration::new(members, 1, 1).unwrap()
    }

    fn registers() -> Vec<(Bytes, Register)> {
        let register = |(key, slot): (&'static str, u64)| {
            let value = Bytes::from(vec![u8::try_from(slot).unwrap(); 10_000]);
            let version = at(slot);
            (Bytes::from(key), Register { value, version })
        };
        [("a", 2), ("b", 8), ("c", 0)].map(register).to_vec()
    }

    fn backup() -> (Vec<u8>, SnapshotSummary) {
        let configuration = configuration(1);
        let mut encoder = SnapshotEncoder::new(SnapshotHeader {
            cluster: configuration.cluster_id(),
            to: Slot::new(9).unwrap(),
            log_digest: [5; 32],
            configuration,
        });
        for (key, register) in registers() {
            encoder.register(&key, &register).unwrap();
        }
        let session = SessionState {
            opener: None,
            last_used: at(7),
            acked_below: 1,
            recorded: Default::default(),
        };
        encoder.session(at(1), &session).unwrap();
        let first = encoder.take();
        let (last, summary) = encoder.finish().unwrap();
        assert_eq!(summary.footer.sessions, 1);
        ([first, last].concat(), summary)
    }

    fn restored(summary: &SnapshotSummary) -> Configuration {
        let origin = Origin::after(summary.sha256, summary.header.to, None).unwrap();
        configuration(2).restored_from(origin)
    }

    fn rewrite(backup: &[u8], configuration: Configuration, part: usize) -> Result<Vec<u8>, SnapshotError> {
        let mut writer = SeedWriter::new(configuration).unwrap();
        let mut seed = Vec::new();
        for part in backup.chunks(part) {
            seed.extend(writer.push(part)?);
        }
        let (last, _, _) = writer.finish()?;
        seed.extend(last);
        Ok(seed)
    }

    #[test]
    fn seed_has_the_registers_of_the_backup_and_no_session() {
        let (bytes, summary) = backup();
        let configuration = restored(&summary);
        let seed = rewrite(&bytes, configuration.clone(), 1_000).unwrap();
        assert_eq!(
            rewrite(&bytes, configuration.clone(), 7).unwrap(),
            seed,
            "however the bytes arrive"
        );
        let mut decoder = SnapshotDecoder::new(Some(configuration.cluster_id()));
        decoder.push(&seed);
        let mut found = Vec::new();
        while let Some(part) = decoder.next_part().unwrap() {
            match part {
                SnapshotPart::Header(header) => {
                    assert_eq!(header.to, configuration.origin().unwrap().base());
                    assert_eq!(
                        (header.configuration, header.log_digest),
                        (configuration.clone(), [5; 32])
                    );
                }
                SnapshotPart::Register(key, register) => found.push((key, register)),
                SnapshotPart::Session(..) => panic!("a session is left"),
            }
        }
        let footer = decoder.finish().unwrap().footer;
        assert_eq!((footer.registers, footer.sessions, footer.outcomes), (3, 0, 0));
        assert_eq!(found, registers());
    }

    #[test]
    fn damaged_backup_makes_no_seed() {
        let (bytes, summary) = backup();
        for len in [0, 3, 100, bytes.len() - 1] {
            let cut = rewrite(&bytes[..len], restored(&summary), 512).unwrap_err();
            assert!(matches!(cut, SnapshotError::Truncated { .. }), "{cut}");
        }
        let mut changed = bytes;
        *changed.last_mut().unwrap() ^= 1;
        assert_eq!(
            rewrite(&changed, restored(&summary), 512),
            Err(SnapshotError::Hash)
        );
    }

    #[test]
    fn plain_configuration_has_no_seed() {
        assert!(SeedWriter::new(configuration(1)).is_none());
    }
}
