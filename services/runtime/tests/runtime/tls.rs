//! Certificates: who is let in, who is not, and what happens when they are renewed.

use std::path::Path;
use std::sync::Arc;

use im_runtime::tls::{Error, Files, Incoming, ServerName, Tls};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_stream::StreamExt;

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority() -> Authority {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// Writes a new certificate that names `name`, and where it is.
fn issue(folder: &Path, authority: &Authority, trusted: &Authority, name: &str) -> Files {
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new([name.to_owned()])
        .unwrap()
        .signed_by(&key, authority)
        .unwrap();
    let files = Files {
        certificate: folder.join(format!("{name}.crt")),
        key: folder.join(format!("{name}.key")),
        authority: folder.join(format!("{name}.ca")),
    };
    std::fs::write(&files.certificate, certificate.pem()).unwrap();
    std::fs::write(&files.key, key.serialize_pem()).unwrap();
    std::fs::write(&files.authority, trusted.pem()).unwrap();
    files
}

fn named(name: &str) -> ServerName<'static> {
    ServerName::try_from(name.to_owned()).unwrap()
}

/// A server that repeats what it hears.
async fn echo(tls: &Arc<Tls>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let mut incoming = Incoming::new(Arc::clone(tls), listener, named("im-connect"));
    tokio::spawn(async move {
        while let Some(Ok(mut stream)) = incoming.next().await {
            tokio::spawn(async move {
                let mut heard = [0; 1];
                while stream.read_exact(&mut heard).await.is_ok()
                    && stream.write_all(&heard).await.is_ok()
                {}
            });
        }
    });
    address
}

/// Whether what is said on a new connection is heard. With TLS 1.3 a client learns only then that it is refused.
async fn admitted(client: &Tls, address: &str, name: &str) -> std::io::Result<()> {
    let mut stream = client.connect(address, named(name)).await?;
    stream.write_all(b"x").await?;
    stream.read_exact(&mut [0; 1]).await.map(drop)
}

#[tokio::test]
async fn processes_of_one_authority_are_let_in_and_strangers_are_not() {
    let folder = tempfile::tempdir().unwrap();
    let (ours, theirs) = (authority(), authority());
    let server = Tls::load(issue(folder.path(), &ours, &ours, "im-logic")).unwrap();
    let address = echo(&server).await;

    let connect = Tls::load(issue(folder.path(), &ours, &ours, "im-connect")).unwrap();
    admitted(&connect, &address, "im-logic").await.unwrap();
    let wrong = admitted(&connect, &address, "im-connect")
        .await
        .unwrap_err();
    assert!(wrong.to_string().contains("not valid for name"), "{wrong}");

    let stranger = Tls::load(issue(folder.path(), &theirs, &ours, "stranger")).unwrap();
    let refused = admitted(&stranger, &address, "im-logic").await.unwrap_err();
    assert!(refused.to_string().contains("fatal alert"), "{refused}");

    let redis = Tls::load(issue(folder.path(), &ours, &ours, "im-redis")).unwrap();
    admitted(&redis, &address, "im-logic")
        .await
        .expect_err("another tier has no business here");

    let mut plain = TcpStream::connect(&address).await.unwrap();
    plain
        .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        .await
        .unwrap();
    let mut answer = Vec::new();
    // A TLS alert and the end, or the end at once.
    let _ = plain.read_to_end(&mut answer).await;
    assert!(
        answer.first().is_none_or(|first| *first == 21),
        "{answer:?}"
    );
}

#[tokio::test]
async fn renewed_certificates_are_taken_up_and_broken_ones_are_not() {
    let folder = tempfile::tempdir().unwrap();
    let (old, new) = (authority(), authority());
    let files = issue(folder.path(), &old, &old, "im-logic");
    let server = Tls::load(files.clone()).unwrap();
    let address = echo(&server).await;
    let before = Tls::load(issue(folder.path(), &old, &old, "im-connect")).unwrap();
    let mut open = before.connect(&address, named("im-logic")).await.unwrap();
    open.write_all(b"x").await.unwrap();
    open.read_exact(&mut [0; 1]).await.unwrap();

    std::fs::write(&files.key, "not a key").unwrap();
    server.look();
    admitted(&before, &address, "im-logic")
        .await
        .expect("what was good before stays in use");

    issue(folder.path(), &new, &new, "im-logic");
    server.look();
    let after = Tls::load(issue(folder.path(), &new, &new, "im-connect")).unwrap();
    admitted(&after, &address, "im-logic").await.unwrap();
    admitted(&before, &address, "im-logic").await.unwrap_err();
    open.write_all(b"y").await.unwrap();
    open.read_exact(&mut [0; 1])
        .await
        .expect("open connections go on");
}

#[test]
fn mistakes_name_the_setting_and_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let ours = authority();
    let good = issue(folder.path(), &ours, &ours, "im-logic");
    let missing = folder.path().join("missing");
    let told = |files: Files| Tls::load(files).unwrap_err().to_string();
    let said = told(Files {
        certificate: missing.clone(),
        ..good.clone()
    });
    assert_eq!(
        said,
        format!(
            "tls_cert_file {}: No such file or directory (os error 2)",
            missing.display()
        )
    );
    let said = told(Files {
        certificate: good.key.clone(),
        ..good.clone()
    });
    assert_eq!(
        said,
        format!(
            "tls_cert_file {}: it holds no certificate",
            good.key.display()
        )
    );
    let said = told(Files {
        key: good.certificate.clone(),
        ..good.clone()
    });
    assert!(
        said.starts_with(&format!("tls_key_file {}: ", good.certificate.display())),
        "{said}"
    );
    let said = told(Files {
        authority: good.key.clone(),
        ..good.clone()
    });
    assert!(
        said.starts_with(&format!("tls_ca_file {}: ", good.key.display())),
        "{said}"
    );
    let other = issue(folder.path(), &ours, &ours, "im-connect");
    let pair = Tls::load(Files {
        key: other.key,
        ..good
    })
    .unwrap_err();
    assert!(matches!(pair, Error::Pair(_)), "{pair}");
}
