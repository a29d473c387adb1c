//! Proxies that end TLS in front of the VIP, as the documentation says, and keep their connections to it.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use anyhow::{Context, Result, bail};

use super::nginx::documented;
use super::{Certificate, HTTPS_PORT, Lab, Netns, Nginx, Proxy, Upstream};

/// Which one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Terminator {
    /// nginx with `keepalive`.
    Nginx,
    /// HAProxy with `http-reuse always`.
    Haproxy,
    /// Caddy as it is.
    Caddy,
}

impl Terminator {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Nginx, Self::Haproxy, Self::Caddy];

    /// Starts it in a namespace that has this address, in front of `vip`.
    pub fn start_in(
        self,
        lab: &Lab,
        ns: &Netns,
        addr: IpAddr,
        tls: &Certificate,
        vip: SocketAddr,
    ) -> Result<Proxy> {
        self.start_at(lab, ns, SocketAddr::new(addr, HTTPS_PORT), tls, Behind::Vip(vip))
    }

    /// The same at any port, and in front of what is wanted.
    pub fn start_at(
        self,
        lab: &Lab,
        ns: &Netns,
        at: SocketAddr,
        tls: &Certificate,
        behind: Behind<'_>,
    ) -> Result<Proxy> {
        let dir = lab.dir().join(format!("{self:?}-{}", at.port()));
        match self {
            Self::Nginx => {
                let servers = behind.nginx();
                let nginx = Nginx::start_at(lab, ns, at, tls, &servers, Upstream::Reused)?;
                Ok(Proxy { process: nginx.process })
            }
            Self::Haproxy => Proxy::haproxy(ns, &dir, &haproxy(&dir, tls, at, behind)?, at),
            Self::Caddy => {
                let Behind::Vip(vip) = behind else { bail!("Caddy of Debian has no such hash") };
                Proxy::caddy(ns, &dir, &caddy(tls, at, vip)?, at)
            }
        }
    }
}

/// What is behind one.
#[derive(Debug, Clone, Copy)]
pub enum Behind<'a> {
    /// An address that somebody else spreads.
    Vip(SocketAddr),
    /// Replicas, of which it chooses by a hash of the parameter `chat`.
    Hashed(&'a [SocketAddr]),
}

impl Behind<'_> {
    fn nginx(self) -> String {
        match self {
            Self::Vip(vip) => format!("server {vip};"),
            Self::Hashed(replicas) => {
                let servers = replicas.iter().map(|at| format!("server {at}; "));
                format!("hash $arg_chat consistent; {}", servers.collect::<String>())
            }
        }
    }

    fn haproxy(self) -> String {
        match self {
            Self::Vip(vip) => format!("server vip {vip}"),
            Self::Hashed(replicas) => {
                let servers = (1..).zip(replicas);
                let servers = servers.map(|(n, at)| format!("\n    server replica-{n} {at}"));
                format!(
                    "balance url_param chat\n    hash-type consistent{}",
                    servers.collect::<String>()
                )
            }
        }
    }
}

fn haproxy(dir: &Path, tls: &Certificate, at: SocketAddr, behind: Behind<'_>) -> Result<String> {
    // It wants both in one file.
    let pem = [fs::read(&tls.certificate)?, fs::read(&tls.key)?].concat();
    let file = dir.join("both.pem");
    fs::create_dir_all(dir)?;
    fs::write(&file, pem).with_context(|| format!("writing {}", file.display()))?;
    documented(
        "haproxy",
        &[
            (":443", at.to_string()),
            ("/etc/haproxy/rooms.pem", file.display().to_string()),
            ("server vip 192.0.2.10:80", behind.haproxy()),
        ],
    )
}

fn caddy(tls: &Certificate, at: SocketAddr, vip: SocketAddr) -> Result<String> {
    let Certificate { certificate, key } = tls;
    let (certificate, key) = (certificate.display(), key.display());
    // Nothing is to be asked of an authority, and nothing is to be told it while it runs.
    let rest = "{\n    admin off\n    auto_https off\n    servers {\n        protocols h1 h2\n    }\n}\n\n";
    let site =
        format!("https://:{} {{\n    bind {}\n    tls {certificate} {key}", at.port(), at.ip(),);
    let changes = [("rooms.example.com {", site), ("192.0.2.10:80", vip.to_string())];
    Ok(rest.to_owned() + &documented("caddy", &changes)?)
}
