//! `im-e2e kubernetes`: the same workload and checker on a Kubernetes cluster, with what the operator does there.

mod balancer;
mod cases;
mod chat;
mod client;
mod measurements;
mod pod_recorder;
mod report;
mod runner;
mod scenario;

use std::time::Instant;

use anyhow::{Result, ensure};

use self::cases::Case;
use self::runner::Runner;

/// Which cases to run, and how.
#[derive(Debug, Clone, clap::Args)]
pub struct Arguments {
    /// The cases to run, in this order. Default: those that a change is checked with.
    #[arg(long = "case", value_enum)]
    cases: Vec<Case>,
    /// All cases.
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    options: runner::Options,
}

/// Runs the chosen cases; the error names those that failed.
#[expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command line program"
)]
pub async fn run(arguments: Arguments) -> Result<()> {
    let cases = match (arguments.all, arguments.cases.is_empty()) {
        (true, _) => Case::ALL.to_vec(),
        (false, true) => Case::ESSENTIAL.to_vec(),
        (false, false) => arguments.cases,
    };
    let folder = arguments.options.folder.clone();
    let mut runner = Runner::start(arguments.options).await?;
    let mut failed = Vec::new();
    for case in cases {
        let begun = Instant::now();
        println!("== {case:?}");
        match Box::pin(case.run(&mut runner)).await {
            Ok(()) => println!(
                "== {case:?}: passed in {:.0} s",
                begun.elapsed().as_secs_f64()
            ),
            Err(error) => {
                println!(
                    "== {case:?}: FAILED after {:.0} s: {error:#}",
                    begun.elapsed().as_secs_f64()
                );
                if let Err(error) = runner.dump_state(&format!("failed-{case:?}")).await {
                    eprintln!("could not dump the state of the cluster: {error:#}");
                }
                failed.push(case);
                // The next case gets clients without a past.
                runner.end_scenario();
            }
        }
    }
    ensure!(
        failed.is_empty(),
        "failed: {failed:?}; see {}",
        folder.display()
    );
    Ok(())
}
