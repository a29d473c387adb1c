//! Kubernetes as a source: Services, EndpointSlices and Nodes become the model of the configuration
//! file.
//!
//! [`Cluster`] is pure: objects go in, services and problems come out. [`Source`] is the shell
//! around it: it watches, and says when there is something to publish.

mod addresses;
mod annotations;
pub(crate) mod backoff;
mod cluster;
mod connect;
mod fitting;
mod guard;
mod node;
mod owners;
mod ports;
mod replicas;
mod rights;
mod secret;
mod slices;
mod source;
mod sources;
mod state;
pub(crate) mod watch;

use std::fmt;

use kube::Resource;

pub use cluster::{Claims, Cluster, Derived};
pub use connect::client;
pub use fitting::is_named_like;
pub use node::Node;
pub use rights::{RIGHTS, Right};
pub use secret::{Keeper, SecretOptions, SecretState, SecretStatus};
pub use slices::Slice;
pub use source::{Options, Publication, Source};
pub use state::{Kind, WatchState, Watched, WatchedKind};

/// What the load-balancer class of a Service says if Roost is to serve it.
pub const CLASS: &str = "roost.rs/router";
/// What the names of Roost's annotations begin with.
pub const PREFIX: &str = "roost.rs/";

/// An object of a kind, by namespace and name.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey {
    /// Its namespace; empty for what is in none.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl ObjectKey {
    /// A key of these two.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }

    /// The key of an object.
    pub fn of(object: &impl Resource) -> Self {
        let meta = object.meta();
        Self::new(meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default())
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// What is wrong with a Service, for its owner.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// The Service.
    pub service: ObjectKey,
    /// Its UID.
    pub uid: String,
    /// What kind of problem it is.
    pub reason: Reason,
    /// What is wrong, with the value, and what would be right.
    pub message: String,
}

/// What kind of problem a Service has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// An annotation is wrong. The Service is served as it last was, if it was.
    InvalidAnnotation,
    /// An annotation under `roost.rs/` that means nothing. It is left out.
    UnknownAnnotation,
    /// A Service that cannot be served: no TCP port, no address.
    NotServed,
    /// An address that cannot be used. The others are.
    AddressNotServed,
    /// A range of `spec.loadBalancerSourceRanges` that cannot be used. It lets nobody in.
    SourceNotAllowed,
    /// An endpoint that cannot be used. The others are.
    EndpointNotServed,
    /// There is no room for it in the maps.
    NoRoom,
    /// A map refuses to hold it. It is tried again.
    NotWritten,
    /// It waits for an address: there is none to give, or the server refuses to have it written.
    NoAddress,
    /// It has an address that is in none of the pools.
    AddressOutsidePool,
    /// It has endpoints on other Nodes, whose answers have to come back through this one.
    EndpointElsewhere,
}

impl Reason {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::InvalidAnnotation,
        Self::UnknownAnnotation,
        Self::NotServed,
        Self::AddressNotServed,
        Self::SourceNotAllowed,
        Self::EndpointNotServed,
        Self::NoRoom,
        Self::NotWritten,
        Self::NoAddress,
        Self::AddressOutsidePool,
        Self::EndpointElsewhere,
    ];

    /// As it is written into Events and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::InvalidAnnotation => "InvalidAnnotation",
            Self::UnknownAnnotation => "UnknownAnnotation",
            Self::NotServed => "NotServed",
            Self::AddressNotServed => "AddressNotServed",
            Self::SourceNotAllowed => "SourceNotAllowed",
            Self::EndpointNotServed => "EndpointNotServed",
            Self::NoRoom => "NoRoom",
            Self::NotWritten => "NotWritten",
            Self::NoAddress => "NoAddress",
            Self::AddressOutsidePool => "AddressOutsidePool",
            Self::EndpointElsewhere => "EndpointElsewhere",
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Service {}: {}", self.service, self.message)
    }
}
