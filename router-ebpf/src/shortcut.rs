//! The short way: a segment of a flow that is nothing special, with its headers where they nearly always are.
//!
//! What is done is what the long way does, by the same functions. But here they are given headers whose
//! places and lengths are constants, all looked at once, so that only loads, additions and stores are left of
//! them. What does not fit takes the long way; nothing has been changed then.

use network_types::{
    eth::EthHdr,
    ip::{Ipv4Hdr, Ipv6Hdr},
};

use crate::{
    checksum::Sum,
    egress, ingress,
    integrity::is_unfinished,
    maps::{PART, Tuple},
    options::{PLAIN_LEN, is_plain},
    packet::{Envelope, Packet},
    rewrite::Place,
    scratch::Scratch,
    segment::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, Segment},
    stage::Next,
    tables::FlowTables,
    translate::Translation,
    verdict::Counter,
    wire::{TCP_LEN, TCP_OFFSET, TCP_SRC, V4_DST, V4_SRC, V6_DST, V6_SRC, flags, protocol},
};

const L3: usize = EthHdr::LEN;
const L4_V4: usize = L3 + Ipv4Hdr::LEN;
const L4_V6: usize = L3 + Ipv6Hdr::LEN;
/// Ethernet, IP and TCP, without options.
const V4: usize = L4_V4 + TCP_LEN;
const V6: usize = L4_V6 + TCP_LEN;
/// The same with timestamps as everybody lays them out.
const V4_PLAIN: usize = V4 + PLAIN_LEN;
const V6_PLAIN: usize = V6 + PLAIN_LEN;

/// The first `N` bytes of a packet, where all that is looked at and changed here is.
struct Headers<'a, const N: usize> {
    bytes: &'a mut [u8; N],
    /// Length of the frame.
    len: usize,
}

impl<const N: usize> Packet for Headers<'_, N> {
    #[inline(always)]
    fn len(&self) -> usize {
        self.len
    }

    #[inline(always)]
    fn view<const M: usize>(&self, offset: usize) -> Option<&[u8; M]> {
        self.bytes.get(offset..)?.first_chunk()
    }

    #[inline(always)]
    fn view_mut<const M: usize>(&mut self, offset: usize) -> Option<&mut [u8; M]> {
        self.bytes.get_mut(offset..)?.first_chunk_mut()
    }

    fn resize(&mut self, _: usize) -> Option<()> {
        None
    }

    fn grow_head(&mut self, _: Envelope) -> Option<()> {
        None
    }

    fn shrink_head(&mut self, _: Envelope) -> Option<()> {
        None
    }

    fn duplicate(&mut self) -> Option<()> {
        None
    }

    fn load(&self, _: usize, _: &mut [u8; PART], _: usize) -> Option<()> {
        None
    }

    fn store(&mut self, _: usize, _: &[u8; PART], _: usize) -> Option<()> {
        None
    }

    #[inline(always)]
    fn update_l4_checksum(&mut self, offset: usize, pseudo: Sum, body: Sum) -> Option<()> {
        let old = self.read(offset)?;
        self.write(offset, &pseudo.plus(body).update(old))
    }
}

/// What has come of the short way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Short {
    /// It is decided: the packet is passed.
    Passed(Counter),
    /// It has no flow, and is for the service `scratch.service`.
    Absent,
}

/// Which way a segment goes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    ToReplica,
    ToClient,
}

/// From the client's side.
#[inline(always)]
pub fn to_replica<P: Packet>(
    packet: &mut P,
    tables: &impl FlowTables,
    scratch: &mut Scratch,
) -> Option<Short> {
    shortcut(packet, tables, scratch, Way::ToReplica)
}

/// Towards the client.
#[inline(always)]
pub fn to_client<P: Packet>(
    packet: &mut P,
    tables: &impl FlowTables,
    scratch: &mut Scratch,
) -> Option<Short> {
    shortcut(packet, tables, scratch, Way::ToClient)
}

#[inline(always)]
fn shortcut<P: Packet>(
    packet: &mut P,
    tables: &impl FlowTables,
    scratch: &mut Scratch,
    way: Way,
) -> Option<Short> {
    // The kernel knows of these that their checksum is unfinished, whatever it looks like.
    if packet.is_merged() {
        return None;
    }
    let len = packet.len();
    let Some(bytes) = packet.view_mut::<V4_PLAIN>(0) else {
        let bytes = packet.view_mut::<V4>(0)?;
        return match [bytes[L3 - 2], bytes[L3 - 1]] {
            ETHERTYPE_IPV4 => translate::<V4, L4_V4>(bytes, len, tables, scratch, way),
            _ => None,
        };
    };
    match [bytes[L3 - 2], bytes[L3 - 1]] {
        ETHERTYPE_IPV4 => match bytes[L4_V4 + TCP_OFFSET] >> 4 {
            8 => translate::<V4_PLAIN, L4_V4>(bytes, len, tables, scratch, way),
            _ => translate::<V4, L4_V4>(bytes.first_chunk_mut()?, len, tables, scratch, way),
        },
        ETHERTYPE_IPV6 => {
            let Some(bytes) = packet.view_mut::<V6_PLAIN>(0) else {
                let bytes = packet.view_mut::<V6>(0)?;
                return translate::<V6, L4_V6>(bytes, len, tables, scratch, way);
            };
            match bytes[L4_V6 + TCP_OFFSET] >> 4 {
                8 => translate::<V6_PLAIN, L4_V6>(bytes, len, tables, scratch, way),
                _ => translate::<V6, L4_V6>(bytes.first_chunk_mut()?, len, tables, scratch, way),
            }
        }
        _ => None,
    }
}

/// Translates a segment whose headers are these bytes, with TCP at `L4`. `len`: of the frame.
#[inline(always)]
fn translate<const N: usize, const L4: usize>(
    bytes: &mut [u8; N],
    len: usize,
    tables: &impl FlowTables,
    scratch: &mut Scratch,
    way: Way,
) -> Option<Short> {
    let mut headers = Headers { bytes, len };
    let mut segment = Segment::EMPTY;
    match L4 {
        L4_V4 => segment.parse_v4(&mut headers, L3)?,
        _ => segment.parse_v6(&mut headers, L3)?,
    }
    if segment.protocol != protocol::TCP || segment.l4() != L4 {
        return None;
    }
    // Constants from here on: what was read of them in the packet is no constant to LLVM or the verifier.
    segment.l4 = L4 as u32;
    segment.parse_tcp(&mut headers)?;
    if segment.header_len() != N - L4 {
        return None;
    }
    segment.header_len = (N - L4) as u32;
    let is_usual = segment.well_formed()
        && segment.has(flags::ACK)
        && !segment.has_any(flags::SYN | flags::FIN | flags::RST)
        && is_plain(&headers, &segment)?
        && !is_unfinished(&headers, &segment)?;
    if !is_usual {
        return None;
    }
    let ends = Ends::of::<N, L4>(headers.bytes);
    let (flow, back);
    let (translation, verdict) = match way {
        Way::ToReplica => {
            let Some(found) = tables.flow(ends.client_words().tuple()) else {
                let ours = ingress::service_of(tables, &segment, &mut scratch.vip);
                let Some(service) = ours else {
                    return Some(Short::Passed(Counter::IngressPassed));
                };
                if segment.jumbo != 0 {
                    return None;
                }
                scratch.service = service;
                return Some(Short::Absent);
            };
            flow = found;
            if ingress::needs_care(tables, &segment, flow) {
                return None;
            }
            ingress::hear(tables, &segment, flow);
            (Translation::to_replica(flow.get()), Counter::ToReplica)
        }
        Way::ToClient => {
            let ends = ends.server_words();
            let Some(found) = tables.flow_back(ends.tuple()) else {
                let Next::Verdict(verdict) = egress::without_flow(tables, &segment, ends.tuple())
                else {
                    return None;
                };
                return Some(Short::Passed(verdict));
            };
            back = found;
            if egress::needs_care(&segment, back) {
                return None;
            }
            egress::hear(&segment, back);
            (Translation::to_client(back.get()), Counter::ToClient)
        }
    };
    let changed = translation.apply_to_plain(&mut headers, &segment)?;
    changed.update(&mut headers, Place { l3: L3, l4: L4, v6: L4 == L4_V6 })?;
    Some(Short::Passed(verdict))
}

/// A segment's ends in words, as they lie: what is written in bytes cannot be read in words at once by a CPU.
struct Ends {
    src: [u32; 4],
    dst: [u32; 4],
    ports: u32,
}

/// A [`Tuple`] in words.
#[repr(C, align(8))]
struct Words([u32; size_of::<Tuple>() / 4]);

impl Ends {
    #[inline(always)]
    fn of<const N: usize, const L4: usize>(bytes: &[u8; N]) -> Self {
        const MAPPED: u32 = u32::from_ne_bytes([0, 0, 0xff, 0xff]);
        let word = |at: usize| {
            u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let addr = |v4: usize, v6: usize| match L4 {
            L4_V4 => [0, 0, MAPPED, word(L3 + v4)],
            _ => [word(L3 + v6), word(L3 + v6 + 4), word(L3 + v6 + 8), word(L3 + v6 + 12)],
        };
        Self { src: addr(V4_SRC, V6_SRC), dst: addr(V4_DST, V6_DST), ports: word(L4 + TCP_SRC) }
    }

    #[inline(always)]
    const fn client_words(&self) -> Words {
        let ([a, b, c, d], [e, f, g, h]) = (self.src, self.dst);
        Words([a, b, c, d, e, f, g, h, self.ports])
    }

    #[inline(always)]
    const fn server_words(&self) -> Words {
        let ([a, b, c, d], [e, f, g, h]) = (self.dst, self.src);
        Words([a, b, c, d, e, f, g, h, self.ports.rotate_left(16)])
    }
}

impl Words {
    #[inline(always)]
    const fn tuple(&self) -> &Tuple {
        const { assert!(size_of::<Words>() >= size_of::<Tuple>() && align_of::<Tuple>() == 1) };
        // SAFETY: a tuple is bytes, and all of them are there.
        unsafe { &*core::ptr::from_ref(self).cast() }
    }
}
