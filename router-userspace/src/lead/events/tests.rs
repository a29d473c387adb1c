use super::*;

fn problem(service: &str, message: &str) -> Problem {
    Problem {
        service: ObjectKey::new("default", service),
        uid: format!("uid-of-{service}"),
        reason: Reason::InvalidAnnotation,
        message: message.to_owned(),
    }
}

const SECOND: Duration = Duration::from_secs(1);

fn due(ledger: &Ledger, now: Instant) -> Vec<Write> {
    ledger.due("node-1", usize::MAX, now, Timestamp::UNIX_EPOCH)
}

/// Writes all that is due, and returns what it was.
fn write(ledger: &mut Ledger, now: Instant) -> Vec<(String, How)> {
    let all = due(ledger, now);
    for write in &all {
        ledger.wrote(&write.note, Written::Yes, now);
    }
    all.into_iter().map(|write| (write.note.text, write.how)).collect()
}

#[test]
fn an_event_has_what_the_api_requires() {
    let mut ledger = Ledger::default();
    let long = "ä".repeat(600);
    ledger.problems([&problem("chat", &long)], Instant::now());
    let all = due(&ledger, Instant::now());
    let How::Create(event) = &all[0].how else { panic!("{all:?}") };
    let json = serde_json::to_value(event).unwrap();
    assert_eq!(json["note"].as_str().map(str::len), Some(1024));
    assert_eq!(json["eventTime"], "1970-01-01T00:00:00.000000Z");
    assert_eq!(json["metadata"]["namespace"], "default");
    assert_eq!(json["regarding"]["namespace"], "default");
    assert_eq!(json["regarding"]["uid"], "uid-of-chat");
    assert_eq!(json["reportingInstance"], "node-1");
    assert_eq!(json["reason"], "InvalidAnnotation");
    let name = json["metadata"]["name"].as_str().unwrap();
    assert!(name.starts_with("chat.") && name.len() == 21, "{name}");
    // Another daemon gives it the same name, and another problem gets another.
    let mut other = Ledger::default();
    other.problems([&problem("chat", &long), &problem("chat", "short")], Instant::now());
    let names: Vec<_> = due(&other, Instant::now()).iter().map(|w| w.at.name.clone()).collect();
    assert_eq!(names.iter().filter(|other| *other == name).count(), 1, "{names:?}");
}

#[test]
fn a_problem_is_told_once_and_again_only_after_a_long_time() {
    let mut ledger = Ledger::default();
    let begin = Instant::now();
    let (a, b) = (problem("chat", "a"), problem("chat", "b"));
    ledger.problems([&a, &b], begin);
    assert_eq!(write(&mut ledger, begin).len(), 2);
    for second in 1..100 {
        let now = begin + SECOND * second;
        ledger.problems([&b, &a], now);
        assert_eq!(write(&mut ledger, now).len(), 0);
    }
    ledger.problems([&a], begin + SECOND * 100);
    assert_eq!(ledger.next(), Some(begin + AGAIN));
    let again = write(&mut ledger, begin + AGAIN);
    assert_eq!(again.len(), 1, "{again:?}");
    let How::Series(patch) = &again[0].1 else { panic!("{again:?}") };
    assert_eq!(patch["series"]["count"], 2);
    assert_eq!(patch["series"]["lastObservedTime"], "1970-01-01T00:00:00.000000Z");
    // The one that is no more is the same Event when it comes back soon, and a new one later.
    ledger.problems([&a, &b], begin + AGAIN);
    let back = write(&mut ledger, begin + AGAIN);
    assert!(matches!(&back[..], [(text, How::Series(_))] if text == "b"), "{back:?}");
    ledger.problems([&a], begin + AGAIN + SECOND);
    let late = begin + AGAIN + MEMORY + SECOND * 2;
    ledger.problems([&a], late);
    ledger.problems([&a, &b], late);
    let back = write(&mut ledger, late);
    assert!(
        back.iter().any(|(text, how)| text == "b" && matches!(how, How::Create(_))),
        "{back:?}"
    );
}

#[test]
fn one_that_is_forgotten_by_the_server_is_written_anew() {
    let mut ledger = Ledger::default();
    let begin = Instant::now();
    ledger.problems([&problem("chat", "a")], begin);
    write(&mut ledger, begin);
    let later = begin + AGAIN;
    let all = due(&ledger, later);
    ledger.wrote(&all[0].note, Written::Gone, later);
    let again = write(&mut ledger, later);
    assert!(matches!(&again[..], [(_, How::Create(_))]), "{again:?}");
    assert_eq!(ledger.next(), Some(later + AGAIN));
}

#[test]
fn what_failed_is_tried_again_later_and_holds_nothing_up() {
    let mut ledger = Ledger::default();
    let begin = Instant::now();
    let (a, b) = (problem("chat", "a"), problem("chat", "b"));
    ledger.problems([&a], begin);
    let note = due(&ledger, begin)[0].note.clone();
    ledger.wrote(&note, Written::No(SECOND * 3), begin);
    assert!(ledger.has_failed());
    let next = ledger.next().unwrap();
    assert!(next >= begin + SECOND * 3, "{:?}", next - begin);
    ledger.problems([&a, &b], begin + SECOND);
    assert_eq!(write(&mut ledger, begin + SECOND).len(), 1, "the other one");
    assert!(ledger.has_failed());
    assert_eq!(write(&mut ledger, next).len(), 1);
    assert!(!ledger.has_failed());
    // One that is no problem any more is not tried again.
    ledger.problems([&problem("chat", "c")], next);
    let note = due(&ledger, next)[0].note.clone();
    ledger.wrote(&note, Written::No(Duration::ZERO), next);
    ledger.problems([], next);
    assert!(!ledger.has_failed());
    assert_eq!(ledger.next(), None);
}

#[test]
fn what_is_due_waits_for_what_has_failed() {
    let mut ledger = Ledger::default();
    let begin = Instant::now();
    ledger.problems([&problem("chat", "a"), &problem("chat", "b"), &problem("other", "c")], begin);
    let all = due(&ledger, begin);
    // Nothing has failed.
    ledger.put_off(begin);
    assert_eq!(due(&ledger, begin).len(), 3);
    ledger.wrote(&all[0].note, Written::No(SECOND * 3), begin);
    let next = ledger.entries[&all[0].note].due.unwrap();
    ledger.put_off_one(&all[1].note, begin);
    assert_eq!(due(&ledger, begin).len(), 1, "the other Service");
    ledger.put_off(begin);
    assert_eq!(ledger.next(), Some(next));
    assert_eq!(write(&mut ledger, next).len(), 3);
    assert!(!ledger.has_failed());
}

#[test]
fn a_service_that_changes_all_the_time_is_told_of_now_and_then() {
    let mut ledger = Ledger::default();
    let begin = Instant::now();
    let mut written = 0;
    // A new problem each second, for an hour.
    for second in 0..3600 {
        let now = begin + SECOND * second;
        let other = problem("quiet", "the same");
        ledger.problems([&problem("chat", &second.to_string()), &other], now);
        written += write(&mut ledger, now).iter().filter(|(text, _)| text != "the same").count();
    }
    assert!((30..=40).contains(&written), "{written}");
    // That holds up what comes later for a short time only.
    let late = begin + Duration::from_secs(3600);
    ledger.problems([&problem("chat", "last")], late);
    assert!(ledger.next().unwrap() <= late + REFILL * 2);
}

#[test]
fn an_address_is_told_once() {
    let mut ledger = Ledger::default();
    let begin = Instant::now();
    let note = Note::given(ObjectKey::new("default", "chat"), "uid".into(), "192.0.2.1".into());
    ledger.happened(note.clone(), begin);
    ledger.problems([], begin);
    let all = write(&mut ledger, begin);
    let How::Create(event) = &all[0].1 else { panic!("{all:?}") };
    assert_eq!(
        (event.type_.as_deref(), event.reason.as_deref()),
        (Some("Normal"), Some("AddressGiven"))
    );
    assert_eq!(ledger.next(), None);
    // Taken away by somebody, and given again.
    ledger.happened(note, begin + SECOND);
    assert_eq!(write(&mut ledger, begin + SECOND).len(), 1);
}
