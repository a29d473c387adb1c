//! Who may be in front of the replicas: Roost, and the proxies that people use in its place, each by a chat's
//! header and by a chat's server name.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use anyhow::Result;

use crate::lab::{
    Config, Family, Lab, Proxy, REPLICA_PORT, ReplicaConfig, Roost, nginx_places, unpacked,
};

/// Where replicas serve what comes as TLS.
pub(super) const TLS_PORT: u16 = REPLICA_PORT + 1;
/// Where clients connect.
const PORTS: [u16; 2] = [8000, 8001];

/// Who they are, by name.
pub(super) const ALL: [&str; 3] = ["roost", "haproxy", "nginx"];

/// One of them, started.
#[derive(Debug)]
pub(super) struct Front {
    /// Where requests go, and where ClientHellos do.
    pub at: [SocketAddr; 2],
    /// Roost, if it is that.
    pub roost: Option<Roost>,
    _proxy: Option<Proxy>,
}

impl Front {
    /// Starts one.
    pub fn start(lab: &Lab, name: &str) -> Result<Self> {
        match name {
            "roost" => Ok(Self {
                at: PORTS.map(|port| (lab.vip(Family::V4), port).into()),
                roost: Some(Roost::start(lab, &roost(lab))?),
                _proxy: None,
            }),
            proxy => {
                let node = lab.node_addrs()[0];
                let at = PORTS.map(|port| SocketAddr::new(node, port));
                let dir = lab.dir().join(proxy);
                let proxy = match proxy {
                    "haproxy" => Proxy::haproxy(&lab.node, &dir, &haproxy(lab, node), at[1])?,
                    _ => Proxy::nginx(&lab.node, &dir, &nginx(lab, node, &dir)?, at[1])?,
                };
                Ok(Self { at, roost: None, _proxy: Some(proxy) })
            }
        }
    }
}

fn roost(lab: &Lab) -> String {
    let [http, tls] = PORTS;
    let first = Config::new(lab).port(http).key("header:X-Chat").to_string();
    let replicas = (1..=lab.replicas.len())
        .map(|n| ReplicaConfig { port: TLS_PORT, ..ReplicaConfig::new(lab, n) });
    let second =
        Config { name: "tls".to_owned(), replicas: replicas.collect(), ..Config::new(lab) };
    let second = second.port(tls).key("sni").to_string();
    let (_, second) = second.split_once("[[service]]").expect("it has a service");
    format!("{first}\n[[service]]{second}")
}

/// A server for each replica, in the words of a proxy.
fn servers(lab: &Lab, port: u16, line: impl Fn(usize, SocketAddr) -> String) -> String {
    (1..=lab.replicas.len()).map(|n| line(n, lab.replica_at(n, Family::V4, port))).collect()
}

/// By hashes alone: what a stick table would keep is learned with the first tab's connection, so tabs that
/// open at the same moment would be split.
fn haproxy(lab: &Lab, node: IpAddr) -> String {
    let [http, tls] = PORTS;
    let line = |n, at| format!("    server replica-{n} {at}\n");
    format!(
        "global\n    maxconn 4000\n\
         defaults\n    timeout connect 10s\n    timeout client 1m\n    timeout server 1m\n\
         listen http\n    mode http\n    bind {node}:{http}\n    balance hdr(X-Chat)\n    \
         hash-type consistent\n{}\
         listen tls\n    mode tcp\n    bind {node}:{tls}\n    tcp-request inspect-delay 30s\n    \
         \
         tcp-request content set-var(sess.name) req.ssl_sni if {{ req.ssl_hello_type 1 }}\n    \
         tcp-request content accept if {{ req.ssl_hello_type 1 }}\n    \
         balance hash var(sess.name)\n    hash-type consistent\n{}",
        servers(lab, REPLICA_PORT, line),
        servers(lab, TLS_PORT, line),
    )
}

/// With room for heads as long as those of the others: by itself it takes lines of up to 8 KiB.
fn nginx(lab: &Lab, node: IpAddr, dir: &Path) -> Result<String> {
    let [http, tls] = PORTS;
    let line = |_, at| format!("server {at};");
    let module = unpacked("nginx")?.join("usr/lib/nginx/modules/ngx_stream_module.so");
    Ok(format!(
        "load_module {};\nevents {{ worker_connections 4000; }}\n\
         http {{\naccess_log off;\n{}large_client_header_buffers 4 16k;\n\
         upstream chat {{ hash $http_x_chat consistent; {} }}\n\
         server {{ listen {node}:{http}; location / {{ proxy_pass http://chat; }} }}\n}}\n\
         stream {{\npreread_buffer_size 16k;\npreread_timeout 30s;\n\
         upstream tls {{ hash $ssl_preread_server_name consistent; {} }}\n\
         server {{ listen {node}:{tls}; ssl_preread on; proxy_pass tls; }}\n}}\n",
        module.display(),
        nginx_places(dir),
        servers(lab, REPLICA_PORT, line),
        servers(lab, TLS_PORT, line),
    ))
}
