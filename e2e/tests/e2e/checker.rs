//! The checker itself: it notices one corrupted message.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use im_e2e::checked_run::{CheckedRun, RunReport, TakenBack};
use im_e2e::proxies::corrupting::{CorruptingProxy, Corruption};
use im_e2e::servers::cluster::{Cluster, Plan};
use im_e2e::token::{SECRET, Signer};
use im_e2e::wait::until;
use im_e2e::workload::messages::{MessageWorkload, Size};

#[tokio::test(flavor = "multi_thread")]
async fn one_message_dropped_repeated_swapped_or_skipped_is_seen() -> Result<()> {
    let cluster = Cluster::start(Plan::default()).await?;
    let signer = Signer::new(SECRET);
    let proxy = CorruptingProxy::start(&cluster.connects[0].tcp).await?;
    let size = Size {
        connections: 40,
        rooms: 4,
        rate: 40,
    };
    let address = [format!("tcp://{}", proxy.address)];
    let workload = MessageWorkload::connect(&size, &[&address], &signer).await?;
    let http = &cluster.logics[0].http;

    let intact = run(&workload, &proxy, &signer, http, None).await?;
    assert!(
        intact.is_clean() && intact.defects().is_empty(),
        "{intact:#?}"
    );
    for corruption in [
        Corruption::Drop,
        Corruption::Repeat,
        Corruption::Swap,
        Corruption::SkipOnResume,
    ] {
        let report = run(&workload, &proxy, &signer, http, Some(corruption)).await?;
        assert!(
            !report.is_clean() || !report.defects().is_empty(),
            "{corruption:?} was not noticed: {report:#?}"
        );
    }
    Ok(())
}

async fn run(
    workload: &MessageWorkload,
    proxy: &CorruptingProxy,
    signer: &Signer,
    http: &str,
    corruption: Option<Corruption>,
) -> Result<RunReport> {
    let before = proxy.corrupted();
    let mut run = CheckedRun::start(workload).await?;
    let event = run.during(40, async {
        if let Some(corruption) = corruption {
            proxy.corrupt_next(corruption);
            let done = async || (proxy.corrupted() > before).then_some(());
            until(
                &format!("{corruption:?} is done"),
                Duration::from_secs(20),
                done,
            )
            .await?;
        }
        // A later message shows the gap.
        tokio::time::sleep(Duration::from_secs(2)).await;
        anyhow::Ok(())
    });
    event.await?;
    let report = run
        .check(http, signer, &TakenBack::default())
        .await
        .context("the check")?;
    ensure!(report.verdict.delivered > 0, "nothing was delivered");
    Ok(report)
}
