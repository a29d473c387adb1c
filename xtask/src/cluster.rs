//! `cargo xtask manifests | deploy | undeploy`: what a cluster is given, by kubectl.

mod deploy;
mod kubectl;
mod manifests;
mod purge;
mod rollout;
mod undeploy;

pub use deploy::{Options as DeployOptions, run as deploy};
pub use manifests::{Options as ManifestsOptions, run as manifests};
pub use undeploy::{Options as UndeployOptions, run as undeploy};

/// The namespace of everything but the example.
const NAMESPACE: &str = "roost-system";
/// What the DaemonSet is called, and all that belongs to it.
const NAME: &str = "roost";
/// The pods of the daemons.
const SELECTOR: &str = "app.kubernetes.io/name=roost";
