// Where the links in letters lead. The token is behind the #, which browsers send to nobody.
"use strict";

const byId = (id) => document.getElementById(id);
const token = location.hash.slice(1);
const isReset = location.pathname.endsWith("/reset");
// Neither the history nor whoever looks at the screen needs it any more.
history.replaceState(null, "", location.pathname);

// Whose it is: behind 41 bytes of the token the address of the account, and the one that it moves to. Only for the eye, and for
// whatever keeps passwords: the server believes the token as a whole.
const address = () => {
  try {
    const bytes = Uint8Array.from(atob(token.replaceAll("-", "+").replaceAll("_", "/")), (letter) => letter.charCodeAt(0));
    const [present, next] = new TextDecoder().decode(bytes.subarray(41)).split("\0");
    return next || present;
  } catch {
    return "";
  }
};

const say = (text, isBad) => {
  byId("message").textContent = text;
  byId("message").className = isBad ? "bad" : "";
};

const post = (path, body) =>
  fetch(`/api/v1/auth/${path}`, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
  });

const done = async (answer) => {
  // The page only proves something: what it opened on the way is closed again.
  const { refresh_token } = await answer.json();
  await post("logout", { refresh_token });
  byId("form").hidden = true;
  byId("lead").textContent = "";
  byId("title").textContent = isReset ? "The password is changed" : "The address is confirmed";
  say(isReset ? "Every device was signed out. Sign in with the new password." : "You can sign in now.");
};

const send = async (event) => {
  event.preventDefault();
  const password = byId("password").value;
  if (isReset && password !== byId("again").value) {
    say("The two are not the same.", true);
    return;
  }
  byId("send").disabled = true;
  say("");
  try {
    const body = isReset ? { token, new_password: password } : { token, password };
    const { timeZone, locale } = Intl.DateTimeFormat().resolvedOptions();
    let answer = isReset ? await post("reset", body) : await post("verify", { ...body, time_zone: timeZone, locale });
    if (!isReset && answer.status === 422) {
      // A browser may know a zone that the server does not: the user says another one later.
      answer = await post("verify", body);
    }
    if (answer.ok) {
      await done(answer);
    } else {
      const problem = await answer.json();
      if (problem.name === "account_deleting") {
        // It was changed all the same.
        say(`The password is changed. ${problem.title}`, true);
      } else {
        say(problem.name === "credentials_wrong" ? "This is not the password of the account." : problem.title, true);
      }
    }
  } catch {
    say("The server does not answer. Try again.", true);
  } finally {
    byId("send").disabled = false;
  }
};

if (isReset) {
  byId("title").textContent = "Choose a new password";
  byId("lead").textContent = "It has 8 characters at least, and is none that everybody uses. Every device is signed out when it is changed.";
  byId("label").textContent = "New password";
  byId("password").autocomplete = "new-password";
  byId("again").hidden = byId("again-label").hidden = false;
  byId("again").required = true;
  byId("send").textContent = "Change the password";
} else {
  byId("title").textContent = "Confirm your e-mail address";
  byId("lead").textContent = "Enter the password of the account, to show that it is yours.";
}
document.title = `${byId("title").textContent} – TaskFlow`;
if (token) {
  byId("email").value = address();
  byId("form").hidden = false;
  byId("form").addEventListener("submit", send);
  byId("password").focus();
} else {
  byId("lead").textContent = "";
  say("The link is not whole. Copy all of it from the letter, or ask for another one.", true);
}
