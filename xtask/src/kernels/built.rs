//! What cargo builds for the virtual machines.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use roost_programs::STRIP;
use serde::Deserialize;

use crate::process::{read, run_quietly};
use crate::workspace::Workspace;

const PACKAGE: &str = "roost-tests";
const GUEST: &str = "roost-guest";
/// The test program that needs a kernel and nothing else: packet tests.
const TESTS: &str = "run";

/// A program, without its debug information.
pub struct Program {
    /// The target's name, without cargo's hash.
    pub name: String,
    /// Where it is.
    pub path: PathBuf,
}

/// The programs of a virtual machine.
pub struct Built {
    /// The first process.
    pub guest: Program,
    /// The packet tests.
    pub tests: Program,
}

impl Built {
    /// Builds them.
    pub fn new(workspace: &Workspace, dir: &Path) -> Result<Self> {
        let mut cargo = workspace.cargo()?;
        cargo.args(["test", "--no-run", "--package", PACKAGE]);
        cargo.arg("--message-format=json-render-diagnostics");
        cargo.arg("--target-dir").arg(&workspace.target);
        cargo.args(["--test", TESTS, "--bin", GUEST]);
        let found = executables(&read(&mut cargo)?)?;

        let stripped = dir.join("programs");
        fs::create_dir_all(&stripped)
            .with_context(|| format!("creating {}", stripped.display()))?;
        let strip = |name: &str, from: Option<PathBuf>| -> Result<Program> {
            let from = from.with_context(|| format!("cargo has not built {name}"))?;
            let path = stripped.join(name);
            // A hundred megabytes each, and all of it in the machine's memory. The names of
            // functions stay, for backtraces.
            run_quietly(STRIP.command()?.arg("--strip-debug").arg("-o").arg(&path).arg(&from))?;
            Ok(Program { name: name.to_owned(), path })
        };
        Ok(Self { guest: strip(GUEST, found.guest)?, tests: strip(TESTS, found.tests)? })
    }
}

/// What cargo's messages name.
#[derive(Debug, Default, PartialEq, Eq)]
struct Found {
    guest: Option<PathBuf>,
    tests: Option<PathBuf>,
}

#[derive(Deserialize)]
struct Message {
    reason: String,
    target: Option<Target>,
    profile: Option<Profile>,
    executable: Option<PathBuf>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}

#[derive(Deserialize)]
struct Profile {
    test: bool,
}

/// The executables in cargo's messages, one JSON object a line.
fn executables(messages: &str) -> Result<Found> {
    let mut found = Found::default();
    for line in messages.lines().filter(|line| line.starts_with('{')) {
        let message: Message = serde_json::from_str(line)
            .with_context(|| format!("a message of cargo that is not understood: {line}"))?;
        let (Some(target), Some(profile), Some(path)) =
            (message.target, message.profile, message.executable)
        else {
            continue;
        };
        if message.reason != "compiler-artifact" {
            continue;
        }
        if target.name == GUEST && !profile.test {
            found.guest = Some(path);
        } else if target.name == TESTS && target.kind.iter().any(|kind| kind == "test") {
            found.tests = Some(path);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn artifact(kind: &str, name: &str, test: bool, executable: &str) -> String {
        format!(
            r#"{{"reason":"compiler-artifact","package_id":"x","target":{{"kind":["{kind}"],"name":"{name}"}},"profile":{{"test":{test}}},"executable":{executable}}}"#
        )
    }

    #[test]
    fn executables_are_told_from_other_messages() {
        let messages = [
            artifact("lib", "roost_tests", false, "null"),
            r#"{"reason":"build-script-executed","package_id":"x"}"#.to_owned(),
            artifact("bin", "roost-guest", false, r#""/t/roost-guest""#),
            artifact("bin", "roost-guest", true, r#""/t/roost_guest-1""#),
            artifact("bin", "roost-lab", false, r#""/t/roost-lab""#),
            artifact("bin", "run", false, r#""/t/run""#),
            artifact("test", "run", true, r#""/t/run-2""#),
            artifact("test", "e2e_demo", true, r#""/t/e2e_demo-3""#),
            r#"{"reason":"build-finished","success":true}"#.to_owned(),
        ];
        let found = executables(&messages.join("\n")).expect("messages");
        let expected =
            Found { guest: Some("/t/roost-guest".into()), tests: Some("/t/run-2".into()) };
        assert_eq!(found, expected);
    }
}
