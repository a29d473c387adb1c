//! Random heads, written by rules so that most of them are nearly right.

use std::net::IpAddr;

use proptest::prelude::*;
use roost_heads::{check, proxy, tls::prefixed};

/// Pieces of a request's target.
fn target() -> impl Strategy<Value = String> {
    let query = "(chat|ch%61t|c|C|Chat|chats|cha|%63%68at|a%20b|a\\+b|%c3%a9t%C3%A9|a%3d%25%26|[a-z+%]{0,4}|\
        =|&|%[0-9a-g]{0,2}|[!-$'-~]{0,3}|\\?|%|\\+|chat=|&chat=|chat=[a-z]{60,140}|#|\u{e9}){0,12}";
    let path =
        "(/(rooms|r%6foms|a b|a%20b|r-[a-z]{0,3}|[a-z%]{0,5}|ws|%2f|\\.\\.|%[0-9a-f]{2}|)){0,5}";
    let authority = "(https?://(user:pw@)?[a-zA-Z.]{1,9}(:[0-9]{1,4})?|[a-z]{1,4}://|)";
    (authority, path, "(\\?|#|)", query).prop_map(|(a, b, c, d)| a + &b + &c + &d)
}

fn header() -> impl Strategy<Value = String> {
    let name =
        "(X-Chat|x-chat|Host|hOST|Cookie|COOKIE|Upgrade|x|xx|sec-websocket-protocol|[a-z-]{1,9})";
    let cookies =
        "((chat|c|Chat|[a-z]{1,3})?=?([a-zA-Z0-9\"%= ]{0,5}|[a-z0-9]{50,90});?[ \t]?){0,6}";
    // As long as what is looked at at once, and longer.
    let value =
        prop_oneof![4 => "[ -~\t]{0,12}", 1 => "[ -~\t]{50,150}", 1 => "[a-z0-9]{3,150};? ?"];
    let end = "(\r\n|\n)";
    (name, "[ \t]{0,3}", prop_oneof![cookies.boxed(), value.boxed()], "[ \t]{0,9}", end).prop_map(
        |(name, before, value, behind, end)| format!("{name}:{before}{value}{behind}{end}"),
    )
}

fn request() -> impl Strategy<Value = String> {
    let method = prop_oneof![9 => "GET", 1 => "(\r\n|\n){0,2}[A-Z!]{0,33}"];
    let headers = prop::collection::vec(header(), 0..8);
    (method, target(), "( HTTP/1\\.1|)(\r\n|\n)", headers, "(\r\n|\n|)").prop_map(
        |(method, target, version, headers, end)| {
            format!("{method} {target}{version}{}{end}", headers.concat())
        },
    )
}

fn extension() -> impl Strategy<Value = Vec<u8>> {
    let name = "([a-zA-Z0-9-]{0,9}\\.)?(rooms\\.example\\.com|ROOMS.example.COM|[a-z.]{0,9})";
    let server_name =
        (name, prop_oneof![9 => Just(0u8), 1 => any::<u8>()]).prop_map(|(name, kind)| {
            let entry = [&[kind], &*prefixed(2, name.as_bytes())].concat();
            [&[0, 0], &*prefixed(2, &prefixed(2, &entry))].concat()
        });
    let other = (1u16.., prop::collection::vec(any::<u8>(), 0..60))
        .prop_map(|(kind, content)| [&kind.to_be_bytes(), &*prefixed(2, &content)].concat());
    prop_oneof![1 => server_name, 3 => other]
}

fn client_hello() -> impl Strategy<Value = Vec<u8>> {
    let bytes = |most| prop::collection::vec(any::<u8>(), 0..most);
    let extensions = prop::option::of(prop::collection::vec(extension(), 0..8));
    (bytes(33), bytes(20), bytes(3), extensions).prop_map(
        |(session, ciphers, methods, extensions)| {
            let even = &ciphers[..ciphers.len() & !1];
            let body = [
                vec![3, 3],
                vec![7; 32],
                prefixed(1, &session),
                prefixed(2, even),
                prefixed(1, &methods),
                extensions.map_or(Vec::new(), |list| prefixed(2, &list.concat())),
            ];
            let message = [&[1], &*prefixed(3, &body.concat())].concat();
            [&[22, 3, 1], &*prefixed(2, &message)].concat()
        },
    )
}

/// Some bytes of it changed, removed or put in.
fn mutated(heads: impl Strategy<Value = Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let change = (any::<prop::sample::Index>(), any::<u8>(), 0..3);
    (heads, prop::collection::vec(change, 0..4)).prop_map(|(mut head, changes)| {
        for (at, byte, how) in changes {
            let at = at.index(head.len().max(1)).min(head.len());
            match how {
                0 if at < head.len() => head[at] = byte,
                1 if at < head.len() => drop(head.remove(at)),
                _ => head.insert(at, byte),
            }
        }
        head
    })
}

/// What a proxy may send.
fn proxied() -> impl Strategy<Value = Vec<u8>> {
    let named = (1u8..3, any::<IpAddr>(), any::<IpAddr>(), any::<(u16, u16)>())
        .prop_map(|(version, client, server, ports)| proxy::header(version, client, server, ports));
    let line = "PROXY (TCP4|TCP6|TCP5|UNKNOWN|) ?\
        (([0-9a-fA-F]{0,5}(:|::|\\.)){0,9}[0-9a-f]{0,5}|[0-2]?[0-9]{1,2}(\\.[0-9]{1,3}){3}|::|::ffff:1.2.3.4) \
        ([0-9a-f]{0,4}(:[0-9a-f]{1,4}){7}|192.0.2.1|1::|::1) [+0-9]{1,5} [0-9]{1,6}\r\n?";
    let unknown = "PROXY UNKNOWN( |\r|)[ -~\r\u{e9}]{0,90}\r\n";
    let kinds = vec![0u8, 1, 2, 0x10, 0x11, 0x12, 0x21, 0x22, 0x31, 0x13, 0x41];
    let commands = vec![0x20u8, 0x21, 0x21, 0x21, 0x22, 0x11];
    let lens = vec![0usize, 4, 11, 12, 13, 35, 36, 60, 215, 216, 230];
    let select = prop::sample::select::<u8>;
    let rest = prop::sample::select(lens);
    let binary = (select(commands), select(kinds), rest, any::<u8>()).prop_map(
        |(command, kind, len, byte)| {
            let mut bytes = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
            bytes.extend([command, kind]);
            bytes.extend((len as u16).to_be_bytes());
            bytes.extend((0..len).map(|at| byte.wrapping_add(at as u8)));
            bytes
        },
    );
    let headers = prop_oneof![
        2 => named,
        2 => line.prop_map(String::into_bytes),
        1 => unknown.prop_map(String::into_bytes),
        2 => binary,
    ];
    let heads = prop_oneof![request().prop_map(String::into_bytes), client_hello()];
    (headers, heads).prop_map(|(header, head)| [header, head].concat())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(500) })]

    #[test]
    fn requests(head in request()) {
        check::all(head.as_bytes());
    }

    #[test]
    fn nearly_requests(head in mutated(request().prop_map(String::into_bytes))) {
        check::all(&head);
    }

    #[test]
    fn client_hellos(head in client_hello()) {
        check::all(&head);
    }

    #[test]
    fn nearly_client_hellos(head in mutated(client_hello())) {
        check::all(&head);
    }

    #[test]
    fn behind_a_proxy(head in proxied()) {
        check::proxied(&head);
    }

    #[test]
    fn nearly_behind_a_proxy(head in mutated(proxied())) {
        check::proxied(&head);
    }

    #[test]
    fn anything(head in prop::collection::vec(any::<u8>(), 0..300)) {
        check::all(&head);
    }
}
