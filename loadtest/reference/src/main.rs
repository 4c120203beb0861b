//! Reference servers, to measure TaskFlow beside: they accept WebSockets and push bytes to them, and do nothing else.
//!
//! | stack | what it is | sign-in | heartbeat |
//! | --- | --- | --- | --- |
//! | `r` | a bare tokio loop: shared frames, one `write` a connection, no actor. The floor | none | none |
//! | `r-jwt` | the same | token at the upgrade, a registry of users | 25 s, one timer a worker |
//! | `e` | actix-http's upgrade taken over whole, the floor's loop, an actor a user | as `r-jwt` | as `r-jwt` |
//! | `a` | actix-web-actors: an actor a connection | as `r-jwt` | 25 s, a timer a connection |
//!
//! All put the same bytes on the wire. What the floor leaves out (parsing what clients send, above all) is what makes it
//! the floor.

mod connection;
mod control;
mod floor;
mod frame;
mod hub;
mod token;
mod upgrade;
mod web_actors;

use std::net::SocketAddr;
use std::sync::Arc;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::hub::{Hub, Policy};

#[derive(Parser)]
#[command(about = "WebSocket servers that do nothing but push")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Accepts WebSockets at /ws until it is killed.
    Serve(Serve),
    /// Prints `user token`, a line a user.
    Token {
        /// Users 0 to this, exclusive.
        #[arg(long)]
        count: u64,
        /// How long the tokens are valid.
        #[arg(long, default_value_t = 86_400)]
        seconds: u64,
    },
}

#[derive(Args)]
struct Serve {
    /// How connections are held.
    #[arg(long, value_enum)]
    stack: Stack,
    /// Where clients connect.
    #[arg(long)]
    listen: SocketAddr,
    /// Where the load tool says what to push; see `control`.
    #[arg(long)]
    control: SocketAddr,
    /// Threads that hold connections; absent: one a core that this process may run on.
    #[arg(long)]
    workers: Option<usize>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Stack {
    R,
    RJwt,
    E,
    A,
}

impl Stack {
    fn policy(self) -> Policy {
        Policy {
            sign_in: self != Stack::R,
            heartbeat_seconds: match self {
                Stack::R => None,
                Stack::RJwt | Stack::E | Stack::A => Some(25),
            },
            // The floor writes from the publishing thread: nothing is cheaper. Its rival with actors has each worker
            // serve its own connections, because an actor lives on one thread.
            fan_out_by_worker: self == Stack::E,
        }
    }
}

fn main() -> std::io::Result<()> {
    match Arguments::parse().command {
        Command::Token { count, seconds } => {
            for user in 0..count {
                println!("{user} {}", token::mint(user, seconds));
            }
            Ok(())
        }
        Command::Serve(serve) => {
            let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
            let workers = serve.workers.unwrap_or(cores);
            let hub = Arc::new(Hub::new(serve.stack.policy()));
            control::start(serve.control, hub.clone())?;
            match serve.stack {
                Stack::R | Stack::RJwt => floor::run(serve.listen, workers, hub),
                Stack::E => upgrade::run(serve.listen, workers, hub),
                Stack::A => web_actors::run(serve.listen, workers, hub),
            }
        }
    }
}
