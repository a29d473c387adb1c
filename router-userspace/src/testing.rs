//! Real maps for tests: they need root, and say so instead of being skipped.

use std::{
    fs,
    path::PathBuf,
    sync::atomic::{AtomicU32, Ordering},
};

use crate::{
    config::{Limits, SecretFiles},
    loader, secrets,
    tables::Tables,
};

/// The sizes of the maps of tests.
pub(crate) const LIMITS: Limits =
    Limits { flows: 64, chats: 64, pending: 64, stash: 64, services: 4, replicas: 32 };

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
        loader::maps(&maps.pin_dir, &LIMITS, false)
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
