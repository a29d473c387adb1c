//! How the peers are run. The tests of roost-chat include this file, too.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use roost_programs::{JAVA, NODE, built};

/// The clients.
pub const CLIENTS: [&str; 5] =
    ["client.py", "client_aiohttp.py", "client.mjs", "Client.java", "client.go"];

/// The servers.
pub const SERVERS: [&str; 3] = ["server.py", "server_aiohttp.py", "server.mjs"];

/// Where `cargo xtask test` installs what they need; `root` is the checkout.
pub fn installed(root: &Path) -> PathBuf {
    std::env::var_os("ROOST_PEERS").map_or_else(|| root.join("target/peers"), PathBuf::from)
}

/// The command that runs a file of tests/peers, with what [`installed`] has.
pub fn command(root: &Path, file: &str) -> Result<Command> {
    let (installed, script) = (installed(root), root.join("tests/peers").join(file));
    let missing = || "run cargo xtask test, or see tests/peers/README.md";
    let there = |path: PathBuf| {
        ensure!(path.exists(), "{} is missing: {}", path.display(), missing());
        Ok(path)
    };
    let mut command = match file.rsplit_once('.') {
        Some((_, "py")) => {
            let mut python = built(installed.join("venv/bin/python")).with_context(missing)?;
            python.arg(script);
            python
        }
        Some((_, "java")) => {
            let mut java = JAVA.command()?;
            // It runs for a second: compiling itself well would take longer than all else.
            java.args(["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-cp"]);
            java.arg(there(installed.join("java"))?).arg("Client");
            java
        }
        Some((stem, "go")) => built(installed.join(format!("go-{stem}"))).with_context(missing)?,
        _ => {
            there(installed.join("node_modules/ws"))?;
            let mut node = NODE.command()?;
            node.arg(script);
            node
        }
    };
    command.env("ROOST_PEERS", &installed);
    Ok(command)
}
