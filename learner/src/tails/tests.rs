//! Tails of acceptors with scripted answers, over real gRPC.

use paxos_common::{
    paxos::quorum::Configuration,
    peer::{AddressBook, Dialer},
};
use paxos_learner_testing::{FakeAcceptor, acceptors, stranger};
use tokio::time::timeout;

use super::*;

struct TailsRig {
    acceptors: [FakeAcceptor; 3],
    /// The connection to the first acceptor.
    way: Arc<ListedAcceptor>,
    cluster: Arc<Cluster>,
    question: watch::Sender<Option<Question>>,
    tails: mpsc::Receiver<TailReport>,
}

fn question(nonce: u64) -> Question {
    Question { nonce, trace: None }
}

impl TailsRig {
    /// Asks the first of three acceptors.
    async fn start() -> Self {
        let acceptors = acceptors().await;
        let configuration = acceptors[0].script.borrow().configuration.clone().unwrap();
        let configuration = Configuration::try_from(configuration).unwrap();
        let given = acceptors.iter().map(|acceptor| acceptor.address.clone());
        let book = AddressBook::new(given.collect(), Dialer::default());
        let cluster = Arc::new(Cluster::new(&configuration, Arc::new(book)));
        let way = Arc::clone(cluster.present().acceptor(acceptors[0].uuid).unwrap());
        let (question, question_seen) = watch::channel(None);
        let (tails_in, tails) = mpsc::channel(TAILS_MAX);
        let asker = Asker {
            cluster: Arc::clone(&cluster),
            question: question_seen,
            tails: tails_in,
            tracer: Tracer::off(),
        };
        tokio::spawn(asker.keep_asking(Arc::clone(&way)));
        Self {
            acceptors,
            way,
            cluster,
            question,
            tails,
        }
    }

    /// Asks, and waits for the next tail that counts.
    async fn report(&mut self, nonce: u64) -> TailReport {
        self.question.send_replace(Some(question(nonce)));
        self.tell().await
    }

    async fn tell(&mut self) -> TailReport {
        let report = timeout(Duration::from_secs(30), self.tails.recv());
        report.await.expect("it answers").unwrap()
    }
}

#[tokio::test]
async fn acceptor_is_identified_before_its_first_tail_counts() {
    let mut rig = TailsRig::start().await;
    rig.acceptors[0].change(|script| script.voted_to = 7);
    for nonce in 3..6 {
        let report = rig.report(nonce).await;
        assert_eq!((report.acceptor, report.nonce), (rig.acceptors[0].uuid, nonce));
        assert_eq!(report.tail.voted_to.get(), 7);
    }
    let heard = rig.acceptors[0].heard.borrow().clone();
    // The first answer came before the identification.
    assert_eq!((heard.forms, heard.tails), (1, 4));
}

#[tokio::test]
async fn tail_of_an_unknown_run_counts_after_identification() {
    let mut rig = TailsRig::start().await;
    rig.report(1).await;
    rig.acceptors[0].change(|script| {
        script.runs = vec![1, 2];
        script.forms_muted = true;
    });
    rig.question.send_replace(Some(question(2)));
    rig.acceptors[0].hears(|heard| heard.forms == 2).await;
    assert!(rig.tails.try_recv().is_err());
    rig.acceptors[0].change(|script| script.forms_muted = false);
    assert_eq!(rig.tell().await.nonce, 2);
}

#[tokio::test]
async fn late_tails_never_make_a_sound_acceptor_suspect() {
    let mut rig = TailsRig::start().await;
    rig.report(1).await;
    // Another connection has shown the next run of the acceptor.
    rig.acceptors[0].change(|script| script.runs = vec![1, 2]);
    rig.cluster.identify(&rig.way).await.unwrap();
    // Earlier answers of the acceptor arrive only now.
    rig.acceptors[0].change(|script| script.runs = vec![1]);
    let late = rig.acceptors[0].clone();
    for _ in 0..10 {
        let mut client = rig.way.client().unwrap();
        let request = pb::TailRequest::default();
        let answer = client.tail(request).await.unwrap().into_inner();
        let vouched = rig.cluster.vouch(answer.stamp.as_ref());
        assert!(matches!(vouched, Err(Unusable::Unshown)), "{vouched:?}");
    }
    late.change(|script| script.runs = vec![1, 2]);
    assert_eq!(rig.report(9).await.nonce, 9);
}

#[tokio::test]
async fn nothing_counts_of_an_acceptor_that_went_back_or_of_a_stranger() {
    let mut rig = TailsRig::start().await;
    rig.report(1).await;
    rig.acceptors[0].change(|script| script.frames_stamped = Some(stranger()));
    rig.question.send_replace(Some(question(2)));
    rig.acceptors[0].hears(|heard| heard.tails == 3).await;
    // Nor when the right acceptor answers again, from a disk without the reported runs.
    rig.acceptors[0].change(|script| {
        script.frames_stamped = None;
        script.runs = vec![7];
    });
    for nonce in 3..9 {
        let forms = rig.acceptors[0].heard.borrow().forms;
        let tails = rig.acceptors[0].heard.borrow().tails;
        rig.question.send_replace(Some(question(nonce)));
        let asked = |heard: &paxos_learner_testing::HeardCalls| heard.forms > forms || heard.tails > tails;
        rig.acceptors[0].hears(asked).await;
    }
    let refused = rig.cluster.identify(&rig.way).await;
    assert!(matches!(refused, Err(Unusable::WentBack(_))), "{refused:?}");
    assert!(rig.tails.try_recv().is_err());
}
