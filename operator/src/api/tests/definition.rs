//! The committed definition is what the types say. `REGENERATE=1 cargo test -p im-operator` rewrites it.

use std::path::Path;

use crate::api;

#[test]
fn committed_definition_equals_its_regeneration() {
    let committed = Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests/crd/imcluster.yaml");
    let fresh = serde_saphyr::to_string(&api::crd()).expect("the definition is YAML");
    if std::env::var_os("REGENERATE").is_some() {
        std::fs::create_dir_all(committed.parent().expect("a folder")).expect("make the folder");
        std::fs::write(&committed, &fresh).expect("write the definition");
    }
    let stands = std::fs::read_to_string(&committed).unwrap_or_default();
    assert!(
        stands == fresh,
        "{} is stale: run REGENERATE=1 cargo test -p im-operator",
        committed.display()
    );
}

#[test]
fn the_definition_stays_under_200_kib() {
    let size = serde_json::to_vec(&api::crd())
        .expect("the definition is JSON")
        .len();
    assert!(size < 200 * 1024, "{size} bytes");
}
