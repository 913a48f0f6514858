//! How a reconciliation ended: when the next is due, and why it failed.

use std::time::Duration;

use crate::api::Reason;
use crate::kubernetes::{apply, calls, is_quota};
use crate::tiers::connect;
use crate::validate::Problem;
use crate::{dereference, secrets};

/// What a person has to repair is looked at again after so long.
const RETRY: Duration = Duration::from_secs(15);

/// How a reconciliation ended, and when the next is due if nothing happens before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The ImCluster is no more.
    Gone,
    /// Nothing was to be changed.
    Settled(Duration),
    /// Something was.
    Changed(Duration),
    /// Nothing can be done until somebody else does something.
    Waiting(Duration),
    /// It is tried again.
    Failed,
}

impl Outcome {
    /// For metrics.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Gone => "gone",
            Self::Settled(_) => "settled",
            Self::Changed(_) => "changed",
            Self::Waiting(_) => "waiting",
            Self::Failed => "failed",
        }
    }
}

/// Why a reconciliation failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The spec breaks rules.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Invalid(Vec<Problem>),
    /// Another operator manages it.
    #[error(
        "the operator {0} manages this ImCluster. Where that one is no more, its last report stays as it was; hand the ImCluster over: kubectl annotate imc NAME imcluster.io/operator-"
    )]
    OwnedByAnother(String),
    /// Something is missing or of no use, and a person has to see to it.
    #[error("{message}")]
    Person {
        /// In one word.
        reason: Reason,
        /// What, and what to do.
        message: String,
    },
    /// The API server refused a call or did not answer.
    #[error("{what}: {message}")]
    Api {
        /// What was tried.
        what: String,
        /// Its status code, if it answered.
        code: Option<u16>,
        /// What it said.
        message: String,
        /// Whether the namespace is being deleted.
        ending: bool,
    },
    /// This replica leads no more.
    #[error("{0}")]
    NotLeading(calls::Error),
}

impl Failure {
    /// Of a call to the API server.
    pub(crate) fn api(what: impl Into<String>, error: kube::Error) -> Self {
        let what = what.into();
        match error {
            kube::Error::Api(status) => {
                let causes = status.details.iter().flat_map(|details| &details.causes);
                let ending = causes
                    .into_iter()
                    .any(|cause| cause.reason == "NamespaceTerminating")
                    || status.message.contains("because it is being terminated");
                Self::Api {
                    what,
                    code: Some(status.code),
                    message: status.message.clone(),
                    ending,
                }
            }
            kube::Error::Service(error) => match error.downcast_ref::<calls::Error>() {
                Some(error @ calls::Error::NotLeading) => Self::NotLeading(*error),
                _ => Self::Api {
                    what,
                    code: None,
                    message: error.to_string(),
                    ending: false,
                },
            },
            error => Self::Api {
                what,
                code: None,
                message: error.to_string(),
                ending: false,
            },
        }
    }

    /// In one word.
    pub(crate) fn reason(&self) -> Reason {
        match self {
            Self::Invalid(_) => Reason::InvalidSpec,
            Self::OwnedByAnother(_) => Reason::OwnedByAnother,
            Self::Person { reason, .. } => *reason,
            Self::Api {
                code: Some(403),
                message,
                ..
            } if is_quota(message) => Reason::QuotaExceeded,
            Self::Api {
                code: Some(409 | 410 | 429 | 500..) | None,
                ..
            }
            | Self::NotLeading(_) => Reason::ApiUnavailable,
            Self::Api { .. } => Reason::ApplyFailed,
        }
    }

    /// Whether nothing is left to be done, as the namespace ends or another replica has taken over.
    pub(crate) fn is_end(&self) -> bool {
        matches!(self, Self::NotLeading(_) | Self::Api { ending: true, .. })
    }

    /// What follows for the next reconciliation.
    pub(crate) fn outcome(&self, revisit: Duration) -> Outcome {
        match self {
            Self::Invalid(_) | Self::OwnedByAnother(_) | Self::NotLeading(_) => {
                Outcome::Waiting(revisit)
            }
            Self::Person { .. } => Outcome::Waiting(RETRY),
            Self::Api { ending: true, .. } => Outcome::Waiting(revisit),
            Self::Api { .. } => Outcome::Failed,
        }
    }
}

impl From<dereference::Error> for Failure {
    fn from(error: dereference::Error) -> Self {
        match error {
            dereference::Error::Missing(message) => Self::Person {
                reason: Reason::ReferenceMissing,
                message,
            },
            dereference::Error::Api { what, source } => {
                Self::api(format!("{what} cannot be read"), source)
            }
        }
    }
}

impl From<secrets::Error> for Failure {
    fn from(error: secrets::Error) -> Self {
        match error {
            secrets::Error::Api { name, what, source } => {
                Self::api(format!("the Secret {name} cannot be {what}"), source)
            }
            useless => Self::Person {
                reason: Reason::ReferenceMissing,
                message: useless.to_string(),
            },
        }
    }
}

impl From<apply::Error> for Failure {
    fn from(error: apply::Error) -> Self {
        match error {
            apply::Error::Api {
                kind,
                name,
                what,
                source,
            } => Self::api(format!("{kind} {name} cannot be {what}"), *source),
            taken => Self::Person {
                reason: Reason::OwnedByAnother,
                message: taken.to_string(),
            },
        }
    }
}

impl From<connect::act::Error> for Failure {
    fn from(error: connect::act::Error) -> Self {
        Self::api(format!("pod {} cannot be changed", error.pod), error.source)
    }
}

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;

    fn answered(code: u16, message: &str) -> Failure {
        let status = Status::failure(message, "Because").with_code(code);
        Failure::api(
            "Deployment demo-connect cannot be applied",
            kube::Error::Api(Box::new(status)),
        )
    }

    #[test]
    fn answers_of_the_api_server_tell_what_follows() {
        let revisit = Duration::from_secs(600);
        for (code, message, reason, outcome) in [
            (
                409,
                "the object has been modified",
                Reason::ApiUnavailable,
                Outcome::Failed,
            ),
            (410, "too old", Reason::ApiUnavailable, Outcome::Failed),
            (
                429,
                "too many requests",
                Reason::ApiUnavailable,
                Outcome::Failed,
            ),
            (
                500,
                "internal error",
                Reason::ApiUnavailable,
                Outcome::Failed,
            ),
            (
                422,
                "spec.x: Invalid value",
                Reason::ApplyFailed,
                Outcome::Failed,
            ),
            (
                403,
                "exceeded quota: small",
                Reason::QuotaExceeded,
                Outcome::Failed,
            ),
            (
                403,
                "cannot create resource",
                Reason::ApplyFailed,
                Outcome::Failed,
            ),
            (
                403,
                "unable to create new content in namespace chat because it is being terminated",
                Reason::ApplyFailed,
                Outcome::Waiting(revisit),
            ),
        ] {
            let failure = answered(code, message);
            assert_eq!(
                (failure.reason(), failure.outcome(revisit)),
                (reason, outcome),
                "{code} {message}"
            );
            assert!(failure.to_string().contains(message));
        }
    }

    #[test]
    fn who_leads_no_more_is_silent() {
        let error = kube::Error::Service(calls::Error::NotLeading.into());
        assert!(Failure::api("x", error).is_end());
    }
}
