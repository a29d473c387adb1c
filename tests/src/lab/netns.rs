//! One network namespace: made, entered by a thread or a command, removed when dropped.

use std::fs::File;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::{fs, io, thread};

use anyhow::{Context, Result};
use nix::sched::{CloneFlags, setns};
use roost_programs::{IP, Runnable};

use super::tools;

/// The variable by which processes that a lab has started are known.
pub(super) const MARK: &str = "ROOST_LAB";

/// A network namespace that this process has made.
#[derive(Debug)]
pub struct Netns {
    name: String,
    mark: String,
    file: File,
}

impl Netns {
    /// Makes it. Processes started in it carry the `mark` in their environment.
    pub(super) fn create(name: String, mark: &str) -> Result<Self> {
        tools::run(IP, &["netns", "add", &name])?;
        let path = PathBuf::from("/run/netns").join(&name);
        let file = File::open(&path).with_context(|| format!("opening {}", path.display()));
        let file = file.inspect_err(|_| {
            let _ = tools::run(IP, &["netns", "del", &name]);
        })?;
        let ns = Self { name, mark: mark.to_owned(), file };
        for (key, value) in [
            // Addresses are usable at once, and hosts that forward do not advise others.
            ("net.ipv6.conf.all.accept_dad", "0"),
            ("net.ipv6.conf.default.accept_dad", "0"),
            ("net.ipv6.conf.default.accept_ra", "0"),
            ("net.ipv4.conf.all.send_redirects", "0"),
            ("net.ipv4.conf.default.send_redirects", "0"),
            ("net.ipv4.conf.all.rp_filter", "0"),
            ("net.ipv4.conf.default.rp_filter", "0"),
            ("net.ipv4.ip_forward", "1"),
            ("net.ipv6.conf.all.forwarding", "1"),
        ] {
            ns.sysctl(key, value)?;
        }
        Ok(ns)
    }

    /// Its name, as `ip netns` knows it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs `work` on a thread of its own inside the namespace. Sockets stay in the namespace they
    /// were made in, so they can be handed out. A panic of `work` goes on in the caller.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let inside = || {
            setns(&self.file, CloneFlags::CLONE_NEWNET)
                .unwrap_or_else(|errno| panic!("entering the namespace {}: {errno}", self.name));
            work()
        };
        let result = thread::scope(|scope| scope.spawn(inside).join());
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// A command that will run inside the namespace, in the caller's mount namespace.
    pub fn command(&self, program: impl Runnable) -> Result<Command> {
        Ok(self.enter(program.command()?))
    }

    /// The same for a command that has been prepared.
    pub fn enter(&self, mut command: Command) -> Command {
        let ns = self.file.as_raw_fd();
        command.env(MARK, &self.mark);
        // SAFETY: between fork and exec only the system call `setns` is made, which is safe there;
        // the descriptor is open for as long as `self` is, and the guards that spawn commands do
        // so while they borrow it.
        unsafe {
            command.pre_exec(move || {
                let ns = std::os::fd::BorrowedFd::borrow_raw(ns);
                setns(ns, CloneFlags::CLONE_NEWNET).map_err(io::Error::from)
            });
        }
        command
    }

    /// Sets a sysctl under `net.`.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        // An interface's name in a key may not contain a dot; ours do not.
        let path = PathBuf::from("/proc/sys").join(key.replace('.', "/"));
        self.run(|| fs::write(&path, value))
            .with_context(|| format!("setting {key} to {value} in {}", self.name))
    }

    /// What its TCP has counted under a name of `/proc/net/snmp`.
    pub fn tcp_count(&self, name: &str) -> Result<u64> {
        let text = self.run(|| fs::read_to_string("/proc/thread-self/net/snmp"))?;
        let mut lines = text.lines().filter(|line| line.starts_with("Tcp:"));
        let (names, values) = lines.next().zip(lines.next()).context("no counts of TCP")?;
        let mut counts = names.split_whitespace().zip(values.split_whitespace());
        let found = counts.find(|(counted, _)| *counted == name);
        let (_, count) = found.with_context(|| format!("TCP counts no {name}"))?;
        Ok(count.parse()?)
    }

    /// Opens a TCP connection from inside.
    pub fn connect(&self, to: SocketAddr) -> io::Result<TcpStream> {
        self.run(|| TcpStream::connect_timeout(&to, std::time::Duration::from_secs(10)))
    }

    /// Listens for TCP connections inside.
    pub fn listen(&self, at: SocketAddr) -> io::Result<TcpListener> {
        self.run(|| TcpListener::bind(at))
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        if let Err(error) = tools::run(IP, &["netns", "del", &self.name]) {
            eprintln!("lab: {error:#}");
        }
    }
}
