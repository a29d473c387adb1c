//! Path MTU discovery through Roost: routers embed translated packets in their errors, and both
//! ends have to recognise them as their own.

use std::time::Duration;

use anyhow::{Context, Result};
use roost_tests::lab::{Clients, Config, Family, Lab, Site};
use tokio::time::timeout;

const LIMIT: Duration = Duration::from_secs(120);
const MB: u64 = 1 << 20;

#[test]
fn the_client_learns_of_a_smaller_mtu_towards_the_replica() -> Result<()> {
    let site = Site::start(Lab::builder("icmp-in").replicas(1), Config::new)?;
    let clients = site.clients()?;
    for family in Family::BOTH {
        let mut http = clients.http(site.vip(family), "1")?;
        // The MSS is agreed on; then the path shrinks.
        clients.run(http.whoami())?;
        let replica = &site.lab.replicas[0];
        replica.ns.set_mtu("eth0", 1300)?;
        site.lab.node.set_mtu(&replica.node_device, 1300)?;
        let before = site.counter("icmp_to_client")?;
        let upload = clients.run(async { timeout(LIMIT, http.upload(5 * MB, 1)).await });
        upload.with_context(|| format!("{family}: the upload hangs"))??;
        assert!(site.counter("icmp_to_client")? > before, "{family}: no ICMP error was translated");
        replica.ns.set_mtu("eth0", 1500)?;
        site.lab.node.set_mtu(&replica.node_device, 1500)?;
    }
    Ok(())
}

#[test]
fn the_replica_learns_of_a_smaller_mtu_towards_the_client() -> Result<()> {
    let lab = Lab::builder("icmp-out").replicas(1).far_client(true);
    let site = Site::start(lab, Config::new)?;
    let far = site.lab.far_client();
    let clients = Clients::new(far)?;
    for family in Family::BOTH {
        let mut http = clients.http(site.vip(family), "1")?;
        clients.run(http.whoami())?;
        far.set_mtu("eth0", 1300)?;
        site.lab.client.set_mtu("far", 1300)?;
        let before = site.counter("icmp_to_replica")?;
        let download = clients.run(async { timeout(LIMIT, http.download(5 * MB, 1)).await });
        download.with_context(|| format!("{family}: the download hangs"))??;
        assert!(
            site.counter("icmp_to_replica")? > before,
            "{family}: no ICMP error was translated"
        );
        far.set_mtu("eth0", 1500)?;
        site.lab.client.set_mtu("far", 1500)?;
    }
    Ok(())
}
