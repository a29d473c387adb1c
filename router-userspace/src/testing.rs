//! Real maps for tests, which need root and say so instead of being skipped; and what goes into them.

use std::{
    fs,
    path::PathBuf,
    sync::atomic::{AtomicU32, Ordering},
    thread,
};

use router_ebpf::maps::{KeySource, SOURCES, Service};

use crate::{
    attach::loader,
    maps::{secrets, tables::Tables},
    plan::config::{Limits, SecretFiles, key_sources},
};

/// The sizes of the maps of tests.
pub(crate) const LIMITS: Limits =
    Limits { flows: 64, chats: 64, pending: 64, stash: 64, ended: 64, services: 4, replicas: 32 };

/// Small maps, pinned in a directory of their own until this is dropped.
pub(crate) struct TestMaps {
    pub(crate) pin_dir: PathBuf,
}

impl TestMaps {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("roost-unit-{}-{count}", std::process::id());
        let maps = Self { pin_dir: PathBuf::from("/sys/fs/bpf").join(name) };
        loader::make_maps(&maps.pin_dir, &LIMITS)
            .expect("this test makes maps in the kernel: run it as root");
        let mut tables = maps.unfilled();
        secrets::set(&mut tables, &SecretFiles::default()).unwrap();
        maps
    }

    pub(crate) fn unfilled(&self) -> Tables {
        Tables::open_unfilled(&self.pin_dir).unwrap()
    }

    pub(crate) fn tables(&self) -> Tables {
        Tables::open(&self.pin_dir).unwrap()
    }
}

impl Drop for TestMaps {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.pin_dir);
    }
}

/// Runs `test` in a network namespace of its own, which ends with it.
pub(crate) fn in_namespace(test: impl FnOnce() + Send + 'static) {
    let thread = thread::spawn(|| {
        // SAFETY: takes plain flags, and changes this thread only.
        let result = unsafe { libc::unshare(libc::CLONE_NEWNET) };
        assert_eq!(result, 0, "this test makes a network namespace: run it as root");
        test();
    });
    thread.join().unwrap();
}

/// A service with these key sources, and nothing else of its own.
#[track_caller]
pub(crate) fn service(texts: &[&str]) -> Service {
    let mut sources = [KeySource::NONE; SOURCES];
    for (to, from) in sources.iter_mut().zip(key_sources(texts.iter().copied()).unwrap()) {
        *to = from.to_map();
    }
    Service { sources, ..Service::EMPTY }
}
