//! The Secrets that the operator makes: tokens' secret, passwords, the internal authority and each tier's certificate.
//!
//! They are created, never applied: one that exists is adopted by its name, whoever made it, and what stands in it stays.
//! Only a tier's certificate is replaced, when a third of its time is left or it does not fit any more.

pub(crate) mod authority;

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::PostParams;
use kube::{Api, Client, Resource, ResourceExt};

use self::authority::{Authorities, EARLY, ROTATE, Rotation};
use crate::api::{EtcdMode, ImCluster, RedisMode, Tier};
use crate::build;
use crate::kubernetes::cache::Cache;
use crate::kubernetes::key::{CLUSTER, Key};
use crate::pki::{self, Pair};

/// The authority's certificate.
pub(crate) const CA_CERT: &str = "ca.crt";
/// Its key, only in the authority's own Secret.
pub(crate) const CA_KEY: &str = "ca.key";
/// A tier's certificate.
pub(crate) const TLS_CERT: &str = "tls.crt";
/// Its key.
pub(crate) const TLS_KEY: &str = "tls.key";
/// The key of the HS256 secret.
pub(crate) const HS256: &str = "hs256-secret";
/// The key of redis' password.
pub(crate) const PASSWORD: &str = "password";
/// The key of what connect and logic show each other.
pub(crate) const PEER: &str = "secret";

/// An authority whose certificate ends within this is told of: another should have taken its place long ago.
pub(crate) const WARNING: Duration = Duration::from_secs(90 * 86_400);

/// Why a Secret is not as it must be.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The API server.
    #[error("the Secret {name} cannot be {what}: {source}")]
    Api {
        /// Which.
        name: String,
        /// What was tried.
        what: &'static str,
        /// What it answered.
        source: kube::Error,
    },
    /// It exists, but without what is needed.
    #[error(
        "the Secret {name} lacks the key {key}: add it, or delete the Secret so that a new one is made"
    )]
    Lacking {
        /// Which.
        name: String,
        /// The missing key.
        key: &'static str,
    },
    /// It exists, but what stands in it is of no use.
    #[error("the Secret {name}: {source}")]
    Useless {
        /// Which.
        name: String,
        /// What is wrong.
        source: pki::Error,
    },
}

/// What the Secrets say that others need to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Credentials {
    /// The certificates of the authorities that are believed, as PEM.
    pub(crate) authority: String,
    /// How far a change of the authority is, and since when.
    pub(crate) change: Option<(Rotation, Timestamp)>,
    /// When the authority ends.
    pub(crate) authority_until: Timestamp,
    /// When the first certificate is to be replaced.
    pub(crate) renewal: Timestamp,
    /// The pair with which the operator itself reaches redis and etcd.
    pub(crate) own: Pair,
    /// The certificate that redis is to show, where the operator runs it.
    pub(crate) redis_certificate: Option<String>,
    /// The same for Sentinels.
    pub(crate) sentinel_certificate: Option<String>,
    /// Redis' password, where the operator runs redis.
    pub(crate) redis_password: Option<String>,
}

/// A Secret that is to be there.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Plain {
    name: String,
    key: &'static str,
    retained: bool,
}

/// The tiers that have a certificate, and the operator itself.
fn leaves(cluster: &ImCluster) -> Vec<&'static str> {
    let mut names = vec![Tier::Logic.name(), Tier::Connect.name(), "operator"];
    match cluster.spec.redis.mode {
        RedisMode::External => {}
        RedisMode::Single => names.push(Tier::Redis.name()),
        RedisMode::Sentinel => names.extend([Tier::Redis.name(), Tier::Sentinel.name()]),
    }
    if cluster.spec.etcd.mode == EtcdMode::Managed {
        names.push(Tier::Etcd.name());
    }
    names
}

/// Whether tokens are signed with a secret that the operator makes, as the spec names nothing else.
pub(crate) fn generates_auth(cluster: &ImCluster) -> bool {
    let auth = &cluster.spec.auth;
    auth.hs256_secret.is_none() && auth.public_keys.is_none() && auth.jwks_url.is_none()
}

fn plains(cluster: &ImCluster) -> Vec<Plain> {
    let (name, spec) = (cluster.name_any(), &cluster.spec);
    let retained = spec.redis.storage.retain;
    let mut wanted = vec![Plain {
        name: format!("{name}-peer"),
        key: PEER,
        retained: false,
    }];
    if generates_auth(cluster) {
        wanted.push(Plain {
            name: format!("{name}-auth"),
            key: HS256,
            retained,
        });
    }
    if spec.redis.mode != RedisMode::External {
        wanted.push(Plain {
            name: format!("{name}-redis"),
            key: PASSWORD,
            retained,
        });
    }
    wanted
}

/// The names by which a tier's pods are dialled, where Services' names end with `domain`.
pub(crate) fn dns_names(cluster: &Key, tier: &str, domain: &str) -> Vec<String> {
    let service = format!("{}-{tier}", cluster.name);
    let mut names = vec![format!("im-{tier}"), service.clone()];
    for suffix in ["", ".svc", &format!(".svc.{domain}")] {
        let full = format!("{service}.{}{suffix}", cluster.namespace);
        names.push(format!("*.{full}"));
        names.push(full);
    }
    names.extend(["localhost".to_owned(), "127.0.0.1".to_owned()]);
    names
}

/// Sees to it that every Secret of an ImCluster is there and its certificates are fresh. Writes only what is missing or
/// due. `done` says whether everybody has done what belongs to this phase of a change of the authority that began then.
///
/// # Errors
/// [`Error`]: what exists and is of no use is left as it is.
pub(crate) async fn ensure(
    client: &Client,
    cache: &Cache<Secret>,
    cluster: &ImCluster,
    domain: &str,
    done: impl FnOnce(Option<Rotation>, Timestamp) -> bool,
    now: Timestamp,
) -> Result<Credentials, Error> {
    let key = Key::of(cluster);
    let secrets = Secrets {
        api: Api::namespaced(client.clone(), &key.namespace),
        cache,
        cluster,
    };
    let mut redis_password = None;
    for wanted in plains(cluster) {
        let data = || {
            let value = random();
            if wanted.key == PASSWORD {
                return Ok(build::redis_secret(
                    &key.name,
                    &key.namespace,
                    cluster.spec.redis.mode,
                    &value,
                ));
            }
            Ok(data([(wanted.key, value)]))
        };
        let secret = secrets
            .get_or_create(&wanted.name, wanted.retained, data)
            .await?;
        let value = text(&secret, wanted.key)?;
        if wanted.key == PASSWORD {
            secrets.complete(secret, &value).await?;
            redis_password = Some(value);
        }
    }
    let ca_name = format!("{}-ca", key.name);
    let useless = |name: &str| {
        let name = name.to_owned();
        move |source| Error::Useless { name, source }
    };
    // Two of the same name could not be told apart by all.
    let make = || pki::authority(&format!("ImCluster {key} {}", now.as_second()), now);
    let leaf = Key::new(
        &key.namespace,
        format!("{}-{}-tls", key.name, Tier::Logic.name()),
    );
    let shown = cache
        .get(&leaf)
        .and_then(|secret| text(&secret, CA_CERT).ok());
    let made = || Ok(Authorities::first(make().map_err(useless(&ca_name))?, shown, now).written());
    let mut secret = secrets
        .get_or_create_with(&ca_name, cluster.spec.redis.storage.retain, made)
        .await?;
    let mut authorities = Authorities::read(&secret)?;
    let until = |authorities: &Authorities| {
        pki::validity(&authorities.signer().certificate)
            .map(|validity| validity.until)
            .map_err(useless(&ca_name))
    };
    let left = Duration::try_from(until(&authorities)?.duration_since(now)).unwrap_or_default();
    let wanted = left < EARLY || cluster.is_asked_for(ROTATE);
    let phase = authorities.change().map(|(phase, _)| phase);
    if let Some(next) = authorities
        .step(wanted, |since| done(phase, since), make, now)
        .map_err(useless(&ca_name))?
    {
        tracing::info!(cluster = %key, from = ?phase, to = ?next.change(), "internal authority rotation advanced");
        let (data, annotations) = next.written();
        secret.data = Some(data);
        secret
            .annotations_mut()
            .retain(|name, _| !name.starts_with("imcluster.io/"));
        secret.annotations_mut().extend(annotations);
        secrets.write(secret).await?;
        authorities = next;
    }
    let authority_until = until(&authorities)?;

    let believed = authorities.believed();
    let mut renewal = Timestamp::MAX;
    let mut pairs = BTreeMap::new();
    for tier in leaves(cluster) {
        let name = format!("{}-{tier}-tls", key.name);
        let names = dns_names(&key, tier, domain);
        let make = || {
            let pair = pki::leaf(authorities.signer(), &format!("im-{tier}"), &names, now)
                .map_err(useless(&name))?;
            Ok(data([
                (TLS_CERT, pair.certificate),
                (TLS_KEY, pair.key),
                (CA_CERT, believed.clone()),
            ]))
        };
        let mut secret = secrets.get_or_create(&name, false, make).await?;
        let (mut pair, mut validity) = fresh(&secret, &authorities, &names, now);
        if validity.is_none() {
            secret = secrets.replace(secret, make()?).await?;
            (pair, validity) = fresh(&secret, &authorities, &names, now);
        } else if text(&secret, CA_CERT).ok().as_ref() != Some(&believed) {
            secrets
                .replace(secret, data([(CA_CERT, believed.clone())]))
                .await?;
        }
        if let Some(validity) = validity {
            let third = Duration::try_from(validity.until.duration_since(validity.from))
                .unwrap_or_default()
                / 3;
            renewal = renewal.min(validity.until - third);
        }
        pairs.insert(tier, pair);
    }
    let own = pairs.remove("operator").ok_or(Error::Lacking {
        name: format!("{}-operator-tls", key.name),
        key: TLS_CERT,
    })?;
    let mut certificate = |tier: Tier| pairs.remove(tier.name()).map(|pair| pair.certificate);
    Ok(Credentials {
        authority: believed,
        change: authorities.change(),
        authority_until,
        renewal,
        own,
        redis_certificate: certificate(Tier::Redis),
        sentinel_certificate: certificate(Tier::Sentinel),
        redis_password,
    })
}

/// The pair in a tier's Secret, and its validity where it can stay.
fn fresh(
    secret: &Secret,
    authorities: &Authorities,
    names: &[String],
    now: Timestamp,
) -> (Pair, Option<pki::Validity>) {
    let part = |key| text(secret, key).unwrap_or_default();
    let pair = Pair {
        certificate: part(TLS_CERT),
        key: part(TLS_KEY),
    };
    let fits = authorities.has_signed(&pair, names);
    let validity = pki::validity(&pair.certificate)
        .ok()
        .filter(|validity| fits && !validity.is_due(now));
    (pair, validity)
}

fn text(secret: &Secret, key: &'static str) -> Result<String, Error> {
    let value = secret.data.as_ref().and_then(|data| data.get(key));
    let value = value
        .and_then(|value| String::from_utf8(value.0.clone()).ok())
        .filter(|value| !value.is_empty());
    value.ok_or_else(|| Error::Lacking {
        name: secret.name_any(),
        key,
    })
}

/// 32 random bytes, as 64 characters that need no quoting anywhere.
fn random() -> String {
    rand::random::<[u8; 32]>()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

struct Secrets<'c> {
    api: Api<Secret>,
    cache: &'c Cache<Secret>,
    cluster: &'c ImCluster,
}

impl Secrets<'_> {
    async fn get_or_create(
        &self,
        name: &str,
        retained: bool,
        make: impl FnOnce() -> Result<Data, Error>,
    ) -> Result<Secret, Error> {
        self.get_or_create_with(name, retained, || Ok((bytes(make()?), BTreeMap::new())))
            .await
    }

    /// The same, of one with annotations.
    async fn get_or_create_with(
        &self,
        name: &str,
        retained: bool,
        make: impl FnOnce() -> Result<(BTreeMap<String, ByteString>, BTreeMap<String, String>), Error>,
    ) -> Result<Secret, Error> {
        let key = Key::new(self.cluster.namespace().unwrap_or_default(), name);
        if let Some(known) = self.cache.get(&key) {
            return self.belonging(known.as_ref().clone(), retained).await;
        }
        let failed = |what| {
            move |source| Error::Api {
                name: key.name,
                what,
                source,
            }
        };
        // Not labelled, or not seen yet: only the API server knows.
        if let Some(found) = self
            .api
            .get_opt(name)
            .await
            .map_err(failed.clone()("read"))?
        {
            return self.belonging(found, retained).await;
        }
        let (data, annotations) = make()?;
        let mut metadata = self.metadata(name, retained);
        metadata.annotations = (!annotations.is_empty()).then_some(annotations);
        let secret = Secret {
            metadata,
            data: Some(data),
            ..Secret::default()
        };
        let created = self
            .api
            .create(&PostParams::default(), &secret)
            .await
            .map_err(failed("created"))?;
        tracing::info!(cluster = %Key::of(self.cluster), secret = name, "created Secret");
        self.cache.put(created.clone());
        Ok(created)
    }

    /// Writes beside redis' password what follows from it.
    async fn complete(&self, secret: Secret, password: &str) -> Result<(), Error> {
        let key = Key::of(self.cluster);
        let mode = self.cluster.spec.redis.mode;
        let mut wanted = bytes(build::redis_secret(
            &key.name,
            &key.namespace,
            mode,
            password,
        ));
        let there = secret.data.clone().unwrap_or_default();
        wanted.retain(|key, value| there.get(key) != Some(value));
        if !wanted.is_empty() {
            self.replace(
                secret,
                build::redis_secret(&key.name, &key.namespace, mode, password),
            )
            .await?;
        }
        Ok(())
    }

    /// Lets a Secret that the operator has made go with the ImCluster or stay without it, as is asked for by now.
    async fn belonging(&self, mut secret: Secret, retained: bool) -> Result<Secret, Error> {
        let made = secret.labels().get(CLUSTER) == Some(&self.cluster.name_any());
        let owner = self.cluster.controller_owner_ref(&());
        let Some(owner) = owner.filter(|_| made) else {
            return Ok(secret);
        };
        let owners = secret.metadata.owner_references.get_or_insert_default();
        let before = owners.len();
        if retained {
            owners.retain(|other| other.uid != owner.uid);
        } else if owners.is_empty() {
            owners.push(owner);
        }
        if owners.len() == before {
            return Ok(secret);
        }
        self.replace(secret, Data::new()).await
    }

    /// Only where nobody changed it meanwhile.
    async fn replace(&self, mut secret: Secret, data: Data) -> Result<Secret, Error> {
        secret.data.get_or_insert_default().extend(bytes(data));
        self.write(secret).await
    }

    async fn write(&self, secret: Secret) -> Result<Secret, Error> {
        let name = secret.name_any();
        let replaced = self
            .api
            .replace(&name, &PostParams::default(), &secret)
            .await;
        let replaced = replaced.map_err(|source| Error::Api {
            name: name.clone(),
            what: "replaced",
            source,
        })?;
        tracing::info!(cluster = %Key::of(self.cluster), secret = name, "updated Secret");
        self.cache.put(replaced.clone());
        Ok(replaced)
    }

    fn metadata(&self, name: &str, retained: bool) -> ObjectMeta {
        let cluster = self.cluster;
        let labels = [
            ("app.kubernetes.io/managed-by", "im-operator".to_owned()),
            ("app.kubernetes.io/instance", cluster.name_any()),
            ("app.kubernetes.io/part-of", "imcluster".to_owned()),
            (CLUSTER, cluster.name_any()),
        ];
        let owner = (!retained)
            .then(|| cluster.controller_owner_ref(&()))
            .flatten();
        ObjectMeta {
            name: Some(name.to_owned()),
            namespace: cluster.namespace(),
            labels: Some(labels.map(|(key, value)| (key.to_owned(), value)).into()),
            owner_references: owner.map(|owner: OwnerReference| vec![owner]),
            ..ObjectMeta::default()
        }
    }
}

/// What a Secret holds, as text.
type Data = BTreeMap<String, String>;

fn data<const N: usize>(pairs: [(&str, String); N]) -> Data {
    pairs.map(|(key, value)| (key.to_owned(), value)).into()
}

fn bytes(data: Data) -> BTreeMap<String, ByteString> {
    data.into_iter()
        .map(|(key, value)| (key, ByteString(value.into_bytes())))
        .collect()
}
