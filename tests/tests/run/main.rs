//! Packets through the loaded programs by `BPF_PROG_TEST_RUN`, and through the same code on the host: tests that need a
//! kernel and nothing else. They are one program because the verifier takes seconds for what they load, and they share it.

mod chats;
mod conversations;
mod corpus;
mod cuts;
mod differential;
mod ends;
mod forgotten;
mod handshake;
mod heads;
mod host;
mod icmp;
mod later;
mod limits;
mod macs;
mod mend;
mod moving;
mod probes;
mod proxy;
mod pure;
mod rebind;
mod refused;
mod reuse;
mod room;
mod rows;
mod shares;
mod sources;
mod stages;
mod unfinished;
mod waiting;
