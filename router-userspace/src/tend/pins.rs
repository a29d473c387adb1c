//! What was registered by hand: a pin follows its replica's identity to a new number, and entries of a service
//! that is no more go.

use std::{
    collections::{BTreeMap, HashMap},
    ops::AddAssign,
    time::Duration,
};

use router_ebpf::maps::{NO_REPLICA, Name, REPLICA_GONE, Replica};

use super::{Numbers, Published};
use crate::maps::{handle::Asked, tables::Tables};

/// What was registered for a service that is gone is kept for so long: it may come back.
const NO_SERVICE: Duration = Duration::from_secs(60);
/// How often `CHAT_COOKIES` is read though nothing was published: somebody may have pinned a chat meanwhile.
const AGAIN: Duration = Duration::from_secs(30);

/// What became of what is registered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Judged {
    /// Pins that followed their replica to its new number.
    pub repinned: usize,
    /// Entries of services that are no more, removed.
    pub forgotten: usize,
}

impl AddAssign for Judged {
    fn add_assign(&mut self, other: Self) {
        self.repinned += other.repinned;
        self.forgotten += other.forgotten;
    }
}

/// What is known of `CHAT_COOKIES` since it was last read.
#[derive(Default)]
pub(super) struct Pins {
    /// Entries.
    pub(super) entries: usize,
    /// Services that they are of.
    pub(super) services: Numbers,
    /// Replicas that chats are pinned to.
    pub(super) replicas: Numbers,
    /// When it was read, and what was published then.
    read: Option<(Duration, Seen)>,
    /// Services that something refers to but that are not there, since when.
    no_service: HashMap<u32, Duration>,
}

/// What pins are judged by: which services there are, and which replica is called how, and gone or not.
#[derive(PartialEq, Eq)]
struct Seen {
    services: Numbers,
    replicas: BTreeMap<u32, (u32, Name, bool)>,
}

impl Pins {
    /// Looks at them, if services or replicas have changed or some time has passed.
    pub(super) fn look(
        &mut self,
        tables: &mut Tables,
        published: &Published,
        now: Duration,
    ) -> Asked<Judged> {
        let seen = Seen::new(published);
        let is_due =
            |(at, before): &(Duration, Seen)| now.saturating_sub(*at) >= AGAIN || *before != seen;
        if !self.read.as_ref().is_none_or(is_due) {
            return Ok(Judged::default());
        }
        let mut judged = Judged::default();
        let (mut services, mut replicas) = (Numbers::new(), Numbers::new());
        let mut no_service = HashMap::new();
        let all = tables.chat_cookies.entries()?;
        self.entries = all.len();
        let successors = successors(&published.replicas);
        for (key, mut cookie) in all {
            if !published.services.contains_key(&key.service) {
                let since = self.no_service.get(&key.service).copied().unwrap_or(now);
                no_service.insert(key.service, since);
                if now.saturating_sub(since) >= NO_SERVICE {
                    tables.chat_cookies.remove(&key)?;
                    judged.forgotten += 1;
                    continue;
                }
            }
            if let Some(successor) = successors.get(&cookie.replica) {
                cookie.replica = *successor;
                tables.chat_cookies.replace(&key, &cookie)?;
                judged.repinned += 1;
            }
            services.insert(key.service);
            if cookie.replica != NO_REPLICA {
                replicas.insert(cookie.replica);
            }
        }
        (self.services, self.replicas, self.no_service) = (services, replicas, no_service);
        self.read = Some((now, seen));
        Ok(judged)
    }
}

impl Seen {
    fn new(published: &Published) -> Self {
        let seen = |(number, replica): (&u32, &Replica)| {
            (*number, (replica.service, replica.name, replica.state == REPLICA_GONE))
        };
        Self {
            services: published.services.keys().copied().collect(),
            replicas: published.replicas.iter().map(seen).collect(),
        }
    }
}

/// The numbers that gone replicas' identities have now.
fn successors(replicas: &BTreeMap<u32, Replica>) -> HashMap<u32, u32> {
    let (gone, here): (Vec<_>, Vec<_>) =
        replicas.iter().partition(|(_, replica)| replica.state == REPLICA_GONE);
    let here: HashMap<_, _> = here
        .into_iter()
        .filter(|(_, replica)| replica.name != Name::EMPTY)
        .map(|(number, replica)| ((replica.service, replica.name), *number))
        .collect();
    let successor = |(number, replica): (&u32, &Replica)| {
        Some((*number, *here.get(&(replica.service, replica.name))?))
    };
    gone.into_iter().filter_map(successor).collect()
}

#[cfg(test)]
mod tests {
    use router_ebpf::maps::REPLICA_READY;

    use super::*;

    #[test]
    fn a_pin_follows_the_identity_of_its_replica() {
        let replica = |state, service, name: &[u8]| Replica {
            v4: [0; 16],
            v6: [0; 16],
            port: [0; 2],
            state,
            reserved: 0,
            service,
            weight: 1,
            name: Name::new(name),
        };
        let mut replicas = BTreeMap::from([
            (1, replica(REPLICA_GONE, 0, b"a")),
            (2, replica(REPLICA_READY, 0, b"b")),
            (3, replica(REPLICA_READY, 9, b"a")),
        ]);
        assert_eq!(successors(&replicas), [].into());
        replicas.insert(4, replica(REPLICA_READY, 0, b"a"));
        assert_eq!(successors(&replicas), [(1, 4)].into());
    }
}
