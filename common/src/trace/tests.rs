//! Contexts as text, and the traced requests.

use super::*;

const SAMPLED: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

#[test]
fn context_survives_its_text() {
    let Incoming::Sampled(context) = Incoming::read(SAMPLED.as_bytes()) else {
        panic!("it is sampled");
    };
    assert!(context.is_remote());
    assert_eq!(traceparent(&context), SAMPLED);
    let unsampled = SAMPLED.replace("-01", "-00");
    assert_eq!(Incoming::read(unsampled.as_bytes()), Incoming::Unsampled);
}

#[test]
fn what_is_no_context_is_absent_and_never_a_panic() {
    for text in [
        "",
        "01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
        "00-00000000000000000000000000000000-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-zz",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b71692033310-1",
        "é0-0af7651916cd43dd8448eb211c80319c-b7ad6b716920333-01",
    ] {
        assert_eq!(Incoming::read(text.as_bytes()), Incoming::Absent, "{text}");
    }
    assert_eq!(Incoming::read(&[0xff; TRACEPARENT_BYTES]), Incoming::Absent);
}

/// Admits this many.
#[derive(Debug)]
struct Few(AtomicU64);

impl Admission for Few {
    fn admits(&self) -> bool {
        let took = |left: u64| left.checked_sub(1);
        self.0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, took)
            .is_ok()
    }
}

#[test]
fn tracing_of_callers_takes_no_share_of_the_leader() {
    let few = || Box::new(Few(AtomicU64::new(2)));
    let tracer = Tracer::new(opentelemetry::global::tracer("test"), few(), few());
    let incoming = Incoming::read(SAMPLED.as_bytes());
    for refused in [0, 0, 1, 2] {
        drop(tracer.serve(&incoming, names::method::READ));
        assert_eq!(tracer.refused(), refused);
    }
    drop(tracer.serve_leader(&incoming, names::method::ACCEPT));
    drop(tracer.serve(&Incoming::Absent, names::method::READ));
    assert_eq!(tracer.refused(), 2);
    for (refused, method) in [
        (3, names::method::TAIL),
        (4, names::method::PREPARE),
        (5, names::method::FILL),
        (6, names::method::ACCEPT),
    ] {
        drop(tracer.serve(&incoming, method));
        assert_eq!(tracer.refused(), refused, "{method}");
    }
}

#[test]
fn no_span_is_made_while_tracing_is_off() {
    let tracer = Tracer::off();
    let context = Incoming::read(SAMPLED.as_bytes()).sampled().unwrap();
    assert!(tracer.below(Some(&context), "x").is_none());
    assert!(tracer.serve(&Incoming::Sampled(context), "x").is_none());
    assert!(tracer.serve(&Incoming::Absent, "x").is_none());
}
