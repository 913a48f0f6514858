//! The committed code is what `client.proto` generates. `REGENERATE=1 cargo test -p im-wire` rewrites it.

use std::path::Path;

#[test]
fn committed_code_equals_its_regeneration() {
    let crate_root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let proto = crate_root.join("../../proto");
    let descriptors = protox::compile([proto.join("imcluster/client/v1/client.proto")], [&proto])
        .expect("client.proto compiles");
    let out = tempfile::tempdir().expect("a temporary folder");
    prost_build::Config::new()
        .bytes(["."])
        .out_dir(out.path())
        .compile_fds(descriptors)
        .expect("code generation");
    let fresh =
        std::fs::read_to_string(out.path().join("imcluster.client.v1.rs")).expect("generated code");
    let committed = crate_root.join("src/native/generated.rs");
    if std::env::var_os("REGENERATE").is_some() {
        std::fs::write(&committed, &fresh).expect("write generated code");
    }
    let stands = std::fs::read_to_string(&committed).unwrap_or_default();
    assert!(
        stands == fresh,
        "{} is stale: run REGENERATE=1 cargo test -p im-wire",
        committed.display()
    );
}
