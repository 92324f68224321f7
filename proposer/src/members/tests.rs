//! Requests for other members: what is made, and what is refused with which words.

use paxos_common::paxos::{acceptor::Seed, identity::ClusterId, slot::Slot};

use super::*;

fn uuid(number: u128) -> AcceptorUuid {
    AcceptorUuid::from_u128(number << 96)
}

fn address(number: u128) -> Address {
    format!("http://a{number}:1").parse().unwrap()
}

fn entry(number: u128, name: &str) -> (AcceptorUuid, MemberEntry) {
    let entry = MemberEntry {
        address: address(number).as_str().into(),
        name: name.into(),
    };
    (uuid(number), entry)
}

fn cluster(numbers: &[u128]) -> Configuration {
    let members = numbers.iter().map(|&number| entry(number, ""));
    let quorum = majority(numbers.len());
    Configuration::of_members(members, quorum, quorum).unwrap()
}

/// What a leader of the acceptors `present` knows, of which `counted` answer.
struct Scene {
    present: Configuration,
    counted: BTreeMap<AcceptorUuid, Arc<str>>,
    refused: BTreeSet<AcceptorUuid>,
    versions: BTreeMap<AcceptorUuid, u32>,
    outdated: Vec<String>,
}

impl Scene {
    fn of(present: &[u128], counted: &[u128]) -> Self {
        let name = |&number: &u128| (uuid(number), format!("acceptor-{number}").into());
        Self {
            present: cluster(present),
            counted: counted.iter().map(name).collect(),
            refused: BTreeSet::new(),
            versions: counted
                .iter()
                .map(|&number| (uuid(number), CHANGES_VERSION))
                .collect(),
            outdated: Vec::new(),
        }
    }

    fn next(
        &self,
        asked: &AskedMembers,
        joiners: Vec<Result<AcceptorForm, String>>,
    ) -> Result<Configuration, ChangeDenied> {
        let known = Known {
            present: &self.present,
            counted: &self.counted,
            refused: &self.refused,
            versions: &self.versions,
            outdated: &self.outdated,
        };
        asked.next(&known, joiners)
    }

    /// The uuids of the next members, when blank acceptors answer at the added addresses.
    fn made(&self, asked: &AskedMembers) -> Result<Vec<AcceptorUuid>, String> {
        let joiners = asked.add.iter().map(|added| Ok(blank(number_of(&added.address))));
        let next = self.next(asked, joiners.collect());
        let next = next.map_err(|refusal| refusal.to_string())?;
        assert_eq!(next.era(), self.present.era().next());
        assert_eq!(next.cluster_id(), self.present.cluster_id());
        Ok(next.members().keys().copied().collect())
    }

    /// The words of the refusal of a request to replace acceptor 3, when acceptor 4 answers so.
    fn refuses(&self, answer: Result<AcceptorForm, String>) -> String {
        let refused = self.next(&asked(&[3], &[4]), vec![answer]);
        refused.unwrap_err().to_string()
    }
}

fn number_of(address: &Address) -> u128 {
    let digits: String = address
        .host_and_port()
        .chars()
        .skip(1)
        .take_while(char::is_ascii_digit)
        .collect();
    digits.parse().unwrap()
}

fn asked(remove: &[u128], add: &[u128]) -> AskedMembers {
    let added = |&number: &u128| Added {
        address: address(number),
        acceptor: None,
    };
    AskedMembers {
        era: Era::FIRST,
        remove: remove.iter().map(|&number| uuid(number)).collect(),
        add: add.iter().map(added).collect(),
        quorums: None,
        force: false,
    }
}

fn blank(number: u128) -> AcceptorForm {
    AcceptorForm {
        acceptor: uuid(number),
        name: format!("acceptor-{number}"),
        membership: Membership::Blank,
        protocol_version: CHANGES_VERSION,
    }
}

fn uuids(numbers: &[u128]) -> Vec<AcceptorUuid> {
    numbers.iter().map(|&number| uuid(number)).collect()
}

#[test]
fn acceptors_are_replaced_added_and_removed_in_one_change() {
    let three = Scene::of(&[1, 2, 3], &[1, 2, 3]);
    let dead = Scene::of(&[1, 2, 3], &[1, 2]);
    let five = Scene::of(&[1, 2, 3, 4, 5], &[1, 2, 3, 4, 5]);
    for (scene, remove, add, members) in [
        (&three, &[3][..], &[4][..], &[1, 2, 4][..]),
        (&dead, &[3], &[4], &[1, 2, 4]),
        (&three, &[], &[4, 5], &[1, 2, 3, 4, 5]),
        (&five, &[4, 5], &[], &[1, 2, 3]),
        (&five, &[4, 5], &[6], &[1, 2, 3, 6]),
    ] {
        assert_eq!(scene.made(&asked(remove, add)), Ok(uuids(members)));
    }
}

#[test]
fn next_configuration_has_names_addresses_and_quorums() {
    let scene = Scene::of(&[1, 2, 3], &[1, 2, 3]);
    let mut request = asked(&[3], &[4]);
    let next = scene.next(&request, vec![Ok(blank(4))]).unwrap();
    let expected: BTreeMap<_, _> = [1, 2, 4]
        .map(|number| entry(number, &format!("acceptor-{number}")))
        .into();
    assert_eq!(*next.members(), expected);
    assert_eq!((next.quorums().phase1(), next.quorums().phase2()), (2, 2));
    request.quorums = Some((3, 1));
    request.force = true;
    let next = scene.next(&request, vec![Ok(blank(4))]).unwrap();
    assert_eq!((next.quorums().phase1(), next.quorums().phase2()), (3, 1));
    request.quorums = Some((1, 1));
    let refused = scene.next(&request, vec![Ok(blank(4))]).unwrap_err();
    assert!(matches!(refused, ChangeDenied::Invalid(_)), "{refused}");
    let long = AcceptorForm {
        name: "ß".repeat(200),
        ..blank(4)
    };
    let next = scene.next(&asked(&[3], &[4]), vec![Ok(long)]).unwrap();
    assert_eq!(&*next.members()[&uuid(4)].name, "ß".repeat(128));
}

#[test]
fn acceptor_moves_to_another_address_with_its_votes() {
    let scene = Scene::of(&[1, 2, 3], &[1, 2]);
    let formed = AcceptorForm {
        membership: Membership::Formed(scene.present.clone()),
        ..blank(3)
    };
    let moved = scene.next(&asked(&[3], &[9]), vec![Ok(formed.clone())]).unwrap();
    assert_eq!(&*moved.members()[&uuid(3)].address, "http://a9:1");
    let refused = scene.next(&asked(&[3], &[3]), vec![Ok(formed)]).unwrap_err();
    let itself = format!("{} itself answers there: nothing to replace. ", short(uuid(3)));
    assert!(refused.to_string().starts_with(&itself), "{refused}");
}

#[test]
fn removed_acceptor_with_its_old_disk_is_added_again() {
    let mut scene = Scene::of(&[1, 2, 3], &[1, 2, 3]);
    let before = scene.present.clone();
    let members = [1, 2, 5].map(|number| entry(number, ""));
    scene.present = before.changed_to(members, 2, 2).unwrap();
    scene.counted = [1, 2, 5].map(|number| (uuid(number), "".into())).into();
    let old = AcceptorForm {
        membership: Membership::Formed(before),
        ..blank(3)
    };
    let request = AskedMembers {
        era: Era::FIRST.next(),
        ..asked(&[5], &[3])
    };
    let next = scene.next(&request, vec![Ok(old)]).unwrap();
    assert!(next.members().contains_key(&uuid(3)) && !next.members().contains_key(&uuid(5)));
}

#[test]
fn refusals_of_joiners_say_what_to_do() {
    let mut scene = Scene::of(&[1, 2, 3], &[1, 2, 3]);
    let with = |change: fn(&mut AcceptorForm)| {
        let mut answer = blank(4);
        change(&mut answer);
        Ok(answer)
    };
    for (answer, words) in [
        (
            Err("no connection".to_owned()),
            "http://a4:1 does not answer the leader (no connection): give the address that the cluster's own network knows",
        ),
        (
            with(|joiner| joiner.membership = Membership::Formed(cluster(&[7]))),
            "http://a4:1 belongs to another cluster",
        ),
        (
            with(|joiner| joiner.membership = Membership::Forming(cluster(&[4]))),
            "http://a4:1 is about to form a cluster, or holds a backup: empty its directory",
        ),
        (
            with(|joiner| {
                joiner.membership = Membership::Seeded(Seed {
                    cluster: ClusterId::from_bytes([1; 16]),
                    base: Slot::ZERO,
                });
            }),
            "empty its directory",
        ),
        (
            with(|joiner| joiner.acceptor = uuid(2)),
            "http://a4:1 is a member already",
        ),
        (
            with(|joiner| joiner.protocol_version = CHANGES_VERSION - 1),
            "http://a4:1 speaks an older protocol: update it first",
        ),
    ] {
        let refused = scene.refuses(answer);
        assert!(refused.contains(words), "{refused}");
    }
    scene.refused.insert(uuid(4));
    let refused = scene.refuses(Ok(blank(4)));
    assert!(
        refused.contains("went back on its disk: empty its directory"),
        "{refused}"
    );
    let mut seen = asked(&[3], &[4]);
    seen.add[0].acceptor = Some(uuid(8));
    let refused = scene.next(&seen, vec![Ok(blank(4))]).unwrap_err();
    assert!(matches!(refused, ChangeDenied::Another { .. }), "{refused}");
    scene.refused.clear();
    let twice = scene.next(&asked(&[3], &[4, 5]), vec![Ok(blank(4)), Ok(blank(4))]);
    assert_eq!(twice, Err(InvalidConfiguration::Twice(uuid(4)).into()));
}

#[test]
fn change_that_leaves_too_few_to_answer_is_refused() {
    // Acceptor 3 does not answer.
    let dead = Scene::of(&[1, 2, 3], &[1, 2]);
    let four = Scene::of(&[1, 2, 3, 4], &[1, 2, 4]);
    let mut never = asked(&[2], &[]);
    never.force = true;
    assert_eq!(
        Scene::of(&[1, 2, 3], &[1]).made(&never).unwrap_err(),
        format!(
            "of the 2 members after this change 2 are needed and 1 would answer: nothing could be ordered. Start or replace \
             {}, which does not answer",
            short(uuid(3))
        )
    );
    let none_to_spare = "after this change 3 of 4 members answer and 3 are needed: none may fail. First start the members that do not \
         answer, or add more members. To do so nevertheless, give --force";
    assert_eq!(dead.made(&asked(&[], &[4])).unwrap_err(), none_to_spare);
    let forced = |request: AskedMembers| AskedMembers {
        force: true,
        ..request
    };
    assert_eq!(dead.made(&forced(asked(&[], &[4]))), Ok(uuids(&[1, 2, 3, 4])));
    assert!(
        four.made(&asked(&[1], &[]))
            .unwrap_err()
            .contains("none may fail")
    );
    // Below 3 members none may fail, down to 1.
    let three = Scene::of(&[1, 2, 3], &[1, 2, 3]);
    assert!(
        three
            .made(&asked(&[3], &[]))
            .unwrap_err()
            .contains("none may fail")
    );
    assert_eq!(three.made(&forced(asked(&[2, 3], &[]))), Ok(uuids(&[1])));
    assert!(three.made(&forced(asked(&[1, 2, 3], &[]))).is_err(), "no member");
    let one = Scene::of(&[1], &[1]);
    let mostly_new = one.made(&asked(&[], &[2, 3])).unwrap_err();
    assert!(
        mostly_new.starts_with("only 1 of the 3 members after this change are members now, and 2 are needed"),
        "{mostly_new}"
    );
    assert_eq!(one.made(&forced(asked(&[], &[2, 3]))), Ok(uuids(&[1, 2, 3])));
}

#[test]
fn stale_empty_and_outdated_requests_are_refused() {
    let mut scene = Scene::of(&[1, 2, 3], &[1, 2, 3]);
    let stale = AskedMembers {
        era: Era::FIRST.next(),
        ..asked(&[3], &[4])
    };
    let refused = scene.made(&stale).unwrap_err();
    assert_eq!(
        refused,
        "the members have changed since you looked (era 0, not 1): look again"
    );
    assert_eq!(
        scene.made(&asked(&[], &[])),
        Err(ChangeDenied::Nothing.to_string())
    );
    let refused = scene.made(&asked(&[9], &[4])).unwrap_err();
    assert!(refused.contains("is no member"), "{refused}");
    scene.outdated.push("learner http://l:1".to_owned());
    let refused = scene.made(&asked(&[3], &[4])).unwrap_err();
    assert!(
        refused.starts_with("learner http://l:1 speaks an older protocol"),
        "{refused}"
    );
    let forced = AskedMembers {
        force: true,
        ..asked(&[3], &[4])
    };
    assert!(scene.made(&forced).is_ok());
    scene.versions.insert(uuid(2), CHANGES_VERSION - 1);
    let refused = scene.made(&forced).unwrap_err();
    assert!(
        refused.ends_with("speaks an older protocol: update it first"),
        "{refused}"
    );
}

#[test]
fn request_is_known_by_what_it_makes() {
    let scene = Scene::of(&[1, 2, 3], &[1, 2, 3]);
    let request = asked(&[3], &[4]);
    let made = scene.next(&request, vec![Ok(blank(4))]).unwrap();
    assert!(request.makes(&scene.present, &made));
    let mut seen = request.clone();
    seen.add[0].acceptor = Some(uuid(4));
    assert!(seen.makes(&scene.present, &made));
    seen.add[0].acceptor = Some(uuid(8));
    assert!(!seen.makes(&scene.present, &made));
    for other in [
        asked(&[2], &[4]),
        asked(&[3], &[5]),
        asked(&[2, 3], &[4]),
        asked(&[], &[4]),
        AskedMembers {
            quorums: Some((3, 1)),
            ..request.clone()
        },
        AskedMembers {
            era: Era::FIRST.next(),
            ..request.clone()
        },
    ] {
        assert!(!other.makes(&scene.present, &made), "{other:?}");
    }
    assert!(!request.makes(&scene.present, &scene.present));
}

#[test]
fn change_and_stage_are_named_in_words() {
    let before = cluster(&[1, 2, 3]);
    let to = |members: &[(u128, &str)], phase1, phase2| {
        let members = members.iter().map(|&(number, name)| entry(number, name));
        before.changed_to(members, phase1, phase2).unwrap()
    };
    let (third, fourth) = (short(uuid(3)), short(uuid(4)));
    for (after, words) in [
        (
            to(&[(1, ""), (2, ""), (4, "")], 2, 2),
            format!("replace {third} by {fourth}"),
        ),
        (to(&[(1, ""), (2, "")], 2, 2), format!("remove {third}")),
        (
            to(&[(1, ""), (2, ""), (3, ""), (4, "d"), (5, "e")], 3, 3),
            "add d, e".to_owned(),
        ),
        (
            to(&[(1, ""), (2, ""), (3, "")], 3, 1),
            "quorums 3 and 1".to_owned(),
        ),
    ] {
        assert_eq!(describe(&before, &after), words);
    }
    let copying = |slots, of| stage_in_words(&ChangeStage::Copying { slots, of });
    assert_eq!(copying(41, 100), "copying 41 %");
    assert_eq!(copying(0, 0), "copying 0 %");
}
