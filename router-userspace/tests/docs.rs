//! What the documentation says about the configuration file, against the parser itself.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use roost::config::{Config, Limits};

/// Pages with TOML in them.
const PAGES: [&str; 3] = ["README.md", "ARCHITECTURE.md", "docs/configuration.md"];
/// What a fragment needs in front of it to be a whole file.
const TOP: &str = "interfaces = [\"eth0\"]\n";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn page(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// The blocks of a page that are TOML, each as a whole file, with where they begin.
fn blocks(name: &str) -> Vec<(String, String)> {
    let text = page(name);
    let mut blocks = Vec::new();
    let mut lines = text.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        if line.trim() != "```toml" {
            continue;
        }
        let block: Vec<_> =
            lines.by_ref().map(|(_, line)| line).take_while(|l| l.trim() != "```").collect();
        let top = if block[0].starts_with('[') { TOP } else { "" };
        blocks.push((format!("{name}:{}", number + 1), format!("{top}{}\n", block.join("\n"))));
    }
    blocks
}

/// Reads a file by `roost run --check-only`.
#[track_caller]
fn check(what: &str, text: &str) {
    if let Err(e) = Config::parse(text, what) {
        panic!("{e}");
    }
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("roost.toml");
    fs::write(&file, text).unwrap();
    let mut roost = Command::new(env!("CARGO_BIN_EXE_roost"));
    let output = roost.arg("run").arg("--config").arg(&file).arg("--check-only").output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{what}: {said}");
}

#[test]
fn every_block_is_a_good_file() {
    let all: Vec<_> = PAGES.iter().flat_map(|page| blocks(page)).collect();
    assert!(all.len() >= 5, "{all:?}");
    for (what, text) in all {
        check(&what, &text);
    }
}

#[test]
fn the_example_is_a_good_file() {
    check("examples/roost.toml", &page("examples/roost.toml"));
}

/// The fields that the parser knows in a table, which it lists when asked for one that is not near
/// any of them.
fn known(file: &str) -> Vec<String> {
    let error = Config::parse(file, "f").unwrap_err().to_string();
    let (_, list) = error.split_once("known here: ").unwrap_or_else(|| panic!("{error}"));
    let list = list.lines().next().unwrap_or_default();
    list.split(", ").map(str::to_owned).collect()
}

/// The rows of the first table in a section of the reference: cells without their quotes.
fn rows(heading: &str) -> Vec<Vec<String>> {
    let text = page("docs/configuration.md");
    let mut lines = text.lines().skip_while(|line| *line != heading);
    assert!(lines.next().is_some(), "docs/configuration.md has no section {heading:?}");
    lines
        .take_while(|line| !line.starts_with("## "))
        .skip_while(|line| !line.starts_with('|'))
        .take_while(|line| line.starts_with('|'))
        .skip(2)
        .map(|row| row.trim_matches('|').split(" | ").map(|c| c.trim().replace('`', "")).collect())
        .collect()
}

#[test]
fn the_reference_has_every_field() {
    const ODD: &str = "qqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqq = 1";
    let service = "name = \"a\"\naddresses = [\"10.0.0.1\"]\nport = 80\npolicy = \"spread\"";
    let replica = "[[service.replica]]\nname = \"r\"\naddress = \"10.1.0.2\"";
    for (heading, file) in [
        ("## Top level", format!("{TOP}{ODD}")),
        ("## `[limits]`", format!("{TOP}[limits]\n{ODD}")),
        ("## `[secrets]`", format!("{TOP}[secrets]\n{ODD}")),
        ("## `[[service]]`", format!("{TOP}[[service]]\n{service}\n{ODD}")),
        ("## `[[service.replica]]`", format!("{TOP}[[service]]\n{service}\n{replica}\n{ODD}")),
    ] {
        let documented: Vec<_> = rows(heading).into_iter().map(|row| row[0].clone()).collect();
        assert_eq!(documented, known(&file), "{heading}");
    }
}

#[test]
fn the_reference_has_the_limits_of_limits() {
    let defaults = Limits::default();
    for row in rows("## `[limits]`") {
        let number = |i: usize| row[i].parse::<i64>().unwrap_or_else(|e| panic!("{row:?}: {e}"));
        let (default, least, most) = (number(1), number(2), number(3));
        let with = |value| Config::parse(&format!("{TOP}[limits]\n{} = {value}", row[0]), "f");
        let limits = with(default).unwrap().limits;
        assert_eq!(limits, defaults, "{row:?}: its default");
        assert!(with(least).is_ok() && with(most).is_ok(), "{row:?}: what it allows");
        assert!(with(least - 1).is_err() && with(most + 1).is_err(), "{row:?}: what it refuses");
    }
}

/// The map of the code names files, and files come and go.
#[test]
fn every_file_that_is_named_is_there() {
    let text = page("ARCHITECTURE.md");
    let map = text.split("## Map of the code").nth(1).expect("a map of the code");
    let map = map.split("\n## ").next().unwrap_or_default();
    let mut directory = String::new();
    let mut named = 0;
    for line in map.lines() {
        if let Some(title) = line.strip_prefix("### `") {
            directory = title.split('`').next().unwrap_or_default().to_owned();
        }
        let Some(cell) = line.strip_prefix("| `") else { continue };
        let cell = cell.split(" | ").next().unwrap_or_default();
        for name in cell.split('`').map(|n| n.trim_matches([',', ' '])).filter(|n| !n.is_empty()) {
            let path = root().join(&directory).join(name);
            assert!(path.exists(), "ARCHITECTURE.md names {directory}{name}, which is not there");
            named += 1;
        }
    }
    assert!(named > 50, "{named}");
}
