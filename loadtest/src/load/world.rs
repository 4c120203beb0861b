//! What the tasks of one generator share.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use taskflow_protocol::TaskId;
use tokio::sync::Semaphore;

use super::check::{Feed, Wrong};
use super::plan::Plan;
use super::screen::Screen;
use super::tally::{Count, Meter};
use super::target::{Target, Trouble};
use crate::net::http::{Answer, Http};

/// Requests under way at a time: each has a connection, and what is more waits, on the clock of what was due.
pub const REQUESTS_MAX: usize = 512;
/// From a request to its answer.
const REQUEST_PATIENCE: Duration = Duration::from_secs(30);
/// Tasks of a user that are remembered, to be edited and completed.
const TASKS_MAX: usize = 32;

/// See the module. One thread has it.
pub struct World {
    /// What is to be done.
    pub plan: Plan,
    /// Where to.
    pub target: Target,
    /// What is counted and timed.
    pub meter: RefCell<Meter>,
    /// By user.
    pub feeds: Vec<RefCell<Feed>>,
    tasks: Vec<RefCell<Vec<TaskId>>>,
    /// Of the users in turn.
    pub screens: Vec<Rc<Screen>>,
    /// Screens that are current.
    pub up: Cell<u64>,
    /// Changes by REST without an answer yet.
    pub under_way: Cell<u64>,
    /// Nobody connects any more.
    pub is_over: Cell<bool>,
    random: RefCell<StdRng>,
    idle: RefCell<Vec<Http>>,
    requests: Semaphore,
    dialled: Cell<usize>,
    numbers: Cell<u64>,
}

impl World {
    /// Before anything is connected.
    pub fn new(plan: Plan) -> Result<Rc<Self>, Trouble> {
        let target = Target::new(&plan.url, plan.ca.as_deref(), &plan.sources)?;
        let users = plan.users.len();
        let slow_of = plan.scenario.shape().slow_of;
        let screens = (0..plan.connections).map(|number| {
            let is_slow = slow_of.is_some_and(|of| number / users % of == of - 1);
            Rc::new(Screen::new(number, number % users, is_slow))
        });
        Ok(Rc::new(Self {
            meter: RefCell::default(),
            feeds: (0..users).map(|_| RefCell::default()).collect(),
            tasks: (0..users).map(|_| RefCell::default()).collect(),
            screens: screens.collect(),
            up: Cell::new(0),
            under_way: Cell::new(0),
            is_over: Cell::new(false),
            random: RefCell::new(StdRng::seed_from_u64(plan.seed)),
            idle: RefCell::default(),
            requests: Semaphore::new(REQUESTS_MAX),
            dialled: Cell::new(plan.connections),
            numbers: Cell::new(0),
            target,
            plan,
        }))
    }

    /// One more.
    pub fn count(&self, count: Count) {
        self.meter.borrow_mut().count(count);
    }

    /// Something went wrong.
    pub fn error(&self, sentence: impl Into<String>) {
        self.meter.borrow_mut().error(sentence);
    }

    /// The server did what it must never do.
    pub fn wrong(&self, wrong: Wrong) {
        let mut meter = self.meter.borrow_mut();
        match wrong {
            Wrong::Lost(number) => meter.count_many(Count::Lost, number),
            Wrong::Doubled => meter.count(Count::Doubled),
            Wrong::Disordered => meter.count(Count::Disordered),
        }
    }

    /// Something took from then until now.
    pub fn time(&self, timed: super::tally::Timed, from_ns: u64) {
        self.meter.borrow_mut().time(timed, from_ns, crate::clock::now_ns());
    }

    /// A number below this one.
    pub fn below(&self, end: usize) -> usize {
        self.random.borrow_mut().random_range(0..end.max(1))
    }

    /// Another one each time.
    pub fn next_number(&self) -> u64 {
        self.numbers.replace(self.numbers.get() + 1)
    }

    /// A share of this time.
    pub fn part_of(&self, whole: Duration) -> Duration {
        whole.mul_f64(self.random.borrow_mut().random())
    }

    /// A user's screen to write from: one that is current, if there is one, and never one that reads slowly.
    pub fn screen_of(&self, user: usize) -> &Rc<Screen> {
        let mine: Vec<_> = self.screens.iter().skip(user).step_by(self.feeds.len()).collect();
        let good: Vec<_> = mine.iter().filter(|screen| !screen.is_slow).collect();
        let current: Vec<_> = good.iter().filter(|screen| screen.is_current.get()).collect();
        let random = &mut *self.random.borrow_mut();
        let chosen = current.choose(random).map(|screen| ***screen);
        chosen
            .or_else(|| good.choose(random).map(|screen| **screen))
            .unwrap_or(mine[0])
    }

    /// A user's task that was made.
    pub fn task_of(&self, user: usize) -> Option<TaskId> {
        self.tasks[user]
            .borrow()
            .choose(&mut *self.random.borrow_mut())
            .copied()
    }

    /// The same, and it is forgotten: completed twice, it would not change.
    pub fn take_task_of(&self, user: usize) -> Option<TaskId> {
        let task = self.task_of(user)?;
        self.tasks[user].borrow_mut().retain(|other| *other != task);
        Some(task)
    }

    /// A user's task was made.
    pub fn remember(&self, user: usize, task: TaskId) {
        let mut tasks = self.tasks[user].borrow_mut();
        if tasks.len() == TASKS_MAX {
            tasks.remove(0);
        }
        tasks.push(task);
    }

    /// Sends a request and waits for its answer, over a connection that is kept, or a new one.
    pub async fn request(
        &self,
        method: &str,
        path: &str,
        token: Option<&str>,
        headers: &str,
        body: &str,
    ) -> io::Result<Answer> {
        let _permit = self.requests.acquire().await.map_err(io::Error::other)?;
        let kept = self.idle.borrow_mut().pop();
        let answered = async {
            if let Some(mut http) = kept {
                match http.request_with(method, path, token, headers, body).await {
                    // The server may end a connection that is kept at any time: a request on it is sent again, as every
                    // client does. (All of ours may be.)
                    Err(error) if is_ended(&error) => {}
                    answer => return answer.map(|answer| (http, answer)),
                }
            }
            let number = self.dialled.replace(self.dialled.get() + 1);
            let mut http = self.target.http(number).await?;
            let answer = http.request_with(method, path, token, headers, body).await?;
            Ok((http, answer))
        };
        let (http, answer) = tokio::time::timeout(REQUEST_PATIENCE, answered)
            .await
            .map_err(|_| io::ErrorKind::TimedOut)??;
        self.idle.borrow_mut().push(http);
        Ok(answer)
    }
}

fn is_ended(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
    )
}
