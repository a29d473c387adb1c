//! A watch.

use std::{io, sync::Arc, time::Duration};

use futures_util::{StreamExt as _, stream};
use hyper::{Response, body::Bytes};
use serde_json::{Value, json};
use tokio::{
    sync::{broadcast, mpsc, watch},
    time::{Instant, sleep, sleep_until},
};

use super::{
    Control, Shared,
    reply::{self, Body},
    select::Selector,
    store::{At, Change},
};

/// What a watch is about.
pub(super) struct Wanted {
    pub(super) plural: String,
    pub(super) namespace: Option<String>,
    pub(super) selector: Selector,
    /// `None`: begin with what is there.
    pub(super) version: Option<u64>,
    pub(super) bookmarks: bool,
    pub(super) limit: Duration,
}

/// Opens a watch.
pub(super) fn open(shared: Arc<Shared>, wanted: Wanted) -> Response<Body> {
    // Subscribed here, so that whoever saw the request can tell the watch something.
    let (changed, control) = (shared.changed.subscribe(), shared.control.subscribe());
    let (lines, receiver) = mpsc::channel(16);
    tokio::spawn(async move {
        let watch = Watch { shared, wanted, lines };
        // Whoever has gone away needs no more lines.
        let _ = watch.run(changed, control).await;
    });
    let lines = stream::unfold(receiver, |mut receiver| async {
        let line = receiver.recv().await?;
        Some((line, receiver))
    });
    reply::stream(lines.boxed())
}

struct Watch {
    shared: Arc<Shared>,
    wanted: Wanted,
    lines: mpsc::Sender<io::Result<Bytes>>,
}

type Sent = Result<(), mpsc::error::SendError<io::Result<Bytes>>>;

impl Watch {
    async fn run(
        &self,
        mut changed: watch::Receiver<u64>,
        mut control: broadcast::Receiver<Control>,
    ) -> Sent {
        let end = Instant::now() + self.wanted.limit;
        let mut version = match self.wanted.version {
            Some(version) => version,
            None => self.begin().await?,
        };
        let known = self.shared.state().store.knows(version);
        if let Err(expired) = known {
            let text = format!("too old resource version: {} ({})", expired.asked, expired.oldest);
            return self.event("ERROR", &reply::status(410, &text)).await;
        }
        loop {
            let changes = self.shared.state().store.since(version);
            for change in changes {
                version = change.version;
                self.change(&change).await?;
            }
            tokio::select! {
                _ = self.lines.closed() => return Ok(()),
                _ = changed.changed() => {}
                () = sleep_until(end) => return self.bookmark().await,
                told = control.recv() => match told {
                    Err(_) | Ok(Control::End) => return Ok(()),
                    Ok(Control::Break) => {
                        self.lines.send(Ok(Bytes::from_static(b"{\"type\":\"MODI"))).await?;
                        return self.lines.send(Err(io::Error::other("broken off"))).await;
                    }
                    Ok(Control::Bookmark) => self.bookmark().await?,
                    Ok(Control::Garbage) => {
                        self.lines.send(Ok(Bytes::from_static(b"what?\n"))).await?;
                    }
                    Ok(Control::Error(code)) => {
                        return self.event("ERROR", &reply::status(code, "as told")).await;
                    }
                    Ok(Control::Repeat(at)) => {
                        let object = self.shared.state().store.get(&at).cloned();
                        if let Some(object) = object.filter(|object| self.wants(&at, Some(object))) {
                            self.event("MODIFIED", &object).await?;
                        }
                    }
                },
            }
        }
    }

    /// All that is there.
    async fn begin(&self) -> Result<u64, mpsc::error::SendError<io::Result<Bytes>>> {
        let (version, all) = {
            let state = self.shared.state();
            let all = state.store.all(&self.wanted.plural);
            let all = all.filter(|(at, object)| self.wants(at, Some(object)));
            (state.store.version(), all.map(|(_, object)| object.clone()).collect::<Vec<_>>())
        };
        for object in all {
            self.event("ADDED", &object).await?;
        }
        Ok(version)
    }

    fn wants(&self, at: &At, object: Option<&Value>) -> bool {
        let Wanted { plural, namespace, selector, .. } = &self.wanted;
        at.plural == *plural
            && namespace.as_ref().is_none_or(|namespace| *namespace == at.namespace)
            && object.is_some_and(|object| selector.selects(object))
    }

    /// What a change is for this watch: an object that is not selected any more is deleted.
    async fn change(&self, change: &Change) -> Sent {
        let old = self.wants(&change.at, change.old.as_ref());
        let new = self.wants(&change.at, change.new.as_ref());
        let (kind, object) = match (old, new) {
            (false, false) => return Ok(()),
            (false, true) => ("ADDED", &change.new),
            (true, true) => ("MODIFIED", &change.new),
            (true, false) => ("DELETED", &change.old),
        };
        let mut object = object.clone().unwrap_or_default();
        object["metadata"]["resourceVersion"] = json!(change.version.to_string());
        let pause = self.shared.state().pause;
        sleep(pause).await;
        self.event(kind, &object).await
    }

    async fn bookmark(&self) -> Sent {
        if !self.wanted.bookmarks {
            return Ok(());
        }
        // The last version that is known, which may be that of another kind of object.
        let version = self.shared.state().store.version();
        // As kube-apiserver: a watch is told of nothing that is not newer than what it asked for.
        if self.wanted.version.is_some_and(|asked| version <= asked) {
            return Ok(());
        }
        let kind = match self.wanted.plural.as_str() {
            "services" => "Service",
            "endpointslices" => "EndpointSlice",
            "nodes" => "Node",
            "secrets" => "Secret",
            _ => "Lease",
        };
        let object = json!({
            "kind": kind, "apiVersion": "v1",
            "metadata": {"resourceVersion": version.to_string(), "creationTimestamp": null},
        });
        self.event("BOOKMARK", &object).await
    }

    async fn event(&self, kind: &str, object: &Value) -> Sent {
        let line = json!({"type": kind, "object": object});
        self.lines.send(Ok(Bytes::from(format!("{line}\n")))).await
    }
}
