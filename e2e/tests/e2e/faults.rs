//! A small crowd through every fault; `im-e2e faults` is the same with a large one.

use anyhow::Result;
use im_e2e::cluster::Plan;
use im_e2e::crowd::Size;
use im_e2e::faults::{Fault, Stage};
use im_e2e::report;

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_repeated_or_reordered_through_any_fault() -> Result<()> {
    let size = Size { connections: 300, rooms: 30, rate: 60 };
    let mut stage: Option<Stage> = None;
    for fault in Fault::ESSENTIAL {
        let mut stands = match stage.take().filter(|stage| stage.ground() == fault.ground()) {
            Some(stage) => stage,
            None => Stage::set(fault.ground(), Plan::default(), size.clone(), false).await?,
        };
        let report = stands.play(fault).await?;
        stage = Some(stands);
        let table = report::table(std::slice::from_ref(&report));
        assert!(report.audit.verdict.is_clean(), "{fault:?}\n{table}\n{:#?}", report.audit.verdict);
        assert!(report.audit.ended.is_empty(), "{fault:?}: clients gave up: {:?}", report.audit.ended);
        assert!(
            report.audit.verdict.acknowledged > 0 && report.audit.verdict.delivered > report.audit.verdict.acknowledged,
            "{table}"
        );
        match fault {
            Fault::None => assert_eq!(report.audit.away_ms.count, 0, "{table}"),
            Fault::ConnectDrain => assert!(report.audit.moves > 0, "nobody moved\n{table}"),
            Fault::ConnectKill => assert!(report.audit.away_ms.count > 0, "nobody was away\n{table}"),
            Fault::FailoverCutOff => assert!(report.audit.verdict.taken_back > 0, "nothing was taken back\n{table}"),
            _ => {}
        }
    }
    Ok(())
}
