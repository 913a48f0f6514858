//! `imctl delete`: the end of a room.

use hyper::Method;
use im_cli::failure::Failure;
use im_cli::http;
use im_cli::output::Output;

use crate::api;
use crate::args::DeleteArgs;
use crate::session::Credentials;
use crate::text::printable;

/// Deletes a room.
pub(crate) async fn run(
    args: &DeleteArgs,
    credentials: &Credentials,
    output: &mut Output,
) -> Result<(), Failure> {
    let path = format!("/v1/rooms/{}", http::segment(&args.room));
    let answer = api::send(&args.connect, credentials, Method::DELETE, &path, None).await?;
    if args.connect.json {
        return output.json(&answer);
    }
    output.line(&format!("{}: deleted", printable(&args.room)))
}
