//! The counters of the data path, and the maps that can fill up.

use router_ebpf::{
    schema::Map,
    verdict::{Action, Counter},
};

use super::{Facts, Family};

/// The maps that can fill up and refuse what comes then. Those that forget the oldest instead are not among them:
/// their entries are counted by nobody.
pub(super) const BOUNDED: [Map; 7] = [
    Map::Vips,
    Map::SourceRanges,
    Map::Services,
    Map::Replicas,
    Map::Flows,
    Map::Chats,
    Map::ChatCookies,
];

pub(super) fn families(facts: &Facts<'_>) -> Vec<Family> {
    let mut all = vec![packets(facts)];
    all.extend(maps(facts));
    all.extend(Counter::ALL.iter().enumerate().map(|(index, counter)| {
        let name = format!("datapath_{}", counter.name());
        let mut family = Family::counter(name, counter.help(), &[]);
        if let Some(count) = facts.counters.get(index) {
            family.add([], *count);
        }
        family
    }));
    all
}

/// The verdicts once more, in a form whose sums mean something.
fn packets(facts: &Facts<'_>) -> Family {
    let mut family = Family::counter(
        "packets",
        "Packets by hook, by what was done with them, and by verdict: each counts once.",
        &["hook", "action", "verdict"],
    );
    for (counter, count) in Counter::ALL.iter().zip(facts.counters) {
        let Some(action) = counter.action() else { continue };
        let hook = if counter.is_ingress() { "ingress" } else { "egress" };
        family.add([hook, word(action), counter.name()], *count);
    }
    family
}

fn word(action: Action) -> &'static str {
    match action {
        Action::Pass => "pass",
        Action::Drop => "drop",
        Action::Reply => "reply",
        Action::Turn => "turn",
    }
}

fn maps(facts: &Facts<'_>) -> [Family; 2] {
    let mut entries = Family::gauge(
        "map_entries",
        "Entries of a map: of FLOWS and CHATS at the last round, of CHAT_COOKIES half a minute ago at the most.",
        &["map"],
    );
    let maps = &facts.state.maps;
    if maps.is_filled {
        entries.add([Map::Vips.pin()], maps.vips as u64);
        entries.add([Map::SourceRanges.pin()], maps.ranges as u64);
        entries.add([Map::Services.pin()], maps.names.services.len() as u64);
        entries.add([Map::Replicas.pin()], maps.names.replicas.len() as u64);
    }
    let rounds = &facts.state.rounds;
    if rounds.done_at.is_some() {
        let found = rounds.load.entries;
        entries.add([Map::Flows.pin()], found.flows as u64);
        entries.add([Map::Chats.pin()], found.chats as u64);
        entries.add([Map::ChatCookies.pin()], found.chat_cookies as u64);
    }
    let mut room = Family::gauge("map_max_entries", "Entries that a map has room for.", &["map"]);
    for one in facts.rooms {
        room.add([one.map.pin()], one.max_entries.into());
    }
    [entries, room]
}
