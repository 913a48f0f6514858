//! A client's socket as hyper writes to it: a client that does not take its answer in time is cut off, and what the request
//! held is given back when the answer has left.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// What is held until everything written so far has left.
#[derive(Debug)]
pub(super) struct Unsent<T>(Arc<Mutex<Option<T>>>);

impl<T> Default for Unsent<T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<T> Clone for Unsent<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> Unsent<T> {
    pub(super) fn put(&self, held: Option<T>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = held;
    }
}

/// The socket.
#[derive(Debug)]
pub(super) struct WriteTimeout<S, T> {
    inner: S,
    timeout: Duration,
    /// Runs from the first write that the socket did not take until everything has left.
    deadline: Option<Pin<Box<Sleep>>>,
    unsent: Unsent<T>,
}

impl<S, T> WriteTimeout<S, T> {
    pub(super) fn new(inner: S, timeout: Duration, unsent: Unsent<T>) -> Self {
        Self {
            inner,
            timeout,
            deadline: None,
            unsent,
        }
    }

    fn checked<R>(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<R>>,
    ) -> Poll<io::Result<R>> {
        if written.is_ready() && self.deadline.is_none() {
            return written;
        }
        let until = Instant::now() + self.timeout;
        let deadline = self
            .deadline
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
        match deadline.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => written,
        }
    }
}

impl<S: AsyncRead + Unpin, T> AsyncRead for WriteTimeout<S, T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(context, into)
    }
}

impl<S: AsyncWrite + Unpin, T> AsyncWrite for WriteTimeout<S, T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(context, bytes);
        self.checked(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write_vectored(context, parts);
        self.checked(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    /// hyper flushes once its own buffer is empty.
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.inner).poll_flush(context))?;
        self.deadline = None;
        self.unsent.put(None);
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_does_not_read_is_cut_off_and_gives_back_what_it_held() {
        let (ours, mut theirs) = tokio::io::duplex(10);
        let unsent = Unsent::default();
        let held = Arc::new(());
        let mut ours = WriteTimeout::new(ours, Duration::from_secs(10), unsent.clone());
        unsent.put(Some(Arc::clone(&held)));
        let reading = async { theirs.read_exact(&mut [0; 15]).await };
        let (written, read) = futures::future::join(ours.write_all(&[1; 15]), reading).await;
        assert!(written.is_ok() && read.is_ok());
        assert_eq!(Arc::strong_count(&held), 2, "not flushed yet");
        ours.flush().await.unwrap();
        assert_eq!(Arc::strong_count(&held), 1);
        let began = Instant::now();
        let cut = ours.write_all(&[1; 15]).await.unwrap_err();
        assert_eq!(
            (cut.kind(), began.elapsed().as_secs()),
            (io::ErrorKind::TimedOut, 10)
        );
    }
}
