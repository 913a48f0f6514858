//! The delivery path without sockets: fan-out from the hub, a slow reader's outbox, a gap that is repaired.

use bytes::Bytes;
use divan::Bencher;
use divan::counter::ItemsCount;
use im_connect::measure::{Room, outbox};

fn main() {
    divan::main();
}

/// (members, messages that have come at once): deliveries per second.
#[divan::bench(args = [(2, 1), (1_000, 1), (1_000, 20), (5_000, 1)])]
fn fan_out(bencher: Bencher<'_, '_>, (members, messages): (u32, u64)) {
    let mut room = Room::new(members, 100);
    bencher
        .counter(ItemsCount::new(u64::from(members) * messages))
        .bench_local(|| room.fan_out(messages));
}

/// Messages that the bus has lost, in a room of two.
#[divan::bench(args = [1, 100])]
fn gap_repair(bencher: Bencher<'_, '_>, missing: u64) {
    let mut room = Room::new(2, 100);
    bencher
        .counter(ItemsCount::new(missing + 1))
        .bench_local(|| room.repair(missing));
}

/// Frames of 250 bytes that wait for a slow reader and leave.
#[divan::bench(args = [1, 1_000])]
fn slow_reader(bencher: Bencher<'_, '_>, frames: usize) {
    let frame = Bytes::from(vec![0; 250]);
    bencher
        .counter(ItemsCount::new(frames))
        .bench_local(|| outbox(frames, &frame));
}
