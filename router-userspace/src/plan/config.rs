//! The configuration file: TOML in, a validated model out, or every problem found with its place.

mod check;
mod links;
mod model;
mod pool;
mod prefix;
mod read;
mod reader;
mod shares;
mod source;
mod value;

use std::path::Path;

use thiserror::Error;

pub use links::LinkPattern;
pub use model::{Config, Limits, OnMissing, OnReuse, Policy, Replica, SecretFiles, Service, State};
pub use pool::{AddressPool, AllowedAddress, Kubernetes};
pub use prefix::Prefix;
pub use shares::Shares;
pub use source::{KeySource, SourceProblem, key_sources};
pub(crate) use value::{MOST_HANDSHAKE, address, source as source_prefix};

use reader::{Problems, Table};

/// Something in a configuration file that is not right, and what would be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Line in the file, from 1; 0 if the file could not be read at all.
    pub line: usize,
    /// Column in the line, from 1, in characters.
    pub column: usize,
    /// The field, for example `service[0].replica[1].port`; empty for a syntax error.
    pub field: String,
    /// What is wrong, with the value, and what would be right.
    pub message: String,
}

/// Every problem of a configuration file. None of the file is used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{}", lines(.file, .problems))]
pub struct ConfigError {
    /// The file's name, as it was given.
    pub file: String,
    /// What is wrong, in the order of the file.
    pub problems: Vec<Problem>,
}

fn lines(file: &str, problems: &[Problem]) -> String {
    let line = |Problem { line, column, field, message }: &Problem| {
        let place = if *line > 0 { format!(":{line}:{column}") } else { String::new() };
        let field = if field.is_empty() { String::new() } else { format!(": {field}") };
        format!("{file}{place}{field}: {message}")
    };
    problems.iter().map(line).collect::<Vec<_>>().join("\n")
}

impl Config {
    /// Reads and validates a file. Relative file names in it are relative to its directory.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        Self::load_as(path, true)
    }

    /// The same for a file beside a cluster, which may leave `interfaces` out: they are empty then.
    pub fn load_beside_cluster(path: &Path) -> Result<Self, ConfigError> {
        Self::load_as(path, false)
    }

    fn load_as(path: &Path, needs_interfaces: bool) -> Result<Self, ConfigError> {
        let file = path.display().to_string();
        let text = std::fs::read(path)
            .map_err(|e| format!("cannot be read: {e}"))
            .and_then(|bytes| {
                String::from_utf8(bytes).map_err(|e| {
                    let at = e.utf8_error().valid_up_to();
                    format!("is not UTF-8 (byte {at}); a TOML file is UTF-8 text")
                })
            })
            .map_err(|message| ConfigError {
                file: file.clone(),
                problems: vec![Problem { line: 0, column: 0, field: String::new(), message }],
            })?;
        let mut config = Self::parse_as(&text, &file, needs_interfaces)?;
        let directory = path.parent().unwrap_or(Path::new(""));
        for name in [&mut config.secrets.handshake_file, &mut config.secrets.chat_file] {
            *name = name.take().map(|name| directory.join(name));
        }
        Ok(config)
    }

    /// Validates the text of a file; `file` is only for the messages.
    pub fn parse(text: &str, file: &str) -> Result<Self, ConfigError> {
        Self::parse_as(text, file, true)
    }

    fn parse_as(text: &str, file: &str, needs_interfaces: bool) -> Result<Self, ConfigError> {
        let problems = Problems::new(text);
        let config = match toml::de::DeTable::parse(text) {
            Ok(root) => Some(read::read(&Table::root(&root, &problems), needs_interfaces)),
            Err(e) => {
                let at = e.span().map_or(0, |span| span.start);
                problems.add(at, "", format!("is not TOML: {}", e.message()));
                None
            }
        };
        match config {
            Some(config) if problems.is_empty() => Ok(config),
            _ => Err(ConfigError { file: file.to_owned(), problems: problems.into_list() }),
        }
    }
}

#[cfg(test)]
mod tests;
