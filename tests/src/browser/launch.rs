//! Starting a browser.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, Result};
use roost_programs::{CERTUTIL, CHROMEDRIVER, CHROMIUM, FIREFOX, Program};
use serde_json::{Value, json};

use super::Browser;
use super::bidi::Bidi;
use crate::lab::{Lab, Netns, Process};

/// How long a browser may take to start, on a loaded machine.
const START: Duration = Duration::from_secs(120);

/// What a new profile of Firefox does by itself, and is not to do here.
const FIREFOX_QUIET: &str = r#"
user_pref("app.normandy.enabled", false);
user_pref("app.update.enabled", false);
user_pref("browser.safebrowsing.malware.enabled", false);
user_pref("browser.safebrowsing.phishing.enabled", false);
user_pref("browser.shell.checkDefaultBrowser", false);
user_pref("browser.startup.homepage_override.mstone", "ignore");
user_pref("datareporting.policy.dataSubmissionEnabled", false);
user_pref("extensions.update.enabled", false);
user_pref("network.captive-portal-service.enabled", false);
user_pref("network.connectivity-service.enabled", false);
user_pref("network.http.http3.enable", false);
user_pref("network.proxy.type", 0);
user_pref("services.settings.server", "data:,");
user_pref("toolkit.telemetry.enabled", false);
user_pref("toolkit.telemetry.server", "data:,");
"#;

/// A browser.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Debian's chromium, through chromium-driver.
    Chromium,
    /// Debian's firefox-esr.
    Firefox,
}

/// What a browser is to be started with.
#[derive(Debug, Clone)]
pub struct Launch {
    kind: Kind,
    names: Vec<(String, String)>,
    authority: Option<PathBuf>,
    dark: bool,
}

impl Launch {
    /// A browser of this kind.
    pub fn new(kind: Kind) -> Self {
        Self { kind, names: Vec::new(), authority: None, dark: false }
    }

    /// Lets a name (`chat.test`, `*.chat.test`) mean an address. Nothing else is looked up; Firefox
    /// takes the address for every name.
    pub fn name(mut self, name: &str, address: std::net::IpAddr) -> Self {
        self.names.push((name.to_owned(), address.to_string()));
        self
    }

    /// Lets it trust the certification authority in this PEM file.
    pub fn authority(mut self, file: PathBuf) -> Self {
        self.authority = Some(file);
        self
    }

    /// Lets it prefer dark pages.
    pub fn dark(mut self) -> Self {
        self.dark = true;
        self
    }

    /// Starts it in the lab's client namespace.
    pub fn start(self, lab: &Lab) -> Result<Browser> {
        self.start_at(Some(&lab.client), lab.dir())
    }

    /// Starts it in this process's namespace, with its files in `dir`.
    pub fn start_here(self, dir: &Path) -> Result<Browser> {
        self.start_at(None, dir)
    }

    fn start_at(self, ns: Option<&Netns>, dir: &Path) -> Result<Browser> {
        // A new profile each time.
        let home = tempfile::Builder::new().prefix("browser-").tempdir_in(dir)?.keep();
        fs::create_dir(home.join("tmp"))?;
        match self.kind {
            Kind::Chromium => self.chromium(ns, &home),
            Kind::Firefox => self.firefox(ns, &home),
        }
    }

    fn chromium(self, ns: Option<&Netns>, home: &Path) -> Result<Browser> {
        if let Some(authority) = &self.authority {
            // Where Chromium looks for what its user trusts.
            let store = home.join(".pki/nssdb");
            fs::create_dir_all(&store)?;
            trust(&store, authority)?;
        }
        let mut driver = command(ns, CHROMEDRIVER)?;
        // Port 0 takes a free one.
        driver.arg("--port=0").env("HOME", home).env("TMPDIR", home.join("tmp"));
        let driver = Process::spawn("chromedriver", &mut driver)?;
        let line = driver.wait_line(START, "started successfully on port ")?;
        let port = line.rsplit(' ').next().unwrap_or_default().trim_end_matches('.');
        let port: u16 = port.parse().with_context(|| line.clone())?;
        let rules = self.names.iter().map(|(name, address)| match address.contains(':') {
            true => format!("MAP {name} [{address}], "),
            false => format!("MAP {name} {address}, "),
        });
        // An address is no name: it is let alone.
        let rules: String = rules.chain(["MAP * ~NOTFOUND".to_owned()]).collect();
        let mut arguments: Vec<String> = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--no-proxy-server",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--disable-default-apps",
            "--window-size=1100,760",
        ]
        .map(str::to_owned)
        .into();
        arguments.push(format!("--user-data-dir={}", home.join("profile").display()));
        if !self.names.is_empty() {
            arguments.push(format!("--host-resolver-rules={rules}"));
        }
        if self.dark {
            arguments.push("--blink-settings=preferredColorScheme=0".to_owned());
        }
        let capabilities = json!({
            "browserName": "chrome",
            "webSocketUrl": true,
            "goog:chromeOptions": {"binary": CHROMIUM.path()?, "args": arguments},
        });
        self.session(ns, driver, (Ipv4Addr::LOCALHOST, port).into(), &capabilities)
    }

    fn firefox(self, ns: Option<&Netns>, home: &Path) -> Result<Browser> {
        let profile = home.join("profile");
        fs::create_dir(&profile)?;
        if let Some(authority) = &self.authority {
            trust(&profile, authority)?;
        }
        let mut preferences = FIREFOX_QUIET.to_owned();
        if let Some((_, address)) = self.names.first() {
            // Every name: Firefox has no rules for single ones.
            preferences += &format!("user_pref(\"network.dns.forceResolve\", \"{address}\");\n");
        }
        if self.dark {
            preferences += "user_pref(\"layout.css.prefers-color-scheme.content-override\", 0);\n";
        }
        fs::write(profile.join("user.js"), preferences)?;
        let mut firefox = command(ns, FIREFOX)?;
        firefox.args(["--headless", "--no-remote", "--remote-debugging-port", "0", "--profile"]);
        firefox.arg(&profile).env("HOME", home).env("TMPDIR", home.join("tmp"));
        let firefox = Process::spawn("firefox", &mut firefox)?;
        let line = firefox.wait_line(START, "BiDi listening on ws://")?;
        let at = line.rsplit("ws://").next().unwrap_or_default().trim();
        let at: SocketAddr = at.parse().with_context(|| line.clone())?;
        self.session(ns, firefox, at, &json!({}))
    }

    fn session(
        self,
        ns: Option<&Netns>,
        process: Process,
        at: SocketAddr,
        capabilities: &Value,
    ) -> Result<Browser> {
        let bidi = Bidi::open(ns, at, capabilities)
            .with_context(|| format!("starting {:?}; it wrote:\n{}", self.kind, process.log()))?;
        Ok(Browser { kind: self.kind, bidi: Mutex::new(bidi), _process: process })
    }
}

fn command(ns: Option<&Netns>, program: Program) -> Result<Command> {
    match ns {
        Some(ns) => ns.command(program),
        None => Ok(program.command()?),
    }
}

/// Puts an authority into a store of NSS, which is made.
fn trust(store: &Path, authority: &Path) -> Result<()> {
    let store = format!("sql:{}", store.display());
    let authority = authority.display().to_string();
    crate::lab::run(CERTUTIL, &["-d", &store, "-N", "--empty-password"])?;
    let trusted = ["-A", "-n", "Roost's tests", "-t", "C,,", "-i", &authority];
    crate::lab::run(CERTUTIL, &[&["-d", &store], &trusted[..]].concat())?;
    Ok(())
}
