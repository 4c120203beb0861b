//! `taskflow token`: access tokens minted with the server's own key.

use std::io::Write as _;
use std::path::PathBuf;

use clap::Args;
use sha2::{Digest, Sha256};
use taskflow_actors::ports::Clock as _;
use taskflow_protocol::UserId;

use crate::auth::{Keys, Tokens};
use crate::clock::SystemClock;

/// What to mint.
#[derive(Args)]
pub struct Arguments {
    /// The server's data folder: its key is there
    #[arg(long, default_value = "./data")]
    data_dir: PathBuf,
    /// Users to mint a token for
    #[arg(long, value_delimiter = ',')]
    user: Vec<UserId>,
    /// Mint tokens for so many made-up users
    #[arg(long, default_value_t = 0)]
    count: u32,
    /// Made-up users of the same seed are the same users
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// How long the tokens are good for
    #[arg(long, default_value_t = 3600)]
    seconds: i64,
}

/// Prints a line for each user: the id, a space, the token. The users' feeds are made when they first connect.
pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    anyhow::ensure!(
        !arguments.user.is_empty() || arguments.count > 0,
        "name a --user, or say how many with --count"
    );
    let keys = Keys::open(&arguments.data_dir)?;
    let now = SystemClock.now_ms();
    let key = keys.at(now);
    let made_up = (0..arguments.count).map(|index| made_up_user(arguments.seed, index));
    let mut output = std::io::BufWriter::new(std::io::stdout().lock());
    for user in arguments.user.iter().copied().chain(made_up) {
        writeln!(
            output,
            "{user} {}",
            Tokens::mint_for_operator(key, user, now, arguments.seconds)
        )?;
    }
    output.flush()?;
    Ok(())
}

fn made_up_user(seed: u64, index: u32) -> UserId {
    let digest = Sha256::new()
        .chain_update(seed.to_be_bytes())
        .chain_update(index.to_be_bytes())
        .finalize();
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest[..16]);
    // Version 8: made by a rule of our own (RFC 9562, section 5.8).
    UserId(uuid::Builder::from_custom_bytes(bytes).into_uuid())
}
