//! The opener of a session bound to the caller: only a caller of the same name can use the session.
//!
//! With TLS each caller has a name, by its certificate. The first proposer that gets a command replaces the stated opener
//! by a digest of this name and the stated opener. Acceptors, other proposers and learners see the digest alone: no
//! caller of another name can state it, even when it knows the session and its opener.

use bytes::Bytes;
use paxos_proto::v1 as pb;
use sha2::{Digest as _, Sha256};

use crate::paxos::command::Opener;

/// Separates these digests from digests for other purposes.
const PURPOSE: &[u8] = b"paxos.v1 opener of a session\0";

/// Binds the opener in a command, if any, to the caller of this name.
pub fn bind_command(command: &mut pb::Command, caller: &str) {
    if let Some(stamp) = &mut command.session {
        bind_stamp(stamp, caller);
    }
    if let Some(pb::command::Operation::OpenSession(opening)) = &mut command.operation {
        bind(&mut opening.opener, caller);
    }
}

/// Binds the opener in a session stamp to the caller of this name.
pub fn bind_stamp(stamp: &mut pb::SessionStamp, caller: &str) {
    bind(&mut stamp.opener, caller);
}

/// An opener of a wrong length stays as stated: such an opener is refused later.
fn bind(opener: &mut Bytes, caller: &str) {
    if !opener.is_empty() && opener.len() != Opener::BYTES {
        return;
    }
    let mut digest = Sha256::new();
    digest.update(PURPOSE);
    // Both have a length of their own, so no other pair has the same bytes.
    digest.update(caller.len().to_be_bytes());
    digest.update(caller);
    digest.update(&opener[..]);
    *opener = Bytes::copy_from_slice(&digest.finalize()[..Opener::BYTES]);
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::wire::command::{InvalidCommand, append, encode};

    fn opening(opener: &'static [u8]) -> pb::Command {
        pb::Command {
            session: None,
            operation: Some(pb::command::Operation::OpenSession(pb::OpenSession {
                opener: Bytes::from_static(opener),
            })),
        }
    }

    fn stamp(opener: &'static [u8]) -> pb::SessionStamp {
        pb::SessionStamp {
            session: Some(pb::Version::default()),
            sequence: 1,
            acked_below: 1,
            opener: Bytes::from_static(opener),
        }
    }

    fn opened(opener: &'static [u8], caller: &str) -> Bytes {
        let mut command = opening(opener);
        bind_command(&mut command, caller);
        let Some(pb::command::Operation::OpenSession(opening)) = command.operation else {
            panic!("another operation");
        };
        opening.opener
    }

    fn stated(opener: &'static [u8], caller: &str) -> Bytes {
        let mut command = pb::Command {
            session: Some(stamp(opener)),
            ..append(Bytes::from_static(b"x"))
        };
        bind_command(&mut command, caller);
        let mut alone = stamp(opener);
        bind_stamp(&mut alone, caller);
        let stamp = command.session.unwrap();
        assert_eq!(stamp, alone);
        stamp.opener
    }

    #[test]
    fn opener_and_name_must_both_be_the_same() {
        const OPENER: &[u8] = b"sixteen letters!";
        let session = opened(OPENER, "billing.client");
        assert_eq!(session.len(), Opener::BYTES);
        assert_eq!(session, stated(OPENER, "billing.client"));
        for (opener, caller) in [
            (OPENER, "client"),
            (OPENER, "billinh.client"),
            (OPENER, "other.client"),
            (OPENER, ""),
            (b"sixteen LETTERS!", "billing.client"),
            (b"", "billing.client"),
        ] {
            assert_ne!(session, stated(opener, caller), "{caller}");
        }
        assert_ne!(&session[..], OPENER);
    }

    #[test]
    fn session_without_an_opener_belongs_to_the_name() {
        let session = opened(b"", "client");
        assert_eq!(session, stated(b"", "client"));
        assert_ne!(session, stated(b"", "operator"));
    }

    #[test]
    fn opener_of_a_wrong_length_is_still_refused() {
        let mut command = opening(b"fifteen letters");
        bind_command(&mut command, "client");
        assert_eq!(encode(command), Err(InvalidCommand::OpenerLength(15)));
    }
}
