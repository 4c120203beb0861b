//! Loss of power at any moment, on a disk that forgets what was not synced.

use std::sync::Arc;

use taskflow::store::embedded::{self, Options};

use crate::disk::{Crash, Disk, VFS, lay_down};
use crate::load::{Acknowledged, Plan, Verdict, busy, examine, run};

/// Runs a load on a watched disk.
pub async fn recorded(plan: Plan) -> (Arc<Disk>, Acknowledged) {
    let folder = tempfile::tempdir().unwrap();
    let disk = Disk::watch(folder.path());
    let store = embedded::open(
        folder.path(),
        Options {
            vfs: Some(VFS),
            ..busy()
        },
        Arc::new(()),
    )
    .unwrap();
    let clock = disk.clone();
    let acknowledged = run(&store, plan, move || clock.now(), |_| {}).await;
    store.shutdown();
    (disk, acknowledged)
}

#[tokio::test]
async fn after_a_loss_of_power_at_any_moment_everything_acknowledged_is_there() {
    let mut crashes = 0;
    for seed in 0..4 {
        let (disk, acknowledged) = recorded(Plan { seed, rounds: 25 }).await;
        let steps = disk.now();
        assert!(steps > 500, "only {steps} steps");
        // From the first moment at which the store was made: before it there is nothing to lose.
        for at in (0..steps).step_by(steps / 60) {
            let how = match crashes % 4 {
                0 => Crash::NothingMore,
                1 => Crash::Killed,
                _ => Crash::PowerLost(crashes as u64),
            };
            let folder = tempfile::tempdir().unwrap();
            lay_down(&disk.crash(at, how), folder.path());
            let verdict = examine(folder.path(), &acknowledged.until(at)).await;
            assert!(
                matches!(verdict, Verdict::Whole),
                "seed {seed}, step {at} of {steps}, {how:?}: {verdict:?}"
            );
            crashes += 1;
        }
    }
    assert!(crashes >= 240, "only {crashes} crashes");
}
