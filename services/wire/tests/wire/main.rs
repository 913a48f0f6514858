//! im-wire against its files: generated code, golden vectors, tables in the documents; and against arbitrary bytes.

mod arbitrary;
mod dialects;
mod documents;
mod generated;
mod samples;
mod vectors;
