//! Loading and attaching for real, to the loopback interface of a network namespace of the test's own.

use std::{collections::BTreeSet, io, thread};

use aya::programs::{TcAttachType, TcError, tc};

use super::{
    attach::{FROM_INSIDE, TO_CLIENTS},
    links::{CLSACT, CLSACT_IN, STAGES, TCX, TCX_IN, XDP, link_path},
    *,
};
use crate::{
    os::sys,
    testing::{LIMITS, TestMaps},
};

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
        let notes = [CLSACT, CLSACT_IN].map(|hook| link_path(&maps.pin_dir, LO, hook));
        let mut first = load(&maps);
        first.load_inside().unwrap();
        assert_eq!(first.attach_clsact(LO, &TO_CLIENTS).unwrap(), Attached::Clsact);
        assert_eq!(first.pinned_interfaces(), [LO]);
        assert_eq!(first.attach_clsact(LO, &FROM_INSIDE).unwrap(), Attached::Clsact);
        drop(first);
        assert!(notes.iter().all(|note| note.exists()));
        let mut second = load(&maps);
        assert_eq!(second.attach_clsact(LO, &TO_CLIENTS).unwrap(), Attached::TakenOver);
        assert_eq!(second.attach_clsact(LO, &FROM_INSIDE).unwrap(), Attached::TakenOver);
        assert!(second.pinned_interfaces().is_empty());
        assert_eq!(second.pinned_client_links(), BTreeSet::from([LO.to_owned()]));
        second.detach(LO);
        assert!(!notes.iter().any(|note| note.exists()));
        for (at, program) in [(TcAttachType::Egress, EGRESS), (TcAttachType::Ingress, INSIDE)] {
            let gone = tc::qdisc_detach_program(LO, at, program);
            // Aya's way to say that there is none; another failure is not that.
            let Err(TcError::IoError(gone)) = gone else { panic!("{gone:?}") };
            assert_eq!(gone.kind(), io::ErrorKind::NotFound, "{gone}");
        }
    });
}

/// A client link may become one whose clients are outside, and the other way round.
#[test]
fn a_link_is_one_thing_or_the_other() {
    in_namespace(|| {
        let maps = TestMaps::new();
        let pinned = |hook| link_path(&maps.pin_dir, LO, hook).exists();
        let all = || [XDP, TCX_IN, TCX].map(pinned);
        let mut first = load(&maps);
        let index = sys::interface_index(LO).unwrap();
        first.attach_inside(LO, index).unwrap();
        assert_eq!(all(), [false, true, true]);
        drop(first);
        let mut second = load(&maps);
        assert_eq!(second.pinned_client_links(), BTreeSet::from([LO.to_owned()]));
        assert!(second.pinned_interfaces().is_empty());
        second.attach_inside(LO, index).unwrap();
        second.attach(LO).unwrap();
        assert_eq!(all(), [true, false, true]);
        second.detach(LO);
        second.attach_inside(LO, index).unwrap();
        assert_eq!(all(), [false, true, true]);
        // What fails leaves nothing.
        assert!(second.attach_inside("nowhere", 4711).is_err());
        assert!(!link_path(&maps.pin_dir, "nowhere", TCX).exists());
        second.detach_inside(LO);
        assert_eq!(all(), [false; 3]);
    });
}

/// The numbers of the programs in pinned links, and of those whose arrays are pinned.
fn programs(pin_dir: &Path) -> (BTreeSet<u32>, BTreeSet<u32>) {
    let number = |path: &PathBuf| sys::pinned_link_program(path).unwrap();
    let arrays = fs::read_dir(pin_dir.join(STAGES)).unwrap();
    let name = |entry: io::Result<fs::DirEntry>| entry.unwrap().file_name().into_string().unwrap();
    (
        detach::link_paths(pin_dir).iter().map(number).collect(),
        // The clock of the kernel is there, too.
        arrays.map(name).filter(|name| name != "CLOCK").map(|name| name.parse().unwrap()).collect(),
    )
}

/// The kernel empties an array of programs when its last pin goes: each attached program has its own, from
/// before it is attached until nothing has it any more.
#[test]
fn arrays_are_pinned_as_long_as_their_programs_are_attached() {
    in_namespace(|| {
        let maps = TestMaps::new();
        let mut first = load(&maps);
        first.attach(LO).unwrap();
        first.load_inside().unwrap();
        let index = sys::interface_index(LO).unwrap();
        // On one interface at most two of the three are: this is for both kinds at once.
        first.attach_classifier(LO, index, &FROM_INSIDE).unwrap();
        let (of_first, arrays) = programs(&maps.pin_dir);
        assert_eq!((of_first.len(), &arrays), (3, &of_first));
        drop(first);
        // Killed before it attached.
        drop(load(&maps));
        let (attached, arrays) = programs(&maps.pin_dir);
        assert_eq!((&attached, arrays.len()), (&of_first, 6));
        assert!(arrays.is_superset(&of_first), "{arrays:?}");
        // The next one replaces the programs, and removes what both have left.
        let mut third = load(&maps);
        assert_eq!(programs(&maps.pin_dir).1.len(), 9);
        third.attach(LO).unwrap();
        third.attach_classifier(LO, index, &FROM_INSIDE).unwrap();
        let (of_third, arrays) = programs(&maps.pin_dir);
        assert!(of_third.is_disjoint(&of_first) && arrays == of_third, "{of_third:?} {arrays:?}");
        // Those of a daemon that lives stay, attached or not.
        third.detach(LO);
        assert_eq!(programs(&maps.pin_dir), (BTreeSet::new(), of_third));
        drop(third);
        assert!(detach(&maps.pin_dir).unwrap().len() > Map::ALL.len());
        assert!(!maps.pin_dir.exists());
    });
}

/// A link that cannot be replaced keeps its old program, which goes on as before.
#[test]
fn the_array_of_a_program_that_is_still_attached_elsewhere_stays() {
    in_namespace(|| {
        let maps = TestMaps::new();
        let mut first = load(&maps);
        first.attach(LO).unwrap();
        drop(first);
        let elsewhere = |hook| link_path(&maps.pin_dir, "elsewhere", hook);
        for hook in [XDP, TCX] {
            // As if it were another interface's.
            fs::rename(link_path(&maps.pin_dir, LO, hook), elsewhere(hook)).unwrap();
        }
        let (of_first, _) = programs(&maps.pin_dir);
        let mut second = load(&maps);
        second.detach(LO);
        assert!(programs(&maps.pin_dir).1.is_superset(&of_first));
        second.detach("elsewhere");
        assert!(programs(&maps.pin_dir).1.is_disjoint(&of_first));
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
