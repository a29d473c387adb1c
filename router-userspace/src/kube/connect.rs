//! The way to the API server.

use std::path::Path;

use anyhow::{Context as _, Result};
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};

/// A client by a kubeconfig; without one by `KUBECONFIG`, `~/.kube/config`, or the account of the pod.
/// Its default namespace is `namespace`; without one that of the kubeconfig's context or of the pod.
/// Does not talk to the server yet.
pub async fn client(kubeconfig: Option<&Path>, namespace: Option<&str>) -> Result<Client> {
    // Two providers in one program, and rustls does not know which to take.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut config = match kubeconfig {
        Some(path) => {
            let from = || format!("--kubeconfig {}", path.display());
            let file = Kubeconfig::read_from(path).with_context(from)?;
            let options = KubeConfigOptions::default();
            Config::from_custom_kubeconfig(file, &options).await.with_context(from)?
        }
        None => Config::infer().await.context(
            "--kubernetes: no way to the API server: there is no kubeconfig (--kubeconfig, \
             KUBECONFIG, ~/.kube/config), and this is no pod with a service account",
        )?,
    };
    // The watches wait and try again by themselves, and say so.
    config.default_retry = false;
    if let Some(namespace) = namespace {
        config.default_namespace = namespace.to_owned();
    }
    Client::try_from(config).context("--kubernetes: the client for the API server")
}
