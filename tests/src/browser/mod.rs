//! Real browsers in a lab, without a window: Debian's Chromium and Firefox.
//!
//! Both are told what to do by WebDriver BiDi, which Firefox speaks itself and Chromium through its
//! driver. They run in the client's namespace, with a profile of their own that is new each time.

mod bidi;
mod launch;
mod page;
mod tab;

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result};
use serde_json::json;

use crate::lab::Process;
use bidi::Bidi;
pub use launch::{Kind, Launch};
pub use page::{LIMIT, talk};
pub use tab::Tab;

/// A running browser; it ends with its guard.
#[derive(Debug)]
pub struct Browser {
    /// Which one it is.
    pub kind: Kind,
    bidi: Mutex<Bidi>,
    _process: Process,
}

impl Browser {
    /// Opens a tab with a page, and waits until it has loaded.
    pub fn open(&self, url: &str) -> Result<Tab<'_>> {
        let made = self.bidi().command("browsingContext.create", &json!({"type": "tab"}))?;
        let context = made["context"].as_str().context("a tab without a name")?.to_owned();
        let tab = Tab::new(self, context);
        tab.navigate(url)?;
        Ok(tab)
    }

    fn bidi(&self) -> MutexGuard<'_, Bidi> {
        self.bidi.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // What does not end by itself is ended with the lab.
        let _ = self.bidi().command("browser.close", &json!({}));
    }
}

/// Where pictures of the tests are kept.
pub fn artefacts() -> Result<PathBuf> {
    let dir = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../target/screenshots"));
    std::fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
    Ok(dir.canonicalize()?)
}
