//! The one way out of a connection. What the socket takes at once is written at once; the rest waits here, bounded in
//! bytes, until the socket is writable again. An empty outbox owns nothing.

use std::collections::VecDeque;

use bytes::{Buf, Bytes};

/// What waits for the socket.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    waiting: VecDeque<Bytes>,
    bytes: usize,
}

impl Outbox {
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Bytes that wait.
    pub(crate) fn len(&self) -> usize {
        self.bytes
    }

    pub(crate) fn push(&mut self, bytes: Bytes) {
        if !bytes.is_empty() {
            self.bytes += bytes.len();
            self.waiting.push_back(bytes);
        }
    }

    /// Writes as much as `write` takes. Returns whether everything has gone; an error is the socket's end.
    pub(crate) fn flush(&mut self, mut write: impl FnMut(&[u8]) -> std::io::Result<usize>) -> std::io::Result<bool> {
        while let Some(front) = self.waiting.front_mut() {
            match write(front) {
                Ok(0) => return Err(std::io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    self.bytes -= written;
                    front.advance(written);
                    if front.is_empty() {
                        self.waiting.pop_front();
                    }
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.waiting = VecDeque::new();
        Ok(true)
    }

    /// Nothing that waits will be written.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_socket_does_not_take_waits_in_order() {
        let mut outbox = Outbox::default();
        outbox.push(Bytes::from_static(b"one"));
        outbox.push(Bytes::from_static(b"two"));
        let mut taken = Vec::new();
        let mut room = 4;
        let mut write = |bytes: &[u8]| {
            let n = bytes.len().min(room);
            room -= n;
            taken.extend_from_slice(&bytes[..n]);
            if n == 0 { Err(std::io::ErrorKind::WouldBlock.into()) } else { Ok(n) }
        };
        assert!(!outbox.flush(&mut write).unwrap());
        assert_eq!(outbox.len(), 2);
        assert!(
            outbox
                .flush(|bytes| {
                    taken.extend_from_slice(bytes);
                    Ok(bytes.len())
                })
                .unwrap()
        );
        assert_eq!((taken.as_slice(), outbox.len()), (&b"onetwo"[..], 0));
    }

    #[test]
    fn a_broken_socket_is_an_error() {
        let mut outbox = Outbox::default();
        outbox.push(Bytes::from_static(b"one"));
        assert!(outbox.flush(|_| Err(std::io::ErrorKind::BrokenPipe.into())).is_err());
        assert!(outbox.flush(|_| Ok(0)).is_err());
    }
}
