//! What a feed holds and what an operation does to it. Pure: no clock, no randomness, no I/O.

/// placeholder
#[derive(Clone, Debug)]
pub struct Entry;
/// placeholder
pub struct State;
