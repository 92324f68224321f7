//! The list of attached and departed peers, and its limits.

use super::*;

mod compared;

const RESTART_MAX: Duration = Duration::from_mins(1);

fn report(peer: u64, address: &str) -> pb::AttachRequest {
    pb::AttachRequest {
        role: pb::Role::Learner.into(),
        peer,
        address: address.into(),
        ..Default::default()
    }
}

#[test]
fn roster_keeps_the_latest_report_of_each_attached_peer() {
    let roster = Arc::new(Roster::new(RESTART_MAX));
    let (old, new, other) = (
        roster.attach(None).unwrap(),
        roster.attach(None).unwrap(),
        roster.attach(None).unwrap(),
    );
    old.report(report(1, "http://old:1"));
    new.report(report(1, "http://new:1"));
    other.report(report(2, "http://b:1"));
    let addresses = || -> Vec<String> {
        roster
            .peers()
            .into_iter()
            .map(|peer| peer.report.unwrap().address)
            .collect()
    };
    assert_eq!(addresses(), ["http://new:1", "http://b:1"]);
    drop(new);
    drop(other);
    assert_eq!(addresses(), ["http://old:1"]);
}

#[test]
fn peer_that_leaves_without_a_word_is_remembered_until_it_is_back() {
    let roster = Arc::new(Roster::new(RESTART_MAX));
    let departed = || -> Vec<_> {
        let departed = roster.departed().into_iter();
        departed.map(|peer| peer.report.unwrap().peer).collect()
    };
    let (killed, stopped, twice) = (
        roster.attach(None).unwrap(),
        roster.attach(None).unwrap(),
        roster.attach(None).unwrap(),
    );
    killed.report(report(1, "http://a:1"));
    stopped.report(report(2, "http://b:1"));
    twice.report(report(3, "http://c:1"));
    let again = roster.attach(None).unwrap();
    again.report(report(3, "http://c:1"));
    stopped.leave(None);
    drop((killed, stopped, twice));
    assert_eq!(
        departed(),
        [1],
        "one said that it stops, and one has another stream"
    );
    drop(again);
    assert_eq!(departed(), [3, 1]);
    let back = roster.attach(None).unwrap();
    back.report(report(3, "http://d:1"));
    assert_eq!(departed(), [1]);
    // Another process at the address.
    back.report(report(4, "http://a:1"));
    assert_eq!(departed(), [] as [u64; 0]);
}

#[test]
fn stop_ends_the_earlier_streams_of_the_process_and_no_later_one() {
    let roster = Arc::new(Roster::new(RESTART_MAX));
    let attach = || {
        let attachment = roster.attach(None).unwrap();
        attachment.report(report(1, "http://a:1"));
        attachment
    };
    let stopped = || -> Vec<_> { roster.stopped().into_iter().map(|peer| peer.peer).collect() };
    // The network lost the first stream, and this acceptor has not noticed.
    let (lost, present) = (attach(), attach());
    present.leave(None);
    assert_eq!(roster.peers(), []);
    assert_eq!(stopped(), [1]);
    drop((lost, present));
    assert_eq!(roster.departed(), [], "the process reported its stop");
    assert_eq!(stopped(), [1]);

    // A process that opens a stream and ends the earlier one goes on.
    let (earlier, later) = (attach(), attach());
    assert_eq!(stopped(), [] as [u64; 0]);
    earlier.leave(None);
    drop(earlier);
    assert_eq!((roster.peers().len(), stopped().len()), (1, 0));
    drop(later);
    assert_eq!((roster.departed().len(), stopped().len()), (1, 0));
}

#[test]
fn stop_ends_no_stream_from_another_address_with_the_number_of_the_peer() {
    let roster = Arc::new(Roster::new(RESTART_MAX));
    let from = |address: &str| {
        let attachment = roster.attach(Some(address.parse().unwrap())).unwrap();
        attachment.report(report(1, &format!("http://{address}:1")));
        attachment
    };
    let (victim, forger) = (from("10.0.0.1"), from("10.0.0.2"));
    forger.leave(None);
    drop(forger);
    assert_eq!(
        roster.peers()[0].report.as_ref().unwrap().address,
        "http://10.0.0.1:1"
    );
    assert_eq!(roster.stopped(), [], "a process with this number is attached");
    drop(victim);
    assert_eq!(roster.departed().len(), 1);
}

#[test]
fn stopped_peer_is_listed_with_the_words_of_its_last_report() {
    let roster = Arc::new(Roster::new(RESTART_MAX));
    let attachment = roster.attach(None).unwrap();
    attachment.report(report(1, "http://a:1"));
    attachment.leave(Some(true));
    assert_eq!(roster.stopped()[0].stopping, Some(true));
}

#[test]
fn stopped_peers_are_bounded_and_forgotten() {
    let roster = Arc::new(Roster::new(RESTART_MAX));
    for peer in 0..2 * DEPARTED_MAX {
        let attachment = roster.attach(None).unwrap();
        attachment.report(report(peer as u64, &format!("http://a:{peer}")));
        attachment.leave(None);
    }
    assert_eq!(roster.stopped().len(), DEPARTED_MAX);
    roster.lock().forget(Instant::now() + DEPARTED_AGE_MAX);
    assert_eq!(roster.stopped(), []);
}

#[test]
fn peers_without_an_address_are_different_peers() {
    let roster = Arc::new(Roster::new(RESTART_MAX));
    let (killed, stays) = (roster.attach(None).unwrap(), roster.attach(None).unwrap());
    killed.report(report(1, ""));
    stays.report(report(2, ""));
    drop(killed);
    stays.report(report(2, ""));
    let departed = roster.departed();
    assert_eq!(departed.len(), 1, "{departed:?}");
    assert_eq!(departed[0].report.as_ref().unwrap().peer, 1);
}

#[test]
fn learner_that_comes_back_is_in_one_of_the_lists_at_every_moment() {
    let roster = Arc::new(Roster::new(RESTART_MAX));
    let attach = |roster: &Arc<Roster>| {
        let attachment = roster.attach(None).unwrap();
        attachment.report(pb::AttachRequest {
            progress: Some(pb::attach_request::Progress::Learner(
                pb::LearnerProgress::default(),
            )),
            ..report(1, "http://a:1")
        });
        attachment
    };
    drop(attach(&roster));
    let coming = Arc::clone(&roster);
    let comes_back = std::thread::spawn(move || {
        for _ in 0..20_000 {
            drop(attach(&coming));
        }
    });
    while !comes_back.is_finished() {
        assert_eq!(roster.learners().len(), 1);
    }
    comes_back.join().unwrap();
}

#[test]
fn departed_learners_count_for_the_longest_restart_however_they_departed() {
    let roster = Arc::new(Roster::new(RESTART_MAX));
    let attach = |peer: u64, version| {
        let attachment = roster.attach(None).unwrap();
        attachment.report(pb::AttachRequest {
            caller: Some(pb::Caller {
                protocol_version: version,
                ..Default::default()
            }),
            progress: Some(pb::attach_request::Progress::Learner(pb::LearnerProgress {
                applied_to: 7,
                ..Default::default()
            })),
            ..report(peer, &format!("http://l:{peer}"))
        });
        attachment
    };
    let learners = || -> Vec<_> {
        let learners = roster.learners().into_iter();
        learners
            .map(|learner| (learner.peer, learner.is_attached))
            .collect()
    };
    let killed = attach(1, 2);
    assert_eq!(roster.older_peer(), None, "version 2 knows trimmed logs forever");
    let stopped = attach(2, 1);
    assert_eq!(learners(), [(1, true), (2, true)]);
    assert_eq!(roster.older_peer().unwrap(), "http://l:2");
    stopped.leave(None);
    assert_eq!(roster.departed().len(), 0);
    drop((killed, stopped));
    assert_eq!(learners(), [(1, false), (2, false)]);
    assert_eq!(roster.older_peer().unwrap(), "http://l:2");
    let _back = attach(2, 2);
    assert_eq!(learners(), [(2, true), (1, false)]);
    assert_eq!(roster.older_peer(), None);
    roster.lock().forget(Instant::now() + RESTART_MAX);
    assert_eq!(roster.learners().len(), 1);
}

#[test]
fn size_of_the_state_is_the_smallest_of_learners_close_to_the_end() {
    let roster = Arc::new(Roster::new(RESTART_MAX));
    let attach = |peer, applied_to, state_bytes| {
        let attachment = roster.attach(None).unwrap();
        attachment.report(pb::AttachRequest {
            progress: Some(pb::attach_request::Progress::Learner(pb::LearnerProgress {
                applied_to,
                state_bytes,
                ..Default::default()
            })),
            ..report(peer, "http://a:1")
        });
        attachment
    };
    let chosen_to = Slot::new(STATE_LAG_MAX + 10).unwrap();
    let _late = attach(1, 9, 5);
    let _older_release = attach(2, chosen_to.get(), 0);
    assert_eq!(roster.state_bytes(chosen_to), 0);
    let _wrong = attach(3, chosen_to.get(), i64::MAX as u64);
    let close = attach(4, 10, 700);
    assert_eq!(roster.state_bytes(chosen_to), 700);
    drop(close);
    assert_eq!(roster.state_bytes(chosen_to), i64::MAX as u64);
}

#[test]
fn departed_peers_are_bounded_and_forgotten() {
    let roster = Arc::new(Roster::new(RESTART_MAX));
    for peer in 0..2 * DEPARTED_MAX {
        let attachment = roster.attach(None).unwrap();
        attachment.report(report(peer as u64, &format!("http://a:{peer}")));
    }
    assert_eq!(roster.departed().len(), DEPARTED_MAX);
    let mut content = roster.lock();
    content.forget(Instant::now() + DEPARTED_AGE_MAX);
    assert!(content.departed.is_empty());
}

#[test]
fn roster_is_bounded_and_one_address_has_half() {
    let roster = Arc::new(Roster::new(RESTART_MAX));
    let attach = |number: u32| roster.attach(Some(IpAddr::from(number.to_be_bytes())));
    let mut greedy: Vec<_> = (0..ATTACHED_MAX / 2).map(|_| attach(1).unwrap()).collect();
    assert_eq!(attach(1).unwrap_err(), RosterFull);
    // 64 addresses with 8 streams each.
    let mut others: Vec<_> = (0..512).map(|number| attach(2 + number / 8).unwrap()).collect();
    assert_eq!(attach(999).unwrap_err(), RosterFull);
    others.pop();
    assert!(attach(999).is_ok());
    drop(others);
    greedy.pop();
    assert!(attach(1).is_ok());
    drop(greedy);
    assert!(roster.lock().owned.is_empty());
}
