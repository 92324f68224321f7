//! The protocol: Multi-Paxos with separate roles, as pure state machines.
//!
//! Each role has a *core*: a pure state machine with all rules of the role. A core reads no clock, draws no random
//! numbers, does no I/O and writes no log: an event goes in, effects come out. A *driver* owns a core, passes events in,
//! and carries out the effects. In a service the driver is a task with the network, the disk and the timers
//! (`acceptor/src/worker.rs`, `proposer/src/driver.rs`, `learner/src/driver.rs`). The simulator and the model checker
//! drive the same cores.
//!
//! # The protocol in prose
//!
//! A *slot* is a position in the log. A slot holds a single *value*: a batch of commands, or a no-op. A *ballot* is the
//! number of an attempt to lead. A ballot consists of the era (the number of the list of members), a round, and the random
//! number of the proposer's run. So no two attempts share a ballot, unless a proposer is copied while it runs. A *quorum* is a
//! sufficiently large set of acceptors: every phase-1 quorum intersects every phase-2 quorum.
//!
//! **Phase 1: a proposer starts to lead** ([`proposer::Campaign`]). A proposer finds the leader silent. The proposer
//! picks a ballot above every known ballot, and asks every acceptor to *promise* this ballot. An acceptor promises
//! unless a higher ballot is promised already. After this promise, the acceptor rejects requests with lower ballots.
//! The promise reports the acceptor's latest vote in each slot: value and ballot. A proposer that collects promises is
//! a *candidate*. With complete reports from a phase-1 quorum the candidate knows enough. Every value that may have
//! been chosen at a lower ballot has a vote among the reports. In each slot, only the value of the highest-ballot vote
//! can have been chosen at a lower ballot. The candidate must propose the values of such votes first, and a no-op in a
//! slot without any vote from the quorum.
//!
//! **Phase 2: the leader orders values** ([`proposer::Lead`]). The leader gives each batch the next slot and asks every
//! acceptor to *accept* the batch at the leader's ballot. An acceptor without a promise of a higher ballot writes the
//! row to disk, and answers once the row is durable ([`acceptor`]). To accept is to *vote*. When a phase-2 quorum has
//! accepted a slot at one ballot, the value of the slot is *chosen*. No later leader can propose a different value
//! there, because the phase 1 of a later leader meets at least one of the votes. A caller is answered when the slot of
//! the command *and every slot below* are chosen. Otherwise a later command could still end up before the answered
//! command. Several slots are in flight at a time, and a single phase 1 serves all slots.
//!
//! **Nothing is answered or shown before it is on disk.** Acceptors decide requests in groups, with a single commit for
//! each group, and the answers leave after the commit. An acceptor that lost its disk, or runs on an older copy, has
//! forgotten votes that it reported to other processes. These processes remember the commits of this acceptor, detect
//! the loss, and stop counting the acceptor on that disk ([`witness`]). The module lists the cases that go unnoticed.
//!
//! **Learners count the votes** ([`learner`]). A learner receives the votes of every acceptor, and takes the values
//! from a single acceptor. A slot is learned when a phase-2 quorum has voted for the slot at one ballot, or when an
//! acceptor sends the value of a slot and reports the slot as chosen. No leader is involved.
//!
//! **Reads ask a quorum too** ([`reading`]). A learner asks the acceptors how far they have voted. The answers of a
//! quorum give a bound, and the learner answers the read once every slot below the bound is applied. Every phase-1
//! quorum holds a vote for every answered write.
//!
//! **Only learners know the outcome of a command** ([`machine`]). All learners apply the same commands in the same
//! order. So all learners agree, without any communication, on the result of every condition and on the retries to
//! skip.
//!
//! **Watermarks save work.** `chosen_to = 7` says that slots 0 to 6 are chosen: watermarks are exclusive. A leader
//! reports its own watermark. An acceptor advances its own watermark over rows accepted at exactly the leader's ballot.
//! A row at a different ballot may hold a value that is not chosen, so the watermark stops there. A campaign needs no
//! slot below the highest watermark. The leader *repairs* missing rows of an acceptor below the watermark, in the
//! background: the acceptor accepts the chosen values again at the leader's ballot.
//!
//! **A cluster forms in two steps** ([`forming`]). First, each acceptor stores the list of members. Then the acceptors
//! become formed. An acceptor stores one list only. So of two different lists that share an acceptor, at most one list
//! becomes a cluster. No acceptor votes before the cluster is formed.
//!
//! # Lost votes, damage and forged messages
//!
//! **A later tail includes every vote that was shown earlier.** A *tail* is an acceptor's report of the end of its
//! votes. Acceptors show votes in answers, in frames and in pages. A page is read from the disk, and a disk shows a
//! commit to readers before the commit call has returned. Tails are taken from memory. So a page waits until memory
//! shows the page's commit ([`Stamp::covers`](identity::Stamp::covers)). Without the wait, a learner could learn a slot
//! from pages alone and answer a read with the slot, and the next read, at a second learner, could miss the slot. If
//! the tails of a quorum end below a slot that a learner had applied before asking, votes are missing. If this repeats
//! ([`reading`]), the quorum has lost votes: the learner stops answering, and ends.
//!
//! **A damaged row splits an acceptor's watermark in two.** The *known* watermark (`known_to`) still says that every
//! slot below is chosen; campaigns start from `known_to`. The *sound* watermark (`chosen_to`) stops before the first
//! damaged row; repair rests on `chosen_to`, and so does everything that other processes may rely on. A readable row
//! below the known watermark holds the chosen value. The watermark passed the row at the ballot of a leader that knew
//! the slot to be chosen, and the acceptor had promised this ballot. A value accepted later in this slot came from this
//! ballot or a higher ballot, and both propose the chosen value. So repair takes such rows from any acceptor, slot by
//! slot, and brings the missing rows to all acceptors at the same time.
//!
//! **A value unknown to every quorum is never guessed.** If every acceptor has reported, and too many acceptors cannot
//! read the row of a slot, then the value of the slot is unknown. The leader or candidate halts, and names the slots
//! and the acceptors.
//!
//! **A value that contradicts a vote gets no vote.** An acceptor may refuse any request without harm. Any caller may
//! have sent such a value, so the acceptor refuses the message and goes on. After two values at one ballot, the
//! acceptor promises the next ballot: it takes part in the contradicted ballot no more, restarts included
//! ([`Acceptor::contradicted`](acceptor::Acceptor::contradicted)).
//!
//! **A copied proposer shares its ballots.** A virtual machine copied while its proposer runs gives two processes with
//! one number. A forged Accept has the same effect: two values of one slot at one ballot, on different acceptors. The
//! votes are then kept apart by value, as if each value had a ballot of its own:
//!
//! - An acceptor votes for at most one value of a slot at a ballot. An answer to an Accept counts only for the values
//!   of this Accept. So at most one value gets a phase-2 quorum, provided that every two phase-2 quorums intersect, as
//!   majorities do. With smaller phase-2 quorums, such as 2 of 4, two copies can choose two values.
//! - A campaign or a scan may find two values at the highest ballot of a slot. A value can have been chosen if its
//!   votes, together with the acceptors that have not reported, reach a phase-2 quorum. If only one value can, the
//!   leader proposes this value. If several can, the campaign waits for further reports. After all reports, at most one
//!   can.
//! - A vote shown to a learner names its value. Learners never add votes for different values.
//! - A read bound counts slots, whatever their values.
//!
//! These are the limits. Watermarks, trims and damaged rows name no value. The watermark of one copy may pass a row of
//! the other copy. A learner that reads this row below the watermark applies the wrong value. A trimmed acceptor counts
//! as a voter for either copy. An acceptor that lost its row to damage may vote for the second value. A forged value
//! can replace rows of a value that was chosen at a lower ballot. Votes shown by an acceptor of an earlier release name
//! no value, and a learner counts them for every value. So the rule stands that a proposer is never copied while it
//! runs.
//!
//! # A log with a beginning
//!
//! **An acceptor's log begins where a snapshot ends** ([`acceptor::Acceptor::trim`]). A *snapshot to S* holds the
//! result of the slots 0 to S − 1: registers, sessions and recorded outcomes, in one file made by a learner. An
//! acceptor may hold two snapshots. The *bottom* ends at `trimmed_to` and replaces all rows below. `trimmed_to` is the
//! acceptor's first readable slot. A newer *waiting* snapshot is whole as well, and the acceptor has not trimmed to its
//! end yet. A trim is one commit: the waiting snapshot becomes the bottom, `trimmed_to` rises to its end, and the rows
//! below are no longer shown. A *lift* is a trim above the acceptor's known watermark: the acceptor skips rows that are
//! missing, or held at an older ballot. So an acceptor that missed a long stretch of the log comes back without the
//! rows of the stretch.
//!
//! `acceptor/trims.rs` shows that a trim is as safe as a vote, and lists the five rules that keep trims safe.
//!
//! **A restored cluster begins above the cluster before** ([`origin`]). Blank acceptors first keep the backup as a *seed*: a
//! snapshot of the cluster to be formed, up to its *base* ([`forming::restoring`]). An acceptor with a seed takes only the
//! configuration whose id the seed names, and the id covers members, quorums, backup and base. An acceptor without a seed
//! refuses every configuration with an origin. The commit that makes an acceptor a member begins its log at the base. So
//! every promise of the cluster reports a first slot at or above the base, and no slot below is ever proposed.
//!
//! # Members change
//!
//! **A change of members is a value in the log, the last value of its era.** The words:
//!
//! - A *configuration* lists the members and has the sizes of the quorums.
//! - An *era* is the number of a configuration. Forming a cluster makes era 0, and each change begins the next era.
//! - A *change* is a value with the configuration of the next era. The old members choose a change like every value.
//! - A configuration is *in force* once acceptors may store it: enough of its members then hold the whole log up to the change.
//! - A change is *void* if a row above the change has a higher ballot: the change was certainly not chosen.
//! - A *joiner* is an acceptor that a change would add, while the leader copies the log to the acceptor.
//! - An acceptor is *outside* if its own configuration does not list it: a joiner, or a removed acceptor. Its votes count
//!   nowhere.
//!
//! For example, the members 1, 2, 3 of era 4 choose in slot 90 the change to the members 1, 2, 9. Slot 90 is then the last slot of
//! era 4. Two of 1, 2, 9 get every slot up to 90. Only then do the members 1, 2, 9 order slot 91, in era 5.
//!
//! Ballots begin with the era. A vote counts only in the configuration of its ballot's era, so votes of two sets of members are
//! never added up.
//!
//! 1. *The leader copies and pauses* ([`proposer`], `members.rs`). The leader copies the log to each joiner. Then the leader
//!    proposes no new batches until a phase-2 quorum of the new members has every slot. This step saves time, and nothing
//!    rests on it.
//! 2. *The leader proposes the change, and nothing above* (`lead/change.rs`). The leader's watermark stops at the change, so every
//!    later campaign of the era looks at the slot of the change (`campaign/changes.rs`). A candidate proposes the first change
//!    that is not void again, and drops every value reported above this change.
//! 3. *The leader puts the configuration in force* when three conditions hold. The old members chose the change. A phase-2 quorum
//!    of the new members accepted the change at the leader's ballot. A phase-2 quorum of the new members holds every slot below.
//! 4. *Acceptors install the configuration* (`acceptor/eras.rs`), and promise its era. From then on an acceptor rejects ballots of
//!    earlier eras. An acceptor refuses ballots of later eras until the later configuration is installed.
//! 5. *Proposers adopt the configuration* from an acceptor that holds it (`proposer/eras.rs`), and campaign in its era. Before
//!    that, a proposer answers a message of a later era with a single question: what is your configuration?
//! 6. *Learners adopt the configuration* from a change that they hand out, or from an acceptor that holds it ([`learner`]). Waiting
//!    reads lose their bounds, and a fresh round begins among the new members ([`reading`]).
//!
//! Why a change is safe:
//!
//! - **One change ends an era.** Let the change in slot s be chosen at ballot b. Paxos chooses a single value of s. No watermark of
//!   the era passes s, so every later campaign of the era looks at s, and finds the change at ballot b or above. From b on no
//!   leader proposes above s, so every row above s has a ballot below b: the change is not void. Hence every later leader of the
//!   era proposes the change again, and nothing above s.
//! - **A void change was not chosen.** The row with the higher ballot was proposed above the change. After the choice of the
//!   change, no leader does so. No other value of the slot was chosen either: its row would have the highest ballot. So a no-op
//!   may take the slot.
//! - **The switch loses no value.** By the third condition, a phase-2 quorum of the new members holds every slot below s. By the
//!   second condition, a phase-2 quorum holds s. Every phase-1 quorum of the new members intersects both. So every campaign of
//!   the next era finds all chosen values, even if all watermarks are lost.
//! - **The old members cannot go on.** In earlier eras no slot above s is chosen, and their ballots are below every ballot of the
//!   next era.
//!
//! A change needs a phase-2 quorum of the old members, and both quorums of the new members. With one dead member of three, the
//! two others suffice. Between the second and the last step the old members order no other value. If the new members lose their
//! quorum in this time, commands wait until the quorum is back.
//!
//! Sources: Lamport, Malkhi, Zhou, *Stoppable Paxos* (2008) and *Reconfiguring a State Machine* (2010).
//!
//! # Invariants
//!
//! 1. At most one value of a slot is ever accepted by a phase-2 quorum at one ballot. This holds for copied
//!    proposers too, if every two phase-2 quorums intersect.
//! 2. Each (slot, ballot) has at most one value, unless a proposer is copied or a message forged. Each acceptor votes
//!    for at most one of the values.
//! 3. A promise never decreases, restarts included. No acceptor votes below a promise. Every answer was durable when it
//!    left.
//! 4. Every later ballot proposes the chosen value in a chosen slot.
//! 5. `chosen_to` and `known_to` claims are true, and the readable rows of the claimant at or above its `trimmed_to`
//!    hold the chosen values.
//! 6. Of any two learners' sequences, the shorter is a prefix of the longer, without gaps, across restarts and changes
//!    of feed.
//! 7. New slots start at or above the `voted_to`, `known_to` and `trimmed_to` of every promise. A campaign requests no
//!    slot below the highest `known_to` reported to the proposer.
//! 8. A wiped, rolled-back or foreign acceptor is never counted.
//! 9. Reads and writes are linearizable. A command is answered only after all lower slots are chosen. The later tails
//!    of an acceptor cover every vote shown by the acceptor.
//! 10. A command with a given session and sequence takes effect once. Versions grow.
//! 11. When the faults stop, and some quorum can read each row, some proposed value gets chosen, and every learner
//!     learns the value.
//! 12. For each chosen slot, the acceptors of a phase-2 quorum have the value in a row, or its effect in their bottoms.
//! 13. `trimmed_to` never decreases, and is not above the end of the chosen slots. The acceptor's own disk has a whole
//!     snapshot that ends at `trimmed_to`.
//! 14. A snapshot to S is the result of the slots 0 to S − 1.
//! 15. No reader sees a part of a slot, or a part of an installed snapshot.
//! 16. A reader gets every slot from its first slot on, or an error that names the slots still kept.
//! 17. Every version of a cluster restored from a backup is at or above the first slot of the restored log.
//! 18. One configuration of each era is in force, stored or shown.
//! 19. No slot above a change is chosen in the era that the change ends.
//! 20. A configuration takes force when a phase-2 quorum of its own covers every slot up to its change.
//! 21. A promise is of its acceptor's era, and neither goes back.
//! 22. A learner's configuration is not below a change that the learner has applied.
//!
//! The invariants 1 to 17 hold across eras: the quorums are the quorums of the ballot's era.
//!
//! The model and the simulator check the invariants 1 to 14, and a model of restoring checks invariant 17. Tests of the
//! services check 15 and 16. The model checks 18 to 21, and the simulator checks 18 to 22.
//!
//! # Sources
//!
//! Lamport, *Paxos Made Simple* (2001) §2.2–2.3 and §3; Howard, Malkhi, Spiegelman, *Flexible Paxos* (2016); Charapko,
//! Ailijiang, Demirbas, *Linearizable Quorum Reads in Paxos* (2019); Whittaker et al., *Scaling Replicated State
//! Machines with Compartmentalization* (VLDB 2021).

pub mod acceptor;
pub mod ballot;
pub mod command;
pub mod detector;
pub mod era;
pub mod forming;
pub mod identity;
pub mod learner;
pub mod machine;
pub mod message;
pub mod origin;
pub mod proposer;
pub mod quorum;
pub mod reading;
pub mod slot;
pub mod value;
pub mod witness;
