//! im-wire against its files: generated code, golden vectors, tables in the documents; and against arbitrary bytes.

mod generated;
