//! A small workload through the essential faults; `im-e2e faults` is the same with a large one.

use anyhow::Result;
use im_e2e::faults::{self, Fault, Scenario};
use im_e2e::servers::cluster::Plan;
use im_e2e::workload::messages::Size;

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_repeated_or_reordered_through_any_fault() -> Result<()> {
    let size = Size {
        connections: 300,
        rooms: 30,
        rate: 60,
    };
    let mut last: Option<Scenario> = None;
    for fault in Fault::ESSENTIAL {
        let mut scenario = match last
            .take()
            .filter(|last| last.environment() == fault.environment())
        {
            Some(scenario) => scenario,
            None => Scenario::start(fault.environment(), Plan::default(), &size, false).await?,
        };
        let report = scenario.run(fault).await?;
        last = Some(scenario);
        let table = faults::table(std::slice::from_ref(&report));
        assert!(
            report.run.verdict.is_clean(),
            "{fault:?}\n{table}\n{:#?}",
            report.run.verdict
        );
        assert!(
            report.run.ended.is_empty(),
            "{fault:?}: clients gave up: {:?}",
            report.run.ended
        );
        assert!(
            report.run.verdict.acknowledged > 0
                && report.run.verdict.delivered > report.run.verdict.acknowledged,
            "{table}"
        );
        match fault {
            Fault::None => assert_eq!(report.run.away_ms.count, 0, "{table}"),
            Fault::ConnectDrain => assert!(report.run.moves > 0, "no client moved\n{table}"),
            Fault::ConnectKill => assert!(
                report.run.away_ms.count > 0,
                "no outage was recorded\n{table}"
            ),
            Fault::FailoverCutOff => assert!(
                report.run.verdict.taken_back > 0,
                "nothing was taken back\n{table}"
            ),
            _ => {}
        }
    }
    Ok(())
}
