//! Elections in paused time, over a register that a test can cut off, slow down or make vague.

use std::{
    future::pending,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU8, Ordering},
    },
};

use futures::{Stream, stream};
use prost::Message as _;
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, sleep},
};

use super::{
    seat::{Look, Seat},
    *,
};
use crate::{Change, ChangePage, Condition, Current, Slot, Written, error::WriteError};

const TTL: Duration = Duration::from_secs(10);
const PATIENCE: Duration = Duration::from_secs(3_600);
/// Duration of a call.
const LATENCY: Duration = Duration::from_millis(20);

/// State of the connection to the register: everything passes.
const WHOLE: u8 = 0;
/// Nothing passes.
const CUT: u8 = 1;
/// Writes pass, and the answers do not.
const VAGUE: u8 = 2;
/// Writes wait for another state.
const HELD_BACK: u8 = 3;
/// Writes are withdrawn before they are sent.
const UNSENT: u8 = 4;

#[derive(Default)]
struct HeldRegister {
    register: Option<(Version, Bytes)>,
    changes: Vec<Change>,
}

/// A candidate's connection to the register.
#[derive(Clone)]
struct FakeSeat {
    held: Arc<Mutex<HeldRegister>>,
    slots: watch::Sender<u64>,
    way: Arc<AtomicU8>,
}

impl FakeSeat {
    fn new() -> Self {
        Self {
            held: Arc::default(),
            slots: watch::Sender::new(0),
            way: Arc::default(),
        }
    }

    /// Another candidate's connection to the same register.
    fn other(&self) -> Self {
        Self {
            way: Arc::default(),
            ..self.clone()
        }
    }

    fn set(&self, way: u8) {
        self.way.store(way, Ordering::Relaxed);
    }

    fn is(&self, way: u8) -> bool {
        self.way.load(Ordering::Relaxed) == way
    }

    fn write(&self, value: Option<Bytes>, condition: Condition) -> Written {
        let mut held = self.held.lock().unwrap();
        let version = version(*self.slots.borrow());
        let current = held.register.as_ref().map(|(version, _)| *version);
        let holds = match condition {
            Condition::Always => true,
            Condition::Absent => current.is_none(),
            Condition::Version(version) => current == Some(version),
        };
        if holds {
            held.register = value.clone().map(|value| (version, value));
            held.changes.push(Change {
                key: "name".into(),
                version,
                value,
            });
        }
        drop(held);
        self.slots.send_modify(|slots| *slots += 1);
        if holds {
            return Written::Applied { version };
        }
        Written::ConditionFailed {
            version,
            current: current.map_or(Current::Absent, Current::ValueGone),
        }
    }

    async fn carry_out(
        &self,
        value: Option<Bytes>,
        condition: Condition,
        timeout: Duration,
    ) -> Result<Written, WriteError> {
        let cause = Cause::deadline();
        while self.is(HELD_BACK) {
            sleep(LATENCY).await;
        }
        if self.is(UNSENT) {
            return Err(WriteError::NotProposed(cause));
        }
        if self.is(CUT) {
            sleep(timeout).await;
            return Err(WriteError::OutcomeUnknown(cause));
        }
        sleep(LATENCY.min(timeout)).await;
        let written = self.write(value, condition);
        if self.is(VAGUE) {
            return Err(WriteError::OutcomeUnknown(cause));
        }
        Ok(written)
    }

    fn campaign(&self, name: &'static str) -> JoinHandle<Tenure> {
        let (seat, candidacy) = (self.clone(), candidacy(name));
        tokio::spawn(async move {
            let won = campaign::run(&seat, &candidacy, PATIENCE, pending()).await;
            Tenure::start(seat, candidacy, won.unwrap().unwrap())
        })
    }

    /// The win of a campaign that is stopped after this time.
    async fn campaign_for(&self, name: &'static str, time: Duration) -> Option<campaign::Won> {
        let candidacy = candidacy(name);
        let campaign = campaign::run(self, &candidacy, PATIENCE, sleep(time));
        campaign.await.unwrap()
    }
}

impl Seat for FakeSeat {
    type Watch = Pin<Box<dyn Stream<Item = Result<ChangePage, SubscribeError>> + Send>>;

    async fn look(&self, timeout: Duration) -> Result<Look, Unanswered> {
        if self.is(CUT) {
            sleep(timeout).await;
            return Err(Unanswered::Unavailable(Cause::deadline()));
        }
        sleep(LATENCY).await;
        let held = self.held.lock().unwrap().register.clone();
        Ok(Look {
            held,
            next: version(*self.slots.borrow()),
        })
    }

    async fn put(
        &self,
        holder: v1::Holder,
        condition: Condition,
        timeout: Duration,
    ) -> Result<Written, WriteError> {
        let value = holder.encode_to_vec().into();
        self.carry_out(Some(value), condition, timeout).await
    }

    async fn remove(&self, version: Version, timeout: Duration) -> Result<Written, WriteError> {
        self.carry_out(None, Condition::Version(version), timeout).await
    }

    fn watch(&self, from: Version, _timeout: Duration) -> Self::Watch {
        let (fake, slots) = (self.clone(), self.slots.subscribe());
        Box::pin(stream::unfold(
            (fake, slots, from),
            |(fake, mut slots, from)| async move {
                loop {
                    let next = version(*slots.borrow_and_update());
                    if from < next && !fake.is(CUT) {
                        let held = fake.held.lock().unwrap();
                        let new = held.changes.iter().filter(|change| change.version >= from);
                        let news = ChangePage {
                            changes: new.cloned().collect(),
                            next,
                        };
                        drop(held);
                        return Some((Ok(news), (fake, slots, next)));
                    }
                    slots.changed().await.ok()?;
                }
            },
        ))
    }
}

fn version(slot: u64) -> Version {
    Version {
        slot: Slot::new(slot).unwrap(),
        offset: 0,
    }
}

fn candidacy(name: &'static str) -> Candidacy {
    Candidacy {
        candidate: name.into(),
        ttl: TTL,
    }
}

async fn elected(campaign: JoinHandle<Tenure>) -> Tenure {
    campaign.await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn holder_that_lives_keeps_holding_with_the_same_token() {
    let alice = FakeSeat::new();
    let bob = alice.other();
    let tenure = elected(alice.campaign("alice")).await;
    let token = tenure.token();
    let rival = bob.campaign("bob");
    sleep(10 * TTL).await;
    assert_eq!((tenure.check(), rival.is_finished()), (Ok(token), false));
    assert!(alice.held.lock().unwrap().changes.len() >= 30, "it renews");
    rival.abort();
}

#[tokio::test(start_paused = true)]
async fn cut_off_holder_knows_before_another_takes_over() {
    let alice = FakeSeat::new();
    let bob = alice.other();
    let tenure = elected(alice.campaign("alice")).await;
    let rival = bob.campaign("bob");
    sleep(3 * TTL).await;
    alice.set(CUT);
    let cut_at = Instant::now();
    assert_eq!(tenure.lost().await, ElectionError::Lapsed);
    let known_after = cut_at.elapsed();
    assert!(!rival.is_finished() && tenure.check() == Err(ElectionError::Lapsed));
    let succession = elected(rival).await;
    assert!(succession.token() > tenure.token());
    // The last renewal was sent up to a third of the time to live ago.
    let taken_after = cut_at.elapsed();
    assert!(
        known_after < TTL * 9 / 10 && known_after < taken_after,
        "{known_after:?}"
    );
    assert!(taken_after <= TTL + 4 * LATENCY, "{taken_after:?}");
    // After the reconnection, the old tenure does not hold, and the new tenure is unaffected.
    alice.set(WHOLE);
    sleep(3 * TTL).await;
    assert!(!tenure.is_held() && succession.is_held());
}

#[tokio::test(start_paused = true)]
async fn resigning_lets_another_take_over_at_once() {
    let alice = FakeSeat::new();
    let bob = alice.other();
    let tenure = elected(alice.campaign("alice")).await;
    let clone = tenure.clone();
    let rival = bob.campaign("bob");
    sleep(TTL).await;
    let begun = Instant::now();
    tenure.resign().await.unwrap();
    assert_eq!(
        (clone.check(), clone.lost().await),
        (Err(ElectionError::Resigned), ElectionError::Resigned)
    );
    let succession = elected(rival).await;
    assert!(begun.elapsed() < 10 * LATENCY, "{:?}", begun.elapsed());
    assert!(succession.token() > clone.token());
    clone.resign().await.unwrap();
    assert!(succession.is_held());
}

#[tokio::test(start_paused = true)]
async fn stopped_campaign_finishes_its_write_and_begins_no_other() {
    let alice = FakeSeat::new();
    let begun = Instant::now();
    // The campaign looks, then writes.
    assert!(alice.campaign_for("alice", LATENCY / 2).await.is_none());
    assert_eq!(begun.elapsed(), LATENCY / 2);
    assert!(alice.held.lock().unwrap().changes.is_empty());
    let won = alice.campaign_for("alice", LATENCY * 3 / 2).await.unwrap();
    assert_eq!(
        alice.held.lock().unwrap().register.as_ref().unwrap().0,
        won.version
    );
    // The holder does not renew. While another candidate waits for its turn, a stop takes no time.
    let begun = Instant::now();
    assert!(alice.other().campaign_for("bob", TTL / 2).await.is_none());
    assert_eq!(begun.elapsed(), TTL / 2);
    assert_eq!(alice.held.lock().unwrap().changes.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn stopped_campaign_says_whether_a_write_may_still_win() {
    let alice = FakeSeat::new();
    let campaign = async |way| {
        let (switch, given_up) = GiveUpSwitch::new();
        let candidacy = candidacy("alice");
        let leaving = async {
            sleep(LATENCY * 3 / 2).await;
            // The write has begun.
            switch.give_up();
            alice.set(way);
        };
        alice.set(HELD_BACK);
        let campaign = campaign::run(&alice, &candidacy, PATIENCE, given_up.wait());
        tokio::join!(campaign, leaving).0
    };
    assert!(campaign(UNSENT).await.unwrap().is_none());
    let error = campaign(VAGUE).await.unwrap_err();
    assert!(matches!(error, ElectionError::OutcomeUnknown(_)), "{error:?}");
    // A win in the register is never left behind.
    alice.write(None, Condition::Always);
    assert!(campaign(WHOLE).await.unwrap().is_some());
}

#[tokio::test(start_paused = true)]
async fn tenure_ends_with_its_last_clone_and_lapses_for_other_candidates() {
    let alice = FakeSeat::new();
    let bob = alice.other();
    let tenure = elected(alice.campaign("alice")).await;
    let clone = tenure.clone();
    let rival = bob.campaign("bob");
    drop(tenure);
    sleep(3 * TTL).await;
    assert!(clone.is_held() && !rival.is_finished());
    drop(clone);
    let begun = Instant::now();
    elected(rival).await;
    assert!(begun.elapsed() > TTL / 2 && begun.elapsed() < TTL + 4 * LATENCY);
}

#[tokio::test(start_paused = true)]
async fn renewal_of_unknown_outcome_extends_nothing_but_is_found_and_built_on() {
    let alice = FakeSeat::new();
    let tenure = elected(alice.campaign("alice")).await;
    alice.set(VAGUE);
    sleep(TTL / 2).await;
    assert!(
        alice.held.lock().unwrap().changes.len() > 1,
        "a renewal took effect"
    );
    alice.set(WHOLE);
    sleep(3 * TTL).await;
    assert!(tenure.is_held());
    alice.set(VAGUE);
    assert_eq!(tenure.lost().await, ElectionError::Lapsed);
}

#[tokio::test(start_paused = true)]
async fn holder_loses_its_tenure_when_others_write_its_register() {
    let alice = FakeSeat::new();
    let tenure = elected(alice.campaign("alice")).await;
    alice.write(None, Condition::Always);
    assert_eq!(tenure.lost().await, ElectionError::Overtaken);
    tenure.resign().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn acquiring_write_of_unknown_outcome_is_waited_out() {
    let alice = FakeSeat::new();
    alice.set(VAGUE);
    let campaign = alice.campaign("alice");
    sleep(TTL / 2).await;
    alice.set(WHOLE);
    let tenure = elected(campaign).await;
    let changes = alice.held.lock().unwrap().changes.len();
    assert_eq!((tenure.is_held(), changes), (true, 2));
}

#[tokio::test(start_paused = true)]
async fn of_many_candidates_one_holds_at_a_time() {
    const CANDIDATES: usize = 20;
    let first = FakeSeat::new();
    let holding = Arc::new(AtomicU8::new(0));
    let campaigns: Vec<_> = (0..CANDIDATES)
        .map(|_| {
            let (fake, holding) = (first.other(), holding.clone());
            tokio::spawn(async move {
                let tenure = elected(fake.campaign("somebody")).await;
                assert_eq!(holding.fetch_add(1, Ordering::Relaxed), 0, "two hold");
                sleep(2 * TTL).await;
                let token = tenure.check().unwrap();
                holding.fetch_sub(1, Ordering::Relaxed);
                tenure.resign().await.unwrap();
                token
            })
        })
        .collect();
    let mut tokens = Vec::new();
    for campaign in campaigns {
        tokens.push(campaign.await.unwrap());
    }
    tokens.sort_unstable();
    tokens.dedup();
    assert_eq!(tokens.len(), CANDIDATES);
}

#[tokio::test(start_paused = true)]
async fn observer_sees_holders_and_vacancies_but_no_renewals() {
    let alice = FakeSeat::new();
    let mut observation = observe::start(alice.other(), PATIENCE);
    assert_eq!(observation.next().await, Some(Ok(None)));
    let tenure = elected(alice.campaign("alice")).await;
    let holder = observation.next().await.unwrap().unwrap().unwrap();
    assert_eq!(
        (&holder.candidate[..], holder.token, holder.ttl),
        (&b"alice"[..], tenure.token(), TTL)
    );
    sleep(3 * TTL).await;
    tenure.resign().await.unwrap();
    assert_eq!(observation.next().await, Some(Ok(None)));
}

#[tokio::test(start_paused = true)]
async fn register_with_a_foreign_value_is_left_alone() {
    let alice = FakeSeat::new();
    for foreign in [&b"hello"[..], b""] {
        let Written::Applied { version } = alice.write(Some(Bytes::from(foreign)), Condition::Always) else {
            panic!("there is no condition")
        };
        let error = campaign::run(&alice, &candidacy("alice"), PATIENCE, pending())
            .await
            .unwrap_err();
        assert_eq!(error, ElectionError::NotAnElection { version });
        let observed = observe::start(alice.clone(), PATIENCE).next().await;
        assert_eq!(observed, Some(Err(error)));
    }
}

#[tokio::test(start_paused = true)]
async fn candidate_without_any_answer_fails_as_unavailable() {
    let alice = FakeSeat::new();
    alice.set(CUT);
    let error = campaign::run(&alice, &candidacy("alice"), TTL, pending())
        .await
        .unwrap_err();
    assert!(matches!(error, ElectionError::Unavailable(_)), "{error:?}");
}

#[tokio::test]
async fn limits_are_checked_before_anything_is_sent() {
    let client = Client::connect(["http://127.0.0.1:1"]).unwrap();
    let election =
        |name: &'static str, ttl| Election::new(&client, name, "alice", Duration::from_millis(ttl));
    assert!(election("job", 500).is_ok() && election("job", 3_600_000).is_ok());
    for (name, ttl, text) in [
        ("", 5_000, "1 to 4096"),
        ("job", 499, "500ms to 1h"),
        ("job", 3_600_001, "500ms to 1h"),
    ] {
        let error = election(name, ttl).unwrap_err().to_string();
        assert!(error.contains(text), "{error}");
    }
}
