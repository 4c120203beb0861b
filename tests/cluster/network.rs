//! Cuts between processes on loopback, as in a network whose switches fail: packets vanish, and nobody is told.

use std::process::Command;

/// Whether there is a network of our own to make cuts in: see `scripts/apart`.
pub fn is_ours() -> bool {
    std::env::var("APART").is_ok_and(|apart| apart == "inside")
}

/// Packets that these rules select vanish. Ends with this.
pub struct Cut(Vec<String>);

impl Cut {
    /// By rules of `ip rule`, such as `to 127.0.0.3 ipproto tcp dport 7000`.
    pub fn of(rules: impl IntoIterator<Item = String>) -> Self {
        let mut cut = Self(Vec::new());
        for rule in rules {
            ip_rule("add", &rule);
            cut.0.push(rule);
        }
        cut
    }
}

impl Drop for Cut {
    fn drop(&mut self) {
        for rule in self.0.drain(..) {
            ip_rule("del", &rule);
        }
    }
}

fn ip_rule(verb: &str, rule: &str) {
    let line = format!("rule {verb} prio 10 {rule} lookup 66");
    let done = Command::new("ip").args(line.split(' ')).status();
    assert!(done.is_ok_and(|status| status.success()), "ip {line}");
}
