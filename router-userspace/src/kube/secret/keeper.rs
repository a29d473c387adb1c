//! Watches the Secret, and writes it.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Result, bail};
use k8s_openapi::{
    api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::ObjectMeta, jiff::Timestamp,
};
use kube::{Api, Client, api::PostParams};
use tokio::{
    sync::{mpsc, watch},
    task::{JoinHandle, JoinSet},
    time::{Instant, sleep_until, timeout},
};
use tracing::{debug, error, info, warn};

use crate::{
    kube::{
        PREFIX,
        backoff::{Backoff, jitter},
        state::Kind,
        watch::{Event, SILENCE, Watch, error_text},
    },
    maps::secrets::{self, Keys},
};

use super::{Content, Machine, SecretOptions, SecretState, Seen, Step};

/// How long the server may take for a write.
const ANSWER: Duration = Duration::from_secs(20);
/// Who wrote a field, for whoever asks.
const MANAGER: &str = "roost";

/// Keeps the Secret, as a task of its own. It ends when this is dropped.
#[derive(Debug)]
pub struct Keeper {
    name: String,
    said: watch::Receiver<Said>,
    state: SecretState,
    task: JoinHandle<()>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Said {
    keys: Keys,
    is_read: bool,
}

impl Keeper {
    /// Starts to follow the Secret in the client's namespace. `keys` are those of the maps; if there is
    /// no Secret, it is created with them.
    pub fn start(client: Client, options: SecretOptions, keys: Keys) -> Self {
        let (say, said) = watch::channel(Said { keys, is_read: false });
        let state = SecretState::default();
        let name = options.name.clone();
        let task = Task {
            name: format!("{}/{}", client.default_namespace(), options.name),
            key: options.name.clone(),
            api: Api::default_namespaced(client),
            machine: Machine::new(options, keys),
            begin: Instant::now(),
            object: None,
            version: None,
            backoff: Backoff::default(),
            not_before: Instant::now(),
            state: state.clone(),
            say,
        };
        Self { name, said, state, task: tokio::spawn(task.run()) }
    }

    /// The Secret's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Waits until the Secret's keys are known, but no longer than this. Says whether they are.
    pub async fn first(&mut self, limit: Duration) -> bool {
        let read = timeout(limit, self.said.wait_for(|said| said.is_read)).await;
        read.is_ok_and(|read| read.is_ok())
    }

    /// The keys that the maps should have.
    pub fn keys(&mut self) -> Keys {
        self.said.borrow_and_update().keys
    }

    /// Waits until they may be others. May be dropped and called again.
    pub async fn changed(&mut self) -> Result<()> {
        match self.said.changed().await {
            Ok(()) => Ok(()),
            Err(_) => bail!("the watch of the Secret has ended"),
        }
    }

    /// The state of the Secret.
    pub fn state(&self) -> &SecretState {
        &self.state
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Task {
    /// With its namespace.
    name: String,
    key: String,
    api: Api<Secret>,
    machine: Machine,
    begin: Instant,
    /// As last seen.
    object: Option<Secret>,
    /// Its version, if it is a number.
    version: Option<u64>,
    backoff: Backoff,
    not_before: Instant,
    state: SecretState,
    say: watch::Sender<Said>,
}

impl Task {
    async fn run(mut self) {
        let (updates, mut events) = mpsc::channel(16);
        let mut watches = JoinSet::new();
        watches.spawn(
            Watch {
                api: self.api.clone(),
                kind: Kind::Secrets,
                labels: None,
                // The right to see one Secret is enough.
                fields: Some(format!("metadata.name={}", self.key)),
                state: self.state.watch().clone(),
                silence: SILENCE,
                updates,
                wrap: |event| event,
            }
            .run(),
        );
        loop {
            let due = self.machine.next().map(|due| (self.begin + due).max(self.not_before));
            tokio::select! {
                event = events.recv() => match event {
                    Some(event) => self.note(event),
                    None => return,
                },
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
            }
            self.machine.tick(self.now());
            self.publish();
            if Instant::now() >= self.not_before
                && let Some(step) = self.machine.step(self.now())
            {
                self.take(step).await;
                self.publish();
            }
        }
    }

    fn now(&self) -> Duration {
        self.begin.elapsed()
    }

    fn note(&mut self, event: Event<Secret>) {
        match event {
            Event::Listed(mut all) => match all.pop() {
                Some(secret) => {
                    self.version = None;
                    self.see(secret);
                }
                None => {
                    // A server that was restored from a backup counts anew.
                    self.version = None;
                    self.absent();
                }
            },
            Event::Applied(secret) => self.see(*secret),
            Event::Deleted(secret) if self.is_old(&secret) => {}
            Event::Deleted(_) => self.absent(),
        }
    }

    fn absent(&mut self) {
        if self.object.take().is_some() {
            warn!(secret = self.name, "the Secret is gone: it is created anew, with the same keys");
        }
        self.machine.absent();
        self.state.update(|state| (state.problem, state.is_rotating) = (None, false));
    }

    /// A write or a read may have been quicker than the watch.
    fn is_old(&self, secret: &Secret) -> bool {
        version(secret).is_some_and(|new| self.version.is_some_and(|seen| new < seen))
    }

    fn see(&mut self, secret: Secret) {
        if self.is_old(&secret) {
            return;
        }
        self.version = version(&secret);
        let data = secret.data.clone().unwrap_or_default();
        let content = match Content::read(&data) {
            Ok(content) => content,
            Err(problem) => {
                self.machine.malformed();
                if self.state.get().problem.as_ref() != Some(&problem) {
                    error!(secret = self.name, "{problem}; the keys stay as they are");
                }
                self.state.update(|state| state.problem = Some(problem));
                self.object = Some(secret);
                return;
            }
        };
        let rotated_at = rotated_at(&secret);
        let age = rotated_at.map_or(0, |at| Timestamp::now().as_second().saturating_sub(at));
        let seen = Seen {
            content,
            rotated_at,
            // Of a clock that is ahead of this one nothing follows.
            age: Duration::from_secs(age.try_into().unwrap_or_default()),
        };
        let was_read = self.machine.is_read();
        self.machine.observe(seen, self.now(), jitter);
        if self.machine.is_read() && !was_read {
            info!(secret = self.name, "the keys are those of the Secret");
        }
        self.object = Some(secret);
        self.state.update(|state| {
            state.problem = None;
            state.is_rotating = content.next.is_some();
            state.rotated_at = rotated_at;
        });
    }

    fn publish(&mut self) {
        let said = Said { keys: self.machine.keys(), is_read: self.machine.is_read() };
        self.state.update(|state| state.is_read = said.is_read);
        self.say.send_if_modified(|old| std::mem::replace(old, said) != said);
    }

    async fn take(&mut self, step: Step) {
        let (doing, done) = match step {
            Step::Create => ("creating it", "created the Secret, with the keys of this node"),
            Step::Complete => ("completing it", "added what the Secret lacked"),
            Step::Announce => {
                ("announcing a key", "rotating the handshake key: all accept the next")
            }
            Step::Use => ("rotating", "rotating the handshake key: the next one is used"),
        };
        match timeout(ANSWER, self.write(step)).await {
            Ok(Ok(Written::Ours(secret))) => {
                info!(secret = self.name, "{done}");
                self.state.update(|state| {
                    state.writes += 1;
                    state.last_error = None;
                });
                self.backoff.reset();
                self.see(*secret);
            }
            // What he has written may call for another step, or none.
            Ok(Ok(Written::OfAnother(secret))) => {
                self.see(*secret);
                self.not_before = Instant::now() + self.backoff.next(Duration::ZERO);
            }
            Ok(Err(e)) => self.failed(doing, &error_text(&e)),
            Err(_) => self.failed(doing, &format!("no answer within {} s", ANSWER.as_secs())),
        }
    }

    fn failed(&mut self, doing: &str, error: &str) {
        let wait = self.backoff.next(Duration::ZERO);
        self.not_before = Instant::now() + wait;
        let seconds = wait.as_secs_f64();
        if self.state.get().last_error.as_deref() == Some(error) {
            debug!(secret = self.name, "{doing} failed: {error}; again in {seconds:.1} s");
        } else {
            warn!(secret = self.name, "{doing} failed: {error}; tried again until it works");
        }
        self.state.update(|state| {
            state.errors += 1;
            state.last_error = Some(error.to_owned());
        });
    }

    async fn write(&self, step: Step) -> kube::Result<Written> {
        let random = secrets::random().map_err(|e| kube::Error::Service(e.into()))?;
        let content = self.machine.after(step, random);
        let mut secret =
            self.object.clone().filter(|_| step != Step::Create).unwrap_or_else(|| {
                let labels = [("name", "roost"), ("component", "keys"), ("managed-by", "roost")];
                let labels = labels.map(|(k, v)| (format!("app.kubernetes.io/{k}"), v.to_owned()));
                let metadata = ObjectMeta {
                    name: Some(self.key.clone()),
                    labels: Some(labels.into()),
                    ..ObjectMeta::default()
                };
                Secret { metadata, type_: Some("Opaque".into()), ..Secret::default() }
            });
        content.write(secret.data.get_or_insert_with(BTreeMap::new));
        if step != Step::Complete {
            let now = Timestamp::from_second(Timestamp::now().as_second()).unwrap_or_default();
            let annotations = secret.metadata.annotations.get_or_insert_with(BTreeMap::new);
            annotations.insert(format!("{PREFIX}rotated-at"), now.to_string());
        }
        let params = PostParams { field_manager: Some(MANAGER.into()), ..PostParams::default() };
        let written = match step {
            Step::Create => self.api.create(&params, &secret).await,
            // With the version that it was made from, so nothing is overwritten.
            _ => self.api.replace(&self.key, &params, &secret).await,
        };
        match written {
            Ok(secret) => Ok(Written::Ours(Box::new(secret))),
            Err(kube::Error::Api(status)) if status.code == 409 => {
                Ok(Written::OfAnother(Box::new(self.api.get(&self.key).await?)))
            }
            Err(e) => Err(e),
        }
    }
}

enum Written {
    Ours(Box<Secret>),
    OfAnother(Box<Secret>),
}

/// Versions of one kind of object can be compared as numbers (KEP-5504); if one is none, all count.
fn version(secret: &Secret) -> Option<u64> {
    secret.metadata.resource_version.as_ref()?.parse().ok()
}

/// When the last step was; if nobody says, when the Secret was created.
fn rotated_at(secret: &Secret) -> Option<i64> {
    let annotations = secret.metadata.annotations.as_ref();
    let said = annotations.and_then(|all| all.get(&format!("{PREFIX}rotated-at")));
    let said = said.and_then(|text| text.parse::<Timestamp>().ok());
    let created = secret.metadata.creation_timestamp.as_ref().map(|time| time.0);
    said.or(created).map(Timestamp::as_second)
}
