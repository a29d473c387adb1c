//! A directory that has the programs of the table and no others: the PATH of programs that run others.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::table::ALL;

/// The directory; made when it is first asked for.
pub(crate) fn directory() -> &'static Path {
    static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();
    DIRECTORY.get_or_init(|| {
        // One for each user: who is not root cannot change what root has made.
        let user = fs::metadata("/proc/self").map_or(0, |own| own.uid());
        let target = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target");
        let directory = Path::new(target).join(format!("programs-{user}"));
        fill(&directory).unwrap_or_else(|e| panic!("making links in {}: {e}", directory.display()))
    })
}

/// Links what is there. Several processes do this at a time.
fn fill(directory: &Path) -> std::io::Result<PathBuf> {
    fs::create_dir_all(directory)?;
    let directory = directory.canonicalize()?;
    for program in ALL {
        let Some(path) = program.find() else { continue };
        // It is in this process's own PATH.
        if path.starts_with(&directory) {
            continue;
        }
        let link = directory.join(program.name);
        if fs::read_link(&link).is_ok_and(|to| to == path) {
            continue;
        }
        let new = directory.join(format!(".{}-{}", program.name, std::process::id()));
        match symlink(&path, &new) {
            Err(e) if e.kind() != ErrorKind::AlreadyExists => return Err(e),
            _ => fs::rename(&new, &link)?,
        }
    }
    Ok(directory)
}
