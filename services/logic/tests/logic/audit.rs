//! Lines of the audit log: who did what to whom, and who was refused.

use std::collections::BTreeMap;
use std::sync::{Mutex, Once};

use serde_json::json;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use crate::site::{Site, TIMEOUT, admin, encoded, now, token};

type Line = BTreeMap<&'static str, String>;

static LINES: Mutex<Vec<Line>> = Mutex::new(Vec::new());

/// Keeps the lines of the target `audit`, of every test in the process.
struct Keeping;

struct Fields(Line);

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name(), value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.0.insert(field.name(), format!("{value:?}"));
    }
}

impl Subscriber for Keeping {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "audit"
    }

    fn event(&self, event: &Event<'_>) {
        let mut fields = Fields(Line::new());
        event.record(&mut fields);
        LINES.lock().unwrap().push(fields.0);
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// A service whose audit log is kept.
async fn kept() -> Site {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| tracing::subscriber::set_global_default(Keeping).unwrap());
    Site::new().await
}

/// The lines in which this is the value of some field, without the fields that are empty or 0; other tests write too.
fn about(value: &str) -> Vec<String> {
    let lines = LINES.lock().unwrap();
    let meant = lines
        .iter()
        .filter(|line| line.values().any(|one| one == value));
    let shown = |line: &Line| {
        let told = line
            .iter()
            .filter(|(name, value)| **name != "message" && !value.is_empty() && *value != "0");
        told.map(|(name, value)| format!("{name}={value}"))
            .collect::<Vec<_>>()
            .join(" ")
    };
    meant.map(shown).collect()
}

#[tokio::test]
async fn what_administrators_do_to_users_is_written_down_with_their_name() {
    let site = kept().await;
    let user = "audited-ann";
    site.post(
        &admin(),
        "/v1/bans",
        json!({"user": user, "reason": "spam"}),
    )
    .await
    .good();
    site.delete(
        &admin(),
        &format!("/v1/bans/{}", encoded(&format!("user:{user}"))),
    )
    .await
    .good();
    let before = (now() - 30) * 1000;
    site.post(
        &admin(),
        &format!("/v1/users/{user}/revoke"),
        json!({ "before": before }),
    )
    .await
    .good();
    site.post(
        &admin(),
        "/v1/kick",
        json!({"user": user, "text": "go away"}),
    )
    .await
    .good();
    let expected = [
        format!("action=ban by=backend reason=spam user={user}"),
        format!("action=revoke by=backend issued_before_ms={before} user={user}"),
        format!("action=kick by=backend reason=go away user={user}"),
    ];
    assert_eq!(about(user), expected);
    assert_eq!(
        about(&format!("user:{user}")),
        [format!("action=unban ban=user:{user} by=backend")]
    );
    // Nothing was done: nothing is written.
    site.delete(&admin(), &format!("/v1/bans?user={user}"))
        .await
        .good();
    assert_eq!(
        site.post(&token(user), "/v1/bans", json!({"user": "audited-bob"}))
            .await
            .status,
        401,
        "revoked"
    );
    assert_eq!(
        site.post(
            &token("audited-bob"),
            "/v1/bans",
            json!({"user": "audited-cat"})
        )
        .await
        .status,
        403
    );
    assert_eq!(about(&format!("user:{user}")).len(), 1);
    assert_eq!(
        (about("audited-bob"), about("audited-cat")),
        (vec![], vec![])
    );
}

#[tokio::test]
async fn bans_of_devices_and_addresses_are_written_down_with_their_end() {
    let site = kept().await;
    let until = (now() + 3_600) * 1000;
    let device = json!({"user": "audited-dan", "device": "audited-phone", "until": until});
    site.post(&admin(), "/v1/bans", device).await.good();
    site.post(&admin(), "/v1/bans", json!({"address": "203.0.113.9/24"}))
        .await
        .good();
    let expected =
        format!("action=ban by=backend device=audited-phone until_ms={until} user=audited-dan");
    assert_eq!(about("audited-dan"), [expected]);
    assert_eq!(
        about("203.0.113.0/24"),
        ["action=ban address=203.0.113.0/24 by=backend"]
    );
}

#[tokio::test]
async fn refusals_are_written_down_so_many_a_second_and_the_others_are_counted() {
    let site = kept().await;
    let user = "audited-eve";
    site.post(&admin(), "/v1/bans", json!({ "user": user }))
        .await
        .good();
    let refusals = || {
        let mut lines = about(user);
        lines.retain(|line| line.starts_with("action=refuse"));
        lines
    };
    for _ in 0..200 {
        assert_eq!(
            site.get(&token(user), "/v1/me").await.refused(),
            (403, "banned", "")
        );
    }
    let lines = refusals();
    assert_eq!(
        lines[0],
        format!("action=refuse ban=user:{user} user={user}")
    );
    assert!(lines.len() >= 10 && lines.len() < 200, "{lines:?}");
    // The next second's first line says how many were left out.
    let begun = std::time::Instant::now();
    while !refusals().iter().any(|line| line.contains("left_out=")) {
        assert!(
            begun.elapsed() < TIMEOUT,
            "nobody says how many were left out: {:?}",
            refusals()
        );
        assert_eq!(site.get(&token(user), "/v1/me").await.status, 403);
    }
}
