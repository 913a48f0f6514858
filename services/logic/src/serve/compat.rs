//! The routes that goim's and golang-im's backends call, as those call them: same paths, same parameters, same answers.
//! Unlike the originals, all of them need a token.

mod goim;
mod golang_im;

use axum::Router;

use crate::call::Handle;

/// All of them.
pub(crate) fn routes() -> Router<Handle> {
    goim::routes().merge(golang_im::routes())
}

/// A token where the originals' callers put theirs: `Authorization: Bearer …`, the header `token`, the query's `token`; and
/// whether it stands in the query.
pub(crate) fn token<'a>(headers: &'a axum::http::HeaderMap, params: &'a crate::serve::http::Params) -> (&'a str, bool) {
    let bearer = crate::serve::http::bearer(headers);
    if !bearer.is_empty() {
        return (bearer, false);
    }
    let header = headers.get("token").and_then(|value| value.to_str().ok()).filter(|token| !token.is_empty());
    match header {
        Some(token) => (token, false),
        None => (params.text("token").unwrap_or_default(), true),
    }
}
