//! Attacks on sockets and sessions.

use std::time::Duration;

use anyhow::Result;
use serde_json::json;
use tokio::time::Instant;

use super::super::raw::{Raw, frame, tlv};
use super::{FROM, Target, crowd};
use crate::token::token;

const SERVED: &str = "served to the end";
const CUT_OFF: &str = "cut off";

/// Comes back, after a breath, as often as it is cut off.
async fn again_and_again(until: Instant, attack: impl AsyncFn() -> Result<&'static str>) -> Result<&'static str> {
    let mut last = Ok(SERVED);
    while Instant::now() < until {
        last = attack().await;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    last
}

pub(super) async fn long_accepts(target: &Target, span: Duration) -> Result<String> {
    let token = token("mallory", "", &[])?;
    let accepts = vec![1; 30_000];
    let auth = tlv(7, json!({"mid": "mallory", "accepts": accepts, "token": token}).to_string().as_bytes());
    let take_back = tlv(16, "2,".repeat(32_000).trim_end_matches(',').as_bytes());
    let until = Instant::now() + span;
    let outcome = crowd(4, |_| {
        let (target, auth, take_back) = (target.clone(), auth.clone(), take_back.clone());
        again_and_again(until, async move || {
            let mut raw = Raw::connect(FROM, &target.tcp, &target.spent).await?;
            raw.write(&auth).await?;
            while Instant::now() < until {
                if raw.is_closed() || raw.write(&take_back).await.is_err() {
                    return Ok(CUT_OFF);
                }
            }
            Ok(SERVED)
        })
    });
    Ok(outcome.await)
}

pub(super) async fn half_frames(target: &Target, span: Duration) -> Result<String> {
    // The header of an auth of 65,000 bytes, and all of it but the last.
    let mut most = tlv(100, &vec![b'x'; 65_000]);
    most.pop();
    let until = Instant::now() + span;
    let outcome = crowd(4_000, |_| {
        let (target, most) = (target.clone(), most.clone());
        async move {
            let mut raw = Raw::connect(FROM, &target.tcp, &target.spent).await?;
            if raw.write(&most).await.is_err() {
                return Ok(CUT_OFF);
            }
            tokio::time::sleep_until(until).await;
            Ok(if raw.is_closed() { CUT_OFF } else { "still held" })
        }
    });
    Ok(outcome.await)
}

pub(super) async fn pongs(target: &Target, authenticated: bool, span: Duration) -> Result<String> {
    let until = Instant::now() + span;
    let pongs = frame(10, b"").repeat(10_000);
    let token = token("mallory", "", &[])?;
    let outcome = crowd(4, |_| {
        let (target, pongs, token) = (target.clone(), pongs.clone(), token.clone());
        again_and_again(until, async move || {
            let mut raw = if authenticated {
                Raw::native(FROM, &target.ws, &token, &target.spent).await?
            } else {
                Raw::websocket(FROM, &target.ws, &target.spent).await?
            };
            while Instant::now() < until {
                if raw.is_closed() || raw.write(&pongs).await.is_err() {
                    return Ok(CUT_OFF);
                }
            }
            Ok(SERVED)
        })
    });
    Ok(outcome.await)
}

pub(super) async fn bad_tokens(target: &Target, span: Duration) -> Result<String> {
    let until = Instant::now() + span;
    let mut bad = token("mallory", "", &[])?;
    // A signature of the right length that is another's.
    bad.replace_range(bad.len() - 6.., "AAAAAA");
    let outcome = crowd(64, |_| {
        let (target, bad) = (target.clone(), bad.clone());
        async move {
            let mut refused = 0_u32;
            while Instant::now() < until {
                match Raw::native(FROM, &target.ws, &bad, &target.spent).await {
                    Ok(_) => return Ok("HARM: a bad token is taken"),
                    Err(_) => refused += 1,
                }
            }
            Ok(if refused > 0 { "refused each time" } else { "never answered" })
        }
    });
    let outcome = outcome.await;
    let tries = target.spent.sockets.load(std::sync::atomic::Ordering::Relaxed);
    Ok(format!("{outcome}; {:.0} tries a second", tries as f64 / span.as_secs_f64()))
}

pub(super) async fn half_open(target: &Target, number: usize, span: Duration) -> Result<String> {
    let until = Instant::now() + span;
    let outcome = crowd(number, |_| {
        let target = target.clone();
        async move {
            let mut raw = Raw::connect(FROM, &target.tcp, &target.spent).await?;
            tokio::time::sleep_until(until).await;
            Ok(if raw.is_closed() { CUT_OFF } else { "still held" })
        }
    });
    Ok(outcome.await)
}

pub(super) async fn slow_upgrades(target: &Target, span: Duration) -> Result<String> {
    let until = Instant::now() + span;
    let outcome = crowd(2_000, |_| {
        let target = target.clone();
        async move {
            let mut raw = Raw::connect(FROM, &target.ws, &target.spent).await?;
            for byte in b"GET /ws HTTP/1.1\r\nHost: a\r\nX-Long: ".iter().chain(std::iter::repeat(&b'x')) {
                if raw.is_closed() || raw.write(&[*byte]).await.is_err() {
                    return Ok(CUT_OFF);
                }
                if Instant::now() > until {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
            Ok("still held")
        }
    });
    Ok(outcome.await)
}
