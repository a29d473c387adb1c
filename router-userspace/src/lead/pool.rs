//! Which Service gets which address of the pools. Pure.
//!
//! What is given is written nowhere but in the Services' status, so that is what is looked at, and
//! what a Service has is never taken from it.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    net::IpAddr,
};

use k8s_openapi::{
    api::core::v1::{LoadBalancerIngress, Node, Service},
    jiff::Timestamp,
};

use crate::{
    kube::{CLASS, ObjectKey, PREFIX, Problem, Reason},
    plan::{
        addr::Family,
        config::{AddressPool, Prefix},
    },
};

/// What matters here of a Service.
#[derive(Clone, Debug, PartialEq)]
pub struct Claimant {
    pub(super) key: ObjectKey,
    pub(super) uid: String,
    created: Option<Timestamp>,
    /// The families that it is to have an address of: those of `spec.ipFamilies`, if it is of
    /// Roost's class.
    families: Vec<Family>,
    /// Its `spec.ipFamilyPolicy` is `PreferDualStack`: one of them will do if there is but one.
    one_will_do: bool,
    /// Somebody else may give it an address, or it has another way.
    has_other_way: bool,
    /// `status.loadBalancer.ingress`, as it is.
    pub(super) ingress: Vec<LoadBalancerIngress>,
    /// What it has beside that.
    others: Vec<IpAddr>,
    /// Of its labels and annotations: a server that refuses it may take it with others.
    look: u64,
}

impl Claimant {
    /// Of a Service, whoever's it is.
    pub fn of(service: &Service) -> Self {
        let spec = service.spec.clone().unwrap_or_default();
        let meta = &service.metadata;
        let is_ours = spec.load_balancer_class.as_deref() == Some(CLASS)
            && spec.type_.as_deref() == Some("LoadBalancer")
            && meta.deletion_timestamp.is_none();
        let wants = |family: &Family| {
            let mut families = spec.ip_families.iter().flatten();
            is_ours && families.any(|name| name == family.name())
        };
        let families = Family::ALL.into_iter().filter(wants).collect();
        let is_set = |name: &str| {
            let value =
                meta.annotations.as_ref().and_then(|all| all.get(&format!("{PREFIX}{name}")));
            value.is_some_and(|value| value == "true")
        };
        let others = spec.external_ips.iter().chain(&spec.cluster_ips).flatten();
        let status = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
        Self {
            key: ObjectKey::of(service),
            uid: meta.uid.clone().unwrap_or_default(),
            created: meta.creation_timestamp.as_ref().map(|time| time.0),
            families,
            one_will_do: spec.ip_family_policy.as_deref() == Some("PreferDualStack"),
            has_other_way: is_set("node-port")
                || is_set("cluster-ip")
                || spec.external_ips.as_ref().is_some_and(|ips| !ips.is_empty()),
            ingress: status.and_then(|status| status.ingress.clone()).unwrap_or_default(),
            others: others.filter_map(|ip| ip.parse().ok()).collect(),
            look: {
                let mut hasher = DefaultHasher::new();
                (&meta.labels, &meta.annotations).hash(&mut hasher);
                hasher.finish()
            },
        }
    }

    /// Whether it is the same but for its labels and annotations.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        Self { look: 0, ..self.clone() } == Self { look: 0, ..other.clone() }
    }

    /// The addresses of its status.
    pub(super) fn given(&self) -> impl Iterator<Item = IpAddr> {
        self.ingress.iter().filter_map(|ingress| ingress.ip.as_deref()?.parse().ok())
    }

    /// All that it has, so that nobody else gets it.
    pub(super) fn taken(&self) -> impl Iterator<Item = Prefix> {
        self.given().chain(self.others.iter().copied()).map(Prefix::from)
    }

    /// The families that it still has to get an address of.
    pub(super) fn lacks(&self) -> impl Iterator<Item = Family> {
        let has = |family: &Family| self.given().any(|addr| Family::of(addr) == *family);
        self.families.iter().copied().filter(move |family| !has(family))
    }

    fn problem(&self, reason: Reason, message: String) -> Problem {
        Problem { service: self.key.clone(), uid: self.uid.clone(), reason, message }
    }
}

/// Whether some Service lacks an address of a family that there is a pool of.
pub(super) fn is_needed(pools: &[AddressPool], services: &[Claimant]) -> bool {
    let mut lacking = services.iter().flat_map(Claimant::lacks);
    lacking.any(|family| has_family(pools, family))
}

fn has_family(pools: &[AddressPool], family: Family) -> bool {
    pools.iter().any(|pool| Family::of(pool.first) == family)
}

/// The addresses of a Node: none of them is given.
pub(super) fn of_node(node: &Node) -> impl Iterator<Item = Prefix> {
    let all = node.status.as_ref().and_then(|status| status.addresses.as_ref());
    all.into_iter().flatten().filter_map(|addr| Some(addr.address.parse::<IpAddr>().ok()?.into()))
}

/// What is to be done.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Who gets what, in the order in which it is to be written.
    pub gifts: Vec<Gift>,
    /// Services that wait, and those with an address that is in no pool.
    pub problems: Vec<Problem>,
    /// For each family that a pool has: what this plan leaves.
    pub usage: BTreeMap<Family, Usage>,
}

/// New addresses of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gift {
    /// The Service.
    pub service: ObjectKey,
    /// Its UID.
    pub uid: String,
    /// One for each family that it lacked.
    pub addresses: Vec<IpAddr>,
}

impl Plan {
    /// A gift could not be given: what was planned is still free.
    pub(super) fn not_given(&mut self, gift: &Gift) {
        for addr in &gift.addresses {
            if let Some(usage) = self.usage.get_mut(&Family::of(*addr)) {
                usage.given = usage.given.saturating_sub(1);
                usage.free = usage.free.saturating_add(1);
            }
        }
    }
}

impl Gift {
    /// What is to be said if the server refuses it. `text` is what it says.
    pub(super) fn refused(&self, text: &str) -> Problem {
        Problem {
            service: self.service.clone(),
            uid: self.uid.clone(),
            reason: Reason::NoAddress,
            message: format!(
                "waits for an address: the API server refuses to have one written into its \
                 status.loadBalancer: {text}"
            ),
        }
    }
}

/// How much of the pools of a family is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Addresses of the pools that Services have in their status.
    pub given: u64,
    /// Addresses that are left; `u64::MAX` also stands for more.
    pub free: u64,
}

/// Gives each Service what it lacks, the oldest first, from the lowest free addresses. `services` are
/// all of the cluster; `taken` is what else is not to be given.
pub fn plan(
    pools: &[AddressPool],
    services: &[Claimant],
    taken: impl IntoIterator<Item = Prefix>,
) -> Plan {
    let of_services = services.iter().flat_map(Claimant::taken);
    let taken: Vec<Prefix> = taken.into_iter().chain(of_services).collect();
    let mut free = Family::ALL.map(|family| Free::new(family, pools, &taken));
    let mut by_age: Vec<&Claimant> = services.iter().filter(|s| !s.families.is_empty()).collect();
    by_age.sort_by_key(|service| (service.created, &service.key));
    let mut plan = Plan::default();
    for service in by_age {
        let mut gift =
            Gift { service: service.key.clone(), uid: service.uid.clone(), addresses: Vec::new() };
        let mut missing = Vec::new();
        for family in service.lacks() {
            match free[family as usize].take() {
                Some(addr) => gift.addresses.push(addr),
                None => missing.push(family),
            }
        }
        let has_one = service.given().next().is_some() || !gift.addresses.is_empty();
        // Without a pool of the family, one that prefers to have both is as it is to be.
        missing.retain(|family| !(service.one_will_do && has_one) || has_family(pools, *family));
        plan.problems.extend(missing.iter().filter_map(|family| waits(service, *family, pools)));
        if !gift.addresses.is_empty() {
            plan.gifts.push(gift);
        }
        let outside = |addr: &IpAddr| !pools.iter().any(|pool| pool.contains(*addr));
        for addr in service.given().filter(outside).filter(|_| !pools.is_empty()) {
            plan.problems.push(service.problem(
                Reason::AddressOutsidePool,
                format!(
                    "{addr} in status.loadBalancer.ingress is in none of [kubernetes] address_pools \
                     ({}); it stays the Service's",
                    list(pools)
                ),
            ));
        }
    }
    for family in Family::ALL {
        let is_of = |addr: &IpAddr| Family::of(*addr) == family;
        if has_family(pools, family) {
            let before = services.iter().flat_map(Claimant::given);
            let new = plan.gifts.iter().flat_map(|gift| gift.addresses.iter().copied());
            let given = before.chain(new).filter(|addr| pools.iter().any(|p| p.contains(*addr)));
            let given = given.filter(is_of).collect::<BTreeSet<_>>().len();
            let usage = Usage { given: given as u64, free: free[family as usize].count() };
            plan.usage.insert(family, usage);
        }
    }
    plan.problems.sort();
    plan
}

/// Why a Service gets nothing of a family; nothing is said while it is not up to Roost.
fn waits(service: &Claimant, family: Family, pools: &[AddressPool]) -> Option<Problem> {
    let name = family.name();
    let message = if pools.is_empty() {
        if service.has_other_way || !service.ingress.is_empty() {
            return None;
        }
        "waits for an address, and Roost has none to give: set [kubernetes] address_pools in its \
         configuration file, or let another controller write status.loadBalancer"
            .to_owned()
    } else if has_family(pools, family) {
        format!(
            "waits for an {name} address: all of [kubernetes] address_pools are taken ({}); add to \
             them, or delete a Service that has one",
            list(pools)
        )
    } else {
        format!(
            "waits for an {name} address: [kubernetes] address_pools has none of this family \
             ({}); add some, or take {name} out of spec.ipFamilies",
            list(pools)
        )
    };
    Some(service.problem(Reason::NoAddress, message))
}

/// The pools, as many as fit into an Event.
fn list(pools: &[AddressPool]) -> String {
    let mut text: Vec<String> = pools.iter().take(4).map(ToString::to_string).collect();
    if pools.len() > 4 {
        text.push("...".into());
    }
    text.join(", ")
}

/// What is free of the pools of a family: spans of addresses as numbers, in the order of the pools.
struct Free {
    family: Family,
    spans: VecDeque<(u128, u128)>,
}

impl Free {
    fn new(family: Family, pools: &[AddressPool], taken: &[Prefix]) -> Self {
        let mut taken: Vec<(u128, u128)> =
            taken.iter().filter(|p| Family::of(p.addr()) == family).map(span).collect();
        taken.sort_unstable();
        let mut spans = VecDeque::new();
        for pool in pools.iter().filter(|pool| Family::of(pool.first) == family) {
            // Nothing below `next` is free, or it is in `spans`.
            let (mut next, last) = (number(pool.first), number(pool.last));
            let mut is_full = false;
            for &(low, high) in taken.iter().filter(|(low, _)| *low <= last) {
                if high < next {
                    continue;
                }
                if low > next {
                    spans.push_back((next, low - 1));
                }
                is_full = high >= last;
                if is_full {
                    break;
                }
                next = high + 1;
            }
            if !is_full {
                spans.push_back((next, last));
            }
        }
        Self { family, spans }
    }

    fn take(&mut self) -> Option<IpAddr> {
        let (first, last) = self.spans.pop_front()?;
        if first < last {
            self.spans.push_front((first + 1, last));
        }
        Some(match self.family {
            Family::V4 => IpAddr::V4((first as u32).into()),
            Family::V6 => IpAddr::V6(first.into()),
        })
    }

    fn count(&self) -> u64 {
        let add = |sum: u64, (first, last): &(u128, u128)| {
            let size = u64::try_from(last - first).unwrap_or(u64::MAX).saturating_add(1);
            sum.saturating_add(size)
        };
        self.spans.iter().fold(0, add)
    }
}

fn number(addr: IpAddr) -> u128 {
    match addr {
        IpAddr::V4(v4) => v4.to_bits().into(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

fn span(prefix: &Prefix) -> (u128, u128) {
    (number(prefix.network()), number(prefix.broadcast()))
}

#[cfg(test)]
mod tests;
