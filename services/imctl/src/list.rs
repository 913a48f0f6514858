//! `imctl rooms` and `imctl conversations`: what the HTTP API knows of the user's rooms.

use im_cli::failure::Failure;
use im_cli::http;
use im_cli::output::Output;
use serde_json::Value;

use crate::api;
use crate::args::{ConnectArgs, ListArgs};
use crate::session::Credentials;
use crate::text::printable;

/// Pages that are asked for at most.
const PAGES: usize = 1000;

/// Asks for `path`, page by page, and shows the objects of the array `field` in a table of these columns.
pub(crate) async fn run(
    args: &ListArgs,
    credentials: &Credentials,
    path: &str,
    field: &str,
    columns: &[&str],
    output: &mut Output,
) -> Result<(), Failure> {
    let mut rows = all(&args.connect, credentials, path, field).await?;
    if !args.connect.json {
        rows.iter_mut().for_each(shorten);
    }
    show(
        &serde_json::json!({ field: rows }),
        field,
        columns,
        args.connect.json,
        output,
    )
}

/// The objects of the array `field`, page by page.
pub(crate) async fn all(
    connect: &ConnectArgs,
    credentials: &Credentials,
    path: &str,
    field: &str,
) -> Result<Vec<Value>, Failure> {
    let mut rows: Vec<Value> = Vec::new();
    let mut page = path.to_owned();
    for _ in 0..PAGES {
        let mut answer = api::ask(connect, credentials, &page).await?;
        if let Some(Value::Array(more)) = answer.get_mut(field).map(Value::take) {
            rows.extend(more);
        }
        match answer.get("next").and_then(Value::as_str) {
            Some(next) => page = format!("{path}?after={}", http::segment(next)),
            None => break,
        }
    }
    Ok(rows)
}

/// The last message of a conversation in a few words.
fn shorten(row: &mut Value) {
    let Some(last) = row.get("last").filter(|last| last.is_object()) else {
        return;
    };
    let from = last["from"].as_str().unwrap_or_default();
    let body = last["body"]
        .as_str()
        .map_or_else(|| last["body"].to_string(), str::to_owned);
    let words: String = format!("{from}: {body}").chars().take(40).collect();
    row["last"] = Value::String(words);
}

pub(crate) fn show(
    answer: &Value,
    field: &str,
    columns: &[&str],
    json: bool,
    output: &mut Output,
) -> Result<(), Failure> {
    let empty = Vec::new();
    let rows = answer
        .get(field)
        .and_then(Value::as_array)
        .unwrap_or(&empty);
    if json {
        return rows.iter().try_for_each(|row| output.json(row));
    }
    if rows.is_empty() {
        return output.line(&format!("(no {field})"));
    }
    table(rows, columns)
        .iter()
        .try_for_each(|line| output.line(line))
}

/// Columns as wide as their widest cell; columns that no row has are left out.
fn table(rows: &[Value], columns: &[&str]) -> Vec<String> {
    let columns: Vec<&str> = columns
        .iter()
        .copied()
        .filter(|name| rows.iter().any(|row| row.get(name).is_some()))
        .collect();
    let cell = |row: &Value, name: &str| match row.get(name) {
        None | Some(Value::Null) => "-".to_owned(),
        Some(Value::String(text)) if text.is_empty() => "-".to_owned(),
        Some(Value::String(text)) => printable(text).replace('\n', " "),
        Some(other) => other.to_string(),
    };
    let header: Vec<String> = columns.iter().map(|name| name.to_uppercase()).collect();
    let mut lines = vec![header];
    lines.extend(
        rows.iter()
            .map(|row| columns.iter().map(|name| cell(row, name)).collect()),
    );
    let width = |column: usize| {
        lines
            .iter()
            .map(|line| line[column].chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns.len()).map(width).collect();
    let pad = |line: &Vec<String>| {
        let cells = line
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:<width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    lines.iter().map(pad).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_table_has_the_columns_that_there_are() {
        let rows = [
            json!({"id": "lobby", "unread": 12}),
            json!({"id": "a", "unread": 0, "role": ""}),
        ];
        assert_eq!(
            table(&rows, &["id", "unread", "absent"]),
            ["ID     UNREAD", "lobby  12", "a      0"]
        );
    }
}
