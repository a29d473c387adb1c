//! TLS for both ends, with ring for the cryptography.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use hyper::http::uri::Authority;
use tokio::net::TcpStream;
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::stream::Stream;

/// The only protocol that is spoken: a WebSocket is an upgrade of HTTP/1.1.
const PROTOCOL: &[u8] = b"http/1.1";

/// By name, not by what the program was built with: another dependency may bring a second one.
fn provider() -> Arc<CryptoProvider> {
    ring::default_provider().into()
}

/// A server's certificate and key.
#[derive(Clone)]
pub struct ServerTls(TlsAcceptor);

impl ServerTls {
    /// Reads PEM files: the certificate with those that lead to the authority, and its key.
    pub fn read(certificate: &Path, key: &Path) -> Result<Self> {
        let of = |what: &str, path: &Path| format!("{what}: {} is not usable", path.display());
        let chain = CertificateDer::pem_file_iter(certificate)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .with_context(|| of("tls-cert", certificate))?;
        let secret = PrivateKeyDer::from_pem_file(key).with_context(|| of("tls-key", key))?;
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(chain, secret)
            .with_context(|| of("tls-key", key))?;
        config.alpn_protocols = vec![PROTOCOL.to_vec()];
        Ok(Self(Arc::new(config).into()))
    }

    pub(crate) async fn accept(&self, stream: TcpStream) -> std::io::Result<Stream> {
        Ok(Stream::Tls(Box::new(self.0.accept(stream).await?.into())))
    }
}

impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ServerTls")
    }
}

/// Whom a client believes.
#[derive(Clone)]
pub struct ClientTls(TlsConnector);

impl ClientTls {
    /// Believes the authorities in a PEM file, and nobody else.
    pub fn read(authorities: &Path) -> Result<Self> {
        let path = authorities.display();
        let mut roots = RootCertStore::empty();
        let certificates = CertificateDer::pem_file_iter(authorities)
            .with_context(|| format!("ca: {path} is not usable"))?;
        for certificate in certificates {
            roots.add(certificate?).with_context(|| format!("ca: {path}"))?;
        }
        anyhow::ensure!(!roots.is_empty(), "ca: {path} has no certificate");
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![PROTOCOL.to_vec()];
        Ok(Self(Arc::new(config).into()))
    }

    /// Shakes hands with `host`, a name or an address, with or without a port.
    pub(crate) async fn connect(&self, stream: TcpStream, host: &str) -> Result<Stream> {
        let name = host_name(host)?;
        let server = ServerName::try_from(name.clone())
            .with_context(|| format!("{name:?} is neither a name nor an address"))?;
        let stream = self.0.connect(server, stream).await;
        let stream = stream.with_context(|| format!("no TLS with {name}"))?;
        Ok(Stream::Tls(Box::new(stream.into())))
    }
}

impl fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientTls")
    }
}

/// `host`, as in the header, without its port and brackets.
fn host_name(host: &str) -> Result<String> {
    let authority: Authority =
        host.parse().with_context(|| format!("host: {host:?} is not HOST or HOST:PORT"))?;
    Ok(authority.host().trim_start_matches('[').trim_end_matches(']').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_loses_its_port_and_brackets() {
        for (host, name) in [
            ("chat.test", "chat.test"),
            ("chat.test:443", "chat.test"),
            ("192.0.2.1:443", "192.0.2.1"),
            ("[2001:db8::1]:443", "2001:db8::1"),
            ("[2001:db8::1]", "2001:db8::1"),
        ] {
            assert_eq!(host_name(host).unwrap(), name);
        }
        assert!(host_name("chat test").is_err());
    }
}
