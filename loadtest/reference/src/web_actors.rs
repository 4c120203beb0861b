//! Stack `a`: actix-web-actors, an actor and a timer a connection.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use actix::{Actor, ActorContext, AsyncContext, Handler, Message, StreamHandler};
use actix_web::{App, Error, HttpRequest, HttpResponse, HttpServer, web};
use actix_web_actors::ws;
use bytestring::ByteString;

use crate::hub::{Hub, Registration, Target};

/// A message on its way to a connection.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Text(pub ByteString);

/// A connection.
pub struct WebConnection {
    hub: Arc<Hub>,
    user: Option<u64>,
    heard: Instant,
    registration: Option<Registration>,
}

impl Actor for WebConnection {
    type Context = ws::WebsocketContext<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        if let Some(seconds) = self.hub.policy.heartbeat_seconds {
            let period = Duration::from_secs(seconds.into());
            context.run_interval(period, move |connection, context| {
                if connection.heard.elapsed() > period * 3 {
                    connection.hub.counters.silent.fetch_add(1, Relaxed);
                    context.stop();
                } else {
                    context.ping(b"");
                }
            });
        }
        let target = Target::ConnectionActor(context.address());
        self.registration = Some(self.hub.enter(target, self.user));
    }

    fn stopped(&mut self, _: &mut Self::Context) {
        self.registration = None;
    }
}

impl Handler<Text> for WebConnection {
    type Result = ();

    fn handle(&mut self, Text(text): Text, context: &mut Self::Context) {
        context.text(text);
    }
}

impl StreamHandler<Result<ws::Message, ws::ProtocolError>> for WebConnection {
    fn handle(&mut self, message: Result<ws::Message, ws::ProtocolError>, context: &mut Self::Context) {
        self.heard = Instant::now();
        match message {
            Ok(ws::Message::Ping(body)) => context.pong(&body),
            Ok(ws::Message::Close(reason)) => {
                context.close(reason);
                context.stop();
            }
            Ok(_) => {}
            Err(_) => context.stop(),
        }
    }
}

async fn accept(request: HttpRequest, stream: web::Payload, hub: web::Data<Hub>) -> Result<HttpResponse, Error> {
    let Some(user) = hub.admit(Some(request.query_string())) else {
        return Ok(HttpResponse::Unauthorized().finish());
    };
    let connection = WebConnection {
        hub: hub.into_inner(),
        user,
        heard: Instant::now(),
        registration: None,
    };
    ws::start(connection, &request, stream)
}

/// Serves until the process ends.
pub fn run(address: SocketAddr, workers: usize, hub: Arc<Hub>) -> std::io::Result<()> {
    let hub = web::Data::from(hub);
    actix_rt::System::new().block_on(
        HttpServer::new(move || App::new().app_data(hub.clone()).route("/ws", web::get().to(accept)))
            .workers(workers)
            .backlog(4096)
            .max_connections(60_000)
            .tcp_nodelay(true)
            .disable_signals()
            .bind(address)?
            .run(),
    )
}
