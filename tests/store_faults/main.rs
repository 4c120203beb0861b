//! What the embedded store does when the machine, the disk or the process fails: it loses nothing that it acknowledged,
//! or it says so.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test ends where what it needs fails"
)]

mod crash;
mod damage;
mod disk;
mod full;
mod kill;
mod limits;
mod load;
mod sync;
