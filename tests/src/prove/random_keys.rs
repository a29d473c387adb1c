//! `random-keys`: one source claims chats that nobody else is in, by connections that stay, beside chats of others. It gets its
//! share and no more, and they notice nothing.

use std::collections::BTreeMap;
use std::net::Ipv6Addr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;
use roost_programs::IP;

use super::report::Report;
use super::visit::{End, Held, Outcome, Plan, Servers, Visitors, allow_files};
use super::{counter, listed, step, tell_errors};
use crate::lab::{Config, Family, Lab, REPLICA_PORT, Roost, UPLINK, VIP_PORT, run_in, try_until};

/// The address of who claims, and of the honest one; those before it are others'.
const ONE: u8 = 23;

/// How many claims more than its share may be on their way when it is reached.
const ON_THEIR_WAY: u64 = 64;

/// How much is to be done.
#[derive(Args, Debug, Clone)]
pub struct Options {
    /// Make room for N chats
    #[arg(long, value_name = "N", default_value_t = 20_000)]
    pub chats: u64,
    /// Claim N random keys a second
    #[arg(long, value_name = "N", default_value_t = 2000, value_parser = clap::value_parser!(u32).range(1..))]
    pub rate: u32,
    /// Open N chats of others before, and as many meanwhile
    #[arg(long, value_name = "N", default_value_t = 200)]
    pub others: u64,
    /// Hold N connections from one honest address; 0: not at all
    #[arg(long, value_name = "N", default_value_t = 30_000, value_parser = clap::value_parser!(u64).range(..=60_000))]
    pub honest: u64,
    /// Hold a connection from each of N prefixes of a stranger, a third more than are anybody's; 0: not at all
    #[arg(long, value_name = "N", default_value_t = 1 << 16, value_parser = clap::value_parser!(u64).range(..=1 << 16))]
    pub prefixes: u64,
}

/// Runs it.
pub(super) fn run(options: &Options) -> Result<Report> {
    allow_files(4 * options.others)?;
    let lab = Lab::builder("random-keys").replicas(6).build()?;
    let _servers = Servers::start(&lab, REPLICA_PORT)?;
    let mut report = Report::new("random-keys");
    claim(&lab, options, &mut report)?;
    if options.honest > 0 {
        honest(&lab, options.honest, &mut report)?;
    }
    if options.prefixes > 0 {
        prefixes(&lab, options, &mut report)?;
    }
    Ok(report)
}

/// One address claims, the replicas become more, and others come back to their chats.
fn claim(lab: &Lab, options: &Options, report: &mut Report) -> Result<()> {
    let top = format!("[limits]\nchats = {}\n", options.chats);
    let config = Config { top, ..Config::new(lab) };
    let roost = Roost::start(lab, &config.clone().only(lab, &[1, 2, 3]).to_string())?;
    let vip = (lab.vip(Family::V4), VIP_PORT).into();
    let (others, claimer) =
        (Visitors::new(lab, vip, 0..ONE), Visitors::new(lab, vip, ONE..ONE + 1));
    // Half as many again as there is room for.
    let (all, limit) = (options.chats + options.chats / 2, Duration::from_secs(300));
    let plan = Plan {
        pace: Some(options.rate),
        end: End::Forget,
        chat: Arc::new(|n| format!("random-{n}")),
        ..Plan::new(u64::MAX, limit)
    };
    let open = |when: &'static str| {
        let plan = Plan {
            end: End::Hold,
            chat: Arc::new(move |n| format!("{when}-{n}")),
            ..Plan::new(options.others, Duration::from_secs(60))
        };
        let outcome = others.visit(&plan)?;
        tell_errors(&roost, &outcome)?;
        Ok::<_, anyhow::Error>(outcome)
    };

    step(&format!("room for {} chats, {} of others", options.chats, options.others));
    let mut first = vec![("before", open("before")?)];
    step(&format!("one address claims {} random keys a second", options.rate));
    lab.client.set_mute(UPLINK, true)?;
    let (claimed, second) = thread::scope(|scope| {
        let claiming = scope.spawn(|| claimer.visit(&plan));
        let mut work = || {
            try_until(limit, &format!("{all} claims"), || {
                Ok((claimer.begun() >= all).then_some(()))
            })?;
            step(&format!(
                "{} other chats meanwhile, then six replicas in place of three",
                options.others
            ));
            first.push(("meanwhile", open("meanwhile")?));
            roost.write_config(&config.to_string())?;
            wait_for_replicas(&roost, 6)?;
            step("a second tab of each chat");
            Ok::<_, anyhow::Error>([("before", open("before")?), ("meanwhile", open("meanwhile")?)])
        };
        let second = work();
        plan.stop.store(true, Ordering::Relaxed);
        let claimed = claiming.join().map_err(|_| anyhow::anyhow!("who claims has panicked"))?;
        Ok::<_, anyhow::Error>((claimed?, second?))
    })?;

    report.part(format!("one address claims random keys, room for {} chats", options.chats));
    lab.client.set_mute(UPLINK, false)?;
    // Half of the table is anybody's.
    let share = options.chats / 2 + ON_THEIR_WAY;
    report.at_most("claimed", claimed.answered as f64, share as f64, "keys claimed");
    report.tell("claimed_per_second", claimed.rate().round(), "keys claimed a second");
    let more = claimed.begun().saturating_sub(share);
    let refused = claimed.refused as f64;
    report.at_least("claims_refused", refused, more.max(1) as f64, "claims refused");
    report.at_most("claims_failed", claimed.failed as f64, 0.0, "of them failed otherwise");
    let counted = counter(&roost, "reset_share")? + counter(&roost, "reset_share_late")?;
    report.at_least("claims_counted", counted as f64, refused, "refused because of a share");
    let sources = counter(&roost, "over_source_chats")?;
    let words = "of them for their source's chats (`over_source_chats`)";
    report.at_least("over_source_chats", sources as f64, counted as f64, words);
    let full = counter(&roost, "chats_full")?;
    let words = "connections of chats that have no entry";
    report.at_most("chats_full", full as f64, 0.0, words);
    for ((when, first), (_, second)) in first.iter().zip(&second) {
        let missing = 2 * options.others - first.answered - second.answered;
        let split = split(&first.held, &second.held);
        let words = format!("chats split that others have opened {when}");
        report.at_most(format!("split_{when}"), split as f64, 0.0, words);
        let words = format!("of their connections not answered, {when}");
        report.at_most(format!("missing_{when}"), missing as f64, 0.0, words);
    }
    Ok(())
}

/// Chats of which the two tabs are on two replicas.
fn split(first: &[Held], second: &[Held]) -> usize {
    let homes: BTreeMap<_, _> = first.iter().map(|tab| (tab.n, tab.replica)).collect();
    second.iter().filter(|tab| homes.get(&tab.n).is_some_and(|home| *home != tab.replica)).count()
}

fn wait_for_replicas(roost: &Roost, count: usize) -> Result<()> {
    try_until(Duration::from_secs(60), &format!("{count} replicas"), || {
        let services = roost.json(&["services"])?;
        let services = services.as_array().context("`roost services` prints no array")?;
        ensure!(!services.is_empty(), "`roost services` lists none");
        Ok(services.iter().all(|service| service["usable"] == count).then_some(()))
    })
}

/// As behind a NAT or an ingress controller: many connections that stay, from one address.
fn honest(lab: &Lab, connections: u64, report: &mut Report) -> Result<()> {
    step(&format!("default limits, {connections} connections from one honest address"));
    let roost = Roost::start(lab, &Config::new(lab).to_string())?;
    let vip = (lab.vip(Family::V4), VIP_PORT).into();
    // What the client sends for connections that it has forgotten.
    lab.client.set_mute(UPLINK, true)?;
    let visitors = Visitors::new(lab, vip, ONE..ONE + 1);
    let plan = Plan {
        end: End::Forget,
        chat: Arc::new(|n| format!("honest-{}", n / 3)),
        ..Plan::new(connections, Duration::from_secs(120))
    };
    let outcome: Outcome = visitors.visit(&plan)?;
    tell_errors(&roost, &outcome)?;
    lab.client.set_mute(UPLINK, false)?;
    report.part("one honest address, default limits");
    let answered = outcome.answered as f64;
    report.at_least("honest_opened", answered, connections as f64, "connections at the same time");
    let live = listed(&roost, "flows")?;
    report.at_least(
        "honest_flows",
        live as f64,
        connections as f64,
        "flows that `roost flows` lists",
    );
    report.at_most("honest_refused", outcome.refused as f64, 0.0, "refused");
    report.at_most("honest_failed", outcome.failed as f64, 0.0, "failed otherwise");
    Ok(())
}

/// A stranger has a whole /48, and a connection from each /64 of it: more than half of the table, and no source has more than any other.
fn prefixes(lab: &Lab, options: &Options, report: &mut Report) -> Result<()> {
    let (room, others) = (options.prefixes * 3 / 2, options.others);
    step(&format!("room for {room} connections, {} prefixes of a stranger", options.prefixes));
    let top = format!("[limits]\nflows = {room}\n");
    let roost = Roost::start(lab, &Config { top, ..Config::new(lab) }.to_string())?;
    let vip = (lab.vip(Family::V6), VIP_PORT).into();
    // All addresses of the prefix are the client's.
    run_in(&lab.client, IP, &["route", "add", "local", "2001:db8:7374::/47", "dev", "lo"])?;
    lab.client.sysctl("net.ipv6.ip_nonlocal_bind", "1")?;
    lab.client.set_mute(UPLINK, true)?;
    let net = |n| Ipv6Addr::new(0x2001, 0xdb8, 0x7374, n, 0, 0, 0, 1).into();
    let stranger = Visitors::from(lab, vip, (0..options.prefixes).map(|n| net(n as u16)).collect());
    let one = |net| Visitors::from(lab, vip, vec![net]);
    let other = one(lab.client_addr_n(Family::V6, ONE));
    let greedy = one(Ipv6Addr::new(0x2001, 0xdb8, 0x7375, 0, 0, 0, 0, 1).into());
    let hold = |visitors: &Visitors<'_>, visits, whose: &'static str| {
        let chat = Arc::new(move |n| format!("{whose}-{}", n / 3));
        let plan = Plan { end: End::Forget, chat, ..Plan::new(visits, Duration::from_secs(240)) };
        let outcome = visitors.visit(&plan)?;
        tell_errors(&roost, &outcome)?;
        Ok::<_, anyhow::Error>(outcome)
    };
    let held = hold(&stranger, options.prefixes, "stranger")?;
    // What is left is a third of the room, and the half of that is a share.
    let share = options.prefixes / 4;
    step(&format!("one address more that takes what it can: {share} connections"));
    let greedy = hold(&greedy, share + 2 * ON_THEIR_WAY, "greedy")?;
    step(&format!("{others} connections of one other address"));
    let outcome = hold(&other, others, "other")?;
    lab.client.set_mute(UPLINK, false)?;
    report
        .part(format!("{} prefixes of a stranger, room for {room} connections", options.prefixes));
    let (answered, wanted) = (held.answered as f64, options.prefixes as f64);
    report.at_least("prefixes_held", answered, wanted, "connections, each of its own prefix");
    report.tell("prefixes_per_second", held.rate().round(), "of them a second");
    let missing = (others - outcome.answered) as f64;
    report.at_most("prefixes_missing", missing, 0.0, "connections of another address not answered");
    report.at_most("prefixes_refused", held.refused as f64, 0.0, "of the prefixes' refused");
    let most = (share + ON_THEIR_WAY) as f64;
    let words = "connections of one address that takes what it can";
    report.at_most("greedy_held", greedy.answered as f64, most, words);
    let refused = counter(&roost, "reset_share")? + counter(&roost, "reset_share_late")?;
    let words = "connections refused for a share, all of them that address's";
    report.at_least("greedy_refused", greedy.refused as f64, refused.max(1) as f64, words);
    let maps = roost.json(&["maps", "list"])?;
    let shares = maps.as_array().into_iter().flatten().find(|map| map["name"] == "SHARES");
    let shares = shares.context("`roost maps` lists no SHARES")?;
    let used = shares["entries"].as_u64().context("no number of its entries")?;
    report.tell("prefixes_counted", used as f64, "places of SHARES in use");
    Ok(())
}
