//! How fast connect changes: what its rollout decides, handed to `build`, and what it does to pods.

use std::sync::Arc;

use crate::build::Run;
use crate::context::Context;
use crate::failure::Failure;
use crate::key::Key;
use crate::status::Verdict;
use crate::validate::Valid;

/// What is decided for connect.
#[derive(Debug, Clone)]
pub struct Pace {
    /// Pods there are to be.
    pub replicas: i32,
    /// Whether the Deployment starts no further replacement.
    pub paused: bool,
    /// What is told of it.
    pub progressing: Option<Verdict>,
}

/// Decides.
pub fn decide(_: &Arc<Context>, valid: &Valid, _: &Run) -> Pace {
    Pace { replicas: valid.spec().connect.replicas, paused: false, progressing: None }
}

/// Does what was decided; says whether anything was written.
///
/// # Errors
/// The API server.
pub async fn carry_out(_: &Arc<Context>, _: &Key, _: &Pace) -> Result<bool, Failure> {
    Ok(false)
}
