//! `roost maps list` and `roost maps dump`.

use clap::{
    Subcommand,
    builder::{PossibleValuesParser, TypedValueParser},
};
use router_ebpf::schema::Map;
use serde_json::{Map as Object, Value};

use super::{output::Report, table::Table};
use crate::{
    maps::text::NONE,
    view::{
        dump::{DumpReport, Dumped, Entry, ListReport},
        units,
    },
};

/// What to do with the maps.
#[derive(Debug, Subcommand)]
pub enum MapsCommand {
    /// List the maps: type, sizes, entries, memory
    List,
    /// Print the entries of MAP, or of all maps
    ///
    /// Secrets are shown as fingerprints only, stashed segments without their payload.
    /// JSON: an array of `{"map", "entries": [{"key": {...}, "value": {...}}]}`.
    Dump {
        /// Print this map only; without it all but SLOTS; queues cannot be printed
        #[arg(value_name = "MAP", value_parser = names(), ignore_case = true)]
        map: Option<Map>,
    },
}

/// The names of the maps, as an argument.
fn names() -> impl TypedValueParser<Value = Map> {
    PossibleValuesParser::new(Map::ALL.iter().map(|map| map.pin())).map(|name| {
        let is = |map: &&Map| map.pin().eq_ignore_ascii_case(&name);
        *Map::ALL.iter().find(is).expect("one of the possible values")
    })
}

impl Report for DumpReport {
    fn text(&self) -> String {
        let bold = anstyle::Style::new().bold();
        let one = |dumped: &Dumped| {
            let entries = match dumped.entries.len() {
                1 => "1 entry".to_owned(),
                n => format!("{n} entries"),
            };
            let title = format!("{bold}{}{bold:#}: {entries}\n", dumped.map);
            title + &fields_table(&dumped.entries)
        };
        self.0.iter().map(one).collect::<Vec<_>>().join("\n")
    }
}

/// A table with a column for each field of the entries.
fn fields_table(entries: &[Entry]) -> String {
    fn fields(entry: &Entry) -> impl Iterator<Item = (&String, &Value)> {
        let objects = [&entry.key, &entry.value];
        objects.into_iter().filter_map(Value::as_object).flat_map(Object::iter)
    }
    let Some(first) = entries.first() else { return String::new() };
    let column = |(name, value): (&String, &Value)| {
        if value.is_number() { format!(">{name}") } else { name.clone() }
    };
    let mut table = Table::new(fields(first).map(column));
    for entry in entries {
        table.row(fields(entry).map(|(_, value)| shown(value).into()));
    }
    table.to_string()
}

fn shown(value: &Value) -> String {
    match value {
        Value::Null => NONE.to_owned(),
        Value::String(text) if text.is_empty() => NONE.to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(words) if words.is_empty() => NONE.to_owned(),
        Value::Array(words) => words.iter().map(shown).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}

impl Report for ListReport {
    fn text(&self) -> String {
        let columns = ["map", "type", ">key", ">value", ">entries", ">max", ">memory"];
        let mut table = Table::new(columns);
        for map in &self.0 {
            table.row([
                map.name.into(),
                map.kind.into(),
                map.key_size.into(),
                map.value_size.into(),
                map.entries.map_or(NONE.into(), Into::into),
                map.max_entries.into(),
                map.memory_bytes.map_or(NONE.to_owned(), units::size).into(),
            ]);
        }
        table.to_string()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn names_of_pins_are_those_of_the_arguments() {
        let command = clap::Command::new("dump")
            .arg(clap::Arg::new("map").value_parser(names()).ignore_case(true));
        for map in Map::ALL {
            for name in [map.pin().to_owned(), map.pin().to_lowercase()] {
                let given = command.clone().try_get_matches_from(["dump", &name]).unwrap();
                assert_eq!(given.get_one::<Map>("map"), Some(map));
            }
        }
        assert!(command.try_get_matches_from(["dump", "FLOW"]).is_err());
    }

    #[test]
    fn a_dump_is_a_table_of_its_fields() {
        let entry = |key: &str, home: Value| Entry {
            key: json!({ "cookie": key }),
            value: json!({ "home": home, "flags": ["chat"], "name": "" }),
        };
        let report = DumpReport(vec![
            Dumped { map: "CHATS", entries: vec![entry("aa", 10.into()), entry("b", Value::Null)] },
            Dumped { map: "FLOWS", entries: Vec::new() },
        ]);
        let plain = anstream::adapter::strip_str(&report.text()).to_string();
        assert_eq!(
            plain,
            "CHATS: 2 entries\n\
             COOKIE  HOME  FLAGS  NAME\n\
             aa        10  chat   -\n\
             b          -  chat   -\n\
             \n\
             FLOWS: 0 entries\n"
        );
    }
}
