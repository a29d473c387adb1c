//! Waiting for conditions, with limits.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Waits until `ready` gives a value. `what` completes "waited 5s for ...".
pub fn try_until<T>(
    limit: Duration,
    what: &str,
    mut ready: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let end = Instant::now() + limit;
    let mut pause = Duration::from_millis(1);
    loop {
        let last = match ready() {
            Ok(Some(value)) => return Ok(value),
            Ok(None) => String::new(),
            Err(error) => format!(": {error:#}"),
        };
        if Instant::now() >= end {
            bail!("waited {limit:?} for {what}{last}");
        }
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

/// Waits until `ready` is true; panics when the limit has passed.
#[track_caller]
pub fn wait_until(limit: Duration, what: &str, mut ready: impl FnMut() -> bool) {
    if let Err(error) = try_until(limit, what, || Ok(ready().then_some(()))) {
        panic!("{error}");
    }
}
