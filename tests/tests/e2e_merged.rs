//! Packets larger than a frame: in generic mode Roost is handed what the kernel has merged, or what a neighbour on the
//! same machine never cut.

use std::io::Write;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use roost_chat::client::Http;
use roost_programs::IP;
use roost_tests::hello::{Padding, client_hello, records};
use roost_tests::lab::{Clients, Config, Family, Lab, Site, UPLINK, run_in, try_until};
use tokio::time::timeout;

const MB: u64 = 1 << 20;

/// A request for a chat with so many bytes of other headers before the one with its name.
fn request(chat: usize, before: usize) -> Vec<u8> {
    let other = "o".repeat(before);
    format!("GET /whoami HTTP/1.1\r\nHost: chat.example\r\nX-Other: {other}\r\nX-Chat: room{chat}\r\n\r\n")
        .into_bytes()
}

const HEADS: usize = 10;
/// Bytes of a head: a post-quantum ClientHello, and as many as a client sends before it hears of anything.
const SIZES: [usize; 2] = [2200, 14_000];

/// Every head is one packet or two: of up to ten segments, or jumbo frames. The SYN that is made of it looks to the kernel like what was
/// merged, and may be lost for that: then it is made of the client's next segment.
#[test]
fn a_head_that_nobody_has_cut_is_found_in_its_packet() -> Result<()> {
    let uncut = || Lab::builder("uncut").untouched(true);
    for (lab, key) in [
        (uncut(), "header:X-Chat"),
        (uncut(), "sni"),
        (Lab::builder("jumbo").uplink_mtu(9000).replica_mtu(9000), "header:X-Chat"),
    ] {
        let site = Site::start(lab, |lab| Config::new(lab).key(key))?;
        let mut open = Vec::new();
        for family in Family::BOTH {
            for (chat, size) in (0..HEADS).flat_map(|chat| SIZES.map(|size| (chat, size))) {
                let name = format!("chat{chat}.example");
                let head = match key {
                    "sni" => records(&client_hello(&name, size, Padding::First), 1 << 14),
                    _ => request(chat, size),
                };
                let mut stream = site.lab.client.connect(site.vip(family))?;
                stream.write_all(&head)?;
                open.push(stream);
            }
            try_until(Duration::from_secs(60), "all to be delivered", || {
                Ok((site.counter("delivered")? == open.len() as u64).then_some(()))
            })
            .with_context(|| site.diagnosis())?;
        }
        assert_eq!(site.counter("missing_key")?, 0, "{}", site.diagnosis());
        // Cut into segments they would be nine for each long one.
        let kept = site.counter("head_kept")?;
        ensure!(kept <= open.len() as u64, "{kept} segments were kept");
    }
    Ok(())
}

/// Without Roost, too, Linux forwards no such packet of IPv6 whose segments fill the MTU: it adds the extension header to
/// each of them. So the client's segments are smaller here.
#[test]
fn transfers_arrive_whole_in_packets_of_more_than_64_kb() -> Result<()> {
    let lab = Lab::builder("big").untouched(true).replicas(1);
    let site = Site::start(lab, Config::new)?;
    let lab = &site.lab;
    let replica = &lab.replicas[0];
    for (ns, device) in [
        (&lab.client, UPLINK),
        (&lab.node, UPLINK),
        (&lab.node, &*replica.node_device),
        (&replica.ns, UPLINK),
    ] {
        ns.set_big(device, 185_000)?;
    }
    let [_, node] = lab.node_addrs();
    let (node, client) = (node.to_string(), lab.client_addr(Family::V6).to_string());
    let smaller = ["-6", "route", "change", "default", "via", &node, "src", &client, "mtu", "1400"];
    run_in(&lab.client, IP, &smaller)?;
    for family in Family::BOTH {
        let big = |device: &str, name: &str| {
            lab.node.capture(device, &lab.dir().join(name), "greater 66000")
        };
        let (up, down) = (big(UPLINK, "up.pcap")?, big(&replica.node_device, "down.pcap")?);
        let clients = Clients::new(&lab.client)?;
        let mut http: Http = clients.http(site.vip(family), "big")?;
        let began = Instant::now();
        let done = clients.run(async {
            timeout(Duration::from_secs(120), async {
                http.upload(50 * MB, 1).await?;
                http.download(50 * MB, 2).await
            })
            .await
        });
        done.context("not done")
            .flatten()
            .with_context(|| format!("{family}\n{}", site.diagnosis()))?;
        for capture in [up, down] {
            let packets = capture.finish()?.lines().count();
            println!("{family}: {packets} lines of packets, {:?}", began.elapsed());
            ensure!(packets > 100, "{family}: only {packets} packets were that big");
        }
    }
    Ok(())
}
