//! The lab itself: what every other end-to-end test stands on.

use std::io::{Read, Write};
use std::net::{SocketAddr, UdpSocket};
use std::panic::catch_unwind;
use std::time::Duration;
use std::{fs, thread};

use anyhow::Result;
use roost_programs::{IP, SLEEP, UNSHARE};
use roost_tests::lab::{Family, Lab, Process, Way, run, try_until};

#[test]
fn client_reaches_replicas() -> Result<()> {
    let lab = Lab::builder("reach").replicas(2).build()?;
    for family in Family::BOTH {
        for n in 1..=2 {
            let at = lab.replica_at(n, family, 7000);
            let listener = lab.replicas[n - 1].ns.listen(at)?;
            let server = thread::spawn(move || -> Result<SocketAddr> {
                let (mut stream, from) = listener.accept()?;
                std::io::copy(&mut stream.try_clone()?, &mut stream)?;
                Ok(from)
            });
            let mut stream = lab.client.connect(at)?;
            stream.write_all(b"hello")?;
            stream.shutdown(std::net::Shutdown::Write)?;
            let mut echo = String::new();
            stream.read_to_string(&mut echo)?;
            assert_eq!(echo, "hello");
            let from = server.join().expect("the server thread")?;
            assert_eq!(from.ip(), lab.client_addr(family), "the replica sees the client");
        }
    }
    Ok(())
}

#[test]
fn vips_are_routed_to_the_node() -> Result<()> {
    let lab = Lab::builder("vips").replicas(1).build()?;
    let capture = lab.node.capture("eth0", &lab.dir().join("vips.pcap"), "tcp")?;
    for family in Family::BOTH {
        let error = lab.client.connect((lab.vip(family), 80).into()).expect_err("nobody is there");
        use std::io::ErrorKind::{HostUnreachable, NetworkUnreachable};
        assert!([HostUnreachable, NetworkUnreachable].contains(&error.kind()), "{family}: {error}");
    }
    capture.wait_for("198.18.200.1.80")?;
    capture.wait_for("fd52:6f6f:7374:200::1.80")?;
    let packets = capture.finish()?;
    assert!(packets.contains("(correct)"), "no checksum was verified:\n{packets}");
    assert!(!packets.contains("incorrect"), "the client finishes its checksums:\n{packets}");
    Ok(())
}

#[test]
fn loss_can_be_made_and_ended() -> Result<()> {
    let lab = Lab::builder("loss").replicas(1).build()?;
    // How many of 20 datagrams come back.
    let answered = || -> Result<usize> {
        let client = lab.client.run(|| UdpSocket::bind("198.18.0.2:0"))?;
        let replica = lab.replicas[0].ns.run(|| UdpSocket::bind("198.18.101.2:9"))?;
        for socket in [&client, &replica] {
            socket.set_read_timeout(Some(Duration::from_secs(1)))?;
        }
        for _ in 0..20 {
            client.send_to(b"?", "198.18.101.2:9")?;
        }
        let mut byte = [0];
        let mut asked = 0;
        while asked < 20
            && let Ok((_, from)) = replica.recv_from(&mut byte)
        {
            replica.send_to(b"!", from)?;
            asked += 1;
        }
        Ok((0..asked).take_while(|_| client.recv_from(&mut byte).is_ok()).count())
    };
    assert!(answered()? > 0, "nothing is lost at first");
    for way in [Way::In, Way::Out] {
        lab.client.set_loss("eth0", way, 100)?;
        assert_eq!(answered()?, 0, "{way:?}");
        lab.client.set_loss("eth0", way, 0)?;
        assert!(answered()? > 0, "{way:?}");
    }
    Ok(())
}

#[test]
fn reordering_can_be_made_and_ended() -> Result<()> {
    let lab = Lab::builder("reorder").replicas(1).build()?;
    let late = || -> Result<bool> {
        let from = lab.client.run(|| UdpSocket::bind("198.18.0.2:0"))?;
        let to = lab.replicas[0].ns.run(|| UdpSocket::bind("198.18.101.2:9"))?;
        for n in 0..500_u32 {
            let mut packet = [0; 1400];
            packet[..4].copy_from_slice(&n.to_be_bytes());
            from.send_to(&packet, "198.18.101.2:9")?;
        }
        to.set_read_timeout(Some(Duration::from_secs(1)))?;
        let mut order = Vec::new();
        let mut packet = [0; 1400];
        while to.recv(&mut packet).is_ok() {
            order.push(packet[..4].to_vec());
        }
        assert!(order.len() > 50, "only {} packets came", order.len());
        Ok(!order.is_sorted())
    };
    // A sender that the kernel moves to another CPU may overtake itself.
    let in_order = || -> Result<bool> {
        for _ in 0..10 {
            if !late()? {
                return Ok(true);
            }
        }
        Ok(false)
    };
    assert!(in_order()?, "in order at first");
    lab.client.set_reordering("eth0", 30)?;
    assert!(late()?, "out of order then");
    lab.client.set_reordering("eth0", 0)?;
    assert!(in_order()?, "in order again");
    Ok(())
}

#[test]
#[expect(clippy::zombie_processes, reason = "a test that panics does not wait for its children")]
fn nothing_is_left_after_a_panic() -> Result<()> {
    let (sender, receiver) = std::sync::mpsc::channel();
    let result = catch_unwind(move || {
        let lab = Lab::builder("panic").replicas(1).build().expect("a lab");
        let sleep = lab.node.command(SLEEP).expect("sleep").arg("1000").spawn().expect("sleep");
        let mut guarded = lab.client.command(SLEEP).expect("sleep");
        let guarded = Process::spawn("sleep", guarded.arg("1000"));
        let guarded = guarded.expect("another sleep");
        fs::create_dir(lab.pin_dir()).expect("a pin directory");
        let namespaces = run(IP, &["netns", "list"]).expect("namespaces");
        assert!(namespaces.contains(&lab.prefix), "{namespaces}");
        let pids = [sleep.id(), guarded.pid()];
        sender.send((lab.prefix.clone(), lab.pin_dir(), pids)).expect("the channel is open");
        panic!("as a failing test does");
    });
    assert!(result.is_err());
    let (prefix, pin_dir, pids) = receiver.recv()?;
    assert!(!run(IP, &["netns", "list"])?.contains(&prefix));
    assert!(!pin_dir.exists(), "{} is left", pin_dir.display());
    for pid in pids {
        // Killed; without a guard it stays as a zombie of ours, which has no memory any more.
        let memory = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        assert!(memory.is_empty(), "process {pid} is left");
    }
    Ok(())
}

#[test]
fn leftovers_of_the_dead_are_removed() -> Result<()> {
    // No process has this number: it is above the largest that the kernel gives.
    let prefix = format!("roost-4194305-crashed{}", std::process::id());
    let name = format!("{prefix}-replica-1");
    let mut child =
        UNSHARE.command()?.args(["--net", "sleep", "1000"]).env("ROOST_LAB", &prefix).spawn()?;
    let inside = format!("/proc/{}/ns/net", child.id());
    let outside = fs::read_link("/proc/self/ns/net")?;
    try_until(Duration::from_secs(60), "the process to be inside", || {
        Ok((fs::read_link(&inside)? != outside).then_some(()))
    })?;
    // From here on another test that makes a lab may be the one that removes this.
    run(IP, &["netns", "attach", &name, &child.id().to_string()])?;
    let _lab = Lab::builder("sweep").replicas(1).build()?;
    try_until(Duration::from_secs(60), "the namespace to go", || {
        Ok((!run(IP, &["netns", "list"])?.contains(&name)).then_some(()))
    })?;
    let ended = try_until(Duration::from_secs(60), "the process to end", || Ok(child.try_wait()?));
    assert!(!ended?.success(), "it was killed");
    Ok(())
}
