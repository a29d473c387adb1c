//! Every head in `tests/corpus`, and the keys of those that are there for one.

use roost_heads::{
    check, corpus,
    search::{Answer, Searcher, service},
    source::Source,
    tls,
};
use router_ebpf::maps::HEAD_LEN;

/// Checks each file, and says which one fails.
fn replay(dir: &str, check: impl Fn(&[u8])) {
    for (name, bytes) in corpus::files(dir) {
        let failing = Failing(dir, name);
        check(bytes);
        drop(failing);
    }
}

/// Names the file while its check panics.
struct Failing<'a>(&'a str, &'a str);

impl Drop for Failing<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("this was tests/corpus/{}/{}", self.0, self.1);
        }
    }
}

#[test]
fn requests() {
    replay("requests", check::all);
    replay("fuzz/http", check::all);
}

#[test]
fn hellos() {
    replay("hellos", check::all);
    replay("fuzz/tls", |bytes| match bytes {
        [22, ..] => check::all(bytes),
        _ => check::all(&tls::client_hello(bytes)),
    });
}

#[test]
fn segments() {
    replay("fuzz/segments", check::segments);
}

#[test]
fn proxied() {
    replay("proxied", check::proxied);
    replay("fuzz/proxy", check::proxied);
}

/// The key of a file, or the reason why there is none.
fn key(dir: &str, name: &str, source: &Source) -> Result<String, String> {
    let head = corpus::file(dir, name);
    let head = &head[..head.len().min(HEAD_LEN)];
    match Searcher::default().whole(&service(&[source.compiled()]), head, None) {
        Answer::Key(key) => Ok(key.escape_ascii().to_string()),
        Answer::Missing(reason) => Err(format!("{reason:?}")),
        Answer::More => Err("More".to_owned()),
    }
}

#[track_caller]
fn has(dir: &str, source: &Source, expected: &[(&str, Result<&str, &str>)]) {
    for (name, expected) in expected {
        let found = key(dir, name, source);
        let found = found.as_deref().map_err(String::as_str);
        assert_eq!(found, *expected, "{source:?} in {dir}/{name}");
    }
}

#[test]
fn keys_of_queries() {
    has(
        "requests",
        &Source::Query("chat".into()),
        &[
            ("query", Ok("lobby")),
            ("chromium-tab", Ok("lobby")),
            ("query-encoded", Ok("caf\\xc3\\xa9 + bar&baz")),
            ("query-raw-utf8", Ok("\\xe2\\x98\\x83")),
            ("query-raw-latin1", Ok("caf\\xe9")),
            ("query-repeated", Ok("first")),
            ("query-repeated-after-empty", Err("Empty")),
            ("query-without-equals", Err("Empty")),
            ("query-empty-pairs", Ok("lobby")),
            ("query-equals-in-value", Ok("a=b==")),
            ("query-question-marks", Ok("yes?no")),
            ("query-longer-names", Ok("6")),
            ("query-bad-percent", Ok("%")),
            ("query-percent-in-name", Ok("4")),
            ("query-nul-and-controls", Ok("\\x00\\x01\\x7f\\xff\\n")),
            ("query-fragment", Ok("lobby")),
            ("query-in-fragment-only", Err("Absent")),
            ("query-semicolon", Err("Absent")),
            ("query-encoded-delimiters", Ok("yes")),
            ("query-behind-many", Ok("late")),
            ("query-in-path-only", Err("Absent")),
            ("absolute-form", Ok("lobby")),
            ("absolute-form-no-path", Ok("lobby")),
            ("absolute-form-no-path-no-query", Err("Absent")),
            ("absolute-form-user", Ok("lobby")),
            ("absolute-form-fragment", Err("Absent")),
            ("absolute-form-odd-scheme", Ok("1")),
            ("authority-form", Err("Absent")),
            ("asterisk-form", Err("Absent")),
            ("empty-lines-first", Ok("lobby")),
            ("bare-line-feeds", Ok("lobby")),
            ("http-1.0", Ok("lobby")),
            ("method-32-bytes", Ok("1")),
            ("method-33-bytes", Err("Unreadable")),
            ("method-lower-case", Ok("1")),
            ("method-bad", Err("Unreadable")),
            ("tab-for-space", Err("Unreadable")),
            ("http-2-preface", Err("Absent")),
            ("query-key-of-97", Ok(&"k".repeat(97))),
            ("query-key-of-299", Ok(&"k".repeat(299))),
            // Taken for a method and what is no path.
            ("ssh", Err("Absent")),
            ("proxy-protocol", Err("Absent")),
            ("truncated-target", Err("More")),
            ("truncated-method", Err("More")),
            ("empty", Err("More")),
            ("pipelined", Ok("one")),
        ],
    );
    has(
        "requests",
        &Source::Query("c".into()),
        &[
            ("query-bad-percent", Ok("%4")),
            ("query-percent-at-end", Ok("a%4")),
            ("query-semicolon", Ok("1;chat=2")),
            ("query-encoded-delimiters", Ok("a&chat=no")),
            ("query-equals-in-value", Ok("=x")),
            ("absolute-form-wss", Ok("1")),
        ],
    );
    has("requests", &Source::Query("a b".into()), &[("query-plus-in-name", Ok("1"))]);
    has("requests", &Source::Query("a=%&".into()), &[("query-special-name", Ok("deep"))]);
}

#[test]
fn keys_of_paths() {
    has(
        "requests",
        &Source::path("/rooms/{chat}/ws"),
        &[
            ("path-ws", Ok("lobby")),
            ("path", Err("Absent")),
            ("path-encoded", Ok("caf\\xc3\\xa9 bar")),
            ("path-plus-is-plus", Ok("a+b")),
            ("path-encoded-slash", Ok("a/b")),
            ("path-encoded-slash-in-literal", Err("Absent")),
            ("path-empty-key", Err("Empty")),
            ("path-too-long", Err("Absent")),
            ("path-case", Err("Absent")),
            ("path-bad-percent", Ok("%")),
            ("path-backslash", Err("Absent")),
            ("path-semicolon", Err("Absent")),
            ("absolute-form", Ok("lobby")),
            ("absolute-form-wss", Ok("lobby")),
        ],
    );
    has(
        "requests",
        &Source::path("/rooms/{chat}"),
        &[
            ("path", Ok("lobby")),
            ("path-ws", Err("Absent")),
            ("path-trailing-slash", Err("Absent")),
            ("absolute-form-user", Ok("lobby")),
            ("absolute-form-no-path", Err("Absent")),
        ],
    );
    has(
        "requests",
        &Source::path("/*/{chat}/**"),
        &[
            ("path", Ok("lobby")),
            ("path-too-long", Ok("lobby")),
            ("path-semicolon", Ok("lobby;w=2")),
            ("path-dots", Ok("..")),
            ("path-control", Ok("\\x02")),
            ("double-slash", Ok("rooms")),
            ("path-root", Err("Absent")),
        ],
    );
    has(
        "requests",
        &Source::path("/*/r-{chat}"),
        &[
            ("path-prefix", Ok("lobby")),
            ("path-prefix-only", Err("Empty")),
            ("path", Err("Absent")),
        ],
    );
    has("requests", &Source::path("/a b/{chat}/*"), &[("path-space", Ok("lobby"))]);
}

#[test]
fn keys_of_headers() {
    has(
        "requests",
        &Source::Header("x-chat".to_owned()),
        &[
            ("header", Ok("lobby")),
            ("header-spaces-and-tabs", Ok("lo bby")),
            ("header-no-space", Ok("lobby")),
            ("header-repeated", Ok("one")),
            ("header-empty-then-full", Err("Empty")),
            ("header-longer-names", Ok("5")),
            ("header-colon-in-value", Ok("a:b: c")),
            ("header-space-before-colon", Ok("yes")),
            ("header-obs-fold", Ok("yes")),
            ("header-utf8", Ok("caf\\xc3\\xa9 \\xe2\\x98\\x83")),
            ("header-latin1", Ok("caf\\xe9")),
            ("header-in-target", Ok("yes")),
            ("header-last-before-body", Ok("lobby")),
            ("header-none", Err("Absent")),
            ("bare-line-feeds", Ok("b")),
            ("mixed-line-ends", Ok("b")),
            ("carriage-return-in-value", Ok("a")),
            ("carriage-return-alone", Err("Absent")),
            ("truncated-header", Err("More")),
            ("truncated-line-end", Ok("lobby")),
            ("truncated-head", Err("More")),
            ("behind-long-cookies", Ok("late")),
            ("exactly-4096", Ok("lobby")),
            ("over-4096", Ok("no")),
        ],
    );
    has(
        "requests",
        &Source::Header("host".to_owned()),
        &[
            ("header-no-space", Ok("chat.example:8080")),
            ("header-colon-in-value", Ok("[2001:db8::1]:80")),
            ("header-empty", Err("Empty")),
        ],
    );
}

#[test]
fn keys_of_cookies() {
    has(
        "requests",
        &Source::Cookie("chat".to_owned()),
        &[
            ("cookie", Ok("lobby")),
            ("cookie-among-others", Ok("lobby")),
            ("cookie-two-headers", Ok("lobby")),
            ("cookie-repeated", Ok("one")),
            ("cookie-empty-then-full", Err("Empty")),
            ("cookie-quoted", Ok("\\\"lobby 1\\\"")),
            ("cookie-spaces", Ok("lobby")),
            ("cookie-no-spaces", Ok("lobby")),
            ("cookie-space-before-equals", Ok("yes")),
            ("cookie-no-equals", Ok("yes")),
            ("cookie-equals", Ok("=a=b")),
            ("cookie-semicolons", Ok("lobby")),
            ("cookie-case", Ok("3")),
            ("cookie-longer-names", Ok("4")),
            ("cookie-percent", Ok("%6c%6F+bby")),
            ("cookie-commas", Ok("yes, b")),
            ("cookie2-header", Ok("yes")),
            ("header", Err("Absent")),
        ],
    );
}

#[test]
fn keys_of_hellos() {
    let real = [
        "chromium",
        "curl",
        "firefox",
        "go",
        "java",
        "node",
        "openssl",
        "openssl-resumed",
        "openssl-tls12",
        "openssl-upper-case",
        "python",
        "rustls",
        "rustls-in-records",
    ];
    let made = [
        "made-chromium-in-records",
        "made-chromium-in-many-records",
        "made-chromium-with-data",
        "made-name",
        "made-name-upper-case",
        "made-large",
    ];
    for name in real.into_iter().chain(made) {
        has("hellos", &Source::Sni, &[(name, Ok("lobby.rooms.example.com"))]);
        has("hellos", &Source::SniLabel(String::new()), &[(name, Ok("lobby"))]);
        let label = Source::SniLabel(".rooms.example.com".to_owned());
        has("hellos", &label, &[(name, Ok("lobby"))]);
    }
    has(
        "hellos",
        &Source::Sni,
        &[
            ("openssl-no-name", Err("Absent")),
            ("python-address", Err("Absent")),
            ("made-no-name", Err("Absent")),
            ("made-no-extensions", Err("Absent")),
            ("made-empty-extensions", Err("Absent")),
            ("made-name-empty", Err("Empty")),
            ("made-name-trailing-dot", Ok("lobby.rooms.example.com.")),
            ("made-name-not-ascii", Ok("caf\\xc3\\xa9.rooms.example.com")),
            ("made-name-other-kind", Err("Unreadable")),
            ("made-two-names", Ok("one.rooms.example.com")),
            ("made-major-2", Err("Unreadable")),
            ("made-alert", Err("Unreadable")),
            ("made-empty-record", Err("Unreadable")),
            ("made-type-after-part", Err("Unreadable")),
            ("made-ssl2-hello", Err("Unreadable")),
            ("made-server-hello-type", Err("Unreadable")),
            ("made-other-type-with-name", Err("Unreadable")),
            ("made-beyond-4096", Ok("lobby.rooms.example.com")),
        ],
    );
    has(
        "hellos",
        &Source::SniLabel(".rooms.example.com".to_owned()),
        &[
            ("made-name-only-label", Err("Absent")),
            ("made-name-trailing-dot", Err("Absent")),
            ("made-name-other-suffix", Err("Absent")),
            ("made-name-longer-suffix", Err("Absent")),
            ("made-name-dot", Err("Empty")),
            ("made-name-not-ascii", Ok("caf\\xc3\\xa9")),
            ("made-two-names", Ok("one")),
        ],
    );
}

/// What the issue asks for: names behind the first segment's end, by key shares of a kilobyte.
#[test]
fn browsers_send_their_name_late_or_in_two_segments() {
    for name in ["chromium", "firefox"] {
        let hello = corpus::file("hellos", name);
        assert!(hello.len() > 1460, "{name}: {} bytes", hello.len());
    }
    let chromium = corpus::file("hellos", "chromium");
    let service = service(&[Source::Sni.compiled()]);
    assert_eq!(Searcher::default().whole(&service, &chromium[..1460], None), Answer::More);
}
