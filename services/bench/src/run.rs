//! A run from the command line to its report.

use im_cli::failure::{Exit, Failure};
use im_cli::output::Output;
use im_cli::token::Signer;

use crate::measure::{self, Aim, Pass};
use crate::plan::{BenchArgs, Dialect, From, Start, Target};
use crate::probe::Server;
use crate::report::Report;
use crate::stack::{self, Stack};

/// Measures.
pub(crate) async fn run(
    args: &BenchArgs,
    env: impl Fn(&str) -> Option<String>,
    output: &mut Output,
) -> Result<(), Failure> {
    args.check()?;
    let stack = match args.start {
        Some(what) => Some(Stack::start(args, what).await?),
        None => None,
    };
    let aim = match &stack {
        Some(stack) => of_stack(args, stack)?,
        None => of_others(args, env)?,
    };
    let mut passes = Vec::new();
    for round in 0..args.rounds {
        if args.floor {
            passes.push(floor_pass(args, round).await?);
        }
        passes.push(measure::pass(args, &aim, None, round).await?);
        if args.beside.is_some() {
            passes.push(measure::pass(args, &aim, args.beside, round).await?);
        }
    }
    if let Some(stack) = stack {
        stack.stop().await?;
    }
    let report = Report::new(args, passes);
    if let Some(path) = &args.html {
        std::fs::write(path, report.html())?;
    }
    if args.json {
        output.json(&report)?
    } else {
        report
            .lines()
            .iter()
            .try_for_each(|line| output.line(line))?
    }
    judge(args, &report)
}

fn of_stack(args: &BenchArgs, stack: &Stack) -> Result<Aim, Failure> {
    Ok(Aim {
        name: if args.start == Some(Start::Cluster) {
            "cluster"
        } else {
            "standalone"
        }
        .to_owned(),
        targets: stack
            .addresses
            .iter()
            .map(|url| Target::new(url))
            .collect::<Result<_, _>>()?,
        api: if args.from == From::Api {
            Some(measure::authority(&stack.http)?)
        } else {
            None
        },
        servers: stack.servers.clone(),
        signer: Some(Signer::from_secret(stack::SECRET)),
        dialect: args.dialect,
    })
}

fn of_others(args: &BenchArgs, env: impl Fn(&str) -> Option<String>) -> Result<Aim, Failure> {
    let signer = Signer::new(&args.key, env)?.ok_or_else(|| {
        Failure::usage("nothing to sign the clients' tokens with: give --secret-file, or --key-file with --alg")
    })?;
    let mut servers: Vec<Server> = Vec::new();
    for (name, pid) in &args.pid {
        servers.push(Server {
            name: name.clone(),
            pid: Some(*pid),
            admin: None,
        });
    }
    for (name, url) in &args.admin {
        match servers.iter_mut().find(|server| server.name == *name) {
            Some(server) => server.admin = Some(url.clone()),
            None => servers.push(Server {
                name: name.clone(),
                pid: None,
                admin: Some(url.clone()),
            }),
        }
    }
    let api = args.http.as_deref().filter(|_| args.from == From::Api);
    Ok(Aim {
        name: "servers".to_owned(),
        targets: args
            .address
            .iter()
            .map(|url| Target::new(url))
            .collect::<Result<_, _>>()?,
        api: api.map(measure::authority).transpose()?,
        servers,
        signer: Some(signer),
        dialect: args.dialect,
    })
}

async fn floor_pass(args: &BenchArgs, round: u16) -> Result<Pass, Failure> {
    let (child, address) = measure::start_floor(args.floor_joins).await?;
    let server = Server {
        name: "floor".to_owned(),
        pid: child.id(),
        admin: None,
    };
    let aim = Aim {
        name: "floor".to_owned(),
        targets: vec![Target {
            address,
            path: None,
        }],
        api: None,
        servers: vec![server],
        signer: None,
        dialect: Dialect::Native,
    };
    let pass = measure::pass(args, &aim, None, round).await;
    drop(child);
    pass
}

fn judge(args: &BenchArgs, report: &Report) -> Result<(), Failure> {
    let faults = report.faults();
    if !faults.is_empty() {
        return Err(Failure::new(Exit::Failed, faults.join("; ")));
    }
    if let Some(most) = args.at_most
        && let Some((name, bytes)) = report.largest_growth().filter(|(_, bytes)| *bytes > most)
    {
        let text =
            format!("{name} grew by {bytes:.0} bytes per connection, {most:.0} at most are wanted");
        return Err(Failure::new(Exit::Failed, text));
    }
    if let Some(least) = args.at_least {
        for row in report.rows() {
            let Some(share) = row.share_of_floor else {
                continue;
            };
            if share < least {
                let text = format!(
                    "at {} messages/s the servers deliver {share:.2} of the floor per CPU-second, {least:.2} is wanted",
                    row.rate
                );
                return Err(Failure::new(Exit::Failed, text));
            }
        }
    }
    Ok(())
}
