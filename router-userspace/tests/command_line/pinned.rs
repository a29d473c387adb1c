//! Maps with something in them, and the program that reads them.

use std::{
    hash::Hasher as _,
    path::{Path, PathBuf},
    process::Output,
};

use aya::maps::PerCpuValues;
use roost::{
    attach::loader::make_maps,
    maps::tables::Tables,
    plan::{
        addr::to_map,
        config::{Limits, key_sources},
    },
};
use roost_programs::{MOUNT, built};
use router_ebpf::{
    maps::{
        Addr, Chat, ChatKey, FLOW_CHAT, Flow, KeySource, Load, MISSING_REJECT, Name, PROXIES,
        REPLICA_DRAINING, REPLICA_READY, Replica, SERVICE_SHARES, SLOT_COUNT, SOURCES, Secrets,
        Service, Share, Sharing, SourceRange, Tuple, Vip, Watched,
    },
    schema::FILLED,
    shares::{ITSELF, number},
    source::KeyKind,
    verdict::Counter,
};
use serde_json::Value;
use siphasher::sip::SipHasher24;

pub const BPFFS: &str = "/sys/fs/bpf";
pub const SECRET: [u64; 2] = [0x0123_4567_89ab_cdef, 0x1122_3344_5566_7788];

/// The sizes of the maps.
const LIMITS: Limits =
    Limits { flows: 8, chats: 8, pending: 8, stash: 8, ended: 8, services: 2, replicas: 4 };

/// Maps of the schema in a directory of their own, which is removed in the end.
pub struct Pinned {
    pub dir: PathBuf,
}

impl Drop for Pinned {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
        let name = self.dir.file_name().unwrap_or_default().to_string_lossy();
        let _ = std::fs::remove_file(format!("/run/roost/sys-fs-bpf-{name}.lock"));
    }
}

impl Pinned {
    /// Pins maps with one service, two replicas, a chat, its flow and some counts.
    pub fn filled(test: &str) -> Self {
        Self::filled_by(test, &["query:chat"])
    }

    /// The same with other key sources.
    pub fn filled_by(test: &str, sources: &[&str]) -> Self {
        mount_bpffs();
        let dir = Path::new(BPFFS).join(format!("roost-test-{test}-{}", std::process::id()));
        let pinned = Self { dir };
        pinned.fill(sources).expect("cannot make maps in the bpffs; run as root");
        pinned
    }

    fn fill(&self, sources: &[&str]) -> anyhow::Result<()> {
        make_maps(&self.dir, &LIMITS)?;
        let mut tables = Tables::open_unfilled(&self.dir)?;

        let vip = Vip { port: 80u16.to_be_bytes(), addr: addr("192.0.2.1") };
        tables.vips.set(144, vip, &1)?;
        tables.services.set(&1, &service(sources))?;
        tables.replicas.set(0, &replica("r0", "10.0.0.10", REPLICA_READY))?;
        tables.replicas.set(1, &replica("r1", "10.0.0.11", REPLICA_DRAINING))?;
        for slot in 0..SLOT_COUNT {
            tables.slots.set(slot, &u32::from(slot < 100))?;
        }
        self.live(hash("42"), "42", 1, 1);
        tables.flows.set(&tuple(), &flow())?;
        self.carry(1, 1, 1);
        tables.flow_ring.put(&Watched::default())?;
        tables.secrets.set(0, &secrets())?;
        let cpus = aya::util::nr_cpus().map_err(|(_, error)| error)?;
        tables.counters.set(Counter::Bound as u32, PerCpuValues::try_from(vec![2; cpus])?)?;
        Ok(())
    }

    /// Adds a chat, or a part of one.
    pub fn live(&self, cookie: u64, key: &str, home: u32, flows: u32) {
        let mut tables = Tables::open_unfilled(&self.dir).unwrap();
        let state = Chat::pack(home, flows);
        let chat = Chat {
            state,
            ended_at: 0,
            since: 1,
            key: name(key),
            source: KeyKind::Query as u32,
            share: 0,
            reserved: 0,
        };
        tables.chats.set(&ChatKey { cookie, service: 1, reserved: 0 }, &chat).unwrap();
    }

    /// Sets what the kernel says that a replica carries.
    pub fn carry(&self, replica: u32, flows: u64, chats: u64) {
        let mut tables = Tables::open_unfilled(&self.dir).unwrap();
        tables.loads.set(replica, &Load { flows, chats }).unwrap();
    }

    /// Lets only these clients connect: prefix of IPv4, its length, and whether it may.
    pub fn restrict(&self, ranges: &[(&str, u32, u32)]) {
        let mut tables = Tables::open_unfilled(&self.dir).unwrap();
        for (address, len, may) in ranges {
            let range = SourceRange { list: 1u32.to_be_bytes(), addr: addr(address) };
            tables.source_ranges.set(32 + 96 + len, range, may).unwrap();
        }
        let service = tables.services.get(&1).unwrap().unwrap();
        tables.services.set(&1, &Service { restricted: 1, ..service }).unwrap();
    }

    /// Makes clients of IPv4 one source by 24 bits, trusts some of them, and adds a flow of each client and port.
    pub fn hold(&self, trusted: &[(&str, u32)], clients: &[(&str, u16)]) {
        let mut tables = Tables::open_unfilled(&self.dir).unwrap();
        let sharing = Sharing { ipv4_prefix: 24, ipv6_prefix: 64, ..Sharing::default() };
        tables.sharing.set(0, &sharing).unwrap();
        for (address, bits) in trusted {
            tables.trusted.set(*bits, addr(address), &1).unwrap();
        }
        let number = |client| number(&secrets().chat, &sharing, &client, ITSELF);
        let key = ChatKey { cookie: hash("42"), service: 1, reserved: 0 };
        let chat = tables.chats.get(&key).unwrap().unwrap();
        let chat = Chat { share: number(tuple().client), ..chat };
        tables.chats.set(&key, &chat).unwrap();
        for (client, port) in clients {
            let (client, client_port) = (addr(client), port.to_be_bytes());
            let tuple = Tuple { client, client_port, ..tuple() };
            tables.flows.set(&tuple, &flow()).unwrap();
        }
        let held = Share { flows: 1 + clients.len() as u32, chats: 1, ..Share::default() };
        tables.shares.set(SERVICE_SHARES + 1, &held).unwrap();
    }

    /// What comes from this prefix of IPv4 begins with the PROXY protocol.
    pub fn believe(&self, address: &str, len: u32) {
        let mut tables = Tables::open_unfilled(&self.dir).unwrap();
        let range = SourceRange { list: (1 | PROXIES).to_be_bytes(), addr: addr(address) };
        tables.source_ranges.set(32 + 96 + len, range, &1).unwrap();
        let service = tables.services.get(&1).unwrap().unwrap();
        tables.services.set(&1, &Service { proxied: 1, ..service }).unwrap();
    }

    pub fn roost(&self, arguments: &[&str]) -> Output {
        let mut roost = built(env!("CARGO_BIN_EXE_roost")).unwrap();
        roost.arg("--pin-dir").arg(&self.dir).args(arguments);
        roost.output().unwrap()
    }

    /// What a command prints as text.
    #[track_caller]
    pub fn text(&self, arguments: &[&str]) -> String {
        let output = self.roost(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", stderr(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    /// What a command prints as JSON.
    #[track_caller]
    pub fn json(&self, arguments: &[&str]) -> Value {
        let text = self.text(&[arguments, &["-o", "json"]].concat());
        serde_json::from_str(&text).unwrap()
    }
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn mount_bpffs() {
    let is_mounted = || {
        let mounts = std::fs::read_to_string("/proc/mounts").unwrap();
        mounts.lines().any(|line| line.split(' ').nth(1) == Some(BPFFS))
    };
    if !is_mounted() {
        // Another test may be quicker.
        let _ = MOUNT.command().unwrap().args(["-t", "bpf", "bpf", BPFFS]).status();
        assert!(is_mounted(), "cannot mount a bpffs; run as root");
    }
}

fn addr(text: &str) -> Addr {
    to_map(text.parse().unwrap())
}

pub fn name(text: &str) -> Name {
    Name::new(text.as_bytes())
}

/// The cookie of a chat that was not bound to another.
pub fn hash(key: &str) -> u64 {
    let mut hasher = SipHasher24::new_with_keys(SECRET[0], SECRET[1]);
    hasher.write(key.as_bytes());
    hasher.finish()
}

/// The cookie of a part of a chat that has a width.
pub fn part(key: &str, part: u64) -> u64 {
    let mut hasher = SipHasher24::new_with_keys(SECRET[0], SECRET[1]);
    hasher.write(&hash(key).to_le_bytes());
    hasher.write(&part.to_le_bytes());
    hasher.finish()
}

/// The same as the command line prints it.
pub fn hex(key: &str) -> String {
    format!("{:016x}", hash(key))
}

fn service(texts: &[&str]) -> Service {
    let mut sources = [KeySource::NONE; SOURCES];
    for (to, from) in sources.iter_mut().zip(key_sources(texts.iter().copied()).unwrap()) {
        *to = from.to_map();
    }
    Service {
        digest: 0xd1_9e57,
        generation: 3,
        usable: 1,
        idle_timeout: 10_800,
        mss4: 1460,
        mss6: 1440,
        on_missing_key: MISSING_REJECT,
        sources,
        name: name("rooms"),
        ..Service::EMPTY
    }
}

fn replica(identity: &str, address: &str, state: u8) -> Replica {
    Replica {
        v4: addr(address),
        v6: addr("fd00::1"),
        port: 8080u16.to_be_bytes(),
        state,
        reserved: 0,
        service: 1,
        weight: 1,
        name: name(identity),
    }
}

fn tuple() -> Tuple {
    Tuple {
        client: addr("198.51.100.7"),
        server: addr("192.0.2.1"),
        client_port: 40_000u16.to_be_bytes(),
        server_port: 80u16.to_be_bytes(),
    }
}

fn flow() -> Flow {
    Flow {
        last_seen: 2,
        since: 1,
        cookie: hash("42"),
        replica_addr: addr("10.0.0.11"),
        replica_port: 8080u16.to_be_bytes(),
        flags: FLOW_CHAT,
        window_shift: 0,
        service: 1,
        replica: 1,
        state: 0,
        seq_delta: 5,
        ts_delta: 6,
        client_isn: 7,
        server_isn: 8,
        acked: 9,
        sent: 10,
        client_fin: 0,
        replica_fin: 0,
        share: 0,
        bound_again: 0,
    }
}

fn secrets() -> Secrets {
    Secrets {
        schema: FILLED,
        reserved: 0,
        clock_offset: 9,
        handshake: SECRET,
        handshake_before: SECRET,
        chat: SECRET,
    }
}
