//! Files that a browser shows: each brings all it needs, and may ask nobody but this server.

use actix_web::http::{Method, header};
use actix_web::web;
use actix_web::{HttpRequest, HttpResponse};
use sha2::{Digest, Sha256};

use crate::http::request::Had;
use crate::http::{asked, method_not_allowed};

/// What a page may do: run its own script, and ask this server.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

fn media_type(path: &str) -> &'static str {
    match path.rsplit_once('.') {
        Some((_, "js")) => "text/javascript; charset=utf-8",
        Some((_, "css")) => "text/css; charset=utf-8",
        _ => "text/html; charset=utf-8",
    }
}

/// Serves these texts at these addresses. A browser asks each time whether there is another build, and gets the file again only then.
pub(crate) fn serve(cfg: &mut web::ServiceConfig, files: &[(&'static str, &'static str)]) {
    for &(path, text) in files {
        let tag = tag_of(text);
        let file = move |http: HttpRequest| {
            let has_it = Had::of(&http).has(&tag);
            let mut response = if has_it {
                HttpResponse::NotModified()
            } else {
                HttpResponse::Ok()
            };
            // The policy also without the file: a browser takes the headers of this answer for those that it has kept.
            response
                .insert_header((header::CONTENT_SECURITY_POLICY, POLICY))
                // The same for browsers from before 2015, and for those who look for it.
                .insert_header((header::X_FRAME_OPTIONS, "DENY"))
                .insert_header((header::CACHE_CONTROL, "no-cache"))
                .insert_header((header::ETAG, tag.as_str()));
            let response = if has_it {
                response.finish()
            } else {
                response.content_type(media_type(path)).body(text)
            };
            async { response }
        };
        cfg.service(
            web::resource(path)
                .route(asked(Method::GET).to(file))
                .default_service(web::to(|| async { method_not_allowed(&["GET"]) })),
        );
    }
}

/// Of the text, not of the bytes that are sent: those are compressed for who takes that.
fn tag_of(text: &str) -> String {
    let digest = Sha256::digest(text);
    let head: String = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    format!("W/\"{head}\"")
}
