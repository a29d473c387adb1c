//! The cluster's keys in a Secret, and how the one of the handshakes is rotated.
//!
//! A node accepts the SYN cookies of two keys: the one that it makes them with, and one more. So a
//! rotation has two steps, and between any two neighbours of this chain each accepts what the other
//! makes, whenever it learns of a step:
//!
//! | the Secret has | made with | accepted besides |
//! | --- | --- | --- |
//! | `handshake: A` | A | the key before A, if the Secret has it |
//! | `handshake: A`, `handshake-next: B` | A | B |
//! | `handshake: B`, `handshake-before: A` | B | A |
//!
//! [`Machine`] is pure: what the Secret says and the time go in, keys and the next step come out.
//! [`Keeper`] is the shell around it. Any daemon may take a step; whoever writes first has taken it.

mod content;
mod keeper;
mod state;
#[cfg(test)]
mod tests;

use std::time::Duration;

use crate::maps::secrets::{Key, Keys};

pub use content::Content;
pub use keeper::Keeper;
pub use state::{SecretState, SecretStatus};

/// The longest that a node is without the last step is less than this, or its cookies are foreign.
const STAGE: Duration = Duration::from_secs(300);
/// How long a key is accepted that was replaced without these steps. No cookie is good for longer.
const HOLD: Duration = Duration::from_secs(206);
/// The daemons of a cluster are not to write all at once.
const SPREAD: Duration = Duration::from_secs(60);

/// How the Secret is kept.
#[derive(Clone, Debug)]
pub struct SecretOptions {
    /// Its name.
    pub name: String,
    /// How often the key of the handshakes is rotated.
    pub rotate: Option<Duration>,
    /// How long the next key is accepted before it is used. Longer than any watch lags behind, and
    /// than `hold`.
    pub stage: Duration,
    /// How long a key is accepted that was replaced by hand.
    pub hold: Duration,
    /// The most that a step is put off by chance.
    pub spread: Duration,
}

impl SecretOptions {
    /// With the times that are right for a cluster.
    pub fn new(name: impl Into<String>, rotate: Option<Duration>) -> Self {
        Self { name: name.into(), rotate, stage: STAGE, hold: HOLD, spread: SPREAD }
    }
}

/// What a daemon is to write into the Secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// There is none: create it, with the keys that the maps have.
    Create,
    /// It lacks one of the two things: add it, with the key that the maps have.
    Complete,
    /// Let all nodes accept a new key.
    Announce,
    /// Let all nodes use it.
    Use,
}

/// What is known of the Secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    /// Nothing yet.
    Nothing,
    /// There is none.
    Absent,
    /// It is there, and what it says is not to be used.
    Malformed,
    /// It is there, but for one of the two things.
    Incomplete,
    /// It is there.
    Complete,
}

/// Follows the Secret. Times are since any fixed moment.
pub struct Machine {
    options: SecretOptions,
    known: Known,
    /// What it last said that could be used.
    seen: Option<Content>,
    keys: Keys,
    /// A key that cookies were made with until it was replaced by hand, and until when it counts.
    leaving: Option<(Key, Duration)>,
    /// When the next step of a rotation is due.
    due: Option<Duration>,
    /// What `due` was reckoned from.
    due_for: Option<(Content, Option<i64>)>,
}

/// The Secret at a time.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    /// What it says.
    pub content: Content,
    /// When its last step was, in seconds since 1970, as far as it says so.
    pub rotated_at: Option<i64>,
    /// How long ago that was by this node's clock.
    pub age: Duration,
}

impl Machine {
    /// With the keys that the maps have.
    pub fn new(options: SecretOptions, keys: Keys) -> Self {
        Self {
            options,
            known: Known::Nothing,
            seen: None,
            keys,
            leaving: None,
            due: None,
            due_for: None,
        }
    }

    /// The keys that the maps should have.
    pub fn keys(&self) -> Keys {
        self.keys
    }

    /// Whether what the Secret says is in use.
    pub fn is_read(&self) -> bool {
        self.known == Known::Complete
    }

    /// The Secret is like this. `jitter` is a random time up to that which it is given.
    pub fn observe(&mut self, seen: Seen, now: Duration, jitter: impl Fn(Duration) -> Duration) {
        let Seen { content, rotated_at, age } = seen;
        self.known = match (content.handshake, content.chats) {
            (Some(_), Some(_)) => Known::Complete,
            _ => Known::Incomplete,
        };
        let used = self.keys.handshake;
        if content.handshake.is_some_and(|key| key != used) {
            // Steps of a rotation say what else is to be accepted. Whoever replaces a key by hand does
            // not: he leaves the rest as it is, or there is no rest.
            let by_hand = content.rest() == (None, None)
                || self.seen.is_some_and(|old| old.rest() == content.rest());
            self.leaving = by_hand.then_some((used, now + self.options.hold));
        }
        if self.due_for != Some((content, rotated_at)) {
            let remaining = match (content.next, self.options.rotate) {
                // From now on, whatever the clocks say: so all who still hear of anything know it.
                (Some(_), _) => Some(self.options.stage),
                // Not before what is in flight since the last step has arrived.
                (None, Some(rotate)) => Some(rotate.saturating_sub(age).max(self.options.stage)),
                (None, None) => None,
            };
            self.due = remaining.map(|remaining| now + remaining + jitter(self.options.spread));
            self.due_for = Some((content, rotated_at));
        }
        self.seen = Some(content);
        self.tick(now);
    }

    /// There is no Secret.
    pub fn absent(&mut self) {
        self.known = Known::Absent;
        self.due_for = None;
    }

    /// What the Secret says cannot be used.
    pub fn malformed(&mut self) {
        self.known = Known::Malformed;
    }

    /// Time has passed.
    pub fn tick(&mut self, now: Duration) {
        self.leaving = self.leaving.filter(|(_, until)| now < *until);
        let Some(seen) = self.seen else { return };
        let handshake = seen.handshake.unwrap_or(self.keys.handshake);
        let leaving = self.leaving.map(|(key, _)| key);
        // Without a handshake key there is nothing to go by: what the maps have stays.
        let unsaid = if seen.handshake.is_some() { handshake } else { self.keys.handshake_before };
        self.keys = Keys {
            handshake,
            handshake_before: leaving.or(seen.next).or(seen.before).unwrap_or(unsaid),
            chat: seen.chats.unwrap_or(self.keys.chat),
        };
    }

    /// What is to be written now.
    pub fn step(&self, now: Duration) -> Option<Step> {
        match self.known {
            Known::Nothing | Known::Malformed => None,
            Known::Absent => Some(Step::Create),
            Known::Incomplete => Some(Step::Complete),
            Known::Complete if self.due.is_none_or(|due| now < due) => None,
            Known::Complete => match self.seen?.next {
                Some(_) => Some(Step::Use),
                None => Some(Step::Announce),
            },
        }
    }

    /// What the Secret is to say after a step. `new` is a key that nobody knows.
    pub fn after(&self, step: Step, new: Key) -> Content {
        let Keys { handshake, handshake_before, chat } = self.keys;
        let of_maps = Content {
            handshake: Some(handshake),
            next: None,
            before: (handshake_before != handshake).then_some(handshake_before),
            chats: Some(chat),
        };
        let old = self.seen.unwrap_or(of_maps);
        let old = Content {
            handshake: old.handshake.or(of_maps.handshake),
            chats: old.chats.or(of_maps.chats),
            ..old
        };
        match step {
            Step::Create | Step::Complete => old,
            Step::Announce => Content { next: Some(new), before: None, ..old },
            Step::Use => Content {
                handshake: old.next.or(old.handshake),
                next: None,
                before: old.handshake,
                ..old
            },
        }
    }

    /// When [`Machine::tick`] or [`Machine::step`] next have something to say.
    pub fn next(&self) -> Option<Duration> {
        let leaving = self.leaving.map(|(_, until)| until);
        let step = match self.known {
            Known::Nothing | Known::Malformed => None,
            Known::Absent | Known::Incomplete => Some(Duration::ZERO),
            Known::Complete => self.due,
        };
        leaving.into_iter().chain(step).min()
    }
}
