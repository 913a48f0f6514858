//! Bans and revocations over the API: whom they refuse over HTTP, at the door and in calls under way; how they end.

use std::time::{Duration, Instant};

use bytes::Bytes;
use im_logic::nodes::To;
use im_proto::v1::{AskBans, Authenticate, Authenticated, Fault, Refresh, SendSignal, call, reply};
use serde_json::{Value, json};

use crate::site::{Site, TIMEOUT, Told, admin, encoded, now, options, signed, token};

async fn ban(site: &Site, ban: Value) -> Value {
    site.post(&admin(), "/v1/bans", ban).await.good()
}

/// A user's token that was issued so many seconds ago, for a device.
fn issued(user: &str, ago: u64, device: &str) -> String {
    signed(&json!({"sub": user, "iat": now() - ago, "exp": now() + 600, "dev": device}))
}

/// What a connection of this token and device is answered.
async fn enter(site: &Site, token: &str, device: &str, from: &str) -> Result<Authenticated, Fault> {
    let ask = Authenticate {
        token: token.to_owned(),
        device: device.to_owned(),
        remote_ip: from.to_owned(),
        node: "node-1".to_owned(),
        ..Authenticate::default()
    };
    match site
        .call(Bytes::new(), "c-1", call::Op::Authenticate(ask))
        .await?
    {
        reply::Result::Authenticated(authenticated) => Ok(authenticated),
        other => panic!("{other:?}"),
    }
}

async fn code(site: &Site, token: &str, device: &str, from: &str) -> String {
    enter(site, token, device, from)
        .await
        .err()
        .map_or_else(|| "in".to_owned(), |fault| fault.code)
}

#[tokio::test]
async fn a_ban_refuses_http_new_connections_and_calls_under_way_until_it_is_lifted() {
    let site = Site::new().await;
    let ann = token("ann");
    let connected = site.connect(&ann, "c-1").await;
    let made = ban(&site, json!({"user": "ann", "reason": "spam"})).await;
    assert_eq!(
        (&made["id"], &made["kind"], &made["by"], &made["closed"]),
        (
            &json!("user:ann"),
            &json!("user"),
            &json!("backend"),
            &json!(1)
        )
    );
    let told = site.told().await;
    let [Told::Kick(To::All, kick)] = told.as_slice() else {
        panic!("{told:?}")
    };
    assert_eq!(
        (kick.user.as_str(), kick.device.as_str(), kick.code),
        ("ann", "", 4012)
    );
    let refused = site.get(&ann, "/v1/me").await;
    assert_eq!(refused.refused(), (403, "banned", ""));
    assert!(
        !refused.body.to_string().contains("spam"),
        "the reason is not for the banned"
    );
    assert_eq!(code(&site, &ann, "d", "").await, "banned");
    let signal = SendSignal {
        room: "direct:3:ann:bob".to_owned(),
        r#type: "t".to_owned(),
        ..SendSignal::default()
    };
    let refused = site
        .call(connected.grant.clone(), "c-1", call::Op::Signal(signal))
        .await
        .unwrap_err();
    assert_eq!(
        (refused.code.as_str(), refused.retryable),
        ("banned", false)
    );
    let refreshed = site
        .call(
            connected.grant,
            "c-1",
            call::Op::Refresh(Refresh { token: ann.clone() }),
        )
        .await;
    assert_eq!(refreshed.unwrap_err().code, "banned");
    site.get(&token("bob"), "/v1/me").await.good();
    // The same by its subject as by its id.
    assert_eq!(
        site.delete(&admin(), "/v1/bans?user=ann").await.good(),
        json!({"id": "user:ann", "changed": true})
    );
    assert_eq!(
        site.delete(&admin(), "/v1/bans/user%3Aann").await.good()["changed"],
        false
    );
    site.get(&ann, "/v1/me").await.good();
    assert_eq!(code(&site, &ann, "d", "").await, "in");
}

#[tokio::test]
async fn a_device_is_banned_for_its_user_or_where_a_token_carries_it() {
    let site = Site::new().await;
    ban(&site, json!({"user": "ann", "device": "phone"})).await;
    ban(&site, json!({"device": "stolen"})).await;
    let (ann, bob) = (token("ann"), token("bob"));
    for (token, device, expected) in [
        (&ann, "phone", "banned"),
        (&ann, "laptop", "in"),
        (&bob, "phone", "in"),
        (&bob, "stolen", "in"),
        (&issued("bob", 0, "stolen"), "", "banned"),
        (&issued("ann", 0, "phone"), "", "banned"),
    ] {
        assert_eq!(code(&site, token, device, "").await, expected, "{device}");
    }
    assert_eq!(
        site.get(&issued("bob", 0, "stolen"), "/v1/me").await.status,
        403
    );
    site.get(&bob, "/v1/me").await.good();
}

#[tokio::test]
async fn an_address_is_banned_alone_or_in_a_range_and_administrators_can_still_lift_it() {
    let site = Site::new().await;
    for (range, inside, outside) in [
        ("192.0.2.7", "192.0.2.7", "192.0.2.8"),
        ("198.51.100.9/24", "198.51.100.200", "198.51.101.1"),
        ("2001:db8::/32", "2001:db8:7::1", "2001:db9::1"),
        ("::ffff:203.0.113.7", "203.0.113.7", "203.0.113.8"),
    ] {
        let made = ban(&site, json!({ "address": range })).await;
        assert_eq!(
            code(&site, &token("ann"), "d", inside).await,
            "banned",
            "{made}"
        );
        assert_eq!(
            code(&site, &token("ann"), "d", outside).await,
            "in",
            "{made}"
        );
    }
    ban(&site, json!({"address": "127.0.0.0/8"})).await;
    assert_eq!(
        site.get(&token("ann"), "/v1/me").await.refused(),
        (403, "banned", "")
    );
    assert_eq!(site.get("", "/v1/me").await.refused(), (403, "banned", ""));
    assert_eq!(
        site.delete(&admin(), "/v1/bans?address=127.1.2.3/8")
            .await
            .good()["changed"],
        true
    );
    site.get(&token("ann"), "/v1/me").await.good();
}

#[tokio::test]
async fn tokens_issued_before_a_revocation_are_refused_and_later_ones_are_not() {
    let site = Site::new().await;
    let old = issued("ann", 60, "d");
    let plain = token("ann");
    let connected = enter(&site, &old, "", "").await.unwrap();
    assert_eq!(
        (connected.issued_ms / 1000, connected.device_unproven),
        (now() - 60, false)
    );
    let before = (now() - 30) * 1000;
    let revoked = site
        .post(
            &admin(),
            "/v1/users/ann/revoke",
            json!({ "before": before }),
        )
        .await
        .good();
    assert_eq!(
        (&revoked["id"], &revoked["before"]),
        (&json!("tokens:ann"), &json!(before))
    );
    for (token, expected) in [
        (&old, "unauthenticated"),
        (&plain, "unauthenticated"),
        (&issued("ann", 5, "d"), "in"),
    ] {
        assert_eq!(code(&site, token, "", "").await, expected);
        assert_eq!(
            site.get(token, "/v1/me").await.status,
            if expected == "in" { 200 } else { 401 }
        );
    }
    assert_eq!(
        code(&site, &issued("bob", 60, ""), "d", "").await,
        "unauthenticated",
        "an empty device is none"
    );
    assert_eq!(code(&site, &issued("bob", 60, "d"), "", "").await, "in");
    // An earlier moment takes nothing back; without one it is now.
    let again = site
        .post(&admin(), "/v1/users/ann/revoke", json!({"before": 5}))
        .await
        .good();
    assert_eq!(again["before"], json!(before));
    site.post(&admin(), "/v1/users/ann/revoke", json!({}))
        .await
        .good();
    assert_eq!(
        code(&site, &issued("ann", 5, "d"), "", "").await,
        "unauthenticated"
    );
    // Seconds are all that a token says: one of the next second is surely later.
    let began = Instant::now();
    while code(&site, &issued("ann", 0, "d"), "", "").await != "in" {
        assert!(began.elapsed() < TIMEOUT, "a new token is still refused");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(
        site.delete(&admin(), "/v1/bans/tokens%3Aann").await.good()["changed"],
        true
    );
    assert_eq!(code(&site, &old, "", "").await, "in");
}

#[tokio::test]
async fn a_ban_ends_at_its_time_and_is_gone_from_the_list() {
    let site = Site::new().await;
    let made = ban(&site, json!({"user": "ann", "for": 1_500})).await;
    let until = made["until"].as_u64().unwrap();
    assert_eq!(site.get(&token("ann"), "/v1/me").await.status, 403);
    let began = Instant::now();
    while site.get(&token("ann"), "/v1/me").await.status != 200 {
        assert!(began.elapsed() < TIMEOUT, "it does not end");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(now() * 1000 + 1_000 > until, "not before its time");
    assert_eq!(
        site.get(&admin(), "/v1/bans").await.good()["bans"],
        json!([])
    );
}

#[tokio::test]
async fn the_list_comes_in_pages_and_has_a_bound() {
    let mut options = options();
    options.limits.max_bans = 5;
    let site = Site::with(options).await;
    for number in 0..5 {
        ban(
            &site,
            json!({"user": format!("u{number}"), "reason": format!("r{number}")}),
        )
        .await;
    }
    let more = site.post(&admin(), "/v1/bans", json!({"user": "u5"})).await;
    assert_eq!(more.refused(), (409, "limit_reached", ""));
    let again = ban(&site, json!({"user": "u0", "reason": "again"})).await;
    assert_eq!(again["id"], "user:u0");
    let mut all = Vec::new();
    let mut path = "/v1/bans?limit=2".to_owned();
    loop {
        let page = site.get(&admin(), &path).await.good();
        let bans = page["bans"].as_array().unwrap();
        assert!(bans.len() <= 2);
        all.extend(
            bans.iter()
                .map(|ban| ban["reason"].as_str().unwrap().to_owned()),
        );
        match page["next"].as_str() {
            Some(next) => path = format!("/v1/bans?limit=2&after={next}"),
            None => break,
        }
    }
    assert_eq!(
        all,
        ["r1", "r2", "r3", "r4", "again"],
        "in the order in which they were made"
    );
    // What a node is told is the same, by difference.
    let ask = call::Op::Bans(AskBans::default());
    let Ok(reply::Result::Bans(changes)) = site.call(Bytes::new(), "", ask).await else {
        panic!("no list")
    };
    assert_eq!((changes.bans.len(), changes.reset), (5, false));
    let ask = call::Op::Bans(AskBans {
        since: changes.version,
        began: 0,
    });
    let Ok(reply::Result::Bans(changes)) = site.call(Bytes::new(), "", ask).await else {
        panic!("no list")
    };
    assert_eq!(
        (changes.bans.len(), changes.lifted.len(), changes.reset),
        (0, 0, false)
    );
}

#[tokio::test]
async fn a_mistake_names_its_field_and_only_administrators_may() {
    let site = Site::new().await;
    for (wrong, field) in [
        (json!({}), "user"),
        (json!({"user": "a b"}), "user"),
        (json!({"user": "backend"}), "user"),
        (json!({"user": "ann", "address": "10.0.0.1"}), "address"),
        (json!({"address": "10.0.0.0/33"}), "address"),
        (json!({"address": "example.org"}), "address"),
        (json!({"user": "ann", "until": 5}), "until"),
        (json!({"user": "ann", "until": 0}), "until"),
        (json!({"user": "ann", "for": 0}), "for"),
        (json!({"user": "ann", "until": 5, "for": 5}), "for"),
        (json!({"user": "ann", "for": "1h"}), "for"),
    ] {
        let refused = site.post(&admin(), "/v1/bans", wrong.clone()).await;
        assert_eq!(refused.refused(), (400, "bad_request", field), "{wrong}");
    }
    let long = site
        .post(
            &admin(),
            "/v1/bans",
            json!({"user": "ann", "reason": "x".repeat(513)}),
        )
        .await;
    assert_eq!(long.refused(), (413, "too_large", "reason"));
    let ahead = json!({"before": (now() + 60) * 1000});
    let refused = site.post(&admin(), "/v1/users/ann/revoke", ahead).await;
    assert_eq!(refused.refused(), (400, "bad_request", "before"));
    assert_eq!(
        site.delete(&admin(), "/v1/bans").await.refused(),
        (400, "bad_request", "user")
    );
    let eve = token("eve");
    let id = format!("/v1/bans/{}", encoded("user:ann"));
    for answer in [
        site.post(&eve, "/v1/bans", json!({"user": "ann"})).await,
        site.get(&eve, "/v1/bans").await,
        site.delete(&eve, &id).await,
        site.delete(&eve, "/v1/bans?user=ann").await,
        site.post(&eve, "/v1/users/ann/revoke", json!({})).await,
    ] {
        assert_eq!(answer.refused(), (403, "forbidden", ""));
    }
    site.get(&token("ann"), "/v1/me").await.good();
}
