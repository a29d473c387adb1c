//! HTTP over TLS: who may ask, and what is asked.

use std::{
    collections::BTreeMap, convert::Infallible, net::IpAddr, net::TcpListener, sync::Arc,
    time::Duration,
};

use anyhow::Result;
use http_body_util::BodyExt as _;
use hyper::{
    Method, Request as HttpRequest, Response,
    body::{Bytes, Incoming},
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
    },
};

use super::{
    Request, Shared, TOKEN,
    reply::{self, Body},
    rights,
    select::Selector,
    stream::{self, Wanted},
    write,
};

/// The server's end of TLS, with a certificate for its address.
pub(super) fn tls(
    ca: &rcgen::CertifiedIssuer<'_, rcgen::KeyPair>,
    address: IpAddr,
) -> Result<TlsAcceptor> {
    let key = rcgen::KeyPair::generate()?;
    let certificate =
        rcgen::CertificateParams::new(vec![address.to_string()])?.signed_by(&key, ca)?;
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Answers until dropped.
pub(super) async fn serve(listener: TcpListener, tls: TlsAcceptor, shared: Arc<Shared>) {
    let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let (tls, shared) = (tls.clone(), Arc::clone(&shared));
        tokio::spawn(async move {
            let Ok(stream) = tls.accept(stream).await else { return };
            let service = service_fn(move |request| {
                let shared = Arc::clone(&shared);
                async move { Ok::<_, Infallible>(answer(request, shared).await) }
            });
            let connection = hyper::server::conn::http1::Builder::new();
            // It ends when the client goes, or when a watch is told to break off.
            let _ = connection.serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

/// What a URL is about.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub(super) api_version: String,
    pub(super) plural: String,
    pub(super) namespace: Option<String>,
    pub(super) name: Option<String>,
    pub(super) subresource: Option<String>,
}

impl Target {
    fn of(path: &str) -> Option<Self> {
        let mut parts = path.trim_matches('/').split('/').map(str::to_owned).peekable();
        let api_version = match parts.next()?.as_str() {
            "api" => parts.next()?,
            "apis" => format!("{}/{}", parts.next()?, parts.next()?),
            _ => return None,
        };
        let namespace = parts.next_if(|part| part == "namespaces").and_then(|_| parts.next());
        let (plural, name, subresource) = (parts.next()?, parts.next(), parts.next());
        let expected = match plural.as_str() {
            "services" | "nodes" | "secrets" => "v1",
            "endpointslices" => "discovery.k8s.io/v1",
            "leases" => "coordination.k8s.io/v1",
            "events" => "events.k8s.io/v1",
            _ => return None,
        };
        (api_version == expected).then_some(Self {
            api_version,
            plural,
            namespace,
            name,
            subresource,
        })
    }
}

async fn answer(request: HttpRequest<Incoming>, shared: Arc<Shared>) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let query: BTreeMap<String, String> =
        form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes())
            .into_owned()
            .collect();
    let authorized = parts.headers.get("authorization").and_then(|value| value.to_str().ok())
        == Some(&format!("Bearer {TOKEN}"));
    if !authorized {
        return reply::refusal(401, "Unauthorized");
    }
    let Some(target) = Target::of(parts.uri.path()) else {
        return reply::refusal(404, "the server could not find the requested resource");
    };
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let is_watch = query.get("watch").is_some_and(|watch| watch == "true" || watch == "1");
    let verb = match (&parts.method, &target.name) {
        (&Method::GET, None) if is_watch => "watch",
        (&Method::GET, None) => "list",
        (&Method::GET, Some(_)) => "get",
        (&Method::POST, None) => "create",
        (&Method::PUT, Some(_)) => "update",
        (&Method::PATCH, Some(_)) => "patch",
        (&Method::DELETE, Some(_)) => "delete",
        _ => return reply::refusal(405, "the method is not allowed"),
    };
    if is_unanswered(&shared, verb, &target.plural) {
        return std::future::pending().await;
    }
    let content = parts.headers.get("content-type").and_then(|value| value.to_str().ok());
    let content = content.unwrap_or_default().to_owned();
    let refused = rights::refusal(verb, &target, &query).or_else(|| fault(&shared, verb, &target));
    let response = match refused {
        Some(response) => response,
        None => match verb {
            "watch" => watch(&shared, &target, &query),
            "list" => list(&shared, &target, &query),
            verb => write::answer(&shared, verb, &target, &query, &content, &body),
        },
    };
    note(&shared, verb, &target, query, &body, response.status().as_u16());
    response
}

/// Whether this one is to get no answer; the next one does.
fn is_unanswered(shared: &Shared, verb: &str, plural: &str) -> bool {
    let mut state = shared.state();
    let found = state.unanswered.iter().position(|(v, p)| v == verb && p == plural);
    found.map(|i| state.unanswered.remove(i)).is_some()
}

fn note(
    shared: &Shared,
    verb: &str,
    target: &Target,
    query: BTreeMap<String, String>,
    body: &Bytes,
    status: u16,
) {
    let Target { namespace, name, .. } = target;
    let resource = resource(target);
    let object = [namespace, name].into_iter().flatten().cloned().collect::<Vec<_>>().join("/");
    let body = serde_json::from_slice(body).unwrap_or(Value::Null);
    shared.state().requests.push(Request {
        verb: verb.into(),
        resource,
        object,
        query,
        body,
        status,
    });
}

fn resource(target: &Target) -> String {
    match &target.subresource {
        Some(subresource) => format!("{}/{subresource}", target.plural),
        None => target.plural.clone(),
    }
}

/// What it was told to answer instead.
fn fault(shared: &Shared, verb: &str, target: &Target) -> Option<Response<Body>> {
    let mut state = shared.state();
    let plural = &target.plural;
    let resource = resource(target);
    if state.forbidden.contains(&(verb.to_owned(), resource.clone())) {
        let message =
            format!("{resource} is forbidden: User \"test\" cannot {verb} resource \"{resource}\"");
        return Some(reply::refusal(403, &message));
    }
    let name = target.name.clone().unwrap_or_default();
    let denied = state.denied.get(&(plural.clone(), name));
    if let Some(seconds) = denied.filter(|_| !matches!(verb, "get" | "list" | "watch")) {
        let message = "admission webhook \"test\" denied the request: as told";
        return Some(reply::refusal_for(403, message, *seconds));
    }
    let fault = state
        .faults
        .iter_mut()
        .find(|fault| fault.verb == verb && fault.plural == *plural && fault.times > 0)?;
    fault.times -= 1;
    Some(reply::refusal(fault.status, "as told"))
}

fn selector(query: &BTreeMap<String, String>) -> Result<Selector, String> {
    let value = |name: &str| query.get(name).map(String::as_str);
    Selector::parse(value("labelSelector"), value("fieldSelector"))
}

fn watch(
    shared: &Arc<Shared>,
    target: &Target,
    query: &BTreeMap<String, String>,
) -> Response<Body> {
    let selector = match selector(query) {
        Ok(selector) => selector,
        Err(message) => return reply::refusal(400, &message),
    };
    let version = query.get("resourceVersion").map(String::as_str).unwrap_or_default();
    let version = match version {
        "" | "0" => None,
        version => match version.parse() {
            Ok(version) => Some(version),
            Err(_) => return reply::refusal(400, "Invalid value for resourceVersion"),
        },
    };
    let seconds = query.get("timeoutSeconds").and_then(|seconds| seconds.parse().ok());
    let wanted = Wanted {
        plural: target.plural.clone(),
        namespace: target.namespace.clone(),
        selector,
        version,
        bookmarks: query.get("allowWatchBookmarks").is_some_and(|allow| allow == "true"),
        limit: Duration::from_secs(seconds.unwrap_or(1800)),
    };
    stream::open(Arc::clone(shared), wanted)
}

fn list(shared: &Shared, target: &Target, query: &BTreeMap<String, String>) -> Response<Body> {
    let selector = match selector(query) {
        Ok(selector) => selector,
        Err(message) => return reply::refusal(400, &message),
    };
    let limit = query.get("limit").and_then(|limit| limit.parse().ok()).filter(|limit| *limit > 0);
    let limit = limit.unwrap_or(usize::MAX);
    let mut state = shared.state();
    let is_empty = state.empty.contains(&target.plural);
    let page = match query.get("continue").filter(|token| !token.is_empty()) {
        None => state.store.list(&target.plural, limit, |at, object| {
            !is_empty
                && target.namespace.as_ref().is_none_or(|namespace| *namespace == at.namespace)
                && selector.selects(object)
        }),
        Some(_) if query.get("resourceVersion").is_some_and(|version| !version.is_empty()) => {
            return reply::refusal(
                400,
                "specifying resource version is not allowed when using continue",
            );
        }
        Some(_) if state.lost_pages > 0 => {
            state.lost_pages -= 1;
            return too_old();
        }
        Some(token) => match state.store.more(token, limit) {
            Some(page) => page,
            None => return too_old(),
        },
    };
    let mut metadata = json!({"resourceVersion": page.version.to_string()});
    if let Some(more) = page.more {
        metadata["continue"] = json!(more);
        metadata["remainingItemCount"] = json!(page.remaining);
    }
    // The items of a real list have no kind and no version of the API.
    let items: Vec<_> = page
        .items
        .into_iter()
        .map(|mut item| {
            if let Some(item) = item.as_object_mut() {
                item.remove("kind");
                item.remove("apiVersion");
            }
            item
        })
        .collect();
    reply::object(
        200,
        &json!({
            "kind": "List", "apiVersion": target.api_version, "metadata": metadata, "items": items,
        }),
    )
}

fn too_old() -> Response<Body> {
    let message = "The provided continue parameter is too old to display a consistent list result.";
    reply::refusal(410, message)
}
