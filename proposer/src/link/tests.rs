//! Times of a link's reports.

use super::*;

#[test]
fn answer_is_as_old_as_the_report_that_it_answers() {
    let millis = Duration::from_millis;
    let (outbox, _inbox) = mpsc::channel(1);
    let mut reports = Reports::new((AcceptorUuid::from_u128(1), RunNumber::from_random(1)), outbox);
    for number in 1..=3 {
        reports.sent(number, millis(100 * number));
    }
    assert_eq!(reports.answered(2), millis(200));
    assert_eq!(
        reports.answered(2),
        millis(200),
        "sent again, because something changed"
    );
    assert_eq!(
        reports.answered(0),
        millis(300),
        "an acceptor that does not number its answers"
    );
    assert_eq!(reports.answered(1), Duration::ZERO, "too old to be known");
    assert_eq!(reports.answered(7), Duration::ZERO, "never sent");
    for number in 4..200 {
        reports.sent(number, millis(100 * number));
    }
    assert_eq!(reports.sent.len(), REPORTS_REMEMBERED);
    assert_eq!(reports.answered(5), Duration::ZERO, "no longer remembered");
}
