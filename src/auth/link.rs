//! Links in letters: whoever opens one shows that the mailbox of an account is theirs.
//!
//! Nothing is stored about a link. It says for what it is, when it was made and for which address, under a code that nobody can
//! compute without the server's key and the present hash of the account's password (HMAC). So a link is good once: what it is for
//! replaces that hash, or moves the account away from the address. Links made before are worth nothing from then on, and so are
//! all when the key is removed.
//!
//! An account whose owner has not shown this yet has [`UNPROVEN`] before the hash of its password. So it opens nothing, whatever
//! version a node is of, and one conditional write makes it an account like any other.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use taskflow_actors::ports::{Account, AccountError, DELETING};
use taskflow_protocol::Code;
use taskflow_protocol::values::UnixMs;
use uuid::Uuid;

use super::Event;
use super::password::Passwords;
use super::sign_in::{Asker, SignIns, code_of, new_id, normalise_email};
use super::token::Tokens;

/// What the code of a link is derived for.
const SECRET: &str = "link";

/// Stands before the hash of the password of an account whose address nobody has shown to be theirs.
const UNPROVEN: &str = "unproven:";

/// What nobody proves in so long is deleted: a week, in milliseconds.
const UNPROVEN_KEPT_MS: i64 = 7 * 86_400_000;

/// How long a link to a new password is good, in milliseconds: it opens the account to whoever can read the mailbox.
const RESET_MS: i64 = 3_600_000;

/// How long the others are, in milliseconds: they need the password, too.
const PROOF_MS: i64 = 86_400_000;

/// How far the clocks of two nodes may be apart, in milliseconds.
const LEEWAY_MS: i64 = 5_000;

/// The hash without the mark, and whether it has one.
pub(super) fn bare(hash: &str) -> (&str, bool) {
    match hash.strip_prefix(UNPROVEN) {
        Some(bare) => (bare, true),
        None => (hash, false),
    }
}

/// What a link is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To show that the address of a new account is theirs.
    Prove,
    /// To choose a new password.
    Reset,
    /// To move an account to this address.
    Move,
}

impl Purpose {
    const ALL: [Self; 3] = [Self::Prove, Self::Reset, Self::Move];

    /// As it stands in a link.
    fn bytes(self) -> &'static [u8; 1] {
        match self {
            Self::Prove => &[1],
            Self::Reset => &[2],
            Self::Move => &[3],
        }
    }
}

/// A link's token, taken apart. It is worth nothing until [`Link::is_of`] has said so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// What it is for.
    pub purpose: Purpose,
    /// The address of the account.
    pub email: String,
    /// Where it is to move; else empty.
    new_email: String,
    made_at: UnixMs,
    code: [u8; 32],
}

impl Link {
    fn new(tokens: &Tokens, now: UnixMs, purpose: Purpose, account: &Account, new_email: &str) -> Self {
        let mut link = Self {
            purpose,
            email: account.email.clone(),
            new_email: new_email.to_owned(),
            made_at: now,
            code: [0; 32],
        };
        link.code = tokens.derive(now, SECRET, &link.parts(&now.to_be_bytes(), account));
        link
    }

    /// What its code is computed from.
    fn parts<'a>(&'a self, made_at: &'a [u8; 8], account: &'a Account) -> [&'a [u8]; 5] {
        [
            self.purpose.bytes(),
            made_at,
            self.email.as_bytes(),
            self.new_email.as_bytes(),
            account.password_hash.as_bytes(),
        ]
    }

    fn text(&self) -> String {
        let mut bytes = self.purpose.bytes().to_vec();
        bytes.extend_from_slice(&self.made_at.to_be_bytes());
        bytes.extend_from_slice(&self.code);
        bytes.extend_from_slice(self.email.as_bytes());
        bytes.push(0);
        bytes.extend_from_slice(self.new_email.as_bytes());
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// `None`: it does not look like one.
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = URL_SAFE_NO_PAD.decode(text.trim()).ok()?;
        let (purpose, rest) = bytes.split_first_chunk::<1>()?;
        let (made_at, rest) = rest.split_first_chunk::<8>()?;
        let (code, rest) = rest.split_first_chunk::<32>()?;
        let (email, new_email) = std::str::from_utf8(rest).ok()?.split_once('\0')?;
        Some(Self {
            purpose: Purpose::ALL.into_iter().find(|known| known.bytes() == purpose)?,
            email: email.to_owned(),
            new_email: new_email.to_owned(),
            made_at: UnixMs::from_be_bytes(*made_at),
            code: *code,
        })
    }

    /// Whether it was made by us for this account as it is now, and is not too old.
    fn is_of(&self, tokens: &Tokens, now: UnixMs, account: &Account) -> bool {
        let life_ms = match self.purpose {
            Purpose::Reset => RESET_MS,
            Purpose::Prove | Purpose::Move => PROOF_MS,
        };
        let age = now.saturating_sub(self.made_at);
        let made_at = self.made_at.to_be_bytes();
        let is_ours = tokens.has_derived(SECRET, &self.parts(&made_at, account), &self.code);
        is_ours && age <= life_ms && age >= -LEEWAY_MS
    }
}

/// What there is to write to somebody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// This link.
    Link {
        /// The address.
        to: String,
        /// What the link ends with.
        token: String,
    },
    /// That this address has an account already.
    Known {
        /// The address.
        to: String,
    },
}

/// What a link has done.
#[derive(Debug)]
pub struct Shown {
    /// The account as it is now.
    pub account: Account,
    /// Where it was before, if it has moved.
    pub moved_from: Option<String>,
}

impl SignIns {
    /// Makes an account that opens nothing until the link was opened. Whoever asks learns the same for an address that has
    /// one, after the same hash.
    pub async fn register_unproven(&self, email: &str, password: String, asker: &Asker) -> Result<News, Code> {
        let email = normalise_email(email).ok_or(Code::EmailInvalid)?;
        Passwords::check_new(&password)?;
        let hash = format!("{UNPROVEN}{}", self.passwords.hash(password).await?);
        let now = self.clock.now_ms();
        let fresh = Account {
            user: taskflow_protocol::UserId(new_id(now)),
            email: email.clone(),
            password_hash: hash.clone(),
            created_at: now,
            deletes_at: None,
        };
        let account = match self.accounts.create_account(fresh.clone()).await {
            Ok(()) => Some(fresh),
            Err(AccountError::EmailTaken) => {
                let present = self.account(&email).await?;
                // Whoever registers last has the link that counts: what is unproven is nobody's.
                match present.filter(|present| bare(&present.password_hash).1 && present.deletes_at != Some(DELETING)) {
                    Some(present) => {
                        let old = present.password_hash.clone();
                        let replaced = self.accounts.replace_password(email.clone(), old, hash.clone()).await;
                        let password_hash = hash;
                        let account = Account {
                            password_hash,
                            ..present
                        };
                        replaced.map_err(code_of)?.then_some(account)
                    }
                    None => None,
                }
            }
            Err(other) => return Err(code_of(other)),
        };
        let Some(account) = account else {
            if let Some(present) = self.account(&email).await? {
                self.note(present.user, Event::RegisteredAgain, Uuid::nil(), asker)
                    .await;
            }
            return Ok(News::Known { to: email });
        };
        let goes = Some(now + UNPROVEN_KEPT_MS);
        let marked = self
            .accounts
            .set_deletion(email.clone(), account.user, account.deletes_at, goes);
        if !marked.await.map_err(code_of)? {
            // Its time had come at this moment, and the account is going: there is room for another in a moment.
            return Err(Code::StoreUnavailable);
        }
        let token = Link::new(&self.tokens, now, Purpose::Prove, &account, "").text();
        Ok(News::Link { to: email, token })
    }

    /// A link to a new password; `None`: there is nobody to send it to.
    pub async fn forgotten(&self, email: &str) -> Result<Option<News>, Code> {
        let Some(email) = normalise_email(email) else {
            return Ok(None);
        };
        let account = self.account(&email).await?;
        let account = account.filter(|account| account.deletes_at != Some(DELETING));
        Ok(account.map(|account| News::Link {
            token: Link::new(&self.tokens, self.clock.now_ms(), Purpose::Reset, &account, "").text(),
            to: email,
        }))
    }

    /// A link that moves an account there, or word that the address has one already.
    pub async fn link_to_move(&self, account: &Account, new: &str) -> Result<News, Code> {
        let new = normalise_email(new).ok_or(Code::EmailInvalid)?;
        if self.account(&new).await?.is_some() {
            return Ok(News::Known { to: new });
        }
        let token = Link::new(&self.tokens, self.clock.now_ms(), Purpose::Move, account, &new).text();
        Ok(News::Link { to: new, token })
    }

    async fn account_of(&self, link: &Link) -> Result<Account, Code> {
        let account = self.account(&link.email).await?;
        let account = account.filter(|account| account.deletes_at != Some(DELETING));
        let is_of = |account: &Account| link.is_of(&self.tokens, self.clock.now_ms(), account);
        account.filter(is_of).ok_or(Code::LinkInvalid)
    }

    /// Replaces a password for whoever has the mailbox, and ends every sign-in. The account may be one that is to be deleted.
    pub async fn reset_password(&self, link: &Link, new: String, asker: &Asker) -> Result<Account, Code> {
        Passwords::check_new(&new)?;
        if link.purpose != Purpose::Reset {
            return Err(Code::LinkInvalid);
        }
        let account = self.account_of(link).await?;
        let hash = self.passwords.hash(new).await?;
        let account = self.with_hash(account, hash).await?;
        self.end_all(account.user).await?;
        self.note(account.user, Event::PasswordReset, Uuid::nil(), asker).await;
        Ok(account)
    }

    /// Does what the link is for, for whoever has the mailbox and the password.
    pub async fn prove(&self, link: &Link, password: String, asker: &Asker) -> Result<Shown, Code> {
        if link.purpose == Purpose::Reset {
            return Err(Code::LinkInvalid);
        }
        let account = self.account_of(link).await?;
        let (hash, _) = bare(&account.password_hash);
        let is_no_password = Passwords::check_length(&password).is_err();
        if is_no_password || !self.passwords.verify(password, Some(hash.to_owned())).await? {
            self.note(account.user, Event::SignInFailed, Uuid::nil(), asker).await;
            return Err(Code::CredentialsWrong);
        }
        if link.purpose == Purpose::Prove {
            let hash = hash.to_owned();
            let account = self.with_hash(account, hash).await?;
            self.note(account.user, Event::EmailVerified, Uuid::nil(), asker).await;
            return Ok(Shown {
                account,
                moved_from: None,
            });
        }
        let old = account.email.clone();
        let moved = self.moved(account, &link.new_email, asker).await?;
        Ok(Shown {
            account: moved,
            moved_from: Some(old),
        })
    }

    /// With this hash for the present one; then nobody has to prove the address any more.
    async fn with_hash(&self, account: Account, hash: String) -> Result<Account, Code> {
        let Account { user, email, .. } = &account;
        let was_unproven = bare(&account.password_hash).1;
        let mut deletes_at = account.deletes_at;
        if was_unproven && deletes_at.is_some() {
            let kept = self.accounts.set_deletion(email.clone(), *user, deletes_at, None);
            if !kept.await.map_err(code_of)? {
                return Err(Code::LinkInvalid);
            }
            deletes_at = None;
        }
        let old = account.password_hash.clone();
        let replaced = self.accounts.replace_password(email.clone(), old, hash.clone()).await;
        if replaced != Ok(true) {
            // Nobody has proved anything: it goes when it would have gone.
            if let Some(goes_at) = account.deletes_at.filter(|_| was_unproven) {
                let marked = self.accounts.set_deletion(email.clone(), *user, None, Some(goes_at));
                drop(marked.await);
            }
            // Else the link was used at the same moment, or the password was replaced.
            replaced.map_err(code_of)?;
            return Err(Code::LinkInvalid);
        }
        Ok(Account {
            password_hash: hash,
            deletes_at,
            ..account
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use taskflow_actors::ports::{Accounts as _, Clock as _};

    use super::*;
    use crate::testing::AuthBench;

    const EMAIL: &str = "ada@example.org";
    const PASSWORD: &str = "correct horse battery";

    fn link(news: News) -> Link {
        match news {
            News::Link { to, token } => {
                let link = Link::parse(&token).expect("a link");
                assert!(to == link.email || to == link.new_email);
                link
            }
            News::Known { to } => panic!("{to} has an account"),
        }
    }

    async fn registered(sign_ins: &SignIns, password: &str) -> Link {
        let news = sign_ins
            .register_unproven(EMAIL, password.to_owned(), &Asker::default())
            .await;
        link(news.expect("registered"))
    }

    async fn forgotten(sign_ins: &SignIns) -> Link {
        link(sign_ins.forgotten(EMAIL).await.expect("asked").expect("there is one"))
    }

    async fn proved(sign_ins: &SignIns, link: &Link, password: &str) -> Result<Account, Code> {
        let shown = sign_ins.prove(link, password.to_owned(), &Asker::default()).await;
        shown.map(|shown| shown.account)
    }

    async fn reset(sign_ins: &SignIns, link: &Link, password: &str) -> Result<Account, Code> {
        sign_ins
            .reset_password(link, password.to_owned(), &Asker::default())
            .await
    }

    #[tokio::test]
    async fn links_are_good_for_as_long_as_the_letter_says() {
        let bench = AuthBench::default();
        let sign_ins = bench.sign_ins();
        let proof = registered(&sign_ins, PASSWORD).await;
        bench.clock.advance_ms(PROOF_MS + 1);
        assert_eq!(proved(&sign_ins, &proof, PASSWORD).await, Err(Code::LinkInvalid));
        let proof = registered(&sign_ins, PASSWORD).await;
        bench.clock.advance_ms(PROOF_MS);
        assert!(proved(&sign_ins, &proof, PASSWORD).await.is_ok());

        let late = forgotten(&sign_ins).await;
        bench.clock.advance_ms(RESET_MS + 1);
        assert_eq!(
            reset(&sign_ins, &late, "another password").await,
            Err(Code::LinkInvalid)
        );
        let timely = forgotten(&sign_ins).await;
        bench.clock.advance_ms(RESET_MS);
        assert!(reset(&sign_ins, &timely, "another password").await.is_ok());
        // By a node whose clock is ahead of ours, a little and a lot.
        bench.clock.advance_ms(LEEWAY_MS);
        let ahead = forgotten(&sign_ins).await;
        bench.clock.advance_ms(-LEEWAY_MS - 1);
        assert_eq!(reset(&sign_ins, &ahead, PASSWORD).await, Err(Code::LinkInvalid));
        bench.clock.advance_ms(1);
        assert!(reset(&sign_ins, &ahead, PASSWORD).await.is_ok());
    }

    #[tokio::test]
    async fn what_nobody_proves_goes_in_a_week_and_what_is_proved_stays() {
        let bench = AuthBench::default();
        let sign_ins = bench.sign_ins();
        let proof = registered(&sign_ins, PASSWORD).await;
        let goes_at = bench.clock.now_ms() + UNPROVEN_KEPT_MS;
        let stored = |sign_ins: std::sync::Arc<SignIns>| async move {
            sign_ins.account(EMAIL).await.expect("read").expect("there")
        };
        assert_eq!(stored(sign_ins.clone()).await.deletes_at, Some(goes_at));
        let account = proved(&sign_ins, &proof, PASSWORD).await.expect("proved");
        assert_eq!((account.deletes_at, bare(&account.password_hash).1), (None, false));
        assert_eq!(stored(sign_ins.clone()).await, account);

        // A new password proves the address as well: whoever has the mailbox has chosen it.
        let bench = AuthBench::default();
        let sign_ins = bench.sign_ins();
        registered(&sign_ins, PASSWORD).await;
        let account = reset(&sign_ins, &forgotten(&sign_ins).await, "another password")
            .await
            .expect("reset");
        assert_eq!((account.deletes_at, bare(&account.password_hash).1), (None, false));
        assert_eq!(stored(sign_ins.clone()).await, account);
    }

    #[tokio::test]
    async fn whoever_registers_last_has_the_link_that_counts() {
        let bench = AuthBench::default();
        let sign_ins = bench.sign_ins();
        let first = registered(&sign_ins, "of somebody else").await;
        bench.clock.advance_ms(1_000);
        let last = registered(&sign_ins, PASSWORD).await;
        assert_eq!(
            proved(&sign_ins, &first, "of somebody else").await,
            Err(Code::LinkInvalid)
        );
        assert_eq!(
            proved(&sign_ins, &last, "of somebody else").await,
            Err(Code::CredentialsWrong)
        );
        assert!(proved(&sign_ins, &last, PASSWORD).await.is_ok());
        assert_eq!(proved(&sign_ins, &last, PASSWORD).await, Err(Code::LinkInvalid), "once");
        let again = sign_ins
            .register_unproven(EMAIL, PASSWORD.to_owned(), &Asker::default())
            .await;
        assert_eq!(again, Ok(News::Known { to: EMAIL.to_owned() }));
    }

    #[tokio::test]
    async fn an_account_that_is_being_deleted_gets_no_links_and_takes_none() {
        let bench = AuthBench::default();
        let sign_ins = bench.sign_ins();
        let proof = registered(&sign_ins, PASSWORD).await;
        let account = proved(&sign_ins, &proof, PASSWORD).await.expect("proved");
        let before = forgotten(&sign_ins).await;
        // Its owner wants it gone, and may still think again: the letter gets them in, and the mark stays.
        let goes_at = Some(bench.clock.now_ms() + 1_000_000);
        let marked = bench
            .accounts
            .set_deletion(account.email.clone(), account.user, None, goes_at);
        assert_eq!(marked.await, Ok(true));
        let again = forgotten(&sign_ins).await;
        let account = reset(&sign_ins, &again, "another password").await.expect("reset");
        assert_eq!(account.deletes_at, goes_at);
        assert_eq!(
            reset(&sign_ins, &before, "a third password").await,
            Err(Code::LinkInvalid)
        );
        let last = forgotten(&sign_ins).await;
        let claimed = bench
            .accounts
            .set_deletion(account.email.clone(), account.user, goes_at, Some(DELETING));
        assert_eq!(claimed.await, Ok(true));
        assert_eq!(sign_ins.forgotten(EMAIL).await, Ok(None));
        assert_eq!(
            reset(&sign_ins, &last, "a third password").await,
            Err(Code::LinkInvalid)
        );
    }

    #[tokio::test]
    async fn nobody_makes_a_link_without_the_key_nor_one_for_another_purpose() {
        let bench = AuthBench::default();
        let sign_ins = bench.sign_ins();
        let proof = registered(&sign_ins, PASSWORD).await;
        let changes: [fn(&mut Link); 5] = [
            |link| link.purpose = Purpose::Move,
            |link| link.new_email = "eve@example.org".to_owned(),
            |link| link.made_at += 1,
            |link| link.code[31] ^= 1,
            |link| link.email = "eve@example.org".to_owned(),
        ];
        for change in changes {
            let mut changed = proof.clone();
            change(&mut changed);
            assert_eq!(
                proved(&sign_ins, &changed, PASSWORD).await,
                Err(Code::LinkInvalid),
                "{changed:?}"
            );
        }
        assert_eq!(
            reset(&sign_ins, &proof, "another password").await,
            Err(Code::LinkInvalid)
        );
        let account = proved(&sign_ins, &proof, PASSWORD).await.expect("proved");
        let as_move = Link {
            purpose: Purpose::Move,
            ..forgotten(&sign_ins).await
        };
        assert_eq!(proved(&sign_ins, &as_move, PASSWORD).await, Err(Code::LinkInvalid));

        let others = AuthBench::default().sign_ins();
        let of_others = Link::new(&others.tokens, bench.clock.now_ms(), Purpose::Reset, &account, "");
        assert_eq!(
            reset(&sign_ins, &of_others, "another password").await,
            Err(Code::LinkInvalid)
        );
    }

    proptest! {
        #[test]
        fn what_is_no_link_is_said_to_be_none(bytes in prop::collection::vec(any::<u8>(), 0..80), text in ".{0,80}") {
            drop(Link::parse(&text));
            if let Some(link) = Link::parse(&URL_SAFE_NO_PAD.encode(&bytes)) {
                prop_assert_eq!(Link::parse(&link.text()), Some(link));
            }
        }
    }
}
