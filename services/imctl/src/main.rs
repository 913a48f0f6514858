//! People's tool for an ImCluster: tokens, a chat in the terminal, sending, following, reading, looking at nodes, measuring.

mod args;
mod bans;
mod bench;
mod chat;
mod delete;
mod failure;
mod history;
mod http;
mod list;
mod node;
mod output;
mod send;
mod session;
mod tail;
mod token;

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;

use args::{Command, ConnectArgs, Imctl};
use failure::Failure;
use output::Output;
use session::Credentials;

fn main() -> ExitCode {
    let imctl = Imctl::parse();
    logs();
    let json = wants_json(&imctl.command);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
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
        Err(failure) => {
            complain(&failure, json);
            ExitCode::from(failure.exit as u8)
        }
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
        Command::History(args) => history::run(&args, &credentials(&args.connect)?, &mut output).await,
        Command::Rooms(args) => {
            let columns = ["id", "kind", "role", "head", "read", "unread"];
            list::run(&args, &credentials(&args.connect)?, "/v1/rooms", "rooms", &columns, &mut output).await
        }
        Command::Conversations(args) => {
            let columns = ["room", "kind", "unread", "head", "last"];
            let credentials = credentials(&args.connect)?;
            list::run(&args, &credentials, "/v1/conversations", "conversations", &columns, &mut output).await
        }
        Command::Node(args) => match &args.at {
            Some(at) => node::process(&args, at, &mut output).await,
            None => node::nodes(&args, &credentials(&args.connect)?, &mut output).await,
        },
        Command::Delete(args) => delete::run(&args, &credentials(&args.connect)?, &mut output).await,
        Command::Ban(args) => bans::ban(&args, &credentials(&args.connect)?, &mut output).await,
        Command::Unban(args) => bans::unban(&args, &credentials(&args.connect)?, &mut output).await,
        Command::Bans(args) => bans::all(&args, &credentials(&args.connect)?, &mut output).await,
        Command::Revoke(args) => bans::revoke(&args, &credentials(&args.connect)?, &mut output).await,
        Command::Bench(args) => bench::run(&args, env, &mut output).await,
        Command::BenchWorker => bench::worker::run(),
        Command::BenchFloor { joins } => bench::floor::run(joins),
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
        Command::Rooms(args) | Command::Conversations(args) | Command::Bans(args) => args.connect.json,
        Command::Delete(args) => args.connect.json,
        Command::Ban(args) => args.connect.json,
        Command::Unban(args) => args.connect.json,
        Command::Revoke(args) => args.connect.json,
        Command::Node(args) => args.connect.json,
        Command::Bench(args) => args.json,
        Command::BenchWorker | Command::BenchFloor { .. } => false,
    }
}

/// On standard error: a sentence and a hint, or one JSON object.
fn complain(failure: &Failure, json: bool) {
    let text = if json {
        let error = serde_json::json!({"text": failure.text, "hint": failure.hint, "exit": failure.exit as u8});
        serde_json::json!({ "error": error }).to_string()
    } else {
        let hint = failure.hint.as_ref().map(|hint| format!("\nhint: {hint}")).unwrap_or_default();
        format!("imctl: {}{hint}", failure.text)
    };
    // Where standard error is closed there is nobody to tell.
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// The client's own log, on standard error, where RUST_LOG asks for it.
fn logs() {
    if let Ok(filter) = std::env::var("RUST_LOG") {
        let filter = tracing_subscriber::EnvFilter::new(filter);
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    }
}
