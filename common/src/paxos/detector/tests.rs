//! The rules of the failure detector, each in a separate test.

use proptest::prelude::*;

use super::*;
use crate::paxos::ballot::ProposerId;

fn ballot(round: u64) -> Ballot {
    Ballot::new(round, ProposerId::from_random(round)).unwrap()
}

fn at(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn address(round: u64) -> Arc<str> {
    format!("http://p{round}:1").into()
}

const FIRST: StreamId = StreamId(1);
const SECOND: StreamId = StreamId(2);

/// An acceptor with a promise for round 1 and a single stream of the proposer, last heard at 100 ms.
fn led() -> Detector {
    let mut detector = Detector::new(Ballot::ZERO, &"".into(), at(0));
    detector.opened(FIRST, ballot(1), Some(at(50)), at(10));
    let claim = detector.queued(ballot(1), &address(1), RequestKind::Accept, false, at(10));
    detector.promised(ballot(1), &address(1), at(20));
    detector.settled(claim, Settlement::Granted);
    detector.chunk(FIRST, at(100));
    detector
}

fn prepare(detector: &mut Detector, round: u64, now: u64) -> Claim {
    detector.queued(
        ballot(round),
        &address(round),
        RequestKind::Prepare,
        false,
        at(now),
    )
}

fn silent(detector: &Detector, now: u64) -> (u64, u64) {
    let heard = detector.heard(at(now));
    (
        heard.ballot.round(),
        u64::try_from(heard.silent.as_millis()).unwrap(),
    )
}

#[test]
fn silence_counts_from_the_start_until_a_proposer_is_heard() {
    let detector = Detector::new(ballot(5), &address(5), at(30));
    assert_eq!(silent(&detector, 100), (5, 70));
    assert_eq!(detector.heard(at(100)).address, address(5));
    let led = led();
    assert_eq!(silent(&led, 130), (1, 30));
    assert_eq!(led.heard(at(130)).address, address(1));
}

#[test]
fn bytes_of_lower_ballots_do_not_count() {
    let mut detector = led();
    let claim = prepare(&mut detector, 2, 200);
    detector.chunk(FIRST, at(250));
    assert_eq!(silent(&detector, 300), (2, 100));
    detector.promised(ballot(2), &address(2), at(200));
    detector.settled(claim, Settlement::Granted);
    detector.chunk(FIRST, at(290));
    assert_eq!(silent(&detector, 300), (2, 100));
}

#[test]
fn request_that_waits_for_the_writer_is_heard_and_its_slow_commit_too() {
    let mut detector = led();
    detector.opened(SECOND, ballot(2), Some(at(50)), at(200));
    let claim = detector.queued(ballot(2), &address(2), RequestKind::Accept, false, at(200));
    detector.chunk(SECOND, at(5_000));
    assert_eq!(silent(&detector, 5_010), (2, 10));
    detector.promised(ballot(2), &address(2), at(5_020));
    detector.settled(claim, Settlement::Granted);
    assert_eq!(silent(&detector, 5_030), (2, 30));
}

#[test]
fn request_that_the_core_would_turn_away_is_not_heard() {
    let mut detector = led();
    let giant = ballot((1 << 63) - 1);
    let claim = detector.queued(giant, &address(9), RequestKind::Prepare, true, at(200));
    assert_eq!(silent(&detector, 210), (1, 110));
    detector.settled(claim, Settlement::TurnedAway);
    assert_eq!(silent(&detector, 210), (1, 110));
    detector.opened(SECOND, giant, Some(at(1)), at(300));
    detector.chunk(SECOND, at(310));
    assert_eq!(silent(&detector, 320), (1, 220));
}

#[test]
fn earlier_proposer_is_heard_again_when_a_request_is_turned_away() {
    let mut detector = led();
    let claims = [
        prepare(&mut detector, 3, 200),
        prepare(&mut detector, 3, 210),
        prepare(&mut detector, 2, 205),
    ];
    let [first, second, lower] = claims;
    detector.chunk(FIRST, at(220));
    detector.settled(first, Settlement::TurnedAway);
    assert_eq!(silent(&detector, 230), (3, 20));
    detector.settled(second, Settlement::TurnedAway);
    assert_eq!(silent(&detector, 230), (2, 25));
    detector.settled(lower, Settlement::TurnedAway);
    assert_eq!(silent(&detector, 230), (1, 10));
}

#[test]
fn promise_drops_lower_claims_and_a_late_answer_to_them_changes_nothing() {
    let mut detector = led();
    let lower = prepare(&mut detector, 2, 200);
    let higher = prepare(&mut detector, 3, 210);
    detector.promised(ballot(3), &address(3), at(220));
    detector.settled(lower, Settlement::TurnedAway);
    detector.settled(higher, Settlement::Granted);
    assert_eq!(detector.heard(at(230)).ballot, ballot(3));
    // Turned away from the start: below the promise.
    let stale = prepare(&mut detector, 2, 240);
    detector.settled(stale, Settlement::TurnedAway);
    assert_eq!(detector.heard(at(250)).ballot, ballot(3));
}

#[test]
fn promise_to_a_proposer_without_a_stream_counts_as_heard() {
    let mut detector = led();
    let claim = prepare(&mut detector, 2, 200);
    assert_eq!(silent(&detector, 900), (2, 700));
    detector.promised(ballot(2), &address(2), at(900));
    detector.settled(claim, Settlement::Granted);
    assert_eq!(silent(&detector, 910), (2, 10));
}

#[test]
fn promise_does_not_count_as_heard_after_its_stream_ended() {
    let mut detector = led();
    detector.opened(SECOND, ballot(2), None, at(200));
    let claim = prepare(&mut detector, 2, 210);
    detector.ended(SECOND, Ender::Peer, at(220));
    detector.promised(ballot(2), &address(2), at(900));
    detector.settled(claim, Settlement::Granted);
    let heard = detector.heard(at(910));
    assert_eq!((heard.silent, heard.ended), (at(700), Some(at(690))));
}

#[test]
fn end_of_the_last_stream_has_an_age_until_another_is_open() {
    let mut detector = led();
    assert_eq!(detector.heard(at(110)).ended, None);
    detector.ended(FIRST, Ender::Peer, at(120));
    assert_eq!(detector.heard(at(150)).ended, Some(at(30)));
    assert_eq!(
        silent(&detector, 150),
        (1, 50),
        "what the stream brought still counts"
    );
    detector.opened(SECOND, ballot(1), Some(at(50)), at(160));
    assert_eq!(detector.heard(at(170)).ended, None);
    assert_eq!(silent(&detector, 170), (1, 10));
}

#[test]
fn end_of_an_old_stream_does_not_hit_its_successor() {
    let mut detector = led();
    detector.opened(SECOND, ballot(1), Some(at(50)), at(160));
    detector.ended(FIRST, Ender::Peer, at(170));
    assert_eq!(detector.heard(at(180)).ended, None);
    // The end of a stream of a lower ballot does not count either, nor does a repeated end.
    detector.opened(FIRST, ballot(2), None, at(190));
    detector.promised(ballot(2), &address(2), at(190));
    detector.ended(SECOND, Ender::Peer, at(200));
    detector.ended(SECOND, Ender::Peer, at(210));
    assert_eq!(detector.heard(at(220)).ended, None);
}

#[test]
fn stream_that_the_acceptor_ended_says_nothing() {
    let mut detector = led();
    detector.ended(FIRST, Ender::Acceptor, at(120));
    assert_eq!(detector.heard(at(150)).ended, None);
    detector.opened(SECOND, ballot(1), None, at(160));
    detector.ended(SECOND, Ender::Peer, at(170));
    assert_eq!(detector.heard(at(180)).ended, Some(at(10)));
}

#[test]
fn proposer_without_a_stream_has_not_ended() {
    let mut detector = led();
    let claim = prepare(&mut detector, 2, 200);
    assert_eq!(detector.heard(at(300)).ended, None);
    detector.promised(ballot(2), &address(2), at(300));
    detector.settled(claim, Settlement::Granted);
    detector.ended(FIRST, Ender::Peer, at(310));
    assert_eq!(detector.heard(at(320)).ended, None);
}

#[test]
fn stream_that_goes_on_at_a_higher_ballot_counts_there() {
    let mut detector = led();
    detector.opened(FIRST, ballot(2), None, at(200));
    let claim = detector.queued(ballot(2), &address(2), RequestKind::Accept, false, at(200));
    detector.promised(ballot(2), &address(2), at(210));
    detector.settled(claim, Settlement::Granted);
    detector.chunk(FIRST, at(220));
    assert_eq!(silent(&detector, 230), (2, 10));
    detector.ended(FIRST, Ender::Peer, at(240));
    assert_eq!(detector.heard(at(250)).ended, Some(at(10)));
}

#[test]
fn resignation_counts_for_its_ballot_alone() {
    let mut detector = led();
    let claim = prepare(&mut detector, 2, 200);
    detector.resigned(ballot(1));
    assert!(!detector.heard(at(210)).resigned);
    detector.settled(claim, Settlement::TurnedAway);
    assert!(detector.heard(at(210)).resigned);
    detector.promised(ballot(2), &address(2), at(220));
    assert!(!detector.heard(at(230)).resigned);
    detector.resigned(ballot(1));
    assert!(!detector.heard(at(240)).resigned);
}

#[test]
fn candidate_stays_heard_on_a_full_disk_while_its_stream_is_open() {
    let mut detector = led();
    detector.opened(SECOND, ballot(2), Some(at(50)), at(200));
    let claim = detector.queued(ballot(2), &address(2), RequestKind::Accept, false, at(200));
    detector.settled(claim, Settlement::NoSpace);
    detector.chunk(SECOND, at(300));
    assert_eq!(silent(&detector, 310), (2, 10));
    detector.ended(SECOND, Ender::Peer, at(320));
    assert_eq!(silent(&detector, 330), (1, 230));
    let claim = prepare(&mut detector, 3, 340);
    detector.settled(claim, Settlement::NoSpace);
    assert_eq!(silent(&detector, 350), (1, 250));
}

#[test]
fn work_counts_for_the_ballot_that_does_it() {
    let mut detector = led();
    detector.worked(ballot(1), 10);
    let claim = prepare(&mut detector, 2, 200);
    detector.worked(ballot(1), 5);
    assert_eq!(detector.heard(at(210)).work, 0);
    detector.worked(ballot(2), 3);
    assert_eq!(detector.heard(at(210)).work, 3);
    detector.settled(claim, Settlement::TurnedAway);
    detector.worked(ballot(2), 3);
    assert_eq!(detector.heard(at(210)).work, 15);
}

#[test]
fn news_are_the_proposer_its_end_its_resignation_and_its_silence() {
    let mut detector = led();
    let before = detector.news(at(110));
    detector.chunk(FIRST, at(120));
    assert_eq!(detector.news(at(130)), before);
    assert_eq!(detector.leader_timeout(), Some(at(200)));
    assert_eq!(detector.silent_at(), Some(at(320)));
    assert!(!detector.news(at(319)).silent && detector.news(at(320)).silent);
    detector.ended(FIRST, Ender::Peer, at(140));
    assert!(detector.news(at(140)).ended);
    detector.resigned(ballot(1));
    assert!(detector.news(at(140)).resigned);
    let claim = prepare(&mut detector, 2, 150);
    assert_eq!(detector.news(at(150)).ballot, ballot(2));
    detector.settled(claim, Settlement::TurnedAway);
    assert_eq!(detector.news(at(150)).ballot, ballot(1));
}

#[test]
fn leader_timeout_is_not_known_before_a_proposer_says_it() {
    let mut detector = Detector::new(ballot(1), &address(1), at(0));
    assert_eq!(detector.silent_at(), None);
    detector.opened(FIRST, ballot(1), None, at(10));
    assert_eq!(detector.leader_timeout(), None);
    assert!(!detector.news(Duration::MAX).silent);
    detector.opened(SECOND, ballot(1), Some(Duration::MAX), at(20));
    assert_eq!(detector.silent_at(), Some(Duration::MAX));
}

#[test]
fn leader_timeout_is_that_of_the_heard_proposer_or_of_one_before() {
    let mut detector = led();
    // A stream of a refused ballot says nothing.
    detector.opened(SECOND, ballot(1 << 40), Some(at(9_000)), at(110));
    let claim = detector.queued(ballot(1 << 40), &address(9), RequestKind::Accept, true, at(110));
    detector.settled(claim, Settlement::TurnedAway);
    assert_eq!(detector.leader_timeout(), Some(at(200)));
    let claim = prepare(&mut detector, 2, 120);
    assert_eq!(detector.leader_timeout(), Some(at(200)));
    detector.promised(ballot(2), &address(2), at(130));
    detector.settled(claim, Settlement::Granted);
    assert_eq!(detector.leader_timeout(), Some(at(200)));
    detector.opened(StreamId(3), ballot(2), Some(at(10)), at(140));
    assert_eq!(detector.leader_timeout(), Some(at(40)));
    detector.ended(StreamId(3), Ender::Peer, at(150));
    assert_eq!(detector.leader_timeout(), Some(at(40)));
}

#[derive(Clone, Debug)]
enum DetectorStep {
    Open(u64, u64),
    Chunk(u64),
    End(u64, bool),
    Queue(u64, bool),
    Settle(usize, Settlement),
    Promise(u64),
    Resign(u64),
}

fn steps() -> impl Strategy<Value = Vec<DetectorStep>> {
    let outcome = prop_oneof![Just(Settlement::TurnedAway), Just(Settlement::NoSpace)];
    let step = prop_oneof![
        (0u64..4, 1u64..6).prop_map(|(stream, round)| DetectorStep::Open(stream, round)),
        (0u64..4).prop_map(DetectorStep::Chunk),
        (0u64..4, any::<bool>()).prop_map(|(stream, peer)| DetectorStep::End(stream, peer)),
        (1u64..6, any::<bool>()).prop_map(|(round, prepare)| DetectorStep::Queue(round, prepare)),
        (0usize..4, outcome).prop_map(|(at, outcome)| DetectorStep::Settle(at, outcome)),
        (1u64..6).prop_map(DetectorStep::Promise),
        (1u64..6).prop_map(DetectorStep::Resign),
    ];
    prop::collection::vec(step, 0..60)
}

proptest! {
    /// Compares the detector with the rule: the highest promised or claimed ballot is heard.
    #[test]
    fn heard_ballot_is_the_highest_promised_or_claimed(steps in steps()) {
        let mut detector = Detector::new(Ballot::ZERO, &"".into(), at(0));
        let mut claims: Vec<(u64, Claim)> = Vec::new();
        let mut streams: BTreeMap<u64, u64> = BTreeMap::new();
        let (mut promised, mut now) = (0, 0);
        let mut has_kept = false;
        for step in steps {
            now += 1;
            match step {
                DetectorStep::Open(stream, round) => {
                    streams.insert(stream, round);
                    detector.opened(StreamId(stream), ballot(round), None, at(now));
                }
                DetectorStep::Chunk(stream) => detector.chunk(StreamId(stream), at(now)),
                DetectorStep::End(stream, peer) => {
                    streams.remove(&stream);
                    let by = if peer { Ender::Peer } else { Ender::Acceptor };
                    detector.ended(StreamId(stream), by, at(now));
                }
                DetectorStep::Queue(round, is_prepare) => {
                    let kind = if is_prepare { RequestKind::Prepare } else { RequestKind::Accept };
                    let away = round < promised;
                    claims.push((round, detector.queued(ballot(round), &address(round), kind, away, at(now))));
                }
                DetectorStep::Settle(index, outcome) if index < claims.len() => {
                    has_kept |= outcome == Settlement::NoSpace;
                    detector.settled(claims.remove(index).1, outcome);
                }
                DetectorStep::Settle(..) => {}
                DetectorStep::Promise(round) => {
                    promised = promised.max(round);
                    detector.promised(ballot(round), &address(round), at(now));
                }
                DetectorStep::Resign(round) => detector.resigned(ballot(round)),
            }
            let heard = detector.heard(at(now));
            let claimed = claims.iter().map(|(round, _)| *round).max().unwrap_or(0);
            let highest = claimed.max(promised);
            prop_assert!(heard.ballot.round() >= highest);
            if !has_kept {
                prop_assert_eq!(heard.ballot.round(), highest);
            }
            prop_assert!(heard.silent <= at(now));
            if streams.values().any(|&round| round == heard.ballot.round()) {
                prop_assert_eq!(heard.ended, None);
            }
        }
        for (_, claim) in claims {
            detector.settled(claim, Settlement::TurnedAway);
        }
        for stream in streams.into_keys() {
            detector.ended(StreamId(stream), Ender::Peer, at(now));
        }
        prop_assert_eq!(detector.heard(at(now)).ballot.round(), promised);
        prop_assert_eq!((detector.proposers.len(), detector.streams.len()), (1, 0));
    }
}
