//! What is exact about requests. Against other parsers, and in conversations: `tests/heads`.

use std::{format, string::String, vec::Vec};

use proptest::{collection::vec, prelude::*};

use super::{Answer, Decision, Doubt, Exchange, Head, Heard, MAX_LENGTH, REACH, Read, Standing};
use crate::words::WINDOW;

fn read(bytes: &[u8]) -> Head {
    let mut head = Head::NEW;
    for byte in bytes {
        head.take(*byte);
    }
    head
}

/// Reads what can be taken at once, and single bytes between.
fn read_at_once(head: &mut Head, bytes: &[u8]) {
    let mut behind = bytes.to_vec();
    // Whatever stands behind what is known.
    behind.extend_from_slice(b": HTTP/1.1\r\n\r\n");
    behind.extend([b'a'; WINDOW]);
    let begin = head.at;
    let window = |at| behind[(at - begin) as usize..].first_chunk().expect("room behind");
    let ready = begin + bytes.len() as u32;
    while head.at < ready && head.step(window, ready) {}
}

/// Reads byte by byte to the end, or until there is nothing more to be read.
fn read_slowly(head: &mut Head, bytes: &[u8]) {
    for byte in bytes {
        if !head.take(*byte) {
            return;
        }
    }
}

/// What requests are made of, and what may not be there.
fn pieces() -> impl Strategy<Value = Vec<u8>> {
    let known = [
        "GET ",
        "POST ",
        "PRI ",
        "connect ",
        "a-method-of-more-than-24-bytes ",
        "/",
        "/chat?x=y",
        " HTTP/1.1\r\n",
        " HTTP/1.0\r\n",
        " HTTP/1.1\n",
        " HTTP/1.1\r",
        "\r\n",
        "\r\n\r\n",
        "\n",
        "\r",
        ": ",
        ":",
        " ",
        "\t",
        "\x7f",
        "\0",
        "Host",
        "Upgrade",
        "Content-Length",
        "content-length: 1",
        "2147483647",
        "Expect",
        "Transfer-Encoding",
        "Authorization: ",
        "Authorization:NTLM ",
        "Negotiate x",
        "a_b",
        "Sec-WebSocket-Extensions-For-All",
        "12345678",
        "x",
    ];
    let known = prop::sample::select(known.to_vec()).prop_map(|piece| piece.as_bytes().to_vec());
    let long = (any::<u8>(), 0..200usize).prop_map(|(byte, len)| std::vec![byte; len]);
    let usual = "[a-zA-Z0-9 =;/.-]{0,90}".prop_map(String::into_bytes);
    let piece = prop_oneof![6 => known, 1 => long, 3 => usual, 1 => vec(any::<u8>(), 0..4)];
    let any = vec(piece.clone(), 0..24).prop_map(|pieces| pieces.concat());
    let line =
        (piece.clone(), piece).prop_map(|(a, b)| [&a, b": ".as_slice(), &b, b"\r\n"].concat());
    let lines = vec(line, 0..12)
        .prop_map(|lines| [b"GET /x HTTP/1.1\r\n", lines.concat().as_slice(), b"\r\n"].concat());
    prop_oneof![any, lines]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    /// What is taken at once comes to what it comes to byte by byte, wherever it is cut.
    #[test]
    fn at_once(bytes in pieces(), cuts in vec(any::<prop::sample::Index>(), 0..6)) {
        let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        cuts.extend([0, bytes.len()]);
        cuts.sort_unstable();
        let (mut fast, mut slow) = (Head::NEW, Head::NEW);
        for cut in cuts.windows(2) {
            if fast.read() == Read::More {
                read_at_once(&mut fast, &bytes[cut[0]..cut[1]]);
                read_slowly(&mut slow, &bytes[cut[0]..cut[1]]);
            }
            prop_assert_eq!(fast, slow, "{}", bytes.escape_ascii());
        }
    }
}

/// The same of each cut of a usual one, with each byte in each place.
#[test]
fn at_once_with_any_byte_anywhere() {
    let usual = b"PUT /chat HTTP/1.1\r\nHost: a-host.example\r\nContent-Length: 17\r\nX-Forwarded-For-Somebody-Else: 1\r\n\r\nBody";
    for at in 0..usual.len() {
        for byte in 0..=u8::MAX {
            let mut bytes = *usual;
            bytes[at] = byte;
            let (mut fast, mut slow) = (Head::NEW, Head::NEW);
            read_at_once(&mut fast, &bytes);
            read_slowly(&mut slow, &bytes);
            assert_eq!(fast, slow, "{}", bytes.escape_ascii());
        }
    }
    for cut in 0..usual.len() {
        let (mut fast, mut slow) = (Head::NEW, Head::NEW);
        read_at_once(&mut fast, &usual[..cut]);
        if fast.read() == Read::More {
            read_at_once(&mut fast, &usual[cut..]);
        }
        read_slowly(&mut slow, usual);
        assert_eq!(fast, slow, "cut at {cut}");
    }
}

#[test]
fn answers() {
    for (line, expected) in [
        (b"HTTP/1.1 200 ", Answer::Final),
        (b"HTTP/1.0 200\r", Answer::Final),
        (b"HTTP/1.1 599 ", Answer::Final),
        (b"HTTP/1.1 101 ", Answer::Upgraded),
        (b"HTTP/1.1 100 ", Answer::Doubt(Doubt::Interim)),
        (b"HTTP/1.1 103\r", Answer::Doubt(Doubt::Interim)),
        (b"HTTP/1.1 199 ", Answer::Doubt(Doubt::Interim)),
        (b"HTTP/1.1 600 ", Answer::Doubt(Doubt::OddAnswer)),
        (b"HTTP/1.1 099 ", Answer::Doubt(Doubt::OddAnswer)),
        (b"HTTP/1.1 2000", Answer::Doubt(Doubt::OddAnswer)),
        (b"HTTP/1.1 20 O", Answer::Doubt(Doubt::OddAnswer)),
        (b"HTTP/1.1 2x0 ", Answer::Doubt(Doubt::OddAnswer)),
        (b"HTTP/1.1  200", Answer::Doubt(Doubt::OddAnswer)),
        (b"HTTP/1.1\t200 ", Answer::Doubt(Doubt::OddAnswer)),
        (b"HTTP/1.2 200 ", Answer::Doubt(Doubt::OddAnswer)),
        (b"HTTP/2.0 200 ", Answer::Doubt(Doubt::OddAnswer)),
        (b"http/1.1 200 ", Answer::Doubt(Doubt::OddAnswer)),
        (b"HTTP/1.1 200\n", Answer::Doubt(Doubt::OddAnswer)),
    ] {
        assert_eq!(Answer::read(line), expected, "{}", line.escape_ascii());
    }
}

/// One that was answered, with its next request at `boundary`.
const fn answered(boundary: u32) -> Exchange {
    Exchange {
        standing: Standing::Request,
        number: 0,
        boundary,
        answer: 70,
        sent: 100,
        acked: boundary,
        closing: false,
        is_left: false,
        tries: 0,
    }
}

/// Whatever the numbers begin with.
const ORIGINS: [u32; 5] = [0, 1, 1 << 31, (1 << 31) + 1, u32::MAX - 300];

#[test]
fn longest_bodies() {
    for start in ORIGINS {
        let text = format!("PUT / HTTP/1.1\r\nContent-Length: {MAX_LENGTH}\r\n\r\n");
        let head = read(text.as_bytes());
        let mut exchange = Exchange { standing: Standing::Request, ..answered(start) };
        exchange.begin(start, text.len() as u32, 100, head.read());
        let whole = text.len() as u32 + MAX_LENGTH;
        assert_eq!(exchange.boundary, start.wrapping_add(whole));
        for standing in [Standing::Answer, Standing::Request] {
            exchange.standing = standing;
            exchange.acked = exchange.boundary;
            // Every byte of it, the head again, what came before it, and a probe.
            for before in [1u64 << 30, 1 << 29, 5000, 1, 0] {
                let seq = start.wrapping_sub(before as u32);
                assert_eq!(exchange.decide(seq, 100, 1), Decision::Deliver, "{before} before");
            }
            for at in (0..=30).map(|bit| 1u32 << bit).chain([whole - 1460, whole / 3 * 2]) {
                let seq = start.wrapping_add(at);
                assert_eq!(exchange.decide(seq, 100, 1460), Decision::Deliver, "{at} behind");
            }
            let decided = exchange.decide(exchange.boundary.wrapping_sub(1), 100, 3);
            match standing {
                Standing::Answer => assert_eq!(decided, Decision::Doubt(Doubt::Pipelined)),
                _ => assert_eq!(decided, Decision::Request(1)),
            }
        }
    }
}

#[test]
fn what_a_request_needs() {
    for start in ORIGINS {
        let exchange = answered(start);
        let at = |at: u32| start.wrapping_add(at);
        assert_eq!(exchange.decide(start, 100, 50), Decision::Request(0));
        assert_eq!(exchange.decide(at(u32::MAX - 9), 100, 50), Decision::Request(10));
        // Nothing, or nothing new, in it.
        assert_eq!(exchange.decide(start, 100, 0), Decision::Deliver);
        assert_eq!(exchange.decide(at(u32::MAX), 100, 1), Decision::Deliver);
        // What comes before is missing.
        assert_eq!(exchange.decide(at(1), 100, 50), Decision::Again);
        assert_eq!(exchange.decide(at(REACH - 1), 100, 1), Decision::Again);
        // It acknowledges less than was sent, or what never was.
        assert_eq!(exchange.decide(start, 99, 50), Decision::Doubt(Doubt::Pipelined));
        assert_eq!(exchange.decide(start, 101, 50), Decision::Again);
        // The one before is not acknowledged, or one end is leaving.
        let late = Exchange { acked: at(u32::MAX), ..exchange };
        assert_eq!(late.decide(start, 100, 50), Decision::Again);
        assert_eq!(Exchange { closing: true, ..late }.decide(start, 100, 50), Decision::Deliver);
        for standing in [Standing::Upgraded, Standing::Doubt(Doubt::Expect)] {
            assert_eq!(Exchange { standing, ..late }.decide(start, 9, 50), Decision::Deliver);
        }
    }
}

#[test]
fn what_has_overtaken_a_request() {
    for start in ORIGINS {
        let exchange = answered(start);
        let is_ahead = |at: u32| exchange.is_ahead(start.wrapping_add(at));
        assert!([1, 1000, REACH].map(is_ahead).iter().all(|ahead| *ahead));
        // At the boundary, and in the body before it.
        assert!([0, u32::MAX, 1 << 31, REACH + 1].map(is_ahead).iter().all(|ahead| !ahead));
        for standing in [Standing::Answer, Standing::Reading] {
            assert!(Exchange { standing, ..exchange }.is_ahead(start.wrapping_add(1)));
        }
        for standing in [Standing::Upgraded, Standing::Doubt(Doubt::Expect), Standing::Moving] {
            assert!(!Exchange { standing, ..exchange }.is_ahead(start.wrapping_add(1)));
        }
        assert!(!Exchange { closing: true, ..exchange }.is_ahead(start.wrapping_add(1)));
    }
}

#[test]
fn where_an_answer_begins() {
    for start in ORIGINS {
        let at = |at: u32| start.wrapping_add(at);
        let exchange = Exchange { standing: Standing::Answer, answer: start, ..answered(7) };
        let line = Answer::read(b"HTTP/1.1 200 ");
        let doubt = |doubt| Heard::Answer(Answer::Doubt(doubt));
        assert_eq!(exchange.hear(start, 13, Some(line)), Heard::Answer(Answer::Final));
        assert_eq!(exchange.hear(start, 12, None), doubt(Doubt::SplitAnswer));
        assert_eq!(exchange.hear(at(u32::MAX), 14, Some(line)), doubt(Doubt::MisplacedAnswer));
        // What was sent before, a bare acknowledgement, and what overtakes it.
        assert_eq!(exchange.hear(at(u32::MAX - 12), 13, Some(line)), Heard::Nothing);
        assert_eq!(exchange.hear(start, 0, None), Heard::Nothing);
        assert_eq!(exchange.hear(at(1), 13, Some(line)), Heard::Nothing);
        let next = Exchange { standing: Standing::Request, ..exchange };
        assert_eq!(next.hear(start, 13, Some(line)), Heard::Nothing);
    }
}

#[test]
fn the_highest_number_counts() {
    for start in ORIGINS {
        let mut exchange = Exchange { sent: start, ..answered(7) };
        for end in [5, 3, u32::MAX, 9, 8] {
            exchange.note(start.wrapping_add(end), Heard::Nothing);
        }
        assert_eq!(exchange.sent, start.wrapping_add(9));
    }
}

#[test]
fn doubts_have_numbers() {
    let numbers: Vec<_> = Doubt::ALL.iter().map(|doubt| *doubt as u32).collect();
    assert!(numbers.iter().copied().eq(1..=Doubt::ALL.len() as u32));
    assert!(Doubt::ALL.iter().all(|doubt| Doubt::of(*doubt as u32) == Some(*doubt)));
    assert_eq!(Doubt::of(0), None);
}
