//! The clients on this machine: pods by their links, and its own processes.

use router_ebpf::maps::FAR_END;

use crate::{
    attach::host::{self, Cgroup},
    maps::secrets,
    plan::config::{Config, LinkPattern, Prefix, Shares},
};

use super::Daemon;

impl Daemon {
    /// Lets those be clients that the configuration names, and follows them from now on.
    pub(super) fn want_client_links(&mut self) {
        let cgroup = self.cgroup.clone().map_or(Cgroup::Any, Cgroup::At);
        let cgroup = self.config.host_clients.then_some(cgroup);
        self.host.want(cgroup, &self.data_path, &mut self.tables);
        let now = secrets::monotonic();
        self.host.follow(&self.data_path, &mut self.tables, now);
        let Self { macs, client_links, data_path, tables, config, .. } = self;
        let Config { client_links: patterns, interfaces, host_clients, .. } = config;
        let mut patterns = patterns.clone();
        if *host_clients {
            patterns.push(LinkPattern::parse(FAR_END).expect("a name"));
        }
        // Their programs may have to be loaded now.
        macs.renew(tables, now);
        client_links.want(&patterns, interfaces, data_path, tables, secrets::monotonic());
        self.attach_host();
    }

    pub(super) fn follow_interfaces(&mut self) {
        let Self { macs, client_links, host, data_path, tables, .. } = self;
        let now = secrets::monotonic();
        macs.follow(tables, now);
        host.follow(data_path, tables, now);
        client_links.follow(data_path, tables, now);
        self.attach_host();
    }

    fn attach_host(&mut self) {
        let Self { client_links, host, data_path, tables, index, .. } = self;
        host.attach(
            client_links.serves(FAR_END),
            data_path,
            tables,
            index.published(),
            secrets::monotonic(),
        );
    }

    /// How the tables are to be shared: this machine's own processes are trusted.
    pub(super) fn shares(&self) -> Shares {
        let mut shares = self.config.shares.clone();
        if self.config.host_clients {
            shares.trusted_sources.extend(host::seen().map(Prefix::from));
        }
        shares
    }
}
