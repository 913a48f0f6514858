//! Tokens for people who just try it: short-lived, for a browser on this machine, and for nobody else.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Extension, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use im_wire::ids::{MAX_ID, UserId, is_unseen};
use jsonwebtoken::{EncodingKey, Header, encode};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{Page, host, refusal};

/// What guests' user ids begin with, so that no guest is ever somebody with a token of their own.
pub(crate) const PREFIX: &str = "guest:";

/// The scope in their tokens, which logic knows.
const GUEST: &str = im_logic::auth::token::GUEST;

/// Signs guests' tokens as logic wants them.
#[derive(Clone)]
pub(crate) struct Signer {
    key: EncodingKey,
    issuer: String,
    audience: String,
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Signer(…)")
    }
}

#[derive(Serialize)]
struct Claims<'a> {
    sub: &'a str,
    iat: u64,
    exp: u64,
    rooms: &'a [String],
    /// Open rooms, and nothing else.
    scope: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    iss: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    aud: &'a str,
}

impl Signer {
    /// With this HS256 secret; empty `issuer` and `audience` are left out.
    pub(crate) fn new(secret: &str, issuer: &str, audience: &str) -> Self {
        let key = EncodingKey::from_secret(secret.as_bytes());
        Self {
            key,
            issuer: issuer.to_owned(),
            audience: audience.to_owned(),
        }
    }

    fn sign(
        &self,
        user: &UserId,
        rooms: &[String],
        iat: u64,
        exp: u64,
    ) -> Result<String, jsonwebtoken::errors::Error> {
        let claims = Claims {
            sub: user.as_str(),
            iat,
            exp,
            rooms,
            scope: GUEST,
            iss: &self.issuer,
            aud: &self.audience,
        };
        encode(&Header::default(), &claims, &self.key)
    }
}

#[derive(Deserialize)]
struct Wish {
    name: String,
}

/// `POST /guest` `{"name"}` → `{"token", "user", "expires"}`.
pub(super) async fn mint(
    State(page): State<Arc<Page>>,
    Extension(peer): Extension<SocketAddr>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let forbidden = |text| refusal(StatusCode::FORBIDDEN, "forbidden", text, None);
    let (true, Some(signer)) = (page.options.guests, &page.signer) else {
        return forbidden("guests are switched off here: use a token");
    };
    if let Err(why) = is_here(peer, &headers) {
        return forbidden(why);
    }
    let user = match wish(&headers, &body) {
        Ok(user) => user,
        Err((field, text)) => {
            return refusal(StatusCode::BAD_REQUEST, "bad_request", text, Some(field));
        }
    };
    let now = im_runtime::clock::unix();
    let expires = now + page.options.guest_ttl;
    match signer.sign(
        &user,
        &page.options.guest_rooms,
        now.as_secs(),
        expires.as_secs(),
    ) {
        Ok(token) => {
            let known = json!({"token": token, "user": user, "expires": expires.as_secs() * 1000});
            ([(header::CACHE_CONTROL, "no-store")], Json(known)).into_response()
        }
        Err(error) => {
            tracing::error!(%error, "a guest's token could not be signed");
            refusal(
                StatusCode::INTERNAL_SERVER_ERROR,
                "internal",
                "no token could be signed: the log says why",
                None,
            )
        }
    }
}

/// A page of another site must not get a token through the visitor's browser: not across origins (Origin), and not under
/// a name that was made to point here (Host).
fn is_here(peer: SocketAddr, headers: &HeaderMap) -> Result<(), &'static str> {
    const ELSEWHERE: &str = "guests come from the server's own machine only: get a token from `imctl token` and give it to the page";
    let here = host::of(headers).filter(host::Host::is_this_machine);
    let (true, Some(here)) = (peer.ip().to_canonical().is_loopback(), here) else {
        return Err(ELSEWHERE);
    };
    if ["forwarded", "x-forwarded-for", "x-real-ip", "via"]
        .iter()
        .any(|name| headers.contains_key(*name))
    {
        return Err(ELSEWHERE);
    }
    if let Some(origin) = headers.get(header::ORIGIN) {
        let own = [
            format!("http://{}", here.authority),
            format!("https://{}", here.authority),
        ];
        if !own
            .iter()
            .any(|own| origin.as_bytes().eq_ignore_ascii_case(own.as_bytes()))
        {
            return Err("pages of other sites get no tokens here");
        }
    }
    match headers.get("sec-fetch-site").map(|site| site.as_bytes()) {
        None | Some(b"same-origin" | b"none") => Ok(()),
        Some(_) => Err("pages of other sites get no tokens here"),
    }
}

fn wish(headers: &HeaderMap, body: &[u8]) -> Result<UserId, (&'static str, &'static str)> {
    // A form or an image of another site cannot send this type without asking first.
    let json = headers
        .get(header::CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().starts_with(b"application/json"));
    if !json {
        return Err(("content-type", "send application/json"));
    }
    let Wish { name } =
        serde_json::from_slice(body).map_err(|_| ("name", "send {\"name\": \"…\"}"))?;
    let user = user_of(&name).ok_or(("name", "give a name"))?;
    UserId::new(user).map_err(|_| ("name", "give another name"))
}

/// A user id for the name that a person typed, as long as ids may be.
fn user_of(name: &str) -> Option<String> {
    let name = name.trim();
    let mut user = String::from(PREFIX);
    for c in name.chars().map(|c| {
        if c.is_whitespace() || c.is_control() || is_unseen(c) {
            '_'
        } else {
            c
        }
    }) {
        if user.len() + c.len_utf8() > MAX_ID {
            break;
        }
        user.push(c);
    }
    (!name.is_empty()).then_some(user)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_ids() {
        assert_eq!(user_of(" Ann  Lee\t2 ").unwrap(), "guest:Ann__Lee_2");
        assert_eq!(user_of("a\u{0}b\u{85}c").unwrap(), "guest:a_b_c");
        assert_eq!(user_of("a\u{200d}b\u{202e}").unwrap(), "guest:a_b_");
        assert_eq!(user_of("  "), None);
        let long = user_of(&"ä".repeat(500)).unwrap();
        assert!(long.len() <= MAX_ID && long.len() > MAX_ID - 2);
        UserId::new(long).unwrap();
    }
}
