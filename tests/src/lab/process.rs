//! A process of the lab: its output is kept, it ends with its guard.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use super::{sweep, tools, wait};

/// A running command. When the guard is dropped it is ended; if that happens because a test fails,
/// what it has written is shown.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: Arc<Log>,
}

#[derive(Debug, Default)]
struct Log {
    lines: Mutex<Lines>,
    grown: Condvar,
}

#[derive(Debug, Default)]
struct Lines {
    lines: Vec<String>,
    readers: usize,
}

impl Process {
    /// Starts a command in a process group of its own, so that Ctrl-C at the terminal reaches
    /// whoever holds the guard and not this.
    pub fn spawn(name: impl Into<String>, command: &mut Command) -> Result<Self> {
        let shown = tools::show(command);
        // Not while labs are being removed: it would be left over.
        let _making = sweep::making();
        let mut child = command
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting `{shown}`"))?;
        let log = Arc::new(Log::default());
        let stdout = child.stdout.take().expect("stdout is piped");
        let stderr = child.stderr.take().expect("stderr is piped");
        log.lock().readers = 2;
        log.follow(stdout);
        log.follow(stderr);
        Ok(Self { name: name.into(), child, log })
    }

    /// Its process number.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// All that it has written so far.
    pub fn log(&self) -> String {
        self.log.lock().lines.join("\n")
    }

    /// Waits for a line that contains `text`, from the beginning of the output; returns the line.
    pub fn wait_line(&self, limit: Duration, text: &str) -> Result<String> {
        self.wait_line_after(limit, text, 0)
    }

    /// How many lines it has written: a mark for [`Process::wait_line_after`].
    pub fn lines(&self) -> usize {
        self.log.lock().lines.len()
    }

    /// Waits for a line that contains `text`, not among the first `skip` lines.
    pub fn wait_line_after(&self, limit: Duration, text: &str, skip: usize) -> Result<String> {
        let end = Instant::now() + limit;
        let mut log = self.log.lock();
        loop {
            if let Some(line) = log.lines.iter().skip(skip).find(|line| line.contains(text)) {
                return Ok(line.clone());
            }
            let left = end.saturating_duration_since(Instant::now());
            let why = match (left.is_zero(), log.readers) {
                (_, 0) => "it has ended".to_owned(),
                (true, _) => format!("waited {limit:?}"),
                _ => {
                    log = self
                        .log
                        .grown
                        .wait_timeout(log, left)
                        .map(|(log, _)| log)
                        .unwrap_or_else(|poisoned| poisoned.into_inner().0);
                    continue;
                }
            };
            let all = log.lines.join("\n");
            bail!("{}: no line with `{text}` ({why}); it wrote:\n{all}", self.name);
        }
    }

    /// Whether it still runs.
    pub fn running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits for it to end by itself.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let what = format!("{} to end", self.name);
        wait::try_until(limit, &what, || Ok(self.child.try_wait()?))
    }

    /// SIGKILL, and waits for the end.
    pub fn kill(&mut self) {
        self.signal(Signal::SIGKILL);
        let _ = self.child.wait();
    }

    /// SIGTERM, and waits for the end; SIGKILL when that takes longer than `limit`.
    pub fn terminate(&mut self, limit: Duration) -> Result<ExitStatus> {
        self.signal(Signal::SIGTERM);
        self.wait(limit).inspect_err(|_| self.kill())
    }

    fn signal(&mut self, signal: Signal) {
        // Not when it was reaped: its number may be another's by now.
        if self.running() {
            let _ = killpg(Pid::from_raw(self.child.id() as i32), signal);
        }
    }
}

impl Log {
    fn lock(&self) -> std::sync::MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn follow(self: &Arc<Self>, pipe: impl Read + Send + 'static) {
        let log = Arc::clone(self);
        thread::spawn(move || {
            for line in BufReader::new(pipe).split(b'\n').map_while(|line| line.ok()) {
                log.lock().lines.push(String::from_utf8_lossy(&line).into_owned());
                log.grown.notify_all();
            }
            log.lock().readers -= 1;
            log.grown.notify_all();
        });
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if thread::panicking() {
            eprintln!("--- {} wrote:\n{}\n---", self.name, self.log());
        }
    }
}
