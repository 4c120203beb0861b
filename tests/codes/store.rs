//! The codes that need a store in trouble.

use crate::Seen;

pub fn internal() -> Vec<Seen> {
    Vec::new()
}

pub fn feed_unavailable() -> Vec<Seen> {
    Vec::new()
}

pub fn store_full() -> Vec<Seen> {
    Vec::new()
}

pub fn store_unavailable() -> Vec<Seen> {
    Vec::new()
}

pub fn outcome_unknown() -> Vec<Seen> {
    Vec::new()
}

pub fn feed_damaged() -> Vec<Seen> {
    Vec::new()
}
