//! Proxies of others: between clients and the VIP, with connections that they use again, and in Roost's place.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::Result;

use crate::lab::{Family, Lab, Proxy, REPLICA_PORT, nginx_places};

/// Where the proxies accept.
const PORT: u16 = 8100;

/// Who is between clients and the VIP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Between {
    /// Nobody.
    Nobody,
    /// nginx that keeps up to 32 connections.
    Nginx,
    /// HAProxy that sends each request by any connection that is free.
    Haproxy,
}

impl Between {
    /// Starts it on the clients' side, in front of `to`, unless it is nobody. Where clients have to go.
    pub fn start(self, lab: &Lab, to: SocketAddr) -> Result<(SocketAddr, Option<Proxy>)> {
        let at = SocketAddr::new(lab.client_addr(Family::V4), PORT);
        let dir = lab.dir().join(format!("between-{self:?}"));
        let proxy = match self {
            Self::Nobody => return Ok((to, None)),
            Self::Nginx => Proxy::nginx(&lab.client, &dir, &nginx(&dir, at, to), at)?,
            Self::Haproxy => Proxy::haproxy(&lab.client, &dir, &haproxy(at, to), at)?,
        };
        Ok((at, Some(proxy)))
    }
}

fn nginx(dir: &Path, at: SocketAddr, to: SocketAddr) -> String {
    format!(
        "events {{ worker_connections 4000; }}\n\
         http {{\naccess_log off;\nclient_max_body_size 0;\n{}\
         map $http_upgrade $connection_upgrade {{ default upgrade; '' ''; }}\n\
         upstream vip {{ server {to}; keepalive 32; }}\n\
         server {{ listen {at}; location / {{\n\
         proxy_pass http://vip;\nproxy_http_version 1.1;\nproxy_set_header Host $host;\n\
         proxy_set_header Upgrade $http_upgrade;\n\
         proxy_set_header Connection $connection_upgrade;\n}} }}\n}}\n",
        nginx_places(dir)
    )
}

const HAPROXY: &str = "global\n    maxconn 4000\n\
     defaults\n    mode http\n    timeout connect 10s\n    timeout client 1m\n    timeout server 1m\n    timeout tunnel 1m\n";

fn haproxy(at: SocketAddr, to: SocketAddr) -> String {
    format!("{HAPROXY}listen between\n    bind {at}\n    http-reuse always\n    server vip {to}\n")
}

/// HAProxy on the node, which reads each request's chat itself; where it accepts, by family.
pub fn haproxy_instead(lab: &Lab) -> Result<([SocketAddr; 2], Proxy)> {
    let at = lab.node_addrs().map(|node| SocketAddr::new(node, PORT));
    let [four, six] = at;
    let servers = (1..=lab.replicas.len())
        .map(|n| (n, lab.replica_at(n, Family::V4, REPLICA_PORT)))
        .map(|(n, replica)| format!("    server replica-{n} {replica}\n"))
        .collect::<String>();
    let text = format!(
        "{HAPROXY}listen rooms\n    bind {four}\n    bind {six}\n    balance url_param chat\n    hash-type consistent\n{servers}"
    );
    Ok((at, Proxy::haproxy(&lab.node, &lab.dir().join("instead"), &text, four)?))
}
