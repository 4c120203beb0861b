//! Whoever is signed out on one node is out on all, whatever the way between them.

use std::net::SocketAddr;

use serde_json::json;

use super::Nodes;
use super::proxy::{Proxy, Weather};
use crate::support::http::{self, EventStream};
use crate::support::server::{Account, Server};
use crate::support::ws::{Client, task};
use crate::support::{ENCODINGS, eventually};

/// What a user has open on a node: sockets of two sign-ins, and a stream and a token of the first.
struct Here<'a> {
    node: &'a Server,
    first: Account,
    firsts: Vec<Client>,
    seconds: Vec<Client>,
    stream: EventStream,
}

impl<'a> Here<'a> {
    fn open(node: &'a Server, first: &Account, second: &Account) -> Self {
        // Those of its start: from then on it looks nowhere by itself.
        node.wait_for_metric("taskflow_sign_in_rounds_total", |rounds| rounds >= 2.0);
        let sockets = |account| ENCODINGS.map(|encoding| Client::open(node, encoding, account)).into();
        assert_eq!(node.get("/api/v1/tasks", first).status, 200);
        let mut stream = EventStream::open(node.address, "/api/v1/events", &[&first.bearer()]).unwrap();
        stream.wait_for("snapshot");
        Self {
            node,
            first: first.clone(),
            firsts: sockets(first),
            seconds: sockets(second),
            stream,
        }
    }

    /// The first sign-in ends here, and nothing else does.
    fn expect_ended(mut self) {
        for client in &mut self.firsts {
            assert_eq!(client.ended().code(), Some(4203));
        }
        assert_eq!(self.stream.wait_for("reconnect").data["code"], 203);
        let refused = self.node.get("/api/v1/tasks", &self.first);
        assert_eq!((refused.status, &refused.json()["name"]), (401, &json!("signed_out")));
        for client in &mut self.seconds {
            client.accept(&task("still in")["command"]);
        }
    }
}

fn log_out(node: &Server, account: &Account) {
    let body = json!({ "refresh_token": account.refresh });
    assert_eq!(http::post(node.address, "/api/v1/auth/logout", &[], &body).status, 204);
}

fn two_sign_ins(node: &Server) -> (Account, Account) {
    let first = node.register();
    let second = super::faults::signed_in(node, &first);
    (first, second)
}

#[test]
fn a_sign_out_on_one_node_closes_what_is_open_on_the_others() {
    let cluster = Nodes::start("sign_outs", 3);
    let (first, second) = two_sign_ins(&cluster.nodes[0]);
    let open: Vec<Here> = cluster.nodes[..2]
        .iter()
        .map(|node| Here::open(node, &first, &second))
        .collect();
    log_out(&cluster.nodes[2], &first);
    open.into_iter().for_each(Here::expect_ended);
}

#[test]
fn an_account_that_is_deleted_on_one_node_is_gone_from_all() {
    let mut cluster = Nodes::start("deleted", 1);
    cluster.add(&["--account-grace-days=0"]);
    cluster.meet();
    let [here, there] = &cluster.nodes[..] else {
        unreachable!()
    };
    let (ada, bob) = (here.register(), here.register());
    let body = serde_json::json!({ "name": "n", "scopes": ["tasks:write"], "expires_in_days": 1 });
    let made = here.post("/api/v1/tokens", &ada, &body).json();
    let script = Account {
        token: made["token"].as_str().unwrap().to_owned(),
        ..ada.clone()
    };
    // Its feed is in the memory of both.
    for (node, account) in [(here, &ada), (there, &script), (there, &bob)] {
        Client::open(node, ENCODINGS[0], account).accept(&task("soon gone")["command"]);
        assert_eq!(node.get("/api/v1/tasks", account).status, 200);
    }
    let mut sockets = [(here, &script), (there, &ada), (there, &script)]
        .map(|(node, account)| Client::open(node, ENCODINGS[1], account));
    let body = json!({ "email": ada.email, "password": crate::support::server::PASSWORD });
    assert_eq!(http::post(there.address, "/api/v1/auth/delete", &[], &body).status, 202);
    for socket in &mut sockets {
        assert_eq!(socket.ended().code(), Some(4203));
    }
    let deleted = || -> f64 {
        let count = |node: &Server| node.metric("taskflow_accounts_deleted_total");
        count(here) + count(there)
    };
    crate::support::eventually("it is deleted", || (deleted() >= 1.0).then_some(()));
    for node in [here, there] {
        let login = http::post(node.address, "/api/v1/auth/login", &[], &body);
        assert_eq!(login.json()["name"], "credentials_wrong");
        for account in [&ada, &script] {
            assert_eq!(node.get("/api/v1/tasks", account).status, 401);
        }
        // Not even the operator's token finds it, or brings it back.
        let minted = Account {
            token: here.mint(&ada.user, &[]),
            ..ada.clone()
        };
        let answer = node.get("/api/v1/tasks", &minted);
        assert_eq!(answer.json()["name"], "feed_not_found", "{answer:?}");
        assert_eq!(
            node.get("/api/v1/tasks", &bob).json()["items"]
                .as_array()
                .unwrap()
                .len(),
            1
        );
    }
}

#[test]
fn without_redis_the_store_says_who_is_signed_out() {
    let cluster = Nodes::start("sign_outs_alone", 2);
    let (first, second) = two_sign_ins(&cluster.nodes[0]);
    let open = Here::open(&cluster.nodes[0], &first, &second);
    cluster.redis.signal(0, "-KILL");
    for node in &cluster.nodes {
        node.wait_for_metric("taskflow_bus_up", |up| up == 0.0);
    }
    log_out(&cluster.nodes[1], &first);
    open.expect_ended();
}

#[test]
fn a_node_that_was_cut_off_from_redis_says_it_when_it_is_back() {
    let mut cluster = Nodes::start("sign_outs_late", 1);
    let proxy = Proxy::to(SocketAddr::from(([127, 0, 0, 1], cluster.redis.port)));
    cluster.add(&[&format!("--redis=redis://{}", proxy.address)]);
    cluster.meet();
    let [here, cut] = &cluster.nodes[..] else {
        unreachable!()
    };
    let (first, second) = two_sign_ins(here);
    let open = Here::open(here, &first, &second);
    let rounds = here.metric("taskflow_sign_in_rounds_total");
    proxy.set(Weather::NothingThere);
    cut.wait_for_metric("taskflow_bus_up", |up| up == 0.0);
    log_out(cut, &first);
    // Nobody has told the other one, and nothing has told it that it missed something.
    assert_eq!(here.get("/api/v1/tasks", &first).status, 200);
    assert_eq!(here.metric("taskflow_bus_up"), 1.0);
    assert_eq!(cut.metric("taskflow_sign_outs_waiting"), 1.0);
    proxy.set(Weather::Fair);
    open.expect_ended();
    cut.wait_for_metric("taskflow_sign_outs_waiting", |waiting| waiting == 0.0);
    assert_eq!(here.metric("taskflow_sign_in_rounds_total"), rounds);
}

#[test]
fn what_is_tried_on_one_node_counts_on_all() {
    let mut cluster = Nodes::start("attempts", 0);
    for _ in 0..3 {
        cluster.add(&["--sign-in-attempts-max=6"]);
    }
    cluster.meet();
    let try_on = |node: &Server, email: &str| {
        let body = json!({ "email": email, "password": "not this one" });
        http::post(node.address, "/api/v1/auth/login", &[], &body).status
    };
    for (number, node) in cluster.nodes.iter().cycle().take(6).enumerate() {
        assert_eq!(try_on(node, &format!("user{number}@example.org")), 401);
    }
    for node in &cluster.nodes {
        node.wait_for_metric("taskflow_sign_in_attempts_heard_total", |heard| heard == 4.0);
        assert_eq!(try_on(node, "ada@example.org"), 429);
    }
}

#[test]
fn what_a_user_asks_of_one_node_is_taken_off_what_the_others_give() {
    let mut cluster = Nodes::start("rates", 0);
    for _ in 0..2 {
        cluster.add(&["--reads-a-second-max=20"]);
    }
    cluster.meet();
    let [here, there] = &cluster.nodes[..] else {
        unreachable!()
    };
    let (ada, bob) = (here.register(), here.register());
    let ask = |node: &Server, account: &Account| node.get("/api/v1/settings", account).status;
    let spend = |node: &Server| (0..).take_while(|_| ask(node, &ada) == 200).count();
    assert!(spend(here) >= 200, "ten seconds' worth, at once");
    // Without a word from the other it would be two hundred there, too.
    let mut passed = 0;
    eventually("the other has heard", || {
        passed += 1;
        (ask(there, &ada) == 429).then_some(())
    });
    assert!(passed < 190, "{passed}");
    assert_eq!(ask(there, &bob), 200);
}

#[test]
fn connections_on_other_nodes_count_while_there_are_others() {
    let mut cluster = Nodes::start("seats", 0);
    for _ in 0..3 {
        cluster.add(&["--connections-a-user-max=4"]);
    }
    cluster.meet();
    let [here, there, third] = &cluster.nodes[..] else {
        unreachable!()
    };
    let (ada, bob) = (here.register(), here.register());
    let is_open = |node: &Server, account: &Account| {
        let mut client = Client::connect(node, ENCODINGS[0]);
        client.send_hello(&account.token, &json!([]));
        let message = client.next();
        message
            .is_ok_and(|message| message.get("welcome").is_some())
            .then_some(client)
    };
    let mut held: Vec<_> = (0..2).map(|_| Client::open(here, ENCODINGS[0], &ada)).collect();
    let stream = EventStream::open(there.address, "/api/v1/events", &[&ada.bearer()]).unwrap();
    held.push(Client::open(there, ENCODINGS[0], &ada));
    let refused = eventually("the third node has heard of them", || {
        EventStream::open(third.address, "/api/v1/events", &[&ada.bearer()]).err()
    });
    eventually("sockets are refused there, too", || {
        is_open(third, &ada).is_none().then_some(())
    });
    assert_eq!((refused.status, refused.header("retry-after")), (429, Some("5")));
    assert!(is_open(third, &bob).is_some(), "others are not concerned");
    for client in &mut held {
        client.accept(&task("whoever is in stays in")["command"]);
    }
    drop(stream);
    held.push(eventually("there is room for one", || is_open(third, &ada)));
    eventually("the first has heard of it", || {
        is_open(here, &ada).is_none().then_some(())
    });
    cluster.nodes[1].kill();
    let [here, _, third] = &cluster.nodes[..] else {
        unreachable!()
    };
    held.push(eventually("what a dead node held does not count", || {
        is_open(here, &ada)
    }));
    eventually("and no more", || is_open(third, &ada).is_none().then_some(()));
}
