//! The protocol: Multi-Paxos with its roles apart, as pure state machines.
//!
//! Nothing in here reads a clock, draws a random number, does I/O or logs: an event goes in, effects come out. The
//! simulator drives these very machines, and so do the services.
//!
//! # The protocol in prose
//!
//! A *slot* is a position in the log; it holds one *value*, a batch of commands or a no-op. A *ballot* is the number of
//! an attempt to lead: a round, and the random number of the proposer's run, so that no two attempts share one. A
//! *quorum* is a set of acceptors that is large enough; any phase-1 quorum meets any phase-2 quorum.
//!
//! **Leading begins with a question.** A proposer that finds the leader silent picks a ballot above all it has heard of
//! and asks every acceptor to *promise* it (phase 1, [`proposer::Campaign`]). An acceptor promises unless it has
//! promised a higher one; from then on it votes at no lower ballot, and it reports every value that it has voted for,
//! and at which ballot. With a phase-1 quorum of complete reports the candidate knows enough: whatever may have been
//! chosen at a lower ballot has a vote among them, and the highest-ballot vote for a slot is for the only value that can
//! have been chosen there. These values it must propose first, and a no-op where nobody in the quorum voted at all.
//!
//! **Then it orders values** (phase 2, [`proposer::Lead`]). The leader gives each batch the next slot and asks every
//! acceptor to *accept* it at its ballot. An acceptor that has not promised a higher ballot writes the row to its disk,
//! and answers when it is there ([`acceptor`]). When a phase-2 quorum has accepted a slot at one ballot, its value is
//! *chosen*: no later leader can propose another, because its question will meet one of these votes. A caller is
//! answered when its slot is chosen *and every slot below it is*; otherwise a later command could still end up before it.
//! Several slots are in flight at a time, and one round of phase 1 serves them all.
//!
//! **Learners count for themselves** ([`learner`]). They hear every acceptor's votes and take the values from one. A
//! slot is learned when a quorum voted for it at one ballot. No leader is involved.
//!
//! **Reads ask a quorum too** ([`reading`]). A learner asks the acceptors how far they have voted, and answers when it
//! has applied all below. A write that was answered has a vote in every quorum that may be asked.
//!
//! **Every later tail covers everything that a peer was shown.** Votes are shown by answers, by frames and by pages. A
//! page is read from the disk, and a disk shows a commit to its readers before the commit call has returned. So a page
//! waits until memory, which tails are taken from, shows the page's commit
//! ([`Stamp::covers`](identity::Stamp::covers)). Without the wait a learner could learn a slot from pages alone, answer
//! a read with it, and the next read, at another learner, could miss it. With it, a quorum whose tails end below what a
//! learner had applied before it asked has lost votes: the learner answers nothing any more, and ends.
//!
//! **What a command did is known to learners alone** ([`machine`]). They apply the same commands in the same order, so
//! they agree on which condition held and which retry came second, without a word to each other.
//!
//! **Watermarks save work.** `chosen_to = 7` says that slots 0 to 6 are chosen; watermarks are exclusive. A leader tells
//! its own; an acceptor moves its own along over rows that it accepted at that leader's very ballot, for only those are
//! sure to hold the chosen values. A campaign needs to look at nothing below the highest watermark. What an acceptor
//! missed below it, the leader *repairs* in the background: it has the chosen values accepted again at its own ballot.
//!
//! **A damaged row splits an acceptor's watermark in two.** The *known* one (`known_to`) still says that every slot below
//! is chosen; campaigns start from it. The *sound* one (`chosen_to`) stops before the first damaged row; repair and what
//! others may rely on rest on it. A row below the known watermark that can be read holds the chosen value: the watermark
//! passed the row at the ballot of a leader that knew the slot to be chosen; the acceptor had promised that ballot; and
//! whatever it accepted there later came from a higher one, which proposes the same value. So repair takes such rows from
//! any acceptor, slot by slot, and brings all acceptors what they lack at the same time.
//!
//! **What no quorum can say is never guessed.** When every acceptor has reported, and so many cannot read a row that no
//! phase-1 quorum can say what is there, a leader or candidate halts, and names the slots and the acceptors.
//!
//! **Nothing is said before it is on disk.** Acceptors decide requests in groups, one commit each, and the answers leave
//! after the commit. An acceptor that lost its disk, or runs on an older copy of it, has forgotten votes that it told
//! others of; it is found out by what those others remember of its commits, and never counted again ([`witness`]).
//!
//! **A cluster forms in two steps** ([`forming`]), so that of two proposers with different lists of acceptors none can
//! get a vote.
//!
//! # Invariants
//!
//! 1. At most one value of a slot is ever accepted by a phase-2 quorum at one ballot.
//! 2. There is at most one value for a (slot, ballot).
//! 3. A promise never decreases, restarts included; nobody votes below it; every answer was durable when it left.
//! 4. A chosen slot's value is what every later ballot proposes there.
//! 5. `chosen_to` and `known_to` claims are true, and the claimant's own rows that can be read hold the chosen values.
//! 6. Learners' sequences are prefixes of one another, without gaps, across restarts and changes of feed.
//! 7. New slots start at or above every promise's `voted_to`, `known_to` and `trimmed_to`; a campaign asks for nothing
//!    below the highest `known_to` that its proposer was told.
//! 8. A wiped, rolled-back or foreign acceptor is never counted.
//! 9. Reads and writes are linearizable; nothing is answered above a slot that is not chosen yet; every vote that an
//!    acceptor showed is covered by its later tails.
//! 10. A (session, sequence) takes effect once; versions grow.
//! 11. When the faults stop, and some quorum can read each row, something proposed gets chosen, and every learner learns it.
//!
//! # Sources
//!
//! Lamport, *Paxos Made Simple* (2001) §2.2–2.3 and §3; Howard, Malkhi, Spiegelman, *Flexible Paxos* (2016);
//! Charapko, Ailijiang, Demirbas, *Linearizable Quorum Reads in Paxos* (2019); Whittaker et al., *Scaling Replicated
//! State Machines with Compartmentalization* (VLDB 2021).

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
