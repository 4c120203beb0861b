//! A client of a simulated cluster: keeps a copy of its feed, sends operations until it knows what became of them.

use std::collections::VecDeque;

use taskflow_protocol::message::Operation;
use taskflow_protocol::values::Seq;
use taskflow_protocol::{TaskId, UserId};

use super::plan::Time;
use crate::cursor::Cursor;
use crate::domain::State;

/// An operation that the client shows as pending.
#[derive(Clone, Debug)]
pub struct Pending {
    /// What it asks for.
    pub operation: Operation,
    /// How often it was sent.
    pub sent: u32,
    /// Over the present connection.
    pub is_under_way: bool,
    /// How far the feed was when it was sent for the first time.
    pub head_when_sent: Seq,
}

/// Where a client is connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connection {
    /// The node.
    pub node: usize,
    /// Which life of it.
    pub life: u32,
    /// Which connection of the client.
    pub number: u32,
}

/// See the module.
#[derive(Debug)]
pub struct Client {
    /// Whose feed it follows.
    pub feed: UserId,
    /// Where it is connected.
    pub connection: Option<Connection>,
    /// How many connections it has made.
    pub connections: u32,
    /// It has what was missed, and sends.
    pub is_current: bool,
    /// How far it has read.
    pub cursor: Option<Cursor>,
    /// Its copy.
    pub state: State,
    /// What it shows as pending.
    pub pending: VecDeque<Pending>,
    /// Tasks that it knows, or wanted to make.
    pub tasks: Vec<TaskId>,
    /// Its last message arrives then: messages of a connection keep their order, both ways.
    pub to_node_at: Time,
    /// See `to_node_at`.
    pub from_node_at: Time,
}

impl Client {
    /// A client that has nothing.
    pub fn new(feed: UserId) -> Self {
        Self {
            feed,
            connection: None,
            connections: 0,
            is_current: false,
            cursor: None,
            state: State::new(feed),
            pending: VecDeque::new(),
            tasks: Vec::new(),
            to_node_at: 0,
            from_node_at: 0,
        }
    }

    /// How far its copy is.
    pub fn position(&self) -> Seq {
        self.cursor.map_or(0, |cursor| cursor.seq)
    }

    /// The connection is over: what was under way may or may not arrive.
    pub fn disconnected(&mut self) {
        self.connection = None;
        self.is_current = false;
        for pending in &mut self.pending {
            pending.is_under_way = false;
        }
    }
}
