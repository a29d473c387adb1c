//! Sets a laboratory up, says how to use it, and takes it down at Enter or Ctrl-C.

use std::io::{BufRead, stdin};
use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use roost_tests::lab::{ChatServer, Config, Family, Lab, UPLINK, clean_up_on_signals};

/// Open a lab by hand: a client, a node and replicas in network namespaces.
#[derive(Parser)]
struct Args {
    /// Set up N replicas.
    #[arg(long, value_name = "N", default_value_t = 3)]
    replicas: usize,
    /// Set the MTU of the link between client and node.
    #[arg(long, value_name = "BYTES", default_value_t = 1500)]
    uplink_mtu: u32,
    /// Set the MTU of the links between node and replicas.
    #[arg(long, value_name = "BYTES", default_value_t = 1500)]
    replica_mtu: u32,
    /// Let the chat servers listen on PORT.
    #[arg(long, value_name = "PORT", default_value_t = 8080)]
    port: u16,
    /// Start no chat servers.
    #[arg(long)]
    no_servers: bool,
    /// Give this machine's own namespace a route to the VIPs.
    #[arg(long)]
    host_link: bool,
}

fn main() -> Result<ExitCode> {
    let args = Args::parse();
    clean_up_on_signals()?;
    let lab = Lab::builder("lab")
        .replicas(args.replicas)
        .uplink_mtu(args.uplink_mtu)
        .replica_mtu(args.replica_mtu)
        .host_link(args.host_link)
        .build()?;
    let _servers =
        if args.no_servers { Vec::new() } else { ChatServer::start_all(&lab, args.port)? };
    let config = lab.dir().join("roost.toml");
    std::fs::write(&config, Config::new(&lab).to_string())?;
    println!("{}", describe(&lab, &args, &config));

    // The end of the input is not Enter: without a terminal, a signal ends the lab.
    if matches!(stdin().lock().read_line(&mut String::new()), Ok(0) | Err(_)) {
        loop {
            std::thread::park();
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn describe(lab: &Lab, args: &Args, config: &Path) -> String {
    let enter = |ns: &str| format!("nsenter --net=/run/netns/{ns}");
    let mut text = format!("lab {}, files in {}\n\n", lab.prefix, lab.dir().display());
    let [client4, client6] = Family::BOTH.map(|family| lab.client_addr(family));
    text += &format!("client     {}\n           {client4}  {client6}\n", enter(lab.client.name()));
    text += &format!("node       {}\n           uplink {UPLINK}\n", enter(lab.node.name()));
    for site in &lab.replicas {
        let (name, v4, v6) = (&site.name, site.v4, site.v6);
        text += &format!(
            "{name}  {}\n           {v4}  {v6}  behind {} of the node\n",
            enter(site.ns.name()),
            site.node_device
        );
    }
    let [vip4, vip6] = Family::BOTH.map(|family| lab.vip_prefix(family));
    text += &format!("VIPs       {vip4}  {vip6}  routed to the node\n");
    text += &format!("pin dir    {}\n\n", lab.pin_dir().display());
    let client = enter(lab.client.name());
    let (replica, vip) = (lab.replica_at(1, Family::V4, args.port), lab.vip(Family::V4));
    text += &format!(
        "a replica, directly:\n  {client} curl -s http://{replica}/whoami\n\
         the daemon, with a file for all of this:\n  {} roost run --config {} --pin-dir {}\n\
         through it:\n  {client} curl -s 'http://{vip}/whoami?chat=1'\n\n\
         Enter or Ctrl-C ends the lab.",
        enter(lab.node.name()),
        config.display(),
        lab.pin_dir().display(),
    );
    text
}
