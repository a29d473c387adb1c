//! What an API server keeps: objects, their versions, and what has changed since which version.

use std::collections::{BTreeMap, HashMap};

use serde_json::{Value, json};

/// The plural of a kind, as in URLs, a namespace and a name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct At {
    pub(super) plural: String,
    pub(super) namespace: String,
    pub(super) name: String,
}

/// One change: what was there and what is.
#[derive(Debug, Clone)]
pub(super) struct Change {
    pub(super) version: u64,
    pub(super) at: At,
    pub(super) old: Option<Value>,
    pub(super) new: Option<Value>,
}

/// A page of a list.
#[derive(Debug)]
pub(super) struct Page {
    pub(super) version: u64,
    pub(super) items: Vec<Value>,
    pub(super) more: Option<String>,
    pub(super) remaining: usize,
}

#[derive(Debug)]
pub(super) struct Store {
    version: u64,
    /// What was before this is forgotten.
    compacted: u64,
    objects: BTreeMap<At, Value>,
    history: Vec<Change>,
    /// What is left of lists that were read in part, by their tokens.
    rests: HashMap<String, (u64, Vec<Value>)>,
    uids: u64,
}

/// The version is not known any more.
pub(super) struct Expired {
    pub(super) asked: u64,
    pub(super) oldest: u64,
}

impl Store {
    pub(super) fn new() -> Self {
        // Versions of a real server begin anywhere.
        let version = 1000;
        Self {
            version,
            compacted: version,
            objects: BTreeMap::new(),
            history: Vec::new(),
            rests: HashMap::new(),
            uids: 0,
        }
    }

    pub(super) fn version(&self) -> u64 {
        self.version
    }

    pub(super) fn get(&self, at: &At) -> Option<&Value> {
        self.objects.get(at)
    }

    /// Creates or replaces an object. An object that does not change gets no new version.
    pub(super) fn put(&mut self, at: At, mut object: Value) -> Value {
        let old = self.objects.get(&at).cloned();
        let meta = &mut object["metadata"];
        match &old {
            Some(old) => {
                for kept in ["uid", "creationTimestamp", "resourceVersion"] {
                    meta[kept] = old["metadata"][kept].clone();
                }
            }
            None => {
                self.uids += 1;
                meta["uid"] = json!(format!("00000000-0000-4000-8000-{:012x}", self.uids));
                if meta["creationTimestamp"].is_null() {
                    let second = self.uids % 60;
                    meta["creationTimestamp"] = json!(format!("2026-01-01T00:00:{second:02}Z"));
                }
            }
        }
        if old.as_ref() == Some(&object) {
            return object;
        }
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        self.objects.insert(at.clone(), object.clone());
        self.history.push(Change { version: self.version, at, old, new: Some(object.clone()) });
        object
    }

    pub(super) fn delete(&mut self, at: &At) -> Option<Value> {
        let old = self.objects.remove(at)?;
        self.version += 1;
        self.history.push(Change {
            version: self.version,
            at: at.clone(),
            old: Some(old.clone()),
            new: None,
        });
        Some(old)
    }

    /// Forgets all history but for the watches that are open, and the rests of lists.
    pub(super) fn compact(&mut self) {
        // Something has happened since, to objects that nobody watches.
        self.version += 1;
        self.compacted = self.version;
        self.rests.clear();
    }

    /// Goes back to a version, as after the restoration of a backup.
    pub(super) fn rewind(&mut self, version: u64) {
        while let Some(change) = self.history.pop_if(|change| change.version > version) {
            match change.old {
                Some(old) => self.objects.insert(change.at, old),
                None => self.objects.remove(&change.at),
            };
        }
        self.version = version;
        self.compacted = self.compacted.min(version);
        self.rests.clear();
    }

    pub(super) fn all(&self, plural: &str) -> impl Iterator<Item = (&At, &Value)> {
        self.objects.iter().filter(move |(at, _)| at.plural == plural)
    }

    /// The first page of what `wanted` selects.
    pub(super) fn list(
        &mut self,
        plural: &str,
        limit: usize,
        wanted: impl Fn(&At, &Value) -> bool,
    ) -> Page {
        let all = self.all(plural).filter(|(at, object)| wanted(at, object));
        let all: Vec<_> = all.map(|(_, object)| object.clone()).collect();
        self.page(self.version, all, limit)
    }

    /// The next page; `None` if the token is not known any more.
    pub(super) fn more(&mut self, token: &str, limit: usize) -> Option<Page> {
        let (version, rest) = self.rests.get(token).cloned()?;
        Some(self.page(version, rest, limit))
    }

    fn page(&mut self, version: u64, mut items: Vec<Value>, limit: usize) -> Page {
        let rest = if items.len() > limit { items.split_off(limit) } else { Vec::new() };
        let remaining = rest.len();
        let more = (!rest.is_empty()).then(|| {
            let token = format!("rest-{}", self.rests.len());
            self.rests.insert(token.clone(), (version, rest));
            token
        });
        Page { version, items, more, remaining }
    }

    /// Whether what has changed after a version can still be told to a new watch. Those that are open
    /// are told anyway.
    pub(super) fn knows(&self, version: u64) -> Result<(), Expired> {
        if version < self.compacted {
            return Err(Expired { asked: version, oldest: self.compacted });
        }
        Ok(())
    }

    /// What has changed after a version.
    pub(super) fn since(&self, version: u64) -> Vec<Change> {
        self.history.iter().filter(|change| change.version > version).cloned().collect()
    }
}
