//! The daemon with the capabilities of `deploy/overlays/capabilities`, and with one less.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use roost_programs::{IP, SETPRIV};
use roost_tests::lab::{
    ChatServer, Clients, Config, Family, Lab, REPLICA_PORT, Roost, UPLINK, VIP_PORT, run_in,
    try_until,
};
use roost_tests::release::Release;

const LIMIT: Duration = Duration::from_secs(60);
/// As the overlay has them; a test of `deploy.rs` compares.
const CAPABILITIES: [&str; 4] = ["bpf", "net_admin", "perfmon", "net_raw"];

/// What makes setpriv do what a runtime does to a container's first process: root, with these capabilities and
/// no others, and no way to more.
fn setpriv(without: Option<&str>) -> Vec<String> {
    let kept = CAPABILITIES.iter().filter(|name| Some(**name) != without);
    let bounding: String = kept.map(|name| format!(",+{name}")).collect();
    let words = ["--no-new-privs", "--inh-caps=-all"].map(str::to_owned);
    words.into_iter().chain([format!("--bounding-set=-all{bounding}")]).collect()
}

fn start(lab: &Lab, config: &Config, without: Option<&str>) -> Result<Roost> {
    let words = setpriv(without);
    let words: Vec<_> = words.iter().map(String::as_str).collect();
    Roost::start_under(lab, &config.to_string(), SETPRIV, &words)
}

#[test]
fn four_capabilities_are_enough_to_load_attach_take_over_reset_and_detach() -> Result<()> {
    let lab = Lab::builder("caps").replicas(2).build()?;
    let _servers = ChatServer::start_all(&lab, REPLICA_PORT)?;
    // And to let the node's own processes be clients, with a device and programs of a cgroup.
    let config = || Config { top: "host_clients = true".to_owned(), ..Config::new(&lab) };
    let mut roost = start(&lab, &config(), None)?;
    let (clients, node) = (Clients::new(&lab.client)?, Clients::new(&lab.node)?);
    for family in Family::BOTH {
        let vip = (lab.vip(family), VIP_PORT).into();
        // They are served some time after the daemon is ready; until then nothing leads them to the VIP here.
        let own = try_until(LIMIT, "the node's processes to be served", || {
            Ok(node.tab(vip, "caps").ok())
        })?;
        ensure!(own.replica() == clients.tab(vip, "caps")?.replica());
        let mut tab = clients.tab(vip, "caps")?;
        // The next daemon takes maps and links over.
        roost.kill();
        roost.restart()?;
        let mut other = clients.tab(vip, "caps")?;
        let [one, two] = [&tab, &other].map(|tab| tab.replica().to_owned());
        ensure!(one == two, "one tab is on {one}, another on {two}");
        // The replica is gone from the file: its tabs are reset, by the raw socket.
        let left: Vec<usize> = (1..=2).filter(|n| !one.ends_with(&n.to_string())).collect();
        roost.write_config(&config().only(&lab, &left).to_string())?;
        for tab in [&mut tab, &mut other] {
            let heard = clients.run(tab.next_message(LIMIT));
            let Err(error) = heard else { bail!("{family}: still connected: {heard:?}") };
            ensure!(format!("{error:#}").contains("reset"), "{error:#}");
        }
        roost.write_config(&config().to_string())?;
        try_until(LIMIT, "both replicas", || {
            let services = roost.json(&["services"])?;
            Ok((services[0]["usable"] == 2).then_some(()))
        })?;
    }
    // The program that is attached is known to be its own, though nothing may ask for its name.
    let check = roost.json(&["check", "--interface", UPLINK])?;
    let mut findings = check["findings"].as_array().into_iter().flatten();
    let program = findings.find(|finding| finding["check"] == "xdp_program");
    let program = program.context("no finding about the program")?;
    ensure!(program["level"] == "ok" && program["found"] == "roost_ingress", "{program}");
    ensure!(!roost.process().log().contains("CAP_NET_RAW"), "{}", roost.process().log());
    roost.process().terminate(LIMIT)?;
    let removed = roost.json(&["detach"])?;
    let removed = removed["removed"].as_array().context("nothing removed")?;
    ensure!(removed.iter().any(|what| what == "the interface roost0"), "{removed:?}");
    ensure!(run_in(&lab.node, IP, &["link", "show", "roost0"]).is_err());
    Ok(())
}

/// The oldest release has maps that this one has changed: they are converted, and programs are replaced.
#[test]
fn four_capabilities_are_enough_to_take_changed_maps_over() -> Result<()> {
    let lab = Lab::builder("caps-release").build()?;
    let _servers = ChatServer::start_all(&lab, REPLICA_PORT)?;
    Release::all()?.first().context("no release is there")?.leave_behind(&lab)?;
    let clients = Clients::new(&lab.client)?;
    let vip = (lab.vip(Family::V4), VIP_PORT).into();
    let mut before = clients.tab(vip, "caps")?;
    let mut roost = start(&lab, &Config::new(&lab), None)?;
    ensure!(
        roost.process().log().contains("its entries are converted"),
        "{}",
        roost.process().log()
    );
    clients.run(before.ping(LIMIT)).context("a tab of before")?;
    let after = clients.tab(vip, "caps")?;
    ensure!(before.replica() == after.replica(), "{} and {}", before.replica(), after.replica());
    Ok(())
}

#[test]
fn without_one_of_them_the_error_names_it() -> Result<()> {
    let lab = Lab::builder("caps-less").replicas(1).build()?;
    for missing in ["bpf", "net_admin", "perfmon"] {
        let error = match start(&lab, &Config::new(&lab), Some(missing)) {
            Ok(_) => panic!("it starts without {missing}"),
            Err(error) => format!("{error:#}"),
        };
        let name = format!("CAP_{}", missing.to_uppercase());
        ensure!(error.contains(&format!("missing: {name}")), "without {name}: {error}");
    }
    let mut roost = start(&lab, &Config::new(&lab), Some("net_raw"))?;
    roost.process().wait_line(LIMIT, "no raw socket, which needs CAP_NET_RAW")?;
    Ok(())
}
