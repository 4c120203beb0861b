//! HTTP/1.1 over one kept-alive connection: the same few lines for every server that is compared.

use std::io;

use super::Dial;
use super::stream::Stream;
use memchr::memmem;

/// A connection that one request at a time uses.
pub struct Http {
    stream: Stream,
    host: String,
    unread: Vec<u8>,
}

/// An answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// The body.
    pub body: Vec<u8>,
}

impl Answer {
    /// The body as text, for messages.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

impl Http {
    /// Connects.
    pub async fn connect(dial: Dial) -> io::Result<Self> {
        Ok(Self::over(Stream::plain(dial.connect().await?), "localhost".to_owned()))
    }

    /// Over a connection that is there already, to the server of this name.
    pub fn over(stream: Stream, host: String) -> Self {
        Self {
            stream,
            host,
            unread: Vec::new(),
        }
    }

    /// Whether the server has ended it: before a request there is nothing to read but the end, and perhaps a last word (408).
    pub fn has_ended(&self) -> bool {
        let read = self.stream.try_read(&mut [0]);
        !self.unread.is_empty() || !read.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Sends a request and waits for its answer.
    pub async fn request(&mut self, method: &str, path: &str, token: Option<&str>, body: &str) -> io::Result<Answer> {
        self.request_with(method, path, token, "", body).await
    }

    /// The same with more lines of header, each with its end.
    pub async fn request_with(
        &mut self,
        method: &str,
        path: &str,
        token: Option<&str>,
        headers: &str,
        body: &str,
    ) -> io::Result<Answer> {
        let authorization = token.map_or_else(String::new, |token| format!("Authorization: Bearer {token}\r\n"));
        let content = if body.is_empty() {
            String::new()
        } else {
            format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len())
        };
        let host = &self.host;
        let request =
            format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\n{authorization}{headers}{content}\r\n{body}");
        self.stream.write_all(request.as_bytes()).await?;
        loop {
            if let Some((answer, used)) = parse(&self.unread)? {
                self.unread.drain(..used);
                return Ok(answer);
            }
            if self.stream.read_some(&mut self.unread).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}

/// The first answer in these bytes, and how many of them it is; `None` while it is not whole.
fn parse(bytes: &[u8]) -> io::Result<Option<(Answer, usize)>> {
    let Some(head_end) = memmem::find(bytes, b"\r\n\r\n").map(|at| at + 4) else {
        return Ok(None);
    };
    let head = std::str::from_utf8(&bytes[..head_end]).map_err(io::Error::other)?;
    let status: u16 = head
        .split(' ')
        .nth(1)
        .and_then(|word| word.parse().ok())
        .ok_or_else(|| io::Error::other("no status in the answer"))?;
    let header = |wanted: &str| {
        head.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case(wanted).then(|| value.trim())
        })
    };
    if let Some(length) = header("content-length") {
        let length: usize = length.parse().map_err(io::Error::other)?;
        let end = head_end + length;
        return Ok((bytes.len() >= end).then(|| {
            let body = bytes[head_end..end].to_vec();
            (Answer { status, body }, end)
        }));
    }
    if header("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked")) {
        return Ok(unchunk(&bytes[head_end..])?.map(|(body, used)| (Answer { status, body }, head_end + used)));
    }
    Ok(Some((
        Answer {
            status,
            body: Vec::new(),
        },
        head_end,
    )))
}

/// A chunked body (RFC 9112, section 7.1), and how many bytes it was; `None` while it is not whole.
fn unchunk(bytes: &[u8]) -> io::Result<Option<(Vec<u8>, usize)>> {
    let (mut body, mut at) = (Vec::new(), 0);
    loop {
        let Some(line_end) = memmem::find(&bytes[at..], b"\r\n").map(|end| at + end) else {
            return Ok(None);
        };
        let size = std::str::from_utf8(&bytes[at..line_end])
            .ok()
            .and_then(|line| usize::from_str_radix(line.split(';').next()?.trim(), 16).ok())
            .ok_or_else(|| io::Error::other("a chunk has no size"))?;
        let end = line_end + 2 + size;
        if bytes.len() < end + 2 {
            return Ok(None);
        }
        if size == 0 {
            return Ok(Some((body, end + 2)));
        }
        body.extend_from_slice(&bytes[line_end + 2..end]);
        at = end + 2;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(bytes: &str, expect: Option<(u16, &str, &str)>) {
        let got = parse(bytes.as_bytes()).unwrap();
        let got = got.map(|(answer, used)| (answer.status, answer.text(), bytes[used..].to_owned()));
        let expect = expect.map(|(status, body, rest)| (status, body.to_owned(), rest.to_owned()));
        assert_eq!(got, expect);
    }

    #[test]
    fn an_answer_ends_where_its_length_says() {
        check(
            "HTTP/1.1 201 Created\r\nContent-Length: 2\r\n\r\n{}HTTP",
            Some((201, "{}", "HTTP")),
        );
        check("HTTP/1.1 201 Created\r\nContent-Length: 3\r\n\r\n{}", None);
        check("HTTP/1.1 204 No Content\r\n\r\n", Some((204, "", "")));
    }

    #[test]
    fn chunks_are_joined() {
        let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        check(
            &format!("{head}2\r\nab\r\n3;x=y\r\ncde\r\n0\r\n\r\nrest"),
            Some((200, "abcde", "rest")),
        );
        check(&format!("{head}2\r\nab\r\n3\r\ncd"), None);
    }
    #[tokio::test]
    async fn what_the_server_ended_is_known_before_it_is_used() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        for last_word in ["", "HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n"] {
            let http = Http::connect(Dial::to(address)).await.unwrap();
            let server = Stream::plain(listener.accept().await.unwrap().0);
            assert!(!http.has_ended());
            server.write_all(last_word.as_bytes()).await.unwrap();
            drop(server);
            http.stream.ready(false).await.unwrap();
            assert!(http.has_ended(), "{last_word}");
        }
    }
}
