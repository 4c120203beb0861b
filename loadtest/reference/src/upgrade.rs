//! Stack `e`: actix-http hands over the upgraded socket whole, and an actor a user pushes to it.

use std::net::SocketAddr;
use std::sync::Arc;

use actix::{Actor, Addr, Context, Handler, Message};
use actix_codec::Framed;
use actix_http::{HttpService, Request, h1};
use actix_service::{fn_service, map_config};
use actix_web::dev::AppConfig;
use actix_web::{App, Error, web};
use bytes::Bytes;
use tokio::net::TcpStream;

use crate::connection::Connection;
use crate::frame::switching_protocols;
use crate::hub::{Hub, Target};

/// A frame on its way to the sockets of a user.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Frame(pub Bytes);

/// The socket of a user is gone.
#[derive(Message)]
#[rtype(result = "()")]
struct Gone;

/// Holds the sockets of a user.
pub struct User {
    connections: Vec<Arc<Connection>>,
}

impl Actor for User {
    type Context = Context<Self>;
}

impl Handler<Frame> for User {
    type Result = ();

    fn handle(&mut self, Frame(frame): Frame, _: &mut Self::Context) {
        for connection in &self.connections {
            connection.push(&frame);
        }
    }
}

impl Handler<Gone> for User {
    type Result = ();

    fn handle(&mut self, Gone: Gone, _: &mut Self::Context) {
        self.connections.clear();
    }
}

/// Serves until the process ends.
pub fn run(address: SocketAddr, workers: usize, hub: Arc<Hub>) -> std::io::Result<()> {
    actix_rt::System::new().block_on(
        actix_server::Server::build()
            .workers(workers)
            .backlog(4096)
            .max_concurrent_connections(60_000)
            .disable_signals()
            .bind("reference", address, move || {
                let hub = hub.clone();
                let upgrade = fn_service(move |(request, framed): (Request, Framed<TcpStream, h1::Codec>)| {
                    let hub = hub.clone();
                    async move {
                        take_over(&request, framed.into_parts().io, hub).await;
                        Ok::<_, Error>(())
                    }
                });
                // Plain HTTP on the same port, as a server that is not only a benchmark has.
                let app = App::new().route("/hello", web::get().to(async || "hello"));
                HttpService::build()
                    .tcp_nodelay(true)
                    .upgrade(upgrade)
                    .finish(map_config(app, |_| AppConfig::default()))
                    .tcp()
            })?
            .run(),
    )
}

async fn take_over(request: &Request, stream: TcpStream, hub: Arc<Hub>) {
    let user = hub.admit(request.uri().query());
    let key = request.head().headers().get("sec-websocket-key");
    let proper = request.path() == "/ws" && actix_http::ws::verify_handshake(request.head()).is_ok();
    let (Some(user), Some(key), true) = (user, key, proper) else {
        // The peer may be gone; there is nobody else to tell.
        let _ = stream.try_write(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        return;
    };
    let answer = switching_protocols(key.as_bytes());
    if stream.writable().await.is_ok() && stream.try_write(answer.as_bytes()).is_ok() {
        hold(stream, user, hub);
    }
}

fn hold(stream: TcpStream, user: Option<u64>, hub: Arc<Hub>) {
    let connection = Arc::new(Connection::new(stream));
    let actor: Addr<User> = User {
        connections: vec![connection.clone()],
    }
    .start();
    let registration = hub.enter(Target::UserActor(actor.clone(), connection.clone()), user);
    actix_rt::spawn(async move {
        connection.run().await;
        drop(registration);
        actor.do_send(Gone);
    });
}
