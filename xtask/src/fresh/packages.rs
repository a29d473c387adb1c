//! The Debian packages of a root file system.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

/// The packages that are installed, with their versions.
pub struct Packages {
    versions: BTreeMap<String, String>,
    /// Those that came because others need them.
    automatic: BTreeSet<String>,
}

/// A package that was installed.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Installed {
    /// Its name.
    pub package: String,
    /// Its version.
    pub version: String,
    /// Whether somebody asked for it; else another needs it.
    pub asked_for: bool,
}

impl Packages {
    /// Of this root file system.
    pub fn read(root: &Path) -> Result<Self> {
        let status = root.join("var/lib/dpkg/status");
        let status =
            fs::read_to_string(&status).with_context(|| format!("reading {}", status.display()))?;
        // It is not there before the first such package is.
        let states = fs::read_to_string(root.join("var/lib/apt/extended_states"));
        Ok(Self::parse(&status, &states.unwrap_or_default()))
    }

    fn parse(status: &str, states: &str) -> Self {
        let versions = status.split("\n\n").filter_map(|paragraph| {
            let is_installed = field(paragraph, "Status")?.ends_with(" installed");
            let version = field(paragraph, "Version")?.to_owned();
            is_installed.then_some((field(paragraph, "Package")?.to_owned(), version))
        });
        let automatic = states.split("\n\n").filter_map(|paragraph| {
            let is_automatic = field(paragraph, "Auto-Installed")? == "1";
            is_automatic.then_some(field(paragraph, "Package")?.to_owned())
        });
        Self { versions: versions.collect(), automatic: automatic.collect() }
    }

    /// How many.
    pub fn count(&self) -> usize {
        self.versions.len()
    }

    /// Those that were not there before.
    pub fn since(&self, before: &Self) -> Vec<Installed> {
        let new = self.versions.iter().filter(|(name, _)| !before.versions.contains_key(*name));
        new.map(|(package, version)| Installed {
            package: package.clone(),
            version: version.clone(),
            asked_for: !self.automatic.contains(package),
        })
        .collect()
    }
}

fn field<'a>(paragraph: &'a str, name: &str) -> Option<&'a str> {
    paragraph.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_new_is_told_with_who_asked() {
        let old = "Package: dash\nStatus: install ok installed\nVersion: 1\n";
        let new = "\nPackage: curl\nStatus: install ok installed\nVersion: 2\n\n\
                   Package: libcurl4\nStatus: install ok installed\nVersion: 3\n\n\
                   Package: gone\nStatus: deinstall ok config-files\nVersion: 4\n";
        let states = "Package: libcurl4\nArchitecture: amd64\nAuto-Installed: 1\n\n\
                      Package: curl\nAuto-Installed: 0\n";
        let before = Packages::parse(old, "");
        let after = Packages::parse(&format!("{old}{new}"), states);
        assert_eq!((before.count(), after.count()), (1, 3));
        let installed = |package: &str, version: &str, asked_for| Installed {
            package: package.to_owned(),
            version: version.to_owned(),
            asked_for,
        };
        let expected = [installed("curl", "2", true), installed("libcurl4", "3", false)];
        assert_eq!(after.since(&before), expected);
    }
}
