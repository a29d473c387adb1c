//! The clock hand of the kernel: its timer, and what it is given to look at.
//!
//! The timer is in the map `CLOCK`, and ends with its pin. Each release has its own: it is armed before that of the
//! release before goes.

use std::{fs, path::Path};

use anyhow::{Context as _, Result, bail};
use aya::{
    Ebpf,
    programs::{ProgramError, TestRun as _, TestRunOptions, Xdp},
};
use router_ebpf::{
    maps::{CHAT_COUNTED, STATE_COUNTED, Watched, WatchedChat},
    stage,
};
use tracing::warn;

use crate::maps::tables::Tables;

use super::{links::STAGES, program};

/// The map that has the timer.
const CLOCK: &str = "CLOCK";
/// XDP_PASS: it went well.
const DONE: u32 = 2;
/// The shortest frame of a test run.
const FRAME: [u8; 64] = [0; 64];

/// Pins the timer and starts it, in place of one before.
pub(super) fn start(ebpf: &mut Ebpf, pin_dir: &Path) -> Result<()> {
    let directory = pin_dir.join(STAGES);
    let (path, next) = (directory.join(CLOCK), directory.join("CLOCK-next"));
    let map = ebpf.map(CLOCK).context("the eBPF object has no map CLOCK")?;
    // Of a daemon that was killed just here.
    let _ = fs::remove_file(&next);
    map.pin(&next).with_context(|| format!("pinning {}", next.display()))?;
    run(ebpf, stage::CLOCK)?;
    fs::rename(&next, &path).with_context(|| format!("renaming {}", next.display()))
}

/// Looks at flows and chats in turn, at so many at least.
pub(super) fn look(ebpf: &mut Ebpf, entries: usize) -> Result<()> {
    for _ in 0..entries.div_ceil(router_ebpf::hand::LOOKS as usize) {
        run(ebpf, stage::LOOK)?;
    }
    Ok(())
}

fn run(ebpf: &mut Ebpf, name: &str) -> Result<()> {
    let program: &mut Xdp = program(ebpf, name)?;
    loop {
        let options = TestRunOptions { data_in: Some(&FRAME), ..TestRunOptions::default() };
        match program.test_run(options) {
            Ok(result) if result.return_value == DONE => return Ok(()),
            Ok(result) => bail!("program {name} could not do its work: {}", result.return_value),
            // A signal came before the program ran.
            Err(ProgramError::SyscallError(e))
                if e.io_error.raw_os_error() == Some(libc::EINTR) => {}
            Err(e) => return Err(e).with_context(|| format!("running {name}")),
        }
    }
}

/// Gives the clock hand what a release before has entered, which had none. Doing it again for what it has not yet
/// looked at does no harm.
pub(super) fn adopt(pin_dir: &Path) -> Result<()> {
    let mut tables = Tables::open_unfilled(pin_dir)?;
    let (mut flows, mut chats, mut left) = (0, 0, 0);
    for (tuple, flow) in tables.flows.entries()? {
        if flow.state & STATE_COUNTED == 0 {
            let watched = Watched { tuple, server_isn: flow.server_isn, at: 0, reserved: 0 };
            let fits = tables.flow_ring.put(&watched)?;
            *(if fits { &mut flows } else { &mut left }) += 1;
        }
    }
    for (key, chat) in tables.chats.entries()? {
        if chat.state & CHAT_COUNTED == 0 {
            let fits = tables.chat_ring.put(&WatchedChat { key, at: 0, reserved: 0 })?;
            *(if fits { &mut chats } else { &mut left }) += 1;
        }
    }
    if flows + chats > 0 {
        tracing::info!(flows, chats, "took over what a version before has entered");
    }
    if left > 0 {
        warn!(
            left,
            "flows and chats of a version before do not fit: the next start takes them over"
        );
    }
    Ok(())
}
