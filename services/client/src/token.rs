//! Where tokens come from: a fixed string, or something asked again before the old one ends.

use std::future::Future;
use std::sync::Arc;

use futures::future::BoxFuture;

/// Why a token could not be had; shown to people, and tried again.
pub type TokenError = Box<dyn std::error::Error + Send + Sync>;

/// Gives signed tokens. Asked before each connection and before the current token ends.
pub trait TokenSource: Send + Sync + 'static {
    /// A token that is good for some time to come.
    fn token(&self) -> BoxFuture<'static, Result<String, TokenError>>;

    /// Whether asking again can give another token. Where not, an expired or refused token ends the client.
    fn renewable(&self) -> bool {
        true
    }
}

/// The same token always.
impl TokenSource for String {
    fn token(&self) -> BoxFuture<'static, Result<String, TokenError>> {
        let token = self.clone();
        Box::pin(async move { Ok(token) })
    }

    fn renewable(&self) -> bool {
        false
    }
}

/// The same token always.
impl TokenSource for &'static str {
    fn token(&self) -> BoxFuture<'static, Result<String, TokenError>> {
        (*self).to_owned().token()
    }

    fn renewable(&self) -> bool {
        false
    }
}

impl<S: TokenSource + ?Sized> TokenSource for Arc<S> {
    fn token(&self) -> BoxFuture<'static, Result<String, TokenError>> {
        (**self).token()
    }

    fn renewable(&self) -> bool {
        (**self).renewable()
    }
}

/// Asks an async closure; see [`from_fn`].
#[derive(Debug, Clone)]
pub struct FromFn<F>(F);

/// A source that calls `ask` for each token.
///
/// ```
/// let source = im_client::token::from_fn(|| async { Ok("eyJ…".to_owned()) });
/// # let _ = source;
/// ```
pub fn from_fn<F, Fut>(ask: F) -> FromFn<F>
where
    F: Fn() -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<String, TokenError>> + Send + 'static,
{
    FromFn(ask)
}

impl<F, Fut> TokenSource for FromFn<F>
where
    F: Fn() -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<String, TokenError>> + Send + 'static,
{
    fn token(&self) -> BoxFuture<'static, Result<String, TokenError>> {
        Box::pin((self.0)())
    }
}
