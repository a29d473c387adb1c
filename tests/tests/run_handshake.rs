//! Handshakes, and segments of established flows in both directions.

use roost_tests::run::{
    frame::{ACK, PSH},
    on_all,
    talk::{Conn, Offer},
    world::{Kind, World},
};

#[test]
fn a_connection_is_opened_bound_delivered_and_translated() {
    on_all(&World::default(), |machine, family| {
        let mut port = 1000;
        for vlan in [vec![], vec![7], vec![7, 8]] {
            for timestamps in [true, false] {
                for sack in [true, false] {
                    for scale in [Some(0), Some(7), Some(14), None] {
                        port += 1;
                        let mut conn = Conn::new(family, Kind::Home, 1, port);
                        conn.vlan = vlan.clone();
                        conn.offer = Offer { mss: Some(1460), scale, sack, timestamps };
                        conn.establish(machine, "tea");
                        conn.goes_up(machine, &conn.up(PSH | ACK, 60, 0, b"more"), &[]);
                        conn.goes_down(machine, &conn.down(PSH | ACK, 0, 60, b"answer"), &[]);
                        conn.goes_up(machine, &conn.up(ACK, 64, 6, b""), &[]);
                    }
                }
            }
        }
    });
}
