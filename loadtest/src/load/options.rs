//! The command line of `run` and `merge`.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::Args;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::scenario::{Act, Scenario, Shape};
use super::target::Trouble;
use super::threshold::Threshold;
use super::world::REQUESTS_MAX;

/// Files that a generator has open besides.
const OTHER_FILES: u64 = 64;

/// Puts a server or a cluster that is running under load, and checks what comes
#[derive(Args, Clone, Debug)]
pub struct Run {
    /// What users do
    pub scenario: Scenario,
    /// The server, such as https://tasks.example or http://127.0.0.1:8080
    #[arg(long)]
    pub url: String,
    /// Users and their tokens, as `taskflow token --count N` writes them; absent: a few accounts are registered
    #[arg(long, value_name = "FILE")]
    pub tokens: Option<PathBuf>,
    /// Users, each with a feed [default: the scenario's, where there are so many tokens]
    #[arg(long)]
    pub users: Option<usize>,
    /// Screens that follow, of the users in turn [default: the scenario's]
    #[arg(long)]
    pub connections: Option<usize>,
    /// What users do, all together, a second [default: the scenario's]
    #[arg(long)]
    pub rate: Option<f64>,
    /// How long the load lasts [default: the scenario's]
    #[arg(long)]
    pub seconds: Option<f64>,
    /// Seconds in which the connections are made, before the load
    #[arg(long, default_value_t = 10.0, value_name = "SECONDS")]
    pub ramp: f64,
    /// Seconds after the load in which everything that is under way must come
    #[arg(long, default_value_t = 20.0, value_name = "SECONDS")]
    pub settle: f64,
    /// Addresses of this machine to connect from, in turn: each has about 28,000 ports
    #[arg(long, value_delimiter = ',', value_name = "ADDRESS,…")]
    pub source: Vec<IpAddr>,
    /// Certificates (PEM) of authorities to trust besides those that browsers trust
    #[arg(long, value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// Processes that share the load, each with users of its own
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub generators: usize,
    /// What random choices follow from
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// What the run must keep to, such as 'push_p99_ms<50' or 'reconnects_per_second_max<=100'; again for more
    #[arg(long, value_name = "FIGURE<NUMBER")]
    pub threshold: Vec<Threshold>,
    /// Milliseconds that this client may be late at the 99th percentile; beyond it the run is void
    #[arg(long, default_value_t = 20.0, value_name = "MS")]
    pub late_ms_max: f64,
    /// Where results go: NAME.json and NAME.html [default: loadtest-SCENARIO]
    #[arg(long, value_name = "NAME")]
    pub out: Option<PathBuf>,
}

/// Adds up the results of several machines that ran the same scenario at the same time
#[derive(Args, Clone, Debug)]
pub struct Merge {
    /// Results (NAME.json)
    #[arg(required = true)]
    pub files: Vec<PathBuf>,
    /// What the whole must keep to; absent: what the first file says
    #[arg(long, value_name = "FIGURE<NUMBER")]
    pub threshold: Vec<Threshold>,
    /// Where results go: NAME.json and NAME.html
    #[arg(long, default_value = "loadtest-merged", value_name = "NAME")]
    pub out: PathBuf,
}

impl Run {
    /// The scenario with what was asked for in its place, for so many users at most.
    pub fn shape(&self, users_max: usize) -> Result<Shape, Trouble> {
        let mut shape = self.scenario.shape();
        if let Some(users) = self.users.filter(|users| *users > users_max) {
            return Err(Trouble(format!(
                "There are {users_max} users and --users asks for {users}: make more tokens with taskflow token --count."
            )));
        }
        shape.connections = self.connections.unwrap_or(shape.connections);
        let users = self.users.unwrap_or(shape.users.min(users_max));
        if shape.connections == 0 || users == 0 || self.generators == 0 {
            return Err(Trouble(
                "--connections, --users and --generators are at least 1: each user has a screen.".to_owned(),
            ));
        }
        shape.users = users.min(shape.connections);
        if shape.users < self.generators {
            return Err(Trouble(format!(
                "Each generator has users of its own, and {} users are too few for {} generators: give more --users.",
                shape.users, self.generators
            )));
        }
        shape.rate = self.rate.unwrap_or(shape.rate);
        shape.seconds = self.seconds.unwrap_or(shape.seconds);
        let times = [shape.rate, shape.seconds, self.ramp, self.settle, self.late_ms_max];
        if times.iter().any(|time| !time.is_finite() || *time < 0.0) || shape.seconds < 1.0 {
            return Err(Trouble(
                "--seconds is at least 1, and --rate, --ramp, --settle and --late-ms-max are not below 0.".to_owned(),
            ));
        }
        if let Some(of) = shape.slow_of
            && shape.connections < of * shape.users
        {
            return Err(Trouble(format!(
                "One of {of} screens of each user is slow: give at least {} --connections for {} users.",
                of * shape.users,
                shape.users
            )));
        }
        Ok(shape)
    }

    /// Whether it needs people who sign in.
    pub fn signs_in(&self) -> bool {
        self.scenario.shape().mix.iter().any(|(act, _)| *act == Act::SignIn)
    }

    /// Where results go, without the extension.
    pub fn out(&self) -> PathBuf {
        let usual = || PathBuf::from(format!("loadtest-{}", self.scenario.name()));
        self.out.clone().unwrap_or_else(usual)
    }

    /// Whether this machine lets so many connections be open and have ports.
    pub fn check_machine(&self, connections: usize) -> Result<(), Trouble> {
        let each = connections.div_ceil(self.generators) as u64;
        let files = each + REQUESTS_MAX as u64 + OTHER_FILES;
        if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
            && soft < files
            && (hard < files || setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_err())
        {
            return Err(Trouble(format!(
                "{each} connections of a process need {files} open files, and {hard} are allowed: raise the limit \
                 (ulimit -n {files}), or use more --generators."
            )));
        }
        let sources = self.source.len().max(1);
        let ports = ports();
        if connections + REQUESTS_MAX > ports * sources {
            return Err(Trouble(format!(
                "{connections} connections need more local ports than {sources} address(es) of this machine have, {ports} \
                 each: give {} of them with --source.",
                (connections + REQUESTS_MAX).div_ceil(ports)
            )));
        }
        Ok(())
    }
}

/// Local ports that one address has for connections.
fn ports() -> usize {
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let ends: Vec<usize> = range.split_whitespace().filter_map(|end| end.parse().ok()).collect();
    match ends[..] {
        [first, last] if last >= first => last - first + 1,
        _ => 28_232,
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Typed {
        #[command(flatten)]
        run: Run,
    }

    fn run(arguments: &[&str]) -> Run {
        let always = ["run", "push", "--url", "http://127.0.0.1:8080"];
        Typed::parse_from(always.iter().chain(arguments)).run
    }

    #[test]
    fn what_is_not_said_is_the_scenarios() {
        let shape = run(&[]).shape(1_000).unwrap();
        assert_eq!(shape, Scenario::Push.shape());
        let shape = run(&["--rate", "7", "--connections", "20"]).shape(30).unwrap();
        assert_eq!((shape.users, shape.connections, shape.rate), (20, 20, 7.0));
    }

    fn refused(arguments: &[&str], expect: &str) {
        let Err(Trouble(sentence)) = run(arguments).shape(8) else {
            panic!("{arguments:?} is taken");
        };
        assert!(sentence.starts_with(expect), "{sentence}");
    }

    #[test]
    fn what_cannot_be_is_refused_with_what_to_do() {
        refused(&["--users", "9"], "There are 8 users and --users asks for 9");
        refused(
            &["--generators", "9"],
            "Each generator has users of its own, and 8 users",
        );
        refused(
            &["--connections", "0"],
            "--connections, --users and --generators are at least 1",
        );
        refused(&["--seconds", "0.5"], "--seconds is at least 1");
        refused(&["--rate", "NaN"], "--seconds is at least 1, and --rate");
    }

    #[test]
    fn more_connections_than_ports_need_more_addresses() {
        let Err(Trouble(sentence)) = run(&["--generators", "400"]).check_machine(200_000) else {
            panic!("200,000 connections have ports");
        };
        assert!(sentence.contains("of them with --source"), "{sentence}");
        let four: Vec<String> = (1..=8).map(|last| format!("127.0.0.{last}")).collect();
        let spread = run(&["--generators", "400", "--source", &four.join(",")]);
        assert_eq!(spread.check_machine(200_000), Ok(()));
    }
}
