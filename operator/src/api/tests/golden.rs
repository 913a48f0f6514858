//! What is built of three ImClusters, written out. A change here restarts pods of everybody who upgrades the operator.
//! `REGENERATE=1 cargo test -p im-operator` rewrites the files.

use std::path::Path;

use serde_json::Value;

use super::samples::{built, external, highly_available, minimal};

fn compare(name: &str, spec: Value) {
    let built = built(spec);
    let mut fresh = String::new();
    for object in built.objects.list() {
        fresh.push_str("---\n");
        fresh.push_str(&serde_saphyr::to_string(&object.body).expect("YAML"));
    }
    for ignored in &built.ignored {
        fresh.push_str(&format!("# ignored: {}\n", ignored.field));
    }
    let committed = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("src/api/tests/golden")
        .join(name);
    if std::env::var_os("REGENERATE").is_some() {
        std::fs::create_dir_all(committed.parent().expect("a folder")).expect("make the folder");
        std::fs::write(&committed, &fresh).expect("write");
    }
    let stands = std::fs::read_to_string(&committed).unwrap_or_default();
    let differs = stands
        .lines()
        .zip(fresh.lines())
        .enumerate()
        .find(|(_, (old, new))| old != new);
    assert!(
        stands == fresh,
        "{} is not what is built now, first at {differs:?}: if that is meant, run REGENERATE=1 cargo test -p im-operator",
        committed.display()
    );
}

#[test]
fn the_smallest_cluster_is_built_as_written_down() {
    compare("minimal.yaml", minimal());
}

#[test]
fn a_highly_available_cluster_is_built_as_written_down() {
    compare("highly-available.yaml", highly_available());
}

#[test]
fn a_cluster_with_redis_and_etcd_of_others_is_built_as_written_down() {
    compare("external.yaml", external());
}
