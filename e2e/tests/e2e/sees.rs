//! The audit itself: what a spoiled connection does to one message, it sees.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use im_e2e::audited::{Audit, Begun, TakenBack};
use im_e2e::cluster::{Cluster, Plan, SECRET};
use im_e2e::crowd::{Crowd, Size};
use im_e2e::process::until;
use im_e2e::tamper::{Proxy, Tamper};
use im_e2e::token::Signer;

#[tokio::test(flavor = "multi_thread")]
async fn one_message_dropped_repeated_swapped_or_skipped_is_seen() -> Result<()> {
    let cluster = Cluster::start(Plan::default()).await?;
    let signer = Signer::new(SECRET);
    let proxy = Proxy::start(&cluster.connects[0].tcp).await?;
    let size = Size { connections: 40, rooms: 4, rate: 40 };
    let address = [format!("tcp://{}", proxy.address)];
    let crowd = Crowd::gather(&size, &[&address], &signer).await?;
    let http = &cluster.logics[0].http;

    let untouched = spoiled(&crowd, &proxy, &signer, http, None).await?;
    assert!(untouched.is_clean() && untouched.defects().is_empty(), "{untouched:#?}");
    for tamper in [Tamper::Drop, Tamper::Repeat, Tamper::Swap, Tamper::SkipOnResume] {
        let audit = spoiled(&crowd, &proxy, &signer, http, Some(tamper)).await?;
        assert!(!audit.is_clean() || !audit.defects().is_empty(), "{tamper:?} goes unseen: {audit:#?}");
    }
    Ok(())
}

async fn spoiled(crowd: &Crowd, proxy: &Proxy, signer: &Signer, http: &str, tamper: Option<Tamper>) -> Result<Audit> {
    let before = proxy.spoiled();
    let mut begun = Begun::now(crowd).await?;
    let event = begun.speaking(40, async {
        if let Some(tamper) = tamper {
            proxy.spoil(tamper);
            let done = async || (proxy.spoiled() > before).then_some(());
            until(&format!("{tamper:?} is done"), Duration::from_secs(20), done).await?;
        }
        // Something follows it, by which a gap shows.
        tokio::time::sleep(Duration::from_secs(2)).await;
        anyhow::Ok(())
    });
    event.await?;
    let audit = begun.judge(http, signer, &TakenBack::default()).await.context("the audit")?;
    ensure!(audit.verdict.delivered > 0, "nobody heard anything");
    Ok(audit)
}
