//! Loading and attaching for real, to the loopback interface of a network namespace of the test's own.

use std::{io, thread};

use aya::programs::{TcAttachType, TcError, tc};

use super::{
    links::{CLSACT, TCX, XDP, link_path},
    *,
};
use crate::testing::{LIMITS, TestMaps};

const LO: &str = "lo";

/// Runs `test` in a network namespace of its own, which ends with it.
pub(super) fn in_namespace(test: impl FnOnce() + Send + 'static) {
    let thread = thread::spawn(|| {
        // SAFETY: takes plain flags, and changes this thread only.
        let result = unsafe { libc::unshare(libc::CLONE_NEWNET) };
        assert_eq!(result, 0, "this test makes a network namespace: run it as root");
        test();
    });
    thread.join().unwrap();
}

fn load(maps: &TestMaps) -> DataPath {
    DataPath::load(&maps.pin_dir, &LIMITS, false).unwrap()
}

#[test]
fn links_are_pinned_taken_over_and_removed() {
    in_namespace(|| {
        let maps = TestMaps::new();
        let pinned = |hook| link_path(&maps.pin_dir, LO, hook).exists();
        let mut first = load(&maps);
        assert!(first.attach(LO).unwrap(), "nothing was attached before");
        drop(first);
        assert!(pinned(XDP) && pinned(TCX));
        let mut second = load(&maps);
        assert_eq!(second.pinned_interfaces(), [LO]);
        assert!(!second.attach(LO).unwrap(), "the first one's links are taken over");
        let e = second.attach("nowhere").unwrap_err().to_string();
        assert!(e.contains("there are: lo"), "{e}");
        second.detach(LO);
        assert!(!pinned(XDP) && !pinned(TCX));
        assert!(second.attach(LO).unwrap(), "nothing is left of the links before");
    });
}

#[test]
fn the_classic_hook_is_replaced_and_removed_too() {
    in_namespace(|| {
        let maps = TestMaps::new();
        let note = link_path(&maps.pin_dir, LO, CLSACT);
        let mut first = load(&maps);
        assert_eq!(first.attach_clsact(LO).unwrap(), Attached::Clsact);
        drop(first);
        assert!(note.exists());
        let mut second = load(&maps);
        assert_eq!(second.attach_clsact(LO).unwrap(), Attached::TakenOver);
        assert_eq!(second.pinned_interfaces(), [LO]);
        second.detach(LO);
        assert!(!note.exists());
        let gone = tc::qdisc_detach_program(LO, TcAttachType::Egress, EGRESS);
        // Aya's way to say that there is none; another failure is not that.
        let Err(TcError::IoError(gone)) = gone else { panic!("{gone:?}") };
        assert_eq!(gone.kind(), io::ErrorKind::NotFound, "{gone}");
    });
}

#[test]
fn names_of_interfaces_survive_the_bpffs() {
    for name in ["eth0", "eth0.100", "br-lan", "a%2eb"] {
        let path = link_path(Path::new("/pin"), name, XDP);
        let file = path.file_name().unwrap().to_str().unwrap();
        assert!(!file.contains('.'), "{file}");
        assert_eq!(interface_of(file).unwrap(), (name.to_owned(), XDP));
    }
}
