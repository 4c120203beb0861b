//! The allocator, and how it gives memory back.
//!
//! mimalloc keeps for each thread what was freed, also what *other* threads freed of it, until that thread allocates
//! again. A thread that fell idle after a busy time would keep its peak for ever. So every long-lived thread collects
//! now and then ([`collect`]); a thread that has nothing to collect returns at once.

use std::time::Duration;

/// How often a thread gives back what it does not use. A peak may stay for so long; oftener would only cost.
pub const COLLECT_EVERY: Duration = Duration::from_secs(5);

/// Gives the present thread's free memory back to the system.
#[allow(
    unsafe_code,
    reason = "a call without arguments that may be made at any time (mimalloc.h, mi_collect)"
)]
pub fn collect() {
    // SAFETY: `mi_collect` has no preconditions.
    unsafe { libmimalloc_sys::mi_collect(true) };
}

/// The same for a thread of the store: SQLite is C and has its memory from the C library, which keeps the largest that
/// was ever freed, times two, for each of its arenas.
#[allow(unsafe_code, reason = "a call that may be made at any time (malloc_trim(3))")]
pub fn collect_of_store() {
    collect();
    #[cfg(target_env = "gnu")]
    // SAFETY: `malloc_trim` has no preconditions.
    unsafe {
        libc::malloc_trim(0)
    };
}
