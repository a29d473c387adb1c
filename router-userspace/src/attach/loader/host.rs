//! The programs for processes of this machine: where they connect, and at the device by which they do.

use std::{fs, os::fd::OwnedFd};

use anyhow::{Context as _, Result, bail};
use aya::Ebpf;
use aya::programs::{CgroupAttachMode, CgroupSockAddr, Program, TcAttachType, links::FdLink};
use router_ebpf::{
    maps::NEAR_END,
    stage::{CONNECT, HOST_BACK, HOST_OUT},
};

use super::{
    DataPath,
    attach::Classifier,
    connect::{self, HOST},
    links::{CLSACT_BACK, CLSACT_OUT, FIRST, LAST, TCX_BACK, TCX_OUT},
    load_error, program,
};

/// Out of the host.
const OUT: Classifier = Classifier {
    program: HOST_OUT,
    at: TcAttachType::Egress,
    is_first: false,
    tcx: TCX_OUT,
    clsact: CLSACT_OUT,
    priority: LAST,
};

/// Back to it.
const BACK: Classifier = Classifier {
    program: HOST_BACK,
    at: TcAttachType::Ingress,
    is_first: true,
    tcx: TCX_BACK,
    clsact: CLSACT_BACK,
    priority: FIRST,
};

impl DataPath {
    /// Notes that the device is Roost's, before it is made.
    pub(crate) fn note_host(&self) -> Result<()> {
        let directory = self.pin_dir.join(HOST);
        fs::create_dir_all(&directory).with_context(|| format!("creating {}", directory.display()))
    }

    /// Whether a daemon has noted that.
    pub(crate) fn is_host_noted(&self) -> bool {
        connect::is_wanted(&self.pin_dir)
    }

    /// Attaches to the host's end of the device, or replaces the programs of the daemon before.
    pub(crate) fn attach_host(&mut self, index: u32) -> Result<()> {
        load_host(&mut self.ebpf)?;
        for of in [&OUT, &BACK] {
            self.attach_classifier(NEAR_END, index, of)?;
        }
        Ok(())
    }

    /// Attaches to where processes connect whose cgroups are under this one. The programs of the daemon before are at work until
    /// these are: what the one has turned is no VIP for the other.
    pub(crate) fn attach_connect(&mut self, cgroup: &OwnedFd) -> Result<()> {
        // First those that are asked whom a process is connected to.
        for name in CONNECT.into_iter().rev() {
            let hook: &mut CgroupSockAddr = program(&mut self.ebpf, name)?;
            let id = hook
                .attach(cgroup, CgroupAttachMode::Single)
                .with_context(|| format!("attaching {name}"))?;
            let link: FdLink =
                hook.take_link(id)?.try_into().with_context(|| format!("keeping {name}"))?;
            let path = self.pin_dir.join(HOST).join(name);
            let new = path.with_file_name(format!("{name}_new"));
            connect::unpin(&new)?;
            link.pin(&new).with_context(|| format!("pinning {}", new.display()))?;
            fs::rename(&new, &path).with_context(|| format!("renaming {}", new.display()))?;
        }
        Ok(())
    }

    /// Nobody connects by the device any more.
    pub(crate) fn detach_connect(&self) -> Result<()> {
        connect::detach(&self.pin_dir)
    }

    /// The device is Roost's no longer.
    pub(crate) fn forget_host(&self) -> Result<()> {
        super::detach::interface(&self.pin_dir, NEAR_END);
        let directory = self.pin_dir.join(HOST);
        fs::remove_dir(&directory).with_context(|| format!("removing {}", directory.display()))
    }
}

/// Loads the programs for processes of this machine, those that are not loaded yet.
pub fn load_host(ebpf: &mut Ebpf) -> Result<()> {
    for name in [HOST_OUT, HOST_BACK].into_iter().chain(CONNECT) {
        let program = ebpf.program_mut(name);
        match program.with_context(|| format!("the eBPF object has no program {name}"))? {
            Program::SchedClassifier(program) if program.fd().is_err() => program.load(),
            Program::CgroupSockAddr(program) if program.fd().is_err() => program.load(),
            Program::SchedClassifier(_) | Program::CgroupSockAddr(_) => Ok(()),
            _ => bail!("program {name} is of another type"),
        }
        .map_err(|e| load_error(name, e.into()))?;
    }
    Ok(())
}
