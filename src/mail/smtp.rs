//! Letters by SMTP (the crate lettre).

use std::sync::Arc;
use std::time::Duration;

use lettre::message::header::ContentType;
use lettre::message::{Mailbox, Message};
use lettre::transport::smtp::extension::ClientId;
use lettre::{AsyncSmtpTransport, AsyncTransport as _, Tokio1Executor};
use taskflow_actors::ports::BoxFuture;
use uuid::Uuid;

use super::{Letter, Mail, MailError};

/// How long a mail server may take for each of its answers.
const TIMEOUT: Duration = Duration::from_secs(20);

type Transport = AsyncSmtpTransport<Tokio1Executor>;

/// A mail server.
pub struct Smtp {
    transport: Arc<Transport>,
    from: Mailbox,
}

/// What is wrong with a setting.
#[derive(Debug, PartialEq, Eq)]
pub struct Wrong {
    /// Its key.
    pub key: &'static str,
    /// What is wrong with it, without what is secret of it.
    pub text: String,
}

impl Smtp {
    /// By the settings `smtp` and `mail_from`. Asks nobody yet.
    pub fn new(url: &str, from: &str) -> Result<Self, Wrong> {
        let wrong = |key, text: &str| Wrong {
            key,
            text: text.to_owned(),
        };
        if !url.starts_with("smtp://") && !url.starts_with("smtps://") {
            return Err(wrong("smtp", "it does not begin with smtp:// or smtps://"));
        }
        let from: Mailbox = from.parse().map_err(|_| {
            wrong(
                "mail_from",
                "it is no address of mail; write TaskFlow <tasks@tasks.example>",
            )
        })?;
        // What the parser says might show the password.
        let transport = Transport::from_url(url)
            .map_err(|_| {
                wrong(
                    "smtp",
                    "it is no address of a mail server; write smtps://user:password@host",
                )
            })?
            .hello_name(ClientId::Domain(from.email.domain().to_owned()))
            .timeout(Some(TIMEOUT))
            .build();
        Ok(Self {
            transport: Arc::new(transport),
            from,
        })
    }

    fn message(&self, Letter { to, subject, text, .. }: Letter) -> Result<Message, MailError> {
        let refused = |error: &dyn std::fmt::Display| MailError::Refused(error.to_string());
        let domain = self.from.email.domain();
        Message::builder()
            .from(self.from.clone())
            .to(Mailbox::new(None, to.parse().map_err(|error| refused(&error))?))
            .message_id(Some(format!("<{}@{domain}>", Uuid::new_v4())))
            .subject(subject)
            .header(ContentType::TEXT_PLAIN)
            .body(text)
            .map_err(|error| refused(&error))
    }
}

/// Whether what is sent there cannot be read on the way, or does not leave this machine.
pub fn is_safe(url: &str) -> bool {
    let rest = url.strip_prefix("smtp://");
    rest.is_none_or(|rest| {
        let host = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
        let is_here = ["localhost", "127.0.0.1", "[::1]"].iter().any(|here| {
            host.strip_prefix(here)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with([':', '/', '?']))
        });
        is_here || url.contains("tls=required")
    })
}

impl Mail for Smtp {
    fn send(&self, letter: Letter) -> BoxFuture<Result<(), MailError>> {
        let transport = self.transport.clone();
        let message = self.message(letter);
        Box::pin(async move {
            match transport.send(message?).await {
                Ok(_) => Ok(()),
                Err(error) if error.is_permanent() => Err(MailError::Refused(error.to_string())),
                Err(error) => Err(MailError::Unavailable(error.to_string())),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(url: &str, from: &str) -> (&'static str, String) {
        let wrong = Smtp::new(url, from).err().expect("refused");
        (wrong.key, wrong.text)
    }

    #[tokio::test]
    async fn a_setting_that_is_wrong_is_named_and_its_password_is_not() {
        let from = "TaskFlow <tasks@tasks.example>";
        for url in ["mail.example", "smtp://u:pa55@[", "smtps://u:pa55@"] {
            let (key, text) = wrong(url, from);
            assert_eq!(key, "smtp");
            assert!(!text.contains("pa55"), "{text}");
        }
        assert_eq!(wrong("smtps://u:pa55@mail.example", "tasks").0, "mail_from");
        assert!(Smtp::new("smtps://u:pa55@mail.example", from).is_ok());
        assert!(Smtp::new("smtp://u:pa55@mail.example:587?tls=required", "tasks@tasks.example").is_ok());
    }

    #[test]
    fn only_a_mail_server_on_this_machine_is_safe_without_tls() {
        for url in [
            "smtps://mail.example",
            "smtp://u:p@mail.example?tls=required",
            "smtp://localhost",
            "smtp://u:p@127.0.0.1:25",
        ] {
            assert!(is_safe(url), "{url}");
        }
        for url in [
            "smtp://mail.example",
            "smtp://u:p@mail.example?tls=opportunistic",
            "smtp://localhost.evil.example",
            "smtp://localhost@mail.example",
        ] {
            assert!(!is_safe(url), "{url}");
        }
    }

    #[tokio::test]
    async fn a_letter_is_text_with_whom_it_is_from_and_to() {
        let smtp = Smtp::new("smtp://localhost", "TaskFlow <tasks@tasks.example>").expect("good");
        let letter = Letter {
            to: "ada@example.org".to_owned(),
            is_warning: false,
            subject: "Hello",
            text: "Dear Ada Lovelace\n".to_owned(),
        };
        let message = smtp.message(letter.clone()).expect("a message").formatted();
        let message = String::from_utf8(message).expect("text");
        for line in [
            "From: TaskFlow <tasks@tasks.example>\r\n",
            "To: ada@example.org\r\n",
            "Subject: Hello\r\n",
            "Content-Type: text/plain; charset=utf-8\r\n",
            "Dear Ada Lovelace\r\n",
        ] {
            assert!(message.contains(line), "{line} in {message}");
        }
        // Nobody writes headers of his own.
        let to = "ada@example.org\r\nBcc: all@example.org".to_owned();
        assert!(matches!(
            smtp.message(Letter { to, ..letter }),
            Err(MailError::Refused(_))
        ));
    }
}
