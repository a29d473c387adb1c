//! The server and the Rust client under TLS, over loopback.

use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use roost_chat::client::{Tab, Upgrade, load};
use roost_chat::server::{Config, Server};
use roost_chat::tls::{ClientTls, ServerTls};
use tokio::io::AsyncReadExt as _;

/// Longer than anything takes, on a machine that does much else.
const LIMIT: Duration = Duration::from_secs(60);

/// An authority and a certificate for `chat.test`, in files of `dir`: the authority's, the
/// certificate's, its key's.
fn certificates(dir: &Path) -> Result<[PathBuf; 3]> {
    let mut authority = CertificateParams::new([])?;
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate()?)?;
    let key = KeyPair::generate()?;
    let leaf = CertificateParams::new(["chat.test".to_owned()])?.signed_by(&key, &authority)?;
    let write = |name: &str, pem: String| {
        let path = dir.join(name);
        fs::write(&path, pem).map(|()| path)
    };
    Ok([
        write("ca.pem", authority.pem())?,
        write("cert.pem", leaf.pem())?,
        write("key.pem", key.serialize_pem())?,
    ])
}

#[tokio::test]
async fn tabs_meet_under_tls() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let [ca, cert, key] = certificates(dir.path())?;
    let mut config = Config::new("replica-1", ["127.0.0.1:0".parse()?]);
    config.tls = Some(ServerTls::read(&cert, &key)?);
    let server = Server::bind(&config)?;
    let address = server.addresses()[0];
    let server = tokio::spawn(server.run(std::future::pending()));

    // One that never says anything holds up nobody.
    let _silent = TcpStream::connect(address)?;
    let tls = ClientTls::read(&ca)?;
    let open = async |host: &str| {
        let request = Upgrade::chat(host, "1").tls(Some(tls.clone()));
        Tab::upgrade(TcpStream::connect(address)?, &request).await
    };
    let (mut a, mut b) = (open("chat.test").await?, open("chat.test:443").await?);
    assert_eq!(b.hello().peer, b.local_addr());
    a.say(&"x".repeat(100_000)).await?;
    assert_eq!(b.next_message(LIMIT).await?.expect("a message").text.len(), 100_000);
    a.close().await?;
    b.abort()?;

    let other = format!("{:#}", open("other.test").await.unwrap_err());
    assert!(
        other.contains("no TLS with other.test") && other.contains("not valid for name"),
        "{other}"
    );
    let plain = format!("{:#}", Tab::open(address, "chat.test", "1", None).await.unwrap_err());
    assert!(plain.contains("cannot open ws://chat.test/ws?chat=1"), "{plain}");

    let mut plan = load::Plan::new(address, 5, 20);
    (plan.host, plan.tls) = ("chat.test".to_owned(), Some(tls));
    let mut load = load::open(&plan).await;
    load.say(LIMIT).await;
    assert_eq!(load.opened().reached, Some(20), "{:?}", load.opened().errors);
    server.abort();
    Ok(())
}

#[tokio::test]
async fn a_client_that_speaks_no_tls_is_let_go() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let [_, cert, key] = certificates(dir.path())?;
    let mut config = Config::new("replica-1", ["127.0.0.1:0".parse()?]);
    config.tls = Some(ServerTls::read(&cert, &key)?);
    let server = Server::bind(&config)?;
    let address = server.addresses()[0];
    let server = tokio::spawn(server.run(std::future::pending()));
    let mut stream = tokio::net::TcpStream::connect(address).await?;
    tokio::io::AsyncWriteExt::write_all(&mut stream, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await?;
    let mut answer = Vec::new();
    // An RST is as good as an end.
    let _ = tokio::time::timeout(LIMIT, stream.read_to_end(&mut answer)).await?;
    assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
    server.abort();
    Ok(())
}

#[test]
fn what_is_wrong_with_the_files_is_said() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let [ca, cert, key] = certificates(dir.path())?;
    let missing = dir.path().join("missing.pem");
    let error = |result: Result<()>| format!("{:#}", result.unwrap_err());
    let read = |cert: &Path, key: &Path| error(ServerTls::read(cert, key).map(drop));
    assert!(read(&missing, &key).contains("tls-cert: "));
    assert!(read(&cert, &missing).contains("tls-key: "));
    assert!(read(&ca, &key).contains("tls-key: "), "the key of another certificate");
    assert!(error(ClientTls::read(&key).map(drop)).contains("has no certificate"));
    Ok(())
}
