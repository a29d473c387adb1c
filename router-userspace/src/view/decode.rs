//! Map entries as JSON objects, with the names of the schema's fields.
//!
//! Numbers are numbers; addresses, words for constants and 64-bit identities (cookies, digests,
//! as 16 hexadecimal digits) are text. What is secret is not shown, only a fingerprint of it.

use router_ebpf::{
    maps::{
        ALL_SHARES, Addr, CHAT_COUNTED, Chat, ChatCookie, ChatKey, ChunkKey, Flow, FlowBack, Host,
        HostConn, Load, Mac, NO_REPLICA, Pending, Replica, SERVICE_SHARES, STATE_CLIENT_FIN,
        STATE_REPLICA_FIN, Secrets, Service, Share, Sharing, SourceRange, Stash, Tuple, Vip,
    },
    siphash,
};
use serde_json::{Value, json};

use crate::{
    maps::{
        names::{self, Names},
        text,
    },
    plan::addr::{PORT_BITS, from_map, of_replica, prefix_of, source_text},
};

/// A replica's number, or null.
fn replica_number(number: u32) -> Option<u32> {
    (number != NO_REPLICA).then_some(number)
}

/// A key of `VIPS`.
pub fn vip(prefix_len: u32, vip: &Vip) -> Value {
    json!({ "prefix": prefix(prefix_len, vip), "port": u16::from_be_bytes(vip.port) })
}

/// An address, or a prefix if it is more than one address.
pub fn prefix(prefix_len: u32, vip: &Vip) -> String {
    prefix_of(prefix_len.saturating_sub(PORT_BITS), vip.addr).to_string()
}

/// A key of `SOURCE_RANGES`.
pub fn source_range(prefix_len: u32, range: &SourceRange) -> Value {
    json!({
        "service": range.service(),
        "list": if range.is_proxy() { "proxy_protocol_from" } else { "allowed_sources" },
        "prefix": source_text(prefix_len, range),
    })
}

/// A key of `FLOWS`, `ENDED` and `STASH` (`server` is the VIP), of `FLOWS_BACK`, `ENDED_BACK` and `PENDING` (the
/// replica).
pub fn tuple(tuple: &Tuple) -> Value {
    json!({
        "client": text::client(tuple).to_string(),
        "server": text::server(tuple).to_string(),
    })
}

/// A key of `CHATS`.
pub fn chat_key(key: &ChatKey) -> Value {
    json!({ "service": key.service, "cookie": text::hex(key.cookie) })
}

/// A key of `CHAT_COOKIES`.
pub fn key_hash(key: &ChatKey) -> Value {
    json!({ "service": key.service, "key_hash": text::hex(key.cookie) })
}

/// A value of `SERVICES`.
pub fn service(service: &Service) -> Value {
    json!({
        "name": text::name(&service.name),
        "policy": names::policy(service.policy),
        "key_sources": names::key_sources(service),
        "on_missing_key": names::on_missing_key(service.on_missing_key),
        "on_reuse": names::on_reuse(service.on_reuse),
        "missing_replica": replica_number(service.missing_replica),
        "width": service.width.max(1),
        "usable": service.usable,
        "slots": replica_number(service.slots),
        "generation": service.generation,
        "reading": service.reading,
        "digest": text::hex(service.digest),
        "idle_timeout": service.idle_timeout,
        "handshake_timeout": service.handshake_timeout,
        "client_closed_timeout": service.client_closed_timeout,
        "replica_closed_timeout": service.replica_closed_timeout,
        "closing_timeout": service.closing_timeout,
        "linger": service.linger,
        "restricted": service.restricted != 0,
        "proxied": service.proxied != 0,
        "mss4": service.mss4,
        "mss6": service.mss6,
    })
}

/// A value of `HOST`.
pub fn host(host: &Host) -> Value {
    let addresses = |of: &[Addr; 2]| {
        let there = of.iter().filter(|addr| **addr != Addr::default());
        there.map(|addr| from_map(*addr)).collect::<Vec<_>>()
    };
    json!({
        "namespace": host.namespace,
        "own": addresses(&host.own),
        "seen": addresses(&host.seen),
    })
}

/// A key of `HOST_SOURCES`.
pub fn host_conn(conn: &HostConn) -> Value {
    json!({
        "stand_in": from_map(conn.stand_in),
        "client_port": u16::from_be_bytes(conn.client_port),
        "vip_port": u16::from_be_bytes(conn.vip_port),
    })
}

/// A value of `REPLICAS`.
pub fn replica(replica: &Replica) -> Value {
    json!({
        "name": text::name(&replica.name),
        "service": replica.service,
        "addresses": of_replica(replica).collect::<Vec<_>>(),
        "port": u16::from_be_bytes(replica.port),
        "state": names::replica_state(replica.state),
        "weight": replica.weight,
    })
}

/// A value of `CHAT_COOKIES`.
pub fn chat_cookie(names: &Names, service: u32, value: &ChatCookie) -> Value {
    json!({
        "key": names.key(service, &value.key),
        "chat": names.key(service, &value.chat),
        "cookie": text::hex(value.cookie),
        "replica": replica_number(value.replica),
        "width": value.width,
    })
}

/// A value of `CHATS`.
pub fn chat(names: &Names, service: u32, chat: &Chat) -> Value {
    json!({
        "key": names.chat(service, chat),
        "source": names::key_kind(chat.source),
        "home": replica_number(Chat::home(chat.state)),
        "flows": Chat::flows(chat.state),
        "since": chat.since,
        "ended_at": chat.ended_at,
        "counted": chat.state & CHAT_COUNTED != 0,
    })
}

/// A value of `PENDING`.
pub fn pending(pending: &Pending) -> Value {
    json!({
        "vip": text::endpoint(&pending.vip, pending.vip_port).to_string(),
        "service": pending.service,
        "replica": replica_number(pending.replica),
        "cookie": text::hex(pending.cookie),
        "flags": names::flags(pending.flags),
        "offers": names::offers(pending.offers),
        "at": pending.at,
        "client_isn": pending.client_isn,
        "server_isn": pending.server_isn,
        "ts_echo": pending.ts_echo,
        "ts_val": pending.ts_val,
        "client_scale": pending.client_scale,
        "mss": pending.mss,
        "boundary": pending.boundary,
        "chat": text::hex(pending.chat),
        "key": text::name(&pending.key),
        "charged": from_map(pending.charged).to_string(),
    })
}

/// A value of `STASH`.
pub fn stash(stash: &Stash) -> Value {
    let behind = stash.behind.iter().filter(|range| range.to > 0);
    json!({
        "server_isn": stash.server_isn(),
        "client_isn": stash.client_isn,
        "since": stash.since,
        "bytes": stash.known,
        "behind": behind.map(|range| json!([range.from, range.to])).collect::<Vec<_>>(),
        "ends": (stash.end > 0).then(|| stash.end - 1),
        "acknowledged": stash.acked,
        "chunks": stash.chunks.count_ones(),
        "window": stash.window,
        "replica": (stash.bound != 0).then(|| replica_number(stash.replica)),
        "missing": stash.missing,
    })
}

/// A key of `CHUNKS`. Its value is not shown: heads carry passwords and tokens.
pub fn chunk(key: &ChunkKey) -> Value {
    let mut shown = tuple(&key.tuple);
    shown["chunk"] = key.index.into();
    shown
}

/// A value of `FLOWS` and `ENDED`.
pub fn flow(flow: &Flow) -> Value {
    json!({
        "replica_address": text::endpoint(&flow.replica_addr, flow.replica_port).to_string(),
        "service": flow.service,
        "replica": replica_number(flow.replica),
        "cookie": text::hex(flow.cookie),
        "flags": names::flags(flow.flags),
        "state": names::flow_state(flow.state),
        "since": flow.since,
        "last_seen": flow.last_seen,
        "seq_delta": flow.seq_delta,
        "ts_delta": flow.ts_delta,
        "client_isn": flow.client_isn,
        "server_isn": flow.server_isn,
        "acked": flow.acked,
        "sent": flow.sent,
        "client_fin": (flow.state & STATE_CLIENT_FIN != 0).then_some(flow.client_fin),
        "replica_fin": (flow.state & STATE_REPLICA_FIN != 0).then_some(flow.replica_fin),
        "window_shift": flow.window_shift,
        "bound_again": flow.bound_again,
    })
}

/// A value of `FLOWS_BACK` and `ENDED_BACK`.
pub fn flow_back(flow: &FlowBack) -> Value {
    json!({
        "vip": text::endpoint(&flow.vip, flow.vip_port).to_string(),
        "state": names::flow_state(flow.state),
        "seq_delta": flow.seq_delta,
        "ts_delta": flow.ts_delta,
        "acked": flow.acked,
        "sent": flow.sent,
        "replica_scale": flow.replica_scale,
        "announced_scale": flow.announced_scale,
        "exchange": format!("{:016x}", flow.exchange),
        "boundary": flow.boundary,
        "answer": flow.answer,
        "client_isn": flow.client_isn,
        "server_isn": flow.server_isn,
        "ts_sent": flow.ts_sent,
        "mss": flow.mss,
        "client_scale": flow.client_scale,
        "offers": names::offers(flow.offers),
    })
}

/// A key of `SHARES`.
pub fn share_index(index: u32) -> Value {
    match index.checked_sub(SERVICE_SHARES) {
        Some(service) => json!({ "of": "service", "number": service }),
        None if index == ALL_SHARES => json!({ "of": "all", "number": 0 }),
        None => json!({ "of": "sources", "number": index }),
    }
}

/// A value of `SHARES`.
pub fn share(share: &Share) -> Value {
    json!({ "flows": share.flows, "chats": share.chats, "heads": share.heads })
}

/// The value of `SHARING`.
pub fn sharing(sharing: &Sharing) -> Value {
    json!({
        "flows": sharing.flows,
        "chats": sharing.chats,
        "heads": sharing.heads,
        "services": sharing.services,
        "ipv4_prefix": sharing.ipv4_prefix,
        "ipv6_prefix": sharing.ipv6_prefix,
    })
}

/// A value of `LOADS`.
pub fn load(load: &Load) -> Value {
    json!({ "flows": load.flows, "chats": load.chats })
}

/// An entry of `MACS`.
pub fn mac(mac: &Mac, value: u64) -> (Value, Value) {
    let hex: Vec<String> = mac.bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let name = if *mac == Mac::ALL_KNOWN { "all".to_owned() } else { hex.join(":") };
    (json!({ "mac": name }), json!({ "known_until": value }))
}

/// The value of `SECRETS`.
pub fn secrets(secrets: &Secrets) -> Value {
    json!({
        "schema": secrets.schema,
        "clock_offset": secrets.clock_offset,
        "handshake": fingerprint(&secrets.handshake),
        "handshake_before": fingerprint(&secrets.handshake_before),
        "chat": fingerprint(&secrets.chat),
    })
}

/// Tells whether two nodes have the same secret, and nothing else about it: half of the hash under
/// the secret of a text that is no key of a chat.
fn fingerprint(secret: &siphash::Key) -> String {
    let text = [u64::from_le_bytes(*b"roost\0\0f"), u64::from_le_bytes(*b"inger\0\0\0")];
    format!("fingerprint {:08x}", siphash::words(secret, &text) >> 32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vip_of(address: &str) -> Vip {
        Vip { port: 80u16.to_be_bytes(), addr: crate::plan::addr::to_map(address.parse().unwrap()) }
    }

    #[test]
    fn prefixes_are_written_in_their_family() {
        assert_eq!(prefix(144, &vip_of("192.0.2.1")), "192.0.2.1");
        assert_eq!(prefix(16 + 96 + 24, &vip_of("192.0.2.0")), "192.0.2.0/24");
        assert_eq!(prefix(144, &vip_of("2001:db8::1")), "2001:db8::1");
        assert_eq!(prefix(16 + 64, &vip_of("2001:db8::")), "2001:db8::/64");
        assert_eq!(vip(144, &vip_of("192.0.2.1")), json!({"prefix": "192.0.2.1", "port": 80}));
    }

    #[test]
    fn secrets_are_never_shown() {
        let secret = [0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210];
        let value = Secrets {
            schema: 1,
            reserved: 0,
            clock_offset: 5,
            handshake: secret,
            handshake_before: [1, 2],
            chat: [3, 4],
        };
        let shown = secrets(&value);
        assert_eq!(shown["handshake"].as_str().unwrap().len(), "fingerprint 01234567".len());
        assert_ne!(shown["handshake"], shown["handshake_before"]);
        for word in secret {
            let text = shown.to_string();
            assert!(!text.contains(&text::hex(word)) && !text.contains(&word.to_string()));
        }
    }

    #[test]
    fn a_chat_is_its_home_and_its_flows() {
        let value = Chat {
            state: Chat::pack(2, 3),
            ended_at: 7,
            since: 6,
            key: router_ebpf::maps::Name::new(b"room 42"),
            source: router_ebpf::source::KeyKind::Sni as u32,
            share: 0,
            reserved: 0,
        };
        let shown = chat(&Names::default(), 1, &value);
        let expected = json!({
            "key": "room 42", "source": "sni", "home": 2, "flows": 3, "since": 6, "ended_at": 7, "counted": false,
        });
        assert_eq!(shown, expected);
    }
}
