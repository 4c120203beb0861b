//! How the system schedules the threads of feeds.
//!
//! A thread that wakes usually pushes aside the one that runs. Where there are fewer cores than threads, a worker that hands
//! a feed something is pushed aside by the feed at once, and runs again only to find one answer, and to read the next
//! request: two switches a request. A feed that waits until the worker has read all that has come finds several requests,
//! and answers them in one turn. Where a core is free it runs at once as before.

/// Lets the present thread wait until whoever runs has done its turn (`SCHED_BATCH`, sched(7)), and the threads that it starts
/// from now on.
#[cfg(target_os = "linux")]
#[allow(
    unsafe_code,
    reason = "a call for which neither the standard library nor rustix has a name"
)]
pub fn give_way() -> std::io::Result<()> {
    // SAFETY: the numbers are read during the call, and may all be 0; so is the present thread.
    let result = unsafe {
        let priority: libc::sched_param = std::mem::zeroed();
        libc::sched_setscheduler(0, libc::SCHED_BATCH, &raw const priority)
    };
    match result {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

/// Other systems have no such policy.
#[cfg(not(target_os = "linux"))]
pub fn give_way() -> std::io::Result<()> {
    Ok(())
}
