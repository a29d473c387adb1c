//! `requests`: requests for many chats on connections that are used again, by clients, servers and proxies of others.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use clap::Args;

use super::report::Report;
use super::step;
use crate::lab::{Config, Family, Lab, Proxy, Roost, UPLINK, VIP_PORT, Way};
use crate::rooms::{Between, Client, Outcome, Rooms, Size, Transports, haproxy_instead};

/// How much is to be done.
#[derive(Args, Debug, Clone)]
pub struct Options {
    /// Open N chats in each row
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=60))]
    pub chats: u64,
    /// Open N tabs of each chat; pools make twice as many requests for it
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=10))]
    pub tabs: u64,
    /// Let the files of the last row have N MB
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub files: usize,
    /// Try these alone: Roost with an `on_reuse`, or haproxy in its place
    #[arg(long, value_name = "NAME", value_delimiter = ',', value_parser = FRONTS)]
    pub fronts: Vec<String>,
    /// Try these rows alone
    #[arg(long, value_name = "NAME", value_delimiter = ',', value_parser = ROWS.map(|row| row.name))]
    pub rows: Vec<String>,
}

/// Who is in front of the replicas.
const FRONTS: [&str; 4] = ["rebind", "reset", "stay", "haproxy"];
/// The one whose numbers have to be met.
const GOOD: &str = "rebind";

struct Row {
    name: &'static str,
    words: &'static str,
    client: Client,
    between: Between,
    net: Net,
}

/// What the clients' network is like.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Net {
    Usual,
    Six,
    /// So many of a hundred packets are lost, in each direction.
    Loss(u8),
    /// So many of a hundred segments of clients are overtaken.
    Reordering(u8),
}

const fn row(name: &'static str, words: &'static str, client: Client, between: Between) -> Row {
    Row { name, words, client, between, net: Net::Usual }
}

const fn over(name: &'static str, words: &'static str, client: Client, net: Net) -> Row {
    Row { name, words, client, between: Between::Nobody, net }
}

const fn tabs(transports: Transports, shared: bool) -> Client {
    Client::Tabs { transports, shared, again: false }
}

/// The size is the one that is asked for.
const FILES: Client = Client::Files(0);

const ROWS: [Row; 18] = {
    use Between::{Haproxy, Nginx, Nobody};
    use Client::{Curl, Go, Left, Python};
    use Transports::{Polling, Usual, WebSocket};
    let again = Client::Tabs { transports: Usual, shared: true, again: true };
    [
        row("websocket", "Socket.IO by WebSocket alone", tabs(WebSocket, false), Nobody),
        row(
            "alone",
            "Socket.IO's usual transports, a connection for each request",
            tabs(Usual, false),
            Nobody,
        ),
        row("shared", "the same, connections shared", tabs(Usual, true), Nobody),
        row("again", "the same, tabs that connect again", again, Nobody),
        row("polling", "by polling alone, connections shared", tabs(Polling, true), Nobody),
        row("nginx", "usual transports, nginx with keepalive between", tabs(Usual, false), Nginx),
        row("nginx_polling", "by polling alone, nginx between", tabs(Polling, false), Nginx),
        row(
            "haproxy",
            "usual transports, HAProxy with http-reuse always between",
            tabs(Usual, false),
            Haproxy,
        ),
        row("go", "the pool of Go's net/http", Go, Nobody),
        row("go_nginx", "the same, nginx between", Go, Nginx),
        row("go_haproxy", "the same, HAProxy between", Go, Haproxy),
        over("go_six", "the same over IPv6", Go, Net::Six),
        over("go_loss", "the same, 1 % of all packets lost", Go, Net::Loss(1)),
        over("go_order", "the same, 20 % of segments overtaken", Go, Net::Reordering(20)),
        row("python", "the pool of Python's requests", Python, Nobody),
        row("left", "the same, servers end kept connections", Left, Nobody),
        row("curl", "curl with --next", Curl, Nobody),
        row("files", "files down and up by that of Python", FILES, Nobody),
    ]
};

/// Files are large: a few chats are enough.
const FILE_CHATS: usize = 5;

/// Runs it.
pub(super) fn run(options: &Options) -> Result<Report> {
    let lab = Lab::builder("requests").replicas(3).build()?;
    let rooms = Rooms::start(&lab)?;
    let is_asked_for =
        |list: &[String], name: &str| list.is_empty() || list.iter().any(|n| n == name);
    let fronts: Vec<&str> =
        FRONTS.into_iter().filter(|name| is_asked_for(&options.fronts, name)).collect();
    let rows: Vec<&Row> = ROWS.iter().filter(|row| is_asked_for(&options.rows, row.name)).collect();
    let mut found: Vec<Vec<Outcome>> = Vec::new();
    for name in &fronts {
        let front = Front::start(&lab, name)?;
        let visit = |row: &&Row| {
            step(&format!("{name}: {}", row.words));
            visit(&lab, &rooms, &front, name, row, options)
        };
        found.push(rows.iter().map(visit).collect::<Result<_>>()?);
    }
    let mut report = Report::new("requests");
    report.part("chats whole; tabs that hear all of their chat, or requests answered; and what was executed exactly once");
    let cells = |cells: Vec<String>| cells.concat();
    let heads = fronts.iter().map(|name| format!("{name:>14}")).collect();
    report.text(format!("{:>WIDTH$}{:>14}{}", "", "of", cells(heads)));
    for (n, row) in rows.iter().enumerate() {
        let all = &found[0][n];
        let of = cell(
            all.chats,
            all.told.clients,
            found.iter().map(|of| of[n].told.said.len()).max().unwrap_or(0),
        );
        let values = found.iter().map(|of| cell(of[n].whole, of[n].told.reached, of[n].once));
        report.text(format!("{:<WIDTH$}{of}{}", row.words, cells(values.collect())));
        for (name, of) in fronts.iter().zip(&found) {
            add(&mut report, name, row, &of[n]);
        }
    }
    Ok(report)
}

/// How wide the words of a row are.
const WIDTH: usize = 60;

fn cell(whole: usize, reached: usize, once: usize) -> String {
    format!("{whole:>6}{reached:>4}{once:>4}")
}

impl Net {
    fn set(self, lab: &Lab, on: bool) -> Result<()> {
        let percent = |percent| if on { percent } else { 0 };
        match self {
            Self::Usual | Self::Six => Ok(()),
            Self::Loss(one) => [Way::In, Way::Out]
                .into_iter()
                .try_for_each(|way| lab.client.set_loss(UPLINK, way, percent(one))),
            Self::Reordering(one) => lab.client.set_reordering(UPLINK, percent(one)),
        }
    }
}

/// One of them, started.
struct Front {
    /// Where it accepts, by family.
    at: [SocketAddr; 2],
    roost: Option<Roost>,
    _proxy: Option<Proxy>,
}

impl Front {
    fn start(lab: &Lab, name: &str) -> Result<Self> {
        if name == "haproxy" {
            let (at, proxy) = haproxy_instead(lab)?;
            return Ok(Self { at, roost: None, _proxy: Some(proxy) });
        }
        let config = Config::new(lab).with(&format!("on_reuse = {name:?}"));
        let roost = Roost::start(lab, &config.to_string())?;
        let at = Family::BOTH.map(|family| (lab.vip(family), VIP_PORT).into());
        Ok(Self { at, roost: Some(roost), _proxy: None })
    }

    /// What the data path has counted, or nothing if it is not Roost's.
    fn counters(&self) -> Result<Vec<(String, u64)>> {
        let Some(roost) = &self.roost else { return Ok(Vec::new()) };
        let all = roost.json(&["counters", "--all"])?;
        let pair = |line: &serde_json::Value| {
            Some((line["counter"].as_str()?.to_owned(), line["packets"].as_u64()?))
        };
        Ok(all.as_array().into_iter().flatten().filter_map(pair).collect())
    }
}

fn visit(
    lab: &Lab,
    rooms: &Rooms,
    front: &Front,
    name: &str,
    row: &Row,
    options: &Options,
) -> Result<Outcome> {
    let [four, six] = front.at;
    let (at, _proxy) = row.between.start(lab, if row.net == Net::Six { six } else { four })?;
    let (chats, tabs) = (options.chats as usize, options.tabs as usize);
    let (client, chats) = match row.client {
        FILES => (Client::Files(options.files), chats.min(FILE_CHATS)),
        client => (client, chats),
    };
    let before = front.counters()?;
    let prefix = format!("{name}-{}", row.name.replace('_', "-"));
    row.net.set(lab, true)?;
    let outcome = rooms.visit(lab, client, Size { chats, tabs }, at, &prefix)?;
    row.net.set(lab, false)?;
    for (error, count) in &outcome.told.errors {
        anstream::eprintln!("   {count} x {error}");
    }
    let telling = ["rebound", "stayed", "doubt", "affinity", "ended", "reset", "drop"];
    for ((name, before), (_, after)) in before.iter().zip(front.counters()?) {
        if after > *before && telling.iter().any(|word| name.starts_with(word)) {
            anstream::eprintln!("   {name}: {}", after - before);
        }
    }
    // All on one would be whole, too; a connection that stays takes them all to one.
    let spread = name == "stay" || chats < 8 || outcome.replicas > 1;
    ensure!(spread, "{}: all chats are on one replica", row.name);
    Ok(outcome)
}

fn add(report: &mut Report, front: &str, row: &Row, outcome: &Outcome) {
    let told = &outcome.told;
    let key = |what: &str| format!("{front}_{}_{what}", row.name);
    for (what, value, all) in [
        ("whole", outcome.whole, outcome.chats),
        ("reached", told.reached, told.clients),
        ("once", outcome.once, told.said.len()),
    ] {
        // Who asks while a server ends the connection may be told so, and is then not served.
        let may_fail = row.client == Client::Left && what != "whole";
        match front {
            GOOD if !may_fail => report.at_least(key(what), value as f64, all as f64, ""),
            _ => report.tell(key(what), value as f64, ""),
        }
    }
    for (what, value) in [("twice", outcome.twice), ("lost", told.lost)] {
        // That nothing is done twice holds with all that Roost may do.
        match (front, what) {
            (GOOD, _) | ("stay" | "reset", "twice") => {
                report.at_most(key(what), value as f64, 0.0, "");
            }
            _ => report.tell(key(what), value as f64, ""),
        }
    }
    report.tell(key("connections"), told.connections as f64, "");
}
