//! The internal authority, and how another takes its place while everybody goes on talking.
//!
//! First everybody is told to believe the next one too. Once all do, it signs; and once all show what it has signed, the one
//! before is believed no more. The Secret `NAME-ca` holds how far that is, so that any operator goes on with it. A Secret that
//! was deleted is made good in the same way: what it held is believed until nobody shows it any more.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;

use super::{CA_CERT, CA_KEY, Error};
use crate::pki::{self, Pair};

/// A person's word that another authority is to take the place of this one: an annotation of the ImCluster, `true`.
pub(crate) const ROTATE: &str = "imcluster.io/rotate-authority";
/// With so much of its time left another one takes its place by itself.
pub(crate) const EARLY: Duration = Duration::from_secs(365 * 86_400);
/// On the authority's Secret: since when those are believed who are believed now.
const SINCE: &str = "imcluster.io/believed-since";
const NEXT_CERT: &str = "next.crt";
const NEXT_KEY: &str = "next.key";
const PREVIOUS_CERT: &str = "previous.crt";

/// How far a change of the authority is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rotation {
    /// The next one is believed, and does not sign yet.
    Introducing,
    /// The next one signs, and the one before is still believed.
    Retiring,
}

/// Who signs, and who is believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Authorities {
    /// Who signs. The key may be lost: then it is empty.
    current: Pair,
    /// Who will sign.
    next: Option<Pair>,
    /// The certificate of the one before.
    previous: Option<String>,
    /// Since when a change is in its phase.
    since: Option<Timestamp>,
}

impl Authorities {
    /// The first one. `believed` is what certificates say that are there already: the Secret was deleted.
    pub(super) fn first(pair: Pair, believed: Option<String>, now: Timestamp) -> Self {
        match believed {
            None => Self {
                current: pair,
                next: None,
                previous: None,
                since: None,
            },
            Some(certificate) => {
                let current = Pair {
                    certificate,
                    key: String::new(),
                };
                Self {
                    current,
                    next: Some(pair),
                    previous: None,
                    since: Some(now),
                }
            }
        }
    }

    /// What the Secret holds.
    ///
    /// # Errors
    /// It lacks a certificate, or holds what is none.
    pub(super) fn read(secret: &Secret) -> Result<Self, Error> {
        let text = |key: &str| {
            let value = secret.data.as_ref().and_then(|data| data.get(key));
            value
                .and_then(|value| String::from_utf8(value.0.clone()).ok())
                .filter(|value| !value.is_empty())
        };
        let lacking = |key| Error::Lacking {
            name: secret.name_any(),
            key,
        };
        let useless = |source| Error::Useless {
            name: secret.name_any(),
            source,
        };
        let next = text(NEXT_CERT)
            .zip(text(NEXT_KEY))
            .map(|(certificate, key)| Pair { certificate, key });
        let certificate = text(CA_CERT).ok_or(lacking(CA_CERT))?;
        let key = text(CA_KEY)
            .or(next.as_ref().map(|_| String::new()))
            .ok_or(lacking(CA_KEY))?;
        let since = secret
            .annotations()
            .get(SINCE)
            .and_then(|since| since.parse().ok());
        let read = Self {
            current: Pair { certificate, key },
            next,
            previous: text(PREVIOUS_CERT),
            since,
        };
        for pair in std::iter::once(&read.current)
            .chain(&read.next)
            .filter(|pair| !pair.key.is_empty())
        {
            pki::check_authority(pair).map_err(useless)?;
        }
        Ok(read)
    }

    /// What the Secret is to hold: its data and its annotations.
    pub(super) fn written(&self) -> (BTreeMap<String, ByteString>, BTreeMap<String, String>) {
        let (next, previous) = (self.next.as_ref(), self.previous.as_ref());
        let parts = [
            (CA_CERT, Some(&self.current.certificate)),
            (CA_KEY, Some(&self.current.key)),
            (NEXT_CERT, next.map(|next| &next.certificate)),
            (NEXT_KEY, next.map(|next| &next.key)),
            (PREVIOUS_CERT, previous),
        ];
        let there = parts
            .into_iter()
            .filter_map(|(key, value)| Some((key, value.filter(|value| !value.is_empty())?)));
        let data = there
            .map(|(key, value)| (key.to_owned(), ByteString(value.clone().into_bytes())))
            .collect();
        (
            data,
            self.since
                .map(|since| (SINCE.to_owned(), since.to_string()))
                .into_iter()
                .collect(),
        )
    }

    /// Who signs now.
    pub(crate) fn signer(&self) -> &Pair {
        self.next
            .as_ref()
            .filter(|_| self.current.key.is_empty())
            .unwrap_or(&self.current)
    }

    /// The certificates of all who are believed, as PEM.
    pub(crate) fn believed(&self) -> String {
        let all = [
            Some(&self.current.certificate),
            self.next.as_ref().map(|next| &next.certificate),
            self.previous.as_ref(),
        ];
        all.into_iter()
            .flatten()
            .map(|pem| format!("{}\n", pem.trim_end()))
            .collect()
    }

    /// Whether one who may be shown has signed this.
    pub(super) fn has_signed(&self, pair: &Pair, names: &[String]) -> bool {
        let next = self.next.as_ref().map(|next| &next.certificate);
        std::iter::once(&self.current.certificate)
            .chain(next)
            .any(|one| pki::matches(pair, one, names))
    }

    /// How far a change is, and since when.
    pub(crate) fn change(&self) -> Option<(Rotation, Timestamp)> {
        let phase = match (&self.next, &self.previous) {
            (Some(_), _) => Rotation::Introducing,
            (None, Some(_)) => Rotation::Retiring,
            (None, None) => return None,
        };
        // One whose beginning is not known begins now.
        Some((phase, self.since.unwrap_or(Timestamp::MAX)))
    }

    /// What follows, if anything: a change is begun where it is `wanted`, and goes on where everybody has done what belongs to its
    /// phase, as `done` says of its beginning.
    pub(super) fn step(
        &self,
        wanted: bool,
        done: impl FnOnce(Timestamp) -> bool,
        make: impl FnOnce() -> Result<Pair, pki::Error>,
        now: Timestamp,
    ) -> Result<Option<Self>, pki::Error> {
        let (current, previous) = (self.current.clone(), self.previous.clone());
        let next = match self.change() {
            None if wanted => Self {
                current,
                next: Some(make()?),
                previous,
                since: Some(now),
            },
            None => return Ok(None),
            Some((_, since)) if since == Timestamp::MAX => Self {
                since: Some(now),
                ..self.clone()
            },
            Some((_, since)) if !done(since) => return Ok(None),
            Some((Rotation::Introducing, _)) => match self.next.clone() {
                Some(next) => {
                    let previous = Some(self.current.certificate.clone());
                    Self {
                        current: next,
                        next: None,
                        previous,
                        since: Some(now),
                    }
                }
                None => return Ok(None),
            },
            Some((Rotation::Retiring, _)) => Self {
                current,
                next: None,
                previous: None,
                since: None,
            },
        };
        Ok(Some(next))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(now: Timestamp) -> Pair {
        pki::authority("demo", now).unwrap()
    }

    fn stored(authorities: &Authorities) -> Authorities {
        let (data, annotations) = authorities.written();
        let mut secret = Secret {
            data: Some(data),
            ..Secret::default()
        };
        secret.metadata.annotations = Some(annotations);
        Authorities::read(&secret).unwrap()
    }

    #[test]
    fn another_is_believed_before_it_signs_and_the_old_one_until_nobody_shows_it() {
        let (now, names) = (Timestamp::now(), ["redis".to_owned()]);
        let (old, new) = (pair(now), pair(now));
        let by = |authority: &Pair| pki::leaf(authority, "redis", &names, now).unwrap();
        let has =
            |one: &Authorities, pair: &Pair| one.believed().contains(pair.certificate.trim_end());
        let mut one = Authorities::first(old.clone(), None, now);
        let step = |one: &Authorities, wanted, done| {
            one.step(wanted, |_| done, || Ok(new.clone()), now).unwrap()
        };
        assert_eq!((step(&one, false, true), one.change()), (None, None));

        one = stored(&step(&one, true, false).unwrap());
        assert_eq!(
            one.change().map(|(phase, _)| phase),
            Some(Rotation::Introducing)
        );
        assert!(has(&one, &old) && has(&one, &new) && one.signer() == &old);
        assert!(one.has_signed(&by(&old), &names) && one.has_signed(&by(&new), &names));
        assert_eq!(step(&one, true, false), None, "not before all believe it");

        one = stored(&step(&one, true, true).unwrap());
        assert_eq!(
            one.change().map(|(phase, _)| phase),
            Some(Rotation::Retiring)
        );
        assert!(has(&one, &old) && has(&one, &new) && one.signer() == &new);
        assert!(
            !one.has_signed(&by(&old), &names),
            "what the old one has signed is replaced"
        );
        assert_eq!(
            step(&one, true, false),
            None,
            "not before all show what the new one has signed"
        );

        one = stored(&step(&one, false, true).unwrap());
        assert!(!has(&one, &old) && has(&one, &new));
        assert_eq!(
            (one.change(), one),
            (None, Authorities::first(new.clone(), None, now))
        );
    }

    #[test]
    fn a_secret_that_was_deleted_is_made_good_without_a_break() {
        let now = Timestamp::now();
        let (lost, new) = (pair(now), pair(now));
        let mut one = stored(&Authorities::first(
            new.clone(),
            Some(lost.certificate.clone()),
            now,
        ));
        assert_eq!(
            one.change().map(|(phase, _)| phase),
            Some(Rotation::Introducing)
        );
        assert_eq!(one.signer(), &new, "nobody else can");
        let names = ["redis".to_owned()];
        let shown = pki::leaf(&lost, "redis", &names, now).unwrap();
        assert!(
            one.has_signed(&shown, &names),
            "what is shown stays until the new one is believed"
        );
        one = one
            .step(false, |_| true, || panic!("there is one"), now)
            .unwrap()
            .unwrap();
        assert!(
            !one.has_signed(&shown, &names) && one.believed().contains(lost.certificate.trim_end())
        );
    }

    #[test]
    fn a_change_whose_beginning_was_lost_begins_again() {
        let now = Timestamp::now();
        let one = Authorities::first(pair(now), Some(pair(now).certificate), now);
        let one = Authorities { since: None, ..one };
        let next = one
            .step(
                false,
                |_| panic!("that is not known"),
                || panic!("there is one"),
                now,
            )
            .unwrap()
            .unwrap();
        assert_eq!(
            next,
            Authorities {
                since: Some(now),
                ..one
            }
        );
    }
}
