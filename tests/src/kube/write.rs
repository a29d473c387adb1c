//! Reading and writing single objects: subresources, patches, conflicts.

use std::collections::BTreeMap;

use hyper::{Response, body::Bytes};
use serde_json::{Value, json};

use super::{
    Shared,
    http::Target,
    objects::place,
    reply::{self, Body},
    secret,
    store::At,
    validate,
};

/// Answers a request about an object.
pub(super) fn answer(
    shared: &Shared,
    verb: &str,
    target: &Target,
    query: &BTreeMap<String, String>,
    content: &str,
    body: &Bytes,
) -> Response<Body> {
    match write(shared, verb, target, query, content, body) {
        Ok(response) => response,
        Err((code, message)) => reply::refusal(code, &message),
    }
}

fn write(
    shared: &Shared,
    verb: &str,
    target: &Target,
    query: &BTreeMap<String, String>,
    content: &str,
    body: &Bytes,
) -> Result<Response<Body>, (u16, String)> {
    let namespace = target.namespace.clone().unwrap_or_default();
    let name = target.name.clone().unwrap_or_default();
    let mut at = place(&target.plural, &namespace, &name);
    let mut state = shared.state();
    let old = state.store.get(&at).cloned();
    let absent = || (404, format!("{} \"{name}\" not found", target.plural));
    let mut new = match verb {
        "get" => return Ok(reply::object(200, &old.ok_or_else(absent)?)),
        "delete" => {
            let old = state.store.delete(&at).ok_or_else(absent)?;
            shared.changed.send_replace(state.store.version());
            return Ok(reply::object(200, &old));
        }
        "create" => {
            let new: Value = parse(body)?;
            validate::create(&new)?;
            at.name = new["metadata"]["name"].as_str().unwrap_or_default().to_owned();
            if at.name.is_empty() {
                at.name = generated(&new, state.store.version())
                    .ok_or((422, "name is required".to_owned()))?;
            }
            if state.store.get(&at).is_some() {
                let message = format!("{} \"{}\" already exists", target.plural, at.name);
                let mut status = reply::status(409, &message);
                status["reason"] = json!("AlreadyExists");
                return Ok(reply::object(409, &status));
            }
            new
        }
        "update" => {
            let new: Value = parse(body)?;
            let named = &new["metadata"]["name"];
            if *named != json!(name) {
                let message = format!(
                    "the name of the object ({named}) does not match the name on the URL ({name})"
                );
                return Err((400, message));
            }
            new
        }
        _ => patched(old.clone(), content, &parse(body)?, query, &at)?,
    };
    if verb != "create" {
        let apply = content == "application/apply-patch+yaml";
        if old.is_none() && !apply {
            return Err(absent());
        }
        validate::update(verb, &parse::<Value>(body)?, target)?;
        check_version(&parse::<Value>(body)?, old.as_ref(), target)?;
    }
    // A write to the object leaves its status, and one to the status leaves the rest.
    let old_or_null = old.clone().unwrap_or_default();
    match target.subresource.as_deref() {
        None if matches!(target.plural.as_str(), "services" | "nodes") => {
            new["status"] = old_or_null["status"].clone();
        }
        None => {}
        Some("status") => {
            let status = new["status"].take();
            new = old_or_null;
            new["status"] = status;
        }
        Some(_) => return Err((404, "no such subresource".into())),
    }
    new["metadata"]["name"] = json!(at.name);
    if !at.namespace.is_empty() {
        new["metadata"]["namespace"] = json!(at.namespace);
    }
    new["apiVersion"] = json!(target.api_version);
    new["kind"] = json!(kind(&target.plural));
    validate::object(&target.plural, &new)?;
    if target.plural == "secrets" {
        secret::validate(&new, old.as_ref())?;
    }
    if let Some(old) = &old {
        validate::change(&target.plural, old, &new)?;
    }
    let code = if old.is_none() { 201 } else { 200 };
    let new = state.store.put(at, new);
    shared.changed.send_replace(state.store.version());
    Ok(reply::object(code, &new))
}

fn parse<T: serde::de::DeserializeOwned>(body: &Bytes) -> Result<T, (u16, String)> {
    serde_json::from_slice(body).map_err(|e| (400, format!("the body is not JSON: {e}")))
}

fn kind(plural: &str) -> &'static str {
    match plural {
        "services" => "Service",
        "nodes" => "Node",
        "endpointslices" => "EndpointSlice",
        "leases" => "Lease",
        "secrets" => "Secret",
        _ => "Event",
    }
}

fn generated(object: &Value, version: u64) -> Option<String> {
    Some(format!("{}{version:05x}", object["metadata"]["generateName"].as_str()?))
}

/// The version that a write names has to be the object's.
fn check_version(body: &Value, old: Option<&Value>, target: &Target) -> Result<(), (u16, String)> {
    let (wanted, Some(old)) = (&body["metadata"]["resourceVersion"], old) else { return Ok(()) };
    if wanted.is_null() || *wanted == "" || *wanted == old["metadata"]["resourceVersion"] {
        return Ok(());
    }
    Err((
        409,
        format!(
            "Operation cannot be fulfilled on {} {}: the object has been modified; please apply your \
             changes to the latest version and try again",
            target.plural, old["metadata"]["name"]
        ),
    ))
}

fn patched(
    old: Option<Value>,
    content: &str,
    patch: &Value,
    query: &BTreeMap<String, String>,
    at: &At,
) -> Result<Value, (u16, String)> {
    match content {
        "application/merge-patch+json" | "application/strategic-merge-patch+json" => {
            let mut new = old.ok_or_else(|| (404, format!("{} not found", at.name)))?;
            merge(&mut new, patch);
            Ok(new)
        }
        "application/apply-patch+yaml" => {
            if query.get("fieldManager").is_none_or(String::is_empty) {
                return Err((400, "fieldManager is required for apply patch".into()));
            }
            // One manager only, so what it says replaces what it said.
            let mut new = old.unwrap_or_else(|| json!({}));
            merge(&mut new, patch);
            Ok(new)
        }
        other => Err((415, format!("the body of the request was in an unknown format: {other}"))),
    }
}

/// RFC 7386.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (name, value) in patch {
        if value.is_null() {
            if let Some(target) = target.as_object_mut() {
                target.remove(name);
            }
        } else {
            merge(&mut target[name], value);
        }
    }
}
