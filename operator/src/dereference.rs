//! Whether what an ImCluster names is there: Secrets and ConfigMaps of its namespace, with the keys it names.

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::{Api, Client, ResourceExt};

use crate::api::ImCluster;

/// Shorter secrets of HS256 tokens are too easy to guess.
const MIN_SECRET: usize = 32;

/// Why an ImCluster cannot be built.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// Something that it names is not there, or not what it must be.
    #[error("{0}")]
    Missing(String),
    /// It cannot be told.
    #[error("{what} cannot be read: {source}")]
    Api {
        /// What was to be read.
        what: String,
        /// What the API server answered.
        source: kube::Error,
    },
}

/// Looks everything up that an ImCluster names.
///
/// # Errors
/// [`Error::Missing`] says which field names what, and what to do.
pub(crate) async fn dereference(client: &Client, cluster: &ImCluster) -> Result<(), Error> {
    let namespace = cluster.namespace().unwrap_or_default();
    let spec = &cluster.spec;
    if let Some(secret) = &spec.auth.hs256_secret {
        let value = secret_key(
            client,
            &namespace,
            "spec.auth.hs256Secret",
            &secret.name,
            &secret.key,
        )
        .await?;
        // A line end at the end does not count.
        let length = value.trim_ascii_end().len();
        if length < MIN_SECRET {
            let what = format!(
                "spec.auth.hs256Secret: the key {} of the Secret {} has {length} bytes: write {MIN_SECRET} random bytes or more",
                secret.key, secret.name
            );
            return Err(Error::Missing(what));
        }
    }
    if let Some(external) = &spec.redis.external {
        let secret = &external.url_secret;
        secret_key(
            client,
            &namespace,
            "spec.redis.external.urlSecret",
            &secret.name,
            &secret.key,
        )
        .await?;
    }
    if let Some(keys) = &spec.auth.public_keys {
        config_map_keys(client, &namespace, &keys.config_map, &keys.keys).await?;
    }
    Ok(())
}

async fn secret_key(
    client: &Client,
    namespace: &str,
    field: &str,
    name: &str,
    key: &str,
) -> Result<Vec<u8>, Error> {
    let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let found = api.get_opt(name).await.map_err(|source| Error::Api {
        what: format!("the Secret {name}"),
        source,
    })?;
    let Some(secret) = found else {
        return Err(Error::Missing(format!(
            "{field} names the Secret {name}, which does not exist: create it"
        )));
    };
    let value = secret
        .data
        .and_then(|mut data| data.remove(key))
        .map(|value| value.0);
    value.filter(|value| !value.is_empty()).ok_or_else(|| {
        Error::Missing(format!(
            "{field} names the key {key} of the Secret {name}, which lacks it: add it"
        ))
    })
}

async fn config_map_keys(
    client: &Client,
    namespace: &str,
    name: &str,
    keys: &[String],
) -> Result<(), Error> {
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let found = api.get_opt(name).await.map_err(|source| Error::Api {
        what: format!("the ConfigMap {name}"),
        source,
    })?;
    let field = "spec.auth.publicKeys";
    let Some(map) = found else {
        return Err(Error::Missing(format!(
            "{field} names the ConfigMap {name}, which does not exist: create it"
        )));
    };
    let data = map.data.unwrap_or_default();
    let lacking: Vec<&str> = keys
        .iter()
        .map(String::as_str)
        .filter(|key| !data.contains_key(*key))
        .collect();
    if lacking.is_empty() {
        return Ok(());
    }
    Err(Error::Missing(format!(
        "{field} names keys that the ConfigMap {name} lacks: {}: add them",
        lacking.join(", ")
    )))
}
