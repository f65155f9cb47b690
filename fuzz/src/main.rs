//! Fuzz targets: everything that reads bytes from outside, and plans.
//!
//! They are one program, so that what they share is compiled and linked once. The variable `PGBR_FUZZ_TARGET` says which of them runs:
//! a file in `src/targets/`, and a line below. A target takes what `arbitrary` makes of the input; its first lines say what it holds true.

#![no_main]

mod pgbackrest;
mod plain;

use libfuzzer_sys::Corpus;
use libfuzzer_sys::arbitrary::{Arbitrary, Unstructured};
use std::sync::OnceLock;

macro_rules! targets {
    ($($(#[$when:meta])* $name:ident,)*) => {
        mod targets {
            $($(#[$when])* pub(crate) mod $name;)*
        }

        /// What runs under this name.
        fn target(name: &str) -> Option<fn(&[u8]) -> Corpus> {
            match name {
                $($(#[$when])* stringify!($name) => Some(|data| take(data, targets::$name::run)),)*
                _ => None,
            }
        }
    };
}

targets! {
    amounts,
    auto_conf,
    chain,
    choose,
    codec,
    config_line,
    control_file,
    expire,
    host_files,
    index_leaf,
    index_nodes,
    index_round_trip,
    ini,
    key_block,
    key_cache,
    label_files,
    lanes,
    manifest_json,
    merge,
    nesting,
    object_header,
    objects,
    options,
    pack_footer,
    page,
    passfile,
    pgbackrest_block_map,
    pgbackrest_info,
    pgbackrest_streams,
    places,
    reach,
    records,
    repo_json,
    repo_keys,
    #[cfg(feature = "cloud")]
    s3_versions,
    slot,
    statements,
    store_error,
    timeline_history,
    view_path,
    wal_header,
    witness,
    words,
}

/// Runs a target on what it takes; an input that cannot become that is none to be kept.
fn take<'a, T: Arbitrary<'a>>(data: &'a [u8], run: impl FnOnce(T)) -> Corpus {
    if data.len() < T::size_hint(0).0 {
        return Corpus::Reject;
    }
    match T::arbitrary_take_rest(Unstructured::new(data)) {
        Ok(input) => run(input),
        Err(_) => return Corpus::Reject,
    }
    Corpus::Keep
}

static CHOSEN: OnceLock<fn(&[u8]) -> Corpus> = OnceLock::new();

fn choose() {
    let name = std::env::var("PGBR_FUZZ_TARGET").expect("PGBR_FUZZ_TARGET names the target");
    let target = target(&name).unwrap_or_else(|| panic!("there is no target '{name}'"));
    CHOSEN.get_or_init(|| target);
}

libfuzzer_sys::fuzz_target!(init: choose(), |data: &[u8]| -> Corpus {
    CHOSEN.get().expect("a target was chosen")(data)
});
