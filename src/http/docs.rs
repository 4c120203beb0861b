//! The reference of the API, for people: made from `/openapi.json` by a script of its own, in the browser.
//!
//! Architecture invariant: nothing of it comes from elsewhere. It is read where there is no other network, and what this
//! server sends to browsers is only what is in its source.

use actix_web::web;

use crate::http::pages;

/// `/docs`, and what it loads.
pub(super) fn page(cfg: &mut web::ServiceConfig) {
    let files = [
        ("/docs", include_str!("docs/page.html")),
        ("/docs/page.js", include_str!("docs/page.js")),
        ("/docs/page.css", include_str!("docs/page.css")),
    ];
    pages::serve(cfg, &files);
}
