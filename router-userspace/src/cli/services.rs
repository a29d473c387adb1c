//! `roost services` and `roost replicas`.

use router_ebpf::maps::REPLICA_READY;

use super::{
    output::Report,
    table::{Cell, Table},
};
use crate::{
    maps::names,
    view::services::{ReplicasReport, ServiceLine, ServicesReport},
};

impl Report for ServicesReport {
    fn text(&self) -> String {
        table(&self.0)
    }
}

/// The services as a table.
pub fn table(services: &[ServiceLine]) -> String {
    if services.is_empty() {
        return "no services\n".to_owned();
    }
    let columns = [
        "service",
        "address",
        ">port",
        "from",
        "policy",
        "key",
        "without key",
        ">width",
        ">usable",
        ">replicas",
        ">flows",
        ">chats",
        ">table",
        "digest",
    ];
    let mut table = Table::new(columns);
    for line in services {
        table.row([
            line.service.as_str().into(),
            line.addresses.join(",").into(),
            line.port.into(),
            from(line).into(),
            line.policy.as_str().into(),
            line.key_sources.join(", ").into(),
            line.on_missing_key.as_str().into(),
            line.width.into(),
            line.usable.into(),
            line.replicas.into(),
            line.flows.into(),
            line.chats.into(),
            line.generation.into(),
            line.digest.as_str().into(),
        ]);
    }
    table.to_string()
}

/// From where clients may connect, in short.
fn from(line: &ServiceLine) -> String {
    match line.allowed_sources.as_deref() {
        None => "anywhere".to_owned(),
        Some([]) => "nowhere".to_owned(),
        Some([one]) => one.clone(),
        Some([first, rest @ ..]) => format!("{first} +{}", rest.len()),
    }
}

impl Report for ReplicasReport {
    fn text(&self) -> String {
        if self.0.is_empty() {
            return "no replicas\n".to_owned();
        }
        let columns = [
            "service", "replica", "#", "address", ">port", "state", ">weight", ">slots", ">chats",
            ">flows",
        ];
        let ready = names::replica_state(REPLICA_READY);
        let muted = anstyle::Style::new().dimmed();
        let mut table = Table::new(columns);
        for line in &self.0 {
            let style = if line.state == ready { anstyle::Style::new() } else { muted };
            table.row([
                line.service.as_str().into(),
                line.replica.as_str().into(),
                line.number.into(),
                line.addresses.join(",").into(),
                line.port.into(),
                Cell::styled(&line.state, style),
                line.weight.into(),
                line.slots.into(),
                line.chats.into(),
                line.flows.into(),
            ]);
        }
        table.to_string()
    }
}
