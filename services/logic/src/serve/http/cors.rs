//! Browsers' pages on other origins, where the operator lists them. Credentials are tokens in a header and never cookies, so
//! an origin gives nobody a right; it only decides whose page may read an answer.

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::call::Handle;

const METHODS: HeaderValue = HeaderValue::from_static("GET, POST, PUT, DELETE, HEAD");
/// Those that requests are made of; `token` is goim's and golang-im's.
const HEADERS: HeaderValue = HeaderValue::from_static("authorization, content-type, token");
const EXPOSED: HeaderValue = HeaderValue::from_static("retry-after, www-authenticate");
/// For so many seconds a browser need not ask again.
const MAX_AGE: HeaderValue = HeaderValue::from_static("600");
const ANY: &str = "*";

/// Answers what browsers ask beforehand, and says in every answer who may read it.
pub(super) async fn cors(State(handle): State<Handle>, request: Request, next: Next) -> Response {
    let origins = &handle.core.options.http.allowed_origins;
    if origins.is_empty() {
        return next.run(request).await;
    }
    let allowed = allowed(origins, request.headers());
    let asks = request
        .headers()
        .contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
    let beforehand = asks && request.method() == Method::OPTIONS;
    let mut response = if beforehand {
        StatusCode::NO_CONTENT.into_response()
    } else {
        next.run(request).await
    };
    let headers = response.headers_mut();
    headers.append(header::VARY, HeaderValue::from_static("origin"));
    let Some(origin) = allowed else {
        return response;
    };
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    if beforehand {
        headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, METHODS);
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, HEADERS);
        headers.insert(header::ACCESS_CONTROL_MAX_AGE, MAX_AGE);
    } else {
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
    }
    response
}

/// What is said of the request's origin; `None` where it has none, or one that is not listed.
fn allowed(origins: &[String], headers: &HeaderMap) -> Option<HeaderValue> {
    let origin = headers.get(header::ORIGIN)?;
    if origins.iter().any(|listed| listed == ANY) {
        return Some(HeaderValue::from_static(ANY));
    }
    let listed = |listed: &&String| listed.as_bytes().eq_ignore_ascii_case(origin.as_bytes());
    origins.iter().find(listed).map(|_| origin.clone())
}

/// Reads an origin as a setting has it: `*`, or a scheme, host and port as browsers write them.
///
/// # Errors
/// What to write instead.
pub(crate) fn origin(text: &str) -> Result<String, String> {
    const FORM: &str = "write *, or an origin as browsers send it, like https://app.example or http://localhost:8080";
    let Some((scheme, authority)) = text.split_once("://") else {
        return if text == ANY {
            Ok(text.to_owned())
        } else {
            Err(FORM.to_owned())
        };
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._:[]".contains(c);
    let sound = !scheme.is_empty()
        && scheme
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
        && !authority.is_empty()
        && authority.chars().all(plain);
    sound
        .then(|| text.to_ascii_lowercase())
        .ok_or_else(|| FORM.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_written_as_browsers_send_them() {
        for good in [
            "*",
            "https://app.example",
            "http://localhost:8080",
            "http://[::1]:80",
            "capacitor://localhost",
        ] {
            assert_eq!(origin(good).as_deref(), Ok(good));
        }
        assert_eq!(
            origin("https://App.Example").as_deref(),
            Ok("https://app.example")
        );
        for bad in [
            "",
            "null",
            "app.example",
            "https://app.example/",
            "https://*.example",
            "https://",
            "://x",
        ] {
            assert!(origin(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_origin_is_named_only_where_it_is_listed() {
        let asked = |origins: &[&str], origin: Option<&'static str>| {
            let origins: Vec<_> = origins.iter().map(|one| (*one).to_owned()).collect();
            let mut headers = HeaderMap::new();
            headers.extend(origin.map(|origin| (header::ORIGIN, HeaderValue::from_static(origin))));
            allowed(&origins, &headers).map(|value| value.to_str().unwrap().to_owned())
        };
        let listed = ["https://a.example", "https://b.example"];
        assert_eq!(
            asked(&listed, Some("https://b.example")).as_deref(),
            Some("https://b.example")
        );
        assert_eq!(
            asked(&["*"], Some("https://c.example")).as_deref(),
            Some("*")
        );
        for stranger in [
            None,
            Some("https://c.example"),
            Some("null"),
            Some("https://b.example.evil.example"),
        ] {
            assert_eq!(asked(&listed, stranger), None);
        }
    }
}
