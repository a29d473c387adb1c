//! One tab of a browser.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use data_encoding::BASE64;
use serde_json::{Value, json};

use super::{Browser, artefacts};
use crate::lab::try_until;

/// A tab. It stays open until the browser ends, or until [`Tab::close`].
#[derive(Debug)]
pub struct Tab<'a> {
    browser: &'a Browser,
    context: String,
}

impl<'a> Tab<'a> {
    pub(super) fn new(browser: &'a Browser, context: String) -> Self {
        Self { browser, context }
    }

    /// Goes to a page, and waits until it has loaded.
    pub fn navigate(&self, url: &str) -> Result<()> {
        let to = json!({"url": url, "wait": "complete"});
        self.command("browsingContext.navigate", to).map(drop)
    }

    /// The value of a JavaScript expression; a promise is waited for.
    pub fn evaluate(&self, expression: &str) -> Result<Value> {
        let script = json!({
            "expression": format!("(async () => JSON.stringify(await ({expression})))()"),
            "target": {"context": self.context},
            "awaitPromise": true,
        });
        let outcome = self.browser.bidi().command("script.evaluate", &script)?;
        let result = &outcome["result"];
        match (outcome["type"].as_str(), result["type"].as_str()) {
            (Some("success"), Some("string")) => {
                Ok(serde_json::from_str(result["value"].as_str().unwrap_or_default())?)
            }
            (Some("success"), Some("undefined")) => Ok(Value::Null),
            _ => bail!("{expression}: {}", outcome["exceptionDetails"]["text"]),
        }
    }

    /// The text of an element, empty if there is none.
    pub fn text(&self, selector: &str) -> Result<String> {
        let text =
            self.evaluate(&format!("document.querySelector({selector:?})?.innerText ?? ''"))?;
        Ok(text.as_str().unwrap_or_default().to_owned())
    }

    /// The texts of all elements that a selector finds.
    pub fn texts(&self, selector: &str) -> Result<Vec<String>> {
        let all = format!("[...document.querySelectorAll({selector:?})].map((it) => it.innerText)");
        Ok(serde_json::from_value(self.evaluate(&all)?)?)
    }

    /// Waits until an expression is true.
    pub fn wait_for(&self, limit: Duration, expression: &str) -> Result<()> {
        let met = || Ok((self.evaluate(expression)? == true).then_some(()));
        try_until(limit, &format!("`{expression}` in {}", self.context), met).with_context(|| {
            let page = self.evaluate("document.body.innerText").unwrap_or_default();
            format!("the page shows: {page}")
        })
    }

    /// Types a text into an element, key by key, and Enter.
    pub fn type_line(&self, selector: &str, text: &str) -> Result<()> {
        self.command("browsingContext.activate", json!({}))?;
        self.evaluate(&format!("document.querySelector({selector:?}).focus()"))?;
        // U+E007 is Enter.
        let keys = text.chars().chain(['\u{e007}']).flat_map(|key| {
            ["keyDown", "keyUp"].map(|what| json!({"type": what, "value": key.to_string()}))
        });
        let keyboard =
            json!({"type": "key", "id": "keyboard", "actions": keys.collect::<Vec<_>>()});
        self.command("input.performActions", json!({"actions": [keyboard]})).map(drop)
    }

    /// Gives the tab the size of a device, in CSS pixels.
    pub fn resize(&self, width: u32, height: u32) -> Result<()> {
        let viewport = json!({"viewport": {"width": width, "height": height}});
        self.command("browsingContext.setViewport", viewport).map(drop)
    }

    /// Keeps a picture of what it shows, and says where.
    pub fn screenshot(&self, name: &str) -> Result<PathBuf> {
        self.command("browsingContext.activate", json!({}))?;
        let picture = self.command("browsingContext.captureScreenshot", json!({}))?;
        let picture = picture["data"].as_str().context("a picture without data")?;
        let file = artefacts()?.join(format!("{name}.png"));
        std::fs::write(&file, BASE64.decode(picture.as_bytes())?)?;
        println!("picture: {}", file.display());
        Ok(file)
    }

    /// Closes it.
    pub fn close(self) -> Result<()> {
        self.command("browsingContext.close", json!({})).map(drop)
    }

    fn command(&self, method: &str, mut parameters: Value) -> Result<Value> {
        parameters["context"] = self.context.as_str().into();
        self.browser.bidi().command(method, &parameters)
    }
}
