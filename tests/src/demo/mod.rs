//! The demo: tabs of several chats meet three replicas, first under the policy `spread`, then
//! under `home`, and a message in each chat shows which tabs it reaches.

mod guide;
mod round;
mod show;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde::Serialize;
use tokio::runtime::Runtime;

use crate::lab::{ChatServer, Config, Family, Lab, REPLICA_PORT, Roost, try_until};
pub use round::{Chat, Round, Tab};

/// What the demo is to show.
#[derive(Args, Debug, Clone)]
pub struct Options {
    /// Open N chats
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=200))]
    pub chats: u16,
    /// Open N tabs of each chat
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=20))]
    pub tabs: u16,
    /// Run N replicas
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=20))]
    pub replicas: u16,
    /// Let the tabs connect by IPv6
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
pub struct Outcome {
    /// Under the policy `spread`.
    pub spread: Totals,
    /// Under the policy `home`.
    pub home: Totals,
}

/// One round in numbers.
#[derive(Serialize, Debug, Clone, Copy, PartialEq, Eq)]
pub struct Totals {
    /// Chats.
    pub chats: usize,
    /// Chats of which all tabs are on one replica and all have heard the message.
    pub whole: usize,
    /// Tabs of all chats.
    pub tabs: usize,
    /// Tabs that the message of their chat has reached.
    pub reached: usize,
}

impl Totals {
    /// Whether every chat is whole.
    pub fn all_whole(&self) -> bool {
        self.whole == self.chats && self.reached == self.tabs
    }
}

/// Runs the demo. `park` is called at the end if everything is to be left running.
pub fn run(options: &Options, park: impl FnOnce()) -> Result<Outcome> {
    let family = if options.ipv6 { Family::V6 } else { Family::V4 };
    let replicas = usize::from(options.replicas);
    step(&format!("network namespaces: a client, a node, {replicas} replicas"));
    let lab = Lab::builder("demo").replicas(replicas).host_link(options.keep).build()?;
    step(&format!("{replicas} chat servers"));
    let _servers = ChatServer::start_all(&lab, REPLICA_PORT)?;
    step("roost on the node, with policy = \"spread\"");
    let config = Config::new(&lab);
    let roost = Roost::start(&lab, &config.clone().policy("spread").to_string())?;

    let runtime = Runtime::new()?;
    let address = (lab.vip(family), crate::lab::VIP_PORT).into();
    step(&format!("{} tabs of each of {} chats", options.tabs, options.chats));
    let spread = runtime.block_on(Round::play(&lab, address, options))?;
    let spread_totals = spread.totals();
    show::print(&show::round("spread", "any tab to any replica", &spread, replicas))?;
    runtime.block_on(spread.close())?;

    step("policy = \"home\" in the file; the daemon takes it over");
    roost.write_config(&config.to_string())?;
    wait_for_policy(&roost, "home")?;
    step("the same tabs again");
    let home = runtime.block_on(Round::play(&lab, address, options))?;
    let home_totals = home.totals();
    show::print(&show::round("home", "all tabs of a chat to its home", &home, replicas))?;
    show::print(&guide::explanation(&roost, &home)?)?;

    let outcome = Outcome { spread: spread_totals, home: home_totals };
    show::print(&show::verdict(&outcome))?;
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
    Ok(outcome)
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
