//! The files of `services/web`, inside the program.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::LazyLock;

use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};

struct File {
    path: &'static str,
    content: &'static [u8],
    tag: String,
}

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";

macro_rules! files {
    ($($path:literal = $file:literal,)*) => {
        &[$(($path, include_bytes!(concat!("../../../web/", $file)) as &[u8]),)*]
    };
}

const CONTENT: &[(&str, &[u8])] = files! {
    "/" = "page/index.html",
    "/app.js" = "page/app.js",
    "/conversation.js" = "page/conversation.js",
    "/style.css" = "page/style.css",
    "/favicon.svg" = "page/favicon.svg",
    "/client/imcluster.js" = "client/imcluster.js",
    "/client/backoff.js" = "client/backoff.js",
    "/client/client.js" = "client/client.js",
    "/client/codec.js" = "client/codec.js",
    "/client/connection.js" = "client/connection.js",
    "/client/errors.js" = "client/errors.js",
    "/client/outbox.js" = "client/outbox.js",
    "/client/places.js" = "client/places.js",
    "/client/rooms.js" = "client/rooms.js",
    "/client/session.js" = "client/session.js",
    "/client/subscriptions.js" = "client/subscriptions.js",
};

static FILES: LazyLock<Vec<File>> = LazyLock::new(|| {
    let file = |(path, content): &(&'static str, &'static [u8])| File {
        path,
        content,
        tag: tag(content),
    };
    CONTENT.iter().map(file).collect()
});

fn tag(content: &[u8]) -> String {
    let mut hasher = DefaultHasher::new();
    content.hash(&mut hasher);
    format!("\"{:016x}\"", hasher.finish())
}

fn kind(path: &str) -> &'static str {
    match path.rsplit_once('.') {
        Some((_, "js")) => SCRIPT,
        Some((_, "css")) => STYLE,
        Some((_, "svg")) => "image/svg+xml",
        _ => HTML,
    }
}

/// Answers with a file; browsers ask each time whether it is still the same.
pub(super) async fn serve(uri: Uri, headers: HeaderMap) -> Response {
    let path = if uri.path() == "/index.html" {
        "/"
    } else {
        uri.path()
    };
    let Some(file) = FILES.iter().find(|file| file.path == path) else {
        return (
            StatusCode::NOT_FOUND,
            "There is no such page. The chat is at /\n",
        )
            .into_response();
    };
    let about = [
        (header::ETAG, file.tag.as_str()),
        (header::CACHE_CONTROL, "no-cache"),
    ];
    let known = headers
        .get(header::IF_NONE_MATCH)
        .and_then(|tags| tags.to_str().ok())
        .unwrap_or_default();
    if known
        .split(',')
        .any(|known| known.trim().trim_start_matches("W/") == file.tag)
    {
        return (StatusCode::NOT_MODIFIED, about).into_response();
    }
    (about, [(header::CONTENT_TYPE, kind(path))], file.content).into_response()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn every_file_of_the_page_and_the_client_is_served() {
        for (folder, prefix) in [("page", "/"), ("client", "/client/")] {
            let here = Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("../web")
                .join(folder);
            for file in std::fs::read_dir(here).unwrap() {
                let name = file.unwrap().file_name().into_string().unwrap();
                let path = if name == "index.html" {
                    "/".to_owned()
                } else {
                    format!("{prefix}{name}")
                };
                assert!(
                    FILES.iter().any(|file| file.path == path),
                    "{path} is missing in the list"
                );
            }
        }
    }

    #[test]
    fn the_page_has_nothing_that_its_policy_forbids() {
        let html = include_str!("../../../web/page/index.html");
        for forbidden in [
            "<style",
            "style=",
            "onclick",
            "onload",
            "javascript:",
            "http://",
            "https://",
        ] {
            assert!(!html.contains(forbidden), "{forbidden}");
        }
        assert_eq!(
            html.matches("<script").count(),
            html.matches("<script type=\"module\" src=\"/").count()
        );
    }
}
