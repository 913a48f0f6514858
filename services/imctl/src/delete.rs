//! `imctl delete`: the end of a room.

use hyper::Method;

use crate::args::DeleteArgs;
use crate::failure::Failure;
use crate::http;
use crate::output::{Output, printable};
use crate::session::Credentials;

/// Deletes a room.
pub(crate) async fn run(args: &DeleteArgs, credentials: &Credentials, output: &mut Output) -> Result<(), Failure> {
    let path = format!("/v1/rooms/{}", http::segment(&args.room));
    let answer = http::send(&args.connect, credentials, Method::DELETE, &path, None).await?;
    if args.connect.json {
        return output.json(&answer);
    }
    output.line(&format!("{}: deleted", printable(&args.room)))
}
