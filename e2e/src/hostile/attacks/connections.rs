//! Attacks with sockets and sessions.

use std::time::Duration;

use anyhow::Result;
use serde_json::json;
use tokio::time::Instant;

use crate::hostile::raw_socket::{frame, tlv};
use crate::hostile::target::{CUT_OFF, SERVED, STILL_HELD, Target, attackers, hold};
use crate::token::token;

/// Reconnects after a short pause whenever it is cut off.
async fn reconnecting(
    end: Instant,
    attack: impl AsyncFn() -> Result<&'static str>,
) -> Result<&'static str> {
    let mut last = Ok(SERVED);
    while Instant::now() < end {
        last = attack().await;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    last
}

pub(super) async fn long_accepts(target: &Target, span: Duration) -> Result<String> {
    let token = token("mallory", "", &[])?;
    let accepts = vec![1; 30_000];
    let auth = tlv(
        7,
        json!({"mid": "mallory", "accepts": accepts, "token": token})
            .to_string()
            .as_bytes(),
    );
    let drop_accepts = tlv(16, "2,".repeat(32_000).trim_end_matches(',').as_bytes());
    let end = Instant::now() + span;
    let outcome = attackers(4, |_| {
        let target = target.clone();
        let auth = auth.clone();
        let drop_accepts = drop_accepts.clone();
        reconnecting(end, async move || {
            let mut socket = target.connect(&target.tcp).await?;
            socket.write(&auth).await?;
            while Instant::now() < end {
                if socket.is_closed() || socket.write(&drop_accepts).await.is_err() {
                    return Ok(CUT_OFF);
                }
            }
            Ok(SERVED)
        })
    });
    Ok(outcome.await)
}

pub(super) async fn half_frames(target: &Target, span: Duration) -> Result<String> {
    // An auth of 65,000 bytes without its last byte.
    let mut most = tlv(100, &vec![b'x'; 65_000]);
    most.pop();
    let end = Instant::now() + span;
    let outcome = attackers(4_000, |_| {
        let target = target.clone();
        let most = most.clone();
        async move {
            let mut socket = target.connect(&target.tcp).await?;
            if socket.write(&most).await.is_err() {
                return Ok(CUT_OFF);
            }
            Ok(hold(socket, end).await)
        }
    });
    Ok(outcome.await)
}

pub(super) async fn pongs(target: &Target, authenticated: bool, span: Duration) -> Result<String> {
    let end = Instant::now() + span;
    let pongs = frame(10, b"").repeat(10_000);
    let token = token("mallory", "", &[])?;
    let outcome = attackers(4, |_| {
        let target = target.clone();
        let pongs = pongs.clone();
        let token = token.clone();
        reconnecting(end, async move || {
            let mut socket = if authenticated {
                target.authenticated(&token).await?
            } else {
                target.websocket().await?
            };
            while Instant::now() < end {
                if socket.is_closed() || socket.write(&pongs).await.is_err() {
                    return Ok(CUT_OFF);
                }
            }
            Ok(SERVED)
        })
    });
    Ok(outcome.await)
}

pub(super) async fn bad_tokens(target: &Target, span: Duration) -> Result<String> {
    let end = Instant::now() + span;
    let mut bad = token("mallory", "", &[])?;
    // A wrong signature of the right length.
    bad.replace_range(bad.len() - 6.., "AAAAAA");
    let outcome = attackers(64, |_| {
        let target = target.clone();
        let bad = bad.clone();
        async move {
            let mut refused = 0_u32;
            while Instant::now() < end {
                match target.authenticated(&bad).await {
                    Ok(_) => return Ok("HARM: a bad token was accepted"),
                    Err(_) => refused += 1,
                }
            }
            Ok(if refused > 0 {
                "refused each time"
            } else {
                "never answered"
            })
        }
    });
    let outcome = outcome.await;
    let tries = target
        .traffic
        .sockets
        .load(std::sync::atomic::Ordering::Relaxed);
    Ok(format!(
        "{outcome}; {:.0} tries a second",
        tries as f64 / span.as_secs_f64()
    ))
}

/// Opens sockets to this address and sends nothing.
pub(super) async fn idle(
    target: &Target,
    address: &str,
    number: usize,
    span: Duration,
) -> Result<String> {
    let end = Instant::now() + span;
    let outcome = attackers(number, |_| {
        let target = target.clone();
        let address = address.to_owned();
        async move {
            let socket = target.connect(&address).await?;
            Ok(hold(socket, end).await)
        }
    });
    Ok(outcome.await)
}

pub(super) async fn slow_upgrades(target: &Target, span: Duration) -> Result<String> {
    let end = Instant::now() + span;
    let outcome = attackers(2_000, |_| {
        let target = target.clone();
        async move {
            let mut socket = target.connect(&target.ws).await?;
            for byte in b"GET /ws HTTP/1.1\r\nHost: a\r\nX-Long: "
                .iter()
                .chain(std::iter::repeat(&b'x'))
            {
                if socket.is_closed() || socket.write(&[*byte]).await.is_err() {
                    return Ok(CUT_OFF);
                }
                if Instant::now() > end {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
            Ok(STILL_HELD)
        }
    });
    Ok(outcome.await)
}
