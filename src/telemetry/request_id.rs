//! Which request it was: what its client calls it, or else a number that no other request has. It is in the answer, in the
//! problem document and in the log lines that are written while a worker handles it, so that they find each other.

use std::cell::Cell;

use actix_http::header::{HeaderMap, HeaderName, HeaderValue};

/// Where a client says it, and is told.
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Room for two UUIDs, or for the id of any proxy and tracer that is in use. It stands in every log line of the request.
const BYTES_MAX: usize = 64;

thread_local! {
    static CURRENT: Cell<Option<RequestId>> = const { Cell::new(None) };
}

/// Letters, digits and a few signs: nothing that would have to be escaped anywhere.
#[derive(Clone, Copy)]
pub struct RequestId {
    bytes: [u8; BYTES_MAX],
    length: usize,
}

impl RequestId {
    /// What the client says, if it says it once and it is fit to be repeated; else a new one.
    pub fn of(headers: &HeaderMap) -> Self {
        let mut said = headers.get_all(&X_REQUEST_ID);
        match (said.next(), said.next()) {
            (Some(said), None) => Self::said(said.as_bytes()).unwrap_or_else(Self::new),
            _ => Self::new(),
        }
    }

    fn said(said: &[u8]) -> Option<Self> {
        let is_fit = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._:/+=@".contains(byte);
        if said.is_empty() || !said.iter().all(is_fit) {
            return None;
        }
        let mut bytes = [0; BYTES_MAX];
        bytes.get_mut(..said.len())?.copy_from_slice(said);
        let length = said.len();
        Some(Self { bytes, length })
    }

    fn new() -> Self {
        let mut bytes = [0; BYTES_MAX];
        let id = uuid::Builder::from_random_bytes(rand::random()).into_uuid();
        let length = id.simple().encode_lower(&mut bytes).len();
        Self { bytes, length }
    }

    /// As it is written.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes[..self.length]).unwrap_or_default()
    }

    /// As the value of a header.
    pub fn value(&self) -> HeaderValue {
        HeaderValue::from_bytes(&self.bytes[..self.length]).expect("letters, digits and signs")
    }
}

/// The request that this thread is handling at the moment.
pub fn current() -> Option<RequestId> {
    // Log lines are written also while a thread ends.
    CURRENT.try_with(Cell::get).ok().flatten()
}

/// While this lives, the thread is handling that request.
pub struct Handling(());

impl Handling {
    /// From now on.
    pub fn of(request: RequestId) -> Self {
        CURRENT.set(Some(request));
        Self(())
    }
}

impl Drop for Handling {
    fn drop(&mut self) {
        CURRENT.set(None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(said: &[&str]) -> String {
        let mut headers = HeaderMap::new();
        for said in said {
            headers.append(X_REQUEST_ID, HeaderValue::from_str(said).expect("a value"));
        }
        RequestId::of(&headers).as_str().to_owned()
    }

    #[test]
    fn what_a_client_says_is_repeated_if_it_is_fit_to_be() {
        let longest = "a".repeat(64);
        for fit in ["7", "Root=1-67891233-abcdef012345678912345678", "a+/_:@.b", &longest] {
            assert_eq!(of(&[fit]), fit);
        }
        let too_long = "a".repeat(65);
        let unfit: [&[&str]; 7] = [&[], &[""], &[&too_long], &["a b"], &["a\"b"], &["\u{e9}"], &["a", "a"]];
        for said in unfit {
            let made = of(said);
            assert!(
                made.len() == 32 && made.bytes().all(|byte| byte.is_ascii_hexdigit()),
                "{made}"
            );
            assert_ne!(of(said), made, "another one each time");
        }
    }
}
