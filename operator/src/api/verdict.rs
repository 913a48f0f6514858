//! A condition's value before it is dated: whether it holds, and why.

use super::{ConditionStatus, Reason};

/// Whether a condition holds, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// Whether it holds.
    pub(crate) status: ConditionStatus,
    /// Why, in one word.
    pub(crate) reason: Reason,
    /// Why, for people.
    pub(crate) message: String,
}

impl Verdict {
    /// The condition is `True`.
    pub(crate) fn yes(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            status: ConditionStatus::True,
            reason,
            message: message.into(),
        }
    }

    /// The condition is `False`.
    pub(crate) fn no(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            status: ConditionStatus::False,
            reason,
            message: message.into(),
        }
    }

    /// The condition is `Unknown`.
    pub(crate) fn unknown(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            status: ConditionStatus::Unknown,
            reason,
            message: message.into(),
        }
    }

    /// Whether the condition is `True`.
    pub(crate) fn holds(&self) -> bool {
        self.status == ConditionStatus::True
    }
}
