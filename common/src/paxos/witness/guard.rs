//! Guard: decides by their runs which acceptors count.

use std::collections::{BTreeMap, BTreeSet};

use super::{History, Judgement, Known, RUNS_MAX, Run, WITNESSED_RUNS_MAX, WentBack, Witnesses};
use crate::paxos::{
    identity::{AcceptorUuid, CommitCounter, RunNumber},
    quorum::Quorums,
};

/// How often an acceptor must contradict what is remembered of it, one opening after the other, before it is refused.
///
/// A list of runs may be older than what is remembered: the acceptor has restarted since it showed it, and others heard
/// of its new run first. A process that keeps one connection to an acceptor asks for the second list after the
/// contradiction; the third is for a process that keeps several.
pub(super) const CONTRADICTIONS_MAX: u32 = 3;

/// How many runs of an acceptor are remembered of what this process heard itself, and of what each table holds: more than
/// an acceptor stores, so that a table of the present release is never cut here.
const REMEMBERED_RUNS_MAX: usize = 64;

/// What an introduction brought to light.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Found {
    /// What this acceptor last showed of itself contradicts what is remembered: it must not be counted until it has
    /// shown its runs again.
    Suspected(AcceptorUuid),
    /// It must not be counted while its runs contradict. Found once; found again if it was readmitted since.
    Refused(WentBack),
    /// It was refused, and now its runs agree with all that is remembered: its right disk is back.
    Readmitted(AcceptorUuid),
    /// Too few other acceptors reported their tables after this acceptor had shown its present run. The acceptor must not
    /// be counted until it has shown its runs again and enough others have reported.
    Unwitnessed {
        /// The acceptor that showed its runs.
        acceptor: AcceptorUuid,
        /// Other acceptors that reported.
        told: usize,
        /// Other acceptors that must report.
        needed: usize,
    },
}

/// Lets only those acceptors count whose runs agree with everything that is remembered of them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Guard {
    /// The length at which a list may have been cut.
    runs_max: usize,
    /// Other acceptors that must report their tables before a new run counts.
    others_needed: usize,
    /// What this process heard itself from acceptors that it trusted.
    heard: Witnesses,
    /// What the stored table of each acceptor holds, as it told.
    tables: BTreeMap<AcceptorUuid, Witnesses>,
    /// What each acceptor last showed of itself.
    shown: BTreeMap<AcceptorUuid, History>,
    /// The run of each acceptor for which enough others reported after the acceptor had shown the run.
    witnessed: BTreeMap<AcceptorUuid, RunNumber>,
    /// The run that they do not know, and how often they showed that.
    suspected: BTreeMap<AcceptorUuid, (RunNumber, u32)>,
    refused: BTreeMap<AcceptorUuid, WentBack>,
}

impl Guard {
    /// An empty guard. A new run of an acceptor counts once the acceptor and the others that reported form a phase-1
    /// quorum.
    pub fn new(quorums: Quorums) -> Self {
        Self::with(RUNS_MAX, quorums.phase1() - 1)
    }

    /// An empty guard with explicit bounds: a list of exactly `runs_max` runs may have been cut, and `others_needed` other
    /// acceptors must report.
    pub fn with(runs_max: usize, others_needed: usize) -> Self {
        Self {
            runs_max,
            others_needed,
            heard: Witnesses::default(),
            tables: BTreeMap::new(),
            shown: BTreeMap::new(),
            witnessed: BTreeMap::new(),
            suspected: BTreeMap::new(),
            refused: BTreeMap::new(),
        }
    }

    /// Other acceptors that must report their tables before a new run counts.
    pub fn others_needed(&self) -> usize {
        self.others_needed
    }

    /// Whether enough other acceptors have reported since an acceptor first showed this run. If not, the caller asks the
    /// others before the next [`Self::introduce`].
    pub fn is_witnessed(&self, acceptor: AcceptorUuid, run: RunNumber) -> bool {
        self.others_needed == 0 || self.witnessed.get(&acceptor) == Some(&run)
    }

    /// An acceptor shows its runs, the present one last, and its table. `others` holds the tables of other members, each
    /// requested *after* the acceptor had shown this list. `others` can be empty if the present run is witnessed already.
    ///
    /// Returns what is found out by it, of this acceptor or of others. One that was refused is judged like any other: it
    /// is trusted again if all that is remembered agrees with its list.
    pub fn introduce(
        &mut self,
        acceptor: AcceptorUuid,
        runs: &[Run],
        remembers: impl IntoIterator<Item = (AcceptorUuid, RunNumber, CommitCounter)>,
        others: &[(AcceptorUuid, Witnesses)],
    ) -> Vec<Found> {
        self.tables.entry(acceptor).or_default().merge(remembers);
        let others = || others.iter().filter(|(other, _)| *other != acceptor);
        for (other, remembers) in others() {
            self.tables.entry(*other).or_default().merge(remembers.iter());
        }
        self.shown.insert(acceptor, History::new(runs, self.runs_max));
        let mut found = Vec::new();
        // The table of a disk that went back is true and can be incomplete, so it is merged and not counted.
        let told = others()
            .map(|&(other, _)| other)
            .filter(|&other| self.is_sound(other));
        let told = told.collect::<BTreeSet<_>>().len();
        if let Some(present) = runs.last() {
            if told >= self.others_needed {
                self.witnessed.insert(acceptor, present.run);
            } else if !self.is_witnessed(acceptor, present.run) {
                let needed = self.others_needed;
                found.push(Found::Unwitnessed {
                    acceptor,
                    told,
                    needed,
                });
            }
        }
        match self.contradiction(acceptor) {
            // It was found already.
            Some(_) if self.refused.contains_key(&acceptor) => {}
            Some(went_back) => found.push(self.contradicted(went_back)),
            None => {
                self.suspected.remove(&acceptor);
                let was_refused = self.refused.remove(&acceptor).is_some();
                found.extend(was_refused.then_some(Found::Readmitted(acceptor)));
            }
        }
        found.append(&mut self.suspects());
        for (other, _) in others() {
            self.bound(*other);
        }
        self.bound(acceptor);
        found
    }

    /// An acceptor tells what it remembers of others, later than when it was introduced: with its promise. A promise of
    /// another that went back meanwhile must not count beside it. Returns what is found out by it.
    pub fn remember(
        &mut self,
        acceptor: AcceptorUuid,
        remembers: impl IntoIterator<Item = (AcceptorUuid, RunNumber, CommitCounter)>,
    ) -> Vec<Found> {
        self.tables.entry(acceptor).or_default().merge(remembers);
        let found = self.suspects();
        self.bound(acceptor);
        found
    }

    /// After everything was held against everything.
    fn bound(&mut self, told_by: AcceptorUuid) {
        self.heard.bound(REMEMBERED_RUNS_MAX);
        if let Some(table) = self.tables.get_mut(&told_by) {
            table.bound(REMEMBERED_RUNS_MAX);
        }
    }

    /// Holds what every acceptor has shown against what is remembered now.
    fn suspects(&mut self) -> Vec<Found> {
        let mut found = Vec::new();
        let shown: Vec<_> = self.shown.keys().copied().collect();
        for other in shown
            .into_iter()
            .filter(|&other| self.is_sound(other))
            .collect::<Vec<_>>()
        {
            if let Some(went_back) = self.contradiction(other) {
                self.suspected.insert(other, (went_back.run, 0));
                found.push(Found::Suspected(other));
            }
        }
        found
    }

    /// Counts how often an acceptor showed that it does not know a run.
    fn contradicted(&mut self, went_back: WentBack) -> Found {
        let acceptor = went_back.acceptor;
        let (run, times) = self.suspected.entry(acceptor).or_insert((went_back.run, 0));
        if *run != went_back.run {
            (*run, *times) = (went_back.run, 0);
        }
        *times += 1;
        if *times < CONTRADICTIONS_MAX {
            return Found::Suspected(acceptor);
        }
        self.refused.insert(acceptor, went_back);
        Found::Refused(went_back)
    }

    /// What of all that is remembered contradicts the runs that an acceptor last showed.
    pub fn contradiction(&self, acceptor: AcceptorUuid) -> Option<WentBack> {
        let shown = self.shown.get(&acceptor)?;
        let tables = self.tables.iter().filter(|(holder, _)| **holder != acceptor);
        let tables = tables.map(|(_, table)| table);
        let vouched = || {
            let mut entries = tables.clone().flat_map(|table| table.of(acceptor));
            entries.any(|(run, heard)| shown.shows(run, heard))
        };
        // Asked for once at most: it looks at all tables.
        let mut is_vouched = None;
        let remembered = tables.clone().chain([&self.heard]);
        for (run, heard) in remembered.flat_map(|witnesses| witnesses.of(acceptor)) {
            let known = match shown.judge(run, heard) {
                Judgement::Agrees => continue,
                Judgement::TooOld if *is_vouched.get_or_insert_with(vouched) => continue,
                Judgement::TooOld => Known::TooOld,
                Judgement::WentBack(known) => known,
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

    /// Whether an acceptor may be counted: no table contradicts its list, and enough others reported after it had shown
    /// its present run.
    pub fn trusts(&self, acceptor: AcceptorUuid) -> bool {
        let present = self.shown.get(&acceptor).and_then(|shown| shown.present);
        self.is_sound(acceptor) && present.is_none_or(|run| self.is_witnessed(acceptor, run))
    }

    /// Whether no table contradicts the list that an acceptor showed last.
    fn is_sound(&self, acceptor: AcceptorUuid) -> bool {
        !self.refused.contains_key(&acceptor) && !self.suspected.contains_key(&acceptor)
    }

    /// An acceptor answered, as of a commit. What an acceptor says that is not trusted is not remembered: it would speak
    /// against the right disk when that is put back. Neither is what comes from another run than the one shown.
    pub fn hear(&mut self, acceptor: AcceptorUuid, run: RunNumber, counter: CommitCounter) {
        let is_present = self
            .shown
            .get(&acceptor)
            .is_some_and(|shown| shown.is_present(run));
        if is_present && self.trusts(acceptor) {
            self.heard.hear(acceptor, run, counter);
        }
    }

    /// Why an acceptor must not be counted, if it must not.
    pub fn refusal(&self, acceptor: AcceptorUuid) -> Option<WentBack> {
        self.refused.get(&acceptor).copied()
    }

    /// What a leader passes on to the acceptors, for them to store: nothing of an acceptor that contradicts.
    pub fn to_pass_on(&self) -> Witnesses {
        let all = self.tables.values().chain([&self.heard]);
        let trusted = all.flat_map(|witnesses| witnesses.iter());
        let mut witnesses: Witnesses = trusted
            .filter(|&(acceptor, ..)| self.is_sound(acceptor))
            .collect();
        witnesses.bound(WITNESSED_RUNS_MAX);
        witnesses
    }
}
