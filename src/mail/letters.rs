//! What letters say.

use super::Letter;

fn link(base: &str, page: &str, token: &str) -> String {
    // Behind the #: it is sent to no server, and stands in no log.
    format!("{base}/account/{page}#{token}")
}

/// To who registered: the link makes the account theirs.
pub fn welcome(to: String, base: &str, token: &str) -> Letter {
    Letter {
        to,
        is_warning: false,
        subject: "Confirm your e-mail address",
        text: format!(
            "Somebody, probably you, made a TaskFlow account with this address at {base}.\n\n\
             Follow this link within a day, and enter the password that you chose:\n\n{}\n\n\
             If it was not you, do nothing: the account will be gone in a week.\n",
            link(base, "verify", token)
        ),
    }
}

/// To an address that has an account, for which somebody wants to make one, or move another to.
pub fn known(to: String, base: &str) -> Letter {
    Letter {
        to,
        is_warning: false,
        subject: "You have an account already",
        text: format!(
            "Somebody, probably you, wanted to use this address for a TaskFlow account at {base}, but it has one already. \
             Nothing was changed.\n\n\
             Sign in with it. If you do not know its password any more, ask for a new one.\n"
        ),
    }
}

/// To who does not know the password any more.
pub fn reset(to: String, base: &str, token: &str) -> Letter {
    Letter {
        to,
        is_warning: false,
        subject: "Choose a new password",
        text: format!(
            "Somebody, probably you, asked for a new password for the TaskFlow account of this address at {base}.\n\n\
             Follow this link within an hour, and choose one:\n\n{}\n\n\
             If it was not you, do nothing: the password stays as it is.\n",
            link(base, "reset", token)
        ),
    }
}

/// To the new address of an account.
pub fn confirm_move(to: String, base: &str, token: &str) -> Letter {
    Letter {
        to,
        is_warning: false,
        subject: "Confirm your new e-mail address",
        text: format!(
            "Somebody, probably you, wants to use this address for a TaskFlow account at {base}.\n\n\
             Follow this link within a day, and enter the password of the account:\n\n{}\n\n\
             If it was not you, do nothing.\n",
            link(base, "verify", token)
        ),
    }
}

/// To the owner of an account whose password was replaced.
pub fn password_changed(to: String, base: &str) -> Letter {
    Letter {
        to,
        is_warning: true,
        subject: "Your password was changed",
        text: format!(
            "The password of your TaskFlow account at {base} was changed, and every device was signed out.\n\n\
             If it was not you, ask for a new password now: whoever changed it can read your tasks.\n"
        ),
    }
}

/// To the address that an account had.
pub fn email_changed(to: String, base: &str, new: &str) -> Letter {
    Letter {
        to,
        is_warning: true,
        subject: "The e-mail address of your account was changed",
        text: format!(
            "Your TaskFlow account at {base} has another e-mail address now: {new}. Letters go there.\n\n\
             If it was not you, write to the operator of that server now: whoever changed it knows your password.\n"
        ),
    }
}
