//! Kinds of key sources: the one declaration of them. ARCHITECTURE.md says how to add one ("How to add").

/// Where in a connection a key is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// It is the client's address. Every connection has one.
    Client,
    /// It is the address that the client talks to. Every connection has one.
    Destination,
    /// It is both ends. Every connection has them.
    Tuple,
    /// In the HTTP/1 request that the client sends first.
    Http,
    /// In the TLS ClientHello that the client sends first.
    Tls,
}

/// What a key is, and so how it is written for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// An address: 16 bytes.
    Address,
    /// Both ends of the connection: 36 bytes.
    Tuple,
    /// Bytes that the client has sent.
    Text,
}

macro_rules! kinds {
    ($($(#[doc = $help:literal])+ $kind:ident = $number:literal, $word:literal, $origin:ident;)+) => {
        /// Where the bytes come from that name a chat. Its number is what the maps have.
        #[repr(u8)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum KeyKind {
            $($(#[doc = $help])+ $kind = $number,)+
        }

        impl KeyKind {
            /// All of them, in the order of their numbers.
            pub const ALL: &[Self] = &[$(Self::$kind,)+];

            /// The kind with this number; `None` for a number of no kind.
            #[inline(always)]
            pub const fn from_map(number: u8) -> Option<Self> {
                match number { $($number => Some(Self::$kind),)+ _ => None }
            }

            /// The word with which the configuration begins it.
            pub const fn word(self) -> &'static str {
                match self { $(Self::$kind => $word,)+ }
            }

            /// Where its keys are found.
            #[inline(always)]
            pub const fn origin(self) -> Origin {
                match self { $(Self::$kind => Origin::$origin,)+ }
            }
        }
    };
}

kinds! {
    /// The client's address.
    Client = 1, "client", Client;
    /// The destination address.
    Destination = 2, "destination", Destination;
    /// The connection 4-tuple.
    Tuple = 3, "tuple", Tuple;
    /// A query parameter of the HTTP/1 request. Text: its name, decoded.
    Query = 4, "query", Http;
    /// A part of the HTTP/1 request's path. Text: the path, compiled: see [`PATH_ANY`].
    Path = 5, "path", Http;
    /// A header of the HTTP/1 request. Text: its name in lower case.
    Header = 6, "header", Http;
    /// An HTTP cookie. Text: its name.
    Cookie = 7, "cookie", Http;
    /// The server name of the TLS ClientHello, in lower case. No text.
    Sni = 8, "sni", Tls;
    /// The first label of that name. Text: what must follow it, from its dot on and in lower case, or
    /// nothing if anything may.
    SniLabel = 9, "sni:label", Tls;
}

/// In the maps: no key source, the end of the list.
pub const NONE: u8 = 0;

/// In the text of [`KeyKind::Path`], where any segment may stand. Other bytes are those of the decoded
/// path; `/` stands for the separator only.
pub const PATH_ANY: u8 = 1;
/// In the text of [`KeyKind::Path`], where the key stands: up to the segment's end.
pub const PATH_KEY: u8 = 2;
/// At the end of the text of [`KeyKind::Path`]: anything may follow, or nothing.
pub const PATH_REST: u8 = 3;

impl KeyKind {
    /// What its keys are.
    pub const fn shape(self) -> Shape {
        match self.origin() {
            Origin::Client | Origin::Destination => Shape::Address,
            Origin::Tuple => Shape::Tuple,
            Origin::Http | Origin::Tls => Shape::Text,
        }
    }

    /// Whether a key source of this kind and text has host names for keys: their upper-case letters become
    /// lower-case.
    pub fn is_host(self, text: &[u8]) -> bool {
        match self {
            Self::Sni | Self::SniLabel => true,
            Self::Header => text == b"host",
            Self::Client | Self::Destination | Self::Tuple => false,
            Self::Query | Self::Path | Self::Cookie => false,
        }
    }
}
