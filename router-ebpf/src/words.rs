//! Bytes looked at eight at a time, in a word whose lowest byte is the first one.
//!
//! A *mark* is the top bit of a byte. What marks bytes here may mark further ones behind one that it should, because a
//! borrow goes that way; the first mark is right, and that is all that is asked for ([`before`]).

/// Bytes that are looked at in one step at the most.
pub const WINDOW: usize = 64;

/// The byte in each of a word's eight.
#[inline(always)]
pub const fn each(byte: u8) -> u64 {
    u64::from_ne_bytes([byte; 8])
}

/// The top bits.
pub const TOPS: u64 = each(0x80);

/// Marks bytes that are zero, as Mycroft did: they borrow, and had no top bit.
#[inline(always)]
pub const fn zeros(word: u64) -> u64 {
    word.wrapping_sub(each(1)) & !word & TOPS
}

/// Marks bytes that are less than the one in `limits`, which is at most 128: the same way.
#[inline(always)]
pub const fn less(word: u64, limits: u64) -> u64 {
    word.wrapping_sub(limits) & !word & TOPS
}

/// Marks all bytes but letters, digits and hyphens.
#[inline(always)]
pub const fn unusual(word: u64) -> u64 {
    let low = word & !TOPS;
    let folded = low | each(0x20);
    let letters = at_least(folded, b'a') & !at_least(folded, b'z' + 1);
    let digits = at_least(low, b'0') & !at_least(low, b'9' + 1);
    let hyphens = !at_least(low ^ each(b'-'), 1);
    (word | !(letters | digits | hyphens)) & TOPS
}

/// Marks bytes that are at least that, of bytes below 128: nothing carries from one to the next.
#[inline(always)]
const fn at_least(word: u64, least: u8) -> u64 {
    (word + each(0x80 - least)) & TOPS
}

/// Its ASCII letters in lower case.
#[inline(always)]
pub const fn lower(word: u64) -> u64 {
    let low = word & !TOPS;
    let capitals = at_least(low, b'A') & !at_least(low, b'Z' + 1) & !word;
    word | capitals >> 2
}

/// How many bytes come before the first mark: 8 if there is none.
#[inline(always)]
pub const fn before(marks: u64) -> u32 {
    if marks == 0 {
        return 8;
    }
    // A power of 256 moves the number of its byte to the top.
    let lowest = (marks & marks.wrapping_neg()) >> 7;
    (lowest.wrapping_mul(0x0001_0203_0405_0607) >> 56) as u32 & 7
}

/// The first `len` bytes of a word, 8 at the most, and zeros behind them.
#[inline(always)]
pub const fn first(word: u64, len: u32) -> u64 {
    if len >= 8 { word } else { word & !(u64::MAX << (len * 8)) }
}

/// Those from the beginning of `bytes` as a word.
#[inline(always)]
pub fn word<const N: usize>(bytes: &[u8; N]) -> u64 {
    const { assert!(N >= 8) };
    bytes.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

/// How many of a window's bytes come before the first of which `marks` says that it is wanted.
#[inline(always)]
pub fn until(bytes: &[u8; WINDOW], marks: impl Fn(u64) -> u64) -> u32 {
    let mut at = 0;
    for bytes in bytes.as_chunks().0 {
        let before = before(marks(u64::from_le_bytes(*bytes)));
        at += before;
        if before < 8 {
            break;
        }
    }
    at
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Bytes at the edges of what is told apart.
    fn byte() -> impl Strategy<Value = u8> {
        let edges = b"\0\x08\t\n\x0b\x0c\r\x0e\x1f !,-./09:;?@AZ[`az{~\x7f\x80\x81\x8a\x8d\xa0\xae\xad\xc1\xdb\xfe\xff";
        prop_oneof![any::<u8>(), prop::sample::select(edges.as_slice())]
    }

    fn bytes<const N: usize>() -> impl Strategy<Value = [u8; N]> {
        proptest::collection::vec(byte(), N).prop_map(|bytes| bytes.try_into().expect("N of them"))
    }

    fn place(bytes: &[u8], is: impl Fn(u8) -> bool) -> u32 {
        bytes.iter().position(|byte| is(*byte)).unwrap_or(bytes.len()) as u32
    }

    proptest! {
        #[test]
        fn the_first_mark_is_right(bytes in bytes::<8>(), other in byte(), limit in 0..=128u8) {
            let word = word(&bytes);
            prop_assert_eq!(before(zeros(word ^ each(other))), place(&bytes, |b| b == other));
            prop_assert_eq!(before(less(word, each(limit))), place(&bytes, |b| b < limit));
            let usual = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
            prop_assert_eq!(before(unusual(word)), place(&bytes, |b| !usual(b)));
        }

        #[test]
        fn two_marks_are_the_first_of_both(bytes in bytes::<64>(), a in byte(), b in byte()) {
            let marks = |word| zeros(word ^ each(a)) | less(word, each(b & 0x7f));
            let expected = place(&bytes, |byte| byte == a || byte < b & 0x7f);
            prop_assert_eq!(until(&bytes, marks), expected);
        }

        #[test]
        fn words_are_lowered_as_bytes_are(bytes in bytes::<8>(), len in 0..=8u32) {
            prop_assert_eq!(lower(word(&bytes)).to_le_bytes(), bytes.map(|b| b.to_ascii_lowercase()));
            let mut cut = [0; 8];
            cut[..len as usize].copy_from_slice(&bytes[..len as usize]);
            prop_assert_eq!(first(word(&bytes), len).to_le_bytes(), cut);
        }
    }
}
