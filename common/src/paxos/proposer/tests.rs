//! A proposer by event tables: what it does when, and what it must never do. Leading has a file of its own.

use super::*;
use crate::paxos::{
    message::{Accept, Refused, Rejection},
    quorum::Configuration,
    slot::SlotRange,
    value::Value,
};

mod calls;
mod guard;
mod lead;
mod reign;
mod scan;

/// L of every proposer here.
const TIMEOUT: Duration = Duration::from_millis(200);

fn slot(number: u64) -> Slot {
    Slot::new(number).unwrap()
}

fn uuid(number: u128) -> AcceptorUuid {
    AcceptorUuid::from_u128(number)
}

fn command(text: &'static str) -> EncodedCommand {
    EncodedCommand::from_batch_of_one(Bytes::from_static(text.as_bytes()))
}

fn value(text: &'static str) -> Value {
    Value::from_stored(Bytes::from_static(text.as_bytes()), Bytes::new())
}

fn id(number: u64) -> ProposerId {
    ProposerId::from_random(number)
}

fn ballot(round: u64, proposer: u64) -> Ballot {
    Ballot::new(round, id(proposer)).unwrap()
}

/// A proposer with the number 7, of acceptors 1 to 3, and what it last wanted done.
struct Bench {
    core: Proposer,
    effects: Vec<Effect>,
}

impl Bench {
    fn new() -> Self {
        Self::with(Limits::default(), (3, 2, 2))
    }

    fn with(limits: Limits, (acceptors, phase1, phase2): (u128, usize, usize)) -> Self {
        let members = (1..=acceptors).map(|number| (uuid(number), Arc::from("http://a")));
        let electorate = Configuration::new(members, phase1, phase2).unwrap().electorate();
        let settings = Settings {
            leader_timeout: TIMEOUT,
            limits,
        };
        let core = Proposer::new(id(7), Arc::from("http://me"), electorate, settings);
        let mut bench = Self {
            core,
            effects: Vec::new(),
        };
        for number in 1..=acceptors {
            bench.tell(Event::Opened(uuid(number)));
        }
        bench
    }

    fn tell(&mut self, event: Event) -> &[Effect] {
        self.core.handle(event);
        self.core.flush();
        self.effects = self.core.take_effects();
        &self.effects
    }

    /// Acceptor `number` reports on the leader at `promised`, silent for `silent` milliseconds.
    fn report(&mut self, number: u128, promised: Ballot, silent: u64) -> &[Effect] {
        self.reported(number, promised, silent, false)
    }

    fn reported(&mut self, number: u128, promised: Ballot, silent: u64, resigned: bool) -> &[Effect] {
        self.tell(Event::Reported {
            acceptor: uuid(number),
            leadership: Leadership {
                promised,
                address: Arc::from("http://leader"),
                resigned,
            },
            silent: Duration::from_millis(silent),
            chosen_to: Slot::ZERO,
        })
    }

    /// The delay of a timer that was just set, with its generation.
    fn timer(&self, wanted: Timer) -> Option<(u64, Duration, Duration)> {
        self.effects.iter().rev().find_map(|effect| {
            let &Effect::SetTimer {
                timer,
                generation,
                at_least,
                at_most,
            } = effect
            else {
                return None;
            };
            (timer == wanted).then_some((generation, at_least, at_most))
        })
    }

    fn fire(&mut self, timer: Timer) -> &[Effect] {
        let generation = *self.core.generations.get(&timer).unwrap();
        self.tell(Event::Fired(timer, generation))
    }

    fn prepares(&self) -> Vec<(AcceptorUuid, Ballot, Slot)> {
        let prepare = |effect: &Effect| {
            let Effect::Prepare(acceptor, prepare, None) = effect else {
                return None;
            };
            Some((*acceptor, prepare.ballot, prepare.from))
        };
        self.effects.iter().filter_map(prepare).collect()
    }

    fn accepts(&self) -> Vec<(AcceptorUuid, Accept)> {
        let accept = |effect: &Effect| {
            let Effect::Accept(acceptor, accept) = effect else {
                return None;
            };
            Some((*acceptor, accept.clone()))
        };
        self.effects.iter().filter_map(accept).collect()
    }

    fn answers(&self) -> Vec<(u64, Outcome)> {
        let answer = |effect: &Effect| {
            let Effect::Answer(request, outcome) = effect else {
                return None;
            };
            Some((request.0, *outcome))
        };
        self.effects.iter().filter_map(answer).collect()
    }

    fn forwards(&self) -> Vec<(u64, String)> {
        let forward = |effect: &Effect| {
            let Effect::Forward(pending, address) = effect else {
                return None;
            };
            Some((pending.request.0, address.to_string()))
        };
        self.effects.iter().filter_map(forward).collect()
    }

    /// Two acceptors find everybody silent, and the election timer fires.
    fn campaign(&mut self) -> Ballot {
        self.report(1, Ballot::ZERO, 300);
        self.report(2, Ballot::ZERO, 300);
        self.fire(Timer::Election);
        self.core.ballot().expect("it campaigns")
    }

    fn promise(&mut self, number: u128, ballot: Ballot) -> &[Effect] {
        self.tell(Event::Promised {
            acceptor: uuid(number),
            ballot,
            scan: None,
            page: empty_promise(),
        })
    }

    /// Campaigns, and is promised by acceptors 1 and 2, who hold nothing.
    fn lead(&mut self) -> Ballot {
        let ballot = self.campaign();
        self.promise(1, ballot);
        self.promise(2, ballot);
        assert!(matches!(self.core.phase(), Phase::Leading(_)));
        ballot
    }

    fn propose(&mut self, request: u64, text: &'static str) -> &[Effect] {
        self.tell(Event::Proposed(Pending::new(RequestId(request), command(text))))
    }

    fn propose_forwarded(&mut self, request: u64, text: &'static str) -> &[Effect] {
        let pending = Pending {
            forwarded: true,
            ..Pending::new(RequestId(request), command(text))
        };
        self.tell(Event::Proposed(pending))
    }
}

fn empty_promise() -> PromisePage {
    PromisePage {
        from: Slot::ZERO,
        next: Slot::ZERO,
        last: true,
        chosen_to: Slot::ZERO,
        known_to: Slot::ZERO,
        trimmed_to: Slot::ZERO,
        voted_to: Slot::ZERO,
        rows: Vec::new(),
    }
}

fn rejection(promised: Ballot) -> AcceptAnswer {
    AcceptAnswer::Rejected(Rejection {
        promised,
        leader_address: Arc::from("http://leader"),
    })
}

#[test]
fn campaigns_only_when_a_phase_1_quorum_finds_the_leader_silent() {
    let mut bench = Bench::new();
    let leader = ballot(3, 1);
    bench.report(1, leader, 300);
    assert_eq!(bench.timer(Timer::Election), None, "one of three is not enough");
    bench.report(1, leader, 400);
    assert_eq!(
        bench.timer(Timer::Election),
        None,
        "an acceptor counts once, however often it reports"
    );
    bench.report(2, leader, 300);
    let (generation, at_least, at_most) = bench.timer(Timer::Election).unwrap();
    assert!(
        at_least <= at_most && at_most <= TIMEOUT,
        "silent for L already, and up to L more"
    );
    bench.tell(Event::Fired(Timer::Election, generation));
    assert_eq!(bench.prepares().len(), 3);
    assert_eq!(bench.core.ballot(), Some(ballot(4, 7)));
}

#[test]
fn does_not_campaign_while_a_quorum_hears_the_leader() {
    let mut bench = Bench::new();
    let leader = ballot(3, 1);
    bench.report(1, leader, 300);
    bench.report(2, leader, 10);
    bench.report(3, leader, 10);
    assert_eq!(bench.timer(Timer::Election), None);
    bench.report(2, leader, 300);
    let (generation, ..) = bench.timer(Timer::Election).unwrap();
    bench.report(2, leader, 10);
    bench.tell(Event::Fired(Timer::Election, generation));
    assert_eq!(
        bench.effects,
        [],
        "the leader was heard again before the timer fired"
    );
}

#[test]
fn flexible_phase_1_quorums_decide_when_the_leader_is_silent() {
    let mut bench = Bench::with(Limits::default(), (4, 3, 2));
    for number in 1..=2 {
        bench.report(number, ballot(3, 1), 300);
    }
    assert_eq!(bench.timer(Timer::Election), None);
    bench.report(3, ballot(3, 1), 300);
    assert!(bench.timer(Timer::Election).is_some());
}

#[test]
fn what_a_lost_acceptor_said_of_the_leader_does_not_count() {
    let mut bench = Bench::new();
    bench.report(1, ballot(3, 1), 300);
    bench.tell(Event::Closed(uuid(1)));
    bench.report(2, ballot(3, 1), 300);
    assert_eq!(bench.timer(Timer::Election), None);
}

#[test]
fn a_goodbye_is_followed_by_a_short_wait() {
    let mut bench = Bench::new();
    bench.reported(1, ballot(3, 1), 10, true);
    bench.reported(2, ballot(3, 1), 10, true);
    let (_, _, at_most) = bench.timer(Timer::Election).unwrap();
    assert!(at_most <= TIMEOUT / 4);
}

#[test]
fn asks_everybody_for_the_same_range_from_the_highest_watermark_heard_of() {
    let mut bench = Bench::new();
    bench.tell(Event::Reported {
        acceptor: uuid(3),
        leadership: Leadership {
            promised: ballot(3, 1),
            address: Arc::from("http://leader"),
            resigned: false,
        },
        silent: Duration::from_millis(1),
        chosen_to: slot(9),
    });
    bench.tell(Event::Closed(uuid(3)));
    let mine = bench.campaign();
    assert_eq!(
        bench.prepares(),
        [(uuid(1), mine, slot(9)), (uuid(2), mine, slot(9))]
    );
    bench.tell(Event::Opened(uuid(3)));
    assert_eq!(bench.prepares(), [(uuid(3), mine, slot(9))]);
}

#[test]
fn never_uses_a_ballot_twice_even_for_a_second_campaign() {
    let mut bench = Bench::new();
    let first = bench.campaign();
    // Nobody answers: the campaign comes to nothing, and nobody has told of a higher ballot.
    bench.fire(Timer::GiveUp);
    assert_eq!(*bench.core.phase(), Phase::Standby);
    let second = bench.campaign();
    assert!(second > first);
    assert_eq!(second.proposer(), id(7));
    bench.promise(1, second);
    bench.promise(2, second);
    bench.tell(Event::PrepareRejected {
        ballot: second,
        promised: ballot(9, 1),
    });
    assert_eq!(bench.campaign(), ballot(10, 7), "above everything heard of");
}

#[test]
fn promises_of_another_ballot_or_of_a_stranger_are_dropped() {
    let mut bench = Bench::new();
    let mine = bench.campaign();
    bench.promise(1, mine);
    bench.promise(2, ballot(1, 99));
    bench.promise(9, mine);
    assert!(matches!(bench.core.phase(), Phase::Campaigning(_)));
    bench.promise(2, mine);
    assert!(matches!(bench.core.phase(), Phase::Leading(_)));
}

#[test]
fn promises_of_an_acceptor_without_an_open_link_are_dropped() {
    let mut bench = Bench::new();
    let mine = bench.campaign();
    bench.promise(1, mine);
    bench.tell(Event::Closed(uuid(2)));
    bench.promise(2, mine);
    assert!(matches!(bench.core.phase(), Phase::Campaigning(_)));
}

#[test]
fn a_rejected_candidate_stands_by_for_a_growing_time_and_goes_above_the_ballot_reported() {
    let mut bench = Bench::new();
    let mut longest = Duration::ZERO;
    for round in [5, 10, 15] {
        let mine = bench.campaign();
        bench.tell(Event::PrepareRejected {
            ballot: mine,
            promised: ballot(round, 1),
        });
        assert_eq!(*bench.core.phase(), Phase::Standby);
        let (_, at_least, at_most) = bench.timer(Timer::Election).unwrap();
        assert!(at_least > Duration::ZERO && at_most > longest, "round {round}");
        longest = at_most;
    }
    assert_eq!(bench.campaign(), ballot(16, 7));
}

#[test]
fn a_rejection_of_an_earlier_ballot_does_not_end_the_campaign() {
    let mut bench = Bench::new();
    let first = bench.campaign();
    bench.fire(Timer::GiveUp);
    let second = bench.campaign();
    bench.tell(Event::PrepareRejected {
        ballot: first,
        promised: second,
    });
    assert_eq!(bench.core.ballot(), Some(second));
}

#[test]
fn a_candidate_gives_up_without_a_new_page_and_goes_on_with_one() {
    let mut bench = Bench::new();
    let mine = bench.campaign();
    let (_, at_least, _) = bench.timer(Timer::GiveUp).unwrap();
    assert_eq!(at_least, TIMEOUT * 2);
    bench.promise(1, mine);
    bench.fire(Timer::GiveUp);
    assert_eq!(bench.core.ballot(), Some(mine));
    bench.fire(Timer::GiveUp);
    assert_eq!(*bench.core.phase(), Phase::Standby);
}

#[test]
fn a_candidate_lets_acceptors_hear_it_while_it_pages() {
    let mut bench = Bench::new();
    let mine = bench.campaign();
    bench.fire(Timer::Heartbeat);
    let accepts = bench.accepts();
    assert_eq!(accepts.len(), 3);
    for (_, accept) in accepts {
        assert_eq!((accept.ballot, accept.chosen_to), (mine, Slot::ZERO));
        assert_eq!(accept.proposals, []);
    }
    assert!(bench.timer(Timer::Heartbeat).is_some(), "and again");
}

#[test]
fn timers_of_an_older_generation_are_void() {
    let mut bench = Bench::new();
    bench.report(1, ballot(3, 1), 300);
    bench.report(2, ballot(3, 1), 300);
    let (generation, ..) = bench.timer(Timer::Election).unwrap();
    bench.report(2, ballot(3, 1), 10);
    bench.report(2, ballot(3, 1), 300);
    assert_eq!(bench.tell(Event::Fired(Timer::Election, generation)), []);
}

#[test]
fn an_acceptor_whose_rounds_were_driven_up_is_climbed_to_in_steps_it_takes() {
    let mut bench = Bench::new();
    let high = ballot(3 * Ballot::ROUND_JUMP_MAX, 1);
    bench.report(3, high, 300);
    let mine = bench.campaign();
    assert!(mine > high);
    // Acceptor 1 has promised nothing so far: our ballot is too far for it.
    let mut promised = Ballot::ZERO;
    bench.tell(Event::PrepareRefused {
        acceptor: uuid(1),
        promised,
    });
    for _ in 0..10 {
        let [(to, step, _)] = bench.prepares()[..] else {
            panic!("{:?}", bench.effects);
        };
        assert_eq!(to, uuid(1));
        assert!(promised.admits_jump_to(step) && promised < step && step <= mine);
        if step == mine {
            return;
        }
        promised = step;
        bench.promise(1, step);
        assert!(
            matches!(bench.core.phase(), Phase::Campaigning(_)),
            "a step is not our ballot"
        );
    }
    panic!("it never gets there");
}
