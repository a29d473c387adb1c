//! Packets grow and shrink at their head and at their tail: the same through the kernel, at XDP and at TC,
//! and on the host.

use std::{env, fs, path::PathBuf};

use aya::{
    Ebpf,
    programs::{ProgramError, SchedClassifier, TestRun as _, TestRunOptions, Xdp},
};
use nix::errno::Errno;
use roost_tests::run::{
    Family,
    frame::{ACK, Seg},
    host::Bytes,
    world::{client, replica_addr},
};
use router_ebpf::packet::{Envelope, Packet as _};

/// As `bin/room.rs` has them.
const LINK: usize = 14;
const OUTER: usize = 36;
const TAIL: usize = 12;
const FILL: u8 = 0xa5;

/// XDP_PASS, and TC_ACT_OK.
const PASSED: [u32; 2] = [2, 0];

#[derive(Clone, Copy, Debug)]
enum At {
    Xdp,
    Tc,
}

fn object() -> Ebpf {
    let built = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/bpf/room.o");
    let path = env::var_os("ROOST_ROOM_OBJECT").map_or(built.into(), PathBuf::from);
    let object = fs::read(&path).unwrap_or_else(|e| panic!("reading {}: {e}", path.display()));
    Ebpf::load(&object).expect("an object")
}

/// What a program makes of a frame.
fn run(ebpf: &mut Ebpf, at: At, what: &str, frame: &[u8]) -> Vec<u8> {
    let mut out = vec![0; 4096];
    let result = loop {
        let options =
            TestRunOptions { data_in: Some(frame), data_out: Some(&mut out), ..Default::default() };
        let result = match at {
            At::Xdp => {
                let program = ebpf.program_mut(&format!("room_{what}_xdp")).expect(what);
                TryInto::<&mut Xdp>::try_into(program).expect("XDP").test_run(options)
            }
            At::Tc => {
                let program = ebpf.program_mut(&format!("room_{what}_tc")).expect(what);
                TryInto::<&mut SchedClassifier>::try_into(program).expect("TC").test_run(options)
            }
        };
        match result {
            // A signal came before the program ran.
            Err(ProgramError::SyscallError(e))
                if e.io_error.raw_os_error() == Some(Errno::EINTR as i32) => {}
            result => break result.unwrap_or_else(|e| panic!("{at:?} {what}: {e:?}")),
        }
    };
    assert_eq!(result.return_value, PASSED[at as usize], "{at:?} {what}: it could not");
    out.truncate(result.data_size_out as usize);
    out
}

#[test]
fn room_is_made_and_taken_away_at_both_ends() {
    let mut ebpf = object();
    for name in ["room_grow_xdp", "room_shrink_xdp"] {
        let program: &mut Xdp = ebpf.program_mut(name).unwrap().try_into().unwrap();
        program.load().unwrap_or_else(|e| panic!("the kernel refuses {name}: {e}"));
    }
    for name in ["room_grow_tc", "room_shrink_tc"] {
        let program: &mut SchedClassifier = ebpf.program_mut(name).unwrap().try_into().unwrap();
        program.load().unwrap_or_else(|e| panic!("the kernel refuses {name}: {e}"));
    }
    for family in Family::ALL {
        let is_v6 = family == Family::V6;
        let envelope = Envelope { l3: LINK, len: OUTER, outer_v6: is_v6, inner_v6: is_v6 };
        for len in [0, 1, 100, 1300] {
            let mut segment =
                Seg::new(client(family, 1, 40_000), replica_addr(family, 0), ACK, 1, 2);
            segment.payload = (0..len).map(|i| i as u8).collect();
            let frame = segment.bytes();
            // What the host's packet makes of it.
            let mut grown = Bytes::new(frame.clone());
            grown.grow_head(envelope).expect("room at the head");
            grown.write(LINK, &[FILL; OUTER]).expect("what was made");
            grown.resize(frame.len() + OUTER + TAIL).expect("room at the tail");
            // And what it should.
            let room = [FILL; OUTER];
            let expected = [&frame[..LINK], &room, &frame[LINK..], &[0; TAIL]].concat();
            assert_eq!(grown.frame, expected, "{family:?} {len}: host");
            for at in [At::Xdp, At::Tc] {
                let grown = run(&mut ebpf, at, "grow", &frame);
                assert_eq!(grown, expected, "{family:?} {len}: {at:?}, grown");
                let shrunk = run(&mut ebpf, at, "shrink", &grown);
                assert_eq!(shrunk, frame, "{family:?} {len}: {at:?}, shrunk");
            }
            grown.resize(frame.len() + OUTER).expect("less at the tail");
            grown.shrink_head(envelope).expect("less at the head");
            assert_eq!(grown.frame, frame, "{family:?} {len}: host, shrunk");
            assert_eq!(grown.shrink_head(Envelope { len: 4096, ..envelope }), None);
        }
    }
}
