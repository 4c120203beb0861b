//! The reference of the API, for people: made from `/openapi.json` by a script of its own, in the browser.
//!
//! Architecture invariant: nothing of it comes from elsewhere. It is read where there is no other network, and what this
//! server sends to browsers is only what is in its source.

use actix_web::web;

use crate::http::pages::{self, File, HTML, SCRIPT, STYLE};

/// `/docs`, and what it loads.
pub(super) fn page(cfg: &mut web::ServiceConfig) {
    let files = [
        File {
            path: "/docs",
            media_type: HTML,
            text: include_str!("docs/page.html"),
        },
        File {
            path: "/docs/page.js",
            media_type: SCRIPT,
            text: include_str!("docs/page.js"),
        },
        File {
            path: "/docs/page.css",
            media_type: STYLE,
            text: include_str!("docs/page.css"),
        },
    ];
    pages::serve(cfg, &files);
}
