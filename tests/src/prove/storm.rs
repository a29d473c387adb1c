//! A flood of segments at a fixed rate, made in the kernel: it costs little, and the same wherever it goes to.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use aya::programs::{TestRun as _, TestRunAttrs, TestRunOptions, Xdp, XdpMode};
use aya::{Ebpf, EbpfLoader};
use etherparse::{PacketBuilder, TcpHeader, TcpOptionElement};
use nix::net::if_::if_nametoindex;
use roost_programs::IP;

use crate::lab::{Family, Lab, Netns, VIP_PORT, run_in};

/// The first half of the addresses that a flood comes from: the half of the benchmarking range that no lab
/// uses.
const SOURCES: [u8; 2] = [198, 19];
/// How often frames are sent.
const TICK: Duration = Duration::from_millis(1);
/// What the program has room for.
const LONGEST: usize = 2 + 4 * 64;
/// Bytes behind a frame that the program takes off.
const EXCESS: usize = 4;
/// Frames that the kernel makes at once: less than a veth's queue of 256.
const BATCH: u32 = 64;

/// What a flood is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// SYNs, each of another connection.
    Syn,
    /// Acknowledgements of no connection.
    Ack,
    /// The same with data.
    AckData,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Syn, Self::Ack, Self::AckData];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Syn => "syn",
            Self::Ack => "ack",
            Self::AckData => "ack_data",
        }
    }

    /// A frame to the VIP; what is random in the real ones is zero.
    fn frame(self, lab: &Lab, [from, to]: [[u8; 6]; 2]) -> Result<Vec<u8>> {
        let IpAddr::V4(vip) = lab.vip(Family::V4) else { bail!("the VIP is not of IPv4") };
        let mut tcp = TcpHeader::new(0, VIP_PORT, 0, 64_240);
        let timestamp = TcpOptionElement::Timestamp(1, u32::from(self != Self::Syn));
        let options = match self {
            Self::Syn => vec![
                TcpOptionElement::MaximumSegmentSize(1460),
                TcpOptionElement::SelectiveAcknowledgementPermitted,
                timestamp,
                TcpOptionElement::Noop,
                TcpOptionElement::WindowScale(7),
            ],
            Self::Ack | Self::AckData => {
                vec![TcpOptionElement::Noop, TcpOptionElement::Noop, timestamp]
            }
        };
        tcp.set_options(&options)?;
        (tcp.syn, tcp.ack) = (self == Self::Syn, self != Self::Syn);
        let data: &[u8] = if self == Self::AckData { &[b'x'; 100] } else { &[] };
        let source = Ipv4Addr::new(SOURCES[0], SOURCES[1], 0, 0);
        let mut frame = Vec::new();
        PacketBuilder::ethernet2(from, to)
            .ipv4(source.octets(), vip.octets(), 64)
            .tcp_header(tcp)
            .write(&mut frame, data)?;
        ensure!(frame.len() <= LONGEST, "a frame of {} bytes", frame.len());
        Ok(frame)
    }
}

/// A flood that goes on until it is ended.
pub(super) struct Storm {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<u64>>,
    start: Instant,
}

impl Storm {
    /// Sends so many frames a second through a device of the client's, whose other end has the same name at
    /// the node.
    pub fn start(lab: &Lab, kind: Kind, device: &str, rate: u32) -> Result<Self> {
        let frame = kind.frame(lab, [mac(&lab.client, device)?, mac(&lab.node, device)?])?;
        let (stop, ns, device) =
            (Arc::<AtomicBool>::default(), Arc::clone(&lab.client), device.to_owned());
        let stopped = Arc::clone(&stop);
        let thread = thread::Builder::new()
            .name("storm".to_owned())
            .spawn(move || ns.run(|| send(&frame, &device, rate, &stopped)))?;
        Ok(Self { stop, thread, start: Instant::now() })
    }

    /// Ends it; how many frames it has sent in a second.
    pub fn end(self) -> Result<f64> {
        self.stop.store(true, Ordering::Relaxed);
        let took = self.start.elapsed();
        let sent = self.thread.join().map_err(|_| anyhow!("the flood's thread has panicked"))??;
        Ok(sent as f64 / took.as_secs_f64())
    }
}

fn send(frame: &[u8], device: &str, rate: u32, stop: &AtomicBool) -> Result<u64> {
    let index = if_nametoindex(device).with_context(|| format!("looking for {device}"))?;
    let mut words = [0; (LONGEST - 2) / 4];
    for (word, bytes) in words.iter_mut().zip(frame[2..].chunks_exact(4)) {
        *word = u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    }
    let head = u16::from_ne_bytes([frame[0], frame[1]]);
    let longer = [frame, &[0; EXCESS]].concat();
    let mut ebpf = load(&head, &words, index)?;
    let program = program(&mut ebpf, "flood_make")?;
    // Nothing comes there. But a program that is attached to nothing is entered into the kernel's dispatcher with
    // each run and taken out again (`bpf_prog_change_xdp`), for which it waits tens of milliseconds.
    program
        .attach("lo", XdpMode::Skb)
        .context("attaching the flood's program to the loopback device")?;
    // Before all others, or its bursts are longer; without the right to that they are.
    // SAFETY: the arguments are numbers.
    let _ = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, -20) };
    let (start, mut sent) = (Instant::now(), 0);
    while !stop.load(Ordering::Relaxed) {
        let due = (start.elapsed().as_secs_f64() * f64::from(rate)) as u64;
        // What a machine that is too busy has missed is not made up for.
        let repeat = due.saturating_sub(sent).min(u64::from(rate) / 10) as u32;
        if repeat > 0 {
            let options = TestRunOptions {
                data_in: Some(&longer),
                repeat,
                attrs: TestRunAttrs::new().xdp_live_frames(BATCH.min(repeat)),
                ..TestRunOptions::new()
            };
            program.test_run(options).context("sending frames")?;
            sent += u64::from(repeat);
        }
        thread::sleep(TICK);
    }
    Ok(sent)
}

/// A program on an interface of a namespace, in place of what was there, until the guard is dropped.
pub(super) struct Attached {
    _ebpf: Ebpf,
}

impl Attached {
    /// Lets answers to a flood go no further.
    pub fn sink(ns: &Netns, device: &str) -> Result<Self> {
        Self::new(ns, device, "flood_sink")
    }

    /// Lets nothing go further.
    pub fn drop_all(ns: &Netns, device: &str) -> Result<Self> {
        Self::new(ns, device, "flood_drop")
    }

    fn new(ns: &Netns, device: &str, name: &str) -> Result<Self> {
        run_in(ns, IP, &["link", "set", "dev", device, "xdpdrv", "off"])?;
        let mut ebpf = load(&0, &[0; (LONGEST - 2) / 4], 0)?;
        let attach = || {
            let program = program(&mut ebpf, name)?;
            program.attach(device, XdpMode::Driver).with_context(|| format!("attaching {name}"))
        };
        ns.run(attach)?;
        Ok(Self { _ebpf: ebpf })
    }
}

fn load(head: &u16, words: &[u32; (LONGEST - 2) / 4], device: u32) -> Result<Ebpf> {
    const VARIABLE: &str = "ROOST_FLOOD_OBJECT";
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/bpf/flood.o");
    let path = std::env::var_os(VARIABLE).map_or(built, Into::into);
    let object = fs::read(&path)
        .with_context(|| format!("reading {}: run `cargo xtask build` first", path.display()))?;
    EbpfLoader::new()
        .override_global("HEAD", head, true)
        .override_global("WORDS", words, true)
        .override_global("DEVICE", &device, true)
        .override_global("SOURCES", &SOURCES, true)
        .load(&object)
        .context("loading the programs of the flood")
}

fn program<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp> {
    let program = ebpf.program_mut(name).with_context(|| format!("no program {name}"))?;
    let program: &mut Xdp = program.try_into()?;
    program.load().with_context(|| format!("loading {name}"))?;
    Ok(program)
}

fn mac(ns: &Netns, device: &str) -> Result<[u8; 6]> {
    let text = run_in(ns, IP, &["-o", "link", "show", "dev", device])?;
    let mut words = text.split_whitespace().skip_while(|word| *word != "link/ether");
    let mac = words.nth(1).with_context(|| format!("no address of {device} in {text}"))?;
    let bytes: Vec<_> =
        mac.split(':').map(|byte| u8::from_str_radix(byte, 16)).collect::<Result<_, _>>()?;
    bytes.try_into().map_err(|_| anyhow!("{mac} is no address of Ethernet"))
}
