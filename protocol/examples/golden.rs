//! Writes the golden files that are missing. What is there stays as it is: a change of the wire is made by hand, with a
//! new protocol version, and never by running this.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program for the terminal")]

#[path = "../tests/common/catalog.rs"]
#[allow(dead_code, reason = "the tests use the rest of it")]
mod catalog;

use std::io::{ErrorKind, Write};
use std::path::PathBuf;
use std::process::ExitCode;

fn main() -> std::io::Result<ExitCode> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("golden");
    let (mut written, mut other) = (0, 0);
    for golden in catalog::catalog() {
        std::fs::create_dir_all(root.join(golden.folder))?;
        for (encoding, end) in catalog::ENCODINGS {
            let path = root.join(golden.folder).join(format!("{}.{end}", golden.name));
            let bytes = (golden.encode)(encoding);
            match std::fs::File::create_new(&path) {
                Ok(mut file) => {
                    file.write_all(&bytes)?;
                    println!("wrote {}", path.display());
                    written += 1;
                }
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                    if std::fs::read(&path)? != bytes {
                        eprintln!("{} holds other bytes and was left alone", path.display());
                        other += 1;
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }
    println!("{written} written, {other} differ");
    Ok(if other == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
