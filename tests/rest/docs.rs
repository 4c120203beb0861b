//! The reference of the API in a browser: what it brings, and that it asks nobody else.

use std::collections::BTreeSet;

use crate::account::{name, refused};
use crate::support::http;
use crate::support::server::Server;

/// Its files, and what each is.
const FILES: [(&str, &str); 3] = [
    ("/docs", "text/html; charset=utf-8"),
    ("/docs/page.js", "text/javascript; charset=utf-8"),
    ("/docs/page.css", "text/css; charset=utf-8"),
];

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

fn get(server: &Server, path: &str, headers: &[&str]) -> http::Response {
    http::request(server.address, "GET", path, headers, b"")
}

fn text(server: &Server, path: &str) -> String {
    String::from_utf8(get(server, path, &[]).body).expect("UTF-8")
}

/// The values of this attribute.
fn attributes<'a>(html: &'a str, attribute: &str) -> Vec<&'a str> {
    let begin = format!(" {attribute}=\"");
    let values = html.split(begin.as_str()).skip(1);
    values.map(|rest| rest.split('"').next().unwrap()).collect()
}

#[test]
fn the_reference_is_for_everybody_and_may_ask_this_server_only() {
    let server = Server::start(&[]);
    for (path, media_type) in FILES {
        let answer = get(&server, path, &[]);
        assert_eq!(
            (
                answer.status,
                answer.header("content-type"),
                answer.header("cache-control")
            ),
            (200, Some(media_type), Some("no-cache")),
            "{path}"
        );
        assert_eq!(answer.header("content-security-policy"), Some(POLICY), "{path}");
        assert_eq!(answer.header("x-frame-options"), Some("DENY"), "{path}");
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"), "{path}");
        let text = String::from_utf8(answer.body).unwrap();
        assert!(!text.contains("://"), "{path} asks somebody else");
        for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
            let answer = http::request(server.address, method, path, &[], b"");
            assert_eq!(name(&answer), refused(405, "method_not_allowed"), "{method} {path}");
            assert_eq!(answer.header("allow"), Some("GET, HEAD"), "{method} {path}");
        }
    }
}

#[test]
fn whatever_the_reference_loads_is_there() {
    let server = Server::start(&[]);
    let html = text(&server, "/docs");
    let mut named = attributes(&html, "src");
    named.extend(attributes(&html, "href"));
    let (parts, files): (Vec<_>, Vec<_>) = named.into_iter().partition(|named| named.starts_with('#'));
    let expected = ["/docs/page.css", "/docs/page.js", "/openapi.json"];
    assert_eq!(
        files.into_iter().collect::<BTreeSet<_>>(),
        expected.into_iter().collect::<BTreeSet<_>>()
    );
    for path in expected {
        assert_eq!(get(&server, path, &[]).status, 200, "{path}");
    }
    let ids = attributes(&html, "id");
    for part in parts {
        assert!(ids.contains(&&part[1..]), "{part} is nowhere");
    }
    // Whatever the script looks for by its name.
    let script = text(&server, "/docs/page.js");
    let looked_for = script.split("byId(\"page-").skip(1);
    for rest in looked_for {
        let id = format!("page-{}", rest.split('"').next().unwrap());
        assert!(ids.contains(&id.as_str()), "{id} is nowhere");
    }
}

#[test]
fn the_reference_has_nothing_that_its_policy_forbids_and_makes_no_markup_of_text() {
    let server = Server::start(&[]);
    let html = text(&server, "/docs");
    for inline in ["<style", " style=", "<script>", " onclick=", " onload=", "javascript:"] {
        assert!(!html.contains(inline), "{inline}");
    }
    let script = text(&server, "/docs/page.js");
    for way in [
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "createContextualFragment",
        "DOMParser",
        "setHTML",
        "document.write",
        "eval(",
        "Function(",
    ] {
        assert!(!script.contains(way), "{way}");
    }
    let style = text(&server, "/docs/page.css");
    for way in ["@import", "url("] {
        assert!(!style.contains(way), "{way}");
    }
}

#[test]
fn a_browser_that_has_the_reference_is_not_sent_it_again() {
    let server = Server::start(&[]);
    let mut tags = BTreeSet::new();
    for (path, _) in FILES {
        let tag = get(&server, path, &[]).header("etag").expect("a tag").to_owned();
        let again = get(&server, path, &[&format!("if-none-match: {tag}")]);
        assert_eq!((again.status, again.body.as_slice()), (304, &b""[..]), "{path}");
        assert_eq!(again.header("etag"), Some(tag.as_str()), "{path}");
        assert_eq!(again.header("content-security-policy"), Some(POLICY), "{path}");
        let older = get(&server, path, &["if-none-match: W/\"0000000000000000\""]);
        assert_eq!(older.status, 200, "{path}");
        let small = get(&server, path, &["accept-encoding: br"]);
        assert_eq!(
            (small.header("content-encoding"), small.header("etag")),
            (Some("br"), Some(tag.as_str())),
            "{path}"
        );
        assert!(small.body.len() * 2 < older.body.len(), "{path}");
        tags.insert(tag);
    }
    assert_eq!(tags.len(), FILES.len(), "each has a tag of its own");
}

#[test]
fn every_operation_has_a_place_of_its_own_in_the_reference() {
    let server = Server::start(&[]);
    let description = get(&server, "/openapi.json", &[]).json();
    let script = text(&server, "/docs/page.js");
    // The other places: some with names, some with a word and a hyphen before the name.
    let mut places: BTreeSet<&str> = ["begin", "errors", "codes", "schemas"].into();
    for place in &places {
        assert!(script.contains(&format!("id: \"{place}\"")), "{place}");
    }
    let items = description["paths"].as_object().expect("paths").values();
    let operations = items.flat_map(|item| item.as_object().unwrap());
    for (_, operation) in operations.filter(|(key, _)| *key != "parameters") {
        let id = operation["operationId"].as_str().expect("an id");
        assert!(id.bytes().all(|byte| byte.is_ascii_alphanumeric()), "{id}");
        assert!(places.insert(id), "{id} is there twice");
    }
}
