//! The client connections.

use std::{collections::BTreeMap, time::Duration};

use anyhow::Result;
use router_ebpf::maps::{
    Chat, ChatKey, FLOW_CHAT, Flow, STATE_CLIENT_FIN, STATE_CLOSED, STATE_EXPIRED,
    STATE_REPLICA_FIN, Tuple,
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
    /// `open`, `client_fin`, `replica_fin`, `closed` or `expired`.
    pub state: &'static str,
    /// Milliseconds since the replica accepted.
    pub age_ms: u64,
    /// Milliseconds since the client last sent.
    pub idle_ms: u64,
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
    FlowLine {
        client: text::client(tuple).to_string(),
        vip: text::server(tuple).to_string(),
        service: names.service(flow.service),
        replica: names.replica(flow.replica),
        replica_address: text::endpoint(&flow.replica_addr, flow.replica_port).to_string(),
        chat,
        state: state(flow.state),
        age_ms: read::ms_since(now, flow.since),
        idle_ms: read::ms_since(now, flow.last_seen),
    }
}

/// The one word that says the most about the `STATE_*` bits.
const fn state(bits: u32) -> &'static str {
    match bits {
        _ if bits & STATE_EXPIRED != 0 => "expired",
        _ if bits & STATE_CLOSED != 0 => "closed",
        _ if bits & STATE_CLIENT_FIN != 0 => "client_fin",
        _ if bits & STATE_REPLICA_FIN != 0 => "replica_fin",
        _ => "open",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_state_is_shown() {
        assert_eq!(state(0), "open");
        assert_eq!(state(STATE_CLIENT_FIN), "client_fin");
        assert_eq!(state(STATE_CLIENT_FIN | STATE_REPLICA_FIN | STATE_CLOSED), "closed");
        assert_eq!(state(STATE_CLOSED | STATE_EXPIRED), "expired");
        assert_eq!(state(router_ebpf::maps::STATE_SYN_SEEN), "open");
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
        };
        let key = ChatKey { cookie: 0xab, service: 1, reserved: 0 };
        let chat = Chat {
            state: Chat::pack(2, 1),
            bound_at: 0,
            since: 0,
            key: router_ebpf::maps::Name::new(b"42"),
            source: 0,
        };
        let now = Duration::from_secs(10);
        let names = Names::default();
        let chats = BTreeMap::from([(key, chat)]);
        let shown = line(&names, &chats, now, &Tuple::default(), &flow);
        assert_eq!(shown.chat.as_deref(), Some("42"));
        assert_eq!((shown.age_ms, shown.idle_ms), (6000, 1000));
        let shown = line(&names, &BTreeMap::new(), now, &Tuple::default(), &flow);
        assert_eq!(shown.chat.as_deref(), Some("00000000000000ab"));
        let spread = Flow { flags: 0, ..flow };
        assert_eq!(line(&names, &chats, now, &Tuple::default(), &spread).chat, None);
    }
}
