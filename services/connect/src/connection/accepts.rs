//! goim: which operations a client wants of pushes. Bounded, and looked up without walking through them.

/// Operations that a connection may name, and that one frame may.
pub(crate) const MAX_OPERATIONS: usize = 1_024;

/// See the module's top. Sorted, each once; empty: all.
#[derive(Debug, Default)]
pub(crate) struct Accepts(Box<[i32]>);

/// More were named than may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("bad_request: accepts: {0} operations: a connection may name {MAX_OPERATIONS}")]
pub(crate) struct TooMany(usize);

impl Accepts {
    pub(crate) fn wants(&self, operation: i32) -> bool {
        self.0.is_empty() || self.0.binary_search(&operation).is_ok()
    }

    /// Accepts these too; nothing changes where they are too many.
    pub(crate) fn add(&mut self, operations: Vec<i32>) -> Result<(), TooMany> {
        let mut all = sorted(operations)?;
        all.extend_from_slice(&self.0);
        all.sort_unstable();
        all.dedup();
        if all.len() > MAX_OPERATIONS {
            return Err(TooMany(all.len()));
        }
        self.0 = all.into();
        Ok(())
    }

    /// No longer accepts these; nothing changes where they are too many.
    pub(crate) fn remove(&mut self, operations: Vec<i32>) -> Result<(), TooMany> {
        let gone = sorted(operations)?;
        self.0 = self
            .0
            .iter()
            .copied()
            .filter(|operation| gone.binary_search(operation).is_err())
            .collect();
        Ok(())
    }
}

/// What is named is counted before it is looked at, so that a frame full of them costs nothing.
fn sorted(mut operations: Vec<i32>) -> Result<Vec<i32>, TooMany> {
    if operations.len() > MAX_OPERATIONS {
        return Err(TooMany(operations.len()));
    }
    operations.sort_unstable();
    operations.dedup();
    Ok(operations)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_are_added_and_removed_and_none_means_all() {
        let mut accepts = Accepts::default();
        assert!(accepts.wants(7));
        accepts.add(vec![1_002, 1_000, 1_000]).unwrap();
        assert!(accepts.wants(1_000) && accepts.wants(1_002) && !accepts.wants(7));
        accepts.remove(vec![1_000, 5]).unwrap();
        assert!(!accepts.wants(1_000) && accepts.wants(1_002));
    }

    #[test]
    fn more_than_the_bound_are_refused_whole() {
        let mut accepts = Accepts::default();
        assert_eq!(accepts.add((0..1_025).collect()), Err(TooMany(1_025)));
        assert_eq!(accepts.remove(vec![2; 32_700]), Err(TooMany(32_700)));
        accepts.add((0..1_024).collect()).unwrap();
        accepts.add(vec![3, 4]).unwrap();
        assert_eq!(accepts.add(vec![5_000]), Err(TooMany(1_025)));
        assert!(accepts.wants(1_023) && !accepts.wants(5_000));
    }
}
