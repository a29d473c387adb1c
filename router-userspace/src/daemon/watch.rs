//! Notices changes of the configuration file, by its content: that works for editors that write in
//! place or rename, and for the symbolic links of a Kubernetes ConfigMap, and misses nothing.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::config::{Config, ConfigError};

/// Looks at the file now and then, if there is one.
pub(super) struct Watch {
    path: Option<PathBuf>,
    /// What was last taken; `None`: the file could not be read.
    taken: Option<Vec<u8>>,
    /// What was seen once: a file that is being written is looked at again before it is taken.
    seen: Option<Option<Vec<u8>>>,
}

impl Watch {
    pub(super) fn new(path: Option<&Path>) -> Self {
        Self { path: path.map(Path::to_owned), taken: None, seen: None }
    }

    /// Reads the file for the first time.
    pub(super) fn first(&mut self) -> Option<Result<Config, ConfigError>> {
        let path = self.path.as_ref()?;
        self.taken = fs::read(path).ok();
        Some(Config::load(path))
    }

    /// The file's new content, when it has changed and has stopped changing.
    pub(super) fn look(&mut self) -> Option<Result<Config, ConfigError>> {
        let path = self.path.as_ref()?;
        let now = fs::read(path).ok();
        if now == self.taken {
            self.seen = None;
            return None;
        }
        if self.seen.as_ref() != Some(&now) {
            self.seen = Some(now);
            return None;
        }
        self.seen = None;
        self.taken = now;
        Some(Config::load(path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "interfaces = [\"eth0\"]\n";

    #[test]
    fn a_change_is_taken_once_and_only_when_it_has_settled() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("roost.toml");
        fs::write(&path, GOOD).unwrap();
        let mut watch = Watch::new(Some(&path));
        assert!(watch.first().unwrap().is_ok());
        assert!(watch.look().is_none());
        fs::write(&path, "interf").unwrap();
        assert!(watch.look().is_none());
        fs::write(&path, GOOD.replace("eth0", "eth1")).unwrap();
        assert!(watch.look().is_none());
        assert_eq!(watch.look().unwrap().unwrap().interfaces, ["eth1"]);
        assert!(watch.look().is_none());
        fs::write(&path, "interf").unwrap();
        assert!(watch.look().is_none());
        assert!(watch.look().unwrap().is_err());
        assert!(watch.look().is_none());
        fs::remove_file(&path).unwrap();
        assert!(watch.look().is_none());
        assert!(watch.look().unwrap().is_err());
        assert!(watch.look().is_none());
    }
}
