//! Personal access tokens: for scripts, with less than all rights, until a day that their owner chooses.
//!
//! One is `tfp_` and the base64url of 16 bytes that name it and a 32-byte secret. The store has a hash of the secret, in the
//! same place as sign-ins: so it is listed, ended, and its connections closed in the same way, on every node. Scanners that
//! look for leaked secrets know it by its beginning.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};
use taskflow_actors::ports::{Access, SignIn};
use uuid::Uuid;

/// What each begins with.
pub const PREFIX: &str = "tfp_";

/// A token, taken apart.
pub struct Token {
    /// What it is known by.
    pub id: Uuid,
    secret: [u8; 32],
}

impl Token {
    /// A new one.
    pub fn random() -> Self {
        Self {
            id: Uuid::from_bytes(rand::random()),
            secret: rand::random(),
        }
    }

    /// `None`: it does not look like one.
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = URL_SAFE_NO_PAD.decode(text.strip_prefix(PREFIX)?).ok()?;
        let (id, secret) = bytes.split_first_chunk::<16>()?;
        Some(Self {
            id: Uuid::from_bytes(*id),
            secret: secret.try_into().ok()?,
        })
    }

    /// As its owner sees it, once.
    pub fn text(&self) -> String {
        let mut bytes = [0; 48];
        bytes[..16].copy_from_slice(self.id.as_bytes());
        bytes[16..].copy_from_slice(&self.secret);
        format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes))
    }

    /// What the store keeps. Not the hash of a refresh token: the one is never taken for the other.
    pub fn hash(&self) -> [u8; 32] {
        let digest = Sha256::new().chain_update(PREFIX).chain_update(self.secret);
        digest.finalize().into()
    }

    /// Whether it is the one that is stored. Of a wrong one the time tells nothing: what is compared is a hash.
    pub fn is(&self, stored: &SignIn) -> bool {
        stored.id == self.id && stored.access < Access::Owner && stored.secret_hash == self.hash()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_comes_back_and_nothing_else_is_one() {
        let token = Token::random();
        let text = token.text();
        assert_eq!(text.len(), 68);
        let parsed = Token::parse(&text).expect("a token");
        assert_eq!((parsed.id, parsed.secret), (token.id, token.secret));
        for wrong in [
            "",
            "tfp_",
            &text[4..],
            &text[..67],
            &format!("{text}A"),
            &text.replace("tfp_", "tfq_"),
        ] {
            assert!(Token::parse(wrong).is_none(), "{wrong}");
        }
    }
}
