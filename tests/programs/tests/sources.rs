//! Nobody else makes commands. Clippy says so, too (clippy.toml), where it runs: `cargo xtask lint`.

use std::fs;
use std::path::{Path, PathBuf};

/// The only file that may.
const HERE: &str = "tests/programs/src/lib.rs";

fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).expect("a directory of the workspace") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        if path.is_dir() {
            if name != "target" && !name.starts_with('.') && name != "node_modules" {
                sources(&path, found);
            }
        } else if name.ends_with(".rs") {
            found.push(path);
        }
    }
}

/// Lines that make a command by themselves: `Command::new`, of std or tokio, under whatever path, but not
/// that of clap.
fn made(text: &str) -> impl Iterator<Item = &str> {
    let is_made = |line: &&str| {
        let line = line.split("//").next().unwrap_or_default();
        line.contains("Command::new") && !line.contains("clap::Command::new")
            || line.contains("process::Command as ")
    };
    text.lines().filter(is_made)
}

#[test]
fn no_other_source_makes_a_command() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let root = root.canonicalize().expect("the workspace");
    let mut all = Vec::new();
    sources(&root, &mut all);
    assert!(all.len() > 300, "{} files", all.len());
    let mut wrong = Vec::new();
    for path in &all {
        let name = path.strip_prefix(&root).expect("below the root").to_string_lossy().into_owned();
        let text = fs::read_to_string(path).expect("a source");
        let is_allowed = name == HERE || name == "tests/programs/tests/sources.rs";
        wrong.extend(made(&text).filter(|_| !is_allowed).map(|line| format!("{name}: {line}")));
    }
    assert!(wrong.is_empty(), "ask roost_programs for a command:\n{}", wrong.join("\n"));
}

#[test]
fn what_makes_a_command_is_seen() {
    for line in [
        "Command::new(\"ping\")",
        "tokio::process::Command::new(x)",
        "use std::process::Command as C;",
    ] {
        assert_eq!(made(line).count(), 1, "{line}");
    }
    for line in ["clap::Command::new(\"dump\")", "// Command::new", "Program::command(self)"] {
        assert_eq!(made(line).count(), 0, "{line}");
    }
}
