//! From Kubernetes objects to services, without a cluster.

mod endpoints;
mod objects;
mod services;
