//! A daemon that gives a Service its addresses, and serves them.

use std::ffi::OsStr;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use roost_tests::kube::{ApiServer, Endpoint, NODE, node, service, slice};
use roost_tests::lab::{
    ChatServer, Clients, Family, Lab, REPLICA_PORT, Roost, VIP_PORT, try_until,
};
use serde_json::json;

const LIMIT: Duration = Duration::from_secs(60);

/// Pods on both replicas, for a Service that has no address yet.
fn apply(api: &ApiServer, lab: &Lab, name: &str) {
    let mut waiting = service(name, &[]);
    waiting["spec"]["ipFamilies"] = json!(["IPv4", "IPv6"]);
    api.apply(waiting);
    for family in Family::BOTH {
        let pods: Vec<_> = (0..2)
            .map(|n| Endpoint::ready(&format!("chat-{n}"), lab.replicas[n].addr(family)))
            .collect();
        api.apply(slice(name, &format!("{name}-{family:?}").to_lowercase(), REPLICA_PORT, &pods));
    }
}

#[test]
fn a_service_gets_its_addresses_from_the_pool_and_chats_meet_there() -> Result<()> {
    let lab = Lab::builder("kube-pool").replicas(2).build()?;
    let _servers = ChatServer::start_all(&lab, REPLICA_PORT)?;
    let api = ApiServer::start(lab.node.listen("127.0.0.1:0".parse()?)?)?;
    api.apply(node(NODE, &lab.node_addrs()));
    apply(&api, &lab, "chat");
    // Two addresses of IPv4, one of IPv6.
    let pool = |family, n| lab.vip_n(family, n).to_string();
    let (first, second) = (pool(Family::V4, 1), pool(Family::V4, 2));
    let six = pool(Family::V6, 1);
    let file = format!(
        "interfaces = [\"eth0\"]\n[kubernetes]\naddress_pools = [\"{first}-{second}\", \"{six}\"]\n"
    );
    let kubeconfig = api.kubeconfig(lab.dir())?;
    let arguments: [&OsStr; 7] = [
        "--kubernetes".as_ref(),
        "--kubeconfig".as_ref(),
        kubeconfig.as_ref(),
        "--node-name".as_ref(),
        NODE.as_ref(),
        "--namespace".as_ref(),
        "roost-system".as_ref(),
    ];
    let mut roost = Roost::start_with(&lab, Some(&file), &arguments)?;
    let clients = Clients::new(&lab.client)?;

    // Three tabs of a chat meet, over both families, on addresses that nobody has written down.
    let vips =
        [&first, &six].map(|vip| SocketAddr::new(vip.parse().expect("an address"), VIP_PORT));
    let open = |at, chat: &str| {
        try_until(LIMIT, &format!("a tab at {at}"), || Ok(clients.tab(at, chat).ok()))
    };
    let tabs = [open(vips[0], "lobby")?, open(vips[1], "lobby")?, open(vips[0], "lobby")?];
    let homes: Vec<_> = tabs.iter().map(|tab| tab.replica().to_owned()).collect();
    assert!(homes.iter().all(|home| *home == homes[0]), "{homes:?}");
    let ingress = |name: &str| {
        let service = api.get("services", "default", name).unwrap_or_default();
        service["status"]["loadBalancer"]["ingress"].clone()
    };
    let right = json!([{"ip": first, "ipMode": "VIP"}, {"ip": six, "ipMode": "VIP"}]);
    assert_eq!(ingress("chat"), right);

    // Another one gets what is left.
    apply(&api, &lab, "late");
    try_until(LIMIT, "the second address", || {
        Ok((ingress("late") == json!([{"ip": second, "ipMode": "VIP"}])).then_some(()))
    })?;
    try_until(LIMIT, "an Event that IPv6 has run out", || {
        let all = api.all("events");
        let about = |event: &&serde_json::Value| event["regarding"]["name"] == "late";
        Ok(all.iter().filter(about).any(|event| event["reason"] == "NoAddress").then_some(()))
    })?;
    open(SocketAddr::new(second.parse()?, VIP_PORT), "lobby")?;

    // The file has more now. Then the daemon ends, and gives the Lease back.
    let third = pool(Family::V6, 2);
    roost.write_config(&file.replace(&format!("\"{six}\""), &format!("\"{six}-{third}\"")))?;
    try_until(LIMIT, "an address of the new pool", || {
        Ok(ingress("late").to_string().contains(&third).then_some(()))
    })?;
    roost.process().terminate(LIMIT)?;
    let lease = api.get("leases", "roost-system", "roost").context("a Lease")?;
    assert!(lease["spec"]["holderIdentity"].is_null(), "{lease}");
    // Chats go on without it, and the next one gives nobody anything else.
    open(vips[1], "lobby")?;
    roost.restart()?;
    roost.process().wait_line(LIMIT, "leads: writes addresses")?;
    assert_eq!(ingress("chat"), right);
    try_until(LIMIT, "the address of the new pool to be served", || {
        Ok(roost.json(&["services"])?.to_string().contains(&third).then_some(()))
    })
}
