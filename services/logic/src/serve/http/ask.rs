//! What requests bring along, read so that every mistake is answered in one shape and names the field.

use std::convert::Infallible;

use axum::extract::{FromRequest, FromRequestParts, Path, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use bytes::Bytes;
use im_proto::v1::Encoding;
use im_wire::ids::{RoomId, UserId};
use im_wire::native;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::Failure;
use crate::auth;
use crate::auth::grant::Grant;
use crate::call::Handle;
use crate::error::{Error, Result};

/// Where a request comes from; the server notes it with each.
#[derive(Debug, Clone, Copy)]
pub(super) struct Peer(pub(super) std::net::IpAddr);

/// Who asks: a token in `Authorization: Bearer …`, within the user's rate.
pub(crate) struct Caller(pub(crate) Grant);

impl Caller {
    /// The caller, who must have the admin scope.
    pub(crate) fn admin(&self) -> Result<&Grant> {
        self.0.admin.then_some(&self.0).ok_or(Error::Forbidden(
            "this needs a token with the scope \"admin\"",
        ))
    }

    /// Whom the caller acts for: another user where they are named, which needs the admin scope.
    pub(crate) fn acting_for(self, user: Option<UserId>) -> Result<Grant> {
        match user {
            Some(user) if user.as_str() != self.0.user => {
                self.admin().map_err(|_| {
                    Error::Forbidden("to speak for another user needs the scope \"admin\"")
                })?;
                Ok(Grant {
                    user: user.as_str().to_owned(),
                    device: String::new(),
                    ..self.0
                })
            }
            _ => Ok(self.0),
        }
    }
}

/// What came of looking at the request's token, before its body was read.
#[derive(Debug, Clone)]
pub(crate) struct Credentials(pub(crate) Result<Grant>);

impl Credentials {
    /// Who asks, and must have the admin scope.
    pub(crate) fn admin(self) -> Result<Grant> {
        let who = Caller(self.0?);
        who.admin()?;
        Ok(who.0)
    }
}

impl FromRequestParts<Handle> for Credentials {
    type Rejection = Infallible;

    async fn from_request_parts(
        parts: &mut Parts,
        _: &Handle,
    ) -> std::result::Result<Self, Infallible> {
        let seen = parts.extensions.get::<Self>().cloned();
        Ok(seen.unwrap_or_else(|| Self(Err(auth::Error::Missing.into()))))
    }
}

/// The token of `Authorization: Bearer …`; empty where there is none.
pub(crate) fn bearer(headers: &HeaderMap) -> &str {
    let value = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    match value.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => token.trim(),
        _ => "",
    }
}

/// A token where callers of goim's and golang-im's routes put theirs: `Authorization: Bearer …`, the header `token`, the query's `token`; and
/// whether it stands in the query.
pub(super) fn compat_token<'a>(headers: &'a HeaderMap, params: &'a Params) -> (&'a str, bool) {
    let bearer = bearer(headers);
    if !bearer.is_empty() {
        return (bearer, false);
    }
    let header = headers
        .get("token")
        .and_then(|value| value.to_str().ok())
        .filter(|token| !token.is_empty());
    match header {
        Some(token) => (token, false),
        None => (params.text("token").unwrap_or_default(), true),
    }
}

impl FromRequestParts<Handle> for Caller {
    type Rejection = Failure;

    async fn from_request_parts(
        parts: &mut Parts,
        handle: &Handle,
    ) -> std::result::Result<Self, Failure> {
        let Ok(Credentials(who)) = Credentials::from_request_parts(parts, handle).await;
        Ok(Self(who?))
    }
}

/// The room in the path, percent-encoded there.
pub(crate) struct Room(pub(crate) RoomId);

impl FromRequestParts<Handle> for Room {
    type Rejection = Failure;

    async fn from_request_parts(
        parts: &mut Parts,
        handle: &Handle,
    ) -> std::result::Result<Self, Failure> {
        let names = names(parts, handle).await?;
        let room = names
            .iter()
            .find(|(name, _)| name == "room")
            .map_or("", |(_, room)| room);
        Ok(Self(RoomId::new(room)?))
    }
}

/// The name in the path that is no room: a user or a device.
pub(crate) struct Name(pub(crate) String);

impl FromRequestParts<Handle> for Name {
    type Rejection = Failure;

    async fn from_request_parts(
        parts: &mut Parts,
        handle: &Handle,
    ) -> std::result::Result<Self, Failure> {
        let names = names(parts, handle).await?;
        Ok(Self(
            names
                .into_iter()
                .find(|(name, _)| name != "room")
                .map(|(_, name)| name)
                .unwrap_or_default(),
        ))
    }
}

/// The user and the device in the path.
pub(crate) struct DeviceOf {
    pub(crate) user: String,
    pub(crate) device: String,
}

impl FromRequestParts<Handle> for DeviceOf {
    type Rejection = Failure;

    async fn from_request_parts(
        parts: &mut Parts,
        handle: &Handle,
    ) -> std::result::Result<Self, Failure> {
        let names = names(parts, handle).await?;
        let named = |wanted: &str| {
            names
                .iter()
                .find(|(name, _)| name == wanted)
                .map(|(_, name)| name.clone())
        };
        Ok(Self {
            user: named("user").unwrap_or_default(),
            device: named("device").unwrap_or_default(),
        })
    }
}

async fn names(
    parts: &mut Parts,
    handle: &Handle,
) -> std::result::Result<Vec<(String, String)>, Failure> {
    let names = Path::<Vec<(String, String)>>::from_request_parts(parts, handle).await;
    names.map(|Path(names)| names).map_err(|rejection| {
        Failure::bad_request(
            StatusCode::BAD_REQUEST,
            format!("the path cannot be read: {}", rejection.body_text()),
        )
    })
}

/// The query, `a=1&b=2&b=3`.
pub(crate) struct Params(Vec<(String, String)>);

impl Params {
    pub(crate) fn parse(text: &[u8]) -> Self {
        Self(form_urlencoded::parse(text).into_owned().collect())
    }

    /// The first value of this name; an empty one counts as none.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
            .filter(|value| !value.is_empty())
    }

    /// A number.
    pub(crate) fn number<T: std::str::FromStr>(&self, name: &str) -> Result<Option<T>> {
        let wrong = |text: &str| {
            Error::bad(
                name,
                format!("{text:?} is no number that fits: give a whole one from 0 on"),
            )
        };
        self.text(name)
            .map(|text| text.parse().map_err(|_| wrong(text)))
            .transpose()
    }

    /// Every value of this name, each also a list with commas.
    pub(crate) fn list(&self, name: &str) -> Vec<&str> {
        let values = self.0.iter().filter(|(key, _)| key == name);
        values
            .flat_map(|(_, value)| value.split(','))
            .map(str::trim)
            .filter(|value| !value.is_empty())
            .collect()
    }
}

impl FromRequestParts<Handle> for Params {
    type Rejection = Failure;

    async fn from_request_parts(
        parts: &mut Parts,
        _: &Handle,
    ) -> std::result::Result<Self, Failure> {
        Ok(Self::parse(
            parts.uri.query().unwrap_or_default().as_bytes(),
        ))
    }
}

/// The request's body as it is, within the limit.
pub(crate) struct Raw(pub(crate) Bytes);

impl FromRequest<Handle> for Raw {
    type Rejection = Failure;

    async fn from_request(request: Request, handle: &Handle) -> std::result::Result<Self, Failure> {
        let limit = handle.core.options.http.max_request_bytes;
        match Bytes::from_request(request, handle).await {
            Ok(body) => Ok(Self(body)),
            Err(rejection) if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE => {
                Err(Error::TooLarge {
                    field: "",
                    bytes: limit + 1,
                    limit,
                }
                .into())
            }
            Err(rejection) => {
                let text = format!(
                    "the request's body cannot be read: {}",
                    rejection.body_text()
                );
                Err(Failure::bad_request(StatusCode::BAD_REQUEST, text))
            }
        }
    }
}

/// The request's body as a JSON object, whatever its content type says.
pub(crate) struct Object<T>(pub(crate) T);

impl<T: DeserializeOwned> FromRequest<Handle> for Object<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, handle: &Handle) -> std::result::Result<Self, Failure> {
        let Raw(body) = Raw::from_request(request, handle).await?;
        Ok(Self(object(&body)?))
    }
}

/// Reads a JSON object; an empty body is one without fields.
fn object<T: DeserializeOwned>(body: &[u8]) -> Result<T> {
    let body = if body.is_empty() { b"{}" } else { body };
    // Without this an array would do: serde takes one for a struct's fields in their order.
    if body.trim_ascii_start().first() != Some(&b'{') {
        return Err(Error::bad("", "the body must be a JSON object"));
    }
    let mut json = serde_json::Deserializer::from_slice(body);
    let value = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let field = error.path().to_string();
        let problem = error.into_inner().to_string();
        match field.as_str() {
            "." | "?" => Error::bad(named_in(&problem).to_owned(), problem),
            // What is inside of a body is its sender's affair, and may be named as they like.
            inside if inside.starts_with("body.") || inside.starts_with("body[") => {
                Error::bad("body", problem)
            }
            _ => Error::bad(field, problem),
        }
    })?;
    json.end()
        .map_err(|error| Error::bad("", format!("something follows the JSON object: {error}")))?;
    Ok(value)
}

/// The field that serde's text names, where the path does not: "missing field `kind` at line 1 column 2".
fn named_in(problem: &str) -> &str {
    let of = |what: &str| {
        problem
            .strip_prefix(what)
            .and_then(|rest| rest.split('`').next())
    };
    of("missing field `")
        .or_else(|| of("duplicate field `"))
        .unwrap_or_default()
}

/// The body of a message or signal in a JSON object: `body`, any JSON value, or `body_base64`.
#[derive(Debug, Deserialize)]
pub(crate) struct Content {
    #[serde(default, deserialize_with = "present")]
    body: Option<Value>,
    #[serde(default)]
    body_base64: Option<String>,
}

/// `null` is a value here, and not the absence of one.
fn present<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> std::result::Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

impl Content {
    /// The bytes and their encoding; `None` where there is no body.
    pub(crate) fn read(self) -> Result<Option<(Bytes, i32)>> {
        let body = match (self.body, self.body_base64) {
            (Some(_), Some(_)) => {
                return Err(Error::bad(
                    "body_base64",
                    "stands beside \"body\": give one of the two",
                ));
            }
            (Some(value), None) => native::Body::from_json(&value),
            (None, Some(text)) => {
                let wrong = |error| Error::bad("body_base64", format!("is not base64: {error}"));
                native::Body::from_base64(&text).map_err(wrong)?
            }
            (None, None) => return Ok(None),
        };
        let encoding = match &body {
            native::Body::Text(_) => Encoding::Text,
            native::Body::Json(_) => Encoding::Json,
            native::Body::Binary(_) => Encoding::Binary,
        };
        Ok(Some((body.bytes().clone(), encoding.into())))
    }

    /// The same, where there must be one.
    pub(crate) fn needed(self) -> Result<(Bytes, i32)> {
        self.read()?.ok_or_else(|| {
            Error::bad(
                "body",
                "is missing: give any JSON value, or bytes as \"body_base64\"",
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    #[allow(dead_code)]
    struct Sample {
        kind: String,
        #[serde(default)]
        members: Vec<String>,
    }

    #[test]
    fn a_mistake_in_json_names_its_field() {
        let table = [
            ("", "kind"),
            ("{}", "kind"),
            (r#"{"kind": 5}"#, "kind"),
            (r#"{"kind": "group", "members": ["a", 2]}"#, "members[1]"),
            (r#"{"kind": "group", "members": "a"}"#, "members"),
            (r#"{"kind": "a", "kind": "b"}"#, "kind"),
            ("[1", ""),
            ("7", ""),
            (r#"{"kind": "a"} trailing"#, ""),
        ];
        for (body, field) in table {
            let error = object::<Sample>(body.as_bytes()).unwrap_err();
            assert_eq!(error.field(), field, "{body}: {error}");
        }
        assert!(
            object::<Sample>(br#"{"kind": "a", "unknown": 1}"#).is_ok(),
            "what is not known is passed over"
        );
    }

    fn content(body: &str) -> Result<Option<(Bytes, i32)>> {
        object::<Content>(body.as_bytes())?.read()
    }

    #[test]
    fn a_body_is_what_it_was_given_as() {
        type Row<'a> = (&'a str, Option<(&'a [u8], Encoding)>);
        let table: [Row<'_>; 6] = [
            (r#"{"body": "hi"}"#, Some((b"hi", Encoding::Text))),
            (
                r#"{"body": {"a": [1]}}"#,
                Some((br#"{"a":[1]}"#, Encoding::Json)),
            ),
            (r#"{"body": null}"#, Some((b"null", Encoding::Json))),
            (r#"{"body": 7}"#, Some((b"7", Encoding::Json))),
            (
                r#"{"body_base64": "AAH/"}"#,
                Some((&[0, 1, 255], Encoding::Binary)),
            ),
            ("{}", None),
        ];
        for (given, expected) in table {
            let read = content(given).unwrap();
            let expected = expected
                .map(|(bytes, encoding)| (Bytes::copy_from_slice(bytes), i32::from(encoding)));
            assert_eq!(read, expected, "{given}");
        }
        assert_eq!(
            content(r#"{"body": 1, "body_base64": "AA=="}"#)
                .unwrap_err()
                .field(),
            "body_base64"
        );
        assert_eq!(
            content(r#"{"body_base64": "?"}"#).unwrap_err().field(),
            "body_base64"
        );
    }

    #[test]
    fn a_query_is_read_with_its_mistakes_named() {
        let params = Params::parse(b"after=5&users=a,b&users=c&empty=&bad=x&text=%2Fa%20b");
        assert_eq!(params.number::<u64>("after").unwrap(), Some(5));
        assert_eq!(params.number::<u64>("empty").unwrap(), None);
        assert_eq!(params.number::<u64>("bad").unwrap_err().field(), "bad");
        assert_eq!(params.list("users"), ["a", "b", "c"]);
        assert_eq!(params.text("text"), Some("/a b"));
    }

    #[test]
    fn the_token_is_found_in_its_header() {
        let table = [
            ("Bearer abc", "abc"),
            ("bearer  abc", "abc"),
            ("Basic abc", ""),
            ("abc", ""),
            ("", ""),
        ];
        for (value, token) in table {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, value.parse().unwrap());
            assert_eq!(bearer(&headers), token, "{value}");
        }
        assert_eq!(bearer(&HeaderMap::new()), "");
    }
}
