//! The same code on the host, with hash maps for maps and bytes for a frame.

use std::{
    cell::{Cell, RefCell, UnsafeCell},
    collections::{BTreeMap, HashMap, VecDeque},
    hash::Hash,
    ptr::NonNull,
};

use nix::time::{ClockId, clock_gettime};
use router_ebpf::{
    checksum::Sum,
    hand::{When, next_chat, next_flow, next_head},
    maps::{
        CHUNKS_OF_HEAD, Chat, ChatCookie, ChatKey, Chunk, ChunkKey, Farewell, Flow, FlowBack, Link,
        Load, Mac, PART, Pending, Replica, Ring, SERVICE_SHARES, Secrets, Service, Share, Sharing,
        SourceKey, SourceRange, Stash, TrustedKey, Tuple, VipKey, Watched, WatchedChat,
    },
    packet::{Envelope, Packet},
    run::run_all,
    schema::Map,
    scratch::Scratch,
    shared::Shared,
    stage::Stage,
    tables::{FlowTables, Refused, Step, Tables},
    verdict::Counter,
};

use super::{
    Hook, Machine, Outcome,
    frame::Seg,
    world::{Kind, World, slot_table},
};

/// A frame in memory.
///
/// Copies that were sent on the way are kept beside it.
pub struct Bytes {
    /// The frame.
    pub frame: Vec<u8>,
    /// Its copies, in their order.
    pub copies: Vec<Vec<u8>>,
    /// How many there may be before the interface takes no more.
    pub most_copies: usize,
}

impl Bytes {
    /// A frame without copies, and with room for any number.
    pub const fn new(frame: Vec<u8>) -> Self {
        Self { frame, copies: Vec::new(), most_copies: usize::MAX }
    }
}

impl Packet for Bytes {
    fn len(&self) -> usize {
        self.frame.len()
    }

    fn view<const N: usize>(&self, offset: usize) -> Option<&[u8; N]> {
        self.frame.get(offset..offset + N)?.try_into().ok()
    }

    fn view_mut<const N: usize>(&mut self, offset: usize) -> Option<&mut [u8; N]> {
        self.frame.get_mut(offset..offset + N)?.try_into().ok()
    }

    fn resize(&mut self, len: usize) -> Option<()> {
        self.frame.resize(len, 0);
        Some(())
    }

    fn grow_head(&mut self, envelope: Envelope) -> Option<()> {
        let Envelope { l3, len, .. } = envelope;
        self.frame.get(..l3)?;
        self.frame.splice(l3..l3, vec![0; len]);
        Some(())
    }

    fn shrink_head(&mut self, envelope: Envelope) -> Option<()> {
        let Envelope { l3, len, .. } = envelope;
        self.frame.get(..l3 + len)?;
        self.frame.drain(l3..l3 + len);
        Some(())
    }

    fn duplicate(&mut self) -> Option<()> {
        if self.copies.len() == self.most_copies {
            return None;
        }
        self.copies.push(self.frame.clone());
        Some(())
    }

    fn load(&self, offset: usize, to: &mut [u8; PART], len: usize) -> Option<()> {
        to.get_mut(..len)?.copy_from_slice(self.frame.get(offset..offset + len)?);
        (len > 0).then_some(())
    }

    fn store(&mut self, offset: usize, from: &[u8; PART], len: usize) -> Option<()> {
        self.frame.get_mut(offset..offset + len)?.copy_from_slice(from.get(..len)?);
        (len > 0).then_some(())
    }

    fn update_l4_checksum(&mut self, offset: usize, pseudo: Sum, body: Sum) -> Option<()> {
        let old = self.read(offset)?;
        self.write(offset, &pseudo.plus(body).update(old))
    }
}

/// A hash map whose values stay where they are until the next packet, even when they are removed:
/// as the kernel's do until the program has ended.
struct Cells<K, V> {
    values: RefCell<HashMap<K, NonNull<V>>>,
    removed: RefCell<Vec<NonNull<V>>>,
    room: usize,
}

impl<K: Hash + Eq + Copy, V: Copy> Cells<K, V> {
    fn new(room: u32) -> Self {
        Self { values: RefCell::default(), removed: RefCell::default(), room: room as usize }
    }

    fn get(&self, key: &K) -> Option<NonNull<V>> {
        self.values.borrow().get(key).copied()
    }

    fn shared(&self, key: &K) -> Option<Shared<V>> {
        // SAFETY: a box's pointer, which is freed only between two packets, see `bury`.
        self.get(key).map(|value| unsafe { Shared::new(value) })
    }

    fn set(&self, key: &K, value: &V) {
        let value = NonNull::from(Box::leak(Box::new(*value)));
        if let Some(old) = self.values.borrow_mut().insert(*key, value) {
            self.removed.borrow_mut().push(old);
        }
    }

    fn add(&self, key: &K, value: &V) -> Result<(), Refused> {
        if self.get(key).is_some() {
            return Err(Refused::Exists);
        }
        if self.values.borrow().len() >= self.room {
            return Err(Refused::Full);
        }
        self.set(key, value);
        Ok(())
    }

    fn remove(&self, key: &K) {
        if let Some(old) = self.values.borrow_mut().remove(key) {
            self.removed.borrow_mut().push(old);
        }
    }

    /// Frees what was removed. Nobody may hold a value any more, which is why this needs the map
    /// for itself.
    fn bury(&mut self) {
        for old in self.removed.get_mut().drain(..) {
            // SAFETY: it came from a box in `set`, is not in the map, and nobody holds it.
            drop(unsafe { Box::from_raw(old.as_ptr()) });
        }
    }

    fn all(&self) -> Vec<(K, V)> {
        let values = self.values.borrow();
        // SAFETY: see `shared`.
        values.iter().map(|(key, value)| (*key, unsafe { value.read() })).collect()
    }
}

impl<K, V> Drop for Cells<K, V> {
    fn drop(&mut self) {
        for value in self.values.get_mut().values().chain(self.removed.get_mut().iter()) {
            // SAFETY: each came from a box in `set` and is in one of the two, once.
            drop(unsafe { Box::from_raw(value.as_ptr()) });
        }
    }
}

/// What an LPM trie has: prefix length in bits, bits, value.
type Prefixes = Vec<(u32, Vec<bool>, u32)>;

/// The bits of a key, of which it has two parts.
fn bits(first: &[u8], second: &[u8]) -> Vec<bool> {
    let bytes = first.iter().chain(second);
    bytes.flat_map(|byte| (0..8).rev().map(move |at| byte >> at & 1 == 1)).collect()
}

/// The value of the longest prefix of these bits.
fn longest(prefixes: &Prefixes, wanted: Vec<bool>) -> Option<u32> {
    let fits =
        |(len, bits, _): &&(u32, Vec<bool>, u32)| bits[..*len as usize] == wanted[..*len as usize];
    prefixes.iter().filter(fits).max_by_key(|(len, ..)| *len).map(|(.., value)| *value)
}

/// The maps of a [`Host`].
pub struct HostTables {
    secrets: Secrets,
    vips: Prefixes,
    source_ranges: Prefixes,
    macs: HashMap<Mac, u64>,
    services: HashMap<u32, Service>,
    replicas: Vec<Replica>,
    slots: Vec<u32>,
    chat_cookies: HashMap<ChatKey, ChatCookie>,
    chats: Cells<ChatKey, Chat>,
    flows: Cells<Tuple, Flow>,
    flows_back: Cells<Tuple, FlowBack>,
    ended: Cells<Tuple, Flow>,
    ended_back: Cells<Tuple, FlowBack>,
    flow_ring: RefCell<VecDeque<Watched>>,
    chat_ring: RefCell<VecDeque<WatchedChat>>,
    loads: Box<[UnsafeCell<Load>]>,
    rings: [UnsafeCell<Ring>; 2],
    shares: Cells<u32, Share>,
    sharing: Sharing,
    trusted: Prefixes,
    farewells: RefCell<Vec<Farewell>>,
    pending: Cells<Tuple, Pending>,
    stash: Cells<Tuple, Stash>,
    refuses: Option<(Map, Refused)>,
    /// How many entries it takes before.
    spares: Cell<u32>,
    chunks: Cells<ChunkKey, Chunk>,
    head_ring: RefCell<VecDeque<Watched>>,
    counters: RefCell<Vec<u64>>,
    steps: Cell<u64>,
    interrupt: RefCell<Option<Interrupt>>,
}

/// What another CPU does in the middle of a packet.
struct Interrupt {
    /// Look-ups in `FLOWS` and `FLOWS_BACK` before it.
    after: u32,
    packets: Vec<(Hook, Vec<u8>)>,
    scratch: Box<Scratch>,
}

/// The host's machine.
pub struct Host {
    tables: HostTables,
    scratch: [Box<Scratch>; 3],
    most_copies: usize,
}

impl Host {
    /// A machine with these maps.
    pub fn new(world: &World) -> Self {
        let mut host = Self {
            tables: HostTables {
                secrets: world.secrets,
                vips: world
                    .vips
                    .iter()
                    .map(|(len, vip, number)| (*len, bits(&vip.port, &vip.addr), *number))
                    .collect(),
                source_ranges: Vec::new(),
                macs: HashMap::new(),
                services: world.services.iter().copied().collect(),
                replicas: world.replicas.clone(),
                slots: Vec::new(),
                chat_cookies: HashMap::new(),
                chats: Cells::new(world.chats),
                flows: Cells::new(world.flows),
                flows_back: Cells::new(world.flows.saturating_add(64)),
                ended: Cells::new(1024),
                ended_back: Cells::new(1024),
                flow_ring: RefCell::default(),
                chat_ring: RefCell::default(),
                rings: Default::default(),
                loads: (0..64).map(|_| UnsafeCell::default()).collect(),
                shares: Cells::new(u32::MAX),
                sharing: world.sharing,
                trusted: world
                    .trusted
                    .iter()
                    .map(|(len, addr)| (*len, bits(addr, &[]), 1))
                    .collect(),
                farewells: RefCell::default(),
                pending: Cells::new(1024),
                stash: Cells::new(world.stash),
                refuses: None,
                spares: Cell::new(0),
                chunks: Cells::new(world.stash * CHUNKS_OF_HEAD),
                head_ring: RefCell::default(),
                counters: RefCell::new(vec![0; Counter::COUNT]),
                steps: Cell::new(0),
                interrupt: RefCell::default(),
            },
            scratch: [Scratch::boxed(), Scratch::boxed(), Scratch::boxed()],
            most_copies: usize::MAX,
        };
        host.tables.replicas.resize_with(64, || Replica { state: 0, ..world.replicas[0] });
        for kind in Kind::ALL {
            host.set_slots(kind.slots(), &slot_table(kind));
        }
        host
    }

    /// Lets a map refuse what comes from now on, for this reason: the kernel's do so when it has no memory, and such
    /// things.
    pub fn refuse(&mut self, what: Option<(Map, Refused)>) {
        self.tables.refuses = what;
    }

    /// The same after so many entries that it takes.
    pub fn refuse_after(&mut self, spares: u32, what: (Map, Refused)) {
        self.tables.spares.set(spares);
        self.refuse(Some(what));
    }

    /// Lets the interface take so many copies of a packet and no more, as the kernel's does when its CPU has too much
    /// to do.
    pub const fn limit_copies(&mut self, most: usize) {
        self.most_copies = most;
    }

    /// Lets another CPU take these packets while the next one is at work, after so many look-ups of that one in `FLOWS` and
    /// `FLOWS_BACK`.
    pub fn interrupt(&mut self, after: u32, packets: &[(Hook, &Seg)]) {
        let packets = packets.iter().map(|(hook, seg)| (*hook, seg.bytes())).collect();
        let scratch = Scratch::boxed();
        self.tables.interrupt.replace(Some(Interrupt { after, packets, scratch }));
    }

    /// Whether that CPU had its turn. It has none any more.
    pub fn was_interrupted(&mut self) -> bool {
        self.tables.interrupt.take().is_none()
    }

    /// How many steps of searches there were since the last time.
    pub fn steps(&mut self) -> u64 {
        self.tables.steps.take()
    }

    /// The maps, and working memory: to call a part of the pipeline alone.
    pub fn parts(&mut self) -> (&HostTables, &mut Scratch) {
        (&self.tables, &mut self.scratch[0])
    }
}

impl Machine for Host {
    fn name(&self) -> &'static str {
        "host"
    }

    fn run(&mut self, hook: Hook, frame: &[u8]) -> Outcome {
        let tables = &mut self.tables;
        tables.begin();
        let mut packet = Bytes { most_copies: self.most_copies, ..Bytes::new(frame.to_vec()) };
        let [of_ingress, of_egress, _] = &mut self.scratch;
        let verdict = match hook {
            Hook::Ingress => run_all(Stage::Ingress, &mut packet, tables, of_ingress),
            Hook::Egress => run_all(Stage::Egress, &mut packet, tables, of_egress),
        };
        tables.count(verdict);
        Outcome {
            hook,
            action: verdict.action().expect("a verdict"),
            frame: packet.frame,
            copies: packet.copies,
            moved: tables.moved(),
        }
    }

    fn flood(&mut self, frames: &[(Vec<u8>, u32)]) -> BTreeMap<Counter, u64> {
        let mut moved = BTreeMap::new();
        for (frame, times) in frames {
            let mut frame = frame.clone();
            for _ in 0..*times {
                let outcome = self.run(Hook::Ingress, &frame);
                frame = outcome.frame;
                outcome
                    .moved
                    .iter()
                    .for_each(|(counter, n)| *moved.entry(*counter).or_default() += n);
            }
        }
        moved
    }

    fn flows(&self) -> Vec<(Tuple, Flow)> {
        self.tables.flows.all()
    }

    fn flows_back(&self) -> Vec<(Tuple, FlowBack)> {
        self.tables.flows_back.all()
    }

    fn ended(&self) -> Vec<(Tuple, Flow)> {
        self.tables.ended.all()
    }

    fn ended_back(&self) -> Vec<(Tuple, FlowBack)> {
        self.tables.ended_back.all()
    }

    fn load(&self, replica: u32) -> (u64, u64) {
        // SAFETY: nobody changes it now.
        let load = unsafe { *self.tables.loads[replica as usize].get() };
        (load.flows, load.chats)
    }

    fn share(&self, index: u32) -> (u32, u32) {
        // SAFETY: nobody changes it now.
        let share = self.tables.shares.get(&index).map(|share| unsafe { share.read() });
        share.map_or((0, 0), |share| (share.flows, share.chats))
    }

    fn heads(&self, index: u32) -> u32 {
        // SAFETY: nobody changes it now.
        self.tables.shares.get(&index).map_or(0, |share| unsafe { share.read() }.heads)
    }

    fn set_share(&mut self, index: u32, share: &Share) {
        self.tables.shares.set(&index, share);
    }

    fn farewells(&mut self) -> Vec<Farewell> {
        std::mem::take(self.tables.farewells.get_mut())
    }

    fn look(&mut self) -> Vec<(Counter, u64)> {
        let tables = &mut self.tables;
        tables.begin();
        let [.., of_clock] = &mut self.scratch;
        for _ in 0..tables.flow_ring.get_mut().len() {
            next_flow(tables, When::Now, &mut of_clock.turn, &mut of_clock.last);
        }
        for _ in 0..tables.chat_ring.get_mut().len() {
            next_chat(tables, When::Now, &mut of_clock.turn);
        }
        for _ in 0..tables.head_ring.get_mut().len() {
            next_head(tables, When::Now, &mut of_clock.turn, &mut of_clock.last);
        }
        tables.moved()
    }

    fn chats(&self) -> Vec<(ChatKey, Chat)> {
        self.tables.chats.all()
    }

    fn pending(&self) -> Vec<(Tuple, Pending)> {
        self.tables.pending.all()
    }

    fn set_flow(&mut self, tuple: &Tuple, flow: &Flow) {
        self.tables.flows.set(tuple, flow);
    }

    fn set_flow_back(&mut self, tuple: &Tuple, flow: &FlowBack) {
        self.tables.flows_back.set(tuple, flow);
    }

    fn set_ended_back(&mut self, tuple: &Tuple, flow: &FlowBack) {
        self.tables.ended_back.set(tuple, flow);
    }

    fn set_chat(&mut self, key: &ChatKey, chat: &Chat) {
        self.tables.chats.set(key, chat);
    }

    fn set_chat_cookie(&mut self, key: &ChatKey, entry: &ChatCookie) {
        self.tables.chat_cookies.insert(*key, *entry);
    }

    fn set_replica(&mut self, number: u32, replica: &Replica) {
        self.tables.replicas[number as usize] = *replica;
    }

    fn set_service(&mut self, number: u32, service: &Service) {
        self.tables.services.insert(number, *service);
    }

    fn set_source_range(&mut self, prefix_len: u32, range: &SourceRange, value: u32) {
        let bits = bits(&range.list, &range.addr);
        self.tables.source_ranges.push((prefix_len, bits, value));
    }

    fn set_mac(&mut self, mac: &Mac, value: u64) {
        self.tables.macs.insert(*mac, value);
    }

    fn set_slots(&mut self, base: u32, table: &[u32]) {
        let slots = &mut self.tables.slots;
        let (from, to) = (base as usize, base as usize + table.len());
        slots.resize(slots.len().max(to), 0);
        slots[from..to].copy_from_slice(table);
    }

    fn stash(&self) -> Vec<(Tuple, Stash)> {
        self.tables.stash.all()
    }

    fn chunks(&self) -> Vec<(ChunkKey, Chunk)> {
        self.tables.chunks.all()
    }

    fn set_stash(&mut self, tuple: &Tuple, stash: &Stash) {
        self.tables.stash.set(tuple, stash);
    }

    fn forget_pending(&mut self, tuple: &Tuple) {
        self.tables.pending.remove(tuple);
    }

    fn clear_stash(&mut self) {
        for (tuple, _) in self.tables.stash.all() {
            self.tables.stash.remove(&tuple);
        }
        for (key, _) in self.tables.chunks.all() {
            self.tables.chunks.remove(&key);
        }
    }
}

impl HostTables {
    /// Lets another CPU do its work, if it is time for that.
    fn be_interrupted(&self) {
        let due = self.interrupt.borrow_mut().take_if(|other| other.after == 0);
        if let Some(Interrupt { packets, mut scratch, .. }) = due {
            for (hook, frame) in packets {
                let stage = match hook {
                    Hook::Ingress => Stage::Ingress,
                    Hook::Egress => Stage::Egress,
                };
                self.count(run_all(stage, &mut Bytes::new(frame), self, &mut scratch));
            }
        } else if let Some(other) = &mut *self.interrupt.borrow_mut() {
            other.after -= 1;
        }
    }

    /// Whether a map takes entries at the moment.
    fn takes(&self, map: Map) -> Result<(), Refused> {
        let Some((_, why)) = self.refuses.filter(|(of, _)| *of == map) else { return Ok(()) };
        match self.spares.get().checked_sub(1) {
            Some(left) => {
                self.spares.set(left);
                Ok(())
            }
            None => Err(why),
        }
    }

    /// Another packet.
    fn begin(&mut self) {
        self.chats.bury();
        self.flows.bury();
        self.flows_back.bury();
        self.ended.bury();
        self.ended_back.bury();
        self.pending.bury();
        self.stash.bury();
        self.chunks.bury();
        self.counters.get_mut().fill(0);
    }

    /// The counters that it has moved.
    fn moved(&mut self) -> Vec<(Counter, u64)> {
        let moved = self.counters.get_mut().iter().zip(Counter::ALL);
        let moved = moved.filter(|(count, _)| **count > 0);
        moved.map(|(count, counter)| (*counter, *count)).collect()
    }
}

/// The first of a queue.
fn first<T: Copy>(queue: &VecDeque<T>, to: &mut T) -> bool {
    queue.front().map(|value| *to = *value).is_some()
}

impl Tables for HostTables {
    fn now(&self) -> u64 {
        let now = clock_gettime(ClockId::CLOCK_MONOTONIC_COARSE).expect("a clock");
        now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64
    }

    fn secrets(&self) -> Option<&Secrets> {
        (self.secrets.schema != 0).then_some(&self.secrets)
    }

    fn vip(&self, key: &VipKey) -> Option<u32> {
        longest(&self.vips, bits(&key.vip.port, &key.vip.addr))
    }

    fn service(&self, number: u32) -> Option<&Service> {
        self.services.get(&number)
    }

    fn source_range(&self, key: &SourceKey) -> Option<u32> {
        longest(&self.source_ranges, bits(&key.range.list, &key.range.addr))
    }

    fn mac(&self, mac: &Mac) -> Option<u64> {
        self.macs.get(mac).copied()
    }

    fn link(&self, _: &u32) -> Option<Link> {
        None
    }

    fn replica(&self, number: u32) -> Option<&Replica> {
        self.replicas.get(number as usize)
    }

    fn slot(&self, index: u32) -> Option<u32> {
        self.slots.get(index as usize).copied()
    }

    fn chat_cookie(&self, key: &ChatKey) -> Option<&ChatCookie> {
        self.chat_cookies.get(key)
    }

    fn chat(&self, key: &ChatKey) -> Option<Shared<Chat>> {
        self.chats.shared(key)
    }
}

impl FlowTables for HostTables {
    fn repeat<S: Step>(&self, most: u32, what: &mut S) {
        // Nothing else takes so many.
        let is_search = most > 1 << 16;
        for _ in 0..most {
            self.steps.set(self.steps.get() + u64::from(is_search));
            if !what.step() {
                break;
            }
        }
    }

    fn count(&self, counter: Counter) {
        self.counters.borrow_mut()[counter as usize] += 1;
    }

    fn add_chat(&self, key: &ChatKey, chat: &Chat) -> Result<(), Refused> {
        self.takes(Map::Chats)?;
        self.chats.add(key, chat)
    }

    fn flow(&self, tuple: &Tuple) -> Option<Shared<Flow>> {
        self.be_interrupted();
        self.flows.shared(tuple)
    }

    fn add_flow(&self, tuple: &Tuple, flow: &Flow) -> Result<(), Refused> {
        self.takes(Map::Flows)?;
        self.flows.add(tuple, flow)
    }

    fn remove_flow(&self, tuple: &Tuple) {
        self.flows.remove(tuple);
    }

    fn flow_back(&self, tuple: &Tuple) -> Option<Shared<FlowBack>> {
        self.be_interrupted();
        self.flows_back.shared(tuple)
    }

    fn add_flow_back(&self, tuple: &Tuple, flow: &FlowBack) -> Result<(), Refused> {
        self.takes(Map::FlowsBack)?;
        self.flows_back.add(tuple, flow)
    }

    fn remove_flow_back(&self, tuple: &Tuple) {
        self.flows_back.remove(tuple);
    }

    fn remove_chat(&self, key: &ChatKey) {
        self.chats.remove(key);
    }

    fn ended(&self, tuple: &Tuple) -> Option<Shared<Flow>> {
        self.ended.shared(tuple)
    }

    fn set_ended(&self, tuple: &Tuple, flow: &Flow) -> Result<(), Refused> {
        self.takes(Map::Ended)?;
        self.ended.set(tuple, flow);
        Ok(())
    }

    fn ended_back(&self, tuple: &Tuple) -> Option<Shared<FlowBack>> {
        self.ended_back.shared(tuple)
    }

    fn set_ended_back(&self, tuple: &Tuple, flow: &FlowBack) -> Result<(), Refused> {
        self.takes(Map::EndedBack)?;
        self.ended_back.set(tuple, flow);
        Ok(())
    }

    fn remove_ended_back(&self, tuple: &Tuple) {
        self.ended_back.remove(tuple);
    }

    fn watch_flow(&self, flow: &Watched) -> Result<(), Refused> {
        self.takes(Map::FlowRing)?;
        self.flow_ring.borrow_mut().push_back(*flow);
        Ok(())
    }

    fn first_flow(&self, flow: &mut Watched) -> bool {
        first(&self.flow_ring.borrow(), flow)
    }

    fn next_flow(&self, flow: &mut Watched) -> bool {
        self.first_flow(flow) && self.flow_ring.borrow_mut().pop_front().is_some()
    }

    fn watch_chat(&self, chat: &WatchedChat) -> Result<(), Refused> {
        self.takes(Map::ChatRing)?;
        self.chat_ring.borrow_mut().push_back(*chat);
        Ok(())
    }

    fn first_chat(&self, chat: &mut WatchedChat) -> bool {
        first(&self.chat_ring.borrow(), chat)
    }

    fn next_chat(&self, chat: &mut WatchedChat) -> bool {
        self.first_chat(chat) && self.chat_ring.borrow_mut().pop_front().is_some()
    }

    fn ring(&self, index: u32) -> Option<Shared<Ring>> {
        let ring = NonNull::new(self.rings.get(index as usize)?.get())?;
        // SAFETY: as below.
        Some(unsafe { Shared::new(ring) })
    }

    fn load(&self, replica: u32) -> Option<Shared<Load>> {
        let load = NonNull::new(self.loads.get(replica as usize)?.get())?;
        // SAFETY: it stays where it is for as long as the machine lives.
        Some(unsafe { Shared::new(load) })
    }

    fn share(&self, index: u32) -> Option<Shared<Share>> {
        if index >= SERVICE_SHARES + 64 {
            return None;
        }
        if self.shares.get(&index).is_none() {
            self.shares.set(&index, &Share::default());
        }
        self.shares.shared(&index)
    }

    fn sharing(&self) -> Option<&Sharing> {
        Some(&self.sharing)
    }

    fn trusted(&self, key: &TrustedKey) -> Option<u32> {
        longest(&self.trusted, bits(&key.addr, &[]))
    }

    fn farewell(&self, farewell: &Farewell) -> Result<(), Refused> {
        self.takes(Map::Farewells)?;
        self.farewells.borrow_mut().push(*farewell);
        Ok(())
    }

    fn pending(&self, tuple: &Tuple) -> Option<Shared<Pending>> {
        self.pending.shared(tuple)
    }

    fn set_pending(&self, tuple: &Tuple, pending: &Pending) -> Result<(), Refused> {
        self.takes(Map::Pending)?;
        self.pending.set(tuple, pending);
        Ok(())
    }

    fn remove_pending(&self, tuple: &Tuple) {
        self.pending.remove(tuple);
    }

    fn stash(&self, tuple: &Tuple) -> Option<Shared<Stash>> {
        self.stash.shared(tuple)
    }

    fn add_stash(&self, tuple: &Tuple, stash: &Stash) -> Result<(), Refused> {
        self.takes(Map::Stash)?;
        self.stash.add(tuple, stash)
    }

    fn remove_stash(&self, tuple: &Tuple) {
        self.stash.remove(tuple);
    }

    fn load_chunk(&self, key: &ChunkKey, to: &mut Chunk) -> bool {
        // SAFETY: see `Cells`.
        self.chunks.get(key).map(|chunk| *to = unsafe { chunk.read() }).is_some()
    }

    fn set_chunk(&self, key: &ChunkKey, chunk: &Chunk) -> Result<(), Refused> {
        self.takes(Map::Chunks)?;
        self.chunks.remove(key);
        self.chunks.add(key, chunk)
    }

    fn remove_chunk(&self, key: &ChunkKey) {
        self.chunks.remove(key);
    }

    fn watch_head(&self, head: &Watched) -> Result<(), Refused> {
        self.takes(Map::HeadRing)?;
        let mut ring = self.head_ring.borrow_mut();
        if ring.len() == 2 * self.stash.room {
            return Err(Refused::Full);
        }
        assert!(self.stash(&head.tuple).is_some(), "the hand forgets what is not there");
        ring.push_back(*head);
        Ok(())
    }

    fn first_head(&self, head: &mut Watched) -> bool {
        first(&self.head_ring.borrow(), head)
    }

    fn next_head(&self, head: &mut Watched) -> bool {
        self.first_head(head) && self.head_ring.borrow_mut().pop_front().is_some()
    }
}
