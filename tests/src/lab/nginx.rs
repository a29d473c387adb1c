//! nginx in front of the VIP: it ends TLS, as in many a deployment.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{Certificate, Lab, Process, try_until};

/// Where it listens for HTTPS, on the IPv4 addresses of the client's namespace.
pub const HTTPS_PORT: u16 = 443;

/// nginx in the client's namespace.
#[derive(Debug)]
pub struct Nginx {
    /// The process.
    pub process: Process,
}

/// What nginx does with connections to the VIP after a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Upstream {
    /// It closes them, which is what it does by itself: a connection has one request.
    OneRequest,
    /// It keeps some, and sends the next request by one of them, whose ever it is.
    Reused,
}

impl Nginx {
    /// Starts it with a certificate, in front of `vip`.
    pub fn start(
        lab: &Lab,
        tls: &Certificate,
        vip: SocketAddr,
        upstream: Upstream,
    ) -> Result<Self> {
        let dir = lab.dir().join("nginx");
        fs::create_dir_all(&dir)?;
        let file = dir.join("nginx.conf");
        fs::write(&file, configuration(&dir, tls, vip, upstream)?)?;
        let mut nginx = lab.client.command(&binary()?)?;
        nginx.arg("-e").arg("stderr").arg("-p").arg(&dir).arg("-c").arg(&file);
        let mut process = Process::spawn("nginx", &mut nginx)?;
        let at = SocketAddr::new(lab.client_addr(super::Family::V4), HTTPS_PORT);
        try_until(Duration::from_secs(60), "nginx to listen", || {
            ensure!(process.running(), "it has ended: {}", process.log());
            Ok(lab.client.connect(at).ok().map(drop))
        })?;
        Ok(Self { process })
    }
}

/// What the documentation says for nginx, with this lab's addresses and files.
fn configuration(
    dir: &Path,
    tls: &Certificate,
    vip: SocketAddr,
    upstream: Upstream,
) -> Result<String> {
    let page = include_str!("../../../docs/key-sources.md");
    let block = page.split_once("```nginx\n").and_then(|(_, rest)| rest.split_once("```"));
    let (server, _) = block.context("docs/key-sources.md has no block for nginx")?;
    let Certificate { certificate, key } = tls;
    let listen = format!(
        "listen {HTTPS_PORT} ssl http2; ssl_certificate {}; ssl_certificate_key {};",
        certificate.display(),
        key.display(),
    );
    let mut changes =
        vec![("listen 443 ssl;", listen), ("http://192.0.2.10;", "http://vip;".into())];
    let keep = match upstream {
        Upstream::OneRequest => "",
        Upstream::Reused => {
            changes.push(("''      close;", "'' '';".to_owned()));
            "keepalive 8;"
        }
    };
    let mut server = server.to_owned();
    for (documented, ours) in changes {
        ensure!(server.contains(documented), "the block for nginx has no `{documented}`: {server}");
        server = server.replace(documented, &ours);
    }
    // Of the places where nginx would write, the one that it has been built with is the machine's.
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|what| format!("{what}_temp_path {}/{what};\n", dir.display()))
        .concat();
    Ok(format!(
        "daemon off; master_process off; pid {}/nginx.pid;\nevents {{ worker_connections 512; }}\n\
         http {{\naccess_log off;\n{temporary}upstream vip {{ server {vip}; {keep} }}\n{server}}}\n",
        dir.display(),
    ))
}

fn binary() -> Result<PathBuf> {
    let built = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/peers");
    let peers = std::env::var_os("ROOST_PEERS").map_or_else(|| built.into(), PathBuf::from);
    let binary = peers.join("nginx/usr/sbin/nginx").canonicalize();
    binary.with_context(|| format!("{} has no nginx: run cargo xtask test", peers.display()))
}
