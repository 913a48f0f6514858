//! The internal certificate authority of an ImCluster, and the certificates it gives to the tiers.

use std::time::Duration;

use jiff::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};
use x509_parser::pem::Pem;

/// How long the authority's own certificate is valid.
pub(crate) const AUTHORITY_LIFE: Duration = Duration::from_secs(3652 * DAY);
/// How long a tier's certificate is valid.
pub(crate) const LEAF_LIFE: Duration = Duration::from_secs(90 * DAY);
/// Certificates are valid from a while before they are made: clocks differ.
const BACKDATED: Duration = Duration::from_secs(600);
const DAY: u64 = 86_400;

/// Why a certificate cannot be made or read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The key or certificate in a Secret is not what it should be.
    #[error("{what} cannot be read: {why}")]
    Unreadable {
        /// Which.
        what: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// A certificate could not be made.
    #[error("a certificate cannot be made: {0}")]
    Making(#[from] rcgen::Error),
}

/// A certificate and its key, both as PEM.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Pair {
    /// The certificate.
    pub(crate) certificate: String,
    /// Its private key, PKCS #8.
    pub(crate) key: String,
}

impl std::fmt::Debug for Pair {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        to.debug_struct("Pair")
            .field("certificate", &self.certificate)
            .finish_non_exhaustive()
    }
}

/// A new authority, named in its certificate.
///
/// # Errors
/// [`Error::Making`].
pub(crate) fn authority(name: &str, now: Timestamp) -> Result<Pair, Error> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    date(&mut params, now, AUTHORITY_LIFE);
    Ok(Pair {
        certificate: params.self_signed(&key)?.pem(),
        key: key.serialize_pem(),
    })
}

/// A new certificate for both ends of a connection, valid for these names and addresses.
///
/// # Errors
/// The authority cannot be read, or a name is no name.
pub(crate) fn leaf(
    authority: &Pair,
    name: &str,
    names: &[String],
    now: Timestamp,
) -> Result<Pair, Error> {
    let unreadable = |error: rcgen::Error| Error::Unreadable {
        what: "the authority",
        why: error.to_string(),
    };
    let signer = KeyPair::from_pem(&authority.key).map_err(unreadable)?;
    let issuer = Issuer::from_ca_cert_pem(&authority.certificate, signer).map_err(unreadable)?;
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name.push(DnType::CommonName, name);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    params.use_authority_key_identifier_extension = true;
    // Never longer than who vouches for it.
    let life = LEAF_LIFE.min(validity(&authority.certificate)?.left(now));
    date(&mut params, now, life);
    Ok(Pair {
        certificate: params.signed_by(&key, &issuer)?.pem(),
        key: key.serialize_pem(),
    })
}

fn date(params: &mut CertificateParams, now: Timestamp, life: Duration) {
    let epoch = date_time_ymd(1970, 1, 1);
    let now = Duration::from_secs(u64::try_from(now.as_second()).unwrap_or(0));
    params.not_before = epoch + now.saturating_sub(BACKDATED);
    params.not_after = epoch + now + life;
}

/// What a certificate says of its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Validity {
    /// Its first second.
    pub(crate) from: Timestamp,
    /// Its last.
    pub(crate) until: Timestamp,
}

impl Validity {
    /// What is left of it.
    pub(crate) fn left(&self, now: Timestamp) -> Duration {
        Duration::try_from(self.until.duration_since(now)).unwrap_or(Duration::ZERO)
    }

    /// Whether a third of it or less is left.
    pub(crate) fn is_due(&self, now: Timestamp) -> bool {
        let whole =
            Duration::try_from(self.until.duration_since(self.from)).unwrap_or(Duration::ZERO);
        self.left(now) <= whole / 3
    }
}

/// Reads when a certificate is valid.
///
/// # Errors
/// It is none.
pub(crate) fn validity(certificate: &str) -> Result<Validity, Error> {
    with_certificate(certificate, |certificate| {
        let at = |time: x509_parser::time::ASN1Time| Timestamp::from_second(time.timestamp()).ok();
        let period = certificate.validity();
        Some(Validity {
            from: at(period.not_before)?,
            until: at(period.not_after)?,
        })
    })
}

/// Whether a certificate was signed by this authority, is for these names, and belongs to its key.
pub(crate) fn matches(leaf: &Pair, authority: &str, names: &[String]) -> bool {
    let has = |certificate: &x509_parser::certificate::X509Certificate<'_>| {
        let told = certificate
            .subject_alternative_name()
            .ok()??
            .value
            .general_names
            .clone();
        let told: Vec<String> = told.iter().filter_map(as_text).collect();
        let key = KeyPair::from_pem(&leaf.key).ok()?;
        let same_key =
            certificate.public_key().subject_public_key.data.as_ref() == key.public_key_raw();
        Some(same_key && names.iter().all(|name| told.contains(name)))
    };
    let signed = |ours: &x509_parser::certificate::X509Certificate<'_>| {
        with_certificate(authority, |authority| {
            ours.verify_signature(Some(authority.public_key())).ok()
        })
        .ok()
    };
    with_certificate(&leaf.certificate, |ours| {
        Some(has(ours)? && signed(ours).is_some())
    })
    .unwrap_or(false)
}

/// Whether an authority's certificate and key belong together.
///
/// # Errors
/// They do not, or one of them is unreadable.
pub(crate) fn check_authority(authority: &Pair) -> Result<(), Error> {
    let key = KeyPair::from_pem(&authority.key).map_err(|error| Error::Unreadable {
        what: "ca.key",
        why: error.to_string(),
    })?;
    let same = with_certificate(&authority.certificate, |certificate| {
        Some(
            certificate.public_key().subject_public_key.data.as_ref() == key.public_key_raw()
                && certificate.is_ca(),
        )
    })?;
    let why = "it is no authority's certificate, or not the one of ca.key".to_owned();
    if same {
        Ok(())
    } else {
        Err(Error::Unreadable {
            what: "ca.crt",
            why,
        })
    }
}

fn as_text(name: &x509_parser::extensions::GeneralName<'_>) -> Option<String> {
    use x509_parser::extensions::GeneralName;
    match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => match <[u8; 4]>::try_from(*bytes) {
            Ok(four) => Some(std::net::Ipv4Addr::from(four).to_string()),
            Err(_) => {
                Some(std::net::Ipv6Addr::from(<[u8; 16]>::try_from(*bytes).ok()?).to_string())
            }
        },
        _ => None,
    }
}

fn with_certificate<T>(
    pem: &str,
    look: impl FnOnce(&x509_parser::certificate::X509Certificate<'_>) -> Option<T>,
) -> Result<T, Error> {
    let unreadable = |why: String| Error::Unreadable {
        what: "a certificate",
        why,
    };
    let first = Pem::iter_from_buffer(pem.as_bytes()).next();
    let block = first.ok_or_else(|| unreadable("there is no PEM block".to_owned()))?;
    let block = block.map_err(|error| unreadable(error.to_string()))?;
    let certificate = block
        .parse_x509()
        .map_err(|error| unreadable(error.to_string()))?;
    look(&certificate).ok_or_else(|| unreadable("it lacks what is needed".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Vec<String> {
        [
            "demo-redis",
            "*.demo-redis.chat.svc",
            "localhost",
            "127.0.0.1",
        ]
        .map(str::to_owned)
        .to_vec()
    }

    #[test]
    fn a_leaf_is_known_by_its_authority_its_names_and_its_key() {
        let now = Timestamp::now();
        let ours = authority("demo", now).unwrap();
        check_authority(&ours).unwrap();
        let pair = leaf(&ours, "redis", &names(), now).unwrap();
        assert!(matches(&pair, &ours.certificate, &names()));

        let mut more = names();
        more.push("elsewhere".to_owned());
        assert!(!matches(&pair, &ours.certificate, &more));
        let other = authority("demo", now).unwrap();
        assert!(!matches(&pair, &other.certificate, &names()));
        let key = leaf(&ours, "redis", &names(), now).unwrap().key;
        assert!(!matches(&Pair { key, ..pair }, &ours.certificate, &names()));
        assert!(
            check_authority(&Pair {
                key: other.key,
                ..ours
            })
            .is_err()
        );
    }

    #[test]
    fn a_leaf_is_due_when_a_third_is_left() {
        let now = Timestamp::now();
        let ours = authority("demo", now).unwrap();
        let pair = leaf(&ours, "redis", &names(), now).unwrap();
        let validity = validity(&pair.certificate).unwrap();
        let days = |days: u64| now + Duration::from_secs(days * DAY);
        assert!(!validity.is_due(now) && !validity.is_due(days(59)));
        assert!(validity.is_due(days(61)) && validity.is_due(days(100)));
        assert_eq!(validity.left(days(100)), Duration::ZERO);
    }

    #[test]
    fn no_leaf_outlives_its_authority() {
        let now = Timestamp::now();
        let ours = authority("demo", now).unwrap();
        let late = now + (AUTHORITY_LIFE - Duration::from_secs(10 * DAY));
        let pair = leaf(&ours, "redis", &names(), late).unwrap();
        let (leaf, authority) = (
            validity(&pair.certificate).unwrap(),
            validity(&ours.certificate).unwrap(),
        );
        assert!(leaf.until <= authority.until);
    }

    #[test]
    fn a_handshake_between_two_leaves_succeeds_and_a_strangers_fails() {
        use rustls::pki_types::pem::PemObject;
        use rustls::pki_types::{CertificateDer, PrivateKeyDer};
        use std::sync::Arc;
        let now = Timestamp::now();
        let ours = authority("demo", now).unwrap();
        let strange = authority("demo", now).unwrap();
        let shake = |client_of: &Pair| {
            let parts = |of: &Pair| {
                let pair = leaf(of, "x", &names(), now).unwrap();
                let certificate =
                    CertificateDer::from_pem_slice(pair.certificate.as_bytes()).unwrap();
                (
                    vec![certificate],
                    PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).unwrap(),
                )
            };
            let mut roots = rustls::RootCertStore::empty();
            roots
                .add(CertificateDer::from_pem_slice(ours.certificate.as_bytes()).unwrap())
                .unwrap();
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            let roots = Arc::new(roots);
            let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(
                Arc::clone(&roots),
                Arc::clone(&provider),
            )
            .build()
            .unwrap();
            let (chain, key) = parts(&ours);
            let server = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_client_cert_verifier(verifier)
                .with_single_cert(chain, key)
                .unwrap();
            let (chain, key) = parts(client_of);
            let client = rustls::ClientConfig::builder_with_provider(provider)
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_root_certificates(roots)
                .with_client_auth_cert(chain, key)
                .unwrap();
            let mut server = rustls::ServerConnection::new(Arc::new(server)).unwrap();
            let name = "demo-redis-0.demo-redis.chat.svc".try_into().unwrap();
            let mut client = rustls::ClientConnection::new(Arc::new(client), name).unwrap();
            while client.is_handshaking() || server.is_handshaking() {
                let mut bytes = Vec::new();
                while client.wants_write() {
                    client.write_tls(&mut bytes).unwrap();
                }
                server.read_tls(&mut bytes.as_slice()).unwrap();
                server.process_new_packets()?;
                let mut bytes = Vec::new();
                while server.wants_write() {
                    server.write_tls(&mut bytes).unwrap();
                }
                client.read_tls(&mut bytes.as_slice()).unwrap();
                client.process_new_packets()?;
            }
            Ok::<_, rustls::Error>(())
        };
        shake(&ours).unwrap();
        shake(&strange).unwrap_err();
    }
}
