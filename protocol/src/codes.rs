//! The one table of codes. From the number alone a client knows what to do next.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// What a client does about a code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// The request is wrong: change it, do not repeat it.
    Fix,
    /// Send the same again, under the same operation id, after a while.
    Retry,
    /// Connect again, after a while, and follow with the cursors you hold.
    Reconnect,
    /// Forget the cursor and follow again without one.
    Resync,
    /// Get a new access token, with the refresh token or by signing in.
    SignIn,
    /// Do not try again: a person has to look.
    GiveUp,
}

impl Action {
    /// As it stands in the documentation.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fix => "fix",
            Self::Retry => "retry",
            Self::Reconnect => "reconnect",
            Self::Resync => "resync",
            Self::SignIn => "sign in",
            Self::GiveUp => "give up",
        }
    }
}

macro_rules! codes {
    ($($number:literal $variant:ident $name:literal http $http:literal close $close:literal $action:ident, $retry:literal ms: $sentence:literal)*) => {
        /// An error, as a number that never changes its meaning.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u16)]
        pub enum Code {
            $(#[doc = $sentence] $variant = $number,)*
        }

        impl Code {
            /// Every code, by number.
            pub const ALL: &'static [Code] = &[$(Code::$variant),*];

            /// The name, for people and for `match` on strings.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// What to do about it.
            pub fn sentence(self) -> &'static str {
                match self { $(Self::$variant => $sentence,)* }
            }

            /// HTTP status.
            pub fn http_status(self) -> u16 {
                match self { $(Self::$variant => $http,)* }
            }

            /// WebSocket close code, where it closes the connection.
            pub fn close_code(self) -> Option<u16> {
                let close = match self { $(Self::$variant => $close,)* };
                (close != 0).then_some(close)
            }

            /// What a client does next.
            pub fn action(self) -> Action {
                match self { $(Self::$variant => Action::$action,)* }
            }

            /// The shortest wait before the next try, in milliseconds, where one makes sense.
            pub fn retry_after_ms(self) -> Option<u32> {
                let after = match self { $(Self::$variant => $retry,)* };
                (after != 0).then_some(after)
            }

            /// The code with this number.
            pub fn from_number(number: u16) -> Option<Self> {
                match number { $($number => Some(Self::$variant),)* _ => None }
            }
        }
    };
}

codes! {
    100 Malformed "malformed" http 400 close 0 Fix, 0 ms: "The message or body is not valid JSON or MessagePack; send one well-formed document."
    101 UnknownMessage "unknown_message" http 400 close 0 Fix, 0 ms: "The message is not one that this protocol version knows; send a map with one key, the message's name."
    102 InvalidField "invalid_field" http 400 close 0 Fix, 0 ms: "A field is missing, unknown or of the wrong type; see docs/protocol.md for the shape."
    103 TooLarge "too_large" http 413 close 1009 Fix, 0 ms: "The message is larger than the server takes; send fewer or smaller operations."
    104 TooManyOperations "too_many_operations" http 413 close 0 Fix, 0 ms: "There are too many operations in one message; send them in several."
    105 WrongEncoding "wrong_encoding" http 415 close 1003 Fix, 0 ms: "The encoding is not the agreed one; send text for JSON, binary for MessagePack, and name the type of a body."
    106 InvalidUtf8 "invalid_utf8" http 400 close 1007 Fix, 0 ms: "Text must be valid UTF-8."
    107 FramingError "framing_error" http 400 close 1002 Fix, 0 ms: "The WebSocket frames break RFC 6455; use a conforming client."
    108 HelloExpected "hello_expected" http 400 close 4108 Fix, 0 ms: "The first message of a connection must be hello, and only the first."
    109 VersionUnsupported "version_unsupported" http 400 close 4109 GiveUp, 0 ms: "The client and the server have no protocol version in common; update the older one."
    110 NotFound "not_found" http 404 close 0 Fix, 0 ms: "There is nothing at this address; /docs on the server shows what there is."
    111 MethodNotAllowed "method_not_allowed" http 405 close 0 Fix, 0 ms: "This address does not take this method."
    112 HelloTimeout "hello_timeout" http 408 close 4112 Reconnect, 1000 ms: "No hello came in time; send it at once after connecting."
    113 BodyTimeout "body_timeout" http 408 close 0 Retry, 1000 ms: "The body of the request did not arrive in time; send it again, in smaller parts if the connection is slow."
    114 FilterInvalid "filter_invalid" http 400 close 0 Fix, 0 ms: "The filter cannot be understood; the detail says what is wrong and where."
    115 HostRefused "host_refused" http 421 close 0 GiveUp, 0 ms: "This server does not go by this name; the operator can add it to hosts."

    200 TokenMissing "token_missing" http 401 close 4200 SignIn, 0 ms: "There is no access token; send one in the Authorization header, the subprotocol or the hello."
    201 TokenInvalid "token_invalid" http 401 close 4201 SignIn, 0 ms: "The access token is not valid here; sign in again."
    202 TokenExpired "token_expired" http 401 close 4202 SignIn, 0 ms: "The access token has expired; get a new one with the refresh token."
    203 SignedOut "signed_out" http 401 close 4203 SignIn, 0 ms: "This sign-in was ended; sign in again."
    204 CredentialsWrong "credentials_wrong" http 401 close 0 Fix, 0 ms: "The e-mail address or the password is wrong, or the address has not been verified yet: then follow the link in the letter to it."
    205 OriginRefused "origin_refused" http 403 close 0 GiveUp, 0 ms: "Pages of this origin may not connect; the operator can allow it with origins_allowed."
    206 EmailTaken "email_taken" http 409 close 0 Fix, 0 ms: "There is an account with this e-mail address; sign in instead."
    207 EmailInvalid "email_invalid" http 422 close 0 Fix, 0 ms: "This is not an e-mail address."
    208 PasswordInvalid "password_invalid" http 422 close 0 Fix, 0 ms: "A password has 8 to 256 characters, and is none of the 3,000 most common ones; choose another."
    209 SignInBusy "sign_in_busy" http 503 close 0 Retry, 1000 ms: "Too many people sign in at this moment; try again in a second."
    210 RegistrationClosed "registration_closed" http 403 close 0 GiveUp, 0 ms: "This server takes no new accounts; ask its operator for one."
    211 TooManySignIns "too_many_sign_ins" http 429 close 0 Retry, 1000 ms: "Signing in was tried too often from this address or for this account; wait as long as the answer says."
    212 AccountDeleting "account_deleting" http 403 close 0 Fix, 0 ms: "The account is to be deleted; POST /api/v1/auth/restore with its e-mail address and password keeps it."
    213 ScopeMissing "scope_missing" http 403 close 0 Fix, 0 ms: "This access token may not do that; make one with the scope it needs, or sign in."
    // 214 was email_unverified, which told who has an account. Its number is not used again.
    215 LinkInvalid "link_invalid" http 403 close 0 Fix, 0 ms: "The link was used, is too old or is not whole; ask for another one."
    216 NoLetters "no_letters" http 403 close 0 GiveUp, 0 ms: "This server sends no letters; ask its operator."
    217 IssuerUnavailable "issuer_unavailable" http 503 close 4217 Reconnect, 5000 ms: "Whether this token is good cannot be said: the keys of its issuer cannot be read at this moment; try again in a few seconds."

    300 CursorInvalid "cursor_invalid" http 400 close 0 Resync, 0 ms: "This is not a cursor of this server; follow without one."
    301 FeedNotFound "feed_not_found" http 404 close 0 GiveUp, 0 ms: "There is no such feed, or it is not yours to see."
    302 TooManyFollows "too_many_follows" http 409 close 0 Fix, 0 ms: "The connection follows as many feeds as it may; unfollow one first."
    303 NotFollowing "not_following" http 409 close 0 Fix, 0 ms: "The connection does not follow this feed."
    304 AlreadyFollowing "already_following" http 409 close 0 Fix, 0 ms: "The connection follows this feed already; unfollow it first."

    400 RowNotFound "row_not_found" http 404 close 0 Fix, 0 ms: "There is no such list, task or label in this feed."
    401 IdTaken "id_taken" http 409 close 0 Fix, 0 ms: "A row with this id exists already; make a new id."
    402 OperationIdReused "operation_id_reused" http 409 close 0 Fix, 0 ms: "This operation id was used for something else; make a new id for each operation."
    403 VersionConflict "version_conflict" http 412 close 0 Fix, 0 ms: "The row has changed since the base version; look at the present row and decide again."
    404 RowDeleted "row_deleted" http 410 close 0 Fix, 0 ms: "The list, task or label was deleted; restore it first."
    405 ParentElsewhere "parent_elsewhere" http 422 close 0 Fix, 0 ms: "A parent must be in the same list as its subtasks."
    406 ParentCycle "parent_cycle" http 422 close 0 Fix, 0 ms: "A task cannot be a part of itself."
    407 ParentTooDeep "parent_too_deep" http 422 close 0 Fix, 0 ms: "Subtasks are nested too deeply."
    408 ListArchived "list_archived" http 409 close 0 Fix, 0 ms: "The list is archived and takes no new tasks; unarchive it first."
    409 InboxFixed "inbox_fixed" http 422 close 0 Fix, 0 ms: "The inbox can be neither renamed, moved, archived nor deleted."
    410 ValueInvalid "value_invalid" http 422 close 0 Fix, 0 ms: "A value is not allowed here; see the field and docs/protocol.md."
    411 ValueTooLong "value_too_long" http 422 close 0 Fix, 0 ms: "A text is longer than it may be; shorten it."
    412 LimitReached "limit_reached" http 409 close 0 Fix, 0 ms: "The feed holds as many of these as it may; delete some first."
    413 UndoConflict "undo_conflict" http 409 close 0 Fix, 0 ms: "Something changed the same fields since; change them by hand."
    414 UndoGone "undo_gone" http 410 close 0 Fix, 0 ms: "There is no such entry, or it is no longer kept; it cannot be undone."
    415 BatchTooLarge "batch_too_large" http 413 close 0 Fix, 0 ms: "The operation changes more than one entry can carry; split it."
    416 RowDamaged "row_damaged" http 500 close 0 GiveUp, 0 ms: "The stored row is damaged and was not touched; the rest of the feed works, and the operator can restore the row from a backup."

    500 Internal "internal" http 500 close 4500 Retry, 1000 ms: "The server failed; the same operation may be sent again under the same id."
    501 FeedOverloaded "feed_overloaded" http 503 close 0 Retry, 250 ms: "The feed has too many operations waiting; send the same again in a moment."
    502 FeedUnavailable "feed_unavailable" http 503 close 0 Retry, 1000 ms: "The feed cannot be loaded at this moment; try again in a second."
    503 StoreFull "store_full" http 507 close 0 Retry, 5000 ms: "The server's disk is full: reading works, changes do not. The operator has to make room."
    504 StoreUnavailable "store_unavailable" http 503 close 4504 Retry, 1000 ms: "The server's store does not answer; try again in a second."
    505 OutcomeUnknown "outcome_unknown" http 504 close 0 Retry, 250 ms: "Whether this was done is not known; send the same again under the same id."
    506 ServerBusy "server_busy" http 503 close 0 Reconnect, 1000 ms: "The server has as many connections as it takes; try again in a second."
    507 TooManyConnections "too_many_connections" http 429 close 4507 Reconnect, 5000 ms: "This user has as many connections as one may have; close another, or wait until one has ended."
    508 TooSlow "too_slow" http 503 close 4508 Reconnect, 1000 ms: "The client reads more slowly than its feeds change; connect again with the cursors you hold."
    509 ShuttingDown "shutting_down" http 503 close 1012 Reconnect, 500 ms: "The server restarts; connect again with the cursors you hold."
    510 HeartbeatMissed "heartbeat_missed" http 408 close 4510 Reconnect, 500 ms: "No heartbeat came from the client in time; connect again with the cursors you hold."
    511 FeedDamaged "feed_damaged" http 500 close 0 GiveUp, 0 ms: "The stored feed is damaged and was not touched; the operator finds the file in the log."
    512 TooManyRefreshes "too_many_refreshes" http 429 close 0 Retry, 60000 ms: "The connection has brought too many tokens; it goes on with the one it has, and may bring another in a minute."
    513 RateLimited "rate_limited" http 429 close 0 Retry, 1000 ms: "Too much was asked for in a short time; send the same again after the wait that the answer says."
    514 Overloaded "overloaded" http 503 close 0 Retry, 2000 ms: "The server has more to do than it can at this moment; send the same again after the wait that the answer says."
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Serialize for Code {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u16(*self as u16)
    }
}

impl<'de> Deserialize<'de> for Code {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // A newer server's code must not make the whole message unreadable. Its number is lost to this client, its name
        // and sentence stand beside it; what to do about it follows from its hundreds.
        let number = u16::deserialize(deserializer)?;
        Ok(Self::from_number(number).unwrap_or(match number / 100 {
            2 => Self::TokenInvalid,
            3 => Self::CursorInvalid,
            5 => Self::Internal,
            _ => Self::ValueInvalid,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_that_this_build_does_not_know_is_read_by_its_hundreds() {
        let read = |number: u16| {
            serde_json::from_str::<Code>(&number.to_string())
                .expect("readable")
                .action()
        };
        assert_eq!(read(299), Action::SignIn);
        assert_eq!(read(399), Action::Resync);
        assert_eq!(read(499), Action::Fix);
        assert_eq!(read(599), Action::Retry);
        assert_eq!(read(199), Action::Fix);
    }
}
