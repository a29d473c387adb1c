//! Proxies of others, which `cargo xtask test` has unpacked.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use roost_programs::built;

use super::{Netns, Process, try_until};

/// A proxy in a namespace.
#[derive(Debug)]
pub struct Proxy {
    /// Its process.
    pub process: Process,
}

impl Proxy {
    /// Starts HAProxy with this configuration, and waits until it accepts at `at`.
    pub fn haproxy(ns: &Netns, dir: &Path, configuration: &str, at: SocketAddr) -> Result<Self> {
        let root = unpacked("haproxy")?;
        let file = write(dir, "haproxy.cfg", configuration)?;
        let mut haproxy = ns.enter(built(root.join("usr/sbin/haproxy"))?);
        let libraries = library_path(&root)?;
        // In the foreground, and quiet but for what is wrong.
        haproxy.args(["-db", "-q", "-f"]).arg(file).env("LD_LIBRARY_PATH", libraries);
        Self::started(Process::spawn("haproxy", &mut haproxy)?, ns, at)
    }

    /// Starts nginx with these blocks, and waits until it accepts at `at`.
    pub fn nginx(ns: &Netns, dir: &Path, blocks: &str, at: SocketAddr) -> Result<Self> {
        let binary = unpacked("nginx")?.join("usr/sbin/nginx");
        let pid = dir.join("nginx.pid");
        let text = format!("daemon off; master_process off; pid {};\n{blocks}", pid.display());
        let file = write(dir, "nginx.conf", &text)?;
        let mut nginx = ns.enter(built(binary)?);
        nginx.arg("-e").arg("stderr").arg("-p").arg(dir).arg("-c").arg(file);
        Self::started(Process::spawn("nginx", &mut nginx)?, ns, at)
    }

    /// Starts Caddy with this Caddyfile, and waits until it accepts at `at`.
    pub fn caddy(ns: &Netns, dir: &Path, configuration: &str, at: SocketAddr) -> Result<Self> {
        let binary = unpacked("caddy")?.join("usr/bin/caddy");
        let file = write(dir, "Caddyfile", configuration)?;
        let mut caddy = ns.enter(built(binary)?);
        // What it keeps for itself is here.
        caddy.args(["run", "--adapter", "caddyfile", "--config"]).arg(file).env("HOME", dir);
        caddy.env("XDG_DATA_HOME", dir).env("XDG_CONFIG_HOME", dir);
        Self::started(Process::spawn("caddy", &mut caddy)?, ns, at)
    }

    fn started(mut process: Process, ns: &Netns, at: SocketAddr) -> Result<Self> {
        try_until(Duration::from_secs(60), "a proxy to listen", || {
            ensure!(process.running(), "it has ended: {}", process.log());
            Ok(ns.connect(at).ok().map(drop))
        })?;
        Ok(Self { process })
    }
}

/// Places for what nginx would write: of those that it has been built with are the machine's.
pub fn nginx_places(dir: &Path) -> String {
    ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|what| format!("{what}_temp_path {}/{what};\n", dir.display()))
        .concat()
}

/// Where a program of another package is unpacked.
pub fn unpacked(name: &str) -> Result<PathBuf> {
    let built = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/peers");
    let peers = std::env::var_os("ROOST_PEERS").map_or_else(|| built.into(), PathBuf::from);
    let root = peers.join(name).canonicalize();
    root.with_context(|| format!("{} has no {name}: run cargo xtask test", peers.display()))
}

/// Its libraries: Debian has them in a directory that is named after the machine.
fn library_path(root: &Path) -> Result<PathBuf> {
    let lib = root.join("usr/lib");
    let entries = fs::read_dir(&lib).with_context(|| format!("reading {}", lib.display()))?;
    let paths = entries.map(|entry| entry.map(|entry| entry.path()));
    let paths = paths.collect::<std::io::Result<Vec<_>>>()?;
    let found = paths.into_iter().find(|path| path.to_string_lossy().ends_with("-linux-gnu"));
    found.with_context(|| format!("{} has no libraries", lib.display()))
}

fn write(dir: &Path, name: &str, text: &str) -> Result<PathBuf> {
    fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))?;
    let file = dir.join(name);
    fs::write(&file, text).with_context(|| format!("writing {}", file.display()))?;
    Ok(file)
}
