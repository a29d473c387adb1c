//! How long a slot table takes.

use std::hint::black_box;
use std::time::Instant;

use roost_place::slots::{Candidate, build};

use super::measure::median;

/// Builds of each table; the median counts.
const BUILDS: usize = 15;

/// Milliseconds to build the table of a service with so many replicas of equal weight.
pub fn build_ms(replicas: usize) -> f64 {
    let names: Vec<_> = (0..replicas).map(|n| format!("chat-{n}")).collect();
    let candidates: Vec<_> =
        names.iter().map(|identity| Candidate { identity, weight: 1 }).collect();
    let build_once = || {
        let start = Instant::now();
        black_box(build(black_box(&candidates)));
        start.elapsed().as_secs_f64() * 1e3
    };
    // The first one in a process hashes the slots, too.
    build_once();
    let mut times: Vec<_> = (0..BUILDS).map(|_| build_once()).collect();
    median(&mut times)
}
