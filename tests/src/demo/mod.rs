//! The demo: tabs of several chats meet three replicas, first under the policy `spread`, then
//! under `home`, and a message in each chat shows which tabs it reaches. Or from inside: through a proxy in a pod,
//! from another pod and from outside, while replicas come and go.

mod guide;
mod inside;
mod round;
mod show;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde::Serialize;
use tokio::runtime::Runtime;

use crate::lab::{ChatServer, Config, Family, Lab, REPLICA_PORT, Roost, VIP_PORT, try_until};
use round::{Round, Seat};

/// What the demo is to show.
#[derive(Args, Debug, Clone)]
pub struct Options {
    /// Open N chats
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=200))]
    pub chats: u16,
    /// Open N tabs of each chat; with --inside, N through the proxy
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=20))]
    pub tabs: u16,
    /// Run N replicas
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=20))]
    pub replicas: u16,
    /// Come from inside: through a proxy in a pod that ends TLS, from another pod, and from outside, with 3, 6, 2
    /// and 4 replicas
    #[arg(long, conflicts_with = "replicas")]
    pub inside: bool,
    /// Let the tabs, or the proxy and those beside it, connect by IPv6
    #[arg(long)]
    pub ipv6: bool,
    /// Print the result as one JSON object on the last line of stdout
    #[arg(long)]
    pub json: bool,
    /// Leave everything running until Ctrl-C, and say what to try next
    #[arg(long)]
    pub keep: bool,
}

/// Both rounds in numbers: what `--json` prints.
#[derive(Serialize, Debug)]
struct Outcome {
    /// Under the policy `spread`.
    spread: Totals,
    /// Under the policy `home`.
    home: Totals,
}

/// One round in numbers.
#[derive(Serialize, Debug, Clone, Copy, PartialEq, Eq)]
struct Totals {
    /// Chats.
    chats: usize,
    /// Chats of which all tabs are on one replica and all have heard the message.
    whole: usize,
    /// Tabs of all chats.
    tabs: usize,
    /// Tabs that the message of their chat has reached.
    reached: usize,
}

impl Totals {
    /// Whether every chat is whole.
    fn all_whole(&self) -> bool {
        self.whole == self.chats && self.reached == self.tabs
    }
}

impl Options {
    fn family(&self) -> Family {
        if self.ipv6 { Family::V6 } else { Family::V4 }
    }
}

/// Runs the demo, and tells whether the policy `home` kept every chat whole. `park` is called at the end if everything
/// is to be left running.
pub fn run(options: &Options, park: impl FnOnce()) -> Result<bool> {
    if options.inside {
        return inside::run(options, park);
    }
    let family = options.family();
    let replicas = usize::from(options.replicas);
    step(&format!("network namespaces: a client, a node, {replicas} replicas"));
    let lab = Lab::builder("demo").replicas(replicas).host_link(options.keep).build()?;
    step(&format!("{replicas} chat servers"));
    let _servers = ChatServer::start_all(&lab, REPLICA_PORT)?;
    step("roost on the node, with policy = \"spread\"");
    let config = Config::new(&lab);
    let roost = Roost::start(&lab, &config.clone().policy("spread").to_string())?;

    let runtime = Runtime::new()?;
    let (address, chats) = ((lab.vip(family), VIP_PORT).into(), usize::from(options.chats));
    let seats: Vec<Seat> =
        (1..=options.tabs).map(|n| Seat::plain(format!("tab {n}"), &lab.client, address)).collect();
    step(&format!("{} tabs of each of {} chats", options.tabs, options.chats));
    let spread = runtime.block_on(Round::play(seats.clone(), chats))?;
    let spread_totals = spread.totals();
    show::print(&show::round("policy = \"spread\"", "any tab to any replica", &spread))?;
    runtime.block_on(spread.close())?;

    step("policy = \"home\" in the file; the daemon takes it over");
    roost.write_config(&config.to_string())?;
    wait_for_policy(&roost, "home")?;
    step("the same tabs again");
    let home = runtime.block_on(Round::play(seats, chats))?;
    let home_totals = home.totals();
    show::print(&show::round("policy = \"home\"", "all tabs of a chat to its home", &home))?;
    show::print(&guide::explanation(&roost, &home, guide::MAPS)?)?;

    let outcome = Outcome { spread: spread_totals, home: home_totals };
    show::print(&show::verdict(&[("spread", outcome.spread), ("home", outcome.home)]))?;
    if options.keep {
        show::note(&guide::next_steps(&lab, &roost)?);
    }
    if options.json {
        show::print(&format!("{}\n", serde_json::to_string(&outcome)?))?;
    }
    if options.keep {
        park();
    }
    runtime.block_on(home.close()).context("closing the tabs")?;
    Ok(outcome.home.all_whole())
}

fn wait_for_policy(roost: &Roost, policy: &str) -> Result<()> {
    let what = format!("the daemon to take over policy = \"{policy}\"");
    try_until(Duration::from_secs(60), &what, || {
        let services = roost.json(&["services"])?;
        let services = services.as_array().context("`roost services` prints no array")?;
        ensure!(!services.is_empty(), "`roost services` lists none");
        Ok(services.iter().all(|service| service["policy"] == policy).then_some(()))
    })
}

fn step(what: &str) {
    let style = anstyle::AnsiColor::Cyan.on_default();
    anstream::eprintln!("{style}=>{style:#} {what}");
}
