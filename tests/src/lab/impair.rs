//! Making a network worse, and looking at it: loss, reordering, offloads, captures.

use std::fmt;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use roost_programs::{ETHTOOL, IP, NFT, TC, TCPDUMP};
use socket2::{Domain, Socket, Type};

use super::netns::Netns;
use super::process::Process;
use super::{tools, try_until};

/// Into or out of an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// What it receives.
    In,
    /// What it sends.
    Out,
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::In => "in",
            Self::Out => "out",
        })
    }
}

impl Netns {
    /// Switches an offload of an interface (`tx`, `rx`, `gso`, `tso`, `gro`).
    pub fn set_offload(&self, device: &str, offload: &str, on: bool) -> Result<()> {
        let state = if on { "on" } else { "off" };
        tools::run_in(self, ETHTOOL, &["-K", device, offload, state]).map(drop)
    }

    /// Lets an interface be given packets of up to so many bytes, and merge to as many: "BIG TCP", of which iproute2 6.1
    /// cannot tell for IPv4.
    pub fn set_big(&self, device: &str, size: u32) -> Result<()> {
        const RTM_SETLINK: u16 = 19;
        const REQUEST_AND_ACK: u16 = 5;
        const IFLA_IFNAME: u16 = 3;
        /// `IFLA_{GSO,GRO}_MAX_SIZE`, `IFLA_{GSO,GRO}_IPV4_MAX_SIZE`.
        const SIZES: [u16; 4] = [41, 58, 63, 64];
        let mut body = vec![0; 16];
        let mut attribute = |kind: u16, value: &[u8]| {
            body.extend((value.len() as u16 + 4).to_ne_bytes());
            body.extend(kind.to_ne_bytes());
            body.extend(value);
            body.resize(body.len().next_multiple_of(4), 0);
        };
        attribute(IFLA_IFNAME, &[device.as_bytes(), b"\0"].concat());
        for kind in SIZES {
            attribute(kind, &size.to_ne_bytes());
        }
        let mut message = (16 + body.len() as u32).to_ne_bytes().to_vec();
        message.extend(RTM_SETLINK.to_ne_bytes());
        message.extend(REQUEST_AND_ACK.to_ne_bytes());
        message.extend([0; 8]);
        message.extend(body);
        let answer = self.run(|| -> Result<i32> {
            let socket = Socket::new(Domain::from(libc::AF_NETLINK), Type::RAW, None)?;
            socket.send(&message)?;
            let mut answer = [0; 256];
            let len = (&socket).read(&mut answer)?;
            let error = answer[..len].get(16..20).context("a short answer")?;
            Ok(i32::from_ne_bytes(error.try_into()?))
        })?;
        ensure!(answer == 0, "{device}: packets of {size} bytes: error {answer}");
        Ok(())
    }

    /// Sets the MTU of an interface.
    pub fn set_mtu(&self, device: &str, mtu: u32) -> Result<()> {
        tools::run_in(self, IP, &["link", "set", device, "mtu", &mtu.to_string()]).map(drop)
    }

    /// Drops `percent` of the packets that go `way` through an interface, at random (there is no
    /// netem here). Replaces an earlier loss of the same way; 0 ends it.
    ///
    /// What comes in is dropped after XDP, what goes out before TC: loss that Roost's programs are
    /// to meet belongs on other interfaces than theirs. What goes out is better let out and dropped
    /// where it comes in: TCP takes notice of what its own host drops, and a packet may still be
    /// several segments, whatever the offloads are.
    pub fn set_loss(&self, device: &str, way: Way, percent: u8) -> Result<()> {
        let rule = match percent {
            0 => None,
            1..100 => Some(format!("numgen random mod 100 < {percent} counter drop")),
            _ => Some("counter drop".to_owned()),
        };
        self.set_rule(&format!("loss_{way}_{device}"), device, way, rule.as_ref())
    }

    /// The same for TCP segments of more than 1000 bytes of packet, so that handshakes and short ones get through.
    pub fn set_loss_of_data(&self, device: &str, way: Way, percent: u8) -> Result<()> {
        let rule = (percent > 0)
            .then(|| format!("meta length > 1000 numgen random mod 100 < {percent} counter drop"));
        self.set_rule(&format!("loss_of_data_{way}_{device}"), device, way, rule.as_ref())
    }

    /// Drops the RSTs that go out through an interface, or ends that.
    pub fn set_mute(&self, device: &str, on: bool) -> Result<()> {
        let rule = on.then(|| "meta l4proto tcp tcp flags & rst == rst counter drop".to_owned());
        self.set_rule(&format!("mute_{device}"), device, Way::Out, rule.as_ref())
    }

    /// How many packets [`Netns::set_loss`] has dropped.
    pub fn lost(&self, device: &str, way: Way) -> Result<u64> {
        let table = format!("loss_{way}_{device}");
        let text = tools::run_in(self, NFT, &["list", "table", "netdev", &table])?;
        let mut words = text.split_whitespace().skip_while(|word| *word != "packets");
        let packets = words.nth(1).and_then(|word| word.parse().ok());
        packets.with_context(|| format!("no counter in {text}"))
    }

    /// Sends `percent` of the packets that go out through an interface by a slow lane, so that
    /// later ones overtake them; 0 ends it.
    pub fn set_reordering(&self, device: &str, percent: u8) -> Result<()> {
        // The lane of a packet is its priority, which is how HTB is told a class.
        let rule = format!("numgen random mod 100 < {percent} meta priority set 1:2");
        let table = format!("lanes_{device}");
        self.set_rule(&table, device, Way::Out, (percent > 0).then_some(&rule))?;
        let lanes = if percent > 0 {
            format!(
                "qdisc replace dev {device} root handle 1: htb default 1 direct_qlen 1000\n\
                 class replace dev {device} parent 1: classid 1:1 htb rate 10gbit quantum 60000\n\
                 class replace dev {device} parent 1: classid 1:2 htb rate 40mbit burst 1600 cburst 1600 quantum 60000\n"
            )
        } else {
            format!("qdisc del dev {device} root\n")
        };
        tools::finish(self.command(TC)?.args(["-batch", "-"]), Some(&lanes)).map(drop)
    }

    fn set_rule(&self, table: &str, device: &str, way: Way, rule: Option<&String>) -> Result<()> {
        let hook = match way {
            Way::In => "ingress",
            Way::Out => "egress",
        };
        let mut rules = format!("table netdev {table}\ndelete table netdev {table}\n");
        if let Some(rule) = rule {
            rules += &format!(
                "table netdev {table} {{\nchain it {{\n\
                 type filter hook {hook} device \"{device}\" priority 0; policy accept;\n\
                 {rule}\n}}\n}}\n"
            );
        }
        tools::finish(self.command(NFT)?.args(["-f", "-"]), Some(&rules)).map(drop)
    }

    /// Captures what passes an interface (`any` for all) into a file until the guard is dropped.
    pub fn capture(&self, device: &str, file: &Path, filter: &str) -> Result<Capture> {
        let mut command = self.command(TCPDUMP)?;
        // Immediately and packet by packet, or the last ones are lost when it is killed.
        command.args(["-i", device, "-n", "-U", "--immediate-mode", "-s", "0", "-w"]).arg(file);
        let process = Process::spawn("tcpdump", command.arg(filter))?;
        process.wait_line(Duration::from_secs(60), "listening on")?;
        Ok(Capture { process, file: file.to_owned() })
    }
}

/// A running capture.
#[derive(Debug)]
pub struct Capture {
    process: Process,
    file: PathBuf,
}

impl Capture {
    /// Waits until a packet is in it that tcpdump prints with this text: what it has not read when it ends
    /// is lost.
    pub fn wait_for(&self, text: &str) -> Result<()> {
        let file = self.file.to_str().context("the capture's path is not UTF-8")?;
        try_until(Duration::from_secs(60), &format!("{text} to be captured"), || {
            Ok(tools::run(TCPDUMP, &["-n", "-r", file])?.contains(text).then_some(()))
        })
    }

    /// Ends it and returns the packets as tcpdump prints them, with checksums verified.
    pub fn finish(mut self) -> Result<String> {
        self.process.terminate(Duration::from_secs(60))?;
        let file = self.file.to_str().context("the capture's path is not UTF-8")?;
        tools::run(TCPDUMP, &["-n", "-vv", "-tt", "-r", file])
    }
}
