//! The protocol: Multi-Paxos with separate roles, as pure state machines.
//!
//! The state machines read no clock, draw no random numbers, do no I/O and write no log: an event goes in, effects come
//! out. The simulator and the services drive the same state machines.
//!
//! # The protocol in prose
//!
//! A *slot* is a position in the log. A slot holds a single *value*: a batch of commands, or a no-op. A *ballot* is the
//! number of an attempt to lead. A ballot consists of a round and the random number of the proposer's run, so no two
//! attempts share a ballot. A *quorum* is a sufficiently large set of acceptors: every phase-1 quorum intersects every
//! phase-2 quorum.
//!
//! **Phase 1: a proposer starts to lead** ([`proposer::Campaign`]). A proposer finds the leader silent. The proposer
//! picks a ballot above every known ballot, and asks every acceptor to *promise* this ballot. An acceptor promises
//! unless a higher ballot is promised already. From then on the acceptor votes at no lower ballot. The promise reports
//! the acceptor's latest vote in each slot, value and ballot. With complete reports from a phase-1 quorum the candidate
//! knows enough. Every value that may have been chosen at a lower ballot has a vote among the reports. In each slot,
//! only the value of the highest-ballot vote can have been chosen at a lower ballot. The candidate must propose the
//! values of such votes first, and a no-op in a slot without any vote from the quorum.
//!
//! **Phase 2: the leader orders values** ([`proposer::Lead`]). The leader gives each batch the next slot and asks every
//! acceptor to *accept* the batch at the leader's ballot. An acceptor without a promise of a higher ballot writes the
//! row to disk, and answers once the row is durable ([`acceptor`]). To accept is to *vote*. When a phase-2 quorum has
//! accepted a slot at one ballot, the value of the slot is *chosen*. No later leader can propose a different value
//! there, because the phase 1 of a later leader meets at least one of the votes. A caller is answered when the slot of
//! the command *and every slot below* are chosen. Otherwise a later command could still end up before the answered
//! command. Several slots are in flight at a time, and a single phase 1 serves all slots.
//!
//! **Learners count the votes** ([`learner`]). A learner receives the votes of every acceptor, and takes the values
//! from a single acceptor. A slot is learned when a phase-2 quorum has voted for the slot at one ballot, or when a row
//! comes with a watermark above its slot. No leader is involved.
//!
//! **Reads ask a quorum too** ([`reading`]). A learner asks the acceptors how far they have voted. The answers of a
//! quorum give a bound, and the learner answers the read once every slot below the bound is applied. Every answered
//! write has a vote in every quorum that the learner may ask.
//!
//! **Every later tail covers every vote shown to a peer.** A *tail* is an acceptor's report of the end of its votes.
//! Acceptors show votes in answers, in frames and in pages. A page is read from the disk, and a disk shows a commit to
//! readers before the commit call has returned. Tails are taken from memory. So a page waits until memory shows the
//! page's commit ([`Stamp::covers`](identity::Stamp::covers)). Without the wait, a learner could learn a slot from
//! pages alone and answer a read with the slot, and the next read, at a second learner, could miss the slot. With the
//! wait, a quorum has lost votes if its tails end below the slots that a learner had applied before asking. The learner
//! then stops answering, and ends.
//!
//! **Only learners know the outcome of a command** ([`machine`]). All learners apply the same commands in the same
//! order. So all learners agree, without any communication, on the result of every condition and on the retries to
//! skip.
//!
//! **Watermarks save work.** `chosen_to = 7` says that slots 0 to 6 are chosen: watermarks are exclusive. A leader
//! reports its own watermark. An acceptor advances its own watermark over rows accepted at exactly the leader's ballot,
//! because only such rows are sure to hold the chosen values. A campaign needs no slot below the highest watermark. The
//! leader *repairs* missing rows of an acceptor below the watermark, in the background: the acceptor accepts the chosen
//! values again at the leader's ballot.
//!
//! **A damaged row splits an acceptor's watermark in two.** The *known* watermark (`known_to`) still says that every
//! slot below is chosen; campaigns start from `known_to`. The *sound* watermark (`chosen_to`) stops before the first
//! damaged row; repair rests on `chosen_to`, and so does everything that other processes may rely on. A readable row
//! below the known watermark holds the chosen value. First, the watermark passed the row at the ballot of a leader that
//! knew the slot to be chosen. Second, the acceptor had promised this ballot. Third, any value accepted there later
//! came from a higher ballot, and a higher ballot proposes the same value. So repair takes such rows from any acceptor,
//! slot by slot, and brings the missing rows to all acceptors at the same time.
//!
//! **A value unknown to every quorum is never guessed.** Suppose every acceptor has reported, and so few acceptors can
//! read the row of a slot that no phase-1 quorum can say what is there. Then the leader or candidate halts, and names
//! the slots and the acceptors.
//!
//! **Nothing is answered or shown before it is on disk.** Acceptors decide requests in groups, with a single commit for
//! each group, and the answers leave after the commit. An acceptor that lost its disk, or runs on an older copy, has
//! forgotten votes that it reported to other processes. These processes remember the commits of this acceptor, detect
//! the loss by this memory, and never count the acceptor again on that disk ([`witness`]).
//!
//! **A value that contradicts a vote gets no vote.** An acceptor may refuse any request without harm. Any caller may
//! have sent such a value, so the acceptor refuses the message and goes on. After two values at one ballot, the acceptor
//! promises the next ballot: it takes part in the contradicted ballot no more, restarts included
//! ([`Acceptor::contradicted`](acceptor::Acceptor::contradicted)).
//!
//! **A cluster forms in two steps** ([`forming`]). So of two different lists that share an acceptor, at most one list
//! becomes a cluster. No acceptor votes before the cluster is formed.
//!
//! # Invariants
//!
//! 1. At most one value of a slot is ever accepted by a phase-2 quorum at one ballot.
//! 2. Each (slot, ballot) has at most one value.
//! 3. A promise never decreases, restarts included. No acceptor votes below a promise. Every answer was durable when it
//!    left.
//! 4. Every later ballot proposes the chosen value in a chosen slot.
//! 5. `chosen_to` and `known_to` claims are true, and the readable rows of the claimant hold the chosen values.
//! 6. Of any two learners' sequences, the shorter is a prefix of the longer, without gaps, across restarts and changes
//!    of feed.
//! 7. New slots start at or above the `voted_to`, `known_to` and `trimmed_to` of every promise. A campaign requests no
//!    slot below the highest `known_to` reported to the proposer.
//! 8. A wiped, rolled-back or foreign acceptor is never counted.
//! 9. Reads and writes are linearizable. No answer is given above an unchosen slot. The later tails of an acceptor
//!    cover every vote shown by the acceptor.
//! 10. A (session, sequence) takes effect once. Versions grow.
//! 11. When the faults stop, and some quorum can read each row, some proposed value gets chosen, and every learner
//!     learns the value.
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
pub mod forming;
pub mod identity;
pub mod learner;
pub mod machine;
pub mod message;
pub mod proposer;
pub mod quorum;
pub mod reading;
pub mod slot;
pub mod value;
pub mod witness;
