//! What `deploy/` renders to, as the API's own types: nothing that the API does not know, and what has to
//! agree agrees.

use std::collections::BTreeSet;
use std::env;
use std::fmt::Debug;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use clap::Parser as _;
use k8s_openapi::api::{
    apps::v1::{DaemonSet, Deployment},
    core::v1::{ConfigMap, Container, Namespace, PodSpec, Service, ServiceAccount},
    rbac::v1::{ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding},
};
use roost::cli::{Cli, Command as Roost};
use roost::kube::{CLASS, RIGHTS};
use roost_programs::built;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

const OVERLAYS: [&str; 2] = ["privileged", "capabilities"];
const NAMESPACE: &str = "roost-system";

/// The objects that a cluster is given.
struct Objects(Vec<Value>);

impl Objects {
    /// As `cargo xtask manifests` prints them.
    fn render(arguments: &[&str]) -> Result<Self> {
        let output = built(xtask()?)?.arg("manifests").args(arguments).output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "manifests {arguments:?}: {said}");
        let text = String::from_utf8(output.stdout)?;
        Ok(Self(serde_saphyr::from_multiple(&text).context("not YAML")?))
    }

    /// The only object of a kind with a name, as its own type.
    fn get<T: DeserializeOwned>(&self, kind: &str, name: &str) -> Result<T> {
        let is_it = |o: &&Value| o["kind"] == kind && o["metadata"]["name"] == name;
        let found: Vec<_> = self.0.iter().filter(is_it).collect();
        ensure!(found.len() == 1, "there are {} objects {kind} {name}", found.len());
        Ok(serde_json::from_value(found[0].clone())?)
    }

    fn daemon_set(&self) -> Result<(DaemonSet, PodSpec, Container)> {
        let set: DaemonSet = self.get("DaemonSet", "roost")?;
        let pod = set.spec.template.spec.clone().context("no pod")?;
        let container = pod.containers.first().cloned().context("no container")?;
        Ok((set, pod, container))
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn xtask() -> Result<PathBuf> {
    let path = root().join("target/debug/xtask");
    ensure!(path.exists(), "{} is missing: cargo build --package xtask", path.display());
    Ok(path)
}

/// Everything that can be rendered.
fn all() -> Result<Vec<Objects>> {
    OVERLAYS.iter().map(|name| Objects::render(&["--overlay", name, "--example"])).collect()
}

#[test]
fn every_object_is_what_the_api_knows() -> Result<()> {
    for objects in all()? {
        let mut seen = BTreeSet::new();
        for object in &objects.0 {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let (version, kind) = (text(&object["apiVersion"]), text(&object["kind"]));
            let lost = match (version.as_str(), kind.as_str()) {
                ("v1", "Namespace") => lost::<Namespace>(object),
                ("v1", "ServiceAccount") => lost::<ServiceAccount>(object),
                ("v1", "ConfigMap") => lost::<ConfigMap>(object),
                ("v1", "Service") => lost::<Service>(object),
                ("apps/v1", "DaemonSet") => lost::<DaemonSet>(object),
                ("apps/v1", "Deployment") => lost::<Deployment>(object),
                ("rbac.authorization.k8s.io/v1", "ClusterRole") => lost::<ClusterRole>(object),
                ("rbac.authorization.k8s.io/v1", "Role") => lost::<Role>(object),
                ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding") => {
                    lost::<ClusterRoleBinding>(object)
                }
                ("rbac.authorization.k8s.io/v1", "RoleBinding") => lost::<RoleBinding>(object),
                _ => bail!("{version} {kind} is not looked at: add it here"),
            };
            let metadata = &object["metadata"];
            let name = format!("{kind} {}", text(&metadata["name"]));
            let lost = lost.with_context(|| name.clone())?;
            ensure!(lost.is_empty(), "{name}: the API does not know {lost:?}");
            let is_global = kind == "Namespace" || kind.starts_with("ClusterRole");
            ensure!(is_global == metadata["namespace"].is_null(), "{name}: its namespace");
            ensure!(seen.insert((kind, metadata.clone().to_string())), "{name} is there twice");
        }
        ensure!(seen.len() > 5, "hardly anything was looked at: {seen:?}");
    }
    Ok(())
}

/// The fields of an object that its type does not have.
fn lost<T: DeserializeOwned + Serialize>(object: &Value) -> Result<Vec<String>> {
    let kept = serde_json::to_value(serde_json::from_value::<T>(object.clone())?)?;
    let mut lost = Vec::new();
    compare(object, &kept, String::new(), &mut lost);
    Ok(lost)
}

fn compare(given: &Value, kept: &Value, at: String, lost: &mut Vec<String>) {
    match (given, kept) {
        (Value::Object(given), _) => {
            for (name, value) in given {
                compare(value, &kept[name], format!("{at}.{name}"), lost);
            }
        }
        (Value::Array(given), Value::Array(kept)) if given.len() == kept.len() => {
            for (i, (given, kept)) in given.iter().zip(kept).enumerate() {
                compare(given, kept, format!("{at}[{i}]"), lost);
            }
        }
        _ if given == kept => {}
        _ => lost.push(format!("{at}: {given}")),
    }
}

#[test]
fn fields_that_the_api_does_not_know_are_seen() -> Result<()> {
    let account = serde_json::json!({
        "apiVersion": "v1", "kind": "ServiceAccount",
        "metadata": {"name": "a", "label": {}, "labels": {"a": "b"}},
        "automountServiceAccountTokn": false,
    });
    assert_eq!(lost::<ServiceAccount>(&account)?, [".automountServiceAccountTokn: false"]);
    let account = serde_json::json!({"metadata": {"name": "a", "lables": {"a": "b"}}});
    assert_eq!(lost::<ServiceAccount>(&account)?, [".metadata.lables.a: \"b\""]);
    Ok(())
}

#[test]
fn the_roles_give_just_the_rights_that_the_daemon_uses() -> Result<()> {
    let objects = Objects::render(&[])?;
    let cluster: ClusterRole = objects.get("ClusterRole", "roost")?;
    let own: Role = objects.get("Role", "roost")?;
    let mut given = BTreeSet::new();
    for (namespaced, rules) in [(false, cluster.rules), (true, own.rules)] {
        given.extend(rules.iter().flatten().flat_map(|rule| rights(rule, namespaced)));
    }
    let mut used = BTreeSet::new();
    for right in RIGHTS {
        for verb in right.verbs {
            let name = right.name.unwrap_or_default();
            used.insert(words(right.namespaced, right.group, right.resource, name, verb));
        }
    }
    assert_eq!(given, used);
    Ok(())
}

fn rights(rule: &PolicyRule, namespaced: bool) -> Vec<[String; 5]> {
    let names = rule.resource_names.clone().unwrap_or_else(|| vec![String::new()]);
    let mut rights = Vec::new();
    for group in rule.api_groups.iter().flatten() {
        for resource in rule.resources.iter().flatten() {
            for name in &names {
                let word = |verb: &String| words(namespaced, group, resource, name, verb);
                rights.extend(rule.verbs.iter().map(word));
            }
        }
    }
    rights
}

fn words(namespaced: bool, group: &str, resource: &str, name: &str, verb: &str) -> [String; 5] {
    let scope = if namespaced { NAMESPACE } else { "everywhere" };
    [scope, group, resource, name, verb].map(str::to_owned)
}

#[test]
fn names_agree() -> Result<()> {
    for objects in all()? {
        let account: ServiceAccount = objects.get("ServiceAccount", "roost")?;
        assert_eq!(account.metadata.namespace.as_deref(), Some(NAMESPACE));
        let cluster: ClusterRoleBinding = objects.get("ClusterRoleBinding", "roost")?;
        let own: RoleBinding = objects.get("RoleBinding", "roost")?;
        let of = |kind: &str, role: &k8s_openapi::api::rbac::v1::RoleRef| {
            assert_eq!((role.kind.as_str(), role.name.as_str()), (kind, "roost"));
            assert_eq!(role.api_group.as_deref(), Some("rbac.authorization.k8s.io"));
        };
        of("ClusterRole", &cluster.role_ref);
        of("Role", &own.role_ref);
        let subjects: Vec<_> = cluster.subjects.iter().chain(&own.subjects).flatten().collect();
        assert_eq!(subjects.len(), 2);
        for subject in subjects {
            let namespace = subject.namespace.as_deref();
            let subject = (subject.kind.as_str(), subject.name.as_str(), namespace);
            assert_eq!(subject, ("ServiceAccount", "roost", Some(NAMESPACE)));
        }
        let (set, pod, _) = objects.daemon_set()?;
        let spec = set.spec;
        let labels = spec.template.metadata.and_then(|meta| meta.labels);
        assert_eq!(spec.selector.match_labels, labels);
        assert_eq!(pod.service_account_name.as_deref(), Some("roost"));
        let config: ConfigMap = objects.get("ConfigMap", "roost")?;
        assert_eq!(config.metadata.namespace.as_deref(), Some(NAMESPACE));
        assert!(config.data.context("no data")?.contains_key("roost.toml"));
        let namespace: Namespace = objects.get("Namespace", NAMESPACE)?;
        let labels = namespace.metadata.labels.context("no labels")?;
        assert_eq!(labels["pod-security.kubernetes.io/enforce"], "privileged");
    }
    Ok(())
}

#[test]
fn the_daemon_has_what_it_needs_of_its_node() -> Result<()> {
    for (overlay, objects) in OVERLAYS.iter().zip(all()?) {
        let (set, pod, container) = objects.daemon_set()?;
        let spec = set.spec;
        let update = spec.update_strategy.context("no update strategy")?;
        let rolling = update.rolling_update.context("not rolling")?;
        // Two daemons on a node exclude each other.
        assert!(rolling.max_surge.is_none());
        assert_eq!(pod.host_network, Some(true));
        assert_eq!(pod.automount_service_account_token, Some(true));
        assert_eq!(pod.priority_class_name.as_deref(), Some("system-node-critical"));
        let all = |t: &k8s_openapi::api::core::v1::Toleration| {
            t.operator.as_deref() == Some("Exists") && t.key.is_none() && t.effect.is_none()
        };
        assert!(pod.tolerations.iter().flatten().any(all));
        let volumes = pod.volumes.context("no volumes")?;
        let mounts = container.volume_mounts.context("no mounts")?;
        assert_eq!(volumes.len(), mounts.len());
        let host_paths = |path: &str| {
            let volume =
                volumes.iter().find(|v| v.host_path.as_ref().is_some_and(|h| h.path == path));
            let name = &volume?.name;
            mounts.iter().find(|mount| mount.name == *name && mount.mount_path == path)
        };
        let bpffs = host_paths("/sys/fs/bpf").context("no bpffs")?;
        assert!(host_paths("/run/roost").is_some(), "one daemon for each node");
        let security = container.security_context.context("no security context")?;
        assert_eq!(security.read_only_root_filesystem, Some(true));
        let is_privileged = *overlay == "privileged";
        assert_eq!(security.privileged, Some(is_privileged));
        let propagation = if is_privileged { "Bidirectional" } else { "None" };
        assert_eq!(bpffs.mount_propagation.as_deref(), Some(propagation));
        if !is_privileged {
            let capabilities = security.capabilities.context("no capabilities")?;
            let add = capabilities.add.context("none is added")?;
            assert_eq!(add, ["BPF", "NET_ADMIN", "PERFMON", "NET_RAW"]);
            assert_eq!(capabilities.drop.context("none is dropped")?, ["ALL"]);
        }
        let limits = container.resources.and_then(|resources| resources.limits);
        assert!(limits.is_none(), "a limit of memory would fail connections");
    }
    Ok(())
}

#[test]
fn roost_takes_the_arguments_and_the_file() -> Result<()> {
    let objects = Objects::render(&[])?;
    let (_, _, container) = objects.daemon_set()?;
    let arguments = container.args.context("no arguments")?;
    let words = ["roost".to_owned()].into_iter().chain(arguments.clone());
    let Roost::Run(run) = Cli::try_parse_from(words)?.command else { bail!("not `roost run`") };
    assert!(run.cluster.kubernetes);
    assert_eq!(run.cluster.secret.as_deref(), Some("roost"));
    assert_eq!(run.config.as_deref(), Some(Path::new("/etc/roost/roost.toml")));
    let port = container.ports.context("no ports")?.remove(0);
    let listen = format!("--listen=:{}", port.container_port);
    assert!(arguments.contains(&listen), "{listen} is not among {arguments:?}");
    for (probe, path) in [
        (&container.readiness_probe, "/readyz"),
        (&container.liveness_probe, "/healthz"),
        (&container.startup_probe, "/healthz"),
    ] {
        let get = probe.as_ref().and_then(|probe| probe.http_get.clone()).context("no probe")?;
        assert_eq!(get.path.as_deref(), Some(path));
        assert_eq!(serde_json::to_value(&get.port)?, port.name.clone().unwrap_or_default());
    }
    let env = container.env.context("no environment")?;
    let field = |name: &str| {
        let variable = env.iter().find(|variable| variable.name == name)?;
        Some(variable.value_from.as_ref()?.field_ref.as_ref()?.field_path.clone())
    };
    assert_eq!(field("NODE_NAME").as_deref(), Some("spec.nodeName"));
    assert_eq!(field("POD_NAMESPACE").as_deref(), Some("metadata.namespace"));

    let config: ConfigMap = objects.get("ConfigMap", "roost")?;
    let data = config.data.context("no data")?;
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("roost.toml");
    std::fs::write(&file, &data["roost.toml"])?;
    let roost = env!("CARGO_MANIFEST_DIR").to_owned() + "/../target/debug/roost";
    let roost = env::var_os("ROOST_BIN").unwrap_or_else(|| roost.into());
    // On a machine without a default route no file could do without interfaces.
    std::fs::write(&file, format!("interfaces = [\"lo\"]\n{}", data["roost.toml"]))?;
    let output = built(roost)?
        .args(["run", "--kubernetes", "--check-only", "--config"])
        .arg(&file)
        .output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

#[test]
fn images_are_of_this_version_unless_told_otherwise() -> Result<()> {
    let image = |arguments: &[&str]| -> Result<(String, String)> {
        let objects = Objects::render(arguments)?;
        let (_, _, container) = objects.daemon_set()?;
        let chat: Deployment = objects.get("Deployment", "chat")?;
        let chat = chat.spec.template.spec.context("no pod")?;
        let of = |container: &Container| container.image.clone().unwrap_or_default();
        Ok((of(&container), of(&chat.containers[0])))
    };
    let version = env!("CARGO_PKG_VERSION");
    let own = (format!("localhost/roost:{version}"), format!("localhost/roost-chat:{version}"));
    assert_eq!(image(&["--example"])?, own);
    let others = ["--example", "--image", "r.io/x:9", "--example-image", "r.io/y@sha256:ab"];
    assert_eq!(image(&others)?, ("r.io/x:9".to_owned(), "r.io/y@sha256:ab".to_owned()));
    Ok(())
}

#[test]
fn the_example_is_a_service_of_roosts() -> Result<()> {
    let objects = Objects::render(&["--example"])?;
    let service: Service = objects.get("Service", "chat")?;
    let annotations = service.metadata.annotations.context("no annotations")?;
    assert_eq!(annotations["roost.rs/policy"], "home");
    let spec = service.spec.context("no spec")?;
    assert_eq!(spec.load_balancer_class.as_deref(), Some(CLASS));
    let chat: Deployment = objects.get("Deployment", "chat")?;
    let chat = chat.spec.template;
    let labels = chat.metadata.and_then(|meta| meta.labels).context("no labels")?;
    let selector = spec.selector.context("no selector")?;
    assert!(!selector.is_empty());
    for (name, value) in selector {
        assert_eq!(labels.get(&name), Some(&value));
    }
    same(spec.ports.context("no ports")?[0].target_port.clone(), "ws");
    let ports = chat.spec.context("no pod")?.containers[0].ports.clone().context("no ports")?;
    same(ports[0].name.clone(), "ws");
    Ok(())
}

fn same(value: Option<impl Debug + Serialize>, expected: &str) {
    assert_eq!(serde_json::to_value(&value).expect("JSON"), expected, "{value:?}");
}
