//! What a Service of the cluster says about itself.

use k8s_openapi::api::core::v1::Service;

use crate::kube::{
    CLASS, Reason,
    annotations::{self, Settings},
    ports::tcp_ports,
};

/// A Service of Roost's.
#[derive(Debug, PartialEq)]
pub(super) struct Declared {
    pub(super) service: Service,
    /// From its annotations; what they last said when they were right.
    pub(super) settings: Option<Settings>,
    pub(super) problems: Vec<(Reason, String)>,
}

impl Declared {
    pub(super) fn uid(&self) -> String {
        self.service.metadata.uid.clone().unwrap_or_default()
    }
}

/// What a Service says, or nothing if it is not Roost's. `old` is what it said before.
pub(super) fn declared(service: &Service, old: Option<&Declared>) -> Option<Declared> {
    let spec = service.spec.as_ref()?;
    let annotations = annotations::ours(service.metadata.annotations.as_ref());
    let has_class = spec.load_balancer_class.as_deref() == Some(CLASS);
    if !has_class && !annotations.contains_key("policy") {
        return None;
    }
    // One that is deleted but waits for a finalizer is served until it is gone.
    let mut problems: Vec<_> = annotations::unknown(&annotations)
        .into_iter()
        .map(|message| (Reason::UnknownAnnotation, message))
        .collect();
    let settings = match annotations::read(&annotations) {
        Ok(settings) => Some(settings),
        Err(wrong) => {
            let wrong = wrong.into_iter().map(|message| (Reason::InvalidAnnotation, message));
            problems.extend(wrong);
            old.and_then(|old| old.settings.clone())
        }
    };
    let unusable = if spec.type_.as_deref() == Some("ExternalName") {
        Some("is of type ExternalName, which has no endpoints")
    } else if spec.cluster_ip.as_deref() == Some("None") {
        Some("is headless; write another Service for the same pods")
    } else if tcp_ports(service).next().is_none() {
        Some("has no TCP port")
    } else {
        None
    };
    let settings = match unusable {
        None => settings,
        Some(why) => {
            problems.push((Reason::NotServed, why.into()));
            None
        }
    };
    let mut service = service.clone();
    service.metadata.managed_fields = None;
    // Without these, a change that says nothing new is not one.
    service.metadata.resource_version = None;
    Some(Declared { service, settings, problems })
}
