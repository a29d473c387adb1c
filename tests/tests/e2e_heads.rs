//! Requests in several segments, through real TCP stacks.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use roost_tests::lab::{Config, Family, Lab, Netns, Site, Way};

/// A request for a chat with so many bytes of other headers before the one with its name.
fn request(chat: usize, before: usize) -> Vec<u8> {
    format!(
        "GET /ws?chat=room{chat} HTTP/1.1\r\nHost: chat.example\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         X-Other: {}\r\nX-Chat: room{chat}\r\n\r\n",
        "o".repeat(before)
    )
    .into_bytes()
}

/// Sends a request in pieces, each in a segment of its own, and returns the answer's first line.
fn ask(stream: &mut TcpStream, pieces: &[&[u8]]) -> Result<String> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    for piece in pieces {
        stream.write_all(piece)?;
    }
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n") {
        let mut byte = [0];
        ensure!(stream.read(&mut byte).context("the answer")? == 1, "it ends: {answer:?}");
        answer.push(byte[0]);
    }
    Ok(String::from_utf8(answer)?.trim_end().to_owned())
}

/// How often TCP has waited for a retransmission timer in a namespace.
fn timeouts(ns: &Netns) -> Result<u64> {
    let text = ns.run(|| fs::read_to_string("/proc/thread-self/net/netstat"))?;
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("TcpExt:"));
    let (names, values) = (lines.next().context("names")?, lines.next().context("values")?);
    let mut both = names.split_whitespace().zip(values.split_whitespace());
    let found = both.find(|(name, _)| *name == "TCPTimeouts").context("TCPTimeouts")?;
    Ok(found.1.parse()?)
}

/// Opens connections whose requests are split in so many ways, and returns the timeouts that they
/// cost. Those that go on are kept, so that each chat stays where it is.
fn round(site: &Site, vip: SocketAddr, kept: &mut Vec<TcpStream>) -> Result<u64> {
    let before = timeouts(&site.lab.client)?;
    let mut open = |pieces: &[&[u8]]| -> Result<()> {
        let mut stream = site.lab.client.connect(vip)?;
        let answer = ask(&mut stream, pieces)?;
        ensure!(answer.starts_with("HTTP/1.1 101"), "{answer}: {} pieces", pieces.len());
        kept.push(stream);
        Ok(())
    };
    for chat in 0..10 {
        let short = request(chat, 0);
        for at in [1, 4, 16, 100, short.len() - 12, short.len() - 1] {
            let (a, b) = short.split_at(at);
            open(&[a, b])?;
        }
        let third = short.len() / 3;
        let [a, b, c] = [&short[..third], &short[third..2 * third], &short[2 * third..]];
        open(&[a, b, c])?;
        open(&[&a[..2], &a[2..], b, c])?;
        // Three full segments, and as many as a client sends before it hears of anything.
        open(&[&request(chat, 2500)])?;
        open(&[&request(chat, 13_500)])?;
    }
    Ok(timeouts(&site.lab.client)? - before)
}

#[test]
fn a_head_in_several_segments_costs_no_timeout() -> Result<()> {
    let site = Site::start(Lab::builder("heads"), |lab| Config::new(lab).key("header:X-Chat"))?;
    for family in Family::BOTH {
        let mut kept = Vec::new();
        let mut cost = Vec::new();
        // A machine that stands still for 200 ms is not what is tested.
        while cost.len() < 12 && cost.last() != Some(&0) {
            cost.push(round(&site, site.vip(family), &mut kept)?);
        }
        assert_eq!(cost.last(), Some(&0), "timeouts in each round, {family}: {cost:?}");
        let chats = site.live_chats()?;
        assert_eq!(chats.len(), 10, "{family}: {chats:?}");
        assert!(chats.iter().all(|chat| chat["flows"] == 10 * cost.len()), "{family}: {chats:?}");
        drop(kept);
        roost_tests::lab::try_until(Duration::from_secs(60), "the chats to end", || {
            Ok(site.live_chats()?.is_empty().then_some(()))
        })?;
    }
    Ok(())
}

#[test]
fn a_client_that_takes_its_time_is_served() -> Result<()> {
    let site = Site::start(Lab::builder("slow"), |lab| Config::new(lab).key("header:X-Chat"))?;
    let request = request(7, 0);
    let mut stream = site.lab.client.connect(site.vip(Family::V4))?;
    stream.set_nodelay(true)?;
    let mut sent = 0;
    for (round, end) in [5, 40, 60].into_iter().enumerate() {
        stream.write_all(&request[sent..end])?;
        sent = end;
        // It waits for the acknowledgement, and sends nothing new once it has waited too long.
        roost_tests::lab::try_until(Duration::from_secs(60), "an acknowledgement", || {
            Ok((site.counter("head_acknowledged")? > round as u64).then_some(()))
        })?;
    }
    let answer = ask(&mut stream, &[&request[sent..]])?;
    assert!(answer.starts_with("HTTP/1.1 101"), "{answer}");
    let chats = site.live_chats()?;
    assert_eq!((chats.len(), &chats[0]["key"]), (1, &"room7".into()));
    Ok(())
}

/// Their clients send them no more, and of each connection the first bytes are lost once, on their way to its replica.
#[test]
fn acknowledged_bytes_that_are_lost_behind_roost_arrive_all_the_same() -> Result<()> {
    const CLIENTS: usize = 20;
    let lab = Lab::builder("lost").replicas(1);
    let site = Site::start(lab, |lab| Config::new(lab).key("header:X-Chat"))?;
    let replica = &site.lab.replicas[0];
    for family in Family::BOTH {
        let before = site.counter("delivered_again")?;
        let mut open = Vec::new();
        for chat in 0..CLIENTS {
            let mut stream = site.lab.client.connect(site.vip(family))?;
            stream.set_nodelay(true)?;
            let request = request(chat, 3000);
            stream.write_all(&request[..2000])?;
            open.push((stream, request));
        }
        roost_tests::lab::try_until(Duration::from_secs(60), "acknowledgements", || {
            let stash = site.roost.json(&["maps", "dump", "STASH"])?;
            let heads = stash[0]["entries"].as_array().context("heads")?;
            let acked = heads.iter().filter(|head| head["value"]["acknowledged"] == 2000).count();
            Ok((acked == CLIENTS).then_some(()))
        })?;
        // The handshakes are let through, and half of what comes with data.
        replica.ns.set_loss_of_data("eth0", Way::In, 50)?;
        let asked: Vec<_> = std::thread::scope(|scope| {
            let ask = |(mut stream, request): (TcpStream, Vec<u8>)| {
                scope.spawn(move || ask(&mut stream, &[&request[2000..]]))
            };
            let asked: Vec<_> = open.into_iter().map(ask).collect();
            asked.into_iter().map(|thread| thread.join().expect("no panic")).collect()
        });
        replica.ns.set_loss_of_data("eth0", Way::In, 0)?;
        for answer in asked {
            let answer = answer.with_context(|| site.diagnosis())?;
            ensure!(answer.starts_with("HTTP/1.1 101"), "{answer}");
        }
        ensure!(site.counter("delivered_again")? > before, "{}", site.diagnosis());
        roost_tests::lab::try_until(Duration::from_secs(60), "the heads to go", || {
            let stash = site.roost.json(&["maps", "dump", "STASH"])?;
            Ok(stash[0]["entries"].as_array().context("heads")?.is_empty().then_some(()))
        })?;
    }
    Ok(())
}

#[test]
fn what_is_longer_than_the_limit_is_served_without_a_key() -> Result<()> {
    let site = Site::start(Lab::builder("long"), |lab| Config::new(lab).key("header:X-Chat"))?;
    let mut stream = site.lab.client.connect(site.vip(Family::V4))?;
    let answer = ask(&mut stream, &[&request(1, 20_000)])?;
    assert!(answer.starts_with("HTTP/1.1 101"), "{answer}");
    assert!(site.live_chats()?.is_empty());
    assert!(site.counter("missing_too_long")? > 0);
    Ok(())
}
