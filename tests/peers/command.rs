//! How the peers are run. The tests of roost-chat include this file, too.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};

/// The clients.
pub const CLIENTS: [&str; 5] =
    ["client.py", "client_aiohttp.py", "client.mjs", "Client.java", "client.go"];

/// The servers.
pub const SERVERS: [&str; 3] = ["server.py", "server_aiohttp.py", "server.mjs"];

/// Where `cargo xtask test` installs what they need; `root` is the checkout.
pub fn installed(root: &Path) -> PathBuf {
    std::env::var_os("ROOST_PEERS").map_or_else(|| root.join("target/peers"), PathBuf::from)
}

/// The words that run a file of tests/peers; for scripts `ROOST_PEERS` has to be set to
/// [`installed`].
pub fn words(root: &Path, file: &str) -> Result<Vec<OsString>> {
    let (installed, script) = (installed(root), root.join("tests/peers").join(file));
    let (words, needed): (Vec<OsString>, _) = match file.rsplit('.').next() {
        Some("py") => {
            let python = installed.join("venv/bin/python");
            (vec![python.clone().into(), script.into()], python)
        }
        Some("java") => {
            let classes = installed.join("java");
            // It runs for a second: compiling itself well would take longer than all else.
            let quick = ["java", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-cp"];
            let quick = quick.into_iter().map(OsString::from);
            (quick.chain([classes.clone().into(), "Client".into()]).collect(), classes)
        }
        Some("go") => {
            let client = installed.join("go-client");
            (vec![client.clone().into()], client)
        }
        _ => (vec!["node".into(), script.into()], installed.join("node_modules/ws")),
    };
    ensure!(
        needed.exists(),
        "{} is missing: run cargo xtask test, or see tests/peers/README.md",
        needed.display()
    );
    Ok(words)
}
