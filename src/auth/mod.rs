//! Who is asking: passwords, sign-ins and access tokens.

pub mod deletion;
pub mod history;
pub mod issuers;
pub mod key;
pub mod link;
pub mod password;
pub mod personal;
pub mod revocation;
pub mod sign_in;
pub mod token;

pub use deletion::Deletions;
pub use history::Event;
pub use issuers::Issuers;
pub use key::{Key, KeyError, Keys};
pub use link::{Link, News};
pub use revocation::Revocation;
pub use sign_in::SignIns;
pub use token::{Claims, OPERATOR_SIGN_IN, SignedOut, Tokens};
