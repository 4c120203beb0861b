//! What a feed holds and what an operation does to it. Pure: no clock, no randomness, no I/O.
//!
//! A feed's life: [`birth`] makes its first entry; a [`Draft`] judges operations into entries; [`codec`] gives them their
//! stored form; once they are durable, [`State::apply`] takes them in.
//!
//! Where a rule is:
//!
//! | about | file |
//! | --- | --- |
//! | one operation, one entry; batches; base versions | `judge/mod.rs` |
//! | tasks: status, parents, moves, the bin | `judge/task.rs`, `judge/parent.rs` |
//! | lists and the inbox | `judge/list.rs` |
//! | labels | `judge/label.rs` |
//! | settings | `judge/settings.rs` |
//! | what a text, colour or number may be | `judge/value.rs` |
//! | dates, times, zones, locales | `due.rs` |
//! | order of rows | `judge/place.rs`, `rank.rs` |
//! | undo | `judge/undo.rs` |
//! | how many rows a feed may hold | `judge/overlay.rs` |
//! | what is counted for the charts | `activity.rs` |
//! | filters, search, order, counts | `find/` |
//!
//! Architecture invariant: commands are judged as wire types and never stored; rows, entries and changes are types of
//! this module with a stored form of their own. An entry holds results: applying it needs no rule, clock or zone.

mod activity;
mod birth;
pub mod codec;
pub mod due;
mod entry;
mod fields;
pub mod find;
mod judge;
pub mod rank;
mod row;
mod state;

pub use activity::{Activity, Quarter};
pub use birth::birth;
pub use codec::{CodecError, operation_hash};
pub use entry::{Change, Entry, LabelSet, ListSet, TaskPut, TaskSet};
pub use fields::{LabelChange, ListChange, SettingsChange, TaskChange, Was};
pub use judge::{Draft, Refusal};
pub use row::{Label, List, Settings, Stamp, Task};
pub use state::{Counts, State};

#[cfg(test)]
mod tests;
