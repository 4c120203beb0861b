//! Where users come from: a file of tokens, or accounts that are made for the run.

use std::path::Path;

use anyhow::Result;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use uuid::Uuid;

use super::target::{Target, Trouble};

/// Accounts that are made where there is no file of tokens, at most: a server bears 20 attempts in a quarter of an hour from
/// one address, and the next run wants some, too.
pub const REGISTERED_MAX: usize = 8;

/// Someone who is signed in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// As the server names the user.
    pub id: String,
    /// The access token.
    pub token: String,
}

/// Someone who can sign in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// The address.
    pub email: String,
    /// The password.
    pub password: String,
}

/// Lines of `user token`, as `taskflow token --count N` writes them.
pub fn read(path: &Path) -> Result<Vec<User>, Trouble> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| Trouble(format!("{} cannot be read: {error}.", path.display())))?;
    parse(&text).map_err(|line| {
        Trouble(format!(
            "Line {line} of {} is not `user token`: make the file with taskflow token --count N.",
            path.display()
        ))
    })
}

fn parse(text: &str) -> Result<Vec<User>, usize> {
    let mut users = Vec::new();
    for (index, line) in text.lines().enumerate() {
        match line.split_whitespace().collect::<Vec<_>>()[..] {
            [] => {}
            [id, token] if id.parse::<Uuid>().is_ok() => users.push(User {
                id: id.to_owned(),
                token: token.to_owned(),
            }),
            _ => return Err(index + 1),
        }
    }
    Ok(users)
}

/// Makes accounts.
pub async fn register(target: &Target, count: usize) -> Result<Vec<(Account, User)>, Trouble> {
    let unreachable = |error: std::io::Error| Trouble(target.sentence(&error));
    let mut http = target.http(0).await.map_err(unreachable)?;
    let mut made = Vec::with_capacity(count);
    for _ in 0..count {
        let account = Account {
            email: format!("load-{}@loadtest.example", Uuid::new_v4().simple()),
            password: Uuid::new_v4().to_string(),
        };
        let body = json!({"email": account.email, "password": account.password, "device": "taskflow-loadtest"});
        let answer = http
            .request("POST", "/api/v1/auth/register", None, &body.to_string())
            .await
            .map_err(unreachable)?;
        let tokens: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        let text = |key: &str| tokens[key].as_str().unwrap_or_default().to_owned();
        match answer.status {
            201 => made.push((
                account,
                User {
                    id: text("user"),
                    token: text("access_token"),
                },
            )),
            429 => {
                return Err(Trouble(format!(
                    "The server makes no more accounts for this address now (429, after {}): give --tokens FILE, or set \
                     its sign_in_attempts_max to 0 for the test.",
                    made.len()
                )));
            }
            status => {
                return Err(Trouble(format!(
                    "The server makes no account ({status} {}): give --tokens FILE, made by taskflow token --count N.",
                    text("name")
                )));
            }
        }
    }
    Ok(made)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_tokens_has_a_user_and_a_token_in_each_line() {
        let id = "0197a3c0-1111-7aaa-8000-000000000001";
        let users = parse(&format!("{id} one\n\n{id}  two\n")).unwrap();
        let tokens: Vec<_> = users.iter().map(|user| user.token.as_str()).collect();
        assert_eq!(tokens, ["one", "two"]);
        assert_eq!(parse(&format!("{id} one\neyJtoken\n")), Err(2));
        assert_eq!(parse("someone token"), Err(1));
    }
}
