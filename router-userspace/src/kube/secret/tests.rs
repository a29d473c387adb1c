use proptest::prelude::*;

use super::*;

const A: Key = [1, 1];
const B: Key = [2, 2];
const CHATS: Key = [9, 9];
const DAY: Duration = Duration::from_secs(24 * 3600);
/// The longest that a SYN cookie is good for.
const IN_FLIGHT: Duration = Duration::from_secs(138);

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn options(rotate: Duration) -> SecretOptions {
    SecretOptions::new("roost", Some(rotate).filter(|rotate| !rotate.is_zero()))
}

fn machine(rotate: Duration, handshake: Key) -> Machine {
    let keys = Keys { handshake, handshake_before: handshake, chat: CHATS };
    Machine::new(options(rotate), keys)
}

fn content(handshake: Key) -> Content {
    Content { handshake: Some(handshake), chats: Some(CHATS), ..Content::default() }
}

fn see(machine: &mut Machine, content: Content, now: Duration) {
    see_since(machine, content, now, Some(now));
}

/// `at` is what the annotation says.
fn see_since(machine: &mut Machine, content: Content, now: Duration, at: Option<Duration>) {
    let rotated_at = at.map(|at| at.as_secs() as i64);
    let age = at.map_or(Duration::ZERO, |at| now.saturating_sub(at));
    machine.observe(Seen { content, rotated_at, age }, now, |_| Duration::ZERO);
}

fn accepts(keys: Keys, key: Key) -> bool {
    keys.handshake == key || keys.handshake_before == key
}

#[test]
fn an_absent_secret_is_created_with_the_keys_of_the_maps() {
    let mut machine = machine(DAY, A);
    assert_eq!((machine.step(secs(0)), machine.next()), (None, None));
    machine.absent();
    assert_eq!((machine.step(secs(0)), machine.next()), (Some(Step::Create), Some(secs(0))));
    assert!(machine.after(Step::Create, B) == content(A));
    // Another was quicker.
    see(&mut machine, Content { chats: Some([7, 7]), ..content(B) }, secs(1));
    assert!(machine.keys() == Keys { handshake: B, handshake_before: A, chat: [7, 7] });
    assert_eq!(machine.step(secs(1)), None);
    // Deleted in the middle of a rotation, it comes back as it was.
    let staged = Content { next: Some([3, 3]), chats: Some([7, 7]), ..content(B) };
    see(&mut machine, staged, secs(1000));
    let keys = machine.keys();
    machine.absent();
    assert!(machine.after(Step::Create, A) == staged);
    assert!(machine.keys() == keys);
}

#[test]
fn what_a_secret_lacks_is_added() {
    let mut machine = machine(DAY, A);
    see(&mut machine, Content { handshake: None, ..content(A) }, secs(0));
    assert_eq!(machine.step(secs(0)), Some(Step::Complete));
    assert!(machine.after(Step::Complete, B) == content(A));
    assert!(machine.keys().handshake == A && !machine.is_read());
    see(&mut machine, Content { chats: None, ..content(B) }, secs(1));
    assert!(machine.after(Step::Complete, A).chats == Some(CHATS));
}

#[test]
fn a_malformed_secret_changes_nothing() {
    let mut machine = machine(DAY, A);
    see(&mut machine, content(B), secs(0));
    let keys = machine.keys();
    machine.malformed();
    machine.tick(secs(1));
    assert!(machine.keys() == keys && !machine.is_read());
    assert_eq!(machine.step(secs(1_000_000)), None);
}

#[test]
fn a_rotation_has_two_steps() {
    let rotate = secs(900);
    let mut machine = machine(rotate, A);
    see(&mut machine, content(A), secs(0));
    assert_eq!(machine.step(secs(899)), None);
    assert_eq!((machine.next(), machine.step(secs(900))), (Some(secs(900)), Some(Step::Announce)));
    let announced = machine.after(Step::Announce, B);
    see(&mut machine, announced, secs(900));
    assert!(machine.keys() == Keys { handshake: A, handshake_before: B, chat: CHATS });
    assert_eq!(machine.step(secs(1199)), None);
    assert_eq!(machine.step(secs(1200)), Some(Step::Use));
    let used = machine.after(Step::Use, [3, 3]);
    assert!(used == Content { before: Some(A), ..content(B) });
    see(&mut machine, used, secs(1200));
    assert!(machine.keys() == Keys { handshake: B, handshake_before: A, chat: CHATS });
    // In flight until long before the next step, which forgets it.
    assert_eq!(machine.next().map(|next| next > secs(1200) + IN_FLIGHT), Some(true));
    assert_eq!(machine.step(secs(2099)), None);
    assert_eq!(machine.step(secs(2100)), Some(Step::Announce));
    assert!(machine.after(Step::Announce, [3, 3]).before.is_none());
}

#[test]
fn the_same_event_again_puts_nothing_off() {
    let mut machine = machine(DAY, A);
    let at = Some(secs(0));
    see_since(&mut machine, content(A), secs(0), at);
    for minutes in 1..60 {
        see_since(&mut machine, content(A), secs(minutes * 60), at);
        assert_eq!(machine.next(), Some(DAY));
    }
}

#[test]
fn what_other_clocks_say_hurries_nothing() {
    let now = DAY * 400;
    for (said, due) in [
        (None, now + DAY),
        // Ahead of this one by ten years.
        (Some(DAY * 4000), now + DAY),
        // Long ago, as after a restart.
        (Some(DAY), now + STAGE),
        (Some(now - secs(3600)), now + DAY - secs(3600)),
    ] {
        let mut machine = machine(DAY, A);
        see_since(&mut machine, content(A), now, said);
        assert_eq!(machine.next(), Some(due), "{said:?}");
    }
    // The second step counts from when this node saw the first, so that all have.
    let mut machine = machine(DAY, A);
    see_since(&mut machine, Content { next: Some(B), ..content(A) }, now, Some(DAY));
    assert_eq!(machine.next(), Some(now + STAGE));
}

#[test]
fn without_rotation_only_what_was_begun_is_ended() {
    let mut machine = machine(Duration::ZERO, A);
    see(&mut machine, content(A), secs(0));
    assert_eq!((machine.next(), machine.step(DAY * 400)), (None, None));
    // By hand, in two steps.
    see(&mut machine, Content { next: Some(B), ..content(A) }, secs(10));
    assert_eq!(machine.step(secs(10) + STAGE), Some(Step::Use));
}

#[test]
fn a_key_replaced_by_hand_is_accepted_for_what_is_in_flight() {
    for rest in [(None, None), (None, Some([8, 8])), (Some([7, 7]), None)] {
        let of = |key| Content { next: rest.0, before: rest.1, ..content(key) };
        let mut machine = machine(DAY, A);
        see(&mut machine, of(A), secs(0));
        let besides = rest.0.or(rest.1);
        assert!(machine.keys().handshake_before == besides.unwrap_or(A));
        see(&mut machine, of(B), secs(1000));
        assert!(machine.keys() == Keys { handshake: B, handshake_before: A, chat: CHATS });
        let end = secs(1000) + HOLD;
        assert!(machine.next().is_some_and(|next| next <= end) && HOLD > IN_FLIGHT);
        machine.tick(end - secs(1));
        assert!(accepts(machine.keys(), A));
        machine.tick(end);
        assert!(machine.keys().handshake_before == besides.unwrap_or(B));
    }
}

/// A daemon and how much of the Secret's history it has seen.
struct Node {
    machine: Machine,
    seen: usize,
}

#[derive(Clone, Debug)]
enum Happens {
    Time(u64),
    /// The watch brings the next version, or a list the last.
    Sees(usize, bool),
    /// A daemon does what it thinks is due. The server refuses it if something is newer.
    Acts(usize),
    Restarts(usize),
    Deleted,
}

fn happens() -> impl Strategy<Value = Happens> {
    prop_oneof![
        3 => (1u64..900).prop_map(Happens::Time),
        6 => (0usize..4, any::<bool>()).prop_map(|(node, last)| Happens::Sees(node, last)),
        6 => (0usize..4).prop_map(Happens::Acts),
        1 => (0usize..4).prop_map(Happens::Restarts),
        1 => Just(Happens::Deleted),
    ]
}

proptest! {
    #[test]
    fn neighbours_accept_each_other(happens in proptest::collection::vec(happens(), 1..200)) {
        let rotate = secs(900);
        let mut history = vec![(content(A), secs(0))];
        let mut is_there = true;
        let mut nodes: Vec<Node> =
            (0..4).map(|_| Node { machine: machine(rotate, A), seen: 0 }).collect();
        for node in &mut nodes {
            see(&mut node.machine, content(A), secs(0));
        }
        let (mut now, mut new) = (secs(0), 100);
        for what in happens {
            match what {
                Happens::Time(seconds) => now += secs(seconds),
                Happens::Sees(n, last) => {
                    let node = &mut nodes[n];
                    let end = history.len() - 1;
                    node.seen = if last { end } else { (node.seen + 1).min(end) };
                    if is_there || node.seen < end {
                        let (content, at) = history[node.seen];
                        see_since(&mut node.machine, content, now, Some(at));
                    } else {
                        node.machine.absent();
                    }
                }
                Happens::Acts(n) => {
                    let Some(step) = nodes[n].machine.step(now) else { continue };
                    new += 1;
                    let after = nodes[n].machine.after(step, [new; 2]);
                    let accepted = match step {
                        Step::Create => !is_there,
                        _ => is_there && nodes[n].seen == history.len() - 1,
                    };
                    if accepted && step == Step::Create {
                        // As it was for this node, which may be a step behind: it is that step again.
                        history.truncate(nodes[n].seen);
                    }
                    if accepted {
                        history.push((after, now));
                        is_there = true;
                    }
                }
                Happens::Restarts(n) => {
                    let keys = nodes[n].machine.keys();
                    nodes[n].machine = Machine::new(options(rotate), keys);
                }
                // Only when all know the last step, so that whoever creates it anew takes none back.
                Happens::Deleted => {
                    let end = history.len() - 1;
                    is_there &= nodes.iter().any(|node| node.seen != end);
                }
            }
            nodes.iter_mut().for_each(|node| node.machine.tick(now));
            for a in &nodes {
                for b in nodes.iter().filter(|b| a.seen.abs_diff(b.seen) <= 1) {
                    prop_assert!(
                        accepts(a.machine.keys(), b.machine.keys().handshake),
                        "at {now:?} step {} does not accept step {}", a.seen, b.seen
                    );
                    prop_assert!(a.machine.keys().chat == CHATS);
                }
            }
        }
    }
}
