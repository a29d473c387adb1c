//! EndpointSlices, as far as they are needed.

use std::net::IpAddr;

use k8s_openapi::api::discovery::v1::{self, EndpointSlice};
use kube::ResourceExt as _;

use super::ObjectKey;

/// The label that names an EndpointSlice's Service.
const SERVICE: &str = "kubernetes.io/service-name";

/// What matters of an EndpointSlice. Many are kept: those of all Services.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slice {
    pub(super) service: ObjectKey,
    /// TCP ports: name and number.
    pub(super) ports: Vec<(String, u16)>,
    pub(super) endpoints: Vec<Endpoint>,
}

/// An endpoint of a slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Endpoint {
    /// Only the first address has a meaning.
    pub(super) addr: IpAddr,
    pub(super) target: Option<Target>,
    /// The Node that it is on, if that is said.
    pub(super) node: Option<String>,
    pub(super) ready: bool,
    pub(super) serving: bool,
    pub(super) terminating: bool,
}

/// The object behind an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) name: String,
    pub(super) uid: String,
    pub(super) is_pod: bool,
}

impl Slice {
    /// `None` if it belongs to no Service, or has no IP addresses.
    pub fn of(slice: &EndpointSlice) -> Option<Self> {
        if !matches!(slice.address_type.as_str(), "IPv4" | "IPv6") {
            return None;
        }
        let name = slice.labels().get(SERVICE)?;
        let ports = slice.ports.iter().flatten().filter_map(|port| {
            let tcp = port.protocol.as_deref().is_none_or(|protocol| protocol == "TCP");
            let number = u16::try_from(port.port?).ok().filter(|number| *number > 0)?;
            tcp.then(|| (port.name.clone().unwrap_or_default(), number))
        });
        Some(Self {
            service: ObjectKey::new(slice.namespace().unwrap_or_default(), name),
            ports: ports.collect(),
            endpoints: slice.endpoints.iter().flatten().filter_map(endpoint).collect(),
        })
    }
}

fn endpoint(endpoint: &v1::Endpoint) -> Option<Endpoint> {
    let addr = endpoint.addresses.first()?.parse().ok()?;
    // The defaults are those of the API, and of kube-proxy.
    let conditions = endpoint.conditions.clone().unwrap_or_default();
    let target = endpoint.target_ref.as_ref().map(|target| Target {
        name: target.name.clone().unwrap_or_default(),
        uid: target.uid.clone().unwrap_or_default(),
        is_pod: target.kind.as_deref() == Some("Pod"),
    });
    Some(Endpoint {
        addr,
        target,
        node: endpoint.node_name.clone(),
        ready: conditions.ready.unwrap_or(true),
        serving: conditions.serving.unwrap_or(true),
        terminating: conditions.terminating.unwrap_or(false),
    })
}
