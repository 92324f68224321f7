//! A proposer by event tables: required and forbidden reactions. Leading has a separate file.

use bytes::Bytes;

use super::{patience::patience, *};
use crate::paxos::{
    message::{Accept, AcceptAnswer, HeardProposer, PromisePage, Refused, Rejection, ReportAnswer},
    quorum::Configuration,
    slot::SlotRange,
    value::{EncodedCommand, Value},
};

mod calls;
mod campaign;
mod challenge;
mod changes;
mod election;
mod guard;
mod lead;
mod presence;
mod reign;
mod scan;
mod streams;
mod trimmed;

/// Leader timeout L of every proposer in the tests.
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

/// Proposer number 7 with acceptors 1 to 3, and the latest effects.
struct Bench {
    core: Proposer,
    effects: Vec<Effect>,
    now: Duration,
    /// Requested streams open at once.
    opens_streams: bool,
}

impl Bench {
    fn new() -> Self {
        Self::with(Limits::default(), (3, 2, 2))
    }

    /// Of three acceptors, with this limit of batches in flight.
    fn with_batches_in_flight(batches_in_flight_max: u64) -> Self {
        let limits = Limits {
            batches_in_flight_max,
            ..Limits::default()
        };
        Self::with(limits, (3, 2, 2))
    }

    fn with(limits: Limits, (acceptors, phase1, phase2): (u128, usize, usize)) -> Self {
        let members = (1..=acceptors).map(|number| (uuid(number), Arc::from("http://a")));
        let configuration = Arc::new(Configuration::new(members, phase1, phase2).unwrap());
        let settings = Settings {
            leader_timeout: TIMEOUT,
            limits,
        };
        let core = Proposer::new(id(7), Arc::from("http://me"), configuration, settings);
        let mut bench = Self {
            core,
            effects: Vec::new(),
            now: Duration::ZERO,
            opens_streams: true,
        };
        for number in 1..=acceptors {
            bench.handle(Event::Opened(uuid(number)));
        }
        bench
    }

    fn handle(&mut self, event: Event) -> &[Effect] {
        self.core.at(self.now);
        self.core.handle(event);
        self.core.flush();
        self.effects = self.core.take_effects();
        let asked: Vec<(AcceptorUuid, Ballot)> = self.asked_streams();
        for (acceptor, ballot) in asked.into_iter().filter(|_| self.opens_streams) {
            self.core.handle(Event::StreamOpened { acceptor, ballot });
            self.core.flush();
            self.effects.append(&mut self.core.take_effects());
        }
        &self.effects
    }

    /// Lets `millis` milliseconds pass.
    fn pass(&mut self, millis: u64) {
        self.now += Duration::from_millis(millis);
    }

    fn asked_streams(&self) -> Vec<(AcceptorUuid, Ballot)> {
        let asked = |effect: &Effect| {
            let Effect::OpenStream(acceptor, first) = effect else {
                return None;
            };
            assert_eq!((first.sequence, &first.proposals[..]), (0, &[][..]));
            Some((*acceptor, first.ballot))
        };
        self.effects.iter().filter_map(asked).collect()
    }

    fn notices(&self) -> Vec<Notice> {
        let notice = |effect: &Effect| {
            let Effect::Notify(notice) = effect else {
                return None;
            };
            Some(notice.clone())
        };
        self.effects.iter().filter_map(notice).collect()
    }

    /// Acceptor `number` reports on the leader at `promised`, silent for `silent` milliseconds.
    fn report(&mut self, number: u128, promised: Ballot, silent: u64) -> &[Effect] {
        self.reported(number, promised, silent, false)
    }

    fn reported(&mut self, number: u128, promised: Ballot, silent: u64, resigned: bool) -> &[Effect] {
        let mut word = word(promised, silent);
        word.heard.resigned = resigned;
        self.say(number, word)
    }

    /// Acceptor `number` answers a report sent just now.
    fn say(&mut self, number: u128, word: ReportAnswer) -> &[Effect] {
        self.say_late(number, 0, word)
    }

    /// Acceptor `number` answers a report sent `ago` milliseconds ago.
    fn say_late(&mut self, number: u128, ago: u64, word: ReportAnswer) -> &[Effect] {
        let sent = self.now - Duration::from_millis(ago);
        let acceptor = uuid(number);
        self.handle(Event::Reported {
            acceptor,
            sent,
            answer: word,
        })
    }

    /// A campaign gets no part of a promise until patience ends; acceptors answer heartbeats.
    fn give_up(&mut self) -> &[Effect] {
        self.now += patience(self.core.vain_campaigns);
        let ballot = self.core.ballot().expect("it campaigns");
        for &acceptor in self.core.electorate.clone().members() {
            self.handle(alive(acceptor, ballot, 0));
        }
        self.fire(Timer::GiveUp)
    }

    /// Generation and delay range of a timer just set.
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
        self.handle(Event::Fired(timer, generation))
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

    fn answers(&self) -> Vec<(u64, ProposalOutcome)> {
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

    /// Two acceptors find every proposer silent, and the election timer fires.
    fn campaign(&mut self) -> Ballot {
        self.report(1, Ballot::ZERO, 300);
        self.report(2, Ballot::ZERO, 300);
        self.fire(Timer::Election);
        self.core.ballot().expect("it campaigns")
    }

    fn promise(&mut self, number: u128, ballot: Ballot) -> &[Effect] {
        self.promise_page(number, ballot, empty_promise())
    }

    /// Acceptor `number` promises, with this page of rows.
    fn promise_page(&mut self, number: u128, ballot: Ballot, page: PromisePage) -> &[Effect] {
        self.handle(Event::Promised {
            acceptor: uuid(number),
            ballot,
            scan: None,
            page,
        })
    }

    /// Campaigns, and gets promises from acceptors 1 and 2 without any rows.
    fn lead(&mut self) -> Ballot {
        let ballot = self.campaign();
        self.promise(1, ballot);
        self.promise(2, ballot);
        assert!(matches!(self.core.phase(), Phase::Leading(_)));
        ballot
    }

    fn propose(&mut self, request: u64, text: &'static str) -> &[Effect] {
        self.handle(Event::Proposed(Pending::new(RequestId(request), command(text))))
    }

    fn propose_forwarded(&mut self, request: u64, text: &'static str) -> &[Effect] {
        let pending = Pending {
            forwarded: true,
            ..Pending::new(RequestId(request), command(text))
        };
        self.handle(Event::Proposed(pending))
    }
}

/// An acceptor's answer about a proposer silent for `silent` milliseconds.
fn word(ballot: Ballot, silent: u64) -> ReportAnswer {
    ReportAnswer {
        heard: HeardProposer {
            ballot,
            address: Arc::from("http://leader"),
            silent: Duration::from_millis(silent),
            ..HeardProposer::none()
        },
        promised: ballot,
        waiting: Duration::ZERO,
        slowest_commit: Duration::ZERO,
        has_space: true,
        known_to: Slot::ZERO,
        voted_to: Slot::ZERO,
        trimmed_to: Slot::ZERO,
        state_bytes: 0,
    }
}

/// An acceptor is present, and heard nothing from here for `silent` milliseconds.
fn alive(acceptor: AcceptorUuid, ballot: Ballot, silent: u64) -> Event {
    Event::Alive {
        acceptor,
        ballot,
        silent: Duration::from_millis(silent),
        waiting: Duration::ZERO,
        has_space: true,
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
    bench.handle(Event::Fired(Timer::Election, generation));
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
    bench.handle(Event::Fired(Timer::Election, generation));
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
    bench.handle(Event::Closed(uuid(1)));
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
