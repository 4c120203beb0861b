//! What one generator does, and what it says about it: a line of JSON each.

use std::net::IpAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::scenario::Scenario;
use super::tally::{Second, Tally};
use super::users::{Account, User};

/// What a generator is told first.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Plan {
    /// The table's line.
    pub scenario: Scenario,
    /// Where to.
    pub url: String,
    /// More authorities to trust.
    pub ca: Option<PathBuf>,
    /// Local addresses to take turns among.
    pub sources: Vec<IpAddr>,
    /// Its own users: no other generator has them.
    pub users: Vec<User>,
    /// Who can sign in; only where that is part of the scenario.
    pub accounts: Vec<Account>,
    /// Its own screens.
    pub connections: usize,
    /// Its own acts a second.
    pub rate: f64,
    /// How long the load lasts.
    pub seconds: f64,
    /// How long connecting takes.
    pub ramp: f64,
    /// How long is waited afterwards for what is under way.
    pub settle: f64,
    /// What random choices follow from.
    pub seed: u64,
}

/// What a generator is told then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// The load begins at this time of the machine's clock.
    Begin(u64),
}

/// What a generator says.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Line {
    /// So many screens are current, on the way to all of them.
    Connecting(u64),
    /// All of them are.
    Ready,
    /// A second of the load is over.
    Second(Second),
    /// The load is over, and what is under way is waited for and checked.
    Checking,
    /// The end.
    Report(Report),
    /// It cannot go on; nothing was measured.
    Trouble(String),
}

/// What one generator found.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// What it counted and timed.
    pub tally: Tally,
    /// When its load began, in seconds of Unix time.
    pub began: f64,
    /// CPU of its thread during the load, in percent of a core.
    pub cpu_percent: f64,
    /// What could not be checked, in sentences.
    pub unchecked: Vec<String>,
    /// The load was ended before its time.
    pub interrupted: bool,
}
