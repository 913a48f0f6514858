//! People's tool for an ImCluster: tokens, a chat in the terminal, sending, following, reading, looking at nodes. Measuring is im-bench's part.

mod api;
mod args;
mod bans;
mod bench;
mod chat;
mod delete;
mod history;
mod list;
mod node;
mod send;
mod session;
mod tail;
mod text;
mod token;

use std::process::ExitCode;

use clap::Parser;
use im_cli::failure::Failure;
use im_cli::output::Output;

use args::{Command, ConnectArgs, Imctl};
use session::Credentials;

fn main() -> ExitCode {
    let imctl = Imctl::parse();
    logs();
    let json = wants_json(&imctl.command);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let done = match runtime {
        Ok(runtime) => {
            let done = runtime.block_on(Box::pin(run(imctl.command)));
            // A thread that waits for a line of input must not keep the program.
            runtime.shutdown_background();
            done
        }
        Err(error) => Err(error.into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report("imctl", json),
    }
}

async fn run(command: Command) -> Result<(), Failure> {
    let mut output = Output::stdout();
    let credentials = |args: &ConnectArgs| Credentials::new(args, env);
    match command {
        Command::Token(args) => token::run(&args, env, &mut output),
        Command::Chat(args) => chat::run(&args, &credentials(&args.connect)?).await,
        Command::Send(args) => send::run(&args, &credentials(&args.connect)?, &mut output).await,
        Command::Tail(args) => tail::run(&args, &credentials(&args.connect)?, &mut output).await,
        Command::History(args) => {
            history::run(&args, &credentials(&args.connect)?, &mut output).await
        }
        Command::Rooms(args) => {
            let columns = ["id", "kind", "role", "head", "read", "unread"];
            list::run(
                &args,
                &credentials(&args.connect)?,
                "/v1/rooms",
                "rooms",
                &columns,
                &mut output,
            )
            .await
        }
        Command::Conversations(args) => {
            let columns = ["room", "kind", "unread", "head", "last"];
            let credentials = credentials(&args.connect)?;
            list::run(
                &args,
                &credentials,
                "/v1/conversations",
                "conversations",
                &columns,
                &mut output,
            )
            .await
        }
        Command::Node(args) => match &args.at {
            Some(at) => node::process(&args, at, &mut output).await,
            None => node::nodes(&args, &credentials(&args.connect)?, &mut output).await,
        },
        Command::Delete(args) => {
            delete::run(&args, &credentials(&args.connect)?, &mut output).await
        }
        Command::Ban(args) => bans::ban(&args, &credentials(&args.connect)?, &mut output).await,
        Command::Unban(args) => bans::unban(&args, &credentials(&args.connect)?, &mut output).await,
        Command::Bans(args) => bans::all(&args, &credentials(&args.connect)?, &mut output).await,
        Command::Revoke(args) => {
            bans::revoke(&args, &credentials(&args.connect)?, &mut output).await
        }
        Command::Bench { args } => bench::run(&args),
    }
}

fn env(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

fn wants_json(command: &Command) -> bool {
    match command {
        Command::Token(args) => args.json,
        Command::Chat(args) => args.connect.json,
        Command::Send(args) => args.connect.json,
        Command::Tail(args) => args.connect.json,
        Command::History(args) => args.connect.json,
        Command::Rooms(args) | Command::Conversations(args) | Command::Bans(args) => {
            args.connect.json
        }
        Command::Delete(args) => args.connect.json,
        Command::Ban(args) => args.connect.json,
        Command::Unban(args) => args.connect.json,
        Command::Revoke(args) => args.connect.json,
        Command::Node(args) => args.connect.json,
        // im-bench reads its own flags; what goes wrong before it runs is told as text.
        Command::Bench { .. } => false,
    }
}

/// The client's own log, on standard error, where RUST_LOG asks for it.
fn logs() {
    if let Ok(filter) = std::env::var("RUST_LOG") {
        let filter = tracing_subscriber::EnvFilter::new(filter);
        tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(std::io::stderr)
            .init();
    }
}
