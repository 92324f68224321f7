//! Guard: decides by the runs of an acceptor whether the acceptor counts.

use std::collections::{BTreeMap, BTreeSet};

use super::{RUNS_MAX, Run, RunJudgement, RunList, ShownRun, WITNESSED_RUNS_MAX, WentBack, Witnesses};
use crate::paxos::{
    identity::{AcceptorUuid, CommitCounter, RunNumber},
    quorum::Quorums,
};

/// Number of successive openings at which an acceptor must contradict the remembered runs before the guard refuses it.
///
/// A list of runs may be older than the memory: the acceptor has restarted since showing the list, and other processes
/// heard of the new run first. A process with a single connection to the acceptor asks for the second list after the
/// contradiction. The third list is for a process with several connections.
pub(super) const CONTRADICTIONS_MAX: u32 = 3;

/// Limit of remembered runs of each acceptor, both among the runs heard by this process and in the copy of each table.
/// Larger than the number of runs stored by an acceptor: a table of the present release is never cut here.
const REMEMBERED_RUNS_MAX: usize = 64;

/// A finding about an acceptor, from an introduction or a promise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GuardFinding {
    /// The latest list of this acceptor contradicts the remembered runs. The acceptor must not be counted until it has
    /// shown its runs again.
    Suspected(AcceptorUuid),
    /// The acceptor must not be counted while its runs contradict. Reported once, and again after a readmission.
    Refused(WentBack),
    /// The acceptor was refused, and the shown runs now agree with all remembered runs: the right disk is back.
    Readmitted(AcceptorUuid),
    /// Too few other acceptors reported their tables after this acceptor had shown the present run. The acceptor must
    /// not be counted until it has shown its runs again and enough others have reported.
    Unwitnessed {
        /// The acceptor that showed its runs.
        acceptor: AcceptorUuid,
        /// Number of other acceptors that reported.
        reported: usize,
        /// Number of other acceptors that must report.
        needed: usize,
    },
}

/// Lets an acceptor count only while the shown runs agree with all remembered runs of the acceptor.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Guard {
    /// The length at which a list may have been cut.
    runs_max: usize,
    /// Number of tables of other acceptors required before a new run counts.
    others_needed: usize,
    /// Runs heard by this process, from trusted acceptors.
    heard: Witnesses,
    /// The stored table of each acceptor, as reported by the acceptor.
    tables: BTreeMap<AcceptorUuid, Witnesses>,
    /// What the tables of former members hold about members.
    former: Witnesses,
    /// The latest list of each acceptor.
    shown: BTreeMap<AcceptorUuid, RunList>,
    /// The latest witnessed run of each acceptor: enough other acceptors reported after the acceptor had shown the run.
    witnessed: BTreeMap<AcceptorUuid, RunNumber>,
    /// The contradicted run of each suspected acceptor, and how often the acceptor has shown the contradiction.
    suspected: BTreeMap<AcceptorUuid, (RunNumber, u32)>,
    refused: BTreeMap<AcceptorUuid, WentBack>,
}

impl Guard {
    /// An empty guard. A new run of an acceptor counts once the acceptor and the reporting other acceptors form a
    /// phase-1 quorum.
    pub fn new(quorums: Quorums) -> Self {
        Self::with(RUNS_MAX, quorums.phase1() - 1)
    }

    /// An empty guard with explicit bounds: a list of exactly `runs_max` runs may have been cut, and `others_needed`
    /// other acceptors must report.
    pub fn with(runs_max: usize, others_needed: usize) -> Self {
        Self {
            runs_max,
            others_needed,
            heard: Witnesses::default(),
            tables: BTreeMap::new(),
            former: Witnesses::default(),
            shown: BTreeMap::new(),
            witnessed: BTreeMap::new(),
            suspected: BTreeMap::new(),
            refused: BTreeMap::new(),
        }
    }

    /// The members change: from now on a phase-1 quorum of the new members must report. Everything heard about members stays,
    /// also from former members; everything about other acceptors is forgotten, so that a guard does not grow with each change.
    /// An acceptor that becomes a member again has stored a copy of the whole log since. Every run counts again only after the
    /// new members were asked, because runs may have been witnessed by fewer acceptors, or by removed ones.
    pub fn adopt(&mut self, quorums: Quorums, is_member: impl Fn(AcceptorUuid) -> bool) {
        self.others_needed = quorums.phase1() - 1;
        self.witnessed.clear();
        for (_, table) in self.tables.extract_if(.., |holder, _| !is_member(*holder)) {
            self.former.merge(table.iter());
        }
        self.former.bound(REMEMBERED_RUNS_MAX);
        for table in self
            .tables
            .values_mut()
            .chain([&mut self.former, &mut self.heard])
        {
            *table = table.of_those(&is_member);
        }
        self.shown.retain(|&acceptor, _| is_member(acceptor));
        self.suspected.retain(|&acceptor, _| is_member(acceptor));
        self.refused.retain(|&acceptor, _| is_member(acceptor));
    }

    /// Number of tables of other acceptors required before a new run counts.
    pub fn others_needed(&self) -> usize {
        self.others_needed
    }

    /// Whether enough other acceptors have reported since an acceptor first showed this run. If not, the caller asks
    /// the other acceptors before the next [`Self::introduce`].
    pub fn is_witnessed(&self, acceptor: AcceptorUuid, run: RunNumber) -> bool {
        self.others_needed == 0 || self.witnessed.get(&acceptor) == Some(&run)
    }

    /// An acceptor shows its runs, with the present run last, and its table. `others` holds the tables of other
    /// members, each requested *after* the acceptor had shown this list. `others` can be empty if the present run is
    /// witnessed already.
    ///
    /// Returns the findings about this acceptor and about other acceptors. A refused acceptor is judged like any other,
    /// and trusted again once the list agrees with all remembered runs.
    pub fn introduce(
        &mut self,
        acceptor: AcceptorUuid,
        runs: &[Run],
        remembers: impl IntoIterator<Item = (AcceptorUuid, RunNumber, CommitCounter)>,
        others: &[(AcceptorUuid, Witnesses)],
    ) -> Vec<GuardFinding> {
        self.tables.entry(acceptor).or_default().merge(remembers);
        let others = || others.iter().filter(|(other, _)| *other != acceptor);
        for (other, remembers) in others() {
            self.tables.entry(*other).or_default().merge(remembers.iter());
        }
        self.shown.insert(acceptor, RunList::new(runs, self.runs_max));
        let mut found = Vec::new();
        // The table of a rolled-back disk is true and can be incomplete: the table is merged, and the holder is not
        // counted.
        let reported = others()
            .map(|&(other, _)| other)
            .filter(|&other| self.is_sound(other));
        let reported = reported.collect::<BTreeSet<_>>().len();
        if let Some(present) = runs.last() {
            if reported >= self.others_needed {
                self.witnessed.insert(acceptor, present.run);
            } else if !self.is_witnessed(acceptor, present.run) {
                let needed = self.others_needed;
                found.push(GuardFinding::Unwitnessed {
                    acceptor,
                    reported,
                    needed,
                });
            }
        }
        match self.contradiction(acceptor) {
            // Found already.
            Some(_) if self.refused.contains_key(&acceptor) => {}
            Some(went_back) => found.push(self.contradicted(went_back)),
            None => {
                self.suspected.remove(&acceptor);
                let was_refused = self.refused.remove(&acceptor).is_some();
                found.extend(was_refused.then_some(GuardFinding::Readmitted(acceptor)));
            }
        }
        found.append(&mut self.suspects());
        for (other, _) in others() {
            self.bound(*other);
        }
        self.bound(acceptor);
        found
    }

    /// Takes the table that an acceptor reports after its introduction: with a promise. Meanwhile the disk of a second
    /// acceptor may have gone back: the second acceptor's promise must not count beside this promise. Returns the
    /// findings.
    pub fn remember(
        &mut self,
        acceptor: AcceptorUuid,
        remembers: impl IntoIterator<Item = (AcceptorUuid, RunNumber, CommitCounter)>,
    ) -> Vec<GuardFinding> {
        self.tables.entry(acceptor).or_default().merge(remembers);
        let found = self.suspects();
        self.bound(acceptor);
        found
    }

    /// Drops surplus runs, after every list was compared with everything remembered.
    fn bound(&mut self, reported_by: AcceptorUuid) {
        self.heard.bound(REMEMBERED_RUNS_MAX);
        if let Some(table) = self.tables.get_mut(&reported_by) {
            table.bound(REMEMBERED_RUNS_MAX);
        }
    }

    /// Compares the latest list of every acceptor with the runs remembered now.
    fn suspects(&mut self) -> Vec<GuardFinding> {
        let mut found = Vec::new();
        let shown: Vec<_> = self.shown.keys().copied().collect();
        for other in shown
            .into_iter()
            .filter(|&other| self.is_sound(other))
            .collect::<Vec<_>>()
        {
            if let Some(went_back) = self.contradiction(other) {
                self.suspected.insert(other, (went_back.run, 0));
                found.push(GuardFinding::Suspected(other));
            }
        }
        found
    }

    /// Counts the lists of an acceptor that contradict the same run.
    fn contradicted(&mut self, went_back: WentBack) -> GuardFinding {
        let acceptor = went_back.acceptor;
        let (run, times) = self.suspected.entry(acceptor).or_insert((went_back.run, 0));
        if *run != went_back.run {
            (*run, *times) = (went_back.run, 0);
        }
        *times += 1;
        if *times < CONTRADICTIONS_MAX {
            return GuardFinding::Suspected(acceptor);
        }
        self.refused.insert(acceptor, went_back);
        GuardFinding::Refused(went_back)
    }

    /// A remembered run that contradicts the latest list of an acceptor.
    pub fn contradiction(&self, acceptor: AcceptorUuid) -> Option<WentBack> {
        let shown = self.shown.get(&acceptor)?;
        let tables = self.tables.iter().filter(|(holder, _)| **holder != acceptor);
        let tables = tables.map(|(_, table)| table).chain([&self.former]);
        let vouched = || {
            let mut entries = tables.clone().flat_map(|table| table.of(acceptor));
            entries.any(|(run, heard)| shown.shows(run, heard))
        };
        // Computed at most once, because the search covers all tables.
        let mut is_vouched = None;
        let remembered = tables.clone().chain([&self.heard]);
        for (run, heard) in remembered.flat_map(|witnesses| witnesses.of(acceptor)) {
            let known = match shown.judge(run, heard) {
                RunJudgement::Agrees => continue,
                RunJudgement::TooOld if *is_vouched.get_or_insert_with(vouched) => continue,
                RunJudgement::TooOld => ShownRun::TooOld,
                RunJudgement::WentBack(known) => known,
            };
            return Some(WentBack {
                acceptor,
                run,
                heard,
                known,
            });
        }
        None
    }

    /// Whether an acceptor may be counted: no remembered run contradicts the latest list, and enough other acceptors
    /// reported after the acceptor had shown the present run.
    pub fn trusts(&self, acceptor: AcceptorUuid) -> bool {
        let present = self.shown.get(&acceptor).and_then(|shown| shown.present);
        self.is_sound(acceptor) && present.is_none_or(|run| self.is_witnessed(acceptor, run))
    }

    /// Whether no remembered run contradicts the latest list of an acceptor.
    fn is_sound(&self, acceptor: AcceptorUuid) -> bool {
        !self.refused.contains_key(&acceptor) && !self.suspected.contains_key(&acceptor)
    }

    /// An acceptor answered, as of a commit. Answers of an untrusted acceptor are not remembered: such answers would
    /// contradict the right disk after the return of the disk. Answers from a run other than the shown run are not
    /// remembered either.
    pub fn hear(&mut self, acceptor: AcceptorUuid, run: RunNumber, counter: CommitCounter) {
        let is_present = self
            .shown
            .get(&acceptor)
            .is_some_and(|shown| shown.is_present(run));
        if is_present && self.trusts(acceptor) {
            self.heard.hear(acceptor, run, counter);
        }
    }

    /// The reason for refusing an acceptor; `None` if the acceptor is not refused.
    pub fn refusal(&self, acceptor: AcceptorUuid) -> Option<WentBack> {
        self.refused.get(&acceptor).copied()
    }

    /// The runs that a leader passes on to the acceptors for storage. Contradicting acceptors are left out.
    pub fn to_pass_on(&self) -> Witnesses {
        let all = self.tables.values().chain([&self.former, &self.heard]);
        let trusted = all.flat_map(|witnesses| witnesses.iter());
        let mut witnesses: Witnesses = trusted
            .filter(|&(acceptor, ..)| self.is_sound(acceptor))
            .collect();
        witnesses.bound(WITNESSED_RUNS_MAX);
        witnesses
    }
}
