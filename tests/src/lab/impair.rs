//! Making a network worse, and looking at it: loss, reordering, offloads, captures.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use super::netns::Netns;
use super::process::Process;
use super::tools;

impl Netns {
    /// Switches an offload of an interface (`tx`, `rx`, `gso`, `tso`, `gro`).
    pub fn set_offload(&self, device: &str, offload: &str, on: bool) -> Result<()> {
        let state = if on { "on" } else { "off" };
        tools::run_in(self, "ethtool", &["-K", device, offload, state]).map(drop)
    }

    /// Sets the MTU of an interface.
    pub fn set_mtu(&self, device: &str, mtu: u32) -> Result<()> {
        tools::run_in(self, "ip", &["link", "set", device, "mtu", &mtu.to_string()]).map(drop)
    }

    /// Drops `percent` of the packets that come in through an interface, at random (there is no
    /// netem here). Replaces an earlier loss on the same interface; 0 ends it.
    pub fn set_loss(&self, device: &str, percent: u8) -> Result<()> {
        let table = format!("loss_{device}");
        let mut rules = format!("table netdev {table}\ndelete table netdev {table}\n");
        if percent > 0 {
            rules += &format!(
                "table netdev {table} {{ chain in {{\n\
                 type filter hook ingress device \"{device}\" priority 0; policy accept;\n\
                 numgen random mod 100 < {percent} drop\n}} }}\n"
            );
        }
        tools::finish(self.command("nft").args(["-f", "-"]), Some(&rules)).map(drop)
    }

    /// Captures what passes an interface (`any` for all) into a file until the guard is dropped.
    pub fn capture(&self, device: &str, file: &Path, filter: &str) -> Result<Capture> {
        let mut command = self.command("tcpdump");
        // Immediately and packet by packet, or the last ones are lost when it is killed.
        command.args(["-i", device, "-n", "-U", "--immediate-mode", "-s", "0", "-w"]).arg(file);
        let process = Process::spawn("tcpdump", command.arg(filter))?;
        process.wait_line(Duration::from_secs(10), "listening on")?;
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
    /// Ends it and returns the packets as tcpdump prints them, with checksums verified.
    pub fn finish(mut self) -> Result<String> {
        self.process.terminate(Duration::from_secs(10))?;
        let file = self.file.to_str().context("the capture's path is not UTF-8")?;
        tools::run("tcpdump", &["-n", "-vv", "-tt", "-r", file])
    }
}
