//! Which Events the cluster is to have, and when each is to be written. Pure: time is passed in.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::Hasher as _,
    time::Duration,
};

use k8s_openapi::{
    api::{core::v1::ObjectReference, events::v1::Event},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
    jiff::Timestamp,
};
use serde_json::{Value, json};
use siphasher::sip::SipHasher24;
use tokio::time::Instant;

use crate::kube::{CLASS, ObjectKey, Problem, Reason, backoff::Backoff};

/// A problem that stays is told again after this: the API server forgets Events after an hour.
const AGAIN: Duration = Duration::from_secs(30 * 60);
/// How long what is past is remembered: if it comes back, it is the same Event.
const MEMORY: Duration = Duration::from_secs(60 * 60);
/// A Service may have so many new Events at once,
const BURST: u32 = 25;
/// and then one more after each of these.
const REFILL: Duration = Duration::from_secs(5 * 60);
/// The most that the API allows, in bytes.
const NOTE: usize = 1024;
const INSTANCE: usize = 128;

/// What an Event says.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Note {
    service: ObjectKey,
    uid: String,
    /// `Warning`, or `Normal`.
    is_warning: bool,
    reason: &'static str,
    action: &'static str,
    text: String,
}

impl Note {
    pub(super) fn given(service: ObjectKey, uid: String, text: String) -> Self {
        let (reason, action) = ("AddressGiven", ALLOCATE);
        Self { service, uid, is_warning: false, reason, action, text }
    }

    fn of(problem: &Problem) -> Self {
        let Problem { service, uid, reason, message } = problem;
        let action = match reason {
            Reason::NoAddress | Reason::AddressOutsidePool => ALLOCATE,
            _ => "Serve",
        };
        Self {
            service: service.clone(),
            uid: uid.clone(),
            is_warning: true,
            reason: reason.name(),
            action,
            text: cut(message, NOTE).to_owned(),
        }
    }

    /// The same for every daemon, so that the next leader does not tell all again.
    fn name(&self) -> String {
        let mut hasher = SipHasher24::new();
        for part in [&self.uid, self.reason, &self.text] {
            hasher.write(part.as_bytes());
            hasher.write_u8(0);
        }
        format!("{}.{:016x}", self.service.name, hasher.finish())
    }

    /// The Event. `instance` is this daemon's Node.
    fn event(&self, instance: &str, now: Timestamp) -> Event {
        Event {
            metadata: ObjectMeta {
                name: Some(self.name()),
                namespace: Some(self.service.namespace.clone()),
                ..ObjectMeta::default()
            },
            event_time: Some(MicroTime(now)),
            type_: Some(if self.is_warning { "Warning" } else { "Normal" }.into()),
            reason: Some(self.reason.into()),
            action: Some(self.action.into()),
            note: Some(self.text.clone()),
            regarding: Some(ObjectReference {
                api_version: Some("v1".into()),
                kind: Some("Service".into()),
                namespace: Some(self.service.namespace.clone()),
                name: Some(self.service.name.clone()),
                uid: Some(self.uid.clone()),
                ..ObjectReference::default()
            }),
            reporting_controller: Some(CLASS.into()),
            reporting_instance: Some(cut(instance, INSTANCE).into()),
            ..Event::default()
        }
    }
}

const ALLOCATE: &str = "AllocateAddress";

/// Something to write.
#[derive(Clone, Debug)]
pub(super) struct Write {
    pub(super) note: Note,
    /// The Event's namespace and name.
    pub(super) at: ObjectKey,
    pub(super) how: How,
}

#[derive(Clone, Debug)]
pub(super) enum How {
    /// A new Event.
    Create(Box<Event>),
    /// A merge patch that makes one a series.
    Series(Value),
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Written {
    /// It is written, or was there.
    Yes,
    /// There is no such Event any more: it needs a new one.
    Gone,
    /// It was not written, and the server wants to be left alone for so long.
    No(Duration),
}

/// What is to be told, and what was.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    entries: BTreeMap<Note, Entry>,
    buckets: BTreeMap<ObjectKey, Bucket>,
    backoff: Backoff,
}

#[derive(Debug)]
struct Entry {
    /// How often it was told, with what is about to be.
    count: i32,
    /// The Event is there, as far as is known.
    exists: bool,
    /// When it is to be written.
    due: Option<Instant>,
    has_failed: bool,
    /// It waits for a token, and has not used it.
    waits: bool,
    /// It was so until then; `None`: it is so.
    past: Option<Instant>,
}

/// Tokens of a Service.
#[derive(Debug)]
struct Bucket {
    tokens: u32,
    since: Instant,
}

impl Ledger {
    /// Learns all problems there are now.
    pub(super) fn problems<'a>(
        &mut self,
        problems: impl IntoIterator<Item = &'a Problem>,
        now: Instant,
    ) {
        let current: BTreeSet<Note> = problems.into_iter().map(Note::of).collect();
        for (note, entry) in &mut self.entries {
            if note.is_warning && entry.past.is_none() && !current.contains(note) {
                entry.past = Some(now);
                if let Some(bucket) = self.buckets.get_mut(&note.service)
                    && std::mem::take(&mut entry.waits)
                {
                    bucket.give_back();
                }
                entry.due = None;
            }
        }
        self.forget(now);
        for note in current {
            self.add(note, now, None);
        }
    }

    /// Something that has happened.
    pub(super) fn happened(&mut self, note: Note, now: Instant) {
        self.add(note, now, Some(now));
    }

    fn add(&mut self, note: Note, now: Instant, past: Option<Instant>) {
        if self.entries.get(&note).is_some_and(|entry| entry.past.is_none()) {
            return;
        }
        let bucket = self.buckets.entry(note.service.clone()).or_insert_with(|| full(now));
        let due = bucket.take(now);
        let new = || Entry {
            count: 1,
            exists: false,
            due: None,
            has_failed: false,
            waits: false,
            past: None,
        };
        let entry = self.entries.entry(note).or_insert_with(new);
        (entry.due, entry.waits, entry.past) = (Some(due), due > now, past);
    }

    fn forget(&mut self, now: Instant) {
        let is_old = |past: Instant| now > past + MEMORY;
        self.entries.retain(|_, entry| !entry.past.is_some_and(is_old));
        let services: BTreeSet<&ObjectKey> =
            self.entries.keys().map(|note| &note.service).collect();
        self.buckets.retain(|service, _| services.contains(service));
    }

    /// When something is to be written next.
    pub(super) fn next(&self) -> Option<Instant> {
        self.entries.values().filter_map(|entry| entry.due).min()
    }

    /// What is to be written now by the daemon on a Node, at most so much.
    pub(super) fn due(&self, node: &str, most: usize, now: Instant, time: Timestamp) -> Vec<Write> {
        let due = self.entries.iter().filter(|(_, entry)| entry.due.is_some_and(|due| due <= now));
        let write = |(note, entry): (&Note, &Entry)| {
            let how = if entry.exists {
                How::Series(json!({
                    "series": {"count": entry.count.max(2), "lastObservedTime": MicroTime(time)},
                }))
            } else {
                How::Create(Box::new(note.event(node, time)))
            };
            let at = ObjectKey::new(&note.service.namespace, note.name());
            Write { note: note.clone(), at, how }
        };
        due.take(most).map(write).collect()
    }

    /// Learns what came of a write.
    pub(super) fn wrote(&mut self, note: &Note, written: Written, now: Instant) {
        let Some(entry) = self.entries.get_mut(note) else { return };
        match written {
            Written::Yes => {
                entry.exists = true;
                (entry.has_failed, entry.waits) = (false, false);
                entry.count = entry.count.saturating_add(1);
                entry.due = entry.past.is_none().then(|| now + AGAIN);
                if !self.has_failed() {
                    self.backoff.reset();
                }
            }
            Written::Gone => {
                entry.exists = false;
                entry.count = 1;
                entry.due = Some(now);
            }
            Written::No(least) => {
                entry.has_failed = true;
                let due = self.common(now).unwrap_or_else(|| now + self.backoff.next(least));
                self.entries.entry(note.clone()).and_modify(|entry| entry.due = Some(due));
            }
        }
    }

    /// Nothing is to be tried before what has failed.
    pub(super) fn put_off(&mut self, now: Instant) {
        let Some(common) = self.common(now) else { return };
        for entry in self.entries.values_mut() {
            entry.due = entry.due.map(|due| due.max(common));
        }
    }

    /// One is not to be tried before what has failed.
    pub(super) fn put_off_one(&mut self, note: &Note, now: Instant) {
        let common = self.common(now);
        if let Some(entry) = self.entries.get_mut(note) {
            entry.due = entry.due.max(common);
        }
    }

    /// One wait for all that fail.
    fn common(&self, now: Instant) -> Option<Instant> {
        let failed = self.entries.values().filter(|entry| entry.has_failed);
        failed.filter_map(|entry| entry.due).filter(|due| *due > now).min()
    }

    /// Whether something that failed is still to be written.
    pub(super) fn has_failed(&self) -> bool {
        self.entries.values().any(|entry| entry.has_failed && entry.due.is_some())
    }
}

impl Bucket {
    /// When one that asks now gets a token.
    fn take(&mut self, now: Instant) -> Instant {
        while self.tokens < BURST && now >= self.since + REFILL {
            self.tokens += 1;
            self.since += REFILL;
        }
        if self.tokens == BURST {
            self.since = now;
        }
        if self.tokens > 0 {
            self.tokens -= 1;
            return now;
        }
        // Those that wait have the tokens of the future.
        self.since += REFILL;
        self.since
    }

    /// One that waited does not any more.
    fn give_back(&mut self) {
        self.since -= REFILL;
    }
}

fn full(now: Instant) -> Bucket {
    Bucket { tokens: BURST, since: now }
}

/// As much of a text as fits.
fn cut(text: &str, most: usize) -> &str {
    let mut end = text.len().min(most);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests;
