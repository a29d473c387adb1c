//! A virtual machine: started, listened to, and ended at the latest when its time is up.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::built::Built;
use super::debian::{Kernel, Qemu};
use super::report::Report;
use crate::process::say;

/// For everything. On a busy computer an emulated machine took more than an hour.
const LIMIT: Duration = Duration::from_secs(4 * 3600);
/// Without a line of output: the longest single test took eleven minutes there.
const SILENCE: Duration = Duration::from_secs(40 * 60);
/// From the last line to the end of the emulator.
const POWER_OFF: Duration = Duration::from_secs(60);
/// Of the kernel's messages, for an error.
const CONSOLE_LINES: usize = 15;
/// What the kernel says of its own faults.
const COMPLAINTS: &[&str] = &["WARNING: CPU", "BUG:", "Oops", "Kernel panic"];

/// What the machine is made of.
pub struct Machine<'a> {
    /// The emulator.
    pub qemu: &'a Qemu,
    /// The kernel.
    pub kernel: &'a Kernel,
    /// Its file system.
    pub initrd: &'a Path,
    /// Where what it says is kept.
    pub dir: &'a Path,
}

impl Machine<'_> {
    /// Runs it and tells how that went. What cannot be run is a failure in the report.
    pub fn run(&self, built: &Built) -> Report {
        let mut report = Report::new(&self.kernel.version, vec![built.tests.name.clone()]);
        let start = Instant::now();
        if let Err(e) = self.listen(&mut report) {
            report.fail(format!("{e:#}"));
        }
        report.took = start.elapsed();
        for line in complaints(&fs::read_to_string(self.console()).unwrap_or_default()) {
            report.fail(format!("the kernel says: {line}"));
        }
        if !report.is_complete() {
            report.fail(format!("the end of its messages:\n{}", self.last_messages()));
        }
        report
    }

    fn console(&self) -> PathBuf {
        self.dir.join(format!("{}-console.log", self.kernel.version))
    }

    fn log(&self) -> PathBuf {
        self.dir.join(format!("{}.log", self.kernel.version))
    }

    fn listen(&self, report: &mut Report) -> Result<()> {
        let log = self.log();
        let mut log = File::create(&log).with_context(|| format!("creating {}", log.display()))?;
        let mut command = self.qemu.command()?;
        command.args(arguments(&self.kernel.image, self.initrd, &self.console()));
        let mut emulator = Emulator::start(&mut command)?;
        let lines = emulator.lines()?;
        let start = Instant::now();
        loop {
            let left = LIMIT.saturating_sub(start.elapsed());
            match lines.recv_timeout(SILENCE.min(left)) {
                Ok(line) => {
                    writeln!(log, "{line}")?;
                    if let Some(text) = report.hear(&line) {
                        say(format_args!("{:5} {text}", self.kernel.version));
                    }
                }
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) if left <= SILENCE => {
                    bail!("not done after {} minutes", LIMIT.as_secs() / 60)
                }
                Err(RecvTimeoutError::Timeout) => {
                    bail!("silent for {} minutes", SILENCE.as_secs() / 60)
                }
            }
        }
        let status = emulator.end()?;
        if !status.success() {
            bail!("the emulator failed: {status}");
        }
        Ok(())
    }

    fn last_messages(&self) -> String {
        let read = |path: PathBuf| fs::read(path).unwrap_or_default();
        let text = [read(self.console()), read(self.log())].concat();
        let text = String::from_utf8_lossy(&text).replace('\r', "");
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(CONSOLE_LINES)..].join("\n")
    }
}

/// The emulator's arguments: two serial ports and nothing else.
fn arguments(image: &Path, initrd: &Path, console: &Path) -> Vec<std::ffi::OsString> {
    // Time is not what it seems to a machine that is emulated on a busy computer: no watchdogs. A
    // panic ends it at once.
    // The check of the timer fails where the computer is busy with other things.
    let kernel = "console=ttyS0 loglevel=5 panic=-1 nowatchdog no_timer_check \
        rcupdate.rcu_cpu_stall_suppress=1";
    let mut file = std::ffi::OsString::from("file:");
    file.push(console);
    let mut words: Vec<std::ffi::OsString> =
        ["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "2048", "-no-reboot"]
            .iter()
            .chain(&["-nodefaults", "-no-user-config", "-display", "none", "-append", kernel])
            .map(Into::into)
            .collect();
    words.extend(["-kernel".into(), image.into(), "-initrd".into(), initrd.into()]);
    words.extend(["-serial".into(), file, "-serial".into(), "stdio".into()]);
    words
}

/// The kernel's messages about its own faults.
fn complaints(console: &str) -> Vec<&str> {
    let lines = console.lines().map(|line| line.trim_end());
    lines.filter(|line| COMPLAINTS.iter().any(|word| line.contains(word))).collect()
}

/// A running emulator, which ends with this value.
struct Emulator(Child);

impl Emulator {
    fn start(command: &mut Command) -> Result<Self> {
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
        Ok(Self(child.with_context(|| format!("starting {}", command.get_program().display()))?))
    }

    /// What it writes, line by line, as it comes.
    fn lines(&mut self) -> Result<Receiver<String>> {
        let stdout = self.0.stdout.take().context("the output was taken already")?;
        let (sender, receiver) = mpsc::channel();
        thread::spawn(move || {
            let mut stdout = BufReader::new(stdout);
            let mut line = Vec::new();
            while stdout.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
                let text = String::from_utf8_lossy(&line).trim_end().to_owned();
                line.clear();
                if sender.send(text).is_err() {
                    break;
                }
            }
        });
        Ok(receiver)
    }

    /// Waits for its end, not for long.
    fn end(&mut self) -> Result<ExitStatus> {
        let deadline = Instant::now() + POWER_OFF;
        while Instant::now() < deadline {
            if let Some(status) = self.0.try_wait()? {
                return Ok(status);
            }
            thread::sleep(Duration::from_millis(50));
        }
        bail!("the machine did not switch itself off")
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        // Without effect on one that has ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_console_is_a_file_and_the_report_comes_by_stdout() {
        let words = arguments(Path::new("/k/vmlinuz-6.1"), Path::new("/i"), Path::new("/c.log"));
        let words: Vec<&str> = words.iter().map(|word| word.to_str().expect("UTF-8")).collect();
        let after = |name: &str| -> Vec<&str> {
            words.windows(2).filter(|pair| pair[0] == name).map(|pair| pair[1]).collect()
        };
        assert_eq!(after("-serial"), ["file:/c.log", "stdio"]);
        assert_eq!(after("-kernel"), ["/k/vmlinuz-6.1"]);
        assert_eq!(after("-initrd"), ["/i"]);
        assert!(after("-append")[0].contains("panic=-1"), "{words:?}");
    }

    #[test]
    fn faults_of_the_kernel_are_seen() {
        let console =
            "[ 1.0] Linux version 6.1\r\n[ 2.0] WARNING: CPU: 1 PID: 7 at x.c:1 y+0x1\r\n";
        assert_eq!(complaints(console), ["[ 2.0] WARNING: CPU: 1 PID: 7 at x.c:1 y+0x1"]);
        assert!(complaints("[ 1.0] reboot: Power down").is_empty());
    }

    #[test]
    fn lines_come_as_they_are_written_and_an_emulator_does_not_stay() {
        let mut shell = roost_programs::SH.command().expect("sh");
        shell.args(["-c", r"printf 'one\r\ntwo\n'; exec sleep 600"]);
        let mut emulator = Emulator::start(&mut shell).expect("sh");
        let lines = emulator.lines().expect("its output");
        let next = || lines.recv_timeout(Duration::from_secs(30));
        assert_eq!(next().as_deref(), Ok("one"));
        assert_eq!(next().as_deref(), Ok("two"));
        drop(emulator);
        assert_eq!(next(), Err(RecvTimeoutError::Disconnected), "sleep has ended");
    }
}
