//! `imctl history`: a part of a room's log.

use im_cli::failure::Failure;
use im_cli::output::Output;
use im_client::{Client, Message, Page, Part, RoomId};

use crate::args::HistoryArgs;
use crate::session::{Credentials, Session, one_room};
use crate::text;

/// Asked for at once; servers have a limit of their own as well.
const PAGE: u32 = 200;

pub(crate) async fn run(
    args: &HistoryArgs,
    credentials: &Credentials,
    output: &mut Output,
) -> Result<(), Failure> {
    let room = one_room(&args.room, credentials.user().as_ref())?;
    let session = Session::open(&args.connect, credentials).await?;
    let part = match (args.after, args.before) {
        (Some(after), _) => Part::After(after),
        (None, Some(before)) => Part::Before(before),
        (None, None) => Part::Latest,
    };
    let (messages, truncated) = read(&session.client, &room, part, args.limit).await?;
    if let Some((from, to)) = truncated {
        if args.connect.json {
            output.json(&serde_json::json!({"truncated": {"from": from, "to": to}}))?;
        } else {
            output.line(&format!("({from} to {to} are gone: retention)"))?;
        }
    }
    for message in &messages {
        text::print(message, args.connect.json, output)?;
    }
    session.client.close().await;
    Ok(())
}

/// As many pages as it takes; ascending by seq.
pub(crate) async fn read(
    client: &Client,
    room: &RoomId,
    part: Part,
    limit: u32,
) -> Result<(Vec<Message>, Option<(u64, u64)>), Failure> {
    let mut part = part;
    let mut all: Vec<Message> = Vec::new();
    let mut gone = None;
    while (all.len() as u32) < limit {
        let wanted = (limit - all.len() as u32).min(PAGE);
        let Page {
            messages,
            truncated,
            ..
        } = client.history(room.clone(), part, wanted).await?;
        gone = gone.or(truncated);
        let (Some(first), Some(last)) = (messages.first(), messages.last()) else {
            break;
        };
        let first = first.seq;
        let last = last.seq;
        if let Part::After(_) = part {
            part = Part::After(last);
            all.extend(messages);
        } else {
            part = Part::Before(first);
            all.splice(0..0, messages);
            if first <= 1 {
                break;
            }
        }
    }
    Ok((all, gone))
}
