//! `im-e2e faults`: a cluster on loopback, a crowd of clients, one fault after the other, an audit of each.
//! `im-e2e hostile`: clients that mean harm beside clients that behave.
//! `im-e2e reads`: all members of a large group read one message.
//! `im-e2e kubernetes`: the same on Kubernetes, with what the operator does.

use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::Parser;
use im_e2e::cluster::Plan;
use im_e2e::crowd::Size;
use im_e2e::faults::{Fault, Stage};
use im_e2e::hostile::{self, Attack};
use im_e2e::kind::cases;
use im_e2e::{reads, report};

#[derive(Parser)]
#[command(version, about)]
enum Arguments {
    /// Breaks one thing after the other under a speaking crowd and judges what everybody saw.
    Faults(Faults),
    /// Attacks a cluster in many ways, beside pairs of clients that behave, and says what each attack did to them and to it.
    Hostile(Hostile),
    /// The process of one attack, told by `hostile` what to do.
    #[command(hide = true)]
    Attacker,
    /// Lets all members of one large group read one message at once, and says what it costs.
    Reads(reads::Options),
    /// Plays cases on the Kubernetes cluster that KUBECONFIG names.
    Kubernetes(cases::Options),
}

#[derive(clap::Args)]
struct Faults {
    /// Clients, spread over the rooms and the connect processes.
    #[arg(long, default_value_t = 5000)]
    connections: usize,
    /// Rooms.
    #[arg(long, default_value_t = 250)]
    rooms: usize,
    /// Messages per second over all rooms.
    #[arg(long, default_value_t = 200)]
    rate: u32,
    /// connect processes.
    #[arg(long, default_value_t = 2)]
    connect: usize,
    /// logic processes.
    #[arg(long, default_value_t = 2)]
    logic: usize,
    /// What to break, in this order. Default: what every build must pass.
    #[arg(value_enum)]
    faults: Vec<Fault>,
    /// The same, for one fault or several divided by commas.
    #[arg(long, value_enum, value_delimiter = ',', conflicts_with = "faults")]
    only: Vec<Fault>,
    /// Every fault there is.
    #[arg(long, conflicts_with_all = ["faults", "only"])]
    all: bool,
    /// Faults last as long as they are meant to: no logic for 5 minutes instead of 30 s.
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
    /// Which attacks, in this order. Default: all.
    #[arg(value_enum)]
    attacks: Vec<Attack>,
    /// One JSON object per attack instead of the table.
    #[arg(long)]
    json: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    tracing_subscriber::fmt().with_env_filter("warn,kube_client=off").with_writer(std::io::stderr).init();
    let played = match Arguments::parse() {
        Arguments::Faults(arguments) => faults(arguments).await,
        Arguments::Hostile(arguments) => attack(arguments).await,
        Arguments::Attacker => hostile::attacker().await,
        Arguments::Reads(options) => read(&options).await,
        Arguments::Kubernetes(options) => cases::play(options).await,
    };
    match played {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

#[allow(clippy::print_stdout, clippy::print_stderr, reason = "a program for people")]
async fn faults(arguments: Faults) -> Result<()> {
    let plan = Plan { connect: arguments.connect, logic: arguments.logic, ..Plan::default() };
    let size = Size { connections: arguments.connections, rooms: arguments.rooms, rate: arguments.rate };
    let faults = match (arguments.all, arguments.faults.is_empty(), arguments.only.is_empty()) {
        (true, ..) => Fault::ALL.to_vec(),
        (_, true, true) => Fault::ESSENTIAL.to_vec(),
        _ => [arguments.faults, arguments.only].concat(),
    };
    let mut reports = Vec::new();
    let mut stage: Option<Stage> = None;
    for fault in faults {
        eprintln!("{fault:?} …");
        let mut stands = match stage.take().filter(|stage| stage.ground() == fault.ground()) {
            Some(stage) => stage,
            None => Stage::set(fault.ground(), plan.clone(), size.clone(), arguments.full).await?,
        };
        let report = stands.play(fault).await?;
        stage = Some(stands);
        if arguments.json {
            println!("{}", serde_json::to_string(&report)?);
        }
        for example in report.audit.verdict.examples.iter().chain(&report.findings.examples) {
            eprintln!("  {example}");
        }
        reports.push(report);
    }
    if !arguments.json {
        println!("{}", report::table(&reports));
    }
    let dirty = reports.iter().filter(|report| !report.is_clean()).count();
    ensure!(dirty == 0, "{dirty} of {} audits are not clean", reports.len());
    Ok(())
}

#[allow(clippy::print_stdout, clippy::print_stderr, reason = "a program for people")]
async fn attack(arguments: Hostile) -> Result<()> {
    let mut reports = Vec::new();
    for attack in if arguments.attacks.is_empty() { Attack::ALL.to_vec() } else { arguments.attacks } {
        eprintln!("{attack:?} …");
        let report = hostile::play(attack, &arguments.options).await?;
        if arguments.json {
            println!("{}", serde_json::to_string(&report)?);
        }
        reports.push(report);
    }
    if !arguments.json {
        println!("{}", hostile::table(&reports));
    }
    let harmed = reports.iter().filter(|report| !report.harm.is_empty()).count();
    ensure!(harmed == 0, "{harmed} of {} attacks did harm", reports.len());
    Ok(())
}

#[allow(clippy::print_stdout, reason = "a program for people")]
async fn read(options: &reads::Options) -> Result<()> {
    let report = reads::play(options).await?;
    print!("{}", report.table());
    ensure!(report.is_good(), "not every mark was answered in time");
    Ok(())
}
