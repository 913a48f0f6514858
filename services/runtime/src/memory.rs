//! Memory that a crowd leaves behind.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash};

/// Gives memory back after entries were removed: a map whose crowd has left keeps room for twice as many as there are.
/// Up to `spare` places are kept in any case, so that it need not be grown again at once.
pub fn give_back<K: Eq + Hash, V, S: BuildHasher>(map: &mut HashMap<K, V, S>, spare: usize) {
    if map.capacity() > spare.max(4 * map.len()) {
        map.shrink_to(2 * map.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_shrinks_with_its_crowd_and_keeps_a_little() {
        let mut map: HashMap<u32, ()> = (0..10_000).map(|number| (number, ())).collect();
        map.retain(|number, ()| *number < 5_000);
        give_back(&mut map, 16);
        assert!(map.capacity() >= 10_000, "half of it is no crowd");
        map.retain(|number, ()| *number < 10);
        give_back(&mut map, 16);
        assert!(
            (20..100).contains(&map.capacity()),
            "room for {}",
            map.capacity()
        );
        map.clear();
        give_back(&mut map, 16);
        assert!(map.capacity() < 100);
    }
}
