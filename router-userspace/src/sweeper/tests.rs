use router_ebpf::maps::{REPLICA_READY, STATE_CLIENT_FIN, STATE_CLOSED};

use super::*;

const LINGER: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const SERVED: Place = Place { idle_timeout: Some(HOUR), is_gone: false };

fn flow(state: u32) -> Flow {
    Flow {
        last_seen: 1_000_000_000_000,
        since: 0,
        cookie: 7,
        replica_addr: [1; 16],
        replica_port: [0, 80],
        flags: FLOW_CHAT,
        window_shift: 0,
        service: 3,
        replica: 5,
        state,
        seq_delta: 0,
        ts_delta: 0,
        client_isn: 0,
        server_isn: 0,
    }
}

fn after(seconds: u64) -> Duration {
    Duration::from_secs(1000 + seconds)
}

#[test]
fn a_live_flow_is_kept_until_it_is_idle() {
    for state in [0, STATE_CLIENT_FIN] {
        let fate = |seconds| judge::flow(&flow(state), SERVED, after(seconds), LINGER);
        assert_eq!(fate(0), Fate::Keep);
        assert_eq!(fate(3599), Fate::Keep);
        assert_eq!(fate(3600), Fate::Expire);
    }
    // A clock that was read before the segment came.
    assert_eq!(judge::flow(&flow(0), SERVED, Duration::ZERO, LINGER), Fate::Keep);
}

#[test]
fn an_ended_flow_lingers_and_goes() {
    for state in [STATE_CLOSED, STATE_EXPIRED, STATE_CLOSED | STATE_EXPIRED] {
        let fate = |seconds| judge::flow(&flow(state), SERVED, after(seconds), LINGER);
        assert_eq!(fate(59), Fate::Keep);
        assert_eq!(fate(60), Fate::Remove);
    }
}

#[test]
fn a_flow_without_a_service_or_a_replica_ends() {
    let no_service = Place { idle_timeout: None, is_gone: false };
    assert_eq!(judge::flow(&flow(0), no_service, after(0), LINGER), Fate::Expire);
    let gone = Place { is_gone: true, ..SERVED };
    assert_eq!(judge::flow(&flow(0), gone, after(0), LINGER), Fate::Expire);
    assert_eq!(judge::flow(&flow(STATE_EXPIRED), gone, after(0), LINGER), Fate::Keep);
}

#[test]
fn a_chat_counts_a_flow_less_only_at_its_home() {
    let chat = |home, flows| Chat {
        state: Chat::pack(home, flows),
        bound_at: 7,
        since: 0,
        key: Name::EMPTY,
        source: 0,
    };
    let now = Duration::from_secs(2);
    let released = |home, flows| {
        let released = judge::released(&chat(home, flows), 5, now);
        released.map(|chat| (chat.state, chat.bound_at))
    };
    assert_eq!(released(5, 2), Some((Chat::pack(5, 1), 7)));
    assert_eq!(released(5, 1), Some((Chat::pack(5, 0), 2_000_000_001)), "it lingers from now on");
    assert_eq!(released(5, 0), None);
    assert_eq!(released(4, 2), None);
}

#[test]
fn a_chat_is_over_without_flows_and_bindings() {
    let chat = |flows| Chat {
        state: Chat::pack(1, flows),
        bound_at: 1_000_000_000_000,
        since: 0,
        key: Name::EMPTY,
        source: 0,
    };
    let (short, long) = (Duration::from_secs(30), Duration::from_secs(300));
    assert!(!judge::is_over(&chat(0), short, after(119)));
    assert!(judge::is_over(&chat(0), short, after(120)));
    assert!(!judge::is_over(&chat(0), long, after(299)));
    assert!(judge::is_over(&chat(0), long, after(300)));
    assert!(!judge::is_over(&chat(1), short, after(10_000)));
}

#[test]
fn a_pin_follows_the_identity_of_its_replica() {
    let replica = |state, service, name: &[u8]| Replica {
        v4: [0; 16],
        v6: [0; 16],
        port: [0; 2],
        state,
        reserved: 0,
        service,
        weight: 1,
        name: Name::new(name),
    };
    let mut replicas = HashMap::from([
        (1, replica(REPLICA_GONE, 0, b"a")),
        (2, replica(REPLICA_READY, 0, b"b")),
        (3, replica(REPLICA_READY, 9, b"a")),
    ]);
    assert_eq!(successor(&replicas, 1), None);
    replicas.insert(4, replica(REPLICA_READY, 0, b"a"));
    assert_eq!(successor(&replicas, 1), Some(4));
    assert_eq!(successor(&replicas, 2), None);
    assert_eq!(successor(&replicas, NO_REPLICA), None);
}

#[test]
fn the_other_side_of_a_flow_has_the_replica_as_its_server() {
    let tuple =
        Tuple { client: [9; 16], server: [2; 16], client_port: [1, 2], server_port: [3, 4] };
    let back = back_of(&tuple, &flow(0));
    assert_eq!((back.client, back.client_port), (tuple.client, tuple.client_port));
    assert_eq!((back.server, back.server_port), ([1; 16], [0, 80]));
}
