//! The first and only process of a virtual machine: loads the kernel programs, runs the tests that
//! it was given, tells of both on the second serial port, and switches the machine off.
//!
//! `cargo xtask test --kernels` makes it `/init` of an initramfs and reads what it says.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::stdout;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, anyhow};
use aya::EbpfLoader;
use aya::programs::{Program, ProgramError, ProgramInfo};
use nix::mount::{MsFlags, mount};
use nix::sys::reboot::{RebootMode, reboot};
use nix::sys::termios::tcdrain;
use nix::unistd::{dup2_stderr, dup2_stdin, dup2_stdout, getpid};
use roost_tests::run::kernel::MOST_VERIFIED;
use serde::{Deserialize, Serialize};

/// What to do, from xtask.
#[derive(Deserialize)]
struct Orders {
    /// The eBPF object.
    object: PathBuf,
    /// Where the tests run.
    directory: PathBuf,
    /// Their variables.
    variables: BTreeMap<String, String>,
    /// The test programs, by their names.
    tests: BTreeMap<String, PathBuf>,
    /// What each is given.
    arguments: Vec<String>,
}

/// What xtask reads: a line each, between those of the test programs.
#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum Say<'a> {
    /// The kernel is up.
    Kernel { release: &'a str },
    /// It has taken a program.
    Loaded { program: &'a str, events: bool, verified: u32, bytes: u32, ms: u128 },
    /// It has not; the end of the verifier's log is in the lines before.
    Refused { program: &'a str, events: bool },
    /// The lines that follow are this test program's.
    Run { test: &'a str },
    /// It has ended; with a status, if not well.
    Ran { test: &'a str, status: Option<String>, ms: u128 },
    /// Something that is not a test's failure.
    Failed { why: String },
    /// All that was to do has been done.
    End {},
}

impl Say<'_> {
    fn say(&self) {
        let line = serde_json::to_string(self).expect("these values have a JSON form");
        println!("roost-guest: {line}");
    }
}

const ORDERS: &str = "/guest.json";
/// The kernel's own messages go to the first serial port.
const REPORT: &str = "/dev/ttyS1";
/// Of the verifier's log, for a program that is refused.
const LOG_LINES: usize = 60;

fn main() {
    if getpid().as_raw() != 1 {
        eprintln!("this is the first process of a virtual machine: see `cargo xtask test --help`");
        std::process::exit(2);
    }
    match set_up().and_then(|()| work()) {
        Ok(()) => Say::End {}.say(),
        Err(e) => Say::Failed { why: format!("{e:#}") }.say(),
    }
    // What the port still holds has to leave before the power does.
    let _ = tcdrain(stdout());
    let Err(e) = reboot(RebootMode::RB_POWER_OFF);
    // The kernel panics when its first process ends, which ends the machine, too.
    panic!("switching off: {e}");
}

/// Mounts what programs expect, and makes the report's port the standard output.
fn set_up() -> Result<()> {
    for (kind, at) in [
        ("devtmpfs", "/dev"),
        ("proc", "/proc"),
        ("sysfs", "/sys"),
        ("bpf", "/sys/fs/bpf"),
        ("tmpfs", "/run"),
    ] {
        fs::create_dir_all(at).with_context(|| format!("creating {at}"))?;
        mount(Some(kind), at, Some(kind), MsFlags::empty(), None::<&str>)
            .with_context(|| format!("mounting {kind} at {at}"))?;
    }
    fs::create_dir_all(std::env::temp_dir())
        .context("creating the directory for temporary files")?;
    let port = OpenOptions::new().read(true).write(true).open(REPORT);
    let port = port.with_context(|| format!("opening {REPORT}"))?;
    dup2_stdin(port.as_fd())?;
    dup2_stdout(port.as_fd())?;
    dup2_stderr(port.as_fd())?;
    Ok(())
}

fn work() -> Result<()> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    Say::Kernel { release: release.trim() }.say();
    let orders = File::open(ORDERS).with_context(|| format!("opening {ORDERS}"))?;
    let orders: Orders = serde_json::from_reader(orders).context(ORDERS)?;
    let mut all = true;
    for events in [false, true] {
        all &= load_all(&orders.object, events)?;
    }
    // Each test would only say so once more, slowly.
    if !all {
        return Err(anyhow!("a program is refused: no tests were run"));
    }
    for (name, path) in &orders.tests {
        run_test(&orders, name, path)?;
    }
    Ok(())
}

/// Loads every program of the object; says whether the kernel has taken all.
fn load_all(object: &Path, events: bool) -> Result<bool> {
    let level = if events { u8::MAX } else { 0 };
    let pins = PathBuf::from(format!("/sys/fs/bpf/guest-{level}"));
    fs::create_dir(&pins).with_context(|| format!("creating {}", pins.display()))?;
    let mut loader = EbpfLoader::new();
    loader.default_map_pin_directory(&pins);
    loader.override_global(aya_log::LEVEL, &level, false);
    let ebpf = loader.load_file(object);
    let mut ebpf = ebpf.with_context(|| format!("loading {}", object.display()))?;
    let mut all = true;
    let mut programs: Vec<_> = ebpf.programs_mut().collect();
    programs.sort_by_key(|(name, _)| *name);
    for (name, program) in programs {
        let start = Instant::now();
        match load(program) {
            Ok(info) => {
                let verified = info.verified_instruction_count().unwrap_or(0);
                let bytes = info.size_translated().unwrap_or(0);
                let ms = start.elapsed().as_millis();
                Say::Loaded { program: name, events, verified, bytes, ms }.say();
                if verified > MOST_VERIFIED {
                    let why = format!("{name}: more than {MOST_VERIFIED} instructions looked at");
                    Say::Failed { why }.say();
                }
            }
            Err(e) => {
                all = false;
                println!("{}", explain(e));
                Say::Refused { program: name, events }.say();
            }
        }
    }
    drop(ebpf);
    fs::remove_dir_all(&pins).with_context(|| format!("removing {}", pins.display()))?;
    Ok(all)
}

fn load(program: &mut Program) -> Result<ProgramInfo, ProgramError> {
    match program {
        Program::Xdp(program) => program.load()?,
        Program::SchedClassifier(program) => program.load()?,
        Program::CgroupSockAddr(program) => program.load()?,
        // Nothing is left out silently: a new type has to be added here.
        _ => return Err(ProgramError::UnexpectedProgramType),
    }
    program.info()
}

/// An error with its causes and the end of the verifier's log.
fn explain(error: ProgramError) -> String {
    match error {
        ProgramError::LoadError { io_error, verifier_log } => {
            let log = verifier_log.to_string();
            let lines: Vec<&str> = log.trim_end().lines().collect();
            let end = lines[lines.len().saturating_sub(LOG_LINES)..].join("\n");
            format!("{io_error}; the end of the verifier's log:\n{end}")
        }
        error => format!("{:#}", anyhow!(error)),
    }
}

fn run_test(orders: &Orders, name: &str, path: &Path) -> Result<()> {
    Say::Run { test: name }.say();
    let start = Instant::now();
    let mut command = roost_programs::built(path)?;
    command.args(&orders.arguments).current_dir(&orders.directory).envs(&orders.variables);
    let status = command.status().with_context(|| format!("running {}", path.display()))?;
    let ms = start.elapsed().as_millis();
    let status = (!status.success()).then(|| status.to_string());
    Say::Ran { test: name, status, ms }.say();
    Ok(())
}
