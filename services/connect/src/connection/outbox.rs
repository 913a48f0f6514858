//! The one way out of a connection. What the socket takes at once is written at once; the rest waits here, bounded in
//! bytes, until the socket is writable again. An empty outbox owns nothing.

use std::cell::Cell;
use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf, Bytes};
use tokio::sync::Notify;

/// How many of what waits go into one write.
const JOINED: usize = 64;

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

    /// Writes as much as `write` takes, joined. Returns whether everything has gone; an error is the socket's end.
    pub(crate) fn flush(
        &mut self,
        mut write: impl FnMut(&[IoSlice<'_>]) -> std::io::Result<usize>,
    ) -> std::io::Result<bool> {
        while !self.waiting.is_empty() {
            let mut slices = [IoSlice::new(&[]); JOINED];
            let joined = self.waiting.len().min(JOINED);
            for (slice, bytes) in slices.iter_mut().zip(&self.waiting) {
                *slice = IoSlice::new(bytes);
            }
            match write(&slices[..joined]) {
                Ok(0) => return Err(std::io::ErrorKind::WriteZero.into()),
                Ok(written) => self.written(written),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.waiting = VecDeque::new();
        Ok(true)
    }

    fn written(&mut self, mut length: usize) {
        self.bytes -= length;
        while let Some(front) = self.waiting.front_mut().filter(|_| length > 0) {
            let part = length.min(front.len());
            front.advance(part);
            length -= part;
            if front.is_empty() {
                self.waiting.pop_front();
            }
        }
    }

    /// Drops what waits but what has to follow what was written already, where that is no more than `most`. `false`: it
    /// is, and nothing is left.
    pub(crate) fn keep_first(&mut self, most: usize) -> bool {
        let first = self.waiting.pop_front().filter(|first| first.len() <= most);
        self.clear();
        first.map(|first| self.push(first)).is_some()
    }

    /// Nothing that waits will be written.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }
}

/// What the outboxes of a shard hold together, in bytes; shared ones count for each that holds them.
#[derive(Debug)]
pub(crate) struct Budget {
    bound: usize,
    held: Cell<usize>,
    exceeded: Notify,
}

impl Budget {
    pub(crate) fn new(bound: usize) -> Self {
        Self {
            bound,
            held: Cell::new(0),
            exceeded: Notify::new(),
        }
    }

    pub(crate) fn bound(&self) -> usize {
        self.bound
    }

    pub(crate) fn held(&self) -> usize {
        self.held.get()
    }

    /// An outbox held `before` and holds `after`.
    pub(crate) fn changed(&self, before: usize, after: usize) {
        self.held
            .set((self.held.get() + after).saturating_sub(before));
        if after > before && self.held.get() > self.bound {
            self.exceeded.notify_one();
        }
    }

    /// Returns when they hold more than they may.
    pub(crate) async fn exceeded(&self) {
        self.exceeded.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joined(slices: &[IoSlice<'_>]) -> Vec<u8> {
        slices
            .iter()
            .flat_map(|slice| slice.iter().copied())
            .collect()
    }

    #[test]
    fn what_the_socket_does_not_take_waits_in_order() {
        let mut outbox = Outbox::default();
        outbox.push(Bytes::from_static(b"one"));
        outbox.push(Bytes::from_static(b"two"));
        let mut taken = Vec::new();
        let mut room = 4;
        let mut write = |slices: &[IoSlice<'_>]| {
            let bytes = joined(slices);
            let n = bytes.len().min(room);
            room -= n;
            taken.extend_from_slice(&bytes[..n]);
            if n == 0 {
                Err(std::io::ErrorKind::WouldBlock.into())
            } else {
                Ok(n)
            }
        };
        assert!(!outbox.flush(&mut write).unwrap());
        assert_eq!(outbox.len(), 2);
        assert!(
            outbox
                .flush(|slices| {
                    taken.extend_from_slice(&joined(slices));
                    Ok(joined(slices).len())
                })
                .unwrap()
        );
        assert_eq!((taken.as_slice(), outbox.len()), (&b"onetwo"[..], 0));
    }

    #[test]
    fn what_waits_leaves_joined() {
        let mut outbox = Outbox::default();
        for number in 0..150_u8 {
            outbox.push(vec![number; 3].into());
        }
        let mut writes = Vec::new();
        let flushed = outbox.flush(|slices| {
            // The socket does not take the last byte of each.
            let length = joined(slices).len() - 1;
            writes.push(joined(slices)[..length.max(1)].to_vec());
            Ok(length.max(1))
        });
        assert!(flushed.unwrap());
        let expected: Vec<u8> = (0..150).flat_map(|number| [number; 3]).collect();
        assert_eq!(writes.concat(), expected);
        assert_eq!((outbox.len(), outbox.is_empty()), (0, true));
        assert!(writes.len() < 8, "{} writes", writes.len());
    }

    #[test]
    fn a_broken_socket_is_an_error() {
        let mut outbox = Outbox::default();
        outbox.push(Bytes::from_static(b"one"));
        assert!(
            outbox
                .flush(|_| Err(std::io::ErrorKind::BrokenPipe.into()))
                .is_err()
        );
        assert!(outbox.flush(|_| Ok(0)).is_err());
    }
}
