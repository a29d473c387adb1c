//! The client connections.

use std::{collections::BTreeMap, time::Duration};

use anyhow::Result;
use router_ebpf::maps::{
    Chat, ChatKey, FLOW_CHAT, Flow, STATE_CLIENT_FIN, STATE_ENDED, STATE_REPLICA_FIN, Service,
    Tuple,
};
use serde::Serialize;

use crate::maps::{names::Names, read, secrets::monotonic, tables::Tables, text};

/// Which flows to show: those of which all holds that is said.
#[derive(Clone, Copy, Debug, Default)]
pub struct Which<'a> {
    /// They are of the service with this name.
    pub service: Option<&'a str>,
    /// Their chat has this readable key.
    pub key: Option<&'a str>,
    /// They go to the replica with this name.
    pub replica: Option<&'a str>,
}

/// A flow. JSON: an array of these.
#[derive(Debug, Serialize)]
pub struct FlowLine {
    /// The client's address and port.
    pub client: String,
    /// The VIP that it talks to.
    pub vip: String,
    /// Its service.
    pub service: String,
    /// The replica that carries it.
    pub replica: String,
    /// That replica's address and port.
    pub replica_address: String,
    /// The readable key of its chat; null if it belongs to none.
    pub chat: Option<String>,
    /// How often it was bound: once, and again with each request that took it to another replica.
    pub bound: u32,
    /// `established`, `client_closed`, `replica_closed`, `closing`; or `ended`, for a moment.
    pub state: &'static str,
    /// Milliseconds since the replica accepted.
    pub age_ms: u64,
    /// Milliseconds since the client last sent, or an end closed.
    pub idle_ms: u64,
    /// Milliseconds until it is ended unless the client sends something; null if it has ended, or if its service is
    /// gone.
    pub ends_in_ms: Option<u64>,
}

/// What `roost flows` prints.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub struct FlowsReport(pub Vec<FlowLine>);

/// Reads the flows.
pub fn flows(tables: &Tables, which: Which<'_>) -> Result<FlowsReport> {
    let names = Names::read(tables)?;
    names.check(which.service)?;
    let chats: BTreeMap<ChatKey, Chat> = read::sorted(&tables.chats)?;
    let flows: BTreeMap<Tuple, Flow> = read::sorted(&tables.flows)?;
    let now = monotonic();
    let lines = flows.iter().map(|(tuple, flow)| line(&names, &chats, now, tuple, flow));
    let asked = |wanted: Option<&str>, is: Option<&str>| wanted.is_none() || wanted == is;
    let shown = lines.filter(|line| {
        asked(which.service, Some(&line.service))
            && asked(which.key, line.chat.as_deref())
            && asked(which.replica, Some(&line.replica))
    });
    Ok(FlowsReport(shown.collect()))
}

fn line(
    names: &Names,
    chats: &BTreeMap<ChatKey, Chat>,
    now: Duration,
    tuple: &Tuple,
    flow: &Flow,
) -> FlowLine {
    let chat = (flow.flags & FLOW_CHAT != 0).then(|| {
        let key = ChatKey { cookie: flow.cookie, service: flow.service, reserved: 0 };
        match chats.get(&key) {
            Some(chat) => names.chat(flow.service, chat),
            None => text::hex(flow.cookie),
        }
    });
    let idle_ms = read::ms_since(now, flow.last_seen);
    FlowLine {
        client: text::client(tuple).to_string(),
        vip: text::server(tuple).to_string(),
        service: names.service(flow.service),
        replica: names.replica(flow.replica),
        replica_address: text::endpoint(&flow.replica_addr, flow.replica_port).to_string(),
        chat,
        bound: flow.bound_again.saturating_add(1),
        state: state(flow.state),
        age_ms: read::ms_since(now, flow.since),
        idle_ms,
        ends_in_ms: names
            .services
            .get(&flow.service)
            .and_then(|service| Some(time_out_ms(service, flow.state)?.saturating_sub(idle_ms))),
    }
}

/// Who has closed a flow that has not ended.
const fn closed(bits: u32) -> Option<(bool, bool)> {
    if bits & STATE_ENDED != 0 {
        return None;
    }
    Some((bits & STATE_CLIENT_FIN != 0, bits & STATE_REPLICA_FIN != 0))
}

/// The word for the `STATE_*` bits.
const fn state(bits: u32) -> &'static str {
    match closed(bits) {
        Some((false, false)) => "established",
        Some((true, false)) => "client_closed",
        Some((false, true)) => "replica_closed",
        Some((true, true)) => "closing",
        None => "ended",
    }
}

/// For how long the client may be silent; `None`: it has ended.
fn time_out_ms(service: &Service, bits: u32) -> Option<u64> {
    let seconds = match closed(bits)? {
        (false, false) => service.idle_timeout,
        (true, false) => service.client_closed_timeout,
        (false, true) => service.replica_closed_timeout,
        (true, true) => service.closing_timeout,
    };
    Some(u64::from(seconds) * 1000)
}

#[cfg(test)]
mod tests {
    use router_ebpf::maps::{STATE_CLOSED, STATE_COUNTED, STATE_EXPIRED, STATE_SYN_SEEN};

    use super::*;

    #[test]
    fn a_state_has_its_word_and_its_time() {
        let service = Service { idle_timeout: 10_800, ..Service::EMPTY };
        for (bits, word, seconds) in [
            (0, "established", Some(10_800)),
            (STATE_SYN_SEEN | STATE_COUNTED, "established", Some(10_800)),
            (STATE_CLIENT_FIN, "client_closed", Some(120)),
            (STATE_REPLICA_FIN, "replica_closed", Some(120)),
            (STATE_CLIENT_FIN | STATE_REPLICA_FIN, "closing", Some(60)),
            (STATE_CLIENT_FIN | STATE_REPLICA_FIN | STATE_CLOSED, "ended", None),
            (STATE_EXPIRED, "ended", None),
        ] {
            assert_eq!(state(bits), word);
            assert_eq!(
                time_out_ms(&service, bits),
                seconds.map(|seconds| seconds * 1000),
                "{word}"
            );
        }
    }

    #[test]
    fn a_flow_names_its_chat_as_long_as_that_is_known() {
        let flow = Flow {
            last_seen: 9_000_000_000,
            since: 4_000_000_000,
            cookie: 0xab,
            replica_addr: crate::plan::addr::to_map("10.0.0.1".parse().unwrap()),
            replica_port: 8080u16.to_be_bytes(),
            flags: FLOW_CHAT,
            window_shift: 0,
            service: 1,
            replica: 2,
            state: 0,
            seq_delta: 0,
            ts_delta: 0,
            client_isn: 0,
            server_isn: 0,
            acked: 0,
            sent: 0,
            client_fin: 0,
            replica_fin: 0,
            share: 0,
            bound_again: 3,
        };
        let key = ChatKey { cookie: 0xab, service: 1, reserved: 0 };
        let chat = Chat {
            state: Chat::pack(2, 1),
            ended_at: 0,
            since: 0,
            key: router_ebpf::maps::Name::new(b"42"),
            source: 0,
            share: 0,
            reserved: 0,
        };
        let now = Duration::from_secs(10);
        let names = Names::default();
        let chats = BTreeMap::from([(key, chat)]);
        let shown = line(&names, &chats, now, &Tuple::default(), &flow);
        assert_eq!(shown.chat.as_deref(), Some("42"));
        assert_eq!(shown.bound, 4);
        assert_eq!((shown.age_ms, shown.idle_ms, shown.ends_in_ms), (6000, 1000, None));
        let service = Service { idle_timeout: 5, ..Service::EMPTY };
        let names_it = Names { services: [(1, service)].into(), ..Names::default() };
        let shown_so = line(&names_it, &chats, now, &Tuple::default(), &flow);
        assert_eq!(shown_so.ends_in_ms, Some(4000));
        let shown = line(&names, &BTreeMap::new(), now, &Tuple::default(), &flow);
        assert_eq!(shown.chat.as_deref(), Some("00000000000000ab"));
        let spread = Flow { flags: 0, ..flow };
        assert_eq!(line(&names, &chats, now, &Tuple::default(), &spread).chat, None);
    }
}
