//! The scenarios. Each leaves a [`Record`].

pub mod fanout;

use std::cell::Cell;
use std::future::Future;
use std::rc::Rc;

use anyhow::{Result, bail};
use clap::ValueEnum;

use crate::clock;
use crate::machine::Machine;
use crate::net::socket::Socket;
use crate::record::Record;
use crate::server::Bench;

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Scenario {
    /// CPU and last-screen time of pushes to 5,000 connections, beside the bare floor.
    Fanout,
}

impl Scenario {
    /// The name on the command line and of the file of results.
    pub fn name(self) -> String {
        self.to_possible_value()
            .map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// Runs it.
    pub async fn run(self, bench: &mut Bench) -> Result<Record> {
        let mut record = Record {
            scenario: self.name(),
            date: clock::today(),
            machine: Machine::here(),
            quick: bench.quick,
            ..Record::default()
        };
        bench.commands.clear();
        match self {
            Self::Fanout => fanout::run(bench, &mut record).await?,
        }
        record.commands = std::mem::take(&mut bench.commands);
        Ok(record)
    }
}

/// Opens `count` connections, `at_once` at a time, and gives them in no order.
///
/// One that fails ends the scenario: what is measured is so many connections, not nearly so many.
pub async fn open_many<F, T>(
    count: usize,
    at_once: usize,
    open: impl Fn(usize) -> F + Clone + 'static,
) -> Result<Vec<T>>
where
    F: Future<Output = Result<T>>,
    T: 'static,
{
    let next = Rc::new(Cell::new(0));
    let diallers: Vec<_> = (0..at_once.min(count))
        .map(|_| {
            let (next, open) = (next.clone(), open.clone());
            tokio::task::spawn_local(async move {
                let mut opened = Vec::new();
                loop {
                    let number = next.replace(next.get() + 1);
                    if number >= count {
                        return Ok::<_, anyhow::Error>(opened);
                    }
                    opened.push(open(number).await?);
                }
            })
        })
        .collect();
    let mut all = Vec::with_capacity(count);
    for dialler in diallers {
        all.append(&mut dialler.await??);
    }
    if all.len() != count {
        bail!("{} of {count} connections were opened", all.len());
    }
    Ok(all)
}

/// A connection and nothing else.
pub type Sockets = Vec<Socket>;
