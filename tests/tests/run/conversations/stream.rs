//! What a client says on one connection: requests for several chats, one after the other.

use roost_heads::{random::Random, request::lengths};

/// What is odd about a request: from there on nobody can follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Odd {
    /// Its body is in chunks.
    Chunked,
    /// The same, and it says a length, too.
    Both,
    /// Its client wants to be told to go on.
    Expects,
    /// The next one comes before its answer.
    Pipelined,
    /// A `100 Continue` comes before its answer.
    Interim,
    /// Its answer's first segment has some bytes of the first line only.
    Split,
    /// Its answer is none.
    Banner,
    /// Its answer speaks another protocol.
    Upgrade,
    /// Its replica closes behind the answer.
    Close,
    /// Nobody knows where it ends.
    Trick,
}

impl Odd {
    /// Whether a later request may be followed: it has made nothing uncertain, or the network has mended it.
    pub const fn may_be_followed(self) -> bool {
        matches!(self, Self::Pipelined | Self::Split | Self::Close)
    }
}

/// All that are made here.
pub const ODDS: [Odd; 9] = [
    Odd::Chunked,
    Odd::Both,
    Odd::Expects,
    Odd::Pipelined,
    Odd::Interim,
    Odd::Split,
    Odd::Banner,
    Odd::Upgrade,
    Odd::Close,
];

/// Where the chats `a` and `b` are, of which the tricks speak.
pub const AT: [u32; 2] = [2, 1];

/// One request.
#[derive(Clone, Debug)]
pub struct Request {
    pub start: usize,
    pub head: usize,
    pub end: usize,
    /// Whose chat it is for: a replica's; of a page without a key nobody's.
    pub owner: Option<usize>,
}

/// All of them.
#[derive(Clone, Debug, Default)]
pub struct Stream {
    pub bytes: Vec<u8>,
    pub requests: Vec<Request>,
    /// Which of them is odd.
    pub odd: Option<(usize, Odd)>,
    /// Whether the data path may follow less than parsers of others.
    pub is_trick: bool,
}

impl Stream {
    /// As many requests for these chats, each of another replica.
    pub fn new(random: &mut Random, chats: &[String], count: usize, is_odd: bool) -> Self {
        let odd = is_odd.then(|| (random.below(count), ODDS[random.below(ODDS.len())]));
        let mut stream = Self { odd, ..Self::default() };
        for number in 0..count {
            stream.add(random, chats, number);
        }
        stream
    }

    /// A request for the first chat, these bytes, and requests for the second chat and the first, in which a client asks for
    /// `/?chat=a` and `/?chat=b`. Where those are is said by parsers of others, as far as they know.
    pub fn trick(bytes: &[u8], is_first: bool) -> Self {
        let ask =
            |chat: &str| format!("GET /?chat={chat} HTTP/1.1\r\nHost: h\r\n\r\n").into_bytes();
        let begin = if is_first { Vec::new() } else { ask("a") };
        let behind = begin.len() + bytes.len();
        let bytes = [&begin[..], bytes, &ask("b"), &ask("a")].concat();
        let mut stream = Self { bytes, is_trick: true, ..Self::default() };
        let mut start = 0;
        while let Some((head, body)) = lengths(&stream.bytes[start..])
            && start + head + body <= behind
        {
            stream.push(start, start + head, start + head + body);
            start += head + body;
        }
        if start < behind {
            stream.odd = Some((stream.requests.len(), Odd::Trick));
            stream.push(start, behind, behind);
        }
        for start in [behind, behind + ask("b").len()] {
            let end = start + ask("b").len();
            stream.push(start, end, end);
        }
        stream
    }

    /// A request that is in the stream.
    fn push(&mut self, start: usize, head: usize, end: usize) {
        let line = self.bytes[start..head].split(|byte| *byte == b'\r').next().unwrap_or_default();
        let asks = |chat: &[u8]| line.windows(chat.len()).any(|part| part == chat);
        let owner = [&b"chat=a"[..], b"chat=b"].iter().position(|chat| asks(chat));
        let owner = owner.map(|chat| AT[chat] as usize);
        self.requests.push(Request { start, head, end, owner });
    }

    /// What is odd about this one.
    pub fn odd_at(&self, number: usize) -> Option<Odd> {
        self.odd.and_then(|(at, odd)| (at == number).then_some(odd))
    }

    fn add(&mut self, random: &mut Random, chats: &[String], number: usize) {
        let owner = (number == 0 || random.below(6) != 0).then(|| random.below(chats.len()));
        let pad = |random: &mut Random| {
            let most = [1, 1, 40, 200, 200, 3000][random.below(6)];
            "p".repeat(random.below(most))
        };
        let query = owner.map_or_else(String::new, |owner| format!("&chat={}", chats[owner]));
        // A body that looks like requests, for each chat.
        let inner: String =
            chats.iter().map(|chat| format!("GET /?chat={chat} HTTP/1.1\r\n\r\n")).collect();
        let len = [0, 0, 0, 1, 700, 5000][random.below(6)];
        let mut body: Vec<u8> = inner.bytes().cycle().take(len).collect();
        let odd = self.odd_at(number);
        let chunked = matches!(odd, Some(Odd::Chunked | Odd::Both));
        let mut headers = format!("Host: h\r\nX-Pad: {}\r\n", pad(random));
        if !body.is_empty() && odd != Some(Odd::Chunked) || odd == Some(Odd::Both) {
            headers += &format!("Content-Length: {}\r\n", body.len());
        }
        if chunked {
            headers += "Transfer-Encoding: chunked\r\n";
            let mut chunks = Vec::new();
            for chunk in body.chunks(1 + random.below(900)) {
                let extension = ["", ";x", ";x=\"y\""][random.below(3)];
                chunks.extend(format!("{:x}{extension}\r\n", chunk.len()).bytes());
                chunks.extend_from_slice(chunk);
                chunks.extend(b"\r\n");
            }
            chunks.extend(b"0\r\n\r\n");
            body = chunks;
        }
        if odd == Some(Odd::Expects) {
            headers += "Expect: 100-continue\r\n";
        }
        let method = if body.is_empty() { "GET" } else { "POST" };
        let target = format!("/{number}?pad={}{query}", pad(random));
        let start = self.bytes.len();
        self.bytes.extend(format!("{method} {target} HTTP/1.1\r\n{headers}\r\n").bytes());
        let head = self.bytes.len();
        self.bytes.extend(body);
        self.requests.push(Request { start, head, end: self.bytes.len(), owner });
    }

    /// What a replica answers to a request.
    pub fn answer(&self, number: usize, replica: usize, random: &mut Random) -> Vec<u8> {
        let most = [1, 100, 4000][random.below(3)];
        let body = "a".repeat(random.below(most));
        let first = match self.odd_at(number) {
            Some(Odd::Interim) => "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK",
            Some(Odd::Upgrade) => "HTTP/1.1 101 Switching Protocols",
            Some(Odd::Banner) => "SSH-2.0-x HTTP/1.1 200 OK",
            _ => ["HTTP/1.1 200 OK", "HTTP/1.1 404 No", "HTTP/1.1 500 "][random.below(3)],
        };
        let length = body.len();
        format!(
            "{first}\r\nBy: {replica}\r\nTo: {number}\r\nContent-Length: {length}\r\n\r\n{body}"
        )
        .into_bytes()
    }
}

/// The whole answers that a client has: which replica has answered which request.
pub fn answers(got: &[u8]) -> Vec<(usize, usize)> {
    let text = str::from_utf8(got).expect("answers are text");
    let mut found = Vec::new();
    let mut rest = text;
    while let Some((head, behind)) = rest.split_once("\r\n\r\n") {
        let value = |name: &str| -> Option<usize> {
            head.lines().find_map(|line| line.strip_prefix(name))?.parse().ok()
        };
        let Some(length) = value("Content-Length: ") else {
            rest = behind;
            continue;
        };
        let Some(next) = behind.get(length..) else { break };
        found.extend(value("By: ").zip(value("To: ")));
        rest = next;
    }
    found
}
