//! Names of links, as patterns.

use std::fmt;

/// A name, in which `*` stands for any characters and `?` for one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkPattern(String);

impl LinkPattern {
    /// Reads one, or says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let odd = |c: char| c == '/' || c.is_whitespace() || c.is_control();
        if text.is_empty() || text.len() > 15 || text.contains(odd) {
            return Err(format!(
                "{text:?} cannot be a link's name or a pattern of names: 1 to 15 bytes without space or slash, \
                 such as \"veth*\""
            ));
        }
        if text.chars().all(|c| c == '*' || c == '?') {
            return Err(format!(
                "{text:?} would take every interface; write how the links of pods are called, such as \"veth*\""
            ));
        }
        Ok(Self(text.to_owned()))
    }

    /// Whether it is no single name.
    pub fn is_open(&self) -> bool {
        self.0.contains(['*', '?'])
    }

    /// Whether a link is called so.
    pub fn fits(&self, name: &str) -> bool {
        fits(self.0.as_bytes(), name.as_bytes())
    }
}

impl fmt::Display for LinkPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Names have 15 bytes at the most, so that trying costs nothing.
fn fits(pattern: &[u8], name: &[u8]) -> bool {
    match (pattern, name) {
        ([], []) => true,
        ([b'*', pattern @ ..], _) => (0..=name.len()).any(|skip| fits(pattern, &name[skip..])),
        ([b'?', pattern @ ..], [_, name @ ..]) => fits(pattern, name),
        ([a, pattern @ ..], [b, name @ ..]) => a == b && fits(pattern, name),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_fit_names_as_in_a_shell() {
        for (pattern, fitting, others) in [
            ("veth*", &["veth", "veth0", "vethabc-d"][..], &["eth0", "xveth0"][..]),
            ("cali?????", &["cali12345"], &["cali1234", "cali123456"]),
            ("*-pod-*", &["a-pod-b", "-pod-"], &["pod", "a-pod"]),
            ("pod1", &["pod1"], &["pod10", "pod"]),
        ] {
            let pattern = LinkPattern::parse(pattern).unwrap();
            assert!(fitting.iter().all(|name| pattern.fits(name)), "{pattern}");
            assert!(!others.iter().any(|name| pattern.fits(name)), "{pattern}");
        }
        for wrong in ["", "*", "?*", "a b", "a/b", "1234567890123456"] {
            assert!(LinkPattern::parse(wrong).is_err(), "{wrong:?}");
        }
    }
}
