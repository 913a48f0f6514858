//! A queue between two parts of a process that is bounded in places and in bytes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::mpsc;
use tokio::sync::mpsc::error::{SendError, TryRecvError, TrySendError};

/// About what an item takes besides what it carries, in bytes.
pub const AROUND: usize = 256;

/// What may wait in a queue.
pub trait Weigh {
    /// About how many bytes it takes while it waits; 0: it is bounded in number only. Always the same for the same item.
    fn bytes(&self) -> usize;
}

/// A queue of so many places, for so many bytes.
pub fn queue<T: Weigh>(places: usize, bytes: usize) -> (Sender<T>, Receiver<T>) {
    let (into, items) = mpsc::channel(places);
    let waiting = Arc::new(AtomicUsize::new(0));
    let sender = Sender {
        into,
        waiting: Arc::clone(&waiting),
        bound: bytes,
    };
    (sender, Receiver { items, waiting })
}

/// Where items go in. Items come out in the order in which they went in.
#[derive(Debug)]
pub struct Sender<T> {
    into: mpsc::Sender<T>,
    waiting: Arc<AtomicUsize>,
    bound: usize,
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Self {
            into: self.into.clone(),
            waiting: Arc::clone(&self.waiting),
            bound: self.bound,
        }
    }
}

impl<T: Weigh> Sender<T> {
    /// Puts an item in, where it finds a place and its bytes are not too many. One that is larger than the bound goes in
    /// where no other bytes wait.
    ///
    /// # Errors
    /// The queue is full, by places or by bytes, or its receiver has gone.
    pub fn try_send(&self, item: T) -> Result<(), TrySendError<T>> {
        let bytes = item.bytes();
        let before = self.waiting.fetch_add(bytes, Ordering::Relaxed);
        let refused = if bytes > 0 && before > 0 && before.saturating_add(bytes) > self.bound {
            Err(TrySendError::Full(item))
        } else {
            self.into.try_send(item)
        };
        if refused.is_err() {
            self.waiting.fetch_sub(bytes, Ordering::Relaxed);
        }
        refused
    }

    /// Waits for a place, however many bytes wait: for what must not be lost.
    ///
    /// # Errors
    /// The receiver has gone.
    pub async fn send(&self, item: T) -> Result<(), SendError<T>> {
        match self.reserve().await {
            Some(place) => {
                place.send(item);
                Ok(())
            }
            None => Err(SendError(item)),
        }
    }

    /// Waits for a place, to decide then what to put in; `None`: the receiver has gone. Cancelling it loses nothing.
    pub async fn reserve(&self) -> Option<Place<'_, T>> {
        let place = self.into.reserve().await.ok()?;
        Some(Place {
            place,
            waiting: &self.waiting,
        })
    }

    /// Waits until the receiver has gone.
    pub async fn closed(&self) {
        self.into.closed().await;
    }
}

/// A place that was waited for.
#[derive(Debug)]
pub struct Place<'a, T> {
    place: mpsc::Permit<'a, T>,
    waiting: &'a AtomicUsize,
}

impl<T: Weigh> Place<'_, T> {
    /// Puts an item in, however many bytes wait.
    pub fn send(self, item: T) {
        self.waiting.fetch_add(item.bytes(), Ordering::Relaxed);
        self.place.send(item);
    }
}

/// Where items come out.
#[derive(Debug)]
pub struct Receiver<T> {
    items: mpsc::Receiver<T>,
    waiting: Arc<AtomicUsize>,
}

impl<T: Weigh> Receiver<T> {
    fn taken(&self, bytes: usize) {
        self.waiting.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// The next item; `None`: all senders have gone.
    pub async fn recv(&mut self) -> Option<T> {
        let item = self.items.recv().await?;
        self.taken(item.bytes());
        Some(item)
    }

    /// Appends what waits to `items`, `most` at most, and waits where nothing does. Returns how many came; 0: all senders
    /// have gone. Cancelling it loses nothing.
    pub async fn recv_many(&mut self, items: &mut Vec<T>, most: usize) -> usize {
        let before = items.len();
        let count = self.items.recv_many(items, most).await;
        self.taken(items[before..].iter().map(T::bytes).sum());
        count
    }

    /// The next item, if one waits.
    ///
    /// # Errors
    /// There is none, or there never will be.
    pub fn try_recv(&mut self) -> Result<T, TryRecvError> {
        let item = self.items.try_recv()?;
        self.taken(item.bytes());
        Ok(item)
    }

    /// How many items wait.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether none does.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// How many bytes wait.
    pub fn bytes(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq)]
    struct Item(usize);

    impl Weigh for Item {
        fn bytes(&self) -> usize {
            self.0
        }
    }

    fn full(sent: Result<(), TrySendError<Item>>) -> bool {
        matches!(sent, Err(TrySendError::Full(_)))
    }

    #[tokio::test]
    async fn places_and_bytes_are_bounded_and_given_back_however_they_are_taken() {
        let (into, mut from) = queue(4, 100);
        for _ in 0..3 {
            assert!(into.try_send(Item(40)).is_ok());
            assert!(into.try_send(Item(60)).is_ok());
            assert!(full(into.try_send(Item(1))), "bytes");
            assert!(into.try_send(Item(0)).is_ok(), "it takes none");
            into.send(Item(50)).await.unwrap();
            assert!(full(into.try_send(Item(0))), "places");
            assert_eq!((from.len(), from.bytes()), (4, 150));
            assert_eq!(from.recv().await, Some(Item(40)));
            assert_eq!(from.try_recv(), Ok(Item(60)));
            let mut rest = Vec::new();
            assert_eq!(from.recv_many(&mut rest, 10).await, 2);
            assert_eq!(
                (rest, from.bytes(), from.is_empty()),
                (vec![Item(0), Item(50)], 0, true)
            );
        }
    }

    #[tokio::test]
    async fn one_that_is_larger_than_the_bound_passes_alone() {
        let (into, mut from) = queue(4, 100);
        assert!(into.try_send(Item(500)).is_ok());
        assert!(full(into.try_send(Item(1))));
        assert_eq!(from.recv().await, Some(Item(500)));
        assert!(into.try_send(Item(1)).is_ok());
        assert!(full(into.try_send(Item(500))));
    }

    #[tokio::test]
    async fn a_receiver_that_has_gone_is_told_and_costs_no_bytes() {
        let (into, from) = queue(4, 100);
        drop(from);
        for _ in 0..2 {
            assert!(matches!(
                into.try_send(Item(80)),
                Err(TrySendError::Closed(_))
            ));
        }
        assert!(into.reserve().await.is_none() && into.send(Item(1)).await.is_err());
        into.closed().await;
    }
}
