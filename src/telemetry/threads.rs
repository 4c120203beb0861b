//! How late the timers of a thread ring.

use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval};

use super::instruments::Histogram;

/// Ten samples a second see a stall of a tenth of it, and cost an idle thread nothing that can be measured.
const EVERY: Duration = Duration::from_millis(100);

/// Measures it on the present thread, for ever.
pub async fn thread_delay(delays: Histogram) {
    let mut tick = interval(EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let due = tick.tick().await;
        delays.observe(Instant::now().saturating_duration_since(due));
    }
}
