//! From EndpointSlices to replicas.

use std::{cmp::Reverse, collections::BTreeMap, net::IpAddr};

use crate::plan::config::{self, Replica, State};

use super::{
    annotations::Identity,
    fitting::fitting,
    slices::{Endpoint, Slice, Target},
};

/// The replicas of one port of a Service, by name, and what is wrong with the slices.
pub(super) fn replicas<'a>(
    slices: impl IntoIterator<Item = &'a Slice>,
    port: &str,
    identity: Identity,
) -> (Vec<Replica>, Vec<String>) {
    let mut problems = Vec::new();
    let mut pods: BTreeMap<String, Pod> = BTreeMap::new();
    for slice in slices {
        let Some((_, number)) = slice.ports.iter().find(|(name, _)| name == port) else { continue };
        for endpoint in &slice.endpoints {
            if let Err(e) = config::address(&endpoint.addr.to_string()) {
                problems.push(format!("an endpoint: {e}"));
                continue;
            }
            let target = endpoint.target.as_ref();
            let uid = target.map(|target| target.uid.clone()).filter(|uid| !uid.is_empty());
            let pod = pods.entry(uid.unwrap_or_else(|| endpoint.addr.to_string())).or_default();
            pod.target = pod.target.take().or_else(|| target.cloned());
            pod.see(endpoint, *number);
        }
    }
    let mut all: Vec<_> = pods.into_values().map(|pod| pod.into_replica(identity)).collect();
    // Of two that cannot both be right, the one in the better state: the other is a leftover of a
    // slice that is not updated yet.
    all.sort_by_key(|(replica, _)| (Reverse(rank(replica.state)), replica.name.clone()));
    let mut kept: Vec<Replica> = Vec::new();
    for (replica, problem) in all {
        let clashes = |other: &Replica| {
            other.name == replica.name
                || (other.port == replica.port
                    && other.addresses.iter().any(|addr| replica.addresses.contains(addr)))
        };
        if !kept.iter().any(clashes) {
            kept.push(replica);
            problems.extend(problem);
        }
    }
    kept.sort_by(|a, b| a.name.cmp(&b.name));
    problems.sort();
    problems.dedup();
    (kept, problems)
}

fn rank(state: State) -> u8 {
    match state {
        State::Ready => 2,
        State::Draining => 1,
        State::Unready => 0,
    }
}

/// What the slices say about one pod.
#[derive(Default)]
struct Pod {
    target: Option<Target>,
    /// Of IPv4 and of IPv6: each family has slices of its own.
    families: [Option<Seen>; 2],
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Seen {
    addr: IpAddr,
    port: u16,
    ready: bool,
    serving: bool,
    terminating: bool,
}

impl Pod {
    fn see(&mut self, endpoint: &Endpoint, port: u16) {
        let &Endpoint { addr, ready, serving, terminating, .. } = endpoint;
        let new = Seen { addr, port, ready, serving, terminating };
        let seen = &mut self.families[usize::from(addr.is_ipv6())];
        // While it moves from one slice to another it is in both. A pod that terminates never stops
        // doing so: who says that knows more.
        let better = |old: Seen| {
            (new.terminating, new.ready, new.serving, new.addr, new.port)
                > (old.terminating, old.ready, old.serving, old.addr, old.port)
        };
        if seen.is_none_or(better) {
            *seen = Some(new);
        }
    }

    fn into_replica(self, identity: Identity) -> (Replica, Option<String>) {
        let mut seen: Vec<Seen> = self.families.into_iter().flatten().collect();
        let port = seen[0].port;
        let mut problem = None;
        if let Some(other) = seen.iter().find(|other| other.port != port) {
            problem = Some(format!(
                "the endpoint {} has port {port}, its other address {} port {}; the second is left \
                 out",
                seen[0].addr, other.addr, other.port
            ));
            seen.truncate(1);
        }
        let terminating = seen.iter().any(|seen| seen.terminating);
        let state = if seen.iter().all(|seen| seen.ready) {
            State::Ready
        } else if terminating && seen.iter().all(|seen| seen.serving) {
            State::Draining
        } else {
            State::Unready
        };
        let name = match &self.target {
            Some(target) if target.is_pod && identity.is_name(&target.name) => target.name.clone(),
            Some(target) if target.is_pod && !target.uid.is_empty() => target.uid.clone(),
            _ => seen[0].addr.to_string(),
        };
        let replica = Replica {
            name: fitting(&name),
            addresses: seen.iter().map(|seen| seen.addr).collect(),
            port,
            weight: 1,
            state,
        };
        (replica, problem)
    }
}

impl Identity {
    fn is_name(self, pod: &str) -> bool {
        match self {
            Self::Auto => has_ordinal(pod),
            Self::Name => true,
            Self::Uid => false,
        }
    }
}

/// Whether a pod is called like a StatefulSet's: `chat-0`. Names that Kubernetes generates end in
/// five random characters, so an ordinal of up to four digits is never one of those. Who owns a pod
/// is not in the slices, and watching all pods of a cluster on every node, or only being allowed to,
/// is a high price for it. What else gives out such names (other operators, Pods written by hand)
/// gives them to successors, too, which is what counts.
fn has_ordinal(pod: &str) -> bool {
    let Some((_, ordinal)) = pod.rsplit_once('-') else { return false };
    (1..=4).contains(&ordinal.len())
        && ordinal.bytes().all(|b| b.is_ascii_digit())
        && (ordinal == "0" || !ordinal.starts_with('0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinals_are_told_from_generated_names() {
        for name in ["chat-0", "chat-12", "a-b-9999"] {
            assert!(has_ordinal(name), "{name}");
        }
        for name in ["chat", "chat-", "chat-01", "chat-7d4b9c-24567", "chat-x2zvb", "chat-1a"] {
            assert!(!has_ordinal(name), "{name}");
        }
    }
}
