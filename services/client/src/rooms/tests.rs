use bytes::Bytes;
use im_wire::native::Body;
use proptest::prelude::*;

use super::*;

fn id(name: &str) -> RoomId {
    RoomId::new(name).unwrap()
}

fn message(room: &str, epoch: Epoch, seq: Seq) -> Message {
    let text = |text: &str| text.to_owned();
    Message {
        room: id(room),
        epoch,
        seq,
        id: text("m"),
        from: text("u"),
        client_id: text("c"),
        kind: text("text"),
        body: Body::Text(Bytes::new()),
        time_ms: 0,
    }
}

fn at(room: &str, epoch: Epoch, seq: Option<Seq>) -> Position {
    Position {
        room: id(room),
        epoch,
        seq,
    }
}

fn standing(epoch: Epoch, head: Seq, joined: Seq) -> Standing {
    Standing {
        epoch,
        head,
        joined,
    }
}

/// One room "r" at (1, 10), asked for on both slots.
fn rooms() -> Rooms {
    let mut rooms = Rooms::new(vec![at("r", 1, Some(10))], false);
    rooms.ask(Slot::A);
    rooms.ask(Slot::B);
    rooms
}

#[test]
fn a_room_goes_on_where_it_was_and_repeats_are_dropped() {
    let mut rooms = rooms();
    rooms.subscribed(
        Slot::A,
        false,
        &id("r"),
        standing(1, 12, 0),
        Some(&at("r", 1, Some(10))),
    );
    assert_eq!(
        rooms.message(Slot::A, true, &message("r", 1, 11)),
        Verdict::Deliver
    );
    assert_eq!(
        rooms.message(Slot::A, true, &message("r", 1, 11)),
        Verdict::Repeat
    );
    assert_eq!(
        rooms.message(Slot::A, true, &message("r", 1, 3)),
        Verdict::Repeat
    );
    assert_eq!(
        rooms.message(Slot::A, true, &message("r", 1, 12)),
        Verdict::Deliver
    );
    assert_eq!(rooms.place(&id("r")), Some((1, 12)));
}

#[test]
fn a_room_heard_from_now_on_begins_after_the_head() {
    let mut rooms = Rooms::new(vec![at("r", 0, None)], false);
    rooms.ask(Slot::A);
    let heard = rooms.subscribed(
        Slot::A,
        false,
        &id("r"),
        standing(5, 40, 0),
        Some(&at("r", 0, None)),
    );
    assert_eq!(
        heard,
        Heard {
            after: 40,
            new: false,
            fetch: false,
            unwanted: false
        }
    );
    assert_eq!(
        rooms.message(Slot::A, true, &message("r", 5, 40)),
        Verdict::Repeat
    );
    assert_eq!(
        rooms.message(Slot::A, true, &message("r", 5, 41)),
        Verdict::Deliver
    );
}

#[test]
fn a_gap_is_asked_for_once_and_a_second_one_is_told_apart() {
    let mut rooms = rooms();
    assert_eq!(
        rooms.message(Slot::A, true, &message("r", 1, 12)),
        Verdict::Gap
    );
    assert_eq!(
        rooms.message(Slot::A, true, &message("r", 1, 13)),
        Verdict::Repairing
    );
    assert_eq!(
        rooms.ask_again(Slot::A, &id("r")),
        Some(at("r", 1, Some(10)))
    );
    rooms.subscribed(
        Slot::A,
        true,
        &id("r"),
        standing(1, 13, 0),
        Some(&at("r", 1, Some(10))),
    );
    assert_eq!(
        rooms.message(Slot::A, true, &message("r", 1, 13)),
        Verdict::GapAgain
    );
    assert_eq!(
        rooms.message(Slot::A, true, &message("r", 1, 11)),
        Verdict::Deliver
    );
    assert_eq!(
        rooms.message(Slot::A, true, &message("r", 1, 13)),
        Verdict::Gap,
        "a new one"
    );
}

#[test]
fn a_reset_takes_back_what_is_beyond_it() {
    let mut rooms = rooms();
    rooms.subscribed(
        Slot::A,
        false,
        &id("r"),
        standing(2, 9, 0),
        Some(&at("r", 1, Some(10))),
    );
    assert!(rooms.reset(Slot::A, true, &id("r"), 2, 7));
    assert_eq!(
        rooms.message(Slot::A, true, &message("r", 2, 8)),
        Verdict::Deliver
    );
    assert!(
        !rooms.reset(Slot::A, true, &id("r"), 3, 20),
        "nothing was beyond"
    );
    assert_eq!(
        rooms.message(Slot::A, true, &message("r", 3, 9)),
        Verdict::Deliver
    );
}

#[test]
fn a_position_beyond_the_head_of_its_own_epoch_is_reset_too() {
    let mut rooms = rooms();
    rooms.subscribed(
        Slot::A,
        false,
        &id("r"),
        standing(1, 5, 0),
        Some(&at("r", 1, Some(10))),
    );
    assert!(rooms.reset(Slot::A, true, &id("r"), 1, 5));
    assert_eq!(rooms.place(&id("r")), Some((1, 5)));
}

#[test]
fn two_connections_are_merged_into_one_order() {
    let mut rooms = rooms();
    assert_eq!(
        rooms.message(Slot::A, false, &message("r", 1, 11)),
        Verdict::Deliver
    );
    assert_eq!(
        rooms.message(Slot::B, false, &message("r", 1, 11)),
        Verdict::Repeat
    );
    assert_eq!(
        rooms.message(Slot::B, false, &message("r", 1, 12)),
        Verdict::Deliver
    );
    assert_eq!(
        rooms.message(Slot::A, false, &message("r", 1, 12)),
        Verdict::Repeat
    );
    assert_eq!(
        rooms.message(Slot::A, false, &message("r", 1, 13)),
        Verdict::Deliver
    );
}

#[test]
fn the_news_of_a_reset_counts_once_over_two_connections() {
    let mut rooms = rooms();
    assert!(rooms.reset(Slot::B, false, &id("r"), 2, 6));
    assert_eq!(
        rooms.message(Slot::A, false, &message("r", 1, 11)),
        Verdict::Stale,
        "the old node has not heard yet"
    );
    assert_eq!(
        rooms.message(Slot::B, false, &message("r", 2, 7)),
        Verdict::Deliver
    );
    assert_eq!(
        rooms.message(Slot::B, false, &message("r", 2, 8)),
        Verdict::Deliver
    );
    assert!(!rooms.reset(Slot::A, false, &id("r"), 2, 6), "old news");
    assert_eq!(
        rooms.message(Slot::A, false, &message("r", 2, 7)),
        Verdict::Repeat
    );
    assert_eq!(
        rooms.message(Slot::A, false, &message("r", 2, 8)),
        Verdict::Repeat
    );
    assert_eq!(
        rooms.message(Slot::A, false, &message("r", 2, 9)),
        Verdict::Deliver
    );
}

#[test]
fn a_phantom_of_the_old_connection_is_taken_back_when_the_new_one_brings_the_real_message() {
    let mut rooms = rooms();
    rooms.subscribed(
        Slot::B,
        true,
        &id("r"),
        standing(2, 10, 0),
        Some(&at("r", 1, Some(10))),
    );
    assert_eq!(
        rooms.message(Slot::A, false, &message("r", 1, 11)),
        Verdict::Deliver,
        "nobody knows better yet"
    );
    assert_eq!(
        rooms.message(Slot::B, false, &message("r", 2, 11)),
        Verdict::DeliverAfterReset { keep: 10 }
    );
    assert_eq!(
        rooms.message(Slot::B, false, &message("r", 2, 12)),
        Verdict::Deliver
    );
}

#[test]
fn a_connection_left_alone_in_the_past_is_asked_where_the_log_stands() {
    let mut rooms = rooms();
    rooms.subscribed(
        Slot::B,
        true,
        &id("r"),
        standing(5, 10, 0),
        Some(&at("r", 1, Some(10))),
    );
    assert_eq!(
        rooms.message(Slot::B, false, &message("r", 5, 11)),
        Verdict::Deliver
    );
    assert_eq!(
        rooms.message(Slot::A, false, &message("r", 2, 12)),
        Verdict::Stale
    );
    assert_eq!(
        rooms.message(Slot::A, true, &message("r", 3, 12)),
        Verdict::Gap
    );
    assert_eq!(
        rooms.ask_again(Slot::A, &id("r")),
        Some(at("r", 5, Some(11)))
    );
    assert!(
        !rooms.reset(Slot::A, true, &id("r"), 4, 10),
        "from before the question"
    );
    assert_eq!(
        rooms.message(Slot::A, true, &message("r", 4, 12)),
        Verdict::Repairing
    );
    rooms.subscribed(
        Slot::A,
        true,
        &id("r"),
        standing(5, 12, 0),
        Some(&at("r", 5, Some(11))),
    );
    assert_eq!(
        rooms.message(Slot::A, true, &message("r", 5, 12)),
        Verdict::Deliver
    );
}

#[test]
fn what_one_connection_leaves_out_the_other_does_not_hide() {
    let mut rooms = rooms();
    rooms.subscribed(
        Slot::A,
        false,
        &id("r"),
        standing(1, 10, 0),
        Some(&at("r", 1, Some(10))),
    );
    rooms.subscribed(
        Slot::B,
        true,
        &id("r"),
        standing(1, 10, 0),
        Some(&at("r", 1, Some(10))),
    );
    assert_eq!(
        rooms.message(Slot::A, false, &message("r", 1, 11)),
        Verdict::Deliver
    );
    assert_eq!(
        rooms.message(Slot::B, false, &message("r", 1, 12)),
        Verdict::Gap,
        "it has not brought 11"
    );
    assert_eq!(
        rooms.message(Slot::A, false, &message("r", 1, 12)),
        Verdict::Deliver
    );
}

#[test]
fn what_retention_removed_is_told_once() {
    let mut rooms = rooms();
    assert_eq!(
        rooms.truncated(Slot::A, true, &id("r"), 11, 20),
        Some((11, 20))
    );
    assert_eq!(rooms.truncated(Slot::A, true, &id("r"), 11, 20), None);
    assert_eq!(
        rooms.message(Slot::A, true, &message("r", 1, 21)),
        Verdict::Deliver
    );
    assert_eq!(
        rooms.truncated(Slot::A, true, &id("r"), 30, 40),
        None,
        "a gap before it shows at the next message"
    );
}

#[test]
fn rooms_that_nobody_asked_for_are_heard_only_when_all_are() {
    let mut some = rooms();
    assert_eq!(
        some.message(Slot::A, true, &message("x", 1, 5)),
        Verdict::NotHeard
    );
    assert!(
        some.subscribed(Slot::A, false, &id("x"), standing(1, 5, 0), None)
            .unwanted
    );
    let mut all = Rooms::new(Vec::new(), true);
    assert_eq!(
        all.message(Slot::A, true, &message("x", 1, 5)),
        Verdict::Deliver
    );
    all.unwant(&id("x"));
    assert_eq!(
        all.message(Slot::A, true, &message("x", 1, 6)),
        Verdict::NotHeard
    );
    assert!(
        all.subscribed(Slot::A, false, &id("x"), standing(1, 6, 0), None)
            .unwanted
    );
}

#[test]
fn a_room_joined_while_away_is_heard_from_the_joining_on() {
    let mut all = Rooms::new(Vec::new(), true);
    let first = all.subscribed(Slot::A, false, &id("old"), standing(1, 50, 3), None);
    assert_eq!((first.after, first.fetch), (50, false));
    let joined = all.subscribed(Slot::A, true, &id("new"), standing(1, 50, 3), None);
    assert_eq!(
        joined,
        Heard {
            after: 3,
            new: true,
            fetch: true,
            unwanted: false
        }
    );
}

#[test]
fn a_room_left_is_not_revived_by_a_connection_that_lags() {
    let mut all = Rooms::new(Vec::new(), true);
    all.message(Slot::A, false, &message("x", 1, 5));
    assert!(all.leave(&id("x")));
    assert_eq!(
        all.message(Slot::A, false, &message("x", 1, 6)),
        Verdict::NotHeard
    );
    all.join(&id("x"), true);
    assert_eq!(
        all.message(Slot::A, true, &message("x", 1, 9)),
        Verdict::Deliver
    );
}

#[test]
fn each_slot_is_asked_for_what_it_was_not_asked_for() {
    let mut rooms = Rooms::new(vec![at("r", 1, Some(10))], false);
    assert_eq!(rooms.ask(Slot::A), [at("r", 1, Some(10))]);
    assert_eq!(rooms.ask(Slot::A), []);
    rooms.want(at("s", 0, None));
    assert_eq!(rooms.ask(Slot::A), [at("s", 0, None)]);
    assert_eq!(rooms.ask(Slot::B).len(), 2);
    rooms.reset_slot(Slot::A, true);
    assert_eq!(rooms.ask(Slot::A).len(), 2);
}

#[test]
fn a_log_set_back_to_a_smaller_epoch_is_followed_while_two_connections_deliver() {
    let mut rooms = Rooms::new(vec![at("r", 5, Some(10))], false);
    for slot in Slot::BOTH {
        rooms.ask(slot);
        rooms.subscribed(
            slot,
            true,
            &id("r"),
            standing(5, 10, 0),
            Some(&at("r", 5, Some(10))),
        );
    }
    // The master that began epoch 5 is lost with it; the next one's clock is behind.
    assert!(rooms.reset(Slot::A, false, &id("r"), 3, 8));
    assert_eq!(
        rooms.message(Slot::A, false, &message("r", 3, 9)),
        Verdict::Deliver
    );
    assert_eq!(
        rooms.message(Slot::B, false, &message("r", 5, 11)),
        Verdict::Stale,
        "its node has not heard yet"
    );
    assert_eq!(
        rooms.message(Slot::A, false, &message("r", 3, 10)),
        Verdict::Deliver
    );
    assert!(!rooms.reset(Slot::B, false, &id("r"), 3, 8), "old news");
    assert_eq!(
        rooms.message(Slot::B, false, &message("r", 3, 9)),
        Verdict::Repeat
    );
    assert_eq!(
        rooms.message(Slot::B, false, &message("r", 3, 10)),
        Verdict::Repeat
    );
    assert_eq!(
        rooms.message(Slot::B, false, &message("r", 3, 11)),
        Verdict::Deliver
    );
    assert_eq!(rooms.place(&id("r")), Some((3, 11)));
}

#[test]
fn a_connection_left_alone_in_an_epoch_that_was_taken_back_is_asked_where_the_log_stands() {
    let mut rooms = Rooms::new(vec![at("r", 5, Some(10))], false);
    for slot in Slot::BOTH {
        rooms.ask(slot);
        rooms.subscribed(
            slot,
            true,
            &id("r"),
            standing(5, 10, 0),
            Some(&at("r", 5, Some(10))),
        );
    }
    assert!(rooms.reset(Slot::A, false, &id("r"), 3, 8));
    assert_eq!(
        rooms.message(Slot::B, true, &message("r", 5, 11)),
        Verdict::Gap
    );
    assert_eq!(
        rooms.ask_again(Slot::B, &id("r")),
        Some(at("r", 3, Some(8)))
    );
    // It is not the past after all: the answer comes after the question.
    rooms.subscribed(
        Slot::B,
        true,
        &id("r"),
        standing(5, 10, 0),
        Some(&at("r", 3, Some(8))),
    );
    assert_eq!(
        rooms.message(Slot::B, true, &message("r", 5, 9)),
        Verdict::Deliver
    );
}

#[test]
fn everything_between_the_epochs_of_a_log_set_back_is_the_past() {
    let mut rooms = Rooms::new(vec![at("r", 1, Some(5))], false);
    for slot in Slot::BOTH {
        rooms.ask(slot);
        rooms.subscribed(
            slot,
            true,
            &id("r"),
            standing(1, 5, 0),
            Some(&at("r", 1, Some(5))),
        );
    }
    assert_eq!(
        rooms.message(Slot::A, false, &message("r", 3, 6)),
        Verdict::Deliver
    );
    assert!(rooms.reset(Slot::A, false, &id("r"), 4, 5));
    assert!(
        !rooms.reset(Slot::A, false, &id("r"), 2, 5),
        "nothing was beyond"
    );
    assert_eq!(
        rooms.message(Slot::B, false, &message("r", 3, 6)),
        Verdict::Stale
    );
    assert!(!rooms.reset(Slot::B, false, &id("r"), 4, 5), "the past");
    assert_eq!(
        rooms.message(Slot::A, false, &message("r", 2, 6)),
        Verdict::Deliver
    );
    assert!(!rooms.reset(Slot::B, false, &id("r"), 2, 5), "old news");
    assert_eq!(
        rooms.message(Slot::B, false, &message("r", 2, 6)),
        Verdict::Repeat
    );
    assert_eq!(
        rooms.message(Slot::B, false, &message("r", 2, 7)),
        Verdict::Deliver
    );
}

/// A log with a history of failovers, and two nodes that each know it up to some failover.
#[derive(Debug)]
struct Log {
    /// Per epoch (its index + 1): the whole log in force then, as the epoch of each entry.
    epochs: Vec<Vec<Epoch>>,
}

impl Log {
    /// Each step: the epoch goes on with `more` entries, after the failover before it took `lost` back.
    fn new(steps: &[(usize, usize)]) -> Self {
        let mut log = Vec::new();
        let mut epochs = Vec::new();
        for (step, (lost, more)) in steps.iter().enumerate() {
            log.truncate(log.len().saturating_sub(*lost));
            log.extend(std::iter::repeat_n(step as Epoch + 1, *more));
            epochs.push(log.clone());
        }
        Self { epochs }
    }

    /// The seq after which a position in `known` must be forgotten in the log of `epoch`.
    fn base(&self, known: Epoch, epoch: Epoch) -> Seq {
        let mut base = u64::MAX;
        for later in known..epoch {
            let entries = &self.epochs[later as usize];
            base = base.min(entries.iter().filter(|entry| **entry <= later).count() as u64);
        }
        base
    }
}

/// One connection's way through the log, as a server would send it.
struct Node {
    slot: Slot,
    epoch: Epoch,
    next: Seq,
}

proptest! {
    /// Two connections deliver one room through failovers, each in its own time. The application's copy, shortened at
    /// resets, is always a true beginning of the log of some epoch, and in the end of the last.
    #[test]
    fn the_copy_of_the_application_is_always_a_beginning_of_the_log(
        steps in prop::collection::vec((0..6_usize, 1..6_usize), 1..5),
        turns in prop::collection::vec((any::<bool>(), 0..10_u8), 0..80),
    ) {
        let log = Log::new(&steps);
        let last = log.epochs.len() as Epoch;
        let mut rooms = Rooms::new(vec![at("r", 1, Some(0))], false);
        let mut nodes = Slot::BOTH.map(|slot| Node { slot, epoch: 1, next: 1 });
        for node in &nodes {
            rooms.ask(node.slot);
            rooms.subscribed(node.slot, false, &id("r"), standing(1, 0, 0), Some(&at("r", 1, Some(0))));
        }
        let mut copy: Vec<Epoch> = Vec::new();
        let finale = (0..60).flat_map(|_| [(true, 0), (false, 0)]);
        let to_the_end = (0..last).flat_map(|_| [(true, 9), (false, 9)]).chain(finale);
        for (which, what) in turns.into_iter().chain(to_the_end) {
            let node = &mut nodes[usize::from(which)];
            let entries = &log.epochs[node.epoch as usize - 1];
            if what >= 8 && node.epoch < last {
                // The node hears of the failover.
                let base = log.base(node.epoch, node.epoch + 1);
                node.epoch += 1;
                if node.next > base + 1 {
                    node.next = base + 1;
                    if rooms.reset(node.slot, false, &id("r"), node.epoch, base) {
                        copy.truncate(base as usize);
                    }
                }
            } else if let Some(epoch) = entries.get(node.next as usize - 1) {
                let verdict = rooms.message(node.slot, false, &message("r", *epoch, node.next));
                if let Verdict::DeliverAfterReset { keep } = verdict {
                    copy.truncate(keep as usize);
                }
                if matches!(verdict, Verdict::Deliver | Verdict::DeliverAfterReset { .. }) {
                    copy.push(*epoch);
                    prop_assert_eq!(copy.len() as u64, node.next);
                }
                prop_assert!(!matches!(verdict, Verdict::Gap | Verdict::GapAgain | Verdict::Repairing), "{:?}", verdict);
                node.next += 1;
            }
            prop_assert!(log.epochs.iter().any(|log| log.starts_with(&copy)), "{:?} is of no log", copy);
        }
        prop_assert_eq!(&copy, &log.epochs[last as usize - 1]);
    }
}
