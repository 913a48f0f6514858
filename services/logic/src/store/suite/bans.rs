//! The list of bans: noted, lifted, over, bounded, followed by differences.

use im_proto::bans::{Applied, Bans, Who, subject};
use im_proto::v1::Ban;

use super::Stage;

const PLENTY: usize = 1_000_000;

pub(super) async fn cases(stage: &Stage) {
    a_ban_is_noted_followed_and_lifted(stage).await;
    what_is_over_is_removed_and_said_to_be(stage).await;
    there_are_so_many_and_no_more(stage).await;
}

fn ban(user: &str, until_ms: u64) -> Ban {
    let ban = Ban {
        user: user.to_owned(),
        until_ms,
        reason: "spam".to_owned(),
        ..Ban::default()
    };
    Ban {
        id: subject(&ban).expect("about a user").1,
        ..ban
    }
}

/// Brings a copy up to date; how many answers it took.
async fn follow(stage: &Stage, copy: &Bans) -> usize {
    for answers in 1..1_000 {
        let changes = stage.store.bans.bans(copy.known()).await.expect("the list");
        if let Applied::All { .. } = copy.apply(changes) {
            return answers;
        }
    }
    panic!("the list has no end");
}

fn refuses(copy: &Bans, user: &str) -> bool {
    copy.refuses(
        &Who {
            user,
            ..Who::default()
        },
        || 1,
    )
    .is_some()
}

async fn a_ban_is_noted_followed_and_lifted(stage: &Stage) {
    let ann = stage.name("ann");
    let copy = Bans::default();
    follow(stage, &copy).await;
    assert_eq!(stage.store.bans.ban(ban(&ann, 0), PLENTY).await, Ok(true));
    assert!(!refuses(&copy, &ann));
    follow(stage, &copy).await;
    assert!(refuses(&copy, &ann));
    let noted = copy
        .read()
        .get(&format!("user:{ann}"))
        .cloned()
        .expect("noted");
    assert_eq!(
        (noted.reason.as_str(), noted.version),
        ("spam", copy.read().version())
    );
    // Another one about the same takes its place.
    let again = Ban {
        reason: "more spam".to_owned(),
        ..ban(&ann, 0)
    };
    assert_eq!(stage.store.bans.ban(again, 0).await, Ok(true));
    let changes = stage.store.bans.bans(copy.known()).await.expect("the list");
    assert_eq!(
        (changes.bans.len(), changes.lifted.len(), changes.reset),
        (1, 0, false)
    );
    copy.apply(changes);
    for lifted in [true, false] {
        assert_eq!(
            stage.store.bans.lift_ban(&format!("user:{ann}")).await,
            Ok(lifted)
        );
    }
    let changes = stage.store.bans.bans(copy.known()).await.expect("the list");
    assert_eq!(
        (changes.bans.len(), changes.lifted.len(), changes.reset),
        (0, 1, false)
    );
    copy.apply(changes);
    assert!(!refuses(&copy, &ann));
    let nothing = stage.store.bans.bans(copy.known()).await.expect("the list");
    assert_eq!(
        (nothing.version, nothing.upto, nothing.bans.len()),
        (copy.read().version(), nothing.version, 0)
    );
}

async fn what_is_over_is_removed_and_said_to_be(stage: &Stage) {
    let ann = stage.name("ann");
    let bob = stage.name("bob");
    let copy = Bans::default();
    assert_eq!(stage.store.bans.ban(ban(&ann, 1), PLENTY).await, Ok(true));
    assert_eq!(
        stage
            .store
            .bans
            .ban(ban(&bob, u64::MAX / 4096), PLENTY)
            .await,
        Ok(true)
    );
    follow(stage, &copy).await;
    while stage.store.bans.forget_bans().await.expect("forgotten") > 0 {}
    follow(stage, &copy).await;
    let (ann, bob) = (format!("user:{ann}"), format!("user:{bob}"));
    assert!(copy.read().get(&ann).is_none() && copy.read().get(&bob).is_some());
    assert_eq!(stage.store.bans.lift_ban(&bob).await, Ok(true));
}

async fn there_are_so_many_and_no_more(stage: &Stage) {
    let copy = Bans::default();
    follow(stage, &copy).await;
    let max = copy.read().len() + 1;
    let (ann, bob) = (stage.name("ann"), stage.name("bob"));
    assert_eq!(stage.store.bans.ban(ban(&ann, 0), max).await, Ok(true));
    assert_eq!(stage.store.bans.ban(ban(&bob, 0), max).await, Ok(false));
    assert_eq!(
        stage.store.bans.ban(ban(&ann, 0), max).await,
        Ok(true),
        "it has its place already"
    );
    assert_eq!(
        stage.store.bans.lift_ban(&format!("user:{ann}")).await,
        Ok(true)
    );
    assert_eq!(stage.store.bans.ban(ban(&bob, 0), max).await, Ok(true));
    assert_eq!(
        stage.store.bans.lift_ban(&format!("user:{bob}")).await,
        Ok(true)
    );
}
