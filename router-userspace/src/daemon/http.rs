//! Answers probes and scrapes over HTTP, on a thread and a runtime of its own: whatever the daemon is
//! busy with, it is heard, and it holds nothing up.

mod answer;
mod listen;

use std::{
    collections::VecDeque,
    convert::Infallible,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result};
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::TcpStream,
    task::AbortHandle,
    time::{sleep, timeout},
};
use tracing::{debug, info, warn};

use crate::view::status::Status;

use answer::Answers;
pub use listen::Listen;

/// So many connections at a time.
const CONNECTIONS: usize = 64;
/// A request has to be there after this, also the next one on a kept connection.
const HEAD: Duration = Duration::from_secs(10);
/// A connection is kept for so long, and no answer takes longer.
const CONNECTION: Duration = Duration::from_secs(60);
/// How long a connection may take to end after that.
const END: Duration = Duration::from_secs(2);
/// The longest head of a request.
const HEAD_BYTES: usize = 16 * 1024;
/// After an error of accepting, which is one of having no more descriptors.
const PAUSE: Duration = Duration::from_millis(200);

/// Listens, and answers until the process ends.
pub fn start(addresses: &[Listen], status: &Status, pin_dir: &Path) -> Result<()> {
    let listeners = addresses.iter().map(Listen::bind).collect::<Result<Vec<_>>>()?;
    if listeners.is_empty() {
        return Ok(());
    }
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().build().context("starting to answer HTTP requests")?;
    let answers = Arc::new(Answers::new(status.clone(), pin_dir));
    let open = Arc::new(Open::default());
    for listener in listeners {
        info!(address = %listener.local_addr()?, "answering probes and scrapes");
        let _guard = runtime.enter();
        let listener = tokio::net::TcpListener::from_std(listener)?;
        runtime.spawn(accept(listener, Arc::clone(&answers), Arc::clone(&open)));
    }
    let thread = thread::Builder::new().name("http".to_owned());
    thread
        .spawn(move || runtime.block_on(std::future::pending::<()>()))
        .context("starting to answer HTTP requests")?;
    Ok(())
}

async fn accept(listener: tokio::net::TcpListener, answers: Arc<Answers>, open: Arc<Open>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let answers = Arc::clone(&answers);
                let task = tokio::spawn(async move { serve(stream, &answers).await });
                open.add(task.abort_handle());
            }
            Err(e) => {
                warn!("cannot accept an HTTP connection: {e}");
                sleep(PAUSE).await;
            }
        }
    }
}

/// The open connections, the oldest first.
#[derive(Default)]
struct Open(Mutex<VecDeque<AbortHandle>>);

impl Open {
    /// Adds one. If there are too many the oldest ends: those who say nothing keep nobody out.
    fn add(&self, connection: AbortHandle) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|connection| !connection.is_finished());
        all.push_back(connection);
        if all.len() > CONNECTIONS {
            all.pop_front().inspect(AbortHandle::abort);
        }
    }
}

async fn serve(stream: TcpStream, answers: &Answers) {
    let service = service_fn(async |request| Ok::<_, Infallible>(answers.answer(&request)));
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(HEAD).max_buf_size(HEAD_BYTES);
    let mut connection = std::pin::pin!(server.serve_connection(TokioIo::new(stream), service));
    let ended = match timeout(CONNECTION, connection.as_mut()).await {
        Ok(ended) => ended,
        Err(_) => {
            connection.as_mut().graceful_shutdown();
            timeout(END, connection).await.unwrap_or(Ok(()))
        }
    };
    if let Err(e) = ended {
        debug!("an HTTP connection has ended: {e}");
    }
}
