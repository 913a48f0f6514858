//! `imctl send`: one message or one per line, each acknowledged.

use std::collections::VecDeque;
use std::io::IsTerminal;

use im_cli::failure::Failure;
use im_cli::output::Output;
use im_client::{Body, Outgoing, RoomId, Sent, Ticket};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader, stdin};

use crate::args::SendArgs;
use crate::session::{Credentials, Session, one_room};

/// Lines sent and not acknowledged.
const IN_FLIGHT: usize = 64;

pub(crate) async fn run(
    args: &SendArgs,
    credentials: &Credentials,
    output: &mut Output,
) -> Result<(), Failure> {
    let room = one_room(&args.room, credentials.user().as_ref())?;
    if args.text.is_empty() && std::io::stdin().is_terminal() {
        return Err(Failure::usage(
            "nothing to send: give the text, or pipe it in",
        ));
    }
    // Read first, so that a mistake in the body costs no connection.
    let body = if args.lines {
        None
    } else {
        Some(read_body(args).await?)
    };
    let mut session = Session::open(&args.connect, credentials).await?;
    let discard = async { while session.events.next().await.is_some() {} };
    let client = session.client.clone();
    let sending = async {
        match body {
            Some(body) => {
                let mut message =
                    Outgoing::new(room, args.kind.clone(), body).deadline(args.connect.timeout);
                if let Some(client_id) = &args.client_id {
                    message = message.client_id(client_id);
                }
                report(&client.send(message).await?, args, output)
            }
            None => send_lines(args, &client, &room, output).await,
        }
    };
    let sent = tokio::select! {
        sent = sending => sent,
        () = discard => Err(Failure::from(im_client::SendError::Ended)),
    };
    client.close().await;
    sent
}

async fn read_body(args: &SendArgs) -> Result<Body, Failure> {
    let mut bytes = Vec::new();
    if args.text.is_empty() {
        stdin().read_to_end(&mut bytes).await?;
    } else {
        bytes = args.text.join(" ").into_bytes();
    }
    if args.binary {
        return Ok(Body::Binary(bytes.into()));
    }
    let text = String::from_utf8(bytes).map_err(|_| {
        Failure::usage("standard input is not UTF-8 text").hint("--binary sends any bytes")
    })?;
    body(args, text.trim_end_matches(['\r', '\n']))
}

fn body(args: &SendArgs, text: &str) -> Result<Body, Failure> {
    if !args.json_body {
        return Ok(Body::Text(text.to_owned().into()));
    }
    let value: serde_json::Value = serde_json::from_str(text)
        .map_err(|error| Failure::usage(format!("the body is not JSON: {error}")))?;
    Ok(Body::from_json(&value))
}

async fn send_lines(
    args: &SendArgs,
    client: &im_client::Client,
    room: &RoomId,
    output: &mut Output,
) -> Result<(), Failure> {
    let mut lines = BufReader::new(stdin()).lines();
    let mut tickets: VecDeque<Ticket> = VecDeque::new();
    while let Some(line) = lines.next_line().await? {
        if tickets.len() >= IN_FLIGHT
            && let Some(ticket) = tickets.pop_front()
        {
            report(&ticket.await?, args, output)?;
        }
        let message = Outgoing::new(room.clone(), args.kind.clone(), body(args, &line)?);
        tickets.push_back(
            client
                .enqueue(message.deadline(args.connect.timeout))
                .await?,
        );
    }
    for ticket in tickets {
        report(&ticket.await?, args, output)?;
    }
    Ok(())
}

fn report(sent: &Sent, args: &SendArgs, output: &mut Output) -> Result<(), Failure> {
    if args.connect.json {
        let Sent {
            room,
            client_id,
            id,
            epoch,
            seq,
            time_ms,
            duplicate,
        } = sent;
        return output.json(&serde_json::json!({
            "room": room, "seq": seq, "id": id, "client_id": client_id, "epoch": epoch, "time": time_ms, "duplicate": duplicate,
        }));
    }
    let again = if sent.duplicate {
        ", as it had been before"
    } else {
        ""
    };
    output.line(&format!("stored in {} as #{}{again}", sent.room, sent.seq))
}
