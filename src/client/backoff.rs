//! When to connect again, and whether to.
//!
//! Architecture invariant: decides, and waits for nothing.

use taskflow_protocol::Code;
use taskflow_protocol::codes::Action;

/// First wait, in milliseconds: a restarting server needs about that long.
const WAIT_FIRST_MS: u64 = 500;
/// Longest wait, in milliseconds. A person looks at the screen, and a dial that is refused costs next to nothing; a server
/// that has too many clients asks for longer waits itself.
const WAIT_MAX_MS: u64 = 10_000;
/// Tokens that may be refused one after the other before the person has to sign in: the one we had, and a new one.
const SIGN_IN_TRIES_MAX: u32 = 2;
/// Snapshots that may be asked for one after the other. When they do not help, the server or this program is wrong.
const RESYNC_TRIES_MAX: u32 = 3;

/// Why there is no connection.
#[derive(Clone, Debug, PartialEq)]
pub struct Failure {
    /// What to do.
    pub action: Action,
    /// For the person, a sentence.
    pub message: String,
    /// The server asked to wait at least this long, in milliseconds, and then a random time up to the second.
    pub wait: Option<(u32, u32)>,
}

impl Failure {
    /// Of the network: nothing says that it will not work the next time.
    pub fn network(message: impl Into<String>) -> Self {
        Self {
            action: Action::Reconnect,
            message: message.into(),
            wait: None,
        }
    }

    /// With a number of the code table.
    pub fn code(code: Code, message: impl Into<String>) -> Self {
        Self {
            action: code.action(),
            message: message.into(),
            wait: code.retry_after_ms().map(|after| (after, after)),
        }
    }

    /// The server closed with this code (RFC 6455, section 7.4, and the code table).
    pub fn closed(close_code: u16, reason: &str) -> Self {
        let code = Code::ALL.iter().find(|code| code.close_code() == Some(close_code));
        match code {
            Some(code) => Self::code(*code, code.sentence()),
            None if reason.is_empty() => Self::network(format!("The server closed the connection ({close_code}).")),
            None => Self::network(format!("The server closed the connection ({close_code}: {reason}).")),
        }
    }
}

/// What to do about a failure.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Connect again after so many milliseconds.
    Wait {
        /// Milliseconds.
        ms: u64,
        /// Forget the cursor first.
        resync: bool,
    },
    /// Get a new access token, then connect.
    Refresh,
    /// A person has to do something; the sentence says what.
    Stop(String),
}

/// Remembers how often it failed.
#[derive(Clone, Debug, Default)]
pub struct Backoff {
    failures: u32,
    sign_in_tries: u32,
    resync_tries: u32,
}

impl Backoff {
    /// The server took the token.
    pub fn welcomed(&mut self) {
        self.sign_in_tries = 0;
    }

    /// The connection held for a while: the next failure is a new story.
    pub fn held(&mut self) {
        *self = Self::default();
    }

    /// Decides. `random` is between 0 and 1.
    pub fn step(&mut self, failure: &Failure, random: f64) -> Step {
        let mut resync = false;
        match failure.action {
            Action::Retry | Action::Reconnect => {}
            Action::Resync => {
                self.resync_tries += 1;
                if self.resync_tries > RESYNC_TRIES_MAX {
                    return Step::Stop(failure.message.clone());
                }
                resync = true;
            }
            Action::SignIn => {
                self.sign_in_tries += 1;
                if self.sign_in_tries >= SIGN_IN_TRIES_MAX {
                    return Step::Stop(format!("{} Use `taskflow login`.", failure.message));
                }
                return Step::Refresh;
            }
            Action::Fix | Action::GiveUp => return Step::Stop(failure.message.clone()),
        }
        let exponential = WAIT_FIRST_MS
            .saturating_mul(1 << self.failures.min(16))
            .min(WAIT_MAX_MS);
        self.failures += 1;
        let (least, window) = match failure.wait {
            Some((after, window)) => (u64::from(after), u64::from(window)),
            None => (0, 0),
        };
        // Half of it is certain, half is chance: neither all at once nor at once.
        let (least, window) = (least.max(exponential / 2), window.max(exponential / 2));
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "between 0 and the window"
        )]
        let jitter = (window as f64 * random.clamp(0.0, 1.0)) as u64;
        Step::Wait {
            ms: least + jitter,
            resync,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_from_half_a_second_to_ten_seconds_and_never_beyond() {
        let mut backoff = Backoff::default();
        let failure = Failure::network("no route");
        let waits: Vec<u64> = (0..9)
            .map(|_| match backoff.step(&failure, 1.0) {
                Step::Wait { ms, resync: false } => ms,
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(waits, [500, 1000, 2000, 4000, 8000, 10000, 10000, 10000, 10000]);
    }

    #[test]
    fn the_jitter_is_half_of_the_wait() {
        let failure = Failure::network("no route");
        assert_eq!(
            Backoff::default().step(&failure, 0.0),
            Step::Wait { ms: 250, resync: false }
        );
        assert_eq!(
            Backoff::default().step(&failure, 0.5),
            Step::Wait { ms: 375, resync: false }
        );
    }

    #[test]
    fn what_the_server_asks_for_is_waited_at_least() {
        let failure = Failure {
            wait: Some((5_000, 10_000)),
            ..Failure::network("restarting")
        };
        assert_eq!(
            Backoff::default().step(&failure, 0.0),
            Step::Wait {
                ms: 5_000,
                resync: false
            }
        );
        assert_eq!(
            Backoff::default().step(&failure, 1.0),
            Step::Wait {
                ms: 15_000,
                resync: false
            }
        );
    }

    #[test]
    fn a_refused_token_is_replaced_once_and_then_a_person_signs_in() {
        let mut backoff = Backoff::default();
        let failure = Failure::code(Code::TokenExpired, Code::TokenExpired.sentence());
        assert_eq!(backoff.step(&failure, 0.0), Step::Refresh);
        assert!(matches!(backoff.step(&failure, 0.0), Step::Stop(sentence) if sentence.contains("taskflow login")));
        backoff.welcomed();
        assert_eq!(backoff.step(&failure, 0.0), Step::Refresh);
    }

    #[test]
    fn a_resync_is_tried_three_times_in_a_row() {
        let mut backoff = Backoff::default();
        let failure = Failure::code(Code::CursorInvalid, "no cursor");
        for _ in 0..3 {
            assert!(matches!(backoff.step(&failure, 0.0), Step::Wait { resync: true, .. }));
        }
        assert_eq!(backoff.step(&failure, 0.0), Step::Stop("no cursor".to_owned()));
    }

    #[test]
    fn every_close_code_of_the_table_leads_to_the_action_of_its_code() {
        for code in Code::ALL {
            let Some(close) = code.close_code() else { continue };
            assert_eq!(Failure::closed(close, "").action, code.action(), "{code}");
        }
        assert_eq!(Failure::closed(1001, "").action, Action::Reconnect);
        assert_eq!(Failure::closed(1006, "").action, Action::Reconnect);
    }
}
