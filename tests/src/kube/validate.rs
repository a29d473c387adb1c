//! Rules of the real server, as far as the daemons' writes are concerned.

use std::net::IpAddr;

use k8s_openapi::{
    api::{coordination::v1::Lease, core::v1::Service, events::v1::Event},
    jiff::Timestamp,
};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::http::Target;

type Checked = Result<(), (u16, String)>;

fn invalid(message: impl Into<String>) -> Checked {
    Err((422, message.into()))
}

/// What a new object must not have.
pub(super) fn create(object: &Value) -> Checked {
    if is_set(&object["metadata"]["resourceVersion"]) {
        let message = "resourceVersion should not be set on objects to be created";
        return Err((500, message.to_owned()));
    }
    Ok(())
}

/// What a write to an object that is there has to have.
pub(super) fn update(verb: &str, body: &Value, target: &Target) -> Checked {
    if verb != "update" {
        return Ok(());
    }
    if body["metadata"]["name"].as_str() != target.name.as_deref() {
        let (name, url) = (&body["metadata"]["name"], &target.name);
        let message =
            format!("the name of the object ({name}) does not match the name on the URL ({url:?})");
        return Err((400, message));
    }
    let versioned = matches!(target.plural.as_str(), "leases" | "endpointslices");
    if versioned && !is_set(&body["metadata"]["resourceVersion"]) {
        return invalid(
            "metadata.resourceVersion: Invalid value: 0x0: must be specified for an update",
        );
    }
    Ok(())
}

/// Whether an object is one of its kind.
pub(super) fn object(plural: &str, object: &Value) -> Checked {
    match plural {
        "services" => typed::<Service>(object).and_then(|()| service(object)),
        "leases" => typed::<Lease>(object).and_then(|()| lease(object)),
        "events" => typed::<Event>(object).and_then(|()| event(object)),
        _ => Ok(()),
    }
}

/// Whether an object may become another.
pub(super) fn change(plural: &str, old: &Value, new: &Value) -> Checked {
    if plural != "events" {
        return Ok(());
    }
    let fixed = [
        "eventTime",
        "regarding",
        "related",
        "reason",
        "action",
        "note",
        "type",
        "reportingController",
        "reportingInstance",
    ];
    for field in fixed {
        if old[field] != new[field] {
            return invalid(format!("{field}: Invalid value: {}: field is immutable", new[field]));
        }
    }
    Ok(())
}

/// The server refuses what it cannot decode.
fn typed<K: DeserializeOwned>(object: &Value) -> Checked {
    let read = K::deserialize(object).map(drop);
    read.map_err(|e| (400, format!("the object cannot be decoded: {e}")))
}

fn is_set(value: &Value) -> bool {
    !value.is_null() && value != ""
}

fn service(object: &Value) -> Checked {
    let ingress = object["status"]["loadBalancer"]["ingress"].as_array();
    let ingress = ingress.map(Vec::as_slice).unwrap_or_default();
    if !ingress.is_empty() && object["spec"]["type"] != "LoadBalancer" {
        return invalid(
            "status.loadBalancer.ingress: Forbidden: may only be used when `spec.type` is \
             \"LoadBalancer\"",
        );
    }
    for item in ingress {
        let (ip, mode) = (item["ip"].as_str(), &item["ipMode"]);
        if ip.is_some_and(|ip| ip.parse::<IpAddr>().is_err()) {
            return invalid(format!("status.loadBalancer.ingress.ip: Invalid value: {ip:?}"));
        }
        if ip.is_some() && !(mode == "VIP" || mode == "Proxy") {
            return invalid("status.loadBalancer.ingress.ipMode: Required value");
        }
    }
    Ok(())
}

fn lease(object: &Value) -> Checked {
    let spec = &object["spec"];
    if spec["leaseDurationSeconds"].as_i64().is_some_and(|seconds| seconds <= 0) {
        return invalid("spec.leaseDurationSeconds: Invalid value: must be greater than 0");
    }
    if spec["leaseTransitions"].as_i64().is_some_and(|transitions| transitions < 0) {
        return invalid("spec.leaseTransitions: Invalid value: must be greater than or equal to 0");
    }
    micro_time("spec.acquireTime", &spec["acquireTime"])?;
    micro_time("spec.renewTime", &spec["renewTime"])
}

fn event(object: &Value) -> Checked {
    for (field, most) in
        [("reportingController", 317), ("reportingInstance", 128), ("action", 128), ("reason", 128)]
    {
        match object[field].as_str().map(str::len) {
            None | Some(0) => return invalid(format!("{field}: Required value")),
            Some(len) if len > most => {
                return invalid(format!(
                    "{field}: Invalid value: can have at most {most} characters"
                ));
            }
            Some(_) => {}
        }
    }
    if !is_set(&object["eventTime"]) {
        return invalid("eventTime: Required value");
    }
    micro_time("eventTime", &object["eventTime"])?;
    if !(object["type"] == "Normal" || object["type"] == "Warning") {
        return invalid(format!("type: Invalid value: {}", object["type"]));
    }
    let controller = object["reportingController"].as_str().unwrap_or_default();
    let qualified = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
    if controller.matches('/').count() > 1 || !controller.chars().all(qualified) {
        return invalid(format!("reportingController: Invalid value: {controller:?}"));
    }
    let of = object["regarding"]["namespace"].as_str().unwrap_or_default();
    if object["metadata"]["namespace"].as_str() != Some(of) {
        return invalid("regarding.namespace: Invalid value: does not match event.namespace");
    }
    if object["note"].as_str().is_some_and(|note| note.len() > 1024) {
        return invalid("note: Invalid value: can have at most 1024 characters");
    }
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    let in_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-.".contains(c);
    if name.len() > 253 || !name.chars().all(in_name) {
        return invalid(format!("metadata.name: Invalid value: {name:?}"));
    }
    for field in [
        "deprecatedSource",
        "deprecatedFirstTimestamp",
        "deprecatedLastTimestamp",
        "deprecatedCount",
    ] {
        if !object[field].is_null() {
            return invalid(format!("{field}: Invalid value: needs to be unset"));
        }
    }
    let series = &object["series"];
    if series.is_null() {
        return Ok(());
    }
    if series["count"].as_i64().is_none_or(|count| count < 2) {
        return invalid("series.count: Invalid value: should be at least 2");
    }
    if !is_set(&series["lastObservedTime"]) {
        return invalid("series.lastObservedTime: Required value");
    }
    micro_time("series.lastObservedTime", &series["lastObservedTime"])
}

/// The server reads exactly six digits behind the point.
fn micro_time(field: &str, value: &Value) -> Checked {
    if value.is_null() {
        return Ok(());
    }
    let text = value.as_str().unwrap_or_default();
    let digits = text.split_once('.').map(|(_, rest)| rest.trim_end_matches('Z').len());
    if text.parse::<Timestamp>().is_err() || digits != Some(6) {
        return Err((
            400,
            format!("{field}: parsing time {value}: not as 2006-01-02T15:04:05.000000Z"),
        ));
    }
    Ok(())
}
