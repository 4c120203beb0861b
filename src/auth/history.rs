//! What happened to an account, for its owner to read: who signed in from where, what was changed, what failed.

use std::sync::atomic::{AtomicU16, Ordering};

use taskflow_actors::ports::Note;
use taskflow_protocol::values::UnixMs;
use uuid::Uuid;

use super::sign_in::Asker;

macro_rules! events {
    ($($(#[doc = $doc:literal])+ $variant:ident = $word:literal,)+) => {
        /// What can happen.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Event {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl Event {
            /// Each.
            pub const ALL: &'static [Event] = &[$(Self::$variant),+];

            /// As it is stored and shown.
            pub fn word(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)+
                }
            }
        }
    };
}

events! {
    /// The account was made.
    Registered = "registered",
    /// Somebody wanted to make another account with the address.
    RegisteredAgain = "registered_again",
    /// The owner showed that the address is theirs.
    EmailVerified = "email_verified",
    /// Somebody signed in with the password.
    SignedIn = "signed_in",
    /// Somebody tried, with a wrong password.
    SignInFailed = "sign_in_failed",
    /// A device signed out.
    SignedOut = "signed_out",
    /// A sign-in was ended from another device.
    SessionEnded = "session_ended",
    /// Every sign-in and token was ended.
    SignedOutEverywhere = "signed_out_everywhere",
    /// A refresh token came that was replaced before: it was copied, and its sign-in is ended.
    RefreshTokenReused = "refresh_token_reused",
    /// The password was replaced.
    PasswordChanged = "password_changed",
    /// The password was replaced by who has the mailbox.
    PasswordReset = "password_reset",
    /// The e-mail address was replaced.
    EmailChanged = "email_changed",
    /// A personal access token was made.
    TokenMade = "token_made",
    /// A personal access token was ended.
    TokenEnded = "token_ended",
    /// Everything was exported.
    Exported = "exported",
    /// The account is to be deleted.
    DeletionRequested = "deletion_requested",
    /// The account is to be kept after all.
    DeletionCancelled = "deletion_cancelled",
}

/// A UUIDv7 that is above all that this process made in the same millisecond before: what follows from another is shown after it.
fn next_id(now: UnixMs) -> Uuid {
    static COUNTED: AtomicU16 = AtomicU16::new(0);
    let mut bytes: [u8; 10] = rand::random();
    // The first twelve bits after the version (RFC 9562, section 6.2, method 1).
    bytes[..2].copy_from_slice(&COUNTED.fetch_add(1, Ordering::Relaxed).to_be_bytes());
    uuid::Builder::from_unix_timestamp_millis(u64::try_from(now).unwrap_or(0), &bytes).into_uuid()
}

impl Event {
    /// A note that it happened now, under this sign-in (nil: none), by this asker.
    pub fn note(self, now: UnixMs, sign_in: Uuid, by: &Asker) -> Note {
        Note {
            at: now,
            id: next_id(now),
            event: self.word().to_owned(),
            sign_in,
            address: by.address.clone(),
            device: by.device.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_of_one_moment_stand_in_the_order_in_which_they_were_made() {
        let ids: Vec<Uuid> = (0..100)
            .map(|_| Event::SignedIn.note(7, Uuid::nil(), &Asker::default()).id)
            .collect();
        // The counter begins anew after 4,096, at any time: once at most in here.
        assert!(ids.windows(2).filter(|two| two[0] >= two[1]).count() <= 1);
        assert!(ids.iter().all(|id| id.get_version_num() == 7));
    }
}
