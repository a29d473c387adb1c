//! The whole file system of a virtual machine, in one archive.
//!
//! Programs find files by the paths that they were compiled with, so the checkout is at the same
//! place there. Only `/init`, what it is told, the test programs and the shared libraries are added.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use cpio::newc::{Builder, ModeFileType, trailer};
use roost_programs::LDD;
use serde_json::json;

use super::built::Built;
use crate::process::read;
use crate::workspace::Workspace;

/// Directories of the checkout that stay here: they are large, and no test reads them.
const LEFT_OUT: &[&str] = &[".git", "target", "node_modules"];
/// Where the guest looks for what it is told, and for its programs.
const ORDERS: &str = "/guest.json";
const TESTS: &str = "/tests";

/// Writes the archive.
pub fn write(
    to: &Path,
    workspace: &Workspace,
    built: &Built,
    arguments: &[OsString],
) -> Result<()> {
    let mut archive = Archive::create(to)?;
    let tests = Path::new(TESTS).join(&built.tests.name);
    let orders = json!({
        "object": workspace.ebpf_object(),
        // As cargo does it.
        "directory": workspace.root.join("tests"),
        "variables": { "RUST_BACKTRACE": "1" },
        "tests": { &built.tests.name: tests },
        "arguments": arguments.iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>(),
    });
    archive.add(Path::new(ORDERS), orders.to_string().as_bytes(), false)?;
    archive.copy(&built.guest.path, Path::new("/init"))?;
    archive.copy(&built.tests.path, &tests)?;
    for library in libraries(built)? {
        archive.copy(&library, &library)?;
    }
    for object in [workspace.ebpf_object(), workspace.pass_object(), workspace.room_object()] {
        archive.copy(&object, &object)?;
    }
    archive.copy_tree(&workspace.root)?;
    archive.finish().map_err(Into::into)
}

/// Every shared library that the programs are linked with, by the path where they look for it.
fn libraries(built: &Built) -> Result<BTreeSet<PathBuf>> {
    let mut all = BTreeSet::new();
    for program in [&built.guest, &built.tests] {
        let answer = read(LDD.command()?.arg(&program.path).env("LC_ALL", "C"))?;
        all.extend(linked(&answer)?);
    }
    Ok(all)
}

/// The paths in what `ldd` says. The kernel's own library has none.
fn linked(answer: &str) -> Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for line in answer.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            [name, "=>", "not", "found"] => anyhow::bail!("there is no shared library {name}"),
            [_, "=>", path, _] => paths.push(path.into()),
            [path, _] if path.starts_with('/') => paths.push(path.into()),
            _ => {}
        }
    }
    Ok(paths)
}

/// A cpio archive in the form that the kernel unpacks.
struct Archive<W: Write> {
    out: W,
    directories: BTreeSet<PathBuf>,
    entries: u32,
}

impl Archive<BufWriter<File>> {
    fn create(path: &Path) -> io::Result<Self> {
        Ok(Self::new(BufWriter::new(File::create(path)?)))
    }
}

impl<W: Write> Archive<W> {
    fn new(out: W) -> Self {
        Self { out, directories: BTreeSet::new(), entries: 0 }
    }

    fn copy(&mut self, from: &Path, to: &Path) -> Result<()> {
        let data = fs::read(from).with_context(|| format!("reading {}", from.display()))?;
        let mode = fs::metadata(from)?.permissions().mode();
        self.add(to, &data, mode & 0o111 != 0).map_err(Into::into)
    }

    fn copy_tree(&mut self, dir: &Path) -> Result<()> {
        let entries = fs::read_dir(dir).with_context(|| format!("reading {}", dir.display()))?;
        for entry in entries {
            let entry = entry?;
            let kind = entry.file_type()?;
            if kind.is_dir() && !LEFT_OUT.iter().any(|name| entry.file_name() == *name) {
                self.copy_tree(&entry.path())?;
            } else if kind.is_file() {
                self.copy(&entry.path(), &entry.path())?;
            }
        }
        Ok(())
    }

    fn add(&mut self, path: &Path, data: &[u8], executable: bool) -> io::Result<()> {
        // The kernel makes no directories that are not in the archive.
        let mut parents: Vec<&Path> = path.ancestors().skip(1).collect();
        parents.reverse();
        for parent in parents {
            if parent.parent().is_some() && self.directories.insert(parent.to_owned()) {
                self.entry(parent, ModeFileType::Directory, 0o755, &[])?;
            }
        }
        let permissions = if executable { 0o755 } else { 0o644 };
        self.entry(path, ModeFileType::Regular, permissions, data)
    }

    fn entry(
        &mut self,
        path: &Path,
        kind: ModeFileType,
        permissions: u32,
        data: &[u8],
    ) -> io::Result<()> {
        let name = path.strip_prefix("/").unwrap_or(path).to_str();
        let name =
            name.ok_or_else(|| io::Error::other(format!("{} is not UTF-8", path.display())))?;
        let size = u32::try_from(data.len()).map_err(io::Error::other)?;
        // Equal numbers would be taken for links to one file.
        self.entries += 1;
        let entry = Builder::new(name).ino(self.entries).nlink(1).mode(permissions);
        let mut writer = entry.set_mode_file_type(kind).write(&mut self.out, size);
        writer.write_all(data)?;
        writer.finish().map(drop)
    }

    fn finish(self) -> io::Result<()> {
        trailer(self.out)?.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use cpio::newc::Reader;

    use super::*;

    #[test]
    fn ldd_names_libraries_with_and_without_an_arrow() {
        let answer = "\tlinux-vdso.so.1 (0x00007ffc)\n\
                      \tlibgcc_s.so.1 => /lib/x86_64-linux-gnu/libgcc_s.so.1 (0x00007f)\n\
                      \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        let expected = ["/lib/x86_64-linux-gnu/libgcc_s.so.1", "/lib64/ld-linux-x86-64.so.2"];
        assert_eq!(linked(answer).expect("libraries"), expected.map(PathBuf::from));
        assert_eq!(linked("\tstatically linked\n").expect("none"), Vec::<PathBuf>::new());
        let error = linked("\tlibx.so => not found\n").expect_err("a missing library");
        assert!(error.to_string().contains("libx.so"), "{error}");
    }

    #[test]
    fn an_archive_has_each_directory_once_and_before_its_files() {
        let mut bytes = Vec::new();
        let mut archive = Archive::new(&mut bytes);
        archive.add(Path::new("/a/b/one"), b"1", true).expect("adding");
        archive.add(Path::new("/a/b/two"), b"22", false).expect("adding");
        archive.finish().expect("finishing");

        let mut input = &bytes[..];
        let mut found = Vec::new();
        loop {
            let mut reader = Reader::new(input).expect("an entry");
            if reader.entry().is_trailer() {
                break;
            }
            let (name, mode) = (reader.entry().name().to_owned(), reader.entry().mode());
            let mut data = String::new();
            reader.read_to_string(&mut data).expect("contents");
            found.push((name, mode, data));
            input = reader.finish().expect("the next entry");
        }
        let expected = [
            ("a", 0o040_755, ""),
            ("a/b", 0o040_755, ""),
            ("a/b/one", 0o100_755, "1"),
            ("a/b/two", 0o100_644, "22"),
        ];
        let expected = expected.map(|(name, mode, data)| (name.to_owned(), mode, data.to_owned()));
        assert_eq!(found, expected);
    }
}
