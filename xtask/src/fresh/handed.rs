//! What this machine hands to the fresh one so that it reaches the same registries: mirrors, proxies,
//! indexes, authorities. Nothing of what is installed, built or configured besides.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// A file of the fresh machine.
#[derive(Clone, Serialize, Deserialize)]
pub struct TextFile {
    /// Where it is there.
    pub path: PathBuf,
    /// What it says.
    pub text: String,
}

/// The files: names of computers, and the settings of cargo, pip and npm.
pub fn files(home: &Path, cargo_home: &Path) -> Vec<TextFile> {
    let whole = |from: PathBuf, to: &str| {
        let text = fs::read_to_string(from).ok()?;
        Some(TextFile { path: to.into(), text })
    };
    let cargo = ["config.toml", "config"].iter().find_map(|name| {
        let text = fs::read_to_string(cargo_home.join(name)).ok()?;
        Some(TextFile { path: "/root/.cargo/config.toml".into(), text: cargo_settings(&text) })
    });
    [
        cargo,
        whole("/etc/resolv.conf".into(), "/etc/resolv.conf"),
        whole("/etc/hosts".into(), "/etc/hosts"),
        whole("/etc/pip.conf".into(), "/etc/pip.conf"),
        whole(home.join(".pip/pip.conf"), "/root/.pip/pip.conf"),
        whole(home.join(".config/pip/pip.conf"), "/root/.config/pip/pip.conf"),
        whole(home.join(".npmrc"), "/root/.npmrc"),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// The variables.
pub fn variables() -> Vec<(String, String)> {
    let text = |word: OsString| word.into_string().ok();
    env::vars_os()
        .filter_map(|(name, value)| Some((text(name)?, text(value)?)))
        .filter(|(name, _)| is_about_registries(name))
        .collect()
}

/// Whether a variable says how registries are reached.
fn is_about_registries(name: &str) -> bool {
    const PREFIXES: [&str; 7] = [
        "CARGO_HTTP_",
        "CARGO_NET_",
        "CARGO_REGISTRIES_",
        "CARGO_REGISTRY_",
        "CARGO_SOURCE_",
        "NPM_CONFIG_",
        "PIP_",
    ];
    const NAMES: [&str; 6] = [
        "CURL_CA_BUNDLE",
        "NODE_EXTRA_CA_CERTS",
        "REQUESTS_CA_BUNDLE",
        "SSL_CERT_DIR",
        "SSL_CERT_FILE",
        "ALL_PROXY",
    ];
    let name = name.to_ascii_uppercase();
    NAMES.contains(&name.as_str())
        || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
        || ["HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"].contains(&name.as_str())
}

/// Of what `apt-config dump` prints, how packages are fetched.
pub fn apt_options(dump: &str) -> String {
    const BRANCHES: [&str; 8] = [
        "http",
        "https",
        "Check-Valid-Until",
        "Check-Date",
        "Retries",
        "ForceIPv4",
        "ForceIPv6",
        "Max-ValidTime",
    ];
    let is_wanted = |line: &&str| {
        let rest = line.strip_prefix("Acquire::").unwrap_or_default();
        let branch = rest.split([':', ' ']).next().unwrap_or_default();
        BRANCHES.iter().any(|wanted| wanted.eq_ignore_ascii_case(branch))
    };
    dump.lines().filter(is_wanted).flat_map(|line| [line, "\n"]).collect()
}

/// Of cargo's configuration, the tables about registries and the way to them. Others are about this
/// machine: its linker, its caches.
fn cargo_settings(text: &str) -> String {
    const TABLES: [&str; 5] = ["http", "net", "registries", "registry", "source"];
    let first_key = |line: &str| {
        let key = line.trim_start_matches('[').split(['.', ']', '=']).next().unwrap_or_default();
        TABLES.contains(&key.trim().trim_matches('"'))
    };
    let (mut wanted, mut in_table) = (false, false);
    let keep = |line: &&str| {
        let start = line.trim_start();
        if start.starts_with('[') {
            (wanted, in_table) = (first_key(start), true);
        } else if !in_table && start.contains('=') {
            // Before the first table keys have their whole names.
            wanted = first_key(start);
        }
        wanted
    };
    text.lines().filter(keep).flat_map(|line| [line, "\n"]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_of_registries_are_known() {
        for name in ["https_proxy", "NO_PROXY", "PIP_INDEX_URL", "npm_config_registry"] {
            assert!(is_about_registries(name), "{name}");
        }
        for name in ["CARGO_REGISTRIES_X_INDEX", "CARGO_HTTP_CAINFO", "SSL_CERT_FILE"] {
            assert!(is_about_registries(name), "{name}");
        }
        for name in ["PATH", "CARGO_PKG_NAME", "CARGO_TARGET_DIR", "RUSTFLAGS", "ROOST_BIN"] {
            assert!(!is_about_registries(name), "{name}");
        }
    }

    #[test]
    fn of_apt_only_the_way_to_mirrors_is_handed_on() {
        let dump = "APT::Get::Assume-Yes \"1\";\nAcquire::http::Proxy \"http://192.0.2.1:3142\";\n\
                    Acquire::Check-Date \"false\";\nAcquire::Languages \"none\";\n\
                    DPkg::Post-Invoke:: \"/usr/bin/something\";\n";
        let expected =
            "Acquire::http::Proxy \"http://192.0.2.1:3142\";\nAcquire::Check-Date \"false\";\n";
        assert_eq!(apt_options(dump), expected);
    }

    #[test]
    fn of_cargo_only_the_way_to_registries_is_handed_on() {
        let text = "http.timeout = 9\nbuild.jobs = 1\n\n[build]\nrustc-wrapper = \"sccache\"\n\
                    [source.crates-io]\nreplace-with = \"near\"\n[target.x]\nlinker = \"mold\"\n\
                    [registries]\nnear = { index = \"sparse+https://192.0.2.1/\" }\n";
        let expected = "http.timeout = 9\n[source.crates-io]\nreplace-with = \"near\"\n\
                        [registries]\nnear = { index = \"sparse+https://192.0.2.1/\" }\n";
        assert_eq!(cargo_settings(text), expected);
    }
}
