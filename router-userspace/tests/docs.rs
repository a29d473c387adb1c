//! What the documentation says about the configuration file, against the parser itself.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    time::Instant,
};

use roost::{
    cli::explain::HeadArgs,
    plan::config::{Config, KeySource, Limits, Shares},
    view::{
        metrics::{self, Facts, Family},
        search::{Outcome, search},
        status::Status,
    },
};
use roost_programs::built;
use router_ebpf::{
    maps::{self, SOURCES, Service, Tuple},
    schema::{Kind, Map},
    source::KeyKind,
    verdict::Counter,
};

/// Pages with TOML in them.
const PAGES: [&str; 5] = [
    "README.md",
    "ARCHITECTURE.md",
    "docs/configuration.md",
    "docs/key-sources.md",
    "docs/operations.md",
];
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
    let mut roost = built(env!("CARGO_BIN_EXE_roost")).unwrap();
    let output = roost.arg("run").arg("--config").arg(&file).arg("--check-only").output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{what}: {said}");
}

#[test]
fn every_block_is_a_good_file() {
    let all: Vec<_> = PAGES.iter().flat_map(|page| blocks(page)).collect();
    assert!(all.len() >= 14, "{all:?}");
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
    let plain = |cell: String| cell.replace('`', "");
    let rows = cells("docs/configuration.md", heading).into_iter();
    rows.map(|row| row.into_iter().map(plain).collect()).collect()
}

/// The rows of the first table in a section.
fn cells(name: &str, heading: &str) -> Vec<Vec<String>> {
    let text = page(name);
    let mut lines = text.lines().skip_while(|line| *line != heading);
    assert!(lines.next().is_some(), "{name} has no section {heading:?}");
    let rows: Vec<_> = lines
        .take_while(|line| !line.starts_with("## "))
        .skip_while(|line| !line.starts_with('|'))
        .take_while(|line| line.starts_with('|'))
        .skip(2)
        .map(|row| row.trim_matches('|').replace(" | | ", " |  | "))
        .map(|row| row.split(" | ").map(|c| c.trim().to_owned()).collect())
        .collect();
    assert!(!rows.is_empty(), "{name} has no table in {heading:?}");
    rows
}

/// What is in a cell's quotes.
fn quoted(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}

/// The table of what comes out, by the data path's own code.
#[test]
fn the_rules_of_key_sources_are_as_they_are_written() {
    let rows = cells("docs/key-sources.md", "## Rules");
    assert!(rows.len() > 40, "{}", rows.len());
    for row in &rows {
        let [source, sends, expected] = row.as_slice() else { panic!("{row:?}") };
        let source: KeySource = quoted(source)[0].parse().unwrap();
        let sends = quoted(sends);
        let bytes = match sends[0].strip_prefix("TLS ") {
            Some(name) => {
                let tls = HeadArgs { sni: Some(name.to_owned()), ..HeadArgs::default() };
                tls.read().unwrap().unwrap()
            }
            None => {
                let headers: String = sends[1..].iter().map(|h| format!("\r\n{h}")).collect();
                format!("{} HTTP/1.1{headers}\r\n\r\n", sends[0]).into_bytes()
            }
        };
        let found = match search(&service(source), &Tuple::default(), &bytes) {
            Outcome::Found { key, .. } => format!("`{}`", String::from_utf8(key).unwrap()),
            Outcome::Missing(_) => "-".to_owned(),
            Outcome::More => panic!("{row:?} is not complete"),
        };
        assert_eq!(&found, expected, "{row:?}");
    }
}

fn service(source: KeySource) -> Service {
    let mut sources = [maps::KeySource::NONE; SOURCES];
    sources[0] = source.to_map();
    Service { sources, ..Service::EMPTY }
}

/// Every form of a key source in the reference is one, and every counter of a missing key is named.
#[test]
fn the_reference_has_every_key_source_and_every_reason() {
    let text = page("docs/configuration.md");
    let (_, table) = text.split_once("| key source | the chat is named by |").expect("a table");
    let rows = table.lines().skip(2).take_while(|line| line.starts_with('|'));
    let mut kinds = BTreeSet::new();
    for row in rows {
        let form = quoted(row)[0].trim_matches('"').replace("NAME", "x").replace("NUMBER", "2");
        kinds.insert(form.parse::<KeySource>().unwrap_or_else(|e| panic!("{row}: {e}")).kind());
    }
    assert_eq!(kinds, KeyKind::ALL.iter().copied().map(Some).collect::<BTreeSet<_>>());
    let text = page("docs/key-sources.md");
    let reasons = Counter::ALL.iter().map(|c| c.name()).filter(|n| n.starts_with("missing_"));
    assert!(reasons.clone().count() > 1, "no counter is of a missing key");
    for counter in reasons {
        assert!(
            counter == "missing_key" || text.contains(&format!("| `{counter}` |")),
            "{counter}"
        );
    }
}

/// The tables of metrics are what the daemon has, word by word.
#[test]
fn the_reference_has_every_metric() {
    let state = Status::new().get();
    let facts = Facts {
        state: &state,
        counters: &[],
        rooms: &[],
        interfaces: &[],
        watched: None,
        control: None,
        now: Instant::now(),
    };
    let rows: Vec<String> = metrics::families(&facts).iter().map(row).collect();
    let text = page("docs/operations.md");
    let written: Vec<_> = text.lines().filter(|line| line.starts_with("| `roost_")).collect();
    for row in &rows {
        assert!(written.contains(&row.as_str()), "docs/operations.md lacks this row:\n{row}");
    }
    assert!(rows.len() > 20, "{}", rows.len());
    assert_eq!(written.len(), rows.len(), "docs/operations.md has a row for what is not there");
    // What alerts are made of is there.
    let names: BTreeSet<String> = metrics::families(&facts).iter().map(Family::name).collect();
    let word = |c: char| !(c.is_ascii_alphanumeric() || c == '_');
    for used in text.split(word).filter(|word| word.starts_with("roost_")) {
        let plain = ["_bucket", "_count", "_sum"].iter().find_map(|end| used.strip_suffix(end));
        let known = names.contains(used) || plain.is_some_and(|plain| names.contains(plain));
        let is_program = ["roost_ingress", "roost_egress"].contains(&used);
        assert!(known || is_program, "docs/operations.md: there is no {used}");
    }
}

fn row(family: &Family) -> String {
    let labels: Vec<_> = family.labels.iter().map(|label| format!("`{label}`")).collect();
    let (name, kind) = (family.name(), family.kind().word());
    format!("| `{name}` | {kind} | {} | {} |", labels.join(", "), family.help)
}

/// Links of the pages to each other, and to their own sections.
#[test]
fn links_lead_somewhere() {
    let mut links = 0;
    for name in PAGES {
        let text = page(name);
        let anchors: BTreeSet<String> = text.lines().filter_map(anchor).collect();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            links += 1;
            if let Some(own) = link.strip_prefix('#') {
                assert!(anchors.contains(own), "{name}: no section #{own}; there are {anchors:?}");
            } else if !link.contains("://") {
                let file = link.split('#').next().unwrap_or_default();
                let path = root().join(name).parent().unwrap().join(file);
                assert!(path.exists(), "{name} links to {link}, which is not there");
            }
        }
    }
    assert!(links > 20, "{links}");
}

/// The name of a heading in links, as Markdown viewers make it.
fn anchor(line: &str) -> Option<String> {
    let title = line.trim_start_matches('#').strip_prefix(' ').filter(|_| line.starts_with('#'))?;
    let kept = |c: &char| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_');
    Some(title.to_lowercase().chars().filter(kept).collect::<String>().replace(' ', "-"))
}

#[test]
fn the_reference_has_every_field() {
    const ODD: &str = "qqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqq = 1";
    let service = "name = \"a\"\naddresses = [\"10.0.0.1\"]\nport = 80\npolicy = \"spread\"";
    let replica = "[[service.replica]]\nname = \"r\"\naddress = \"10.1.0.2\"";
    for (heading, file) in [
        ("## Top level", format!("{TOP}{ODD}")),
        ("## `[limits]`", format!("{TOP}[limits]\n{ODD}")),
        ("## `[shares]`", format!("{TOP}[shares]\n{ODD}")),
        ("## `[secrets]`", format!("{TOP}[secrets]\n{ODD}")),
        ("## `[kubernetes]`", format!("{TOP}[kubernetes]\n{ODD}")),
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

#[test]
fn the_reference_has_the_lengths_of_prefixes() {
    let rows = rows("## `[shares]`");
    let lengths = rows.iter().filter(|row| row[0].ends_with("_prefix"));
    for row in lengths {
        let number = |i: usize| row[i].parse::<i64>().unwrap_or_else(|e| panic!("{row:?}: {e}"));
        let (default, least, most) = (number(1), number(2), number(3));
        let with = |value| Config::parse(&format!("{TOP}[shares]\n{} = {value}", row[0]), "f");
        assert_eq!(with(default).unwrap().shares, Shares::default(), "{row:?}: its default");
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
    let (mut directory, mut room) = (String::new(), String::new());
    let mut named = 0;
    for line in map.lines() {
        if let Some(title) = line.strip_prefix("### `") {
            directory = title.split('`').next().unwrap_or_default().to_owned();
            room.clear();
        }
        let Some(cell) = line.strip_prefix("| ") else { continue };
        let cell = cell.split(" | ").next().unwrap_or_default();
        // A row in bold is a room, and what follows is in it.
        let is_room = cell.starts_with("**");
        if is_room {
            room.clear();
        }
        for name in quoted(cell) {
            let path = root().join(&directory).join(&room).join(name);
            assert!(
                path.exists(),
                "ARCHITECTURE.md names {directory}{room}{name}, which is not there"
            );
            if is_room && name.ends_with('/') {
                room = name.to_owned();
                break;
            }
            named += 1;
        }
    }
    assert!(named > 50, "{named}");
}

/// The table of the maps, against their declarations.
#[test]
fn every_map_is_described_as_it_is_declared() {
    let rows = cells("ARCHITECTURE.md", "## Maps");
    assert!(rows.len() > Map::ALL.len(), "{rows:?}");
    for map in Map::ALL {
        let pin = format!("`{}`", map.pin());
        let row = rows.iter().find(|row| row[0] == pin);
        let row = row.unwrap_or_else(|| panic!("ARCHITECTURE.md has no row for {pin}"));
        let kind = match map.kind() {
            Kind::LpmTrie => "LPM trie",
            Kind::HashMap => "hash",
            Kind::LruHashMap => "LRU hash",
            Kind::Array => "array",
            Kind::PerCpuArray => "per-CPU array",
            Kind::Queue => "queue",
        };
        let (key, value) = map.about();
        let bytes = format!("{} + {}", map.key_size(), map.value_size());
        assert_eq!(row[1..5], [kind, key, value, &bytes], "{pin}");
        if let Ok(size) = row[5].parse::<u32>() {
            assert_eq!(map.size(&Limits::DEFAULT), size, "{pin}");
        }
    }
    let known = |row: &&Vec<String>| Map::ALL.iter().any(|m| row[0] == format!("`{}`", m.pin()));
    let others: Vec<_> = rows.iter().filter(|row| !known(row)).map(|row| &row[0]).collect();
    assert_eq!(others, ["`SCRATCH`"], "not pinned");
}

/// Maps are named by their declaration: a literal would be one more place to change.
#[test]
fn no_source_names_a_map_by_itself() {
    fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            match path.extension() {
                _ if path.is_dir() => sources(&path, found),
                Some(extension) if extension == "rs" => found.push(path),
                _ => {}
            }
        }
    }
    let mut all = Vec::new();
    sources(&root().join("router-userspace/src"), &mut all);
    assert!(all.len() > 100, "{} files", all.len());
    let mut named = Vec::new();
    let mut looked_at = 0;
    for path in all {
        let text = fs::read_to_string(&path).unwrap();
        let path = path.strip_prefix(root()).unwrap();
        // In tests a name is the right value. What releases before had is what they had.
        let text = text.split("#[cfg(test)]").next().unwrap_or_default();
        let is_apart = |end: &str| path.ends_with(end) || path.ends_with("tests.rs");
        if path.to_string_lossy().contains("tests") || is_apart("maps/record.rs") {
            continue;
        }
        looked_at += 1;
        for map in Map::ALL.iter().filter(|map| text.contains(&format!("\"{}\"", map.pin()))) {
            named.push(format!("{}: {}", path.display(), map.pin()));
        }
    }
    assert!(looked_at > 80, "{looked_at} files");
    assert!(named.is_empty(), "{named:#?}");
}
