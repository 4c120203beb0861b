//! The operator's port: `/metrics`, `/health/{live,ready,startup}`, `/status`, and a page that shows how the node is.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use actix_web::http::Method;
use actix_web::{HttpResponse, web};

use crate::http::{asked, pages};
use crate::telemetry::Telemetry;
use crate::telemetry::status::{Look, Seen};

/// Whether the server can do its work now.
pub trait Readiness: Send + Sync + 'static {
    /// `Err` says in a sentence what is wrong. Must not wait: it is asked every second or so.
    fn ready(&self) -> Result<(), String>;

    /// What is missing while the work is done all the same, in a sentence: whoever takes a node out of service for it would
    /// take all of them.
    fn degraded(&self) -> Option<String> {
        None
    }
}

/// What the operator's port shows.
pub struct Operator {
    telemetry: Telemetry,
    readiness: OnceLock<Arc<dyn Readiness>>,
    look: OnceLock<Arc<dyn Look>>,
    seen: Seen,
    draining: AtomicBool,
}

impl Operator {
    /// Begins as not started.
    pub fn new(telemetry: Telemetry) -> Self {
        Self {
            telemetry,
            readiness: OnceLock::new(),
            look: OnceLock::new(),
            seen: Seen::default(),
            draining: AtomicBool::new(false),
        }
    }

    /// The store is open and the client port listens: from now on this answers for readiness.
    pub fn started(&self, readiness: Arc<dyn Readiness>) {
        let _ = self.readiness.set(readiness);
    }

    /// Who finds out what the page shows beside the figures.
    pub fn show(&self, look: Arc<dyn Look>) {
        let _ = self.look.set(look);
    }

    /// No new clients from now on: not ready, but alive.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    fn ready(&self) -> Result<(), String> {
        if self.draining.load(Ordering::Relaxed) {
            return Err("the server is shutting down".to_owned());
        }
        match self.readiness.get() {
            Some(readiness) => readiness.ready(),
            None => Err("the server is starting".to_owned()),
        }
    }
}

/// Configures the operator's application; its data is `web::Data<Operator>`.
pub fn routes(cfg: &mut web::ServiceConfig) {
    let page = [
        ("/", include_str!("page/page.html")),
        ("/page.js", include_str!("page/page.js")),
        ("/page.css", include_str!("page/page.css")),
    ];
    pages::serve(cfg, &page);
    cfg.route("/metrics", asked(Method::GET).to(metrics))
        .route("/status", asked(Method::GET).to(status))
        .route("/health/live", asked(Method::GET).to(live))
        .route("/health/ready", asked(Method::GET).to(ready))
        .route("/health/startup", asked(Method::GET).to(startup));
}

async fn metrics(operator: web::Data<Operator>) -> HttpResponse {
    let is_ready = operator.ready().is_ok();
    operator.telemetry.metrics.ready.set(f64::from(is_ready));
    HttpResponse::Ok()
        .content_type("text/plain; version=0.0.4; charset=utf-8")
        .body(operator.telemetry.render())
}

/// Who is here and who is behind. For people: its form may change with any version.
async fn status(operator: web::Data<Operator>) -> HttpResponse {
    let Some(look) = operator.look.get() else {
        return health(&Err("the server is starting".to_owned()));
    };
    let body = operator.seen.look(&**look).await;
    HttpResponse::Ok()
        .content_type("application/json")
        .insert_header(("cache-control", "no-store"))
        .body(body)
}

/// The process answers: nothing more. What it depends on being down is no reason to kill it.
async fn live() -> HttpResponse {
    health(&Ok(()))
}

async fn ready(operator: web::Data<Operator>) -> HttpResponse {
    let ready = operator.ready();
    let degraded = operator.readiness.get().and_then(|readiness| readiness.degraded());
    match (&ready, degraded) {
        (Ok(()), Some(degraded)) => {
            HttpResponse::Ok().json(serde_json::json!({ "status": "degraded", "reason": degraded }))
        }
        _ => health(&ready),
    }
}

async fn startup(operator: web::Data<Operator>) -> HttpResponse {
    match operator.readiness.get() {
        Some(_) => health(&Ok(())),
        None => health(&Err("the server is starting".to_owned())),
    }
}

fn health(state: &Result<(), String>) -> HttpResponse {
    match state {
        Ok(()) => HttpResponse::Ok().json(serde_json::json!({ "status": "ok" })),
        Err(reason) => {
            HttpResponse::ServiceUnavailable().json(serde_json::json!({ "status": "unavailable", "reason": reason }))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::{App, test};
    use std::sync::Mutex;

    struct Store(Mutex<Result<(), String>>);

    impl Readiness for Store {
        fn ready(&self) -> Result<(), String> {
            self.0.lock().expect("not poisoned").clone()
        }
    }

    #[actix_web::test]
    async fn health_means_something() {
        let operator = web::Data::new(Operator::new(Telemetry::new()));
        let app = test::init_service(App::new().app_data(operator.clone()).configure(routes)).await;
        let status = async |path: &str| {
            let response = test::call_service(&app, test::TestRequest::get().uri(path).to_request()).await;
            let status = response.status().as_u16();
            (
                status,
                String::from_utf8(test::read_body(response).await.to_vec()).expect("UTF-8"),
            )
        };
        assert_eq!(status("/health/live").await.0, 200);
        assert_eq!(status("/health/startup").await.0, 503);
        assert_eq!(status("/health/ready").await.0, 503);

        let store = Arc::new(Store(Mutex::new(Ok(()))));
        operator.started(store.clone());
        assert_eq!(status("/health/startup").await.0, 200);
        assert_eq!(status("/health/ready").await, (200, r#"{"status":"ok"}"#.to_owned()));

        *store.0.lock().expect("not poisoned") = Err("the store did not answer for 6 s".to_owned());
        let (code, body) = status("/health/ready").await;
        assert_eq!(code, 503);
        assert_eq!(
            body,
            r#"{"reason":"the store did not answer for 6 s","status":"unavailable"}"#
        );
        assert_eq!(status("/health/live").await.0, 200);

        *store.0.lock().expect("not poisoned") = Ok(());
        operator.drain();
        assert_eq!(status("/health/ready").await.0, 503);
        assert_eq!(status("/health/live").await.0, 200);

        for (path, part) in [("/", "This node"), ("/page.js", "/metrics"), ("/page.css", ".tile")] {
            let (code, text) = status(path).await;
            assert!(code == 200 && text.contains(part), "{path}: {code}");
        }
        let (code, scrape) = status("/metrics").await;
        assert_eq!(code, 200);
        let connections = "taskflow_connections{kind=\"websocket\"} 0.0\n";
        assert!(scrape.contains(connections), "{scrape}");
        assert!(scrape.contains("taskflow_ready 0.0\n"), "{scrape}");
    }
}
