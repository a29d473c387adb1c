//! The demo as a user runs it: what it prints, what it exits with, and that nothing is left.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use roost_programs::{CURL, built};
use roost_tests::browser::{Kind, Launch, talk};
use roost_tests::lab::{Process, heavy, run, try_until};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(60);

fn demo(args: &[&str]) -> Command {
    let mut command = built(env!("CARGO_BIN_EXE_roost-demo")).expect("it is built");
    command.args(args).stdin(Stdio::null()).env("RUST_BACKTRACE", "0");
    command
}

/// Fails if something of the demo with this process number is left.
fn nothing_left(pid: u32) -> Result<()> {
    let prefix = format!("roost-{pid}-");
    let mark = format!("ROOST_LAB={prefix}");
    for process in std::fs::read_dir("/proc")?.flatten() {
        let environ = std::fs::read(process.path().join("environ")).unwrap_or_default();
        let ours = environ.split(|byte| *byte == 0).any(|word| word.starts_with(mark.as_bytes()));
        ensure!(!ours, "process {:?} is left", process.file_name());
    }
    for place in ["/run/netns", "/sys/fs/bpf", "/tmp"] {
        let mut names = std::fs::read_dir(place)?.flatten().map(|entry| entry.file_name());
        let left = names.find(|name| name.to_string_lossy().starts_with(&prefix));
        ensure!(left.is_none(), "{left:?} is left in {place}");
    }
    Ok(())
}

/// Lets it run to its end, with `--json` and these: what it prints on its last line.
fn result(args: &[&str]) -> Result<Value> {
    let command = &mut demo(&[&["--json"], args].concat());
    let child: Child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let pid = child.id();
    let output = child.wait_with_output()?;
    let (stdout, stderr) = (String::from_utf8(output.stdout)?, String::from_utf8(output.stderr)?);
    ensure!(output.status.success(), "{}:\n{stderr}\n{stdout}", output.status);
    assert!(!stdout.contains('\x1b'), "colours without a terminal:\n{stdout}");
    nothing_left(pid)?;
    let last = stdout.lines().last().context("nothing on stdout")?;
    serde_json::from_str(last).with_context(|| last.to_owned())
}

#[test]
fn home_keeps_every_chat_whole_and_spread_does_not() -> Result<()> {
    let result = result(&["--chats", "8", "--tabs", "4"])?;
    assert_eq!(result["home"], json!({"chats": 8, "whole": 8, "tabs": 32, "reached": 32}));
    let spread = &result["spread"];
    assert_eq!((&spread["chats"], &spread["tabs"]), (&8.into(), &32.into()));
    // Eight chats of four tabs, all whole by chance: one in 3 to the 24th.
    assert!(
        spread["whole"].as_u64() < Some(8) && spread["reached"].as_u64() < Some(32),
        "{result}"
    );
    Ok(())
}

#[test]
fn chats_from_inside_stay_whole_while_replicas_come_and_go() -> Result<()> {
    // One more each time; two tabs, one outside and a pod.
    let stage = |replicas: usize, chats: usize| {
        let tabs = 4 * chats;
        json!({"replicas": replicas, "chats": chats, "whole": chats, "tabs": tabs, "reached": tabs})
    };
    let stages = [stage(3, 2), stage(6, 3), stage(2, 4), stage(4, 5)];
    let result = result(&["--inside", "--chats", "2", "--tabs", "2"])?;
    assert_eq!(result, json!({"ok": true, "stages": stages}));
    Ok(())
}

/// Opens the addresses that the demo says, in three tabs each: they meet.
fn open_in_a_browser(demo: &Process) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let browser = Launch::new(Kind::Chromium).start_here(dir.path())?;
    let log = demo.log();
    let is_page = |line: &&str| line.starts_with("http://") && line.contains("/?chat=");
    let pages: Vec<_> = log.lines().map(str::trim).filter(is_page).collect();
    ensure!(pages.len() == 2, "one of each family is said: {log}");
    for page in pages {
        talk(&browser.three_tabs(page)?, 0, "good morning")?;
    }
    Ok(())
}

#[test]
fn it_cleans_up_when_it_is_interrupted() -> Result<()> {
    // Only one lab of a machine can have the link to it.
    let _heavy = heavy()?;
    let home = ["--keep", "--chats", "2", "--tabs", "2"];
    let mut kept = Process::spawn("roost-demo", &mut demo(&home))?;
    kept.wait_line(LIMIT, "Ctrl-C")?;
    // As long as it runs there is something to see: so later nothing is nothing.
    let left = nothing_left(kept.pid()).expect_err("it runs");
    ensure!(left.to_string().contains("is left"), "{left:#}");
    ensure!(fs::exists("/sys/class/net/roost-host")?, "there is no link to this machine");
    // This machine is a client too.
    let answer = run(CURL, &["-sS", "--max-time", "60", "http://198.18.200.1/whoami?chat=lobby"])?;
    let answer: Value = serde_json::from_str(&answer)?;
    assert_eq!(answer["peer"].as_str().and_then(|peer| peer.split(':').next()), Some("198.18.2.2"));
    let six = "http://[fd52:6f6f:7374:200::1]/whoami?chat=lobby";
    run(CURL, &["-sS", "--max-time", "60", six])?;
    open_in_a_browser(&kept)?;
    kill(Pid::from_raw(kept.pid() as i32), Signal::SIGINT)?;
    let status = kept.wait(LIMIT)?;
    assert_eq!(status.code(), Some(130), "{}", kept.log());
    nothing_left(kept.pid())?;
    try_until(LIMIT, "the link to this machine to go", || {
        Ok((!fs::exists("/sys/class/net/roost-host")?).then_some(()))
    })?;

    // What a crash leaves is removed by whoever makes the next lab.
    let mut crashed = Process::spawn("roost-demo", &mut demo(&home))?;
    crashed.wait_line(LIMIT, "Ctrl-C")?;
    crashed.kill();
    let mut next = Process::spawn("roost-demo", &mut demo(&home))?;
    next.wait_line(LIMIT, "Ctrl-C").context("after a crash")?;
    nothing_left(crashed.pid())?;
    next.terminate(LIMIT)?;
    nothing_left(next.pid())?;

    // In the middle of its work.
    let mut early = Process::spawn("roost-demo", &mut demo(&[]))?;
    early.wait_line(LIMIT, "chat servers")?;
    kill(Pid::from_raw(early.pid() as i32), Signal::SIGTERM)?;
    assert_eq!(early.wait(LIMIT)?.code(), Some(143), "{}", early.log());
    nothing_left(early.pid())
}
