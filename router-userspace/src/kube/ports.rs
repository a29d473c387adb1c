//! The ports of a Service.

use k8s_openapi::api::core::v1::{Service, ServicePort};

/// Those that Roost can serve.
pub(super) fn tcp_ports(service: &Service) -> impl Iterator<Item = &ServicePort> {
    let ports = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
    ports.filter(|port| port.protocol.as_deref().is_none_or(|protocol| protocol == "TCP"))
}
