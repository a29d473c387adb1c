//! Nodes, as far as they are needed. All of the cluster are watched, of which there may be thousands, and most
//! of a Node is about its images and conditions: that is not even kept while it is read.

use std::{borrow::Cow, net::IpAddr};

use k8s_openapi::{ClusterResourceScope, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::Resource;
use serde::Deserialize;

use crate::plan::config::{self, Prefix};

/// A Node.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Node {
    metadata: ObjectMeta,
    spec: Spec,
    status: Status,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Spec {
    #[serde(rename = "podCIDRs")]
    pod_cidrs: Vec<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Status {
    addresses: Vec<Address>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Address {
    #[serde(rename = "type")]
    kind: String,
    address: String,
}

/// What matters of a Node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct OfNode {
    /// Its addresses, which its node ports are served on.
    pub(super) addresses: Vec<IpAddr>,
    /// Where the addresses of its pods are from, if that is said.
    pub(super) pods: Vec<Prefix>,
    /// Clients that are it, or its pods.
    pub(super) trusted: Vec<Prefix>,
}

// A Node's addresses are written by its kubelet, and so are the prefixes of its pods where nobody else has given it
// any (they are not changed after that). So whoever has taken over one node can name others' addresses: not half the
// internet, which would keep all Services from theirs, and only a few to be trusted.

/// The widest prefixes of pods that are believed, of IPv4 and of IPv6: what is wider is no single node's.
const WIDEST: (u8, u8) = (16, 56);
/// How many prefixes of one Node are trusted.
const MOST_TRUSTED: usize = 8;

impl Node {
    /// What matters of it.
    pub(super) fn what_matters(&self) -> OfNode {
        let (mut addresses, mut internal) = (Vec::new(), Vec::new());
        for address in &self.status.addresses {
            let of_type = matches!(address.kind.as_str(), "InternalIP" | "ExternalIP");
            if let Ok(addr) = config::address(&address.address)
                && of_type
                && !addresses.contains(&addr)
            {
                addresses.push(addr);
                internal.extend((address.kind == "InternalIP").then_some(addr));
            }
        }
        addresses.sort();
        let pods = self.spec.pod_cidrs.iter();
        let pods = pods.filter_map(|text| text.parse::<ipnet::IpNet>().ok());
        let widest = |net: &ipnet::IpNet| if net.addr().is_ipv4() { WIDEST.0 } else { WIDEST.1 };
        let pods = pods.filter(|net| net.prefix_len() >= widest(net) && !is_mapped(net));
        let pods: Vec<Prefix> = pods.map(Prefix::from).collect();
        let internal = internal.into_iter().map(Prefix::from);
        let trusted = internal.chain(pods.iter().copied()).take(MOST_TRUSTED).collect();
        OfNode { addresses, pods, trusted }
    }
}

/// Whether these are addresses of IPv4 in the form of IPv6: any of them would be narrow there.
fn is_mapped(net: &ipnet::IpNet) -> bool {
    matches!(net, ipnet::IpNet::V6(net) if net.network().to_ipv4_mapped().is_some())
}

impl Resource for Node {
    type DynamicType = ();
    type Scope = ClusterResourceScope;

    fn kind((): &()) -> Cow<'_, str> {
        "Node".into()
    }

    fn group((): &()) -> Cow<'_, str> {
        "".into()
    }

    fn version((): &()) -> Cow<'_, str> {
        "v1".into()
    }

    fn plural((): &()) -> Cow<'_, str> {
        "nodes".into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}
