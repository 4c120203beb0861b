//! A process whose clock is wrong: a library that is loaded before the system's answers for the time of day.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use crate::support::server::Program;

/// Asks the kernel, and adds CLOCK_AHEAD_S to the time of day. What has no date, as timers, stays right.
const SOURCE: &str = r#"
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t clock, struct timespec *now) {
    static long ahead;
    static int known;
    if (!known) {
        const char *text = getenv("CLOCK_AHEAD_S");
        ahead = text ? atol(text) : 0;
        known = 1;
    }
    int failed = syscall(SYS_clock_gettime, clock, now);
    if (!failed && clock == CLOCK_REALTIME)
        now->tv_sec += ahead;
    return failed;
}
"#;

/// The library, made by the compiler that the build needs anyway.
fn library() -> &'static PathBuf {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
        let (source, library) = (folder.join("clock.c"), folder.join("clock.so"));
        std::fs::write(&source, SOURCE).unwrap();
        let mut compiler = Command::new("cc");
        compiler
            .args(["-shared", "-fPIC", "-O1", "-o"])
            .arg(&library)
            .arg(&source);
        assert!(compiler.status().unwrap().success());
        library
    })
}

/// The binary under test, with a clock that is ahead by so many seconds, or behind.
pub fn ahead(seconds: i64) -> Program {
    let mut program = Program::default();
    if seconds != 0 {
        program.environment = vec![
            ("LD_PRELOAD", library().display().to_string()),
            ("CLOCK_AHEAD_S", seconds.to_string()),
        ];
    }
    program
}
