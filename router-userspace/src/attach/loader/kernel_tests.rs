//! Loading and attaching for real, to the loopback interface of a network namespace of the test's own.

use std::{collections::BTreeSet, ffi::c_char, io};

use aya::programs::{TcAttachType, TcError, tc};

use super::{
    attach::{FROM_INSIDE, TO_CLIENTS},
    links::{CLSACT, CLSACT_IN, STAGES, TCX, TCX_IN, XDP, link_path},
    *,
};
use crate::{
    os::sys,
    testing::{LIMITS, TestMaps, in_namespace},
};

const LO: &str = "lo";

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
        assert_no_filter(LO);
    });
}

#[track_caller]
fn assert_no_filter(interface: &str) {
    for (at, program) in [(TcAttachType::Egress, EGRESS), (TcAttachType::Ingress, INSIDE)] {
        let gone = tc::qdisc_detach_program(interface, at, program);
        // Aya's way to say that there is none; another failure is not that.
        let Err(TcError::IoError(gone)) = gone else { panic!("{gone:?}") };
        assert_eq!(gone.kind(), io::ErrorKind::NotFound, "{gone}");
    }
}

/// Gives an interface another name.
fn rename(from: &str, to: &str) {
    // SAFETY: plain numbers and bytes.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (at, byte) in from.bytes().enumerate() {
        request.ifr_name[at] = byte as c_char;
    }
    // SAFETY: as above.
    let mut name: [c_char; libc::IFNAMSIZ] = unsafe { std::mem::zeroed() };
    for (at, byte) in to.bytes().enumerate() {
        name[at] = byte as c_char;
    }
    request.ifr_ifru.ifru_newname = name;
    // SAFETY: the socket is this function's, and the request is one for this call.
    let result = unsafe {
        let socket = libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0);
        let result = libc::ioctl(socket, libc::SIOCSIFNAME, &raw mut request);
        libc::close(socket);
        result
    };
    assert_eq!(result, 0, "{}", io::Error::last_os_error());
}

/// What is noted has the name from before; the filters go with the interface.
#[test]
fn an_interface_that_was_renamed_keeps_no_filter_of_the_classic_hook() {
    in_namespace(|| {
        const OTHER: &str = "renamed";
        let maps = TestMaps::new();
        let mut data_path = load(&maps);
        data_path.load_inside().unwrap();
        let mut attach = |name: &str| {
            [&TO_CLIENTS, &FROM_INSIDE].map(|of| data_path.attach_clsact(name, of).unwrap())
        };
        assert_eq!(attach(LO), [Attached::Clsact; 2]);
        rename(LO, OTHER);
        // By its new name it is served again, by the same filters.
        assert_eq!(attach(OTHER), [Attached::TakenOver; 2]);
        data_path.detach_inside(LO);
        assert!(data_path.is_inside(OTHER) && !data_path.is_inside(LO));
        assert_eq!(data_path.pinned_client_links(), BTreeSet::from([OTHER.to_owned()]));
        rename(OTHER, LO);
        data_path.detach_inside(OTHER);
        assert!(data_path.pinned_client_links().is_empty());
        assert_no_filter(LO);
    });
}

/// Killed between the two.
#[test]
fn half_a_client_link_is_no_interface_whose_clients_are_outside() {
    in_namespace(|| {
        let maps = TestMaps::new();
        let index = sys::interface_index(LO).unwrap();
        let mut first = load(&maps);
        first.attach_classifier(LO, index, &TO_CLIENTS).unwrap();
        drop(first);
        let mut second = load(&maps);
        assert!(second.pinned_interfaces().is_empty());
        assert_eq!(second.pinned_client_links(), BTreeSet::from([LO.to_owned()]));
        assert!(!second.is_inside(LO));
        second.attach_inside(LO, index).unwrap();
        assert!(second.is_inside(LO));
        drop(second);
        assert!(detach(&maps.pin_dir).unwrap().len() > Map::ALL.len());
        assert!(!maps.pin_dir.exists());
    });
}

/// There is not enough memory for all, say.
#[test]
fn loading_that_failed_half_way_is_tried_again() {
    in_namespace(|| {
        let maps = TestMaps::new();
        let mut data_path = load(&maps);
        let name = Program { hook: Hook::Inside, stage: Stage::Care }.name();
        let care: &mut aya::programs::SchedClassifier = program(&mut data_path.ebpf, name).unwrap();
        care.load().unwrap();
        load_inside(&mut data_path.ebpf).unwrap();
        let programs = stages::attachable(&mut data_path.ebpf, &[Hook::Inside]).unwrap();
        stages::pin(&data_path.ebpf, &maps.pin_dir, &programs).unwrap();
        data_path.load_inside().unwrap();
        data_path.attach_inside(LO, sys::interface_index(LO).unwrap()).unwrap();
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
        // XDP has room for one.
        let others = TestMaps::new();
        load(&others).attach(LO).unwrap();
        assert!(second.attach(LO).is_err());
        assert_eq!(all(), [false, true, true], "what cannot be an interface stays a client link");
        second.detach_inside(LO);
        assert_eq!(all(), [false; 3]);
        assert!(detach(&others.pin_dir).unwrap().len() > Map::ALL.len());
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
