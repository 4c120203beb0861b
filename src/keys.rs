//! `taskflow keys`: the keys that sign access tokens.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use taskflow_actors::ports::Clock as _;
use taskflow_protocol::values::UnixMs;

use crate::auth::Keys;
use crate::clock::SystemClock;

/// What to do with the keys.
#[derive(Subcommand)]
pub enum Action {
    /// Every key, and from when on it signs
    List(Folder),
    /// Make a key that signs from a while later on, when every node has read it and can check its tokens
    Rotate {
        /// Where the keys are
        #[command(flatten)]
        folder: Folder,
        /// Seconds until it signs. Nodes read it within 10 s; whoever checks tokens by the key set may keep that for 300 s
        #[arg(long = "in", value_name = "SECONDS", default_value_t = 600)]
        after: u32,
    },
    /// Remove a key that signs no more: what it signed is refused within 10 s
    Remove {
        /// Where the keys are
        #[command(flatten)]
        folder: Folder,
        /// Its id, as `taskflow keys list` shows it
        // One in 64 begins with a hyphen.
        #[arg(allow_hyphen_values = true)]
        id: String,
    },
}

/// Where the keys are.
#[derive(Args)]
pub struct Folder {
    /// The server's data folder (or its key_dir): the keys are there
    #[arg(long, default_value = "./data")]
    data_dir: PathBuf,
}

/// Does it, and says what.
pub fn run(action: &Action) -> anyhow::Result<String> {
    let now = SystemClock.now_ms();
    match action {
        Action::List(Folder { data_dir }) => Ok(list(&Keys::open(data_dir)?, now)),
        Action::Rotate {
            folder: Folder { data_dir },
            after,
        } => rotate(data_dir, now, *after),
        Action::Remove {
            folder: Folder { data_dir },
            id,
        } => remove(data_dir, now, id),
    }
}

fn rotate(data_dir: &Path, now: UnixMs, after: u32) -> anyhow::Result<String> {
    let before = Keys::open(data_dir)?;
    if let Some((from, key)) = before.iter().find(|(from, _)| *from > now) {
        anyhow::bail!(
            "the key {} is about to sign in {} s: wait for it, or remove it",
            key.id,
            (from - now + 999) / 1_000
        );
    }
    let from = now + i64::from(after) * 1_000;
    Keys::add(data_dir, from)?;
    let keys = Keys::open(data_dir)?;
    Ok(format!(
        "{}The new key signs in {after} s; until then the present one does. Nobody is signed out. Remove the old one when the \
         tokens that it signed have expired.\n",
        list(&keys, now)
    ))
}

fn remove(data_dir: &Path, now: UnixMs, id: &str) -> anyhow::Result<String> {
    let keys = Keys::open(data_dir)?;
    anyhow::ensure!(
        keys.at(now).id != id,
        "the key {id} is the one that signs: make another first (taskflow keys rotate), or everybody would be signed out"
    );
    anyhow::ensure!(Keys::remove(data_dir, id)?, "there is no key {id}");
    Ok(list(&Keys::open(data_dir)?, now))
}

fn list(keys: &Keys, now: UnixMs) -> String {
    let signing = &keys.at(now).id;
    let line = |(from, key): (UnixMs, &crate::auth::Key)| {
        let state = if key.id == *signing {
            "signs".to_owned()
        } else if from > now {
            format!("signs in {} s", (from - now + 999) / 1_000)
        } else {
            "checks only".to_owned()
        };
        format!("{}  {state}\n", key.id)
    };
    keys.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(clap::Parser)]
    struct Typed {
        #[command(subcommand)]
        action: Action,
    }

    #[test]
    fn an_id_that_begins_with_a_hyphen_is_an_id() {
        use clap::Parser as _;
        for typed in [
            ["keys", "remove", "-nQ_0", "--data-dir=there"],
            ["keys", "remove", "--data-dir=there", "-nQ_0"],
        ] {
            let Ok(Typed {
                action: Action::Remove { folder, id },
            }) = Typed::try_parse_from(typed)
            else {
                panic!("{typed:?}")
            };
            assert_eq!((folder.data_dir.as_path(), &*id), (Path::new("there"), "-nQ_0"));
        }
    }

    const NOW: UnixMs = 1_800_000_000_000;

    #[test]
    fn a_key_is_replaced_without_a_moment_without_one() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path();
        assert!(rotate(path, NOW, 60).is_err(), "there is none to replace");
        let first = Keys::open_or_create(path).expect("made").at(NOW).id.clone();
        let said = rotate(path, NOW, 60).expect("made");
        assert!(
            said.contains(&format!("{first}  signs\n")) && said.contains("  signs in 60 s\n"),
            "{said}"
        );
        let again = rotate(path, NOW, 60).expect_err("one is on its way").to_string();
        assert!(again.contains("is about to sign in 60 s"), "{again}");
        let refused = remove(path, NOW, &first).expect_err("it signs").to_string();
        assert!(refused.contains("is the one that signs"), "{refused}");
        let keys = Keys::open(path).expect("read");
        let said = list(&keys, NOW + 60_000);
        assert!(said.contains(&format!("{first}  checks only\n")), "{said}");
        let said = remove(path, NOW + 60_000, &first).expect("removed");
        assert!(!said.contains(&first) && said.ends_with("  signs\n"), "{said}");
        let unknown = remove(path, NOW, &first).expect_err("it is gone").to_string();
        assert_eq!(unknown, format!("there is no key {first}"));
    }
}
