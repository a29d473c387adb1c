//! Taking over maps that another release has made: real ones, which are made older here.

use std::{collections::BTreeMap, fs, path::Path};

use aya::maps::{self as of_aya, MapData, MapInfo};
use router_ebpf::{
    maps::{Mark, Tuple},
    verdict::Counter,
};

use super::{attach::TO_CLIENTS, links::NEXT, steps::Step, *};
use crate::{
    maps::{handle::Hash, record::Record, tables::Tables},
    os::sys,
    testing::{LIMITS, TestMaps, in_namespace},
};

const LO: &str = "lo";
/// Bytes of a value of `FLOWS`.
const FLOW: usize = size_of::<router_ebpf::maps::Flow>();
/// Bytes of a value of `FLOWS` one version ago: all but the last ones.
const OLDER: usize = 64;
/// A connection that is not needed any more.
const OVER: u8 = 9;

type Older = of_aya::HashMap<MapData, Tuple, [u8; OLDER]>;

fn tuple(number: u8) -> Tuple {
    Tuple { client: [number; 16], server: [1; 16], client_port: [0, number], server_port: [0, 80] }
}

/// The step from then to now.
fn longer(key: &[u8], value: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let mut value = value.to_vec();
    value.resize(Map::Flows.value_size(), 0xee);
    (key[0] != OVER).then(|| (key.to_vec(), value))
}

const STEP: Steps = Steps {
    changed: &[Step { map: "FLOWS", from: Map::Flows.version() - 1, convert: longer }],
    removed: &["OLD"],
};
const NONE: Steps = Steps { changed: &[], removed: &[] };

/// What is pinned: names, and which map it is.
fn pinned(directory: &Path) -> BTreeMap<String, u32> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            all.insert(name, MapInfo::from_pin(&path).unwrap().id());
        }
    }
    assert!(all.len() >= Map::ALL.len(), "{all:?}");
    all
}

/// Makes the maps those of a release before: `FLOWS` one version back, a map besides, and a counter less.
fn age(pin_dir: &Path) {
    let mut schema = Hash::<Mark, u32>::open(pin_dir, Map::Schema).unwrap();
    schema.set(&Mark::new("map:FLOWS"), &(Map::Flows.version() - 1)).unwrap();
    schema.set(&Mark::new("map:OLD"), &7).unwrap();
    schema.remove(&Mark::new("counter:bound")).unwrap();
    schema.set(&Mark::new("counter:delivered"), &(Counter::Bound as u32)).unwrap();
    let mut flows = Older::create(16, 0).unwrap();
    for number in [1, 2, OVER] {
        flows.insert(tuple(number), [number; OLDER], 0).unwrap();
    }
    fs::remove_file(pin_dir.join("FLOWS")).unwrap();
    flows.pin(pin_dir.join("FLOWS")).unwrap();
    of_aya::HashMap::<MapData, u32, u32>::create(1, 0).unwrap().pin(pin_dir.join("OLD")).unwrap();
    let cpus = aya::util::nr_cpus().unwrap();
    let counts = of_aya::PerCpuValues::try_from(vec![3; cpus]).unwrap();
    let mut tables = of_aya::PerCpuArray::<_, u64>::try_from(
        of_aya::Map::from_map_data(MapData::from_pin(pin_dir.join("COUNTERS")).unwrap()).unwrap(),
    )
    .unwrap();
    tables.set(Counter::Bound as u32, counts, 0).unwrap();
}

fn flows(tables: &Tables) -> BTreeMap<u8, Vec<u8>> {
    let bytes = |flow: &router_ebpf::maps::Flow| {
        // SAFETY: a flow has no padding, so all of its bytes are there.
        unsafe {
            std::slice::from_raw_parts(std::ptr::from_ref(flow).cast::<u8>(), size_of_val(flow))
        }
        .to_vec()
    };
    tables.flows.entries().unwrap().iter().map(|(key, flow)| (key.client[0], bytes(flow))).collect()
}

fn now(number: u8) -> Vec<u8> {
    longer(&[number], &[number; OLDER]).unwrap().1
}

#[test]
fn older_maps_are_converted_and_everything_else_stays() {
    let maps = TestMaps::new();
    let foreign = of_aya::HashMap::<MapData, u32, u32>::create(1, 0).unwrap();
    foreign.pin(maps.pin_dir.join("somebodys")).unwrap();
    let before = pinned(&maps.pin_dir);
    age(&maps.pin_dir);
    let (_, mut take_over) = begin(&maps.pin_dir, &LIMITS, false, &STEP).unwrap();
    assert!(take_over.replaces_maps());
    take_over.fill(&[]).unwrap();

    // The old programs go on: a connection comes, one changes, one goes.
    let old = MapData::from_pin(maps.pin_dir.join("FLOWS")).unwrap();
    let mut old = Older::try_from(of_aya::Map::from_map_data(old).unwrap()).unwrap();
    old.insert(tuple(3), [3; OLDER], 0).unwrap();
    old.insert(tuple(2), [22; OLDER], 0).unwrap();
    old.remove(&tuple(1)).unwrap();
    take_over.catch_up().unwrap();
    take_over.finish().unwrap();

    let after = pinned(&maps.pin_dir);
    let is_same = |name: &&String| before.get(*name) == after.get(*name);
    let replaced: Vec<_> = after.keys().filter(|name| !is_same(name)).map(String::as_str).collect();
    assert_eq!(replaced, ["COUNTERS", "FLOWS", "SCHEMA"]);
    assert!(!after.contains_key("OLD") && !maps.pin_dir.join(NEXT).exists());
    let tables = maps.tables();
    let mut second = now(22);
    second[OLDER..].fill(0xee);
    assert_eq!(flows(&tables), BTreeMap::from([(2, second), (3, now(3))]));
    let delivered = tables.counters.get(Counter::Delivered as u32).unwrap();
    let bound = tables.counters.get(Counter::Bound as u32).unwrap();
    assert!(delivered.iter().all(|count| *count == 3) && bound.iter().all(|count| *count == 0));
    assert_eq!(Record::read(&maps.pin_dir).unwrap().unwrap().maps, Record::own().maps);
}

#[test]
fn what_the_new_programs_have_changed_is_not_written_over() {
    let maps = TestMaps::new();
    age(&maps.pin_dir);
    let (_, mut take_over) = begin(&maps.pin_dir, &LIMITS, false, &STEP).unwrap();
    take_over.fill(&[]).unwrap();
    let mut new = Hash::<Tuple, [u8; FLOW]>::open(&maps.pin_dir.join(NEXT), Map::Flows).unwrap();
    new.set(&tuple(1), &[11; FLOW]).unwrap();
    new.set(&tuple(4), &[44; FLOW]).unwrap();
    let old = MapData::from_pin(maps.pin_dir.join("FLOWS")).unwrap();
    let mut old = Older::try_from(of_aya::Map::from_map_data(old).unwrap()).unwrap();
    old.insert(tuple(1), [5; OLDER], 0).unwrap();
    old.insert(tuple(4), [5; OLDER], 0).unwrap();
    take_over.catch_up().unwrap();
    take_over.finish().unwrap();
    let expected = [(1, vec![11; FLOW]), (2, now(2)), (4, vec![44; FLOW])];
    assert_eq!(flows(&maps.tables()), BTreeMap::from(expected));
}

/// A refusal names what is wrong, and leaves every pin as it was.
#[track_caller]
fn refused(pin_dir: &Path, limits: &Limits, steps: &Steps, says: &[&str]) {
    let before = pinned(pin_dir);
    let Err(e) = begin(pin_dir, limits, false, steps) else { panic!("taken: {says:?}") };
    let text = format!("{e:#}");
    assert!(says.iter().all(|word| text.contains(word)), "{text}");
    assert_eq!(pinned(pin_dir), before);
    assert!(!pin_dir.join(NEXT).exists(), "{text}");
}

#[test]
fn what_cannot_be_taken_over_is_not_touched() {
    let maps = TestMaps::new();
    age(&maps.pin_dir);
    refused(&maps.pin_dir, &LIMITS, &NONE, &["FLOWS has version 1", "Nothing was changed"]);
    let unknown = Steps { removed: &[], ..STEP };
    refused(&maps.pin_dir, &LIMITS, &unknown, &["OLD (version 7) is none of this version's"]);
    let much = Limits { flows: u32::MAX, ..LIMITS };
    refused(&maps.pin_dir, &much, &STEP, &["does not create the map FLOWS"]);
}

#[test]
fn a_map_of_another_shape_is_not_touched() {
    let maps = TestMaps::new();
    age(&maps.pin_dir);
    let mut schema = Hash::<Mark, u32>::open(&maps.pin_dir, Map::Schema).unwrap();
    schema.set(&Mark::new("map:FLOWS"), &Map::Flows.version()).unwrap();
    let says = ["its map FLOWS is Hash with keys of 36 and values of 64 bytes", "36 and 96"];
    refused(&maps.pin_dir, &LIMITS, &STEP, &says);
    fs::remove_file(maps.pin_dir.join("CHATS")).unwrap();
    schema.set(&Mark::new("map:FLOWS"), &(Map::Flows.version() - 1)).unwrap();
    let error = format!("{:#}", begin(&maps.pin_dir, &LIMITS, false, &STEP).map(drop).unwrap_err());
    assert!(error.contains("its map CHATS is not there"), "{error}");
}

#[test]
fn flows_that_do_not_fit_are_not_lost() {
    let maps = TestMaps::new();
    age(&maps.pin_dir);
    let little = Limits { flows: 1, ..LIMITS };
    let before = pinned(&maps.pin_dir);
    let (_, mut take_over) = begin(&maps.pin_dir, &little, false, &STEP).unwrap();
    let error = format!("{:#}", take_over.fill(&[]).unwrap_err());
    assert!(error.contains("FLOWS (are the [limits] too small?)"), "{error}");
    take_over.undo();
    assert_eq!(pinned(&maps.pin_dir), before);
}

#[test]
fn a_killed_take_over_is_undone_or_ended() {
    in_namespace(|| {
        let maps = TestMaps::new();
        let at_work = at_work(&maps.pin_dir);
        age(&maps.pin_dir);
        let before = pinned(&maps.pin_dir);

        // Killed before any program was replaced.
        let (_, mut take_over) = begin(&maps.pin_dir, &LIMITS, false, &STEP).unwrap();
        take_over.fill(&[u32::MAX]).unwrap();
        drop(take_over);
        assert_eq!(pinned(&maps.pin_dir), before);
        let (_, again) = begin(&maps.pin_dir, &LIMITS, false, &STEP).unwrap();
        assert!(!again.is_resumed, "it was undone");
        again.undo();

        // Killed when one program was replaced already: another connection has come to the old ones.
        let (_, mut take_over) = begin(&maps.pin_dir, &LIMITS, false, &STEP).unwrap();
        take_over.fill(&[at_work]).unwrap();
        let next = MapInfo::from_pin(maps.pin_dir.join(NEXT).join("FLOWS")).unwrap().id();
        drop(take_over);
        let old = MapData::from_pin(maps.pin_dir.join("FLOWS")).unwrap();
        let mut old = Older::try_from(of_aya::Map::from_map_data(old).unwrap()).unwrap();
        old.insert(tuple(6), [6; OLDER], 0).unwrap();
        let (_, mut again) = begin(&maps.pin_dir, &LIMITS, false, &STEP).unwrap();
        assert!(again.is_resumed);
        again.fill(&[u32::MAX - 1]).unwrap();
        drop(again);
        // Killed again before the next program was replaced: those of the first are still at work.
        let (_, mut again) = begin(&maps.pin_dir, &LIMITS, false, &STEP).unwrap();
        assert!(again.is_resumed);
        again.fill(&[u32::MAX - 2]).unwrap();
        again.catch_up().unwrap();
        // Killed while names were given: the record of the new maps says how far it was.
        let mut schema = Hash::open(&maps.pin_dir.join(NEXT), Map::Schema).unwrap();
        Record::note_done(&mut schema).unwrap();
        fs::rename(maps.pin_dir.join(NEXT).join("FLOWS"), maps.pin_dir.join("FLOWS")).unwrap();
        drop(again);
        let (_, mut last) = begin(&maps.pin_dir, &LIMITS, false, &STEP).unwrap();
        assert!(!last.is_resumed && !last.replaces_maps());
        last.fill(&[]).unwrap();
        last.finish().unwrap();
        assert_eq!(pinned(&maps.pin_dir)["FLOWS"], next);
        let expected = [(1, now(1)), (2, now(2)), (6, now(6))];
        assert_eq!(flows(&maps.tables()), BTreeMap::from(expected));
        let delivered = maps.tables().counters.get(Counter::Delivered as u32).unwrap();
        assert!(delivered.iter().all(|count| *count == 3), "counted once: {delivered:?}");
        assert!(!pinned(&maps.pin_dir).contains_key("OLD"));
    });
}

/// Programs at work on the loopback interface; returns the number of one.
fn at_work(pin_dir: &Path) -> u32 {
    let mut path = DataPath::load(pin_dir, &LIMITS, false).unwrap();
    path.attach(LO).unwrap();
    sys::pinned_link_program(&detach::link_paths(pin_dir)[0]).unwrap()
}

/// The new maps of a take-over that was killed when this program was at work; returns their record.
fn begun(next: &Path, program: u32) -> Hash<Mark, u32> {
    make_maps(next, &LIMITS).unwrap();
    fs::remove_dir(next.join(links::LINKS)).unwrap();
    let mut schema = Hash::open(next, Map::Schema).unwrap();
    Record::note_program(&mut schema, program).unwrap();
    schema
}

/// What a release that this one does not know has begun and not ended.
#[test]
fn a_take_over_of_a_newer_release_is_not_touched() {
    in_namespace(|| {
        let maps = TestMaps::new();
        let at_work = at_work(&maps.pin_dir);
        let next = maps.pin_dir.join(NEXT);
        let begin_newer = |is_done: bool| {
            let mut schema = begun(&next, at_work);
            schema.set(&Mark::new("map:FLOWS"), &(Map::Flows.version() + 1)).unwrap();
            schema.set(&Mark::new("map:NODES"), &1).unwrap();
            if is_done {
                Record::note_done(&mut schema).unwrap();
            }
            of_aya::HashMap::<MapData, u32, u32>::create(1, 0)
                .unwrap()
                .pin(next.join("NODES"))
                .unwrap();
        };
        for is_done in [false, true] {
            begin_newer(is_done);
            let before = (pinned(&maps.pin_dir), pinned(&next));
            let error = begin(&maps.pin_dir, &LIMITS, false, &STEP).map(drop).unwrap_err();
            assert!(format!("{error:#}").contains("Nothing was changed"), "{error:#}");
            assert_eq!((pinned(&maps.pin_dir), pinned(&next)), before);
            fs::remove_dir_all(&next).unwrap();
        }
    });
}

/// Another release that has other counters only: this one ends what that one has begun, and takes over from it.
#[test]
fn a_take_over_of_another_release_that_is_known_is_ended_first() {
    in_namespace(|| {
        let maps = TestMaps::new();
        let at_work = at_work(&maps.pin_dir);
        let next = maps.pin_dir.join(NEXT);
        let mut schema = begun(&next, at_work);
        schema.set(&Mark::new("counter:newer"), &(Counter::COUNT as u32 - 1)).unwrap();
        let (_, mut take_over) = begin(&maps.pin_dir, &LIMITS, false, &STEP).unwrap();
        assert!(!take_over.is_resumed && take_over.replaces_maps());
        take_over.fill(&[]).unwrap();
        take_over.finish().unwrap();
        assert!(Record::read(&maps.pin_dir).unwrap().unwrap().is_own());
        maps.unfilled();
    });
}

/// Programs are replaced wherever they are, by whatever hook.
#[test]
fn the_programs_of_changed_maps_are_replaced_at_every_hook() {
    for is_classic in [false, true] {
        in_namespace(move || {
            let maps = TestMaps::new();
            let mut path = DataPath::load(&maps.pin_dir, &LIMITS, false).unwrap();
            path.attach(LO).unwrap();
            if is_classic {
                path.attach_clsact(LO, &TO_CLIENTS).unwrap();
                fs::remove_file(links::link_path(&maps.pin_dir, LO, links::TCX)).unwrap();
            }
            drop(path);
            let programs = || -> Vec<u32> {
                let paths = detach::link_paths(&maps.pin_dir);
                assert_eq!(paths.len(), 2, "{paths:?}");
                let program = |path: &PathBuf| sys::pinned_link_program(path).unwrap();
                paths.iter().map(program).collect()
            };
            let before = programs();
            let mut schema = Hash::<Mark, u32>::open(&maps.pin_dir, Map::Schema).unwrap();
            schema.remove(&Mark::new("counter:bound")).unwrap();
            let second = DataPath::load(&maps.pin_dir, &LIMITS, false).unwrap();
            assert!(programs().iter().all(|program| !before.contains(program)), "{before:?}");
            drop(second);
            maps.tables();
        });
    }
}

/// An interrupted `detach` leaves some maps; what says that the others are there goes first.
#[test]
fn what_an_interrupted_detach_leaves_is_a_first_start() {
    let maps = TestMaps::new();
    for map in ["SCHEMA", "SECRETS", "FLOWS"] {
        fs::remove_file(maps.pin_dir.join(map)).unwrap();
    }
    make_maps(&maps.pin_dir, &LIMITS).unwrap();
    assert_eq!(pinned(&maps.pin_dir).len(), Map::ALL.len());
}
