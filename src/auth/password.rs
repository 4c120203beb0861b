//! Passwords: Argon2id on blocking threads, few at a time.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};

use argon2::password_hash::{PasswordHash, PasswordHasher, PasswordVerifier, SaltString};
use argon2::{Algorithm, Argon2, Params, Version};
use taskflow_protocol::Code;
use tokio::sync::{Semaphore, oneshot};

/// Shortest password, in characters (NIST SP 800-63B, 5.1.1.2).
pub const PASSWORD_CHARACTERS_MIN: usize = 8;
/// Longest password, in characters: longer than any passphrase; hashing reads all of it.
pub const PASSWORD_CHARACTERS_MAX: usize = 256;

/// What whoever guesses tries first, in lower case (OWASP ASVS 5.0, 6.2.4: 3,000 of those that are long enough).
const COMMON: &str = include_str!("common_passwords.txt");

/// Memory of one hash, in KiB; passes; lanes. The OWASP Password Storage Cheat Sheet's first choice for Argon2id.
const MEMORY_KIB: u32 = 19 * 1024;
const PASSES: u32 = 2;
const LANES: u32 = 1;

/// Hashes under way at once.
///
/// Each takes 19 MiB and a core for some 25 ms. Two leave the server's other work its share of a small machine.
const HASHES_MAX: usize = 2;

/// Hashes that wait.
///
/// At two in 25 ms the last of 64 waits for a second; on a single core that others fill as well, for three (scenario
/// `front-door` of the load tests): within any client's patience. Beyond it `sign_in_busy`.
const WAITING_MAX: usize = 64;

/// How much the threads that hash give way to all others (nice, 0 to 19): a storm of sign-ins slows sign-ins, not pushes.
const NICE: i32 = 19;

/// A hash of no password, at the price of every other: what an unknown address is checked against.
const NOBODY: &str = "$argon2id$v=19$m=19456,t=2,p=1$bm9ib2R5IGhhcyB0aGlz$Z5f8YQ3TqD1u4mO0kJ7xw2cVbNn6sRhLpEaUoIyKtGA";

/// Hashes and checks passwords. Cheap to clone.
#[derive(Clone)]
pub struct Passwords(Arc<Inner>);

struct Inner {
    argon2: Argon2<'static>,
    /// To the threads that hash: as many as hashes may run, so that none waits there.
    jobs: mpsc::Sender<Job>,
    running: Arc<Semaphore>,
    running_max: usize,
    waiting: AtomicUsize,
    waiting_max: usize,
}

type Job = Box<dyn FnOnce() + Send>;

/// Does what comes, until nobody is left to send anything.
fn work(jobs: &Mutex<mpsc::Receiver<Job>>) {
    if let Err(error) = rustix::process::setpriority_process(Some(rustix::thread::gettid()), NICE) {
        tracing::warn!(%error, "the threads that hash passwords do not give way to others");
    }
    loop {
        let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = job else { return };
        // Whoever waits finds that there is no answer; the thread goes on.
        let _ = catch_unwind(AssertUnwindSafe(job));
    }
}

impl Default for Passwords {
    fn default() -> Self {
        Self::with_limits(HASHES_MAX, WAITING_MAX)
    }
}

impl Passwords {
    fn with_limits(running_max: usize, waiting_max: usize) -> Self {
        let params = Params::new(MEMORY_KIB, PASSES, LANES, None).expect("the parameters are in Argon2's range");
        let (jobs, waiting) = mpsc::channel::<Job>();
        let waiting = Arc::new(Mutex::new(waiting));
        for _ in 0..running_max {
            let waiting = waiting.clone();
            let thread = std::thread::Builder::new().name("passwords".to_owned());
            thread.spawn(move || work(&waiting)).expect("a thread can be started");
        }
        Self(Arc::new(Inner {
            jobs,
            argon2: Argon2::new(Algorithm::Argon2id, Version::V0x13, params),
            running: Arc::new(Semaphore::new(running_max)),
            running_max,
            waiting: AtomicUsize::new(0),
            waiting_max,
        }))
    }

    /// Whether somebody may choose this password. Accounts from before this was asked keep theirs.
    pub fn check_new(password: &str) -> Result<(), Code> {
        Self::check_length(password)?;
        let lower = password.to_lowercase();
        match COMMON.lines().any(|common| common == lower) {
            true => Err(Code::PasswordInvalid),
            false => Ok(()),
        }
    }

    /// Whether a password is one that an account may have.
    pub fn check_length(password: &str) -> Result<(), Code> {
        // Bytes first: nobody makes us count the characters of a megabyte.
        if password.len() > PASSWORD_CHARACTERS_MAX * 4 {
            return Err(Code::PasswordInvalid);
        }
        match password.chars().count() {
            PASSWORD_CHARACTERS_MIN..=PASSWORD_CHARACTERS_MAX => Ok(()),
            _ => Err(Code::PasswordInvalid),
        }
    }

    /// Hashes a password under a new salt, in PHC string format.
    ///
    /// # Cancel safety
    ///
    /// Dropped while it waits it is forgotten; once begun it is finished, and counts until then.
    pub async fn hash(&self, password: String) -> Result<String, Code> {
        self.run(move |argon2| {
            let salt = SaltString::encode_b64(&rand::random::<[u8; 16]>()).expect("16 bytes are a salt");
            let hash = argon2.hash_password(password.as_bytes(), &salt);
            hash.map(|hash| hash.to_string()).map_err(|error| {
                tracing::error!(%error, "cannot hash a password");
                Code::Internal
            })
        })
        .await?
    }

    /// Checks a password against a stored hash; without one (no such account) it takes as long and says no.
    ///
    /// # Cancel safety
    ///
    /// As [`Passwords::hash`].
    pub async fn verify(&self, password: String, stored: Option<String>) -> Result<bool, Code> {
        self.run(move |argon2| {
            let known = stored.is_some();
            let stored = stored.unwrap_or_else(|| NOBODY.to_owned());
            let parsed = PasswordHash::new(&stored).map_err(|error| {
                tracing::error!(%error, "a stored password hash cannot be read");
                Code::Internal
            })?;
            Ok(argon2.verify_password(password.as_bytes(), &parsed).is_ok() && known)
        })
        .await?
    }

    /// How many are under way, and how many wait.
    pub fn load(&self) -> (usize, usize) {
        let running = self.0.running_max - self.0.running.available_permits();
        (running, self.0.waiting.load(Ordering::Relaxed))
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Argon2<'static>) -> T + Send + 'static,
    ) -> Result<T, Code> {
        let inner = Arc::clone(&self.0);
        let permit = match Arc::clone(&inner.running).try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) => {
                let _place = Place::take(&inner)?;
                let permit = Arc::clone(&inner.running).acquire_owned().await;
                permit.map_err(|_| Code::ShuttingDown)?
            }
        };
        let (sender, receiver) = oneshot::channel();
        let argon2 = inner.argon2.clone();
        let job = Box::new(move || {
            let result = work(&argon2);
            // With the work, not with the request: a client that hangs up does not make room for more work.
            drop(permit);
            let _ = sender.send(result);
        });
        inner.jobs.send(job).map_err(|_| Code::Internal)?;
        receiver.await.map_err(|_| Code::Internal)
    }

    /// Whether a hash was made with the present parameters. Another is replaced when its password is next known.
    pub fn is_present(hash: &str) -> bool {
        let params = PasswordHash::new(hash)
            .ok()
            .and_then(|hash| Params::try_from(&hash).ok());
        params.is_some_and(|params| (params.m_cost(), params.t_cost(), params.p_cost()) == (MEMORY_KIB, PASSES, LANES))
    }
}

/// A place in the queue.
struct Place<'a>(&'a AtomicUsize);

impl<'a> Place<'a> {
    fn take(inner: &'a Inner) -> Result<Self, Code> {
        let place = Self(&inner.waiting);
        if inner.waiting.fetch_add(1, Ordering::Relaxed) >= inner.waiting_max {
            return Err(Code::SignInBusy);
        }
        Ok(place)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_password_is_recognised_and_another_is_not() {
        let passwords = Passwords::default();
        let hash = passwords.hash("correct horse".to_owned()).await.expect("hashed");
        assert!(hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{hash}");
        assert_eq!(
            passwords.verify("correct horse".to_owned(), Some(hash.clone())).await,
            Ok(true)
        );
        assert_eq!(
            passwords.verify("correct hors".to_owned(), Some(hash.clone())).await,
            Ok(false)
        );
        assert_eq!(passwords.verify("correct horse".to_owned(), None).await, Ok(false));
        let again = passwords.hash("correct horse".to_owned()).await.expect("hashed");
        assert_ne!(hash, again, "each hash has its own salt");
    }

    #[tokio::test]
    async fn work_that_panics_is_an_error_and_the_next_is_done() {
        let passwords = Passwords::with_limits(1, 1);
        let failed = passwords.run(|_| -> u8 { panic!("planted") }).await;
        assert_eq!(failed, Err(Code::Internal));
        assert_eq!(passwords.run(|_| 7).await, Ok(7));
    }

    #[tokio::test]
    async fn the_threads_that_hash_give_way() {
        let nice = Passwords::default()
            .run(|_| rustix::process::getpriority_process(Some(rustix::thread::gettid())))
            .await;
        assert_eq!(nice, Ok(Ok(NICE)));
    }

    #[test]
    fn nobodys_hash_costs_what_every_other_does() {
        let nobody = PasswordHash::new(NOBODY).expect("a PHC string");
        let params = Params::try_from(&nobody).expect("parameters");
        assert_eq!(
            (params.m_cost(), params.t_cost(), params.p_cost()),
            (MEMORY_KIB, PASSES, LANES)
        );
        assert_eq!(nobody.algorithm, argon2::ARGON2ID_IDENT);
        assert_eq!(nobody.hash.expect("a hash").len(), 32);
    }

    #[test]
    fn a_length_is_counted_in_characters() {
        assert_eq!(Passwords::check_length("1234567"), Err(Code::PasswordInvalid));
        assert_eq!(Passwords::check_length("12345678"), Ok(()));
        assert_eq!(Passwords::check_length("пароль12"), Ok(()));
        assert_eq!(Passwords::check_length(&"😀".repeat(256)), Ok(()));
        assert_eq!(Passwords::check_length(&"a".repeat(257)), Err(Code::PasswordInvalid));
        assert_eq!(Passwords::check_length(&"😀".repeat(257)), Err(Code::PasswordInvalid));
    }

    #[test]
    fn nobody_chooses_what_everybody_tries() {
        let common: Vec<_> = COMMON.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(common.len(), 3_000);
        for common in common {
            assert_eq!(Passwords::check_length(common), Ok(()), "{common}");
            assert_eq!(common, common.to_lowercase(), "{common}");
        }
        for refused in ["password", "12345678", "PassWord1", "qwertyuiop", "1234567"] {
            assert_eq!(Passwords::check_new(refused), Err(Code::PasswordInvalid), "{refused}");
        }
        for good in ["correct horse", "password of mine", "12345678 and more"] {
            assert_eq!(Passwords::check_new(good), Ok(()), "{good}");
        }
    }

    #[tokio::test]
    async fn who_does_not_fit_in_the_queue_is_told_to_come_back() {
        let passwords = Passwords::with_limits(1, 1);
        let held = Arc::clone(&passwords.0.running).try_acquire_owned().expect("free");
        let waiting = tokio::spawn({
            let passwords = passwords.clone();
            async move { passwords.run(|_| "done").await }
        });
        while passwords.0.waiting.load(Ordering::Relaxed) == 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(passwords.run(|_| ()).await, Err(Code::SignInBusy));
        drop(held);
        assert_eq!(waiting.await.expect("no panic"), Ok("done"));
        assert_eq!(passwords.0.waiting.load(Ordering::Relaxed), 0);
        assert_eq!(passwords.run(|_| "free again").await, Ok("free again"));
    }
}
