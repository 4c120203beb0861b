//! The allocator, and how it gives memory back.
//!
//! mimalloc keeps for each thread what was freed, also what *other* threads freed of it, until that thread allocates
//! again. A thread that fell idle after a busy time would keep its peak for ever. So every long-lived thread collects
//! now and then ([`collect`]); a thread that has nothing to collect returns at once.
//!
//! A page (64 KiB of blocks of one size, 512 KiB of large ones) goes back as a whole, when its last block is freed, and each
//! thread has its own. So a small block that stays keeps as much as its page ever held beside it: that is most of what the
//! server has at rest, and why that grows for a while. What stays is best made where other such things are.

use std::time::Duration;

use libmimalloc_sys as mi;

/// How often a thread gives back what it does not use. A peak may stay for so long; oftener would only cost.
pub const COLLECT_EVERY: Duration = Duration::from_secs(5);

/// Position of `page_full_retain` among mimalloc's options, which the binding does not name.
const PAGE_FULL_RETAIN: mi::mi_option_t = 36;
// Another number of options: look whether this one is where it was.
const _: () = assert!(mi::_mi_option_last == 47);

/// Sets both allocators for small blocks that stay among many that go. To be called before any thread starts.
///
/// - A thread lets go of a page (64 KiB of blocks of one size) as soon as it is full. Whoever frees the last of its blocks,
///   on any thread, then frees the page.
/// - The C library, which only SQLite uses here, has one arena instead of one a thread: each was as large as the work of
///   its thread had ever been, 12 MB in all.
#[allow(unsafe_code, reason = "calls that only set numbers (mimalloc.h, mallopt(3))")]
pub fn configure() {
    // SAFETY: the option exists (see the assertion above), and takes any number.
    unsafe { mi::mi_option_set(PAGE_FULL_RETAIN, 0) };
    #[cfg(target_env = "gnu")]
    // SAFETY: `mallopt` has no preconditions.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1)
    };
}

/// Gives the present thread's free memory back to the system.
#[allow(
    unsafe_code,
    reason = "a call without arguments that may be made at any time (mimalloc.h, mi_collect)"
)]
pub fn collect() {
    // SAFETY: `mi_collect` has no preconditions.
    unsafe { mi::mi_collect(true) };
}

/// The same, now and then, for ever: to be spawned on a long-lived thread.
pub async fn collect_always() {
    let mut tick = tokio::time::interval(COLLECT_EVERY);
    loop {
        tick.tick().await;
        collect();
    }
}

/// The same as [`collect`] for a thread of the store: SQLite is C and has its memory from the C library, which keeps the largest that
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_option_is_where_it_is_thought_to_be() {
        let get = |option| {
            // SAFETY: as above.
            #[allow(unsafe_code, reason = "a call that only reads a number")]
            unsafe {
                mi::mi_option_get(option)
            }
        };
        // Its default; its neighbours have others.
        assert_eq!([-1, 0, 1].map(|step| get(PAGE_FULL_RETAIN + step)), [0, 2, 4]);
        configure();
        assert_eq!(get(PAGE_FULL_RETAIN), 0);
    }

    /// The feature `no_thp`. The flag is there or not whether the system has huge pages to give or not (proc_pid_smaps(5)).
    #[cfg(target_os = "linux")]
    #[test]
    fn no_huge_pages_are_asked_for() {
        // SAFETY: any size may be asked for, and null is fine below.
        #[allow(unsafe_code, reason = "a block that is only looked at")]
        let block = unsafe { mi::mi_malloc(100) }.addr();
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mut lines = maps.lines();
        let is_around = |line: &str| {
            let (from, rest) = line.split_once('-')?;
            let upto = rest.split_once(' ')?.0;
            let [from, upto] = [from, upto].map(|end| usize::from_str_radix(end, 16));
            Some((from.ok()?..upto.ok()?).contains(&block))
        };
        assert!(lines.any(|line| is_around(line) == Some(true)));
        let flags = lines.find_map(|line| line.strip_prefix("VmFlags:")).unwrap();
        assert!(!flags.split_whitespace().any(|flag| flag == "hg"), "{flags}");
    }
}
