//! `heads`: first bytes as long and in as many segments as clients send them, to Roost and to proxies in its
//! place.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;

use super::front::{ALL, Front, TLS_PORT};
use super::report::Report;
use super::step;
use crate::hello::{Padding, client_hello, records};
use crate::lab::{Family, Lab, REPLICA_PORT, UPLINK, Way};

/// How much is to be done.
#[derive(Args, Debug, Clone)]
pub struct Options {
    /// Open N chats in each shape
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub chats: usize,
    /// Open N tabs of each chat
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub tabs: usize,
    /// Try these alone: roost, haproxy, nginx
    #[arg(long, value_name = "NAME", value_delimiter = ',', value_parser = ALL)]
    pub fronts: Vec<String>,
}

/// How long a client waits for its answer.
const PATIENCE: Duration = Duration::from_secs(40);

/// What a client sends first.
#[derive(Debug, Clone, Copy)]
enum Head {
    /// A request whose chat is in its last header, behind so many bytes of cookies.
    Request(usize),
    /// A ClientHello of so many bytes, in records of so many at the most, its name at the end.
    Hello(usize, usize),
}

/// How it writes that.
#[derive(Debug, Clone, Copy)]
enum Cut {
    /// At once.
    Whole,
    /// In so many parts, each in a segment of its own as long as its congestion window allows.
    Parts(usize),
    /// Byte by byte.
    Bytes,
}

/// What happens on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Net {
    Clean,
    /// One of so many hundred is lost.
    Loss(u8),
    /// So many of a hundred are overtaken.
    Reordering(u8),
}

struct Shape {
    name: &'static str,
    words: &'static str,
    head: Head,
    cut: Cut,
    net: Net,
}

const fn shape(name: &'static str, words: &'static str, head: Head, cut: Cut, net: Net) -> Shape {
    Shape { name, words, head, cut, net }
}

const SHAPES: [Shape; 15] = {
    use Cut::{Bytes, Parts, Whole};
    use Head::{Hello, Request};
    use Net::{Clean, Loss, Reordering};
    [
        shape("one", "a request in one segment", Request(500), Whole, Clean),
        shape("parts_2", "in 2 segments", Request(500), Parts(2), Clean),
        shape("parts_5", "in 5", Request(500), Parts(5), Clean),
        shape("parts_8", "in 8", Request(500), Parts(8), Clean),
        shape("parts_20", "in 20", Request(1500), Parts(20), Clean),
        shape("parts_60", "in 60", Request(3000), Parts(60), Clean),
        shape("bytes", "byte by byte", Request(500), Bytes, Clean),
        shape("cookies", "15 KB of cookies before its key", Request(14_900), Whole, Clean),
        shape("loss", "4 KB in 20 segments, 5 % lost", Request(4000), Parts(20), Loss(5)),
        shape("order", "8 KB, 30 % overtaken", Request(8000), Whole, Reordering(30)),
        shape("hello", "a ClientHello of 517 bytes", Hello(517, 16_384), Whole, Clean),
        shape("hello_2k", "of 2 KB", Hello(2048, 16_384), Whole, Clean),
        shape("hello_15k", "of 15 KB", Hello(15_000, 16_384), Whole, Clean),
        shape("hello_records", "of 1 KB in records of 16 bytes", Hello(1024, 16), Whole, Clean),
        shape("hello_bytes", "of 517 bytes, byte by byte", Hello(517, 16_384), Bytes, Clean),
    ]
};

/// Runs it.
pub(super) fn run(options: &Options) -> Result<Report> {
    let lab = Lab::builder("shapes").replicas(3).build()?;
    for (n, site) in (1..).zip(&lab.replicas) {
        for (port, serve) in [(REPLICA_PORT, request as Serve), (TLS_PORT, hello as Serve)] {
            let listener = site.ns.listen(lab.replica_at(n, Family::V4, port))?;
            thread::spawn(move || accept(&listener, b'0' + n as u8, serve));
        }
    }
    let mut report = Report::new("heads");
    let all = ALL.map(str::to_owned);
    let fronts = if options.fronts.is_empty() { &all[..] } else { &options.fronts };
    for name in fronts {
        step(name);
        let front = Front::start(&lab, name)?;
        report.part(format!("chats whole behind {name}, and the median time to an answer"));
        for shape in &SHAPES {
            let tried = open(&lab, &front, shape, options)?;
            let (key, words) = (format!("{name}_{}", shape.name), shape.words);
            match front.roost {
                Some(_) => report.at_least(&key, tried.whole, 1.0, words),
                None => report.tell(&key, tried.whole, words),
            }
            report.tell(format!("{key}_ms"), tried.median.as_secs_f64() * 1e3, "ms");
            for error in tried.errors {
                anstream::eprintln!("   {}: {error}", shape.name);
            }
        }
    }
    Ok(report)
}

/// What has become of the chats of a shape.
struct Tried {
    /// Share of the chats whose tabs are all on one replica.
    whole: f64,
    /// From the connection's begin to the answer.
    median: Duration,
    /// Each kind once.
    errors: Vec<String>,
}

type Answers = Vec<Result<(u8, Duration, TcpStream)>>;

fn open(lab: &Lab, front: &Front, shape: &Shape, options: &Options) -> Result<Tried> {
    let impair = |on: bool| match shape.net {
        Net::Clean => Ok(()),
        Net::Loss(percent) => lab.client.set_loss(UPLINK, Way::Out, if on { percent } else { 0 }),
        Net::Reordering(percent) => lab.client.set_reordering(UPLINK, if on { percent } else { 0 }),
    };
    impair(true)?;
    let at = front.at[usize::from(matches!(shape.head, Head::Hello(..)))];
    let tab = |chat: usize| {
        let head = head(shape.head, &format!("{}-{chat}", shape.name.replace('_', "-")));
        lab.client.run(|| visit(at, &head, shape.cut))
    };
    let chats: Vec<Answers> = thread::scope(|scope| {
        let tabs = |chat| (0..options.tabs).map(move |_| scope.spawn(move || tab(chat)));
        let chats: Vec<Vec<_>> = (0..options.chats).map(|chat| tabs(chat).collect()).collect();
        let join = |tab: thread::ScopedJoinHandle<'_, _>| tab.join().expect("no panic");
        chats.into_iter().map(|tabs| tabs.into_iter().map(join).collect()).collect()
    });
    impair(false)?;
    let whole = chats.iter().filter(|tabs| is_whole(tabs)).count();
    let mut errors: Vec<String> = chats
        .iter()
        .flatten()
        .filter_map(|tab| tab.as_ref().err())
        .map(|e| format!("{e:#}"))
        .collect();
    errors.sort();
    errors.dedup();
    let answered = || chats.iter().flatten().filter_map(|tab| tab.as_ref().ok());
    let mut times: Vec<Duration> = answered().map(|(_, took, _)| *took).collect();
    times.sort();
    let replicas: std::collections::BTreeSet<u8> = answered().map(|(n, ..)| *n).collect();
    // All on one would be whole, too.
    ensure!(
        options.chats < 10 || times.is_empty() || replicas.len() > 1,
        "{}: all chats are on replica {replicas:?}",
        shape.name
    );
    let median = times.get(times.len() / 2).copied().unwrap_or_default();
    Ok(Tried { whole: whole as f64 / options.chats as f64, median, errors })
}

fn is_whole(tabs: &Answers) -> bool {
    let mut replicas = tabs.iter().map(|tab| tab.as_ref().map(|(n, ..)| *n).ok());
    let first = replicas.next().flatten();
    first.is_some() && replicas.all(|replica| replica == first)
}

fn head(head: Head, chat: &str) -> Vec<u8> {
    match head {
        Head::Request(before) => format!(
            "GET /ws HTTP/1.1\r\nHost: chat.example\r\nCookie: filler={}\r\nX-Chat: {chat}\r\n\r\n",
            "c".repeat(before)
        )
        .into_bytes(),
        Head::Hello(len, most) => {
            records(&client_hello(&format!("{chat}.example"), len, Padding::First), most)
        }
    }
}

/// One connection: which replica has answered, after how long, and the connection itself.
fn visit(at: SocketAddr, head: &[u8], cut: Cut) -> Result<(u8, Duration, TcpStream)> {
    let begin = Instant::now();
    let mut stream = TcpStream::connect_timeout(&at, PATIENCE).context("connecting")?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let len = match cut {
        Cut::Whole => head.len(),
        Cut::Parts(parts) => head.len().div_ceil(parts),
        Cut::Bytes => 1,
    };
    for part in head.chunks(len) {
        stream.write_all(part).context("writing the head")?;
    }
    let mut answer = Vec::new();
    loop {
        let mut bytes = [0; 1024];
        let len = stream.read(&mut bytes).context("reading the answer")?;
        ensure!(len > 0, "the connection ends: {:?}", String::from_utf8_lossy(&answer));
        answer.extend(&bytes[..len]);
        let body = match answer.windows(4).position(|four| four == b"\r\n\r\n") {
            Some(end) => &answer[end + 4..],
            None if answer.starts_with(b"HTTP") => &[],
            None => &answer,
        };
        if let Some(digit) = body.first() {
            ensure!(digit.is_ascii_digit(), "{:?}", String::from_utf8_lossy(&answer));
            return Ok((*digit, begin.elapsed(), stream));
        }
    }
}

/// What a replica does with a connection, whose first bytes these are; `b'1'` is its name.
type Serve = fn(&mut TcpStream, u8) -> std::io::Result<()>;

fn accept(listener: &TcpListener, name: u8, serve: Serve) {
    // It ends with the lab's namespaces, or with this process.
    for stream in listener.incoming() {
        let Ok(mut stream) = stream else { return };
        thread::spawn(move || {
            let served = serve(&mut stream, name);
            let _ = stream.shutdown(Shutdown::Both);
            served
        });
    }
}

/// Answers each request.
fn request(stream: &mut TcpStream, name: u8) -> std::io::Result<()> {
    let mut head = Vec::new();
    let mut bytes = [0; 4096];
    loop {
        let len = stream.read(&mut bytes)?;
        if len == 0 {
            return Ok(());
        }
        head.extend(&bytes[..len]);
        if head.ends_with(b"\r\n\r\n") {
            head.clear();
            let name = char::from(name);
            write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{name}")?;
        }
    }
}

/// Answers when a whole ClientHello is there: the handshake is not what is tried.
fn hello(stream: &mut TcpStream, name: u8) -> std::io::Result<()> {
    let (mut message, mut header) = (Vec::new(), [0; 5]);
    while message.len() < 4
        || message.len() < 4 + usize::from(u16::from_be_bytes([message[2], message[3]]))
    {
        stream.read_exact(&mut header)?;
        let mut record = vec![0; usize::from(u16::from_be_bytes([header[3], header[4]]))];
        stream.read_exact(&mut record)?;
        message.extend(record);
    }
    stream.write_all(&[name])?;
    match stream.read(&mut header) {
        Ok(0) => Ok(()),
        Ok(_) => Err(ErrorKind::InvalidData.into()),
        Err(error) => Err(error),
    }
}
