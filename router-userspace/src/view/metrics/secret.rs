//! The Secret with the cluster's keys.

use super::{Facts, Family};

pub(super) fn families(facts: &Facts<'_>) -> Vec<Family> {
    let mut read = Family::gauge(
        "secret_read",
        "1 if the keys in use are those of the Secret, 0 if it is missing, incomplete or wrong.",
        &[],
    );
    let mut rotating = Family::gauge(
        "secret_rotating",
        "1 while a rotation of the handshake key is half done: the next key is accepted, not used yet.",
        &[],
    );
    let mut rotated_at = Family::gauge(
        "secret_last_rotation_timestamp_seconds",
        "When the last step of a rotation was, as the Secret says.",
        &[],
    );
    let mut writes =
        Family::counter("secret_writes", "What this daemon has written into the Secret.", &[]);
    let mut errors = Family::counter(
        "secret_write_errors",
        "Writes into the Secret that failed, but for those that another daemon was quicker with.",
        &[],
    );
    if let Some(secret) = facts.state.secret.as_ref().map(|secret| secret.get()) {
        read.add([], secret.is_read.into());
        rotating.add([], secret.is_rotating.into());
        if let Some(at) = secret.rotated_at {
            rotated_at.add_seconds([], at as f64);
        }
        writes.add([], secret.writes);
        errors.add([], secret.errors);
    }
    vec![read, rotating, rotated_at, writes, errors]
}
