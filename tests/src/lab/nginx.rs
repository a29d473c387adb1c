//! nginx in front of the VIP: it ends TLS, as in many a deployment.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::proxy::{Proxy, nginx_places};
use super::{Certificate, Family, Lab, Netns, Process};

/// Where it listens for HTTPS, on the IPv4 addresses of the client's namespace.
pub const HTTPS_PORT: u16 = 443;

/// nginx in the client's namespace, or in a pod.
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
        Self::start_in(lab, &lab.client, lab.client_addr(Family::V4), tls, vip, upstream)
    }

    /// The same in another namespace, which has this address.
    pub fn start_in(
        lab: &Lab,
        ns: &Netns,
        addr: IpAddr,
        tls: &Certificate,
        vip: SocketAddr,
        upstream: Upstream,
    ) -> Result<Self> {
        let at = SocketAddr::new(addr, HTTPS_PORT);
        Self::start_at(lab, ns, at, tls, &format!("server {vip};"), upstream)
    }

    /// The same at any port, with these words for what is behind it.
    pub(super) fn start_at(
        lab: &Lab,
        ns: &Netns,
        at: SocketAddr,
        tls: &Certificate,
        servers: &str,
        upstream: Upstream,
    ) -> Result<Self> {
        let dir = lab.dir().join(format!("nginx-{}", at.port()));
        let blocks = configuration(&dir, tls, at.port(), servers, upstream)?;
        let Proxy { process } = Proxy::nginx(ns, &dir, &blocks, at)?;
        Ok(Self { process })
    }
}

/// What the documentation says for a proxy, with these changes: what it has, and what stands there instead.
pub(super) fn documented(proxy: &str, changes: &[(&str, String)]) -> Result<String> {
    let page = include_str!("../../../docs/key-sources.md");
    let fence = format!("```{proxy}\n");
    let block = page.split_once(&fence).and_then(|(_, rest)| rest.split_once("```"));
    let (block, _) =
        block.with_context(|| format!("docs/key-sources.md has no block for {proxy}"))?;
    let mut block = block.to_owned();
    for (documented, ours) in changes {
        ensure!(block.contains(documented), "the block for {proxy} has no `{documented}`: {block}");
        block = block.replace(documented, ours);
    }
    Ok(block)
}

/// What the documentation says for nginx, with this lab's addresses and files.
fn configuration(
    dir: &Path,
    tls: &Certificate,
    port: u16,
    servers: &str,
    upstream: Upstream,
) -> Result<String> {
    let Certificate { certificate, key } = tls;
    let listen = format!(
        "listen {port} ssl http2; ssl_certificate {}; ssl_certificate_key {};",
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
    let server = documented("nginx", &changes)?;
    Ok(format!(
        "events {{ worker_connections 512; }}\n\
         http {{\naccess_log off;\n{}upstream vip {{ {servers} {keep} }}\n{server}}}\n",
        nginx_places(dir),
    ))
}
