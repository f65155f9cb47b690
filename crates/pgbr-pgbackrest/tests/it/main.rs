//! Repositories that pgBackRest itself has written, of a real cluster, and what they become when they are damaged or forged.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod archive;
mod backups;
mod damage;
mod hostile;
mod info_text;
mod vectors;
mod written;

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
