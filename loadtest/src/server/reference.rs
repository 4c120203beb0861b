//! The reference servers of `loadtest/reference`.

use std::net::SocketAddr;

use anyhow::Result;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use super::{Bench, User, free_address, output_of, parse_users, wait_until_listening};
use crate::net::Dial;
use crate::net::socket::Socket;
use crate::process::Process;

/// A running reference server.
pub struct Reference {
    /// Its process.
    pub process: Process,
    address: SocketAddr,
    control: BufReader<TcpStream>,
}

impl Reference {
    /// Starts one of the stacks.
    pub async fn start(bench: &mut Bench, stack: &str) -> Result<Self> {
        let (address, control) = (free_address()?, free_address()?);
        let arguments = [
            "serve".to_owned(),
            format!("--stack={stack}"),
            format!("--listen={address}"),
            format!("--control={control}"),
        ];
        let program = bench.reference_binary.clone();
        let mut process = bench.start(&program, &arguments, None, "reference.log")?;
        wait_until_listening(address, &mut process).await?;
        let control = TcpStream::connect(control).await?;
        control.set_nodelay(true)?;
        Ok(Self {
            process,
            address,
            control: BufReader::new(control),
        })
    }

    /// Users with tokens.
    pub fn users(bench: &Bench, count: usize) -> Result<Vec<User>> {
        parse_users(&output_of(
            &bench.reference_binary,
            &["token", &format!("--count={count}")],
        )?)
    }

    /// Opens a connection.
    pub async fn open(&self, number: usize, user: Option<&User>) -> std::io::Result<Socket> {
        let path = user.map_or_else(|| "/ws".to_owned(), |user| format!("/ws?token={}", user.token));
        Socket::open(Dial::to(self.address).number(number), &path, None).await
    }

    /// Pushes a message with this number to everyone.
    pub async fn publish(&mut self, number: u32, size: usize) -> Result<()> {
        let line = format!("publish {number} {size}\n");
        self.control.get_mut().write_all(line.as_bytes()).await?;
        Ok(())
    }

    /// How many are connected.
    pub async fn connections(&mut self) -> Result<usize> {
        self.control.get_mut().write_all(b"connections\n").await?;
        let mut line = String::new();
        self.control.read_line(&mut line).await?;
        Ok(line.trim().parse()?)
    }
}
