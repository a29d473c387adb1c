//! Lists and watches one kind of object, for ever.
//!
//! `kube`'s own watcher does nearly the same. It does not tell of bookmarks, which are the only sign
//! of life of a watch where nothing happens; it does not list without pages when a list takes longer
//! than its pages are kept; and it brings a reflector, a controller and their dependencies along.

use std::{error::Error as _, fmt::Debug, time::Duration};

use futures_util::StreamExt as _;
use kube::{
    Api, Resource, ResourceExt as _,
    api::{ListParams, WatchEvent, WatchParams},
    core::Status,
};
use serde::de::DeserializeOwned;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout},
};
use tracing::{debug, info, warn};

use super::{
    backoff::{Backoff, jitter},
    state::{Kind, WatchState},
};

/// Objects in one page of a list.
const PAGE: u32 = 500;
/// How long the server may take for a page, or to open a watch.
const ANSWER: Duration = Duration::from_secs(60);
/// The server ends a watch after this, and up to a quarter more.
const WATCH: Duration = Duration::from_secs(230);
/// After so long without a sign of life everything is listed anew. Servers send a bookmark each minute.
pub(super) const SILENCE: Duration = Duration::from_secs(150);
/// A watch that ends sooner than this was not of much use.
const SHORT: Duration = Duration::from_secs(5);

/// What a watch says.
#[derive(Debug)]
pub(super) enum Event<K> {
    /// These are all.
    Listed(Vec<K>),
    /// It is new, or changed.
    Applied(Box<K>),
    /// It is no more.
    Deleted(Box<K>),
}

/// A watch of one kind of object.
pub(super) struct Watch<K, U> {
    pub(super) api: Api<K>,
    pub(super) kind: Kind,
    pub(super) labels: Option<String>,
    pub(super) fields: Option<String>,
    pub(super) state: WatchState,
    /// How long it may say nothing.
    pub(super) silence: Duration,
    pub(super) updates: mpsc::Sender<U>,
    /// From an event of this kind to what the follower takes.
    pub(super) wrap: fn(Event<K>) -> U,
}

/// Whoever follows the events is no more.
pub(super) struct Closed;

/// Why a watch ended.
enum End {
    /// It can go on where it was.
    Resume,
    /// What came after its version is forgotten: only a new list helps.
    Gone,
}

impl<K, U> Watch<K, U>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
    U: Send + 'static,
{
    /// Runs until nobody follows any more.
    pub(super) async fn run(self) -> Closed {
        let mut backoff = Backoff::default();
        loop {
            let version = match self.list().await {
                Ok((objects, version)) => {
                    info!(kind = %self.kind, objects = objects.len(), "listed");
                    self.state.update_kind(self.kind, |kind| {
                        kind.is_listed = true;
                        kind.lists += 1;
                        kind.heard = Some(Instant::now().into_std());
                    });
                    if self.send(Event::Listed(objects)).await.is_err() {
                        return Closed;
                    }
                    version
                }
                Err(e) => {
                    self.failed("listing", &e, &mut backoff).await;
                    continue;
                }
            };
            if let Err(closed) = self.follow(version, &mut backoff).await {
                return closed;
            }
            // A server that answers every watch with 410 is not to be asked for lists without end.
            sleep(backoff.next(Duration::ZERO)).await;
        }
    }

    /// All objects, page by page, and the version that they are of.
    async fn list(&self) -> Result<(Vec<K>, String), Failure> {
        let mut params = ListParams {
            label_selector: self.labels.clone(),
            field_selector: self.fields.clone(),
            limit: Some(PAGE),
            ..ListParams::default()
        };
        let mut all = Vec::new();
        loop {
            let page = match answer(self.api.list(&params)).await {
                // The rest of the pages is forgotten. All at once cannot be.
                Err(e) if e.is_gone() && params.continue_token.is_some() => {
                    info!(kind = %self.kind, "the list took too long for its pages: all at once");
                    (params.continue_token, params.limit) = (None, None);
                    all.clear();
                    continue;
                }
                page => page?,
            };
            all.extend(page.items.into_iter().map(slim));
            let token = page.metadata.continue_.filter(|token| !token.is_empty());
            if token.is_none() {
                let version = page.metadata.resource_version.filter(|v| !v.is_empty());
                return Ok((all, version.ok_or(Failure::NoVersion)?));
            }
            if all.len().is_multiple_of(10 * PAGE as usize) {
                info!(kind = %self.kind, objects = all.len(), "listing");
            }
            params.continue_token = token;
        }
    }

    /// Watches from a version on, until a new list is needed.
    async fn follow(&self, mut version: String, backoff: &mut Backoff) -> Result<(), Closed> {
        loop {
            let begin = Instant::now();
            let end = self.watch(&mut version, backoff).await?;
            if begin.elapsed() >= SHORT {
                backoff.reset();
            }
            match end {
                Ok(End::Gone) => {
                    info!(kind = %self.kind, "the watch cannot go on where it was: listing anew");
                    return Ok(());
                }
                Ok(End::Resume) if begin.elapsed() < SHORT => {
                    sleep(backoff.next(Duration::ZERO)).await;
                }
                Ok(End::Resume) => {}
                Err(e) if e.is_gone() => return Ok(()),
                Err(e) => self.failed("watching", &e, backoff).await,
            }
        }
    }

    /// One watch. `version` follows what was seen.
    async fn watch(
        &self,
        version: &mut String,
        backoff: &mut Backoff,
    ) -> Result<Result<End, Failure>, Closed> {
        let seconds = (WATCH + jitter(WATCH / 4)).as_secs() as u32;
        let params = WatchParams {
            label_selector: self.labels.clone(),
            field_selector: self.fields.clone(),
            timeout: Some(seconds),
            ..WatchParams::default()
        };
        let stream = match answer(self.api.watch(&params, version)).await {
            Ok(stream) => stream,
            Err(e) => return Ok(Err(e)),
        };
        let mut stream = std::pin::pin!(stream);
        debug!(kind = %self.kind, version, "watching");
        let heard = |is_event: bool| {
            self.state.update_kind(self.kind, |kind| {
                kind.is_connected = true;
                kind.last_error = None;
                kind.events += u64::from(is_event);
                kind.heard = Some(Instant::now().into_std());
            });
        };
        heard(false);
        let end = loop {
            let Ok(event) = timeout(self.silence, stream.next()).await else {
                // A connection that is dead, or a server whose data was restored from a backup: to a
                // version that it has not got to again it says nothing, and no error either.
                warn!(kind = %self.kind, "the watch was silent for too long");
                break Ok(End::Gone);
            };
            let event = match event {
                None => break Ok(End::Resume),
                Some(Err(e)) => break Err(Failure::Kube(e)),
                Some(Ok(WatchEvent::Error(status))) if status.code == 410 => break Ok(End::Gone),
                Some(Ok(WatchEvent::Error(status))) => break Err(Failure::Status(status)),
                Some(Ok(WatchEvent::Bookmark(bookmark))) => {
                    *version = bookmark.metadata.resource_version;
                    backoff.reset();
                    heard(false);
                    continue;
                }
                Some(Ok(WatchEvent::Added(object) | WatchEvent::Modified(object))) => {
                    Event::Applied(Box::new(slim(object)))
                }
                Some(Ok(WatchEvent::Deleted(object))) => Event::Deleted(Box::new(slim(object))),
            };
            if let Event::Applied(object) | Event::Deleted(object) = &event
                && let Some(new) = object.resource_version()
            {
                *version = new;
            }
            backoff.reset();
            heard(true);
            self.send(event).await?;
        };
        self.state.update_kind(self.kind, |kind| kind.is_connected = false);
        Ok(end)
    }

    async fn send(&self, event: Event<K>) -> Result<(), Closed> {
        self.updates.send((self.wrap)(event)).await.map_err(|_| Closed)
    }

    async fn failed(&self, doing: &str, error: &Failure, backoff: &mut Backoff) {
        let text = error.text();
        let is_new = self.state.get().kind(self.kind).last_error.as_ref() != Some(&text);
        self.state.failed(self.kind, &text);
        let wait = backoff.next(error.asks_for());
        let seconds = wait.as_secs_f64();
        if is_new {
            warn!(kind = %self.kind, "{doing} failed: {text}; tried again until it works");
        } else {
            debug!(kind = %self.kind, "{doing} failed: {text}; again in {seconds:.1} s");
        }
        sleep(wait).await;
    }
}

/// Without what is never looked at, and is often the larger part.
fn slim<K: Resource>(mut object: K) -> K {
    object.meta_mut().managed_fields = None;
    object
}

async fn answer<T>(request: impl Future<Output = kube::Result<T>>) -> Result<T, Failure> {
    match timeout(ANSWER, request).await {
        Ok(result) => result.map_err(Failure::Kube),
        Err(_) => Err(Failure::Silence),
    }
}

/// What can go wrong.
enum Failure {
    Kube(kube::Error),
    Status(Box<Status>),
    NoVersion,
    Silence,
}

impl Failure {
    fn status(&self) -> Option<&Status> {
        match self {
            Self::Kube(kube::Error::Api(status)) | Self::Status(status) => Some(status),
            _ => None,
        }
    }

    fn is_gone(&self) -> bool {
        self.status().is_some_and(|status| status.code == 410)
    }

    fn asks_for(&self) -> Duration {
        let details = self.status().and_then(|status| status.details.as_ref());
        details.map_or(Duration::ZERO, |d| Duration::from_secs(d.retry_after_seconds.into()))
    }

    fn text(&self) -> String {
        match self {
            Self::Silence => format!("no answer within {} s", ANSWER.as_secs()),
            Self::NoVersion => "the list has no resourceVersion".into(),
            Self::Status(status) => status_text(status),
            Self::Kube(e) => error_text(e),
        }
    }
}

fn status_text(status: &Status) -> String {
    let hint = match status.code {
        401 => " (is the token or certificate right?)",
        403 => " (is the ClusterRole of deploy/ bound to the daemon's account?)",
        _ => "",
    };
    format!("{} {}: {}{hint}", status.code, status.reason, status.message)
}

/// An error of the client, with what caused it.
pub(crate) fn error_text(error: &kube::Error) -> String {
    if let kube::Error::Api(status) = error {
        return status_text(status);
    }
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}
