//! nginx in front of the VIP: it ends TLS, as in many a deployment.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{Certificate, Lab, Process, try_until};

/// Where it listens for HTTPS, on all addresses of the client's namespace.
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
        fs::write(&file, configuration(&dir, tls, vip, upstream))?;
        let mut nginx = lab.client.command(binary()?);
        nginx.arg("-e").arg("stderr").arg("-p").arg(&dir).arg("-c").arg(&file);
        let mut process = Process::spawn("nginx", &mut nginx)?;
        let at = SocketAddr::new(lab.client_addr(super::Family::V4), HTTPS_PORT);
        try_until(Duration::from_secs(20), "nginx to listen", || {
            ensure!(process.running(), "it has ended: {}", process.log());
            Ok(lab.client.connect(at).ok().map(drop))
        })?;
        Ok(Self { process })
    }
}

fn configuration(
    dir: &std::path::Path,
    tls: &Certificate,
    vip: SocketAddr,
    upstream: Upstream,
) -> String {
    // Of the places where nginx would write, the one that it has been built with is the machine's.
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|what| format!("  {what}_temp_path {}/{what};\n", dir.display()))
        .concat();
    let (keep, idle) = match upstream {
        Upstream::OneRequest => ("", "close"),
        Upstream::Reused => ("keepalive 8;", ""),
    };
    let Certificate { certificate, key } = tls;
    format!(
        r#"daemon off;
master_process off;
pid {dir}/nginx.pid;
events {{ worker_connections 512; }}
http {{
  access_log off;
{temporary}
  upstream vip {{ server {vip}; {keep} }}
  map $http_upgrade $connection_upgrade {{ default upgrade; '' '{idle}'; }}
  server {{
    listen 0.0.0.0:{HTTPS_PORT} ssl http2;
    listen [::]:{HTTPS_PORT} ssl http2;
    ssl_certificate {certificate};
    ssl_certificate_key {key};
    location / {{
      proxy_pass http://vip;
      proxy_http_version 1.1;
      proxy_set_header Host $http_host;
      proxy_set_header Upgrade $http_upgrade;
      proxy_set_header Connection $connection_upgrade;
      proxy_read_timeout 1h;
    }}
  }}
}}
"#,
        dir = dir.display(),
        certificate = certificate.display(),
        key = key.display(),
    )
}

fn binary() -> Result<PathBuf> {
    let built = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/peers");
    let peers = std::env::var_os("ROOST_PEERS").map_or_else(|| built.into(), PathBuf::from);
    let binary = peers.join("nginx/usr/sbin/nginx").canonicalize();
    binary.with_context(|| format!("{} has no nginx: run cargo xtask test", peers.display()))
}
