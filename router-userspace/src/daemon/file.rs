//! The file as a source of the daemon, and the interfaces that it names.

use anyhow::Result;
use tracing::{debug, error, info, warn};

use crate::{
    attach::paths,
    maps::secrets,
    plan::config::{Config, ConfigError},
};

use super::{Daemon, cluster};

impl Daemon {
    /// Applies the file that was found changed, and says why if it is refused.
    pub(super) fn take(&mut self, found: Result<Config, ConfigError>) {
        let result = found.map_err(anyhow::Error::from).and_then(|config| self.reload(config));
        if let Err(e) = result {
            let problem = format!("{e:#}");
            self.status.file_refused(&problem);
            for line in problem.lines() {
                error!("{line}");
            }
            error!("the changed file was not applied; everything stays as it was");
        }
    }

    /// Applies a changed file, or leaves everything as it is.
    fn reload(&mut self, config: Config) -> Result<()> {
        if config == self.config {
            self.status.file_applied(&config.interfaces);
            debug!("the file says the same as before");
            return Ok(());
        }
        if config.limits != self.config.limits {
            warn!(
                "[limits] have changed: they hold for new maps only, after `roost detach` and a \
                 fresh start (ends the connections)"
            );
        }
        self.check_keys(&config)?;
        let mut attached = Vec::new();
        if let Err(e) = self.attach(&config, &mut attached) {
            self.give_back(attached);
            // One of the interfaces may have been a client link until then.
            self.want_client_links();
            return Err(e);
        }
        self.publish(&config);
        if self.keeper.is_none() {
            secrets::set(&mut self.tables, &config.secrets)?;
        }
        self.config = config;
        self.share();
        self.detach_others();
        self.want_client_links();
        paths::warn_unrouted(&self.config.services);
        self.status.file_applied(&self.config.interfaces);
        cluster::warn_unused_pools(&self.config, self.control.as_ref());
        info!(services = self.config.services.len(), "applied the changed file");
        Ok(())
    }

    /// Attaches to all interfaces of a file where that is not done yet, and notes those that no
    /// daemon was attached to before.
    pub(super) fn attach(&mut self, config: &Config, new: &mut Vec<String>) -> Result<()> {
        for interface in &config.interfaces {
            if !self.data_path.is_attached(interface) && self.data_path.attach(interface)? {
                new.push(interface.clone());
            }
        }
        Ok(())
    }

    pub(super) fn give_back(&mut self, interfaces: Vec<String>) {
        for interface in interfaces {
            self.data_path.detach(&interface);
        }
    }

    /// Detaches from interfaces that are not in the file, whichever daemon attached to them. Where the
    /// default routes say which, all that are attached are among them (see [`crate::attach::uplinks`]).
    pub(super) fn detach_others(&mut self) {
        for interface in self.data_path.pinned_interfaces() {
            if !self.config.interfaces.contains(&interface) {
                self.data_path.detach(&interface);
            }
        }
    }
}
