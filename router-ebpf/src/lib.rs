//! Roost's data path, the part that decides: pure, `no_std`, the same code in the kernel program,
//! in `roost explain` and in the host tests.
#![no_std]

pub mod maps;
