//! What is answered to which request.

use std::{
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::Instant,
};

use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::Bytes,
    header::{ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue},
};
use tracing::debug;

use crate::{
    maps::{read, tables::Tables},
    view::{
        interfaces::{self, InterfaceLine},
        metrics::{self, Facts, Format, Room},
        status::{Check, Status, health, readiness},
    },
};

const TEXT: &str = "text/plain; charset=utf-8";
const WHAT_THERE_IS: &str = "there are:\n\
    /healthz  whether the daemon's main loop goes round (?verbose lists what was looked at)\n\
    /readyz   whether everything is in place (?verbose)\n\
    /metrics  for Prometheus\n";

type Answer = Response<Full<Bytes>>;

/// Answers requests.
pub(super) struct Answers {
    status: Status,
    pin_dir: PathBuf,
    /// Opened when the daemon has filled them.
    tables: Mutex<Option<(Tables, Vec<Room>)>>,
}

impl Answers {
    pub(super) fn new(status: Status, pin_dir: &Path) -> Self {
        Self { status, pin_dir: pin_dir.to_owned(), tables: Mutex::new(None) }
    }

    pub(super) fn answer<B>(&self, request: &Request<B>) -> Answer {
        let begin = Instant::now();
        let path = request.uri().path();
        let verbose = request.uri().query().is_some_and(|query| {
            query.split('&').any(|part| part.split('=').next() == Some("verbose"))
        });
        let known = ["/healthz", "/readyz", "/metrics"].contains(&path);
        let answer = if !known {
            text(StatusCode::NOT_FOUND, format!("there is no {path}; {WHAT_THERE_IS}"))
        } else if ![Method::GET, Method::HEAD].contains(request.method()) {
            let said = format!("{path} takes GET and HEAD only, not {}\n", request.method());
            let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, said);
            answer.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            answer
        } else {
            match path {
                "/healthz" => {
                    let checks = health(&self.status.get(), Instant::now());
                    checked("healthz", &checks, verbose)
                }
                "/readyz" => checked("readyz", &self.readiness(), verbose),
                _ => self.metrics(Format::accepted(request.headers().get_all(ACCEPT))),
            }
        };
        debug!(
            method = %request.method(),
            path,
            status = answer.status().as_u16(),
            took = ?begin.elapsed(),
            "answered an HTTP request"
        );
        answer
    }

    fn readiness(&self) -> Vec<Check> {
        readiness(&self.status.get(), &self.interfaces(), Instant::now())
    }

    /// As the kernel has them now. What cannot be read is not attached.
    fn interfaces(&self) -> Vec<InterfaceLine> {
        interfaces::interfaces(&self.pin_dir, false).unwrap_or_else(|e| {
            debug!("{e:#}");
            Vec::new()
        })
    }

    fn metrics(&self, format: Format) -> Answer {
        let state = self.status.get();
        let (counters, rooms) =
            if state.maps.is_filled { self.counters() } else { Default::default() };
        let watched = state.watches.as_ref().map(|watches| watches.get());
        let control = state.control.as_ref().map(|control| control.get());
        let facts = Facts {
            state: &state,
            counters: &counters,
            rooms: &rooms,
            interfaces: &self.interfaces(),
            watched: watched.as_ref(),
            control: control.as_ref(),
            now: Instant::now(),
        };
        match metrics::render(&facts, format) {
            Ok(body) => respond(StatusCode::OK, format.content_type(), body),
            Err(e) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{e}\n")),
        }
    }

    /// The counters of the data path, and the room in the maps; nothing if they cannot be read.
    fn counters(&self) -> (Vec<u64>, Vec<Room>) {
        let mut tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        if tables.is_none() {
            *tables = Tables::open(&self.pin_dir)
                .inspect_err(|e| debug!("{e}"))
                .ok()
                .map(|tables| (tables, metrics::rooms(&self.pin_dir)));
        }
        let Some((tables, rooms)) = &*tables else { return Default::default() };
        let counters = read::counts(&tables.counters).inspect_err(|e| debug!("{e:#}"));
        (counters.unwrap_or_default(), rooms.clone())
    }
}

/// As the API server of Kubernetes writes it.
fn checked(name: &str, checks: &[Check], verbose: bool) -> Answer {
    let passed = checks.iter().all(|check| check.problems.is_empty());
    let mut said = String::new();
    for check in checks {
        for problem in &check.problems {
            said.push_str(&format!("[-]{}: {problem}\n", check.name));
        }
        if check.problems.is_empty() && verbose {
            said.push_str(&format!("[+]{} ok\n", check.name));
        }
    }
    match (passed, verbose) {
        (true, false) => text(StatusCode::OK, "ok\n".to_owned()),
        (true, true) => text(StatusCode::OK, format!("{said}{name} check passed\n")),
        (false, _) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{said}{name} check failed\n")),
    }
}

fn text(status: StatusCode, body: String) -> Answer {
    respond(status, TEXT, body)
}

fn respond(status: StatusCode, content_type: &'static str, body: String) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from(body)));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}
