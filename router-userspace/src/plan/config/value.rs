//! Parsing of single values: addresses, prefixes, durations.

use std::{net::IpAddr, str::FromStr as _, time::Duration};

use ipnet::IpNet;

use super::prefix::Prefix;
use crate::plan::duration;

/// The most that a chat may linger: until then it takes its room in `CHATS`.
const MOST_LINGER: Duration = Duration::from_secs(3600);
/// The most that a replica may take to accept: until then the numbers of those that are gone stay taken.
pub(crate) const MOST_HANDSHAKE: Duration = Duration::from_secs(300);

/// `10.0.0.1` or `2001:db8::/64`.
pub(super) fn prefix(text: &str) -> Result<Prefix, String> {
    net(text, 1, unicast)
}

/// The same of clients, which may be all there are: `0.0.0.0/0`.
pub(crate) fn source(text: &str) -> Result<Prefix, String> {
    let prefix = net(text, 0, |_| Ok(()))?;
    let mapped = IpNet::from_str("::ffff:0:0/96").expect("a prefix");
    if mapped.contains(&*prefix) {
        return Err(format!("{text:?} has IPv4 addresses in IPv6 form; write them as IPv4"));
    }
    Ok(prefix)
}

/// A prefix of at least so many bits, of an address that is fine.
fn net(
    text: &str,
    least: u8,
    is_fine: impl Fn(IpAddr) -> Result<(), String>,
) -> Result<Prefix, String> {
    let example = "write an address (\"10.0.0.1\", \"fd00::1\") or a prefix (\"2001:db8:1::/64\")";
    let (address, len) = match text.split_once('/') {
        Some((address, len)) => (address, Some(len)),
        None => (text, None),
    };
    let addr: IpAddr =
        address.parse().map_err(|_| format!("{text:?} is not an IP address; {example}"))?;
    let whole = IpNet::from(addr);
    let net = match len {
        None => whole,
        Some(len) => {
            let len = len.parse().ok().filter(|len| *len >= least);
            len.and_then(|len| IpNet::new(addr, len).ok()).ok_or_else(|| {
                format!("{text:?}: a prefix length is {least} to {} here", whole.max_prefix_len())
            })?
        }
    };
    is_fine(addr)?;
    let prefix = Prefix::from(net);
    if prefix.addr() != addr {
        return Err(format!("{text:?} has bits set behind its prefix; write \"{prefix}\""));
    }
    Ok(prefix)
}

/// A replica's address.
pub(crate) fn address(text: &str) -> Result<IpAddr, String> {
    let addr: IpAddr = text.parse().map_err(|_| {
        format!("{text:?} is not an IP address; write one such as \"10.1.0.2\" or \"fd00:1::2\"")
    })?;
    unicast(addr)?;
    Ok(addr)
}

/// Packets with these addresses are never routed, so the data path would never see them.
fn unicast(addr: IpAddr) -> Result<(), String> {
    let mapped = matches!(addr, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some());
    let link_local = match addr {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    let what = if addr.is_unspecified() {
        "the unspecified address"
    } else if addr.is_loopback() {
        "a loopback address"
    } else if addr.is_multicast() {
        "a multicast address"
    } else if link_local {
        "a link-local or broadcast address"
    } else if mapped {
        "an IPv4 address in IPv6 form, write it as IPv4"
    } else {
        return Ok(());
    };
    Err(format!("\"{addr}\" is {what}; a routable unicast address is needed"))
}

/// Whole seconds, at least one: `90s`, `5m`, `3h`, `1d`, and sums such as `1h30m`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let duration = duration::parse(text, &duration::WHOLE_SECONDS).ok_or_else(|| {
        format!("{text:?} is not a duration; write \"90s\", \"5m\", \"3h\" or \"1h30m\"")
    })?;
    match u32::try_from(duration.as_secs()) {
        Ok(0) | Err(_) => Err(format!("{text:?}: a duration is 1s to {}s", u32::MAX)),
        Ok(_) => Ok(duration),
    }
}

/// How long a chat without connections takes its room.
pub(super) fn linger(text: &str) -> Result<Duration, String> {
    let why = "at most 1h, for which a chat without connections takes its room";
    at_most(MOST_LINGER, why, text)
}

/// How long a replica may take to accept.
pub(super) fn handshake_timeout(text: &str) -> Result<Duration, String> {
    let why = "at most 5m, for which what is known of a replica is kept after it has left";
    at_most(MOST_HANDSHAKE, why, text)
}

fn at_most(most: Duration, why: &str, text: &str) -> Result<Duration, String> {
    let time = duration(text)?;
    if time > most { Err(format!("{text:?}: {why}")) } else { Ok(time) }
}
