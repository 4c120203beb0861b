//! Access tokens: JSON Web Tokens signed with HMAC SHA-256 (RFC 7519, RFC 7515), the cheapest that the rivals take.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, Mac};
use serde::Deserialize;
use sha2::Sha256;

/// Nothing is protected by it: the server listens on loopback for the length of a measurement.
const SECRET: &[u8] = b"benchsecretbenchsecretbenchsecret";

#[derive(Deserialize)]
struct Claims {
    sub: String,
    exp: u64,
}

/// A token of this user.
pub fn mint(user: u64, seconds: u64) -> String {
    let header = URL_SAFE_NO_PAD.encode(r#"{"typ":"JWT","alg":"HS256"}"#);
    let expires = now() + seconds;
    let claims = URL_SAFE_NO_PAD.encode(format!(r#"{{"sub":"{user}","exp":{expires}}}"#));
    let signed = format!("{header}.{claims}");
    let signature = URL_SAFE_NO_PAD.encode(signer(&signed).finalize().into_bytes());
    format!("{signed}.{signature}")
}

/// Whose token it is, if it is valid.
pub fn user(token: &str) -> Option<u64> {
    let (signed, signature) = token.rsplit_once('.')?;
    let (_, claims) = signed.split_once('.')?;
    signer(signed)
        .verify_slice(&URL_SAFE_NO_PAD.decode(signature).ok()?)
        .ok()?;
    let claims: Claims = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).ok()?).ok()?;
    if claims.exp < now() {
        return None;
    }
    claims.sub.parse().ok()
}

/// The user named by `token=` in a query.
pub fn user_in_query(query: &str) -> Option<u64> {
    query
        .split('&')
        .find_map(|pair| pair.strip_prefix("token="))
        .and_then(user)
}

fn signer(signed: &str) -> Hmac<Sha256> {
    let mut signer = Hmac::new_from_slice(SECRET).expect("HMAC takes a key of any length");
    signer.update(signed.as_bytes());
    signer
}

fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |elapsed| elapsed.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_names_its_user_until_it_expires_or_is_changed() {
        let token = mint(7, 60);
        assert_eq!(user(&token), Some(7));
        assert_eq!(user_in_query(&format!("a=b&token={token}")), Some(7));
        assert_eq!(user(&token.replace('.', "x")), None);
        let other = mint(8, 60);
        let (signed, _) = other.rsplit_once('.').unwrap();
        let (_, signature) = token.rsplit_once('.').unwrap();
        assert_eq!(user(&format!("{signed}.{signature}")), None);
    }
}
