//! The cluster's keys, if they are in a Secret.

use std::{path::Path, time::Duration};

use anyhow::{Result, bail};
use tracing::{error, warn};

use crate::{
    kube::{Keeper, SecretOptions},
    maps::secrets::{self, Keys},
    plan::config::Config,
};

use super::{Daemon, args::ClusterArgs};

/// How long a start with new maps waits for the Secret.
const FIRST: Duration = Duration::from_secs(5);

/// Refuses keys from two places.
pub(super) fn check(args: &ClusterArgs, config: &Config) -> Result<()> {
    match &args.secret {
        Some(name) => check_files(name, config),
        None => Ok(()),
    }
}

fn check_files(name: &str, config: &Config) -> Result<()> {
    let files = &config.secrets;
    for (field, file) in
        [("handshake_file", &files.handshake_file), ("chat_file", &files.chat_file)]
    {
        if let Some(file) = file {
            let file = file.display();
            bail!(
                "secrets.{field} = {file:?} and --secret {name}: the keys are in files or in a \
                 Secret; leave one of them out",
                file = file.to_string()
            );
        }
    }
    Ok(())
}

/// Starts to keep the Secret, if there is to be one. Before anything is attached, so that chats of the
/// first moments are not hashed under a key of this node alone.
pub(super) async fn keep(
    client: &::kube::Client,
    args: &ClusterArgs,
    pin_dir: &Path,
) -> Result<Option<Keeper>> {
    let Some(name) = &args.secret else { return Ok(None) };
    let rotate = Some(args.rotate_handshake).filter(|period| !period.is_zero());
    let options = SecretOptions::new(name, rotate);
    let pinned = Keys::pinned(pin_dir);
    let keys = pinned.map_or_else(Keys::random, Ok)?;
    let mut keeper = Keeper::start(client.clone(), options, keys);
    if pinned.is_none() && !keeper.first(FIRST).await {
        warn!(
            secret = format!("{}/{name}", client.default_namespace()),
            "the Secret cannot be read so far: the keys are random until it is, and then chats get \
             other homes"
        );
    }
    Ok(Some(keeper))
}

/// Waits for other keys.
pub(super) async fn changed(keeper: &mut Option<Keeper>) -> Result<()> {
    keeper.as_mut().expect("a keeper").changed().await
}

impl Daemon {
    /// Refuses keys of a changed file beside those of the Secret.
    pub(super) fn check_keys(&self, config: &Config) -> Result<()> {
        self.keeper.as_ref().map_or(Ok(()), |keeper| check_files(keeper.name(), config))
    }

    /// Brings the maps to the Secret's keys.
    pub(super) fn take_keys(&mut self) {
        let Some(keeper) = &mut self.keeper else { return };
        if let Err(e) = secrets::put(&mut self.tables, keeper.keys()) {
            error!("the keys of the Secret were not taken: {e:#}");
        }
    }
}
