//! `imctl bench`: a load that is due at fixed times, over many connections in several processes, against servers whose CPU
//! time is counted; and the same against the floor, the least that a server on this machine can do.
//!
//! A [`run`]: [`plan`] → [`stack`] (servers, where they are to be started) → [`workers`] (processes of a [`worker`] each,
//! with its [`client`]s) → [`measure`], looking at the servers with [`probe`] → [`report`].

mod client;
mod clock;
mod floor;
mod histogram;
mod measure;
mod plan;
mod probe;
mod publisher;
mod report;
mod run;
mod stack;
mod stamp;
mod tally;
mod wire;
mod worker;
mod workers;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use im_cli::failure::Failure;
use im_cli::output::Output;

use plan::BenchArgs;

/// Measures servers: throughput, latency, losses, CPU time and memory; against the least that this machine can do.
#[derive(Debug, Parser)]
#[command(
    name = "im-bench",
    version,
    args_conflicts_with_subcommands = true,
    max_term_width = 100
)]
struct Bench {
    #[command(flatten)]
    args: BenchArgs,
    #[command(subcommand)]
    role: Option<Role>,
}

/// What the processes of a run are started as.
#[derive(Debug, Subcommand)]
enum Role {
    /// One process of clients.
    #[command(hide = true)]
    Worker,
    /// The server that is compared with.
    #[command(hide = true)]
    Floor {
        /// Join what has arrived at once into one write per client.
        #[arg(long)]
        joins: bool,
    },
}

fn main() -> ExitCode {
    let bench = Bench::parse();
    let done = match bench.role {
        Some(Role::Worker) => worker::run(),
        Some(Role::Floor { joins }) => floor::run(joins),
        None => run_all(&bench.args),
    };
    done.map_or_else(
        |failure| failure.report("im-bench", bench.args.json),
        |()| ExitCode::SUCCESS,
    )
}

fn run_all(args: &BenchArgs) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(Box::pin(run::run(
        args,
        |name| std::env::var(name).ok(),
        &mut Output::stdout(),
    )))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Bench::command().debug_assert();
        let line = "im-bench --start standalone --floor --rate 20,100 --rounds 3";
        let bench = Bench::try_parse_from(line.split(' ')).unwrap();
        assert!(bench.role.is_none() && bench.args.floor && bench.args.rate == [20.0, 100.0]);
        assert!(matches!(
            Bench::try_parse_from(["im-bench", "worker"]).unwrap().role,
            Some(Role::Worker)
        ));
        let floor = Bench::try_parse_from(["im-bench", "floor", "--joins"]).unwrap();
        assert!(matches!(floor.role, Some(Role::Floor { joins: true })));
        assert!(Bench::try_parse_from(["im-bench", "--floor-joins"]).is_err());
    }
}
