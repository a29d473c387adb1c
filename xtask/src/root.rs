//! Root, for what cannot be had without: network namespaces, eBPF, apt-get.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use roost_programs::{ENV, SUDO, search_path};

/// How this user becomes root.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Root {
    /// This user is root already.
    Already,
    /// Through sudo, which may ask for a password.
    Sudo,
}

impl Root {
    /// Finds the way; `purpose` says in the error what root is needed for.
    pub fn find(purpose: &str) -> Result<Self> {
        // A process owns its own directory under its effective user.
        let user = fs::metadata("/proc/self").context("/proc is not mounted")?.uid();
        if user == 0 {
            return Ok(Self::Already);
        }
        if SUDO.find().is_none() {
            bail!("{purpose} needs root: run it as root, or install sudo");
        }
        Ok(Self::Sudo)
    }

    /// The words before a command that make it run as root, with these variables set.
    pub fn prefix<V: AsRef<OsStr>>(self, variables: &[(&str, V)]) -> Vec<std::ffi::OsString> {
        let mut words: Vec<std::ffi::OsString> = match self {
            Self::Already => vec!["env".into()],
            // sudo replaces PATH even with -E.
            Self::Sudo => vec!["sudo".into(), "-E".into(), "env".into()],
        };
        let path = search_path();
        let path = [("PATH", path.as_os_str())];
        let given = variables.iter().map(|(name, value)| (*name, value.as_ref()));
        for (name, value) in path.into_iter().chain(given) {
            let mut word = std::ffi::OsString::from(name);
            word.push("=");
            word.push(value);
            words.push(word);
        }
        words
    }

    /// A command that runs the program at this path as root, with these variables set.
    pub fn command<V: AsRef<OsStr>>(
        self,
        program: &Path,
        variables: &[(&str, V)],
    ) -> Result<Command> {
        let mut command = match self {
            Self::Already => ENV.command()?,
            Self::Sudo => SUDO.command()?,
        };
        command.args(&self.prefix(variables)[1..]).arg(program);
        Ok(command)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sudo_gets_the_variables_through_env() {
        let words = Root::Sudo.prefix(&[("ROOST_BIN", "/x/roost")]);
        assert_eq!(words[..3], ["sudo", "-E", "env"]);
        assert!(words[3].to_string_lossy().starts_with("PATH="));
        assert_eq!(words[4], "ROOST_BIN=/x/roost");
    }
}
