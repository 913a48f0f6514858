//! The committed code is what the `.proto` files generate. `REGENERATE=1 cargo test -p im-proto` rewrites it.

use std::path::Path;

#[test]
fn committed_code_equals_its_regeneration() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let files =
        ["message", "logic", "connect"].map(|name| root.join(format!("imcluster/v1/{name}.proto")));
    let descriptors = protox::compile(&files, [root]).expect("the .proto files compile");
    let out = tempfile::tempdir().expect("a temporary folder");
    tonic_prost_build::configure()
        .bytes(".")
        .out_dir(out.path())
        .compile_fds(descriptors)
        .expect("code generation");
    let fresh =
        std::fs::read_to_string(out.path().join("imcluster.v1.rs")).expect("generated code");
    let committed = root.join("src/generated/imcluster.v1.rs");
    if std::env::var_os("REGENERATE").is_some() {
        std::fs::write(&committed, &fresh).expect("write generated code");
    }
    let stands = std::fs::read_to_string(&committed).unwrap_or_default();
    assert!(
        stands == fresh,
        "{} is stale: run REGENERATE=1 cargo test -p im-proto",
        committed.display()
    );
}
