//! A backend that sends over the HTTP API: one kept-alive connection, one request at a time.

use std::io::{self, ErrorKind, Read, Write};

use im_cli::http::segment;
use mio::net::TcpStream;

use crate::plan::Api;

/// A message that waits for its answer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct UnderWay {
    pub(crate) room: usize,
    pub(crate) due: u64,
}

/// See the module's top.
pub(crate) struct Publisher {
    pub(crate) socket: TcpStream,
    under_way: Option<UnderWay>,
    out: Vec<u8>,
    rest: Vec<u8>,
}

/// What an answer says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Its length in the buffer.
    length: usize,
}

impl Publisher {
    pub(crate) fn new(socket: TcpStream) -> Self {
        Self {
            socket,
            under_way: None,
            out: Vec::new(),
            rest: Vec::new(),
        }
    }

    pub(crate) fn is_free(&self) -> bool {
        self.under_way.is_none()
    }

    pub(crate) fn send(
        &mut self,
        api: &Api,
        room: &str,
        client_id: &str,
        body: &str,
        one: UnderWay,
    ) {
        let content = serde_json::json!({"client_id": client_id, "body": body}).to_string();
        let request = format!(
            "POST /v1/rooms/{}/messages HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {}\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{content}",
            segment(room),
            api.address,
            api.token,
            content.len()
        );
        self.out.extend_from_slice(request.as_bytes());
        self.under_way = Some(one);
        self.flush();
    }

    pub(crate) fn flush(&mut self) {
        while !self.out.is_empty() {
            match self.socket.write(&self.out) {
                Ok(n) if n > 0 => drop(self.out.drain(..n)),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                _ => return,
            }
        }
    }

    /// Reads what has come: the answered message and its status.
    ///
    /// # Errors
    /// The connection is over.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> io::Result<Option<(UnderWay, u16)>> {
        loop {
            match self.socket.read(buffer) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(length) => self.rest.extend_from_slice(&buffer[..length]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        let Some(answer) = answer(&self.rest) else {
            return Ok(None);
        };
        drop(self.rest.drain(..answer.length));
        Ok(self.under_way.take().map(|one| (one, answer.status)))
    }
}

/// A whole answer at the front of `bytes`.
fn answer(bytes: &[u8]) -> Option<Answer> {
    let head = memchr::memmem::find(bytes, b"\r\n\r\n")? + 4;
    let text = std::str::from_utf8(&bytes[..head]).ok()?;
    let status = text.get(9..12)?.parse().ok()?;
    let length = text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length")
            .then(|| value.trim().parse::<usize>().ok())?
    });
    let length = head + length.unwrap_or(0);
    (bytes.len() >= length).then_some(Answer { status, length })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_whole_with_its_body() {
        let text = b"HTTP/1.1 201 Created\r\nContent-Length: 2\r\n\r\n{}HTTP/1.1 200 OK";
        assert_eq!(
            answer(text),
            Some(Answer {
                status: 201,
                length: 45 - 2 + 2
            })
        );
        assert_eq!(answer(&text[..43]), None);
        assert_eq!(answer(b"HTTP/1.1 2"), None);
    }
}
