//! How many members may be lost, in words with the reason.

/// The members that can vote, and the quorums.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tolerance {
    /// Members of the configuration; 0 without a configuration.
    pub(crate) members: usize,
    /// Members that can vote now.
    pub(crate) votes: usize,
    /// Promises that elect a leader.
    pub(crate) phase1: usize,
    /// Votes that choose a value.
    pub(crate) phase2: usize,
}

impl Tolerance {
    /// Members that both quorums need; 0 without a configuration.
    pub(crate) fn quorum(self) -> usize {
        self.phase1.max(self.phase2)
    }

    /// Members that may be lost from now on while the others still elect a leader and order values. `None`: too few vote
    /// already.
    pub(crate) fn count(self) -> Option<usize> {
        self.votes.checked_sub(self.quorum())
    }

    /// The count in words; for none with the reason.
    pub(crate) fn in_words(self) -> String {
        let Self {
            members,
            votes,
            phase1,
            phase2,
        } = self;
        match self.count() {
            None if votes < phase2 => "too few vote: no value is ordered".to_owned(),
            None => format!(
                "too few vote: {votes} of {members} can vote, and {phase1} elect a leader. Values are ordered only while a \
                 leader is left"
            ),
            Some(0) if votes < members => {
                format!("none may be lost, because only {votes} of {members} members can vote")
            }
            Some(0) if members == 1 => "none may be lost, because the cluster has one member".to_owned(),
            Some(0) if phase2 == members => {
                format!("none may be lost, because the quorums need all {members} members")
            }
            // Only the quorum of phase 1 needs every member.
            Some(0) => format!(
                "none may be lost, because the quorums were chosen so: a new leader needs all {members} members. After a loss, \
                 the present leader goes on with {phase2}, and no other proposer can take over"
            ),
            Some(1) => "one may be lost".to_owned(),
            Some(count) => format!("{count} may be lost"),
        }
    }

    /// The quorums in words: `quorums: 2 of 3 to elect a leader (phase 1), 2 of 3 to choose a value (phase 2)`.
    pub(crate) fn quorums(self) -> String {
        let Self {
            members,
            phase1,
            phase2,
            ..
        } = self;
        format!(
            "quorums: {phase1} of {members} to elect a leader (phase 1), {phase2} of {members} to choose a value (phase 2)"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(members: usize, votes: usize, phase1: usize, phase2: usize) -> String {
        let tolerance = Tolerance {
            members,
            votes,
            phase1,
            phase2,
        };
        tolerance.in_words()
    }

    #[test]
    fn reason_is_named_when_none_may_be_lost() {
        for (members, votes, phase1, phase2, expected) in [
            (3, 3, 2, 2, "one may be lost"),
            (5, 5, 3, 3, "2 may be lost"),
            (
                3,
                2,
                2,
                2,
                "none may be lost, because only 2 of 3 members can vote",
            ),
            (1, 1, 1, 1, "none may be lost, because the cluster has one member"),
            (
                2,
                2,
                2,
                2,
                "none may be lost, because the quorums need all 2 members",
            ),
            (
                3,
                3,
                1,
                3,
                "none may be lost, because the quorums need all 3 members",
            ),
            (
                3,
                3,
                3,
                1,
                "none may be lost, because the quorums were chosen so: a new leader needs all 3",
            ),
            (3, 1, 2, 2, "too few vote: no value is ordered"),
            (3, 2, 3, 1, "too few vote: 2 of 3 can vote, and 3 elect a leader"),
        ] {
            let words = words(members, votes, phase1, phase2);
            assert!(words.starts_with(expected), "{words}");
        }
    }
}
