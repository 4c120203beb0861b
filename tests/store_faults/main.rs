//! What the embedded store does when the machine, the disk or the process fails: it loses nothing that it acknowledged,
//! or it says so.

mod crash;
mod damage;
mod disk;
mod full;
mod kill;
mod limits;
mod load;
mod sync;
