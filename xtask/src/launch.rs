//! Handing over to a program of the `roost-tests` package, as root.

use std::ffi::OsString;

use anyhow::Result;
use roost_programs::Need;

use crate::root::Root;
use crate::workspace::{Profile, Workspace};
use crate::{apt, build, process};

/// Builds everything, then becomes `program`. Its stdout is untouched; Ctrl-C reaches it directly.
pub fn launch(workspace: &Workspace, program: &str, arguments: &[OsString]) -> Result<()> {
    let root = Root::find(&format!("{program} makes network namespaces and loads eBPF, and"))?;
    apt::ensure(&apt::programs(&[Need::Network]), "to make network namespaces")?;
    build::everything(workspace, Profile::Release)?;
    let variables = workspace.variables(Profile::Release);
    let mut command = root.command(&workspace.binary(Profile::Release, program), &variables)?;
    Err(process::exec(command.args(arguments)))
}
