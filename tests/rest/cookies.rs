//! The refresh token of a browser, in a cookie that no script reads.

use crate::account::{auth, name, refused};
use crate::support::http::{self, Response};
use crate::support::server::{Account, PASSWORD, Server};
use crate::support::{Value, json};

const APP: &str = "https://app.example";

fn server() -> Server {
    Server::start(&["--origins-allowed=https://app.example"])
}

/// What a cookie is set to, and its attributes.
fn set(answer: &Response) -> (String, String) {
    let cookies: Vec<_> = answer.headers.iter().filter(|(name, _)| name == "set-cookie").collect();
    assert_eq!(cookies.len(), 1, "{answer:?}");
    let (cookie, attributes) = cookies[0].1.split_once("; ").expect("attributes");
    (cookie.to_owned(), attributes.to_owned())
}

fn sign_in(server: &Server, email: &str) -> Response {
    auth(
        server,
        "login",
        &json!({ "email": email, "password": PASSWORD, "cookie": true }),
    )
}

/// A request of a browser, with what is in its jar.
fn browse(server: &Server, path: &str, headers: &[&str], cookie: &str) -> Response {
    let cookie = format!("cookie: theme=dark; {cookie}; other=1");
    let mut all = vec![cookie.as_str()];
    all.extend(headers);
    http::request(server.address, "POST", &format!("/api/v1/auth/{path}"), &all, b"")
}

fn own_page(server: &Server) -> String {
    format!("origin: http://{}", server.address)
}

#[test]
fn a_browser_has_its_refresh_token_where_no_script_sees_it() {
    let server = server();
    let ada = server.register();
    let answer = sign_in(&server, &ada.email);
    assert_eq!(answer.status, 200);
    assert!(answer.json().get("refresh_token").is_none(), "{answer:?}");
    let (cookie, attributes) = set(&answer);
    assert!(cookie.starts_with("taskflow_refresh="), "{cookie}");
    assert_eq!(attributes, "Path=/; Max-Age=2592000; HttpOnly; SameSite=Strict");
    let own = own_page(&server);
    for headers in [
        own.as_str(),
        "sec-fetch-site: same-origin",
        "origin: https://app.example",
    ] {
        let answer = browse(&server, "refresh", &[headers], &cookie);
        assert_eq!(answer.status, 200, "{headers}: {answer:?}");
        // Three tabs that refresh at once are one user: the same next token for each.
        assert_eq!(set(&answer), set(&browse(&server, "refresh", &[headers], &cookie)));
        let body = answer.json();
        assert!(body.get("refresh_token").is_none());
        let account = Account {
            token: body["access_token"].as_str().unwrap().to_owned(),
            ..ada.clone()
        };
        assert_eq!(server.get("/api/v1/tasks", &account).status, 200);
    }
    let from_app = browse(&server, "refresh", &["origin: https://app.example"], &cookie);
    assert_eq!(from_app.header("access-control-allow-origin"), Some(APP));
    assert_eq!(from_app.header("access-control-allow-credentials"), Some("true"));
}

#[test]
fn a_page_of_another_site_can_do_nothing_with_the_cookie() {
    let server = server();
    let ada = server.register();
    let (cookie, _) = set(&sign_in(&server, &ada.email));
    for path in ["refresh", "logout"] {
        for headers in [
            &["origin: https://evil.example"][..],
            &["origin: null"],
            &["sec-fetch-site: cross-site"],
            &["sec-fetch-site: same-site"],
            // A browser from before such headers, or no browser at all.
            &[],
            &["origin: https://evil.example", "sec-fetch-site: same-origin"],
        ] {
            let answer = browse(&server, path, headers, &cookie);
            assert_eq!(name(&answer), refused(403, "origin_refused"), "{path} {headers:?}");
            assert_eq!(answer.header("access-control-allow-credentials"), None);
        }
    }
    // And with it alone nobody reads or changes anything.
    let own = own_page(&server);
    let cookie_line = format!("cookie: {cookie}");
    for (method, path) in [
        ("GET", "/api/v1/tasks"),
        ("POST", "/api/v1/tasks"),
        ("GET", "/api/v1/sessions"),
    ] {
        let answer = http::request(server.address, method, path, &[&cookie_line, &own], b"");
        assert_eq!(name(&answer), refused(401, "token_missing"), "{method} {path}");
    }
    assert_eq!(
        browse(&server, "refresh", &[&own], &cookie).status,
        200,
        "it is as good as before"
    );
}

#[test]
fn of_two_cookies_of_the_name_neither_counts() {
    let server = server();
    let [ada, thief] = [server.register(), server.register()];
    let (hers, _) = set(&sign_in(&server, &ada.email));
    let (planted, _) = set(&sign_in(&server, &thief.email));
    let own = own_page(&server);
    for both in [format!("{hers}; {planted}"), format!("{planted}; {hers}")] {
        assert_eq!(
            name(&browse(&server, "refresh", &[&own], &both)),
            refused(401, "token_invalid")
        );
    }
    assert_eq!(browse(&server, "refresh", &[&own], &hers).status, 200);
}

#[test]
fn signing_out_ends_the_sign_in_and_takes_the_cookie_away() {
    let server = server();
    let ada = server.register();
    let own = own_page(&server);
    let (cookie, _) = set(&sign_in(&server, &ada.email));
    let out = browse(&server, "logout", &[&own], &cookie);
    assert_eq!(out.status, 204, "{out:?}");
    let gone = (
        "taskflow_refresh=".to_owned(),
        "Path=/; Max-Age=0; HttpOnly; SameSite=Strict".to_owned(),
    );
    assert_eq!(set(&out), gone);
    let late = browse(&server, "refresh", &[&own], &cookie);
    assert_eq!(name(&late), refused(401, "signed_out"));
    assert_eq!(set(&late), gone, "what is good for nothing is taken away");
    let made_up = "taskflow_refresh=AAAA";
    let refused_out = browse(&server, "logout", &[&own], made_up);
    assert_eq!(name(&refused_out), refused(401, "token_invalid"));
    assert_eq!(set(&refused_out), gone, "and what never was good is, too");
    // By the access token, as any client does.
    let answer = sign_in(&server, &ada.email);
    let (cookie, _) = set(&answer);
    let token = answer.json()["access_token"].as_str().unwrap().to_owned();
    let out = browse(&server, "logout", &[&format!("authorization: Bearer {token}")], &cookie);
    assert_eq!((out.status, set(&out)), (204, gone));
    assert_eq!(
        name(&browse(&server, "refresh", &[&own], &cookie)),
        refused(401, "signed_out")
    );
    let neither = http::request(server.address, "POST", "/api/v1/auth/refresh", &[&own], b"");
    assert_eq!(name(&neither), refused(401, "token_missing"));
    let body: Value = neither.json();
    assert_eq!(body["field"], "refresh_token", "{body}");
}

#[test]
fn over_tls_the_cookie_is_bound_to_this_host() {
    let server = Server::start(&["--behind-proxy=true", "--trusted-proxies=127.0.0.1"]);
    let ada = server.register();
    let (cookie, attributes) = set(&sign_in(&server, &ada.email));
    assert!(cookie.starts_with("__Host-taskflow_refresh="), "{cookie}");
    assert_eq!(attributes, "Path=/; Max-Age=2592000; HttpOnly; SameSite=Strict; Secure");
    let own = format!("origin: https://{}", server.address);
    assert_eq!(browse(&server, "refresh", &[&own], &cookie).status, 200);
    // A page of this name that came without TLS may be anybody's.
    assert_eq!(
        name(&browse(&server, "refresh", &[&own_page(&server)], &cookie)),
        refused(403, "origin_refused")
    );
    // The name that any host of the domain may plant is not looked at.
    let planted = cookie.replace("__Host-", "");
    assert_eq!(
        name(&browse(&server, "refresh", &[&own], &planted)),
        refused(401, "token_missing")
    );
}
