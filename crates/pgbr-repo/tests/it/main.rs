//! The repository on real directories, with faults where a store may have them.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod backups;
#[cfg(all(feature = "s3", feature = "azure", feature = "gcs"))]
mod cloud;
mod drills;
mod exports;
mod fixture;
mod holds;
mod leases;
mod notes;
mod pins;
mod repository;
mod stanzas;
mod store;
mod wal;
mod writers;

/// A file that is not listed above would be forgotten by the compiler, and nobody would notice.
#[test]
fn every_file_is_a_module() {
    let here = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it");
    let listed = include_str!("main.rs");
    for entry in std::fs::read_dir(here).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let module = name.strip_suffix(".rs").unwrap();
        assert!(module == "main" || listed.contains(&format!("mod {module};")), "{name} is not a module");
    }
}
