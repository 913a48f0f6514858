//! The command line: `im-e2e faults`, `hostile`, `reads` and `kubernetes`.

use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::Parser;
use im_e2e::faults::{self, Fault, Scenario};
use im_e2e::hostile::{self, Attack};
use im_e2e::servers::cluster::Plan;
use im_e2e::workload::messages::Size;
use im_e2e::{kubernetes, reads};

#[derive(Parser)]
#[command(version, about)]
enum Arguments {
    /// Injects one fault after the other while clients send, and checks what each of them received.
    Faults(Faults),
    /// Attacks a cluster in many ways beside well-behaved clients, and reports what each attack did to both.
    Hostile(Hostile),
    /// The process of one attack, started by `hostile`.
    #[command(hide = true)]
    Attacker,
    /// Lets all members of a large group mark one message as read at once, and reports the cost.
    Reads(reads::Options),
    /// Runs cases on the Kubernetes cluster of KUBECONFIG.
    Kubernetes(kubernetes::Arguments),
}

#[derive(clap::Args)]
struct Faults {
    /// Clients, spread over the rooms and the connect processes.
    #[arg(long, default_value_t = 5000)]
    connections: usize,
    /// Number of rooms.
    #[arg(long, default_value_t = 250)]
    rooms: usize,
    /// Messages per second over all rooms.
    #[arg(long, default_value_t = 200)]
    rate: u32,
    /// Number of connect processes.
    #[arg(long, default_value_t = 2)]
    connect: usize,
    /// Number of logic processes.
    #[arg(long, default_value_t = 2)]
    logic: usize,
    /// The faults to inject, in this order. Default: those that every build must pass.
    #[arg(value_enum)]
    faults: Vec<Fault>,
    /// The same, as one option: one fault, or several separated by commas.
    #[arg(long, value_enum, value_delimiter = ',', conflicts_with = "faults")]
    only: Vec<Fault>,
    /// All faults.
    #[arg(long, conflicts_with_all = ["faults", "only"])]
    all: bool,
    /// Faults last their full length: no logic for 5 minutes instead of 30 s.
    #[arg(long)]
    full: bool,
    /// One JSON object per fault instead of the table.
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
struct Hostile {
    #[command(flatten)]
    options: hostile::Options,
    /// The attacks to run, in this order. Default: all.
    #[arg(value_enum)]
    attacks: Vec<Attack>,
    /// One JSON object per attack instead of the table.
    #[arg(long)]
    json: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_env_filter("warn,kube_client=off")
        .with_writer(std::io::stderr)
        .init();
    let outcome = match Arguments::parse() {
        Arguments::Faults(arguments) => run_faults(arguments).await,
        Arguments::Hostile(arguments) => run_attacks(arguments).await,
        Arguments::Attacker => hostile::attacker().await,
        Arguments::Reads(options) => run_reads(&options).await,
        Arguments::Kubernetes(arguments) => kubernetes::run(arguments).await,
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

#[expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command line program"
)]
async fn run_faults(arguments: Faults) -> Result<()> {
    let plan = Plan {
        connect: arguments.connect,
        logic: arguments.logic,
        ..Plan::default()
    };
    let size = Size {
        connections: arguments.connections,
        rooms: arguments.rooms,
        rate: arguments.rate,
    };
    let faults = match (
        arguments.all,
        arguments.faults.is_empty(),
        arguments.only.is_empty(),
    ) {
        (true, ..) => Fault::ALL.to_vec(),
        (_, true, true) => Fault::ESSENTIAL.to_vec(),
        _ => [arguments.faults, arguments.only].concat(),
    };
    let mut reports = Vec::new();
    let mut last: Option<Scenario> = None;
    for fault in faults {
        eprintln!("{fault:?} …");
        let mut scenario = match last
            .take()
            .filter(|last| last.environment() == fault.environment())
        {
            Some(scenario) => scenario,
            None => {
                Scenario::start(fault.environment(), plan.clone(), &size, arguments.full).await?
            }
        };
        let report = scenario.run(fault).await?;
        last = Some(scenario);
        if arguments.json {
            println!("{}", serde_json::to_string(&report)?);
        }
        for example in report
            .run
            .verdict
            .examples
            .iter()
            .chain(&report.findings.examples)
        {
            eprintln!("  {example}");
        }
        reports.push(report);
    }
    if !arguments.json {
        println!("{}", faults::table(&reports));
    }
    let dirty = reports.iter().filter(|report| !report.is_clean()).count();
    ensure!(
        dirty == 0,
        "{dirty} of {} runs are not clean",
        reports.len()
    );
    Ok(())
}

#[expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command line program"
)]
async fn run_attacks(arguments: Hostile) -> Result<()> {
    let mut reports = Vec::new();
    for attack in if arguments.attacks.is_empty() {
        Attack::ALL.to_vec()
    } else {
        arguments.attacks
    } {
        eprintln!("{attack:?} …");
        let report = hostile::run(attack, &arguments.options).await?;
        if arguments.json {
            println!("{}", serde_json::to_string(&report)?);
        }
        reports.push(report);
    }
    if !arguments.json {
        println!("{}", hostile::table(&reports));
    }
    let harmed = reports
        .iter()
        .filter(|report| !report.harm.is_empty())
        .count();
    ensure!(
        harmed == 0,
        "{harmed} of {} attacks did harm",
        reports.len()
    );
    Ok(())
}

#[expect(clippy::print_stdout, reason = "a command line program")]
async fn run_reads(options: &reads::Options) -> Result<()> {
    let report = reads::run(options).await?;
    print!("{}", report.table());
    ensure!(report.is_good(), "not every read mark was answered in time");
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        super::Arguments::command().debug_assert();
    }
}
