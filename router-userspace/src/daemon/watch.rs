//! Notices changes of the configuration file, by its content: that works for editors that write in
//! place or rename, and for the symbolic links of a Kubernetes ConfigMap, and misses nothing.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::{
    attach::uplinks,
    plan::config::{Config, ConfigError},
};

use super::args::ClusterArgs;

/// Looks at the file now and then, if there is one.
pub(super) struct Watch {
    path: Option<PathBuf>,
    /// Beside a cluster: the file may leave the interfaces to the default routes.
    cluster: Option<ClusterArgs>,
    pin_dir: PathBuf,
    /// What was last taken; `None`: the file could not be read.
    taken: Option<Vec<u8>>,
    /// What was seen once: a file that is being written is looked at again before it is taken.
    seen: Option<Option<Vec<u8>>>,
}

impl Watch {
    pub(super) fn new(path: Option<&Path>, cluster: &ClusterArgs, pin_dir: &Path) -> Self {
        let cluster = cluster.kubernetes.then(|| cluster.clone());
        Self {
            path: path.map(Path::to_owned),
            cluster,
            pin_dir: pin_dir.to_owned(),
            taken: None,
            seen: None,
        }
    }

    /// Reads the file for the first time.
    pub(super) fn first(&mut self) -> Option<Result<Config, ConfigError>> {
        let path = self.path.as_ref()?;
        self.taken = fs::read(path).ok();
        Some(self.load(path))
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
        let config = self.load(path);
        self.taken = now;
        Some(config)
    }

    fn load(&self, path: &Path) -> Result<Config, ConfigError> {
        let Some(cluster) = &self.cluster else { return Config::load(path) };
        uplinks::load(path, &cluster.interface, &self.pin_dir)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "interfaces = [\"eth0\"]\n";

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        run: crate::daemon::RunArgs,
    }

    fn cluster(words: &[&str]) -> ClusterArgs {
        let words = ["roost"].iter().chain(words);
        <Line as clap::Parser>::try_parse_from(words).unwrap().run.cluster
    }

    #[test]
    fn beside_a_cluster_the_interfaces_may_be_left_to_the_routes() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("roost.toml");
        fs::write(&path, "# nothing\n").unwrap();
        let first = |words: &[&str]| {
            Watch::new(Some(&path), &cluster(words), directory.path()).first().unwrap()
        };
        let alone = first(&["--config=x"]).unwrap_err().to_string();
        assert!(alone.contains("interfaces: is missing; write"), "{alone}");
        // As they are named by --interface here: the routes of this machine are not known.
        let words = ["--kubernetes", "--interface", "eth7"];
        assert_eq!(first(&words).unwrap().interfaces, ["eth7"]);
        fs::write(&path, "interfaces = []\n").unwrap();
        assert!(first(&words).unwrap_err().to_string().contains("is empty"));
        fs::write(&path, GOOD).unwrap();
        assert_eq!(first(&["--kubernetes"]).unwrap().interfaces, ["eth0"]);
    }

    #[test]
    fn a_change_is_taken_once_and_only_when_it_has_settled() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("roost.toml");
        fs::write(&path, GOOD).unwrap();
        let mut watch = Watch::new(Some(&path), &cluster(&["--config=x"]), directory.path());
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
