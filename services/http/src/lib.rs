//! Small HTTP/1.1 requests, each over a connection of its own: one question, one bounded answer, one bound on time.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::client::conn::http1;
use hyper::header::{HOST, HeaderValue};
use hyper::http::uri::{PathAndQuery, Scheme};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How far a request may go.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// For everything, from the first packet to the last byte of the answer.
    pub timeout: Duration,
    /// The largest body that is read, in bytes.
    pub max_body: usize,
}

/// An answer, whatever its status.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its body.
    pub body: Bytes,
}

impl Answer {
    /// The body as text; what is no UTF-8 is replaced.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A URL without `http://` or without a host.
    #[error("{0} is not http://host:port/path")]
    Url(String),
    /// No connection.
    #[error("cannot connect")]
    Connect(#[source] io::Error),
    /// The connection broke, or what came is not HTTP.
    #[error("the connection broke")]
    Broken(#[source] hyper::Error),
    /// A body over [`Limits::max_body`].
    #[error("the answer has more than {0} bytes")]
    TooLarge(usize),
    /// Nothing within [`Limits::timeout`].
    #[error("no answer within {0:?}")]
    Timeout(Duration),
}

/// `GET` of an `http://` URL.
///
/// # Errors
/// [`Error`].
pub async fn get(url: &str, limits: Limits) -> Result<Answer, Error> {
    let request = Request::get(url)
        .body(Bytes::new())
        .map_err(|_| Error::Url(url.to_owned()))?;
    send(request, limits).await
}

/// A request to an `http://` URL.
///
/// # Errors
/// [`Error`].
pub async fn send(request: Request<Bytes>, limits: Limits) -> Result<Answer, Error> {
    let uri = request.uri();
    let host = uri.host().filter(|_| uri.scheme() == Some(&Scheme::HTTP));
    let host = host
        .ok_or_else(|| Error::Url(uri.to_string()))?
        .trim_matches(['[', ']'])
        .to_owned();
    let port = uri.port_u16().unwrap_or(80);
    let asking = async {
        let stream = TcpStream::connect((host.as_str(), port))
            .await
            .map_err(Error::Connect)?;
        exchange(stream, request, limits.max_body).await
    };
    timeout(limits.timeout, asking)
        .await
        .map_err(|_| Error::Timeout(limits.timeout))?
}

/// A request over a connection that is there, such as one over TLS; the URL's host is named in the `Host` header.
///
/// # Errors
/// [`Error`].
pub async fn send_over<S>(
    stream: S,
    request: Request<Bytes>,
    limits: Limits,
) -> Result<Answer, Error>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let asking = exchange(stream, request, limits.max_body);
    timeout(limits.timeout, asking)
        .await
        .map_err(|_| Error::Timeout(limits.timeout))?
}

async fn exchange<S>(
    stream: S,
    mut request: Request<Bytes>,
    max_body: usize,
) -> Result<Answer, Error>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(Error::Broken)?;
    // What ends it is reported by the answer.
    let connection = AbortOnDrop(tokio::spawn(connection));
    let uri = std::mem::take(request.uri_mut());
    if let Some(host) = uri
        .authority()
        .and_then(|authority| HeaderValue::from_str(authority.as_str()).ok())
    {
        request.headers_mut().insert(HOST, host);
    }
    *request.uri_mut() = uri
        .path_and_query()
        .cloned()
        .unwrap_or(PathAndQuery::from_static("/"))
        .into();
    let answer = sender
        .send_request(request.map(Full::new))
        .await
        .map_err(Error::Broken)?;
    let status = answer.status();
    let body = Limited::new(answer.into_body(), max_body).collect().await;
    drop(connection);
    let body = body.map_err(|error| match error.downcast::<hyper::Error>() {
        Ok(error) => Error::Broken(*error),
        Err(error) => {
            debug_assert!(error.is::<LengthLimitError>());
            Error::TooLarge(max_body)
        }
    })?;
    Ok(Answer {
        status,
        body: body.to_bytes(),
    })
}

/// The connection's task ends with the request, also where that is given up.
struct AbortOnDrop<T>(tokio::task::JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Escapes one segment of a path, or one value of a query.
pub fn segment(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    const LIMITS: Limits = Limits {
        timeout: Duration::from_secs(5),
        max_body: 8,
    };

    /// Answers one request with this and returns what was asked.
    async fn server(answer: &'static str) -> (String, tokio::task::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/a/b?c=d", listener.local_addr().unwrap());
        let asked = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 4096];
            let length = stream.read(&mut request).await.unwrap();
            stream.write_all(answer.as_bytes()).await.unwrap();
            String::from_utf8_lossy(&request[..length]).into_owned()
        });
        (url, asked)
    }

    #[tokio::test]
    async fn a_request_names_path_and_host_and_every_status_is_an_answer() {
        let (url, asked) = server("HTTP/1.1 404 Not Found\r\ncontent-length: 2\r\n\r\nno").await;
        let answer = get(&url, LIMITS).await.unwrap();
        assert_eq!(
            (answer.status.as_u16(), answer.text().as_str()),
            (404, "no")
        );
        let asked = asked.await.unwrap();
        let host = url
            .parse::<hyper::Uri>()
            .unwrap()
            .authority()
            .unwrap()
            .to_string();
        assert!(asked.starts_with("GET /a/b?c=d HTTP/1.1\r\n"), "{asked}");
        assert!(asked.contains(&format!("host: {host}\r\n")), "{asked}");
    }

    #[tokio::test]
    async fn what_is_too_large_or_broken_is_told_apart() {
        let (url, _) = server("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n123456789").await;
        assert!(matches!(get(&url, LIMITS).await, Err(Error::TooLarge(8))));
        let (url, _) = server("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n1").await;
        assert!(matches!(get(&url, LIMITS).await, Err(Error::Broken(_))));
        let (url, _) = server("hello").await;
        assert!(matches!(get(&url, LIMITS).await, Err(Error::Broken(_))));
        for wrong in ["https://localhost/", "localhost:1", "http://", "/"] {
            assert!(
                matches!(get(wrong, LIMITS).await, Err(Error::Url(_))),
                "{wrong}"
            );
        }
    }

    #[tokio::test]
    async fn nobody_and_silence_are_told_apart() {
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", silent.local_addr().unwrap());
        let short = Limits {
            timeout: Duration::from_millis(50),
            ..LIMITS
        };
        assert!(matches!(get(&url, short).await, Err(Error::Timeout(_))));
        drop(silent);
        assert!(matches!(get(&url, LIMITS).await, Err(Error::Connect(_))));
    }

    #[test]
    fn a_room_is_one_segment_of_a_path() {
        assert_eq!(segment("live://1000?"), "live%3A%2F%2F1000%3F");
        assert_eq!(segment("plain-1"), "plain-1");
        assert_eq!(segment("é"), "%C3%A9");
    }
}
