//! Letters to the owners of accounts: links that show whose an address is, and word of what was changed.
//!
//! Nothing waits for one. Who asks is answered before it is known whether there is anybody to write to; a letter that cannot be
//! sent is tried again for a while, and then its reader asks for another.

pub mod letters;
pub mod smtp;

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use taskflow_actors::ports::BoxFuture;
use tokio::sync::Semaphore;

pub use self::smtp::Smtp;
use crate::telemetry::Metrics;
use crate::telemetry::metrics::LetterOutcome;

/// Letters that are being sent, or wait for another try. One is a few kilobytes; beyond it they are dropped.
const UNDER_WAY_MAX: usize = 256;

/// Of these so many may wait for another try: a mail server that takes none for some must not hold up those for others.
const WAITING_MAX: usize = UNDER_WAY_MAX / 2;

/// Letters to one address within an hour, warnings counted by themselves, all at once if need be: enough for who cannot find the first, and too few to bury
/// a mailbox that somebody dislikes.
const TO_ONE_AN_HOUR: NonZeroU32 = NonZeroU32::new(5).expect("it is not zero");

/// How long to wait before each further try: a mail server that wants a stranger to come again (greylisting) wants that after
/// some minutes.
const TRY_AGAIN: [Duration; 3] = [
    Duration::from_secs(5),
    Duration::from_secs(60),
    Duration::from_secs(10 * 60),
];

/// A letter, in plain text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Letter {
    /// The address.
    pub to: String,
    /// It says what somebody did who may be a thief: strangers must not use up what may be sent of these.
    pub is_warning: bool,
    /// One line.
    pub subject: &'static str,
    /// The rest.
    pub text: String,
}

/// Why a letter was not sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MailError {
    /// Perhaps later.
    #[error("the mail server does not take letters now: {0}")]
    Unavailable(String),
    /// Never.
    #[error("the mail server refused the letter: {0}")]
    Refused(String),
}

/// Sends letters.
pub trait Mail: Send + Sync + 'static {
    /// `Ok`: somebody else answers for it now.
    fn send(&self, letter: Letter) -> BoxFuture<Result<(), MailError>>;
}

/// For development: what would be sent is written to the log.
pub struct Logged;

impl Mail for Logged {
    fn send(&self, Letter { to, subject, text, .. }: Letter) -> BoxFuture<Result<(), MailError>> {
        tracing::info!(to, subject, text, "a letter: no mail server is set (smtp)");
        Box::pin(std::future::ready(Ok(())))
    }
}

/// Where letters are posted.
pub struct Letters {
    mail: Option<Arc<dyn Mail>>,
    /// What links begin with.
    pub base: String,
    under_way: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
    rate: DefaultKeyedRateLimiter<(String, bool)>,
    metrics: Arc<Metrics>,
}

impl Letters {
    /// `mail`: `None`: this server sends none.
    pub fn new(mail: Option<Arc<dyn Mail>>, base: String, metrics: Arc<Metrics>) -> Self {
        Self {
            mail,
            base,
            under_way: Arc::new(Semaphore::new(UNDER_WAY_MAX)),
            waiting: Arc::new(Semaphore::new(WAITING_MAX)),
            rate: RateLimiter::keyed(Quota::per_hour(TO_ONE_AN_HOUR)),
            metrics,
        }
    }

    /// Whether this server sends any.
    pub fn are_sent(&self) -> bool {
        self.mail.is_some()
    }

    /// Letters that are being sent, or wait for another try.
    pub fn waiting(&self) -> usize {
        UNDER_WAY_MAX - self.under_way.available_permits()
    }

    /// Sends a letter, without waiting.
    pub fn post(&self, letter: Letter) {
        let Some(mail) = self.mail.clone() else { return };
        let drop_it = |why: &'static str| {
            self.metrics.letters.of(LetterOutcome::Dropped).inc();
            tracing::warn!(subject = letter.subject, why, "a letter was dropped");
        };
        self.rate.retain_recent();
        if self.rate.check_key(&(letter.to.clone(), letter.is_warning)).is_err() {
            return drop_it("there were several to this address within the hour");
        }
        let Ok(place) = self.under_way.clone().try_acquire_owned() else {
            return drop_it("too many are under way");
        };
        let (metrics, waiting) = (self.metrics.clone(), self.waiting.clone());
        tokio::spawn(async move {
            let outcome = match delivered(mail, letter, &waiting).await {
                Ok(()) => LetterOutcome::Sent,
                Err(error) => {
                    tracing::warn!(%error, "a letter was not sent");
                    LetterOutcome::Failed
                }
            };
            metrics.letters.of(outcome).inc();
            drop(place);
        });
    }
}

async fn delivered(mail: Arc<dyn Mail>, letter: Letter, waiting: &Semaphore) -> Result<(), MailError> {
    let mut waits = TRY_AGAIN.iter();
    let mut place = None;
    loop {
        let outcome = mail.send(letter.clone()).await;
        if !matches!(outcome, Err(MailError::Unavailable(_))) {
            return outcome;
        }
        place = place.or_else(|| waiting.try_acquire().ok());
        match waits.next().filter(|_| place.is_some()) {
            Some(wait) => tokio::time::sleep(*wait).await,
            None => return outcome,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use tokio::time::Instant;

    use super::*;
    use crate::telemetry::Telemetry;

    /// Answers with these, one after the other, and then with `Ok`.
    struct Planned {
        begun: Instant,
        answers: Mutex<Vec<MailError>>,
        asked: Arc<Mutex<Vec<(Duration, Letter)>>>,
    }

    type Asked = Arc<Mutex<Vec<(Duration, Letter)>>>;

    fn letters(mut answers: Vec<MailError>) -> (Letters, Asked, Arc<Metrics>) {
        answers.reverse();
        let asked = Asked::default();
        let mail = Planned {
            begun: Instant::now(),
            answers: Mutex::new(answers),
            asked: asked.clone(),
        };
        let metrics = Telemetry::new().metrics;
        let letters = Letters::new(Some(Arc::new(mail)), "http://a.example".to_owned(), metrics.clone());
        (letters, asked, metrics)
    }

    impl Mail for Planned {
        fn send(&self, letter: Letter) -> BoxFuture<Result<(), MailError>> {
            let at = self.begun.elapsed();
            self.asked.lock().expect("not poisoned").push((at, letter));
            let answer = self.answers.lock().expect("not poisoned").pop();
            Box::pin(std::future::ready(answer.map_or(Ok(()), Err)))
        }
    }

    fn to(address: &str) -> Letter {
        Letter {
            to: address.to_owned(),
            is_warning: false,
            subject: "s",
            text: "t".to_owned(),
        }
    }

    async fn is_idle(letters: &Letters) {
        let all = u32::try_from(UNDER_WAY_MAX).expect("small");
        let places = letters.under_way.acquire_many(all).await.expect("it is not closed");
        drop(places);
    }

    #[tokio::test(start_paused = true)]
    async fn a_letter_that_is_not_taken_now_is_sent_later_and_one_that_is_refused_is_not() {
        let later = || MailError::Unavailable("greylisted".to_owned());
        let (letters, asked, _) = letters(vec![later(), later(), MailError::Refused("no such mailbox".to_owned())]);
        letters.post(to("ada@example.org"));
        assert_eq!(letters.waiting(), 1);
        is_idle(&letters).await;
        assert_eq!(letters.waiting(), 0);
        let at: Vec<u64> = {
            let asked = asked.lock().expect("not poisoned");
            asked.iter().map(|(at, _)| at.as_secs()).collect()
        };
        assert_eq!(at, [0, 5, 65], "the third answer was final");
    }

    #[tokio::test(start_paused = true)]
    async fn a_mail_server_that_is_gone_is_given_up_after_a_while() {
        let later = || MailError::Unavailable("gone".to_owned());
        let (letters, asked, _) = letters((0..9).map(|_| later()).collect());
        letters.post(to("ada@example.org"));
        is_idle(&letters).await;
        assert_eq!(asked.lock().expect("not poisoned").len(), 1 + TRY_AGAIN.len());
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_can_bury_a_mailbox() {
        let (letters, asked, _) = letters(Vec::new());
        for _ in 0..100 {
            letters.post(to("ada@example.org"));
        }
        letters.post(to("bob@example.org"));
        is_idle(&letters).await;
        assert_eq!(asked.lock().expect("not poisoned").len(), 5 + 1);
        // Whoever wanted to hide something by it has not.
        letters.post(Letter {
            is_warning: true,
            ..to("ada@example.org")
        });
        is_idle(&letters).await;
        assert_eq!(asked.lock().expect("not poisoned").len(), 5 + 1 + 1);
    }

    #[tokio::test(start_paused = true)]
    async fn letters_that_wait_have_a_bound() {
        let (letters, asked, _) = letters((0..1_000).map(|_| MailError::Unavailable("gone".to_owned())).collect());
        for number in 0..2 * UNDER_WAY_MAX {
            letters.post(to(&format!("{number}@example.org")));
        }
        is_idle(&letters).await;
        let asked = asked.lock().expect("not poisoned");
        let who: std::collections::HashSet<_> = asked.iter().map(|(_, letter)| &letter.to).collect();
        assert_eq!(who.len(), UNDER_WAY_MAX);
        let again = asked.iter().filter(|(at, _)| *at == TRY_AGAIN[0]).count();
        assert_eq!(again, WAITING_MAX, "the others have given up, and left their places");
    }
}
