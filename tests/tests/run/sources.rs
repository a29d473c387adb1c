//! Who may connect to a service with `allowed_sources`, packet by packet.

use std::net::IpAddr;

use roost_tests::run::{
    Family, Hook, Machine,
    frame::{ACK, FIN, PSH, RST, Seg},
    on_all,
    talk::{Conn, get, reset_for},
    world::{Kind, World, client, mapped, service},
};
use router_ebpf::{
    maps::{Service, SourceRange},
    verdict::Counter,
};

/// Bits before those of an address.
const SERVICE: u32 = 32;

fn restrict(machine: &mut dyn Machine, restricted: u8) {
    let service = Service { restricted, ..service(Kind::Home) };
    machine.set_service(Kind::Home.number(), &service);
}

/// Says of a prefix of so many bits whether its clients may connect.
fn set(machine: &mut dyn Machine, number: u32, addr: IpAddr, len: u32, may: u32) {
    let before = if addr.is_ipv4() { 96 } else { 0 };
    let range = SourceRange { list: number.to_be_bytes(), addr: mapped(addr) };
    machine.set_source_range(SERVICE + before + len, &range, may);
}

/// The prefix of the clients of a family whose host numbers are 256 to 511, and its length.
fn second(family: Family) -> (IpAddr, u32) {
    let len = if family == Family::V4 { 24 } else { 120 };
    (client(family, 256, 0).ip(), len)
}

fn drops(machine: &mut dyn Machine, seg: &Seg) {
    machine.run(Hook::Ingress, &seg.bytes()).counts(&[Counter::DropSource]);
}

#[test]
fn only_clients_of_the_ranges_connect() {
    on_all(&World::default(), |machine, family| {
        let (net, len) = second(family);
        set(machine, Kind::Home.number(), net, len, 1);
        // Of another service: it lets nobody into this one.
        let whole = if family == Family::V4 { 32 } else { 128 };
        set(machine, Kind::Spread.number(), client(family, 1, 0).ip(), whole, 1);
        restrict(machine, 1);
        for host in [1, 255, 512] {
            let mut refused = Conn::new(family, Kind::Home, host, 1000);
            drops(machine, &refused.syn());
            refused.cookie = 77;
            for flags in [ACK, PSH | ACK, FIN | ACK, RST] {
                drops(machine, &refused.up(flags, 0, 0, b""));
                drops(machine, &refused.up(flags, 0, 0, &get("tea")));
            }
        }
        for host in [256, 511] {
            let mut conn = Conn::new(family, Kind::Home, host, 1000);
            conn.establish(machine, "tea");
            conn.goes_up(machine, &conn.up(PSH | ACK, 60, 0, b"more"), &[]);
        }
        // Other services ask nobody.
        Conn::new(family, Kind::Spread, 1, 1001).open(machine);
    });
}

#[test]
fn the_longest_prefix_counts_and_may_keep_out() {
    on_all(&World::default(), |machine, family| {
        let number = Kind::Home.number();
        let (net, len) = second(family);
        let nothing = if family == Family::V4 { [0; 4].into() } else { IpAddr::from([0u16; 8]) };
        set(machine, number, nothing, 0, 1);
        set(machine, number, net, len, 0);
        set(
            machine,
            number,
            client(family, 300, 0).ip(),
            if family == Family::V4 { 32 } else { 128 },
            1,
        );
        restrict(machine, 1);
        Conn::new(family, Kind::Home, 1, 1000).open(machine);
        drops(machine, &Conn::new(family, Kind::Home, 256, 1000).syn());
        Conn::new(family, Kind::Home, 300, 1000).open(machine);
    });
}

/// As with connection tracking: who is connected stays so, also by what would be dropped without a flow.
#[test]
fn a_flow_goes_on_when_its_client_may_not_connect_any_more() {
    on_all(&World::default(), |machine, family| {
        let mut live = Conn::new(family, Kind::Home, 1, 1000);
        live.establish(machine, "tea");
        let mut waiting = Conn::new(family, Kind::Home, 1, 1001);
        waiting.open(machine);
        waiting.bind(machine, &get("tea"), &[]);
        let mut opened = Conn::new(family, Kind::Home, 1, 1002);
        opened.open(machine);
        restrict(machine, 1);
        live.goes_up(machine, &live.up(PSH | ACK, 60, 0, b"still"), &[]);
        live.goes_down(machine, &live.down(PSH | ACK, 0, 65, b"here"), &[]);
        // The replica has been asked already.
        waiting.accept(machine);
        waiting.goes_up(machine, &waiting.up(PSH | ACK, 60, 0, b"late"), &[]);
        // A handshake is no connection.
        drops(machine, &opened.up(PSH | ACK, 0, 0, &get("tea")));
        // A SYN does not end what there is.
        drops(machine, &live.syn());
        live.goes_up(machine, &live.up(PSH | ACK, 65, 4, b"on"), &[]);
        live.goes_down(machine, &live.down(FIN | ACK, 4, 67, b""), &[]);
        live.goes_up(machine, &live.up(FIN | ACK, 67, 5, b""), &[]);
        live.goes_down(machine, &live.down(ACK, 5, 68, b""), &[Counter::Closed]);
        // Its tuple begins anew for nobody.
        drops(machine, &live.syn());
        restrict(machine, 0);
        let seg = opened.up(ACK, 70_000, 0, b"");
        let seg = Seg { ack: 5, ..seg };
        machine
            .run(Hook::Ingress, &seg.bytes())
            .counts(&[Counter::ResetUnknown])
            .leaves(&reset_for(&seg).bytes());
        Conn::new(family, Kind::Home, 1, 1003).establish(machine, "tea");
    });
}
