//! The programs of the object, and the arrays where those that are attached find those that go on.
//!
//! The arrays belong to one load of the object and are complete before any of its programs is attached. The
//! kernel empties an array when nobody in userspace has it any more, so they are pinned, each under the
//! number of the attached program that uses it. They go when no link has that program any more.

use std::{collections::BTreeSet, fs, path::Path};

use anyhow::{Context as _, Result, bail};
use aya::{Ebpf, maps::ProgramArray, programs::Program};
use router_ebpf::stage::{self, CLOCK, Hook, LOOK};
use tracing::warn;

use crate::os::sys;

use super::{detach, links::STAGES, load_error};

/// Loads all programs into the kernel but those for clients on this machine, and puts them where those before them find them.
pub fn load_programs(ebpf: &mut Ebpf) -> Result<()> {
    load(ebpf, of(&[Hook::Xdp, Hook::Egress]).map(stage::Program::name).chain([CLOCK, LOOK]))?;
    fill_stages(ebpf, &[Hook::Xdp, Hook::Egress])
}

/// The same for clients on this machine: most machines have none, and to look at programs takes the kernel seconds.
pub fn load_inside(ebpf: &mut Ebpf) -> Result<()> {
    load(ebpf, of(&[Hook::Inside]).map(stage::Program::name))?;
    fill_stages(ebpf, &[Hook::Inside])
}

/// The programs of these hooks.
fn of(hooks: &[Hook]) -> impl Iterator<Item = stage::Program> {
    stage::Program::ALL.into_iter().filter(|program| hooks.contains(&program.hook))
}

fn load(ebpf: &mut Ebpf, names: impl Iterator<Item = &'static str>) -> Result<()> {
    for name in names {
        let loaded = match named(ebpf, name)? {
            // Another one of them may have failed, before this is tried again.
            program if program.fd().is_ok() => Ok(()),
            Program::Xdp(xdp) => xdp.load(),
            Program::SchedClassifier(classifier) => classifier.load(),
            _ => bail!("program {name} is of another type"),
        };
        loaded.map_err(|e| load_error(name, e.into()))?;
    }
    Ok(())
}

/// Puts the programs of these hooks, which are loaded, where those before them find them.
pub fn fill_stages(ebpf: &mut Ebpf, hooks: &[Hook]) -> Result<()> {
    for program in of(hooks).filter(|program| !program.is_attached()) {
        let (name, array) = (program.name(), program.array());
        let fd = named(ebpf, name)?.fd()?.try_clone()?;
        let map = ebpf.map_mut(array).with_context(|| format!("there is no map {array}"))?;
        let mut stages = ProgramArray::try_from(map)?;
        stages
            .set(program.stage as u32, &fd, 0)
            .with_context(|| format!("putting {name} into {array}"))?;
    }
    Ok(())
}

/// A loaded program that is to be attached.
#[derive(Debug)]
pub(super) struct Attachable {
    pub(super) program: stage::Program,
    /// The kernel's number of it.
    pub(super) number: u32,
}

/// The programs of these hooks, which are loaded, that are to be attached.
pub(super) fn attachable(ebpf: &mut Ebpf, hooks: &[Hook]) -> Result<Vec<Attachable>> {
    let number = |program: stage::Program| {
        let info = match named(ebpf, program.name())? {
            Program::Xdp(xdp) => xdp.info(),
            Program::SchedClassifier(classifier) => classifier.info(),
            _ => bail!("program {} is of another type", program.name()),
        };
        let number = info.with_context(|| format!("asking about {}", program.name()))?.id();
        Ok(Attachable { program, number })
    };
    of(hooks).filter(|program| program.is_attached()).map(number).collect()
}

fn named<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Program> {
    ebpf.program_mut(name).with_context(|| format!("the eBPF object has no program {name}"))
}

/// Pins the arrays of these programs, so that they stay without this process. To be done before a program is
/// attached.
pub(super) fn pin(ebpf: &Ebpf, pin_dir: &Path, programs: &[Attachable]) -> Result<()> {
    let directory = pin_dir.join(STAGES);
    fs::create_dir_all(&directory).with_context(|| format!("creating {}", directory.display()))?;
    for Attachable { program, number } in programs {
        let path = directory.join(number.to_string());
        let map = ebpf.map(program.array());
        let map = map.with_context(|| format!("there is no map {}", program.array()))?;
        // No other program has its number: what is there is from when this failed half-way.
        let _ = fs::remove_file(&path);
        map.pin(&path).with_context(|| format!("pinning {}", path.display()))?;
    }
    Ok(())
}

/// Unpins the arrays whose programs are in no pinned link and are not these. To be done after a program was
/// replaced; whatever a killed daemon has left goes, too.
pub(super) fn unpin_unused(pin_dir: &Path, own: &[Attachable]) {
    let mut used: BTreeSet<u32> = own.iter().map(|program| program.number).collect();
    for link in detach::link_paths(pin_dir) {
        match sys::pinned_link_program(&link) {
            Ok(number) => drop(used.insert(number)),
            Err(e) => {
                // Its program may need any of them.
                warn!(path = %link.display(), "nobody knows which program is there: {e}");
                return;
            }
        }
    }
    for entry in fs::read_dir(pin_dir.join(STAGES)).into_iter().flatten().flatten() {
        let number = entry.file_name().to_str().and_then(|name| name.parse().ok());
        if number.is_some_and(|number| !used.contains(&number))
            && let Err(e) = fs::remove_file(entry.path())
        {
            warn!(path = %entry.path().display(), "cannot be unpinned: {e}");
        }
    }
}
