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
