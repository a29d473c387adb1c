//! WebSocket libraries of other people, which the tests speak with, nginx, HAProxy and Caddy.
//!
//! Versions are pinned by files in tests/peers: requirements.txt makes the Python environment
//! target/peers/venv, package.json with its lock file makes target/peers/node_modules. Java's library
//! is its own, Go's is Debian's: these clients are compiled into target/peers. nginx, HAProxy and Caddy
//! are unpacked there: installed, they would begin to serve on this machine.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use roost_programs::{GO, JAVAC, NPM, PYTHON, built};

use crate::apt;
use crate::process::{run_quietly, say};
use crate::workspace::Workspace;

/// Programs that are unpacked into directories of these names, with the libraries that a minimal Debian does not have.
const UNPACKED: &[(&str, &[&str])] = &[
    ("nginx", &["nginx", "libnginx-mod-stream"]),
    ("haproxy", &["haproxy", "liblua5.3-0", "libopentracing-c-wrapper0", "libopentracing1"]),
    ("caddy", &["caddy"]),
];

/// Installs the peers, unless they are there in the versions that the files name.
pub fn ensure(workspace: &Workspace) -> Result<()> {
    let _lock = workspace.lock()?;
    let pins = workspace.root.join("tests/peers");
    let peers = workspace.peers();
    fs::create_dir_all(&peers)?;
    once(&pins, &["requirements.txt"], &peers.join("python.installed"), || {
        say("installing the Python peers into target/peers/venv (once)");
        python(&pins.join("requirements.txt"), &peers.join("venv"))
    })?;
    once(&pins, &["package.json", "package-lock.json"], &peers.join("node.installed"), || {
        say("installing the Node peers into target/peers/node_modules (once)");
        node(&pins, &peers)
    })?;
    once(&pins, &["Client.java"], &peers.join("java.installed"), || {
        let mut javac = JAVAC.command()?;
        run_quietly(javac.arg("-d").arg(peers.join("java")).arg(pins.join("Client.java")))
    })?;
    let go_peers = ["client.go", "pool.go"];
    once(&pins, &go_peers, &peers.join("go.installed"), || {
        say("compiling the Go peers into target/peers (once)");
        go_peers.iter().try_for_each(|file| go(&pins.join(file), &peers))
    })?;
    unpack_proxies(&peers)
}

/// Unpacks nginx, HAProxy and Caddy alone, for those that need no more.
pub fn ensure_proxies(workspace: &Workspace) -> Result<()> {
    let _lock = workspace.lock()?;
    unpack_proxies(&workspace.peers())
}

fn unpack_proxies(peers: &Path) -> Result<()> {
    fs::create_dir_all(peers)?;
    UNPACKED.iter().try_for_each(|(name, packages)| unpacked(peers, name, packages))
}

/// Does a piece of work unless the stamp holds what the files hold, and then writes the stamp.
fn once(dir: &Path, files: &[&str], stamp: &Path, work: impl FnOnce() -> Result<()>) -> Result<()> {
    let mut pinned = Vec::new();
    for file in files {
        let path = dir.join(file);
        let text = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
        pinned.extend(text);
    }
    if fs::read(stamp).is_ok_and(|done| done == pinned) {
        return Ok(());
    }
    work()?;
    fs::write(stamp, pinned).with_context(|| format!("writing {}", stamp.display()))
}

/// Unpacks packages into a directory, unless the stamp beside it says that these are there.
fn unpacked(peers: &Path, name: &str, packages: &[&str]) -> Result<()> {
    let (root, stamp) = (peers.join(name), peers.join(format!("{name}.unpacked")));
    let list = packages.join(" ");
    if root.exists() {
        if fs::read_to_string(&stamp).is_ok_and(|done| done == list) {
            return Ok(());
        }
        fs::remove_dir_all(&root).with_context(|| format!("removing {}", root.display()))?;
    }
    apt::unpack(packages, &root)?;
    fs::write(&stamp, list).with_context(|| format!("writing {}", stamp.display()))
}

fn python(requirements: &Path, venv: &Path) -> Result<()> {
    run_quietly(PYTHON.command()?.args(["-m", "venv", "--clear"]).arg(venv))?;
    let mut pip = built(venv.join("bin/pip"))?;
    pip.args(["install", "--quiet", "--disable-pip-version-check", "--requirement"]);
    run_quietly(pip.arg(requirements))
}

fn node(pins: &Path, peers: &Path) -> Result<()> {
    for file in ["package.json", "package-lock.json"] {
        fs::copy(pins.join(file), peers.join(file)).with_context(|| format!("copying {file}"))?;
    }
    let mut npm = NPM.command()?;
    npm.args(["ci", "--no-audit", "--no-fund", "--ignore-scripts"]).current_dir(peers);
    run_quietly(&mut npm)
}

fn go(source: &Path, peers: &Path) -> Result<()> {
    let stem = source.file_stem().context("a file without a name")?.display();
    let mut go = GO.command()?;
    go.arg("build").arg("-o").arg(peers.join(format!("go-{stem}"))).arg(source);
    // Debian's libraries are for a GOPATH: nothing is downloaded.
    go.env("GO111MODULE", "off").env("GOPATH", apt::GOPATH).env("GOFLAGS", "");
    run_quietly(go.env("CGO_ENABLED", "0").env("GOCACHE", peers.join("go-cache")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn works_once_for_each_content() {
        let dir = std::env::temp_dir().join(format!("xtask-once-{}", std::process::id()));
        fs::create_dir_all(&dir).expect("a directory");
        let (pin, stamp) = (dir.join("pin"), dir.join("stamp"));
        let mut runs = 0;
        for content in ["a", "a", "b", "b"] {
            fs::write(&pin, content).expect("written");
            once(&dir, &["pin"], &stamp, || {
                runs += 1;
                Ok(())
            })
            .expect("done");
        }
        assert_eq!(runs, 2);
        fs::remove_dir_all(&dir).expect("removed");
    }

    #[test]
    fn names_a_file_that_is_missing() {
        let dir = Path::new("no-such-directory");
        let error = once(dir, &["pin"], &dir.join("stamp"), || Ok(())).expect_err("missing");
        assert!(error.to_string().contains("no-such-directory/pin"), "{error}");
    }
}
