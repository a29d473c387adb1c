//! An API server for tests: it keeps objects, and speaks HTTP as kube-apiserver does, as far as a
//! daemon needs it. Lists with pages, watches with versions, bookmarks and 410, subresources, patches,
//! conflicts; over TLS, with a bearer token.
//!
//! What a test tells it to do wrong, it does.

mod http;
mod objects;
mod reply;
mod rights;
mod secret;
mod select;
mod store;
mod stream;
mod validate;
mod write;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU8, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tokio::sync::{broadcast, oneshot, watch};

pub use objects::{Endpoint, NODE, annotate, node, service, slice};
use store::{At, Store};

/// The token that opens the door.
pub const TOKEN: &str = "sesame";

/// A running server. It ends when this is dropped.
#[derive(Debug)]
pub struct ApiServer {
    address: SocketAddr,
    shared: Arc<Shared>,
    /// Makes certificates, and the server's own.
    ca: rcgen::CertifiedIssuer<'static, rcgen::KeyPair>,
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    stop: oneshot::Sender<()>,
    thread: thread::JoinHandle<()>,
}

/// What the connections share.
#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// The version, whenever it changes.
    changed: watch::Sender<u64>,
    control: broadcast::Sender<Control>,
}

#[derive(Debug)]
struct State {
    store: Store,
    faults: Vec<Fault>,
    /// Kinds whose lists come back empty.
    empty: BTreeSet<String>,
    /// What may not be done: verb and plural.
    forbidden: BTreeSet<(String, String)>,
    /// Objects that a webhook lets nobody write: plural and name, and after how many seconds it asks to be
    /// tried again.
    denied: BTreeMap<(String, String), u32>,
    /// What is not answered: verb and plural, once each.
    unanswered: Vec<(String, String)>,
    requests: Vec<Request>,
    /// Between two events of a watch.
    pause: Duration,
    /// How many lists lose their rest.
    lost_pages: usize,
}

/// What open watches are told.
#[derive(Debug, Clone)]
enum Control {
    /// End as after a time.
    End,
    /// Break off in the middle of a line.
    Break,
    Bookmark,
    /// An error event, such as 410.
    Error(u16),
    /// The object's last event once more.
    Repeat(At),
    /// Something that is no event.
    Garbage,
}

/// A request that the server has had.
#[derive(Debug, Clone)]
pub struct Request {
    /// `list`, `watch`, `get`, `create`, `update`, `patch` or `delete`.
    pub verb: String,
    /// The plural of the kind, with the subresource behind a slash.
    pub resource: String,
    /// Namespace and name, as far as there are any.
    pub object: String,
    /// The query.
    pub query: BTreeMap<String, String>,
    /// The body of a write.
    pub body: Value,
    /// The answer.
    pub status: u16,
}

/// An answer that is given instead of the right one.
#[derive(Debug, Clone)]
pub struct Fault {
    /// To requests with this verb.
    pub verb: &'static str,
    /// Of this kind.
    pub plural: &'static str,
    /// The status.
    pub status: u16,
    /// How often; then the right answers come again.
    pub times: usize,
}

impl ApiServer {
    /// Starts a server on a listener, which may be of a namespace.
    pub fn start(listener: TcpListener) -> Result<Self> {
        let address = listener.local_addr()?;
        let (changed, _) = watch::channel(0);
        let (control, _) = broadcast::channel(64);
        let state = State {
            store: Store::new(),
            faults: Vec::new(),
            empty: BTreeSet::new(),
            forbidden: BTreeSet::new(),
            denied: BTreeMap::new(),
            unanswered: Vec::new(),
            requests: Vec::new(),
            pause: Duration::ZERO,
            lost_pages: 0,
        };
        let shared = Arc::new(Shared { state: Mutex::new(state), changed, control });
        let mut params = rcgen::CertificateParams::new(Vec::new())?;
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let ca = rcgen::CertifiedIssuer::self_signed(params, rcgen::KeyPair::generate()?)?;
        let mut server = Self { address, shared, ca, running: None };
        server.run(listener)?;
        Ok(server)
    }

    /// Starts a server on the loopback interface, at an address of its own: nobody else gets its port while
    /// it is stopped.
    pub fn on_loopback() -> Result<Self> {
        static COUNT: AtomicU8 = AtomicU8::new(1);
        let [.., b, c] = std::process::id().to_be_bytes();
        let address = Ipv4Addr::new(127, b.max(1), c, COUNT.fetch_add(1, Ordering::Relaxed).max(1));
        Self::start(TcpListener::bind((address, 0))?)
    }

    fn run(&mut self, listener: TcpListener) -> Result<()> {
        let (stop, stopped) = oneshot::channel();
        let shared = Arc::clone(&self.shared);
        let tls = http::tls(&self.ca, self.address.ip())?;
        listener.set_nonblocking(true)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = thread::spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    _ = stopped => {}
                    never = http::serve(listener, tls, shared) => never,
                }
            });
        });
        self.running = Some(Running { stop, thread });
        Ok(())
    }

    /// Stops to answer: connections break off, new ones are refused. What it knows stays.
    pub fn stop(&mut self) {
        if let Some(Running { stop, thread }) = self.running.take() {
            let _ = stop.send(());
            let _ = thread.join();
        }
    }

    /// Answers again, where it did, after [`ApiServer::stop`].
    pub fn restart(
        &mut self,
        bind: impl FnOnce(SocketAddr) -> std::io::Result<TcpListener>,
    ) -> Result<()> {
        let listener = bind(self.address).with_context(|| format!("binding {}", self.address))?;
        self.run(listener)
    }

    /// Writes a kubeconfig for it into a directory.
    pub fn kubeconfig(&self, dir: &Path) -> Result<PathBuf> {
        let ca = data_encoding::BASE64.encode(self.ca.pem().as_bytes());
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{"name": "test", "cluster": {
                "server": format!("https://{}", self.address), "certificate-authority-data": ca,
            }}],
            "users": [{"name": "test", "user": {"token": TOKEN}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        });
        let path = dir.join("kubeconfig");
        fs::write(&path, config.to_string())
            .with_context(|| format!("writing {}", path.display()))?;
        Ok(path)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Writes what a pod's account consists of into a directory: token, authority and namespace.
    pub fn account(&self, dir: &Path, namespace: &str) -> Result<PathBuf> {
        let path = dir.join("serviceaccount");
        fs::create_dir_all(&path)?;
        for (name, text) in [("token", TOKEN), ("ca.crt", &self.ca.pem()), ("namespace", namespace)]
        {
            fs::write(path.join(name), text).with_context(|| format!("writing {name}"))?;
        }
        Ok(path)
    }

    /// Creates or replaces an object.
    pub fn apply(&self, object: Value) {
        let at = objects::at(&object);
        let mut state = self.state();
        state.store.put(at, object);
        self.shared.changed.send_replace(state.store.version());
    }

    /// Changes an object that is there.
    pub fn change(
        &self,
        plural: &str,
        namespace: &str,
        name: &str,
        change: impl FnOnce(&mut Value),
    ) {
        let at = objects::place(plural, namespace, name);
        let mut state = self.state();
        let mut object = state.store.get(&at).cloned().unwrap_or_else(|| panic!("no {at:?}"));
        change(&mut object);
        state.store.put(at, object);
        self.shared.changed.send_replace(state.store.version());
    }

    /// Deletes an object.
    pub fn delete(&self, plural: &str, namespace: &str, name: &str) {
        let mut state = self.state();
        state.store.delete(&objects::place(plural, namespace, name));
        self.shared.changed.send_replace(state.store.version());
    }

    /// An object as it is.
    pub fn get(&self, plural: &str, namespace: &str, name: &str) -> Option<Value> {
        self.state().store.get(&objects::place(plural, namespace, name)).cloned()
    }

    /// All objects of a kind.
    pub fn all(&self, plural: &str) -> Vec<Value> {
        self.state().store.all(plural).map(|(_, object)| object.clone()).collect()
    }

    /// Forgets what has changed: watches of older versions, and the next pages of lists, get a 410.
    pub fn compact(&self) {
        self.state().store.compact();
    }

    /// The version now.
    pub fn version(&self) -> u64 {
        self.state().store.version()
    }

    /// Goes back to how all was at a version, as after the restoration of a backup. Watches are not told.
    pub fn rewind(&self, version: u64) {
        self.state().store.rewind(version);
    }

    /// Forgets the rest of the next lists that have more than one page, so often.
    pub fn lose_pages(&self, times: usize) {
        self.state().lost_pages = times;
    }

    /// Ends all watches, as after their time.
    pub fn end_watches(&self) {
        self.tell(Control::End);
    }

    /// Breaks all watches off in the middle of a line.
    pub fn break_watches(&self) {
        self.tell(Control::Break);
    }

    /// Sends bookmarks.
    pub fn bookmark(&self) {
        self.tell(Control::Bookmark);
    }

    /// Sends an error event to all watches.
    pub fn error_event(&self, status: u16) {
        self.tell(Control::Error(status));
    }

    /// Sends to all watches what is no event.
    pub fn garbage(&self) {
        self.tell(Control::Garbage);
    }

    /// Sends the last event of an object once more.
    pub fn repeat(&self, plural: &str, namespace: &str, name: &str) {
        self.tell(Control::Repeat(objects::place(plural, namespace, name)));
    }

    fn tell(&self, control: Control) {
        // Without watches nobody hears it.
        let _ = self.shared.control.send(control);
    }

    /// From now on answers wrongly, some times.
    pub fn fail(&self, fault: Fault) {
        self.state().faults.push(fault);
    }

    /// Lists of a kind come back empty, and nothing says why.
    pub fn lists_come_back_empty(&self, plural: &str, empty: bool) {
        let mut state = self.state();
        if empty {
            state.empty.insert(plural.to_owned());
        } else {
            state.empty.remove(plural);
        }
    }

    /// A verb on a kind is not allowed, or is again; a subresource is a kind of its own, behind a slash.
    pub fn forbid(&self, verb: &str, plural: &str, forbidden: bool) {
        let what = (verb.to_owned(), plural.to_owned());
        let mut state = self.state();
        if forbidden {
            state.forbidden.insert(what);
        } else {
            state.forbidden.remove(&what);
        }
    }

    /// A webhook lets nobody write an object, or does again.
    pub fn deny(&self, plural: &str, name: &str, denied: bool) {
        if denied {
            self.deny_for(plural, name, 0);
        } else {
            self.state().denied.remove(&(plural.to_owned(), name.to_owned()));
        }
    }

    /// A webhook lets nobody write an object, and asks to be tried again after some seconds.
    pub fn deny_for(&self, plural: &str, name: &str, seconds: u32) {
        self.state().denied.insert((plural.to_owned(), name.to_owned()), seconds);
    }

    /// The next request of this verb on this kind gets no answer, as on a connection that is dead.
    pub fn be_silent(&self, verb: &str, plural: &str) {
        self.state().unanswered.push((verb.to_owned(), plural.to_owned()));
    }

    /// Whether all that was to get no answer has come.
    pub fn was_silent(&self) -> bool {
        self.state().unanswered.is_empty()
    }

    /// Makes the watches slow.
    pub fn pause_between_events(&self, pause: Duration) {
        self.state().pause = pause;
    }

    /// The requests so far.
    pub fn requests(&self) -> Vec<Request> {
        self.state().requests.clone()
    }

    /// How many requests there were with a verb on a kind.
    pub fn count(&self, verb: &str, plural: &str) -> usize {
        let state = self.state();
        let requests = state.requests.iter();
        requests.filter(|r| r.verb == verb && r.resource.split('/').next() == Some(plural)).count()
    }

    /// How many watches are open.
    pub fn watches(&self) -> usize {
        self.shared.control.receiver_count()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state()
    }
}

/// Listens where a server that has stopped did, whose port may need a moment: for [`ApiServer::restart`].
pub fn bind_again(address: SocketAddr) -> std::io::Result<TcpListener> {
    let end = std::time::Instant::now() + Duration::from_secs(60);
    loop {
        match TcpListener::bind(address) {
            Err(e)
                if e.kind() == std::io::ErrorKind::AddrInUse && std::time::Instant::now() < end =>
            {
                thread::yield_now();
            }
            result => return result,
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.stop();
    }
}
