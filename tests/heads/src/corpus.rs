//! The files of `tests/corpus`, as they were when this was compiled.

/// Directory, name and content.
type File = (&'static str, &'static str, &'static [u8]);

const FILES: &[File] = include!(concat!(env!("OUT_DIR"), "/corpus.rs"));

/// A file, by its directory in the corpus and its name.
pub fn file(dir: &str, name: &str) -> &'static [u8] {
    let found = FILES.iter().find(|file| (file.0, file.1) == (dir, name));
    found.unwrap_or_else(|| panic!("there is no {name} in tests/corpus/{dir}")).2
}

/// Name and content of the files of a directory of the corpus. None is an error: then they have been
/// lost.
pub fn files(dir: &str) -> impl Iterator<Item = (&'static str, &'static [u8])> {
    assert!(FILES.iter().any(|file| file.0 == dir), "there is nothing in tests/corpus/{dir}");
    FILES.iter().filter(move |file| file.0 == dir).map(|(_, name, bytes)| (*name, *bytes))
}
